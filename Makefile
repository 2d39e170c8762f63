# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.
# Variables: PYTHON (interpreter for the venv), JOBS (parallel test processes), ARGS (more for pytest or a tool).

PYTHON ?= python3
JOBS   ?= 2
ARGS   ?=

VENV   := .venv
STAMP  := $(VENV)/.installed
PY     := $(VENV)/bin/python
# A network namespace with nothing but loopback where the system allows one; plain otherwise.
HERMETIC := $(PY) -m tests.support.netns --
TIERS  ?= $(wildcard tests/unit tests/property tests/net tests/rpc tests/cli tests/fuzz tests/hostile tests/interop)

.DEFAULT_GOAL := help
.PHONY: help venv lint test peers interop netns matrix punches foreign recovery soak durable fuzz fuzz-nightly hostile bench rates idle kad proto demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

venv: $(STAMP) ## make .venv with p2pfwd and everything its development needs

lint: venv ## ruff, mypy (strict) and the import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

test: venv ## all tiers but those in netns and bench; interop only where `make peers` has been run
	$(HERMETIC) $(PY) -m pytest -n $(JOBS) --dist worksteal $(TIERS) $(ARGS)

peers: venv ## fetch the real Kubo, go-libp2p and js-libp2p into ~/.cache/p2pfwd-peers
	$(PY) -m tests.interop.peers.fetch

interop: peers ## fetch the real peers and run the interop tier against them
	$(HERMETIC) $(PY) -m pytest tests/interop $(ARGS)

netns: venv ## NAT and fault topologies in network namespaces (root)
	$(PY) -m pytest tests/netns $(ARGS)

matrix: venv ## what a tunnel goes over, and why, for every pair of routers, as a table (root; minutes)
	$(PY) -m tests.netns.matrix $(ARGS)

punches: venv ## how often and how soon a bare peer ID becomes a direct tunnel, as a table (root; minutes; ARGS="--tries 20")
	$(PY) -m tests.netns.punches $(ARGS)

foreign: peers ## how often and how soon a Kubo and a p2pfwd behind routers get direct, over four relays (root; minutes)
	$(PY) -m tests.interop.punches $(ARGS)

recovery: venv ## how long a forward needs after each fault, as a table (root; minutes; ARGS="--tries 20")
	$(PY) -m tests.netns.recovery $(ARGS)

soak: venv ## half an hour of transfers, faults and commands between four daemons, as a table (root; ARGS="--minutes 30")
	$(PY) -m tests.soak $(ARGS)

durable: venv ## kill a daemon at random instants: no answer may be lost (10 minutes; ARGS="--tries 500")
	$(HERMETIC) $(PY) -m tests.rpc.durability $(ARGS)

fuzz: venv ## mutated bytes against every parser that meets a stranger
	$(PY) -m pytest tests/fuzz $(ARGS)

fuzz-nightly: venv ## the same for long, coverage-guided where atheris is, as a table (ARGS="--minutes 60")
	$(HERMETIC) $(PY) -m tests.fuzz.nightly $(ARGS)

hostile: venv ## every kind of attack on a real daemon, as a table (root)
	$(PY) -m tests.hostile $(ARGS)

bench: venv ## figures against Kubo, ssh and the floor, as ratios of one run
	$(HERMETIC) $(PY) -m tests.bench $(ARGS)

rates: venv ## is a transfer ever slow? Thousands of 64 MB, their bytes compared, as a table (ARGS="--minutes 30")
	$(HERMETIC) $(PY) -m tests.bench.rate_soak $(ARGS)

idle: venv ## what an idle node holds and sends: 200 servers for an hour of virtual time (20 minutes)
	$(PY) -m tests.bench.idle_network $(ARGS)

kad: venv ## lookups in simulated DHTs of up to 10,000 nodes, as a table (minutes)
	$(PY) -m tests.bench.kad_simulation $(ARGS)

proto: venv ## regenerate p2pfwd/core/pb from the .proto files
	$(PY) tools/gen_proto.py

demo: venv ## two daemons on loopback share and fetch a web page and 100 MB
	$(PY) -m tools.demo $(ARGS)

clean: ## remove what the targets above made inside the checkout
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

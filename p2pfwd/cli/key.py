"""`key export` and `key import`: the identity, in Kubo's form, while no daemon uses it or is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pfwd.cli import named_file
from p2pfwd.cli.options import AsJson, new_group
from p2pfwd.cli.render import talk, write, write_json
from p2pfwd.cli.text import printable
from p2pfwd.errors import DaemonRunning

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.paths import Paths

key = new_group("The identity of this node.")

_WHAT: Final = "key file"


@key.command("export", help="Print the private key, or save it to a file.")
def export(
    ctx: typer.Context,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="A new file, made readable by you alone.", show_default=False),
    ] = None,
) -> None:
    """As base64 of its libp2p protobuf, which is Identity.PrivKey of a Kubo configuration."""
    from p2pfwd.state.identity_file import encode, load

    env: Env = ctx.obj
    text = encode(load(env.paths().key_file))
    if file is None:
        if env.terminal:
            talk("Whoever has this key can be this node: keep it secret.")
        write(text)
        return
    named_file.make(file, text.encode() + b"\n", _WHAT)
    talk(f"Saved the private key to {printable(file)}: keep it secret.")


@key.command("import", help="Take a private key over as the identity of this node.")
def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file with the key; - reads stdin.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the identity there is; its peer ID is lost.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Base64 of a PrivateKey protobuf: Ed25519, RSA, secp256k1 or ECDSA."""
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.state.identity_file import MAX_BYTES, import_text

    env: Env = ctx.obj
    text = named_file.read(file, _WHAT, MAX_BYTES).decode("ascii", "replace")
    with _home_held(env.paths()):
        imported = import_text(env.paths().key_file, text, replace=force)
    peer_id = str(PeerId.from_public_key(imported.public_key))
    if as_json:
        write_json({"ID": peer_id})
    else:
        write(f"This node is now {peer_id}.")


@contextmanager
def _home_held(paths: Paths) -> Iterator[None]:
    """No daemon runs in the body, nor starts: it would go on with the identity it has read."""
    from p2pfwd.state.home_lock import HomeLock
    from p2pfwd.system.private_files import private_directory

    private_directory(paths.home, "home directory")
    try:
        lock = HomeLock.take(paths.lock_file, paths.start_lock_file)
    except DaemonRunning as error:
        raise DaemonRunning(
            f"a daemon is running here (process {error.details['pid']}), and has its identity",
            hint="stop it first: p2pfwd shutdown",
        ) from None
    try:
        yield
    finally:
        lock.close()

"""Coroutine tests, each in a fresh event loop of its own, with a time limit.

    @on_loop
    async def test_something() -> None: ...

runs on asyncio's loop, which is the daemon's. `@on_both_loops` runs it on uvloop as well: it polls and
calls back in another order, so that nothing comes to depend on asyncio's.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest
import uvloop

LIMIT_S: Final = 20.0
LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

uvloop.new_event_loop().close()  # libuv opens a pipe for the whole process with its first loop: no leak

AsyncTest = Callable[..., Coroutine[Any, Any, None]]


def on_loop(test: AsyncTest) -> Callable[..., None]:
    """Decorates a coroutine test to run on asyncio's loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        _run(LOOPS["asyncio"], test, *args, **kwargs)

    return run


def on_both_loops(test: AsyncTest) -> Callable[..., None]:
    """Decorates a coroutine test to run on asyncio's loop and on uvloop."""

    @functools.wraps(test)
    def run(*args: Any, event_loop_name: str, **kwargs: Any) -> None:
        _run(LOOPS[event_loop_name], test, *args, **kwargs)

    signature = inspect.signature(test)
    extra = inspect.Parameter("event_loop_name", inspect.Parameter.KEYWORD_ONLY)
    parameters = [*signature.parameters.values(), extra]
    setattr(run, "__signature__", signature.replace(parameters=parameters))  # noqa: B010
    marked: Callable[..., None] = pytest.mark.parametrize("event_loop_name", list(LOOPS))(run)
    return marked


def _run(
    make_loop: Callable[[], asyncio.AbstractEventLoop], test: AsyncTest, *args: Any, **kwargs: Any
) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await test(*args, **kwargs)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(limited())


async def turns(count: int = 20) -> None:
    """Let the event loop go round: enough for what is ready to happen, without waiting for anything."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait for what the kernel brings about and no callback tells, such as a full socket."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

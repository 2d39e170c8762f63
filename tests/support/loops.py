"""Coroutine tests on each event loop the daemon may run on.

    @on_loops()
    async def test_something() -> None: ...

runs once on asyncio's loop and once on uvloop, each in a fresh loop, and fails after `LIMIT_S`.
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


def on_loops(*names: str) -> Callable[[AsyncTest], Callable[..., None]]:
    """Decorates a coroutine test to run on these loops, by default all."""

    def decorate(test: AsyncTest) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, event_loop_name: str, **kwargs: Any) -> None:
            async def limited() -> None:
                async with asyncio.timeout(LIMIT_S):
                    await test(*args, **kwargs)

            with asyncio.Runner(loop_factory=LOOPS[event_loop_name]) as runner:
                runner.run(limited())

        signature = inspect.signature(test)
        extra = inspect.Parameter("event_loop_name", inspect.Parameter.KEYWORD_ONLY)
        parameters = [*signature.parameters.values(), extra]
        setattr(run, "__signature__", signature.replace(parameters=parameters))  # noqa: B010
        marked: Callable[..., None] = pytest.mark.parametrize("event_loop_name", names or list(LOOPS))(run)
        return marked

    return decorate


async def turns(count: int = 20) -> None:
    """Let the event loop go round: enough for what is ready to happen, without waiting for anything."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait for what the kernel brings about and no callback tells, such as a full socket."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

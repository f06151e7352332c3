"""Work in an executor, awaited: `asyncio.wrap_future` for the plain futures of ``concurrent.futures``, directly.

``wrap_future()`` links any two kinds of futures in both directions and asks the other one for its state under its lock,
three times. Here the kinds are known, and what is done does not change any more.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import types
from asyncio import events, futures
from collections.abc import Callable
from typing import Any, TypeVar, cast

_T = TypeVar("_T")

#: Newer versions pass on at once what is done in the loop's own thread; older ones in the next turn.
_AT_ONCE = any(
    "_get_running_loop" in constant.co_names
    for constant in cast(Any, futures)._chain_future.__code__.co_consts
    if isinstance(constant, types.CodeType)
)

#: What asyncio makes of the exceptions of ``concurrent.futures`` that have one of the same name.
_ASYNCIO_KIND: dict[type[BaseException], Callable[..., BaseException]] = {
    concurrent.futures.CancelledError: asyncio.CancelledError,
    concurrent.futures.InvalidStateError: asyncio.InvalidStateError,
}


def wrap_work(work: concurrent.futures.Future[_T], loop: asyncio.AbstractEventLoop) -> asyncio.Future[_T]:
    """Return a future of *loop* that gets the outcome of *work*, which was submitted to an executor.

    To cancel the one cancels the other, in both directions.
    """
    if type(work) is not concurrent.futures.Future:
        return asyncio.wrap_future(work, loop=loop)
    waiting: asyncio.Future[_T] = loop.create_future()

    # What stays with the work afterwards must not refer to it.
    def pass_on(done: Any) -> None:
        if waiting.cancelled():
            return
        assert not waiting.done(), f"{waiting!r} of work in an executor was set by somebody else"
        # Private, and the same in every version; the methods take a lock.
        if done._state != "FINISHED":
            waiting.cancel()
            return
        exception = done._exception
        if exception is None:
            waiting.set_result(done._result)
            return
        kind = _ASYNCIO_KIND.get(type(exception))
        waiting.set_exception(kind(*exception.args).with_traceback(exception.__traceback__) if kind else exception)

    def on_work_done(done: object) -> None:
        # In whatever thread has ended it.
        if _AT_ONCE and events._get_running_loop() is loop:
            pass_on(done)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(pass_on, done)

    def on_waiting_done(_: object) -> None:
        if waiting.cancelled():
            work.cancel()

    waiting.add_done_callback(on_waiting_done)
    work.add_done_callback(on_work_done)
    return waiting

"""run() and new_event_loop(): the two ways to get a loop that need no global state.

Both are independent of asyncio's event loop policies, so they work alike on every supported Python version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from loopfast._loop import Loop

__all__ = ["new_event_loop", "run"]

_T = TypeVar("_T")


def new_event_loop() -> Loop:
    """Return a new loopfast event loop.

    The loop is not made the current one. The function takes no argument, so it is what asyncio, frameworks and command
    lines call a loop factory: ``asyncio.Runner(loop_factory=loopfast.new_event_loop)``, or by name
    ``uvicorn --loop loopfast:new_event_loop``. The caller closes the loop.
    """
    return Loop()


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> _T:
    """Run ``main`` on a new loopfast event loop, close the loop, and return what ``main`` returned.

    This is ``asyncio.run`` with another default loop, and ``asyncio.Runner`` does the work: on leaving, it cancels the
    remaining tasks, finishes asynchronous generators and the default executor, and closes the loop; the first Ctrl+C
    cancels ``main`` and raises KeyboardInterrupt once it has ended, a second one raises at once.

    Args:
        main: The coroutine to run. From Python 3.14 any awaitable, as in ``asyncio.run``.
        debug: Switches the loop's debug mode on or off; None leaves the default (PYTHONASYNCIODEBUG, ``-X dev``).
        loop_factory: Called without arguments for the loop to use; None means ``loopfast.new_event_loop``. Unlike
            ``asyncio.run`` it is accepted on Python 3.11 too.

    Raises:
        RuntimeError: An event loop is already running in this thread.
        ValueError, TypeError: ``main`` is not a coroutine (ValueError up to Python 3.13, TypeError from 3.14, as
            ``asyncio.Runner.run``).
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("loopfast.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop if loop_factory is None else loop_factory) as runner:
        return runner.run(main)

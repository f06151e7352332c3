"""Requests that go to libuv's thread pool, whose callback gets a result and an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loopfast.uv._base import BaseLoop, checked_callable
from loopfast.uv.request import Request


class PoolRequest(Request):
    """Calls `callback(result, error)`; one of the two is None."""

    def __init__(self, loop: Any, callback: Any, convert: Callable[[Any], Any], keep: Any = None) -> None:
        if not isinstance(loop, BaseLoop):
            raise TypeError(f"a loopfast.uv.Loop is needed, got {loop!r}")
        super().__init__(loop, checked_callable(callback), keep)
        self._convert = convert

    def _finish(self, status: int) -> None:
        callback, self._callback = self._callback, None
        assert callback is not None
        result, failure = None, None
        try:
            if status < 0:
                failure = self._error(status)
            else:
                result = self._convert(self._memory)
        except BaseException as exc:
            self.loop._fail(exc, callback)
            return
        finally:
            self._clean_up()
            self._keep = None
        self.loop._call(callback, result, failure)

    def _clean_up(self) -> None:
        """Give back what libuv has allocated for the request."""


def both_or_none(loop: Any, callback: Any) -> bool:
    """Whether a function shall run in the thread pool: with a loop and a callback. TypeError for one alone."""
    if (loop is None) != (callback is None):
        raise TypeError("loop and callback belong together: both for the thread pool, neither to wait for the result")
    return loop is not None

"""libuv's chapter "Thread pool work scheduling"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from loopfast.uv._base import BaseLoop, callable_or_none, checked_callable
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import error
from loopfast.uv.request import Request

__all__ = ["WorkRequest", "queue_work"]

_ON_WORK = ffi.addressof(lib, "loopfast_on_work")
_ON_AFTER_WORK = ffi.addressof(lib, "loopfast_on_after_work")
_T = TypeVar("_T")


class WorkRequest(Request, Generic[_T]):
    """A function in libuv's thread pool (uv_work_t)."""

    _c_type = "uv_work_t"

    def __init__(self, loop: Any, work: Callable[[], _T], after_work: Any) -> None:
        if not isinstance(loop, BaseLoop):
            raise TypeError(f"a loopfast.uv.Loop is needed, got {loop!r}")
        super().__init__(loop, callable_or_none(after_work, "after_work"))
        self._work: Callable[[], _T] | None = checked_callable(work, "work")
        self._result: _T | None = None
        self._exception: BaseException | None = None

    def _run(self) -> None:
        """In a thread of the pool."""
        work = self._work
        assert work is not None
        try:
            self._result = work()
        except BaseException as exc:
            self._exception = exc

    def _finish(self, status: int) -> None:
        callback, self._callback, self._work = self._callback, None, None
        result, exc = self._result, self._exception
        self._result = self._exception = None
        if status < 0:
            exc = error(status)
        if callback is not None:
            self.loop._call(callback, None if exc is not None else result, exc)
        elif exc is not None and status == 0:
            self.loop._fail(exc, None)


def queue_work(
    loop: BaseLoop,
    work: Callable[[], _T],
    after_work: Callable[[_T | None, BaseException | None], object] | None = None,
) -> WorkRequest[_T]:
    """Call `work()` in a thread of libuv's pool (uv_queue_work). The pool is shared with files and name resolution.

    When the interpreter ends, functions that run are waited for, and others are not begun.

    Arguments:
        loop: where `after_work` is called.
        after_work: called as `after_work(result, error)` in the loop. Without it, what `work` raises counts as raised
            by a callback of the loop.

    Returns:
        The request, whose `cancel()` works as long as it has not begun.
    """
    request: WorkRequest[_T] = WorkRequest(loop, work, after_work)
    request._begin(lib.uv_queue_work, loop._enter(), request._memory, _ON_WORK, _ON_AFTER_WORK)
    return request


def _interrupted(_: Any, exc: BaseException, traceback: Any) -> None:
    request: WorkRequest[Any] = ffi.from_handle(traceback.tb_frame.f_locals["pointer"].data)
    request._exception = exc


@ffi.def_extern("loopfast_py_work", onerror=_interrupted)  # type: ignore[untyped-decorator,unused-ignore]
def _py_work(pointer: Any) -> None:
    request: WorkRequest[Any] = ffi.from_handle(pointer.data)
    request._run()

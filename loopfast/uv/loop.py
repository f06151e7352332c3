"""libuv's chapter "Event loop": loops of one's own, and the loops that asyncio runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import Any, cast

from loopfast.uv import _base
from loopfast.uv._base import BaseLoop, from_libuv
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.handle import Handle

__all__ = ["Loop", "LoopOption", "RunMode", "loop_pointer"]

_ON_WAKEUP = ffi.addressof(lib, "loopfast_on_wakeup")


class RunMode(IntEnum):
    """uv_run_mode: how long `Loop.run()` runs."""

    #: Until nothing is active any more, or `stop()`.
    DEFAULT = lib.UV_RUN_DEFAULT
    #: One turn, which waits for something to happen.
    ONCE = lib.UV_RUN_ONCE
    #: One turn, which does not wait.
    NOWAIT = lib.UV_RUN_NOWAIT


class LoopOption(IntEnum):
    """uv_loop_option: what `Loop.configure()` can change."""

    #: Block this signal, SIGPROF only, while waiting for events.
    BLOCK_SIGNAL = lib.UV_LOOP_BLOCK_SIGNAL
    #: Gather the time that `metrics_idle_time()` tells.
    METRICS_IDLE_TIME = lib.UV_METRICS_IDLE_TIME
    #: Use io_uring with a kernel thread for operations on files (Linux).
    USE_IO_URING_SQPOLL = lib.UV_LOOP_USE_IO_URING_SQPOLL


class Loop(BaseLoop):
    """A libuv loop (uv_loop_t).

    `Loop()` makes one of its own, to be run with `run()`; `Loop.of(asyncio_loop)` is the one below an asyncio loop.
    While a loop runs, only its thread may use it and its handles; otherwise any one thread may. In a forked child a
    loop of the parent's is refused until `fork()`.

    As a context manager it closes all its handles, and then itself, at the end of the block.

    Raises:
        OSError: no descriptors are left.
    """

    def __init__(self) -> None:
        if self._pointer is not None:
            raise RuntimeError(f"{self!r} is initialised already")
        memory = ffi.new("uv_loop_t *")
        check(lib.uv_loop_init(memory))
        lib.loopfast_own(memory)
        #: What callbacks have raised during this run.
        self._errors: list[BaseException] = []
        self._interrupts: _Interrupts | None = None
        self._set_up(memory)

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop | None = None) -> Loop:
        """The libuv loop of an asyncio loop; always the same object. Its handles run among asyncio's own.

        asyncio runs and closes it: `run()`, `stop()`, `close()` and `configure()` are refused. What a callback raises
        goes to the asyncio loop's exception handler. Handles that are left are closed with the asyncio loop.

        Arguments:
            loop: a `loopfast.Loop`; by default the running loop.

        Raises:
            RuntimeError: no `loop` was given and none is running, or the loop is closed.
            TypeError: the loop is not loopfast's.
        """
        if loop is None:
            loop = asyncio.get_running_loop()
        pointer = loop_pointer(loop)
        known = loop._binding  # type: ignore[attr-defined]
        if known is None:
            known = _AsyncioLoop(loop, pointer)
            loop._binding = known  # type: ignore[attr-defined]
        return cast(Loop, known)

    # ------------------------------------------------------------------------------------------------- running

    def run(self, mode: RunMode | int = RunMode.DEFAULT) -> bool:
        """Run the loop (uv_run).

        Returns:
            True if it should be run again: something is active or closing.

        Raises:
            BaseException: what a callback raised, as soon as the turn it happened in is over. Several such exceptions
                of one turn come as a `BaseExceptionGroup`, but for KeyboardInterrupt and SystemExit, which leave as
                themselves with the group as their cause.
            RuntimeError: it runs already, is closed, or is not this thread's.
        """
        mode = RunMode(mode)
        pointer = self._enter()
        if self._runner is not None:
            raise RuntimeError(f"{self!r} runs already: run() cannot be called from a callback")
        self._sweep()
        wakeup = self._listen_for_interrupts() if mode != RunMode.NOWAIT else None
        try:
            self._runner = _base._get_ident()
            again = bool(lib.uv_run(pointer, mode))
        finally:
            self._runner = None
            if wakeup is not None:
                wakeup.stop()
        self._raise_errors()
        return again

    def stop(self) -> None:
        """End `run()` after the current turn (uv_stop); before a run, end the next one after a turn without waiting.

        Raises:
            RuntimeError: in another thread than the one that runs the loop, which `Async.send()` can reach.
        """
        lib.uv_stop(self._enter())

    def _fail(self, exc: BaseException, callback: Callable[..., object] | None) -> None:
        self._errors.append(exc)
        if self._pointer is not None:
            lib.uv_stop(self._pointer)

    def _raise_errors(self) -> None:
        """Raise what callbacks have raised, if they did."""
        errors, self._errors = self._errors, []
        if not errors:
            return
        try:
            if len(errors) == 1:
                raise errors[0]
            group = BaseExceptionGroup(f"{len(errors)} callbacks of one turn raised", errors)
            for exc in errors:
                if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                    raise exc from group
            raise group
        finally:
            errors = []

    def _listen_for_interrupts(self) -> _Interrupts | None:
        """Let Python's signal handlers run, and so KeyboardInterrupt be raised, while libuv waits."""
        if not signal.getsignal(signal.SIGINT) or not _is_main_thread():
            return None
        try:
            if self._interrupts is None:
                self._interrupts = _Interrupts(self)
            self._interrupts.start()
        except OSError:  # no descriptors are left, or somebody closed one that this loop watches
            return None
        return self._interrupts

    # ------------------------------------------------------------------------------------------------- closing

    def close(self) -> None:
        """Close the loop (uv_loop_close). Everything must be closed before; closing again does nothing.

        Handles that are closing already are waited for. To close all handles first, use `close_handles()` or a `with`
        block.

        Raises:
            OSError: EBUSY, handles are open or requests pending; the message names them.
            RuntimeError: it runs, or is not this thread's.
        """
        if self._pointer is None:
            return
        pointer = self._enter()
        self._refuse_while_running("closed")
        self._sweep()
        open_handles = [cell for cell in self._cells.values() if not cell.closing]
        if open_handles or self._requests or self._foreign_handles():
            raise OSError(errno.EBUSY, f"{os.strerror(errno.EBUSY)}: {self._describe_busy()}")
        if self._interrupts is not None:
            self._interrupts.close()
        self._run_quietly(lib.UV_RUN_NOWAIT)
        if self._interrupts is not None:
            _known_to_libuv.discard(self._interrupts)
            self._interrupts = None
        if self._cells or self._requests:  # a close callback has made them
            self._raise_errors()
            raise OSError(errno.EBUSY, f"{os.strerror(errno.EBUSY)}: {self._describe_busy()}")
        with self._lock:
            check(lib.uv_loop_close(pointer))
            self._pointer = None
        self._raise_errors()

    def close_handles(self) -> None:
        """Close all handles, cancel all requests, and run the loop until they are gone.

        A function in the thread pool, or an operation on a file that has begun, is waited for.

        Raises:
            BaseException: what callbacks raised meanwhile, as `run()` does.
            RuntimeError: the loop runs, is closed, or is not this thread's.
        """
        self._enter()
        self._refuse_while_running("emptied")
        self._empty()
        self._raise_errors()

    def _empty(self, blocking: bool = True) -> None:
        """Close everything; what callbacks make meanwhile, too."""
        for _ in range(1000):
            self._close_cells()
            if not self._cells and not self._requests:
                return
            self._run_quietly(lib.UV_RUN_ONCE if blocking else lib.UV_RUN_NOWAIT)
            if not blocking and not any(not cell.closing for cell in self._cells.values()):
                self._run_quietly(lib.UV_RUN_NOWAIT)
                return
        raise RuntimeError(f"callbacks go on making handles on {self!r} while it is being emptied")

    def _run_quietly(self, mode: int) -> None:
        """Run; what callbacks raise is raised later."""
        self._runner = _base._get_ident()
        try:
            lib.uv_run(self._pointer, mode)
        finally:
            self._runner = None

    def _refuse_while_running(self, what: str) -> None:
        if self._runner is not None:
            raise RuntimeError(f"{self!r} cannot be {what} while it runs")

    def _foreign_handles(self) -> int:
        """How many handles were made on this loop with `lib` alone."""
        own = set(self._cells)
        if self._interrupts is not None:
            own.add(self._interrupts.address)
        return sum(int(ffi.cast("uintptr_t", pointer)) not in own for pointer in self._pointers())

    def _describe_busy(self) -> str:
        shown = [repr(cell.owner() or cell.base) for cell in self._cells.values()] + [repr(r) for r in self._requests]
        if foreign := self._foreign_handles():
            shown.append(f"{foreign} made with lib")
        return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")

    def __enter__(self) -> Loop:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pointer is not None:
            try:
                self.close_handles()
            finally:
                self.close()

    def __del__(self) -> None:
        if self._pointer is None or self._runner is not None or self._forks != _base._forks:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
        self._empty(blocking=False)
        if self._cells or self._requests or self._foreign_handles():
            # Something of it is at work in the thread pool: its memory must stay.
            lib.loopfast_keep_forever(id(self))
        else:
            self.close()

    # ------------------------------------------------------------------------------------------------- the rest

    def configure(self, option: LoopOption | int, value: int | None = None) -> None:
        """Set an option (uv_loop_configure), before the first `run()`.

        Arguments:
            option: what to set.
            value: for BLOCK_SIGNAL the signal, which must be SIGPROF.

        Raises:
            OSError: ENOSYS where the system does not have it, EINVAL for another signal.
        """
        option = LoopOption(option)
        arguments = [] if value is None else [ffi.cast("int", value)]
        if option == LoopOption.BLOCK_SIGNAL and value is None:
            raise TypeError("BLOCK_SIGNAL needs the signal as its value")
        check(lib.uv_loop_configure(self._enter(), option, *arguments))

    def fork(self) -> None:
        """Make the loop this process's own, in the child after a fork (uv_loop_fork). The handles go on with it.

        Raises:
            OSError: no descriptors are left; the loop cannot be used.
            RuntimeError: the loop ran in the parent when it forked: its thread is not here.
        """
        if self._pointer is None:
            raise self._refusal()
        self._refuse_while_running("taken over from a fork")
        check(lib.uv_loop_fork(self._pointer))
        self._forks = _base._forks

    @property
    def alive(self) -> bool:
        """Whether something is active or closing (uv_loop_alive)."""
        return bool(lib.uv_loop_alive(self._enter()))

    @property
    def closed(self) -> bool:
        """Whether the loop is closed."""
        return self._pointer is None

    @property
    def running(self) -> bool:
        """Whether the loop runs."""
        return self._runner is not None

    @property
    def pointer(self) -> Any:
        """The `uv_loop_t *`, for `lib`. Valid until the loop is closed; its `data` is the binding's."""
        return self._enter()

    def backend_fd(self) -> int:
        """The descriptor that becomes readable when the loop has something to do (uv_backend_fd)."""
        return int(lib.uv_backend_fd(self._enter()))

    def backend_timeout(self) -> int:
        """How many milliseconds the next poll would wait; -1 for ever (uv_backend_timeout)."""
        return int(lib.uv_backend_timeout(self._enter()))

    def now(self) -> int:
        """The loop's notion of now, from the start of the turn: milliseconds of a monotonic clock (uv_now)."""
        return int(lib.uv_now(self._enter()))

    def update_time(self) -> None:
        """Let `now()` be now, after something that took long (uv_update_time)."""
        lib.uv_update_time(self._enter())

    def walk(self) -> list[Handle]:
        """The handles of this loop (uv_walk), closing ones too, but for those made otherwise than with this module."""
        self._enter()
        owners = []
        for pointer in self._pointers():
            cell = self._cells.get(int(ffi.cast("uintptr_t", pointer)))
            if cell is not None and (handle := cell.owner()) is not None:
                owners.append(handle)
        return owners

    def _pointers(self) -> list[Any]:
        """The uv_handle_t * of every handle, whoever made it."""
        size = 64
        while True:
            room = ffi.new("uv_handle_t *[]", size)
            count = lib.loopfast_collect(self._pointer, room, size)
            if count <= size:
                return list(room[0:count])
            size = count

    def __repr__(self) -> str:
        state = "closed" if self._pointer is None else "running" if self.running else "idle"
        return f"<{type(self).__module__}.{type(self).__qualname__} {state} at {id(self):#x}>"


class _AsyncioLoop(Loop):
    """The loop below an asyncio loop, which keeps this object and tells it when it closes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pointer: Any) -> None:
        self._asyncio = weakref.ref(loop)
        capsule = loop._libuv_enter_ptr()  # type: ignore[attr-defined]
        lib.loopfast_set_enter(lib.loopfast_capsule_pointer(id(capsule)))
        self._errors = []
        self._interrupts = None
        self._set_up(pointer)

    @property
    def _runner(self) -> int | None:  # type: ignore[override]
        loop = self._asyncio()
        return None if loop is None else loop._thread_id  # type: ignore[attr-defined]

    def run(self, mode: RunMode | int = RunMode.DEFAULT) -> bool:
        """Refused: asyncio runs this loop."""
        raise RuntimeError(f"{self!r} is run by asyncio")

    def stop(self) -> None:
        """Refused: the asyncio loop has a stop() of its own."""
        raise RuntimeError(f"{self!r} is run by asyncio: stop that loop")

    def close(self) -> None:
        """Refused while the asyncio loop is open, with which this one closes."""
        if self._pointer is not None:
            raise RuntimeError(f"{self!r} belongs to asyncio: close that loop")

    def close_handles(self) -> None:
        """Close all handles made with this module; asyncio's are left alone. They are gone after the next turn."""
        self._enter()
        self._close_cells()

    def configure(self, option: LoopOption | int, value: int | None = None) -> None:
        """Refused: asyncio has begun with this loop."""
        raise RuntimeError(f"{self!r} belongs to asyncio, and options are for loops that have not run")

    def fork(self) -> None:
        """Refused: a child makes an asyncio loop of its own."""
        raise RuntimeError(f"{self!r} belongs to asyncio: make a new loop in the child")

    def _refusal(self) -> RuntimeError:
        if self._pointer is not None and self._forks != _base._forks:
            return RuntimeError(f"{self!r} was made before a fork: make a new asyncio loop in the child")
        return super()._refusal()

    def _fail(self, exc: BaseException, callback: Callable[..., object] | None) -> None:
        loop = self._asyncio()
        if loop is None:
            sys.unraisablehook(_Unraisable(exc, callback))
            return
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            self._raise_from(loop, exc)
            return
        what = "around a libuv callback" if callback is None else f"in libuv callback {callback!r}"
        try:
            loop.call_exception_handler({"message": f"Exception {what}", "exception": exc})
        except BaseException as worse:  # asyncio's own lets only these pass
            self._raise_from(loop, worse)

    def _raise_from(self, loop: asyncio.AbstractEventLoop, exc: BaseException) -> None:
        """Let the exception leave run_forever(), as one of a callback of asyncio's does."""
        try:
            loop.call_soon(_raise, exc)
        except RuntimeError:  # the loop closes
            sys.unraisablehook(_Unraisable(exc, _raise))

    def _asyncio_closes(self) -> None:
        """The asyncio loop is about to close: hand everything to libuv, which the loop then runs to an end."""
        if self._pointer is None:
            return
        if self._forks == _base._forks:
            self._close_cells()
        with self._lock:
            self._pointer = None
        if self._cells or self._requests:
            # Until libuv is done with all of it; what it never ends with stays.
            _base._lingering.add(self)

    def __enter__(self) -> Loop:
        raise RuntimeError(f"{self!r} belongs to asyncio, which closes it")

    def __del__(self) -> None:
        pass


class _Unraisable:
    """What sys.unraisablehook is given."""

    def __init__(self, exc: BaseException, callback: Any) -> None:
        self.exc_type = type(exc)
        self.exc_value: BaseException | None = exc
        self.exc_traceback = exc.__traceback__
        self.err_msg: str | None = "Exception ignored in libuv callback of a closed loop"
        self.object = callback


def _raise(exc: BaseException) -> None:
    raise exc


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


#: Whose memory libuv may have.
_known_to_libuv: set[_Interrupts] = set()


class _Interrupts:
    """Wakes a loop when a signal arrives, so that Python gets to run its handlers. One per loop, in the main thread.

    Those handlers may raise between any two lines of this class: what was left in the middle is done again.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = weakref.proxy(loop)
        self._pointer = loop._pointer
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._poll = ffi.new("uv_poll_t *")
        self._base = ffi.cast("uv_handle_t *", self._poll)
        self.address = int(ffi.cast("uintptr_t", self._poll))
        # No reference to this object: the loop must go when its last user does.
        self._token = ffi.new_handle(self)
        self._previous = -1
        self._polls = False

    def start(self) -> None:
        if not self._polls:
            _known_to_libuv.add(self)
            # libuv sets it when it takes the handle.
            if self._poll.loop == ffi.NULL:
                check(lib.uv_poll_init_socket(self._pointer, self._poll, self._reader.fileno()))
            self._poll.data = self._token
            check(lib.uv_poll_start(self._poll, lib.UV_READABLE, _ON_WAKEUP))
            lib.uv_unref(self._base)
            self._polls = True
        number = self._writer.fileno()
        if number < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        previous = signal.set_wakeup_fd(number, warn_on_full_buffer=False)
        if previous != number:
            self._previous = previous

    def stop(self) -> None:
        signal.set_wakeup_fd(self._previous, warn_on_full_buffer=False)

    def arrived(self) -> None:
        """Read what the signals wrote; pass it on to whoever listened before."""
        with contextlib.suppress(BlockingIOError):
            numbers = self._reader.recv(4096)
            if self._previous != -1:
                os.write(self._previous, numbers)

    def _is_closing(self) -> bool:
        return bool(lib.uv_is_closing(self._base))

    def close(self) -> None:
        """Before the loop closes, which must then run once more. Again does nothing."""
        if self._poll.loop != ffi.NULL and not self._is_closing():
            lib.uv_close(self._base, ffi.NULL)
        self._reader.close()
        self._writer.close()


@from_libuv
def _py_wakeup(pointer: Any) -> None:
    interrupts: _Interrupts = ffi.from_handle(pointer.data)
    interrupts.loop._call(interrupts.arrived)


def loop_pointer(loop: asyncio.AbstractEventLoop | None = None) -> Any:
    """The `uv_loop_t *` of an asyncio loop, valid until that loop is closed.

    Arguments:
        loop: a `loopfast.Loop`; by default the running loop.

    Raises:
        RuntimeError: no `loop` was given and none is running, or the loop is closed.
        TypeError: the loop is not loopfast's. Loops of other libraries that offer such a pointer run on another copy of
            libuv, whose structures must not be handed to this one.
    """
    if loop is None:
        loop = asyncio.get_running_loop()
    if not any(kind.__module__.partition(".")[0] == "loopfast" for kind in type(loop).__mro__):
        raise TypeError(f"loop_pointer() needs a loopfast event loop, got {loop!r}")
    capsule = loop.libuv_get_loop_t_ptr()  # type: ignore[attr-defined]
    pointer = lib.loopfast_capsule_pointer(id(capsule))
    if pointer == ffi.NULL:
        raise TypeError(f"{type(loop).__name__}.libuv_get_loop_t_ptr() returned {capsule!r}, not a loop's capsule")
    return ffi.cast("uv_loop_t *", pointer)

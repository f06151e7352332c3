"""From libuv's chapter "Threading and synchronization utilities": what can be known and set of the calling thread.

Threads, locks and the like are Python's own: its `threading` module knows of the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check

__all__ = [
    "ThreadPriority",
    "cpumask_size",
    "thread_getaffinity",
    "thread_getcpu",
    "thread_getname",
    "thread_getpriority",
    "thread_setaffinity",
    "thread_setname",
    "thread_setpriority",
]


class ThreadPriority(IntEnum):
    """Priorities of `thread_setpriority()`."""

    HIGHEST = lib.UV_THREAD_PRIORITY_HIGHEST
    ABOVE_NORMAL = lib.UV_THREAD_PRIORITY_ABOVE_NORMAL
    NORMAL = lib.UV_THREAD_PRIORITY_NORMAL
    BELOW_NORMAL = lib.UV_THREAD_PRIORITY_BELOW_NORMAL
    LOWEST = lib.UV_THREAD_PRIORITY_LOWEST


def cpumask_size() -> int:
    """How many processors a set of them can name (uv_cpumask_size).

    Raises:
        OSError: ENOTSUP, the system has no such sets.
    """
    return check(lib.uv_cpumask_size())


def thread_getcpu() -> int:
    """The processor this thread runs on (uv_thread_getcpu)."""
    return check(lib.uv_thread_getcpu())


def thread_getaffinity() -> set[int]:
    """The processors this thread may run on (uv_thread_getaffinity)."""
    size = cpumask_size()
    mask = ffi.new("char[]", size)
    check(lib.loopfast_thread_getaffinity(mask, size))
    return {index for index in range(size) if mask[index] != b"\0"}


def thread_setaffinity(processors: Iterable[int]) -> set[int]:
    """Let this thread run on these processors only (uv_thread_setaffinity). Returns those it ran on before.

    Raises:
        ValueError: a number is out of range.
        OSError: EINVAL, none of the processors exists.
    """
    size = cpumask_size()
    mask, old = ffi.new("char[]", size), ffi.new("char[]", size)
    for processor in processors:
        if not 0 <= processor < size:
            raise ValueError(f"processor must be 0 to {size - 1}, got {processor!r}")
        mask[processor] = b"\1"
    check(lib.loopfast_thread_setaffinity(mask, old, size))
    return {index for index in range(size) if old[index] != b"\0"}


def thread_setname(name: str) -> None:
    """Give this thread a name, which debuggers and ps show (uv_thread_setname); Linux cuts it after 15 bytes.

    Raises:
        OSError: ENOSYS, this libuv is older than 1.50.
    """
    encoded = name.encode()
    if b"\0" in encoded:
        raise ValueError(f"embedded null character in {name!r}")
    check(lib.uv_thread_setname(encoded))


def thread_getname() -> str:
    """This thread's name (uv_thread_getname).

    Raises:
        OSError: ENOSYS, this libuv is older than 1.50.
    """
    room = ffi.new("char[]", 256)
    check(lib.loopfast_thread_getname(room, 256))
    text: str = ffi.string(room).decode("utf-8", "replace")
    return text


def thread_getpriority() -> int:
    """This thread's priority (uv_thread_getpriority), on Linux its nice value negated or the like: higher is more."""
    value = ffi.new("int *")
    check(lib.loopfast_thread_getpriority(value))
    return int(value[0])


def thread_setpriority(priority: ThreadPriority | int) -> None:
    """Change this thread's priority (uv_thread_setpriority).

    Raises:
        PermissionError: more than this process may have.
    """
    check(lib.loopfast_thread_setpriority(int(ThreadPriority(priority))))

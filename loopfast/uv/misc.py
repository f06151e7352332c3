"""libuv's chapters "Version-checking macros and functions" and "Miscellaneous utilities": the process, the machine, its
users, memory, clocks, interfaces and environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple, overload

from loopfast.uv._address import read_address
from loopfast.uv._base import BaseLoop, descriptor, file_path, text_from, whole_number
from loopfast.uv._pool import PoolRequest, both_or_none
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.handle import HandleType

__all__ = [
    "ClockID",
    "CPUInfo",
    "CPUTimes",
    "Group",
    "InterfaceAddress",
    "Passwd",
    "Priority",
    "RandomRequest",
    "ResourceUsage",
    "TimeSpec",
    "UTSName",
    "available_parallelism",
    "chdir",
    "clock_gettime",
    "cpu_info",
    "cwd",
    "exepath",
    "get_available_memory",
    "get_constrained_memory",
    "get_free_memory",
    "get_total_memory",
    "getrusage",
    "getrusage_thread",
    "gettimeofday",
    "guess_handle",
    "hrtime",
    "if_indextoiid",
    "if_indextoname",
    "interface_addresses",
    "loadavg",
    "os_environ",
    "os_get_group",
    "os_get_passwd",
    "os_getenv",
    "os_gethostname",
    "os_getpid",
    "os_getppid",
    "os_getpriority",
    "os_homedir",
    "os_setenv",
    "os_setpriority",
    "os_tmpdir",
    "os_uname",
    "os_unsetenv",
    "random",
    "resident_set_memory",
    "sleep",
    "uptime",
    "version",
    "version_number",
]

_ON_RANDOM = ffi.addressof(lib, "loopfast_on_random")


class ClockID(IntEnum):
    """uv_clock_id."""

    #: Since some point in the past; never set.
    MONOTONIC = lib.UV_CLOCK_MONOTONIC
    #: Since 1970.
    REALTIME = lib.UV_CLOCK_REALTIME


class Priority(IntEnum):
    """Scheduling priorities of processes, of which the lower number is served first."""

    LOW = lib.UV_PRIORITY_LOW
    BELOW_NORMAL = lib.UV_PRIORITY_BELOW_NORMAL
    NORMAL = lib.UV_PRIORITY_NORMAL
    ABOVE_NORMAL = lib.UV_PRIORITY_ABOVE_NORMAL
    HIGH = lib.UV_PRIORITY_HIGH
    HIGHEST = lib.UV_PRIORITY_HIGHEST


class TimeSpec(NamedTuple):
    """uv_timespec64_t."""

    tv_sec: int
    tv_nsec: int


class CPUTimes(NamedTuple):
    """Milliseconds a processor has spent (struct uv_cpu_times_s)."""

    user: int
    nice: int
    sys: int
    idle: int
    irq: int


class CPUInfo(NamedTuple):
    """One processor (uv_cpu_info_t)."""

    model: str
    #: MHz.
    speed: int
    cpu_times: CPUTimes


class InterfaceAddress(NamedTuple):
    """One address of a network interface (uv_interface_address_t)."""

    name: str
    #: The hardware's address, 6 bytes.
    phys_addr: bytes
    is_internal: bool
    address: tuple[Any, ...]
    netmask: tuple[Any, ...]


class Passwd(NamedTuple):
    """A user (uv_passwd_t)."""

    username: str
    uid: int
    gid: int
    shell: str | None
    homedir: str


class Group(NamedTuple):
    """A group of users (uv_group_t)."""

    groupname: str
    gid: int
    members: list[str]


class UTSName(NamedTuple):
    """The system (uv_utsname_t)."""

    sysname: str
    release: str
    version: str
    machine: str


class ResourceUsage(NamedTuple):
    """uv_rusage_t. Times are seconds; what the system does not count is 0."""

    ru_utime: float
    ru_stime: float
    ru_maxrss: int
    ru_ixrss: int
    ru_idrss: int
    ru_isrss: int
    ru_minflt: int
    ru_majflt: int
    ru_nswap: int
    ru_inblock: int
    ru_oublock: int
    ru_msgsnd: int
    ru_msgrcv: int
    ru_nsignals: int
    ru_nvcsw: int
    ru_nivcsw: int


# ------------------------------------------------------------------------------------------------- version


def version() -> str:
    """The version of the libuv that is loaded, such as "1.52.1" (uv_version_string)."""
    text: str = ffi.string(lib.uv_version_string()).decode("ascii")
    return text


def version_number() -> int:
    """The same as a number, 0x013401 for 1.52.1 (uv_version)."""
    return int(lib.uv_version())


# ------------------------------------------------------------------------------------------------- process


def guess_handle(file: Any) -> HandleType:
    """What kind of handle suits a descriptor (uv_guess_handle): TTY, FILE, NAMED_PIPE, TCP, UDP or UNKNOWN_HANDLE."""
    return HandleType(lib.uv_guess_handle(descriptor(file)))


def resident_set_memory() -> int:
    """Bytes of memory of this process that are not swapped out (uv_resident_set_memory)."""
    value = ffi.new("size_t *")
    check(lib.uv_resident_set_memory(value))
    return int(value[0])


def getrusage() -> ResourceUsage:
    """What this process has used (uv_getrusage)."""
    return _rusage(lib.uv_getrusage)


def getrusage_thread() -> ResourceUsage:
    """What this thread has used (uv_getrusage_thread).

    Raises:
        OSError: ENOTSUP on some systems; ENOSYS, this libuv is older than 1.50.
    """
    return _rusage(lib.uv_getrusage_thread)


def _rusage(function: Any) -> ResourceUsage:
    usage = ffi.new("uv_rusage_t *")
    check(function(usage))
    user, system = (int(time.tv_sec) + int(time.tv_usec) / 1e6 for time in (usage.ru_utime, usage.ru_stime))
    return ResourceUsage(user, system, *(int(getattr(usage, name)) for name in ResourceUsage._fields[2:]))


def os_getpid() -> int:
    """This process's number (uv_os_getpid)."""
    return int(lib.uv_os_getpid())


def os_getppid() -> int:
    """The parent's number (uv_os_getppid)."""
    return int(lib.uv_os_getppid())


def os_getpriority(pid: int = 0) -> int:
    """A process's priority (uv_os_getpriority), see `Priority`; 0 is this process.

    Raises:
        ProcessLookupError: there is no such process.
    """
    value = ffi.new("int *")
    check(lib.uv_os_getpriority(pid, value))
    return int(value[0])


def os_setpriority(priority: Priority | int, pid: int = 0) -> None:
    """Change a process's priority (uv_os_setpriority), between `Priority.HIGHEST` and `Priority.LOW`.

    Raises:
        OSError: EINVAL, it is out of range.
        PermissionError, ProcessLookupError: not allowed, or no such process.
    """
    check(lib.uv_os_setpriority(pid, int(priority)))


def exepath() -> str:
    """The program that runs (uv_exepath)."""
    return os.fsdecode(text_from(lib.uv_exepath, check, 4096))


def cwd() -> str:
    """The current working directory (uv_cwd)."""
    return os.fsdecode(text_from(lib.uv_cwd, check, 4096))


def chdir(path: Any) -> None:
    """Change the current working directory (uv_chdir)."""
    check(lib.uv_chdir(file_path(path)), path)


# ------------------------------------------------------------------------------------------------- machine


def uptime() -> float:
    """Seconds since the machine was started (uv_uptime)."""
    value = ffi.new("double *")
    check(lib.uv_uptime(value))
    return float(value[0])


def loadavg() -> tuple[float, float, float]:
    """The load of the last 1, 5 and 15 minutes (uv_loadavg); zeros on Windows."""
    values = ffi.new("double[3]")
    lib.uv_loadavg(values)
    return float(values[0]), float(values[1]), float(values[2])


def available_parallelism() -> int:
    """How many threads are worth having, at least 1 (uv_available_parallelism)."""
    return int(lib.uv_available_parallelism())


def cpu_info() -> list[CPUInfo]:
    """The processors (uv_cpu_info)."""
    array, count = ffi.new("uv_cpu_info_t **"), ffi.new("int *")
    check(lib.uv_cpu_info(array, count))
    try:
        found = []
        for index in range(count[0]):
            entry = array[0][index]
            times = CPUTimes(*(int(getattr(entry.cpu_times, name)) for name in CPUTimes._fields))
            found.append(CPUInfo(_decoded(lib.loopfast_cpu_model(array[0] + index)) or "", int(entry.speed), times))
        return found
    finally:
        lib.uv_free_cpu_info(array[0], count[0])


def os_uname() -> UTSName:
    """The system's name and version (uv_os_uname)."""
    buffer = ffi.new("uv_utsname_t *")
    check(lib.uv_os_uname(buffer))
    return UTSName(*(_decoded(getattr(buffer, name)) or "" for name in UTSName._fields))


def os_gethostname() -> str:
    """The machine's name (uv_os_gethostname)."""
    return os.fsdecode(text_from(lib.uv_os_gethostname, check, lib.UV_MAXHOSTNAMESIZE))


def interface_addresses() -> list[InterfaceAddress]:
    """The addresses of the network interfaces (uv_interface_addresses)."""
    array, count = ffi.new("uv_interface_address_t **"), ffi.new("int *")
    check(lib.uv_interface_addresses(array, count))
    try:
        return [
            InterfaceAddress(
                _decoded(array[0][index].name) or "",
                ffi.buffer(array[0][index].phys_addr)[:],
                bool(array[0][index].is_internal),
                read_address(lib.loopfast_interface_address(array[0] + index, 0)),
                read_address(lib.loopfast_interface_address(array[0] + index, 1)),
            )
            for index in range(count[0])
        ]
    finally:
        lib.uv_free_interface_addresses(array[0], count[0])


def if_indextoname(index: int) -> str:
    """The name of the interface with this number (uv_if_indextoname).

    Raises:
        OSError: ENXIO, there is none.
    """
    return _interface(lib.uv_if_indextoname, index)


def if_indextoiid(index: int) -> str:
    """What stands after the % of a scoped address of this interface (uv_if_indextoiid): its name, on Windows its
    number."""
    return _interface(lib.uv_if_indextoiid, index)


def _interface(function: Any, index: int) -> str:
    number = whole_number(index, "index", 0xFFFFFFFF)
    return os.fsdecode(text_from(lambda room, size: function(number, room, size), check, lib.UV_IF_NAMESIZE))


# ------------------------------------------------------------------------------------------------- users, environment


def os_homedir() -> str:
    """The user's home directory (uv_os_homedir): HOME, or what the system knows."""
    return os.fsdecode(text_from(lib.uv_os_homedir, check))


def os_tmpdir() -> str:
    """The directory for temporary files (uv_os_tmpdir)."""
    return os.fsdecode(text_from(lib.uv_os_tmpdir, check))


def os_get_passwd(uid: int | None = None) -> Passwd:
    """What the system knows of a user (uv_os_get_passwd, uv_os_get_passwd2); None: the one this process runs as.

    Raises:
        FileNotFoundError: there is no such user.
    """
    user = ffi.new("uv_passwd_t *")
    check(lib.uv_os_get_passwd(user) if uid is None else lib.uv_os_get_passwd2(user, uid))
    try:
        shell, name, home = _decoded(user.shell), _decoded(user.username), _decoded(user.homedir)
        return Passwd(name or "", int(user.uid), int(user.gid), shell, home or "")
    finally:
        lib.uv_os_free_passwd(user)


def os_get_group(gid: int) -> Group:
    """What the system knows of a group (uv_os_get_group).

    Raises:
        FileNotFoundError: there is no such group.
    """
    group = ffi.new("uv_group_t *")
    check(lib.uv_os_get_group(group, gid))
    try:
        members, index = [], 0
        while group.members != ffi.NULL and group.members[index] != ffi.NULL:
            members.append(_decoded(group.members[index]) or "")
            index += 1
        return Group(_decoded(group.groupname) or "", int(group.gid), members)
    finally:
        lib.uv_os_free_group(group)


def os_environ() -> dict[str, str]:
    """The environment as the C library has it (uv_os_environ), which `os.environ` is a copy of."""
    array, count = ffi.new("uv_env_item_t **"), ffi.new("int *")
    check(lib.uv_os_environ(array, count))
    try:
        items = [array[0][index] for index in range(count[0])]
        return {_decoded(item.name) or "": _decoded(item.value) or "" for item in items}
    finally:
        lib.uv_os_free_environ(array[0], count[0])


def os_getenv(name: str) -> str | None:
    """A variable of the environment (uv_os_getenv); None if it is not set."""
    encoded = _variable(name)
    status, size = lib.UV_ENOBUFS, ffi.new("size_t *", 256)
    while status == lib.UV_ENOBUFS:
        room = ffi.new("char[]", size[0])
        status = lib.uv_os_getenv(encoded, room, size)
    if status == lib.UV_ENOENT:
        return None
    check(status)
    return os.fsdecode(ffi.buffer(room, size[0])[:])


def os_setenv(name: str, value: str) -> None:
    """Set a variable of the environment (uv_os_setenv), which `os.environ` does not notice. Not while other threads
    read it."""
    check(lib.uv_os_setenv(_variable(name), file_path(value)))


def os_unsetenv(name: str) -> None:
    """Remove a variable from the environment (uv_os_unsetenv), which `os.environ` does not notice."""
    check(lib.uv_os_unsetenv(_variable(name)))


def _variable(name: str) -> bytes:
    encoded = file_path(name)
    if not encoded or b"=" in encoded:
        raise ValueError(f"illegal environment variable name: {name!r}")
    return encoded


def _decoded(chars: Any) -> str | None:
    return None if chars == ffi.NULL else os.fsdecode(ffi.string(chars))


# ------------------------------------------------------------------------------------------ memory, clocks, random


def get_free_memory() -> int:
    """Bytes of memory that are free, 0 if unknown (uv_get_free_memory)."""
    return int(lib.uv_get_free_memory())


def get_total_memory() -> int:
    """Bytes of memory of the machine, 0 if unknown (uv_get_total_memory)."""
    return int(lib.uv_get_total_memory())


def get_constrained_memory() -> int:
    """Bytes this process may have, 0 if there is no limit (uv_get_constrained_memory)."""
    return int(lib.uv_get_constrained_memory())


def get_available_memory() -> int:
    """Bytes this process may still get (uv_get_available_memory)."""
    return int(lib.uv_get_available_memory())


def hrtime() -> int:
    """Nanoseconds of a monotonic clock (uv_hrtime)."""
    return int(lib.uv_hrtime())


def clock_gettime(clock: ClockID | int) -> TimeSpec:
    """What a clock shows (uv_clock_gettime)."""
    time = ffi.new("uv_timespec64_t *")
    check(lib.uv_clock_gettime(int(ClockID(clock)), time))
    return TimeSpec(int(time.tv_sec), int(time.tv_nsec))


def gettimeofday() -> tuple[int, int]:
    """Seconds and microseconds since 1970 (uv_gettimeofday)."""
    time = ffi.new("uv_timeval64_t *")
    check(lib.uv_gettimeofday(time))
    return int(time.tv_sec), int(time.tv_usec)


def sleep(milliseconds: int) -> None:
    """Let the thread sleep (uv_sleep); other threads run meanwhile, signal handlers afterwards."""
    lib.uv_sleep(whole_number(milliseconds, "milliseconds", 0xFFFFFFFF))


class RandomRequest(PoolRequest):
    """Random bytes being gathered (uv_random_t)."""

    _c_type = "uv_random_t"


@overload
def random(size: int, *, loop: None = None, callback: None = None) -> bytes: ...
@overload
def random(
    size: int, *, loop: BaseLoop, callback: Callable[[bytes | None, Exception | None], object]
) -> RandomRequest: ...
def random(size: int, *, loop: BaseLoop | None = None, callback: Callable[[Any, Any], object] | None = None) -> Any:
    """Random bytes for cryptography (uv_random).

    With `loop` and `callback` it works in libuv's thread pool and calls `callback(data, error)`; without them it waits.
    """
    length = whole_number(size, "size", 0x7FFFFFFF)
    room = ffi.new("char[]", max(length, 1))

    def data(_: Any = None) -> bytes:
        taken: bytes = ffi.buffer(room, length)[:]
        return taken

    if both_or_none(loop, callback):
        request = RandomRequest(loop, callback, data, room)
        request._begin(lib.uv_random, request.loop._enter(), request._memory, room, length, 0, _ON_RANDOM)
        return request
    check(lib.uv_random(ffi.NULL, ffi.NULL, room, length, 0, ffi.NULL))
    return data()

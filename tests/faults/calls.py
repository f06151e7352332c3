"""The calls that can be made to fail, and how: the errnos that the manual page of each allows."""

from __future__ import annotations

import errno
import socket

# EAGAIN is not among them: where readiness is told once only, the kernel answers so only when it will tell of the next
# time.
_RECEIVE = "ECONNRESET EINTR ENOMEM ETIMEDOUT"
_SEND = "ECONNRESET EINTR ENOBUFS ENOMEM EPIPE"
_FULL = "EMFILE ENFILE"

ERRORS: dict[str, tuple[str, ...]] = {
    name: tuple(errors.split())
    for name, errors in {
        "socket": f"{_FULL} EACCES ENOBUFS ENOMEM",
        "socketpair": f"{_FULL} ENOMEM",
        "accept": f"{_FULL} ECONNABORTED EINTR ENOBUFS ENOMEM EPERM EPROTO",
        "accept4": f"{_FULL} ECONNABORTED EINTR ENOBUFS ENOMEM EPERM EPROTO",
        "connect": "EACCES EADDRNOTAVAIL ECONNREFUSED ENETUNREACH ETIMEDOUT",
        "bind": "EACCES EADDRINUSE ENOMEM EROFS",
        "listen": "EADDRINUSE",
        "getsockname": "ENOBUFS",
        "getpeername": "ENOBUFS ENOTCONN",
        "setsockopt": "ENOMEM ENOPROTOOPT",
        "getsockopt": "ENOBUFS ENOPROTOOPT",
        "read": "EINTR EIO",
        "write": "EINTR EIO ENOSPC EPIPE",
        "readv": _RECEIVE,
        "writev": _SEND,
        "send": _SEND,
        "recv": _RECEIVE,
        "sendto": _SEND + " EPERM",
        "recvfrom": "ECONNREFUSED " + _RECEIVE,
        "sendmsg": _SEND,
        "recvmsg": _RECEIVE,
        "sendmmsg": _SEND,
        "recvmmsg": "ECONNREFUSED " + _RECEIVE,
        "epoll_create1": f"{_FULL} ENOMEM",
        "epoll_ctl": "ENOMEM ENOSPC EBADF",
        "epoll_wait": "EINTR EBADF",
        "epoll_pwait": "EINTR EBADF",
        "poll": "EINTR ENOMEM",
        "ppoll": "EINTR ENOMEM",
        "eventfd": f"{_FULL} ENODEV ENOMEM",
        "pipe2": _FULL,
        "dup": _FULL,
        "dup2": "EINTR EMFILE",
        "dup3": "EINTR EMFILE",
        "fcntl": "EMFILE EPERM",
        "ioctl": "ENOTTY EINVAL",
        "fork": "EAGAIN ENOMEM",
        "vfork": "EAGAIN ENOMEM",
        "posix_spawn": "EAGAIN ENOMEM",
        "waitpid": "EINTR ECHILD",
        "waitid": "EINTR ECHILD",
        "pidfd_open": f"{_FULL} ENODEV ENOMEM ENOSYS EPERM ESRCH",
        "io_uring_setup": f"{_FULL} ENOMEM ENOSYS EPERM",
        "io_uring_enter": "EAGAIN EBUSY EINTR",
        "pthread_create": "EAGAIN EPERM",
        "open": f"{_FULL} EACCES EINTR ENOENT ENOMEM",
        "openat": f"{_FULL} EACCES EINTR ENOENT ENOMEM",
        "fstat": "EACCES ENOMEM",
        "stat": "EACCES ENOMEM",
        "lstat": "EACCES ENOMEM",
        "lseek": "ESPIPE",
        "unlink": "EACCES EBUSY ENOENT EROFS",
        "mmap": "EAGAIN ENOMEM",
        "shutdown": "ENOBUFS ENOTCONN",
        "sendfile": "EINTR EINVAL EIO ENOMEM EPIPE",
        "pread": "EINTR EIO SHORT",
        "preadv2": "EAGAIN EINTR EIO EOPNOTSUPP SHORT",
        "pwrite": "EDQUOT EINTR EIO ENOSPC SHORT",
        "copy_file_range": "EINTR EINVAL EIO ENOMEM ENOSPC EOPNOTSUPP EXDEV SHORT",
        "fsync": "EIO ENOSPC",
        "fdatasync": "EIO ENOSPC",
        "ftruncate": "EFBIG EINTR EIO",
        "truncate": "EACCES EINTR EIO",
        "mkdir": "EACCES EEXIST ENOSPC",
        "rmdir": "EBUSY ENOENT ENOTEMPTY",
        "rename": "EACCES EXDEV",
        "link": "EMLINK EPERM",
        "symlink": "EEXIST ENOSPC",
        "readlink": "EACCES EINVAL ENOMEM",
        "realpath": "EACCES ELOOP ENOMEM",
        "access": "EACCES EIO",
        "chmod": "EIO EPERM",
        "fchmod": "EIO EPERM",
        "chown": "EIO EPERM",
        "fchown": "EIO EPERM",
        "lchown": "EIO EPERM",
        "utimensat": "EACCES EPERM",
        "futimens": "EACCES EPERM",
        "statvfs": "EINTR EIO ENOMEM",
        "fstatvfs": "EINTR EIO ENOMEM",
        "statx": "EACCES ENOENT ENOMEM ENOSYS",
        "fstatat": "EACCES ENOENT ENOMEM",
        "opendir": f"{_FULL} EACCES ENOENT ENOMEM",
        "readdir": "EIO ENOENT",
        "inotify_init1": f"{_FULL} ENOMEM",
        "inotify_add_watch": "EACCES ENOENT ENOMEM ENOSPC",
        "inotify_rm_watch": "EINVAL",
        "getaddrinfo": "EAI_AGAIN EAI_FAIL EAI_MEMORY EAI_NONAME EAI_SYSTEM",
        "getnameinfo": "EAI_AGAIN EAI_FAIL EAI_MEMORY EAI_SYSTEM",
        "malloc": "ENOMEM",
        "calloc": "ENOMEM",
        "realloc": "ENOMEM",
    }.items()
}

# One of the interpreter's own allocations fails, where it has the module for that.
PYTHON_MEMORY = "python_memory"
# What asyncio's own code for subprocesses does not survive, on its own loop as well: a pipe that cannot be connected is
# forgotten, so is a child that cannot be watched, and a failed write to a child is swallowed. A crash always counts.
INHERITED = frozenset(("process", call) for call in ("epoll_ctl", "fstat", "ioctl", "pidfd_open", "waitpid", "write"))
# That something is gone which is there: the directory above it does not tell so, and nothing will ever come; what is
# gone need not be removed.
LIES = frozenset(
    [("watching", call, "ENOENT") for call in ("inotify_add_watch", "opendir", "readdir")]
    + [("temporary_files", call, "ENOENT") for call in ("lstat", "statx", "unlink")]
)
# What stays as it is until something is given back: failed from one call on to the end of the scenario, too.
LASTING = frozenset({"EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ENOSPC", "EPERM", "ENOSYS"})
# libuv takes this for a full buffer, and tries again for as long as it lasts.
NOT_LASTING = frozenset({"send", "sendmsg", "sendto", "write", "writev"})
# Until the scenario succeeds or fails, which these must not make it do.
HARMLESS = frozenset({"EINTR", "SHORT"})
# What another call does instead: these must not be felt, whatever they fail with.
REPLACED = frozenset({"preadv2"})
# No failure: half of what was asked for. As in the shim.
SHORT = 100_000


def number(error: str) -> int:
    """The value of the errno, or of the resolver's error, called *error* on this system."""
    value: int = SHORT if error == "SHORT" else getattr(socket if error.startswith("EAI_") else errno, error)
    return value


def is_harmless(call: str, error: str) -> bool:
    """Whether nobody may feel that *call* fails with *error*."""
    return error in HARMLESS or call in REPLACED

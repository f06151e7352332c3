"""What libuv knows of a file: uv_stat_t."""

from __future__ import annotations

from typing import Any, NamedTuple


class Stat(NamedTuple):
    """uv_stat_t. The times are nanoseconds since 1970; what the system does not have is 0."""

    st_dev: int
    st_mode: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_rdev: int
    st_ino: int
    st_size: int
    st_blksize: int
    st_blocks: int
    st_flags: int
    st_gen: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_birthtime_ns: int


_NUMBERS = Stat._fields[:12]


def make_stat(stat: Any) -> Stat:
    """Copy a uv_stat_t."""
    times = (stat.st_atim, stat.st_mtim, stat.st_ctim, stat.st_birthtim)
    return Stat(
        *(int(getattr(stat, name)) for name in _NUMBERS),
        *(int(time.tv_sec) * 1_000_000_000 + int(time.tv_nsec) for time in times),
    )

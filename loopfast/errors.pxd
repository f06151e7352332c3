# libuv's status codes as Python exceptions: the one table, and check(), through which every libuv call goes.

cdef object error_from_uv(int code)
# What the system said to a call on a user's socket: always an OSError, also for want of memory, as asyncio has it.
cdef object system_error(int code)
cdef int raise_uv(int code) except -1

cdef inline int check(int code) except -1:
    """Return a libuv status of zero or more as it is; raise the exception that a negative one stands for."""
    if code < 0:
        return raise_uv(code)
    return code

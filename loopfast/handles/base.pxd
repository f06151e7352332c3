# The life of a libuv handle under a Python object: allocation, ownership, closing. No other file frees a uv handle.

from loopfast.core cimport LoopCore, LoopObject
from loopfast.includes cimport uv


cdef class UVHandle(LoopObject):
    cdef:
        # Allocated apart from this object, `data` pointing back here (borrowed). From close_handle() on it belongs to
        # libuv, whose close callback frees it: NULL here, so that neither a late callback nor a second close can reach
        # it.
        uv.uv_handle_t* handle

    # Allocate `size` zeroed bytes, of which the first hold the uv handle. The subclass initialises it with uv_*_init()
    # and then calls opened(), or failed() if that returned an error.
    cdef int allocate(self, size_t size) except -1
    cdef int opened(self, LoopCore loop) except -1
    cdef void failed(self) noexcept
    # Give the handle to libuv for closing. Idempotent, safe at any time, calls no Python code.
    cdef void close_handle(self) noexcept
    cdef int check_handle(self) except -1

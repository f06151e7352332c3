# Names: uv_getaddrinfo in libuv's thread pool, for the lookups that it answers as Python's socket.getaddrinfo() does.

from loopfast.core cimport LoopCore, LoopObject
from loopfast.includes cimport uv


cdef class Lookup(LoopObject):
    cdef:
        # libuv's until its callback has run, which frees it. Its `data` is this object, NULL once nobody wants the
        # answer.
        uv.uv_getaddrinfo_t* request
        # The answer, between libuv's callback and finish() (owned).
        uv.addrinfo* found
        int status
        # What the caller awaits.
        readonly object future

    cdef int start(self, LoopCore loop, bytes host, bytes port, const uv.addrinfo* hints) except -1
    cdef int finish(self) except -1

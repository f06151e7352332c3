# What asyncio's streams do for each piece of data: their hot methods, as awaitables.

from cpython.object cimport PyObject

from loopfast.core cimport LoopCore, flag
from loopfast.includes.python cimport vectorcallfunc
from loopfast.transports.base cimport FastProtocol


cdef enum:
    READ
    EXACTLY
    UNTIL
    LINE
    DRAIN


cdef class StreamFeed(FastProtocol):
    cdef:
        # The StreamReaderProtocol that it takes data for.
        object protocol
        # Which of its attributes is the reference to the reader.
        Py_ssize_t reference_place

    cdef int feed(self, const char* data, Py_ssize_t size) except -1


cdef class StreamCall:
    cdef:
        # The reader, or for DRAIN the writer; its attributes.
        object stream
        dict state
        # One of the above; a stream that waits has one of these objects, so they are small.
        unsigned char kind
        flag is_inherited
        # It has waited before.
        flag resumed
        flag started
        flag finished
        # Bytes to be read, or the separator.
        Py_ssize_t size
        object argument
        # What it waits for: a future's iterator, or asyncio's own coroutine, which does the rest.
        object iterator
        # UNTIL and LINE: where in the buffer no separator begins before.
        Py_ssize_t searched

    cdef bint step(self, PyObject** result) except -1
    cdef int attempt(self, PyObject** result) except -1
    cdef int attempt_read(self, dict state, bytearray buffer, PyObject** result) except -1
    cdef int attempt_exactly(self, dict state, bytearray buffer, PyObject** result) except -1
    cdef int attempt_until(self, dict state, bytearray buffer, PyObject** result) except -1
    cdef int overrun(self, dict state, bytearray buffer, str text, Py_ssize_t consumed) except -1
    cdef int fail(self) except -1
    cdef int wait(self, dict state, bytearray buffer) except -1
    cdef int inherit(self) except -1
    cdef int stop_waiting(self) noexcept
    cdef void finish(self) noexcept


cdef class StreamMethod:
    cdef:
        vectorcallfunc vectorcall
        int kind
        # asyncio's own.
        object function


# Takes data for `protocol`, one of asyncio's streams, and gives it and its reader the faster classes; None where
# asyncio's own code must do it.
cdef FastProtocol feed_for(LoopCore loop, object protocol)

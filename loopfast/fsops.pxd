# Requests on files, their life, and the descriptors that they use. What they mean is in loopfast/fs.py.

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from loopfast.core cimport LoopCore, LoopObject
from loopfast.includes.fsjobs cimport lf_job


cdef enum:
    # Not begun; libuv has the job; over, with an outcome to take; taken or given up.
    NEW
    RUNNING
    DONE
    OVER


cdef class Descriptor:
    # An open file of a loop. Requests that use its number hold it, abandoned ones too, so that it is closed, by
    # whatever way, only when no thread can use the number any more.
    cdef readonly LoopCore loop
    # -1: closed, or given to the request that closes it.
    cdef readonly int number
    # Requests that libuv has. The loop's thread counts; read from any.
    cdef readonly Py_ssize_t in_flight
    # Closed with this object.
    cdef public bint is_owned
    cdef:
        # Futures to be set when `in_flight` is zero; None without.
        list idle_waiters

    cdef int leave(self) except -1


cdef class Request(LoopObject):
    # The loop keeps it while libuv has the job, and lets go of it in the job's callback. `job` is NULL once that has
    # come; it is the job that outlives a request which is given up, and cleans up after itself.
    cdef:
        lf_job* job
        int kind
        int state
        # Begun with start(): nobody's leaving ends it.
        bint is_started
        # Names come back as bytes.
        bint is_bytes
        # As the user wrote them, for errors and results.
        object name
        object other
        Descriptor descriptor
        # DONE: one of them.
        object result
        object error
        # While a task waits.
        object future
        object iterator
        # Futures of wait(); None without.
        list waiters
    # Bytes that were written, also where the request failed then.
    cdef readonly Py_ssize_t written

    cdef int begin(self, LoopCore loop) except -1
    cdef bint read_now(self) except -1
    cdef void on_job_end(self) noexcept
    cdef object make_error(self, int code)
    cdef object make_result(self)
    cdef object opened(self, int fd)
    cdef void wake(self) noexcept
    cdef void give_up(self) noexcept
    cdef PyObject* step(self) noexcept
    cdef PyObject* go_on(self) except? NULL


cdef class DirEntry:
    # Bytes where the folder's path was.
    cdef readonly object name
    cdef:
        # With a separator at its end, or empty.
        object folder
        uint64_t number
        # 'd', 'f', 'l', 'o' for all else; of a link what it leads to, NUL where that is nothing.
        char type
        char target

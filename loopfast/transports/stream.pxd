# Reading and writing of a byte stream: the hot paths of TCP and UNIX connections.

from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject

from loopfast.core cimport LoopCore, flag
from loopfast.includes cimport uv
from loopfast.transports.base cimport FastProtocol, NativeTransport


cdef class StreamTransport(NativeTransport):
    cdef:
        # --- reading
        # Takes the data for the protocol, or is it; None if data_received() or get_buffer() does.
        FastProtocol receiver
        flag paused
        # The last read filled the buffer: the next one goes straight into a bytes object.
        flag is_bulk
        # The protocol takes data through get_buffer(), which is being called, and buffer_updated().
        flag buffered
        flag lending
        # Held between the two: the object whose memory needs no export (owned), or the export, made when first needed,
        # as most protocols bring none (owned).
        flag exporting
        PyObject* lent
        Py_buffer* export

        # --- writing. Segments not yet taken by the kernel, in order: bufs[first:first+count], the object that owns the
        # memory of each in owners. The first `in_flight` of them belong to the write request in progress.
        uv.uv_buf_t* bufs
        PyObject** owners
        int first
        int count
        int in_flight
        int capacity
        uv.uv_buf_t inline_bufs[2]
        PyObject* inline_owners[2]
        # Bytes of the segments that are not in flight.
        size_t queued
        # The context of the write that started the request in flight, for resume_writing() (owned); NULL: the
        # connection's.
        PyObject* write_context
        # The request in flight is done, with this status, but on_written() is deferred.
        flag written
        # Send each write at once instead of at the end of the turn.
        flag at_once
        # write_eof() was called; the writing half has been shut down, which waits for the queue.
        flag eof
        flag eof_sent
        int write_status
        # An error that libuv told while the loop was deferring: nothing is read any more. 0 if none.
        int read_status
        # sendfile() waits on this for the queue to drain; set while a sendfile is in progress.
        object empty_waiter

    cdef int open_stream(self, LoopCore loop, int fd) except -1
    cdef int start_reading(self) except -1
    cdef int on_read_end(self, ssize_t status) except -1
    cdef int lend_buffer(self, uv.uv_buf_t* buf) except -1
    cdef int export_buffer(self, object buffer, uv.uv_buf_t* buf) except -1
    # write() of a bytes object.
    cdef int write_bytes(self, bytes data) except -1
    # Memory for a write of `size` bytes, to be filled and then sent by commit(); NULL where a write may not wait or is
    # not small.
    cdef char* reserve(self, size_t size) noexcept
    cdef int commit(self, size_t size) except -1
    cdef int write_slowly(self, object data) except -1
    cdef int enqueue_copy(self, object data) except -1
    cdef void drop_sent(self, size_t size) noexcept
    cdef int send_queue(self) except -1
    cdef int start_request(self) except -1
    cdef int on_written(self, int status) except -1
    cdef int on_drained(self) except -1
    cdef void drop_write_context(self) noexcept
    cdef int on_write_error(self, object exception) except -1
    cdef int after_write(self) except -1
    cdef int on_protocol_raised(self, str message) except -1
    cdef int on_protocol_error(self, object exception, str message) except -1
    cdef int check_writable(self, str method) except -1
    cdef int shut_down_writing(self) except -1

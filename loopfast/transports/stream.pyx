"""Reading and writing of a byte stream: the hot paths of TCP and UNIX connections.

Reading: libuv reads into the loop's buffer, the protocol gets a ``bytes`` of exactly the size read (or has its own
buffer filled). Writing: the writes of a turn are gathered and sent with one vectored call at its end; what the kernel
does not take goes into one libuv write request, and what is written meanwhile queues behind it.
"""

import asyncio
import sys
from asyncio.log import logger

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from cpython.type cimport PyType_IsSubtype
from libc.errno cimport EAGAIN
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from loopfast.buffers cimport BULK_READ_SIZE, GATHER_BUFFER_SIZE, READ_BUFFER_SIZE
from loopfast.buildinfo cimport COUNTERS
from loopfast.callbacks cimport exit_context, switch_context
from loopfast.core cimport LoopCore, LoopState, handed_over, hold_gil, is_for_its_thread, polls_elsewhere
from loopfast.errors cimport check, system_error
from loopfast.includes cimport uv
from loopfast.includes.buffer cimport lf_plain_buffer
from loopfast.includes.counters cimport LF_WRITE_REQUEST, lf_freed, lf_made
from loopfast.includes.python cimport (
    Py_DECREF, Py_INCREF, Py_XDECREF, PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
    PyContext_CopyCurrent, PyLong_FromSsize_t, PyObject_VectorcallMethod, _PyBytes_Resize, propagate,
)
from loopfast.includes.socket cimport lf_recv
from loopfast.transports.base cimport FastProtocol, NativeTransport, received_bytes, release_received

cdef enum:
    # Bytes gathered in one turn beyond which they are sent without waiting for its end.
    GATHER_LIMIT = 32 * 1024
    # Bytes up to which a gathered write is copied: neighbours become one segment, and the caller's object is free at
    # once, so that the next read can use it again.
    SMALL_WRITE = 4096
    # Bytes that a bulk read must bring: then they are shortened rather than copied, and the next one is a bulk read.
    LEAST_BULK = 32 * 1024
    # Segments of one vectored call; IOV_MAX on every supported system.
    SEGMENTS_PER_CALL = 1024
    # What deliver() returns then; -1 for every other failure.
    BUFFER_UPDATED_RAISED = -2

# From Python 3.12 on writelines() does not look at what is false.
cdef bint SKIPS_WHAT_IS_FALSE = sys.version_info >= (3, 12)
cdef object ANY_SIZE = -1
cdef str DATA_RECEIVED = sys.intern("data_received")
cdef str GET_BUFFER = sys.intern("get_buffer")
cdef str BUFFER_UPDATED = sys.intern("buffer_updated")
cdef object BufferedProtocol = asyncio.BufferedProtocol


# ------------------------------------------------------------------------------------------------ libuv's own callbacks

cdef void on_uv_alloc(uv.uv_handle_t* handle, size_t suggested, uv.uv_buf_t* buf) noexcept:
    """Lend the buffer for one read. Touches no Python object unless the protocol brings its own buffer."""
    cdef StreamTransport stream
    # Only then is it known whether the loop is deferring.
    hold_gil(<LoopState*> handle.loop.data)
    if handle.data == NULL or (<StreamTransport> handle.data).loop.deferring:
        # Without a buffer libuv reads nothing.
        return
    if not (<StreamTransport> handle.data).buffered:
        if (<StreamTransport> handle.data).is_bulk and (<StreamTransport> handle.data).receiver is None:
            buf.base = (<StreamTransport> handle.data).loop.borrow_bulk_bytes()
            if buf.base != NULL:
                buf.len = BULK_READ_SIZE
                return
        buf.base = (<StreamTransport> handle.data).loop.read_buffer
        buf.len = READ_BUFFER_SIZE
        return
    stream = <StreamTransport> handle.data
    # libuv calls its read callback after this one in any case, so what runs here must not stop the reading (and with it
    # drop that callback): stop_reading() leaves it to on_uv_read().
    stream.lending = True
    try:
        stream.lend_buffer(buf)
    except BaseException as exc:
        stream.loop.fail(exc)
    stream.lending = False


cdef void on_uv_read(uv.uv_stream_t* handle, ssize_t size, const uv.uv_buf_t* buf) noexcept:
    hold_gil(<LoopState*> handle.loop.data)
    if handle.data == NULL:
        return
    cdef int status
    cdef StreamTransport stream = <StreamTransport> handle.data
    if stream.loop.deferring:
        if size < 0 and size != uv.UV_ENOBUFS:
            # Not that nothing was lent, but an error from elsewhere: the descriptor cannot be watched.
            stream.read_status = <int> size
        stream.defer()
        return
    if stream.buffered:
        take_buffer_back(stream)
    if not stream.reading:
        # get_buffer() paused, closed or failed.
        uv.uv_read_stop(handle)
        if not stream.in_flight:
            stream.unkeep()
        if stream.closing:
            size = 0
    if size < 0:
        guarded_read_end(stream, size)
    elif size > 0:
        if stream.loop.timing and not stream.loop.timed_since:
            read_timed(stream, size, buf)
            return
        stream.loop._bytes_received += size
        status = deliver(stream, buf.base, size)
        if status < 0:
            guarded_protocol_failure(stream, status == BUFFER_UPDATED_RAISED)
        return
    exit_context(stream.loop)


cdef inline void take_buffer_back(StreamTransport stream) noexcept:
    """The read into the protocol's own buffer is over: hold neither the object nor its memory when it is told."""
    cdef PyObject* lent = stream.lent
    if lent != NULL:
        stream.lent = NULL
        Py_DECREF(lent)
    elif stream.exporting:
        stream.exporting = False
        PyBuffer_Release(stream.export)


cdef inline int deliver(StreamTransport stream, char* data, ssize_t size) noexcept:
    """Hand *size* bytes to the protocol, in the connection's context; negative with the exception set if it raised."""
    cdef PyObject* args[2]
    cdef PyObject* result = NULL
    cdef PyObject* argument
    cdef Py_ssize_t capacity = 0
    # set_protocol() may replace it meanwhile.
    cdef PyObject* protocol = <PyObject*> stream.protocol
    cdef PyObject* method
    if stream.receiver is not None:
        return deliver_raw(stream, data, size)
    if stream.buffered:
        method = <PyObject*> BUFFER_UPDATED
        argument = PyLong_FromSsize_t(size)
    else:
        method = <PyObject*> DATA_RECEIVED
        if stream.is_bulk or size >= LEAST_BULK:
            argument = received_in_bulk(stream, data, size, &capacity)
        else:
            argument = received_bytes(stream.loop, data, size, &capacity)
    if argument == NULL:
        return -1
    Py_INCREF(protocol)
    # get_buffer() may have left the context entered.
    if stream.loop.entered == stream.context or switch_context(stream.loop, stream.context) == 0:
        args[0] = protocol
        args[1] = argument
        result = PyObject_VectorcallMethod(method, args, 2, NULL)
        exit_context(stream.loop)
    release_received(stream.loop, argument, capacity)
    Py_DECREF(protocol)
    if result == NULL:
        # Said here: the protocol may have put another one in its place before it raised.
        return BUFFER_UPDATED_RAISED if method == <PyObject*> BUFFER_UPDATED else -1
    Py_DECREF(result)
    return 0


cdef void read_timed(StreamTransport stream, ssize_t size, const uv.uv_buf_t* buf) noexcept:
    """on_uv_read(), where it is to be known how long the protocol takes."""
    cdef LoopCore loop = stream.loop
    cdef double started = loop.begin_timed()
    protocol = stream.protocol
    method = BUFFER_UPDATED if stream.buffered else DATA_RECEIVED
    on_uv_read(<uv.uv_stream_t*> stream.handle, size, buf)
    try:
        loop.end_timed(started, protocol, method)
    except BaseException as exc:
        loop.fail(exc)


cdef PyObject* received_in_bulk(StreamTransport stream, char* data, ssize_t size, Py_ssize_t* capacity) noexcept:
    """received_bytes() of a stream that brings much at once: as long as it does, libuv reads into bytes objects."""
    cdef LoopCore loop = stream.loop
    cdef PyObject* found = loop.bulk_bytes
    stream.is_bulk = size >= LEAST_BULK
    if found == NULL or data != PyBytes_AS_STRING(found) or not stream.is_bulk:
        return received_bytes(loop, data, size, capacity)
    loop.bulk_bytes = NULL
    capacity[0] = size
    if size < BULK_READ_SIZE:
        _PyBytes_Resize(&found, size)
    return found


cdef int deliver_raw(StreamTransport stream, char* data, ssize_t size) noexcept:
    """deliver() to a FastProtocol."""
    cdef int status = -1
    # set_protocol() may replace it meanwhile.
    cdef FastProtocol receiver = stream.receiver
    if stream.loop.entered == stream.context or switch_context(stream.loop, stream.context) == 0:
        receiver.stream_loop = stream.loop
        status = receiver.receive(data, size)
        exit_context(stream.loop)
    if status < 0 and PyType_IsSubtype(type(receiver), BufferedProtocol):
        return BUFFER_UPDATED_RAISED
    return status


cdef void guarded_protocol_failure(StreamTransport stream, bint in_buffer_updated) noexcept:
    """The protocol's callback raised what is set now: it costs the connection, or ends the run."""
    try:
        stream.on_protocol_raised("Fatal error: protocol.buffer_updated() call failed." if in_buffer_updated else
                                  "Fatal error: protocol.data_received() call failed.")
    except BaseException as exc:
        stream.loop.fail(exc)


cdef void guarded_read_end(StreamTransport stream, ssize_t status) noexcept:
    try:
        stream.loop.enter_context(stream.context)
        stream.on_read_end(status)
        stream.loop.leave_context()
    except BaseException as exc:
        stream.loop.fail(exc)


cdef void guarded_flush(StreamTransport stream, int status) noexcept:
    """Send what has gathered, of which the last try has failed with *status*: an error is told once by the kernel."""
    try:
        stream.loop.enter_context(stream.context)
        if status < 0 and status != uv.UV_EAGAIN:
            stream.drop_queue()
            stream.on_write_error(system_error(status))
        else:
            stream.flush()
        stream.loop.leave_context()
    except BaseException as exc:
        stream.loop.fail(exc)


cdef void on_uv_write(uv.uv_write_t* request, int status) noexcept:
    hold_gil(<LoopState*> request.handle.loop.data)
    lf_freed(COUNTERS, LF_WRITE_REQUEST)
    cdef PyObject* transport = <PyObject*> request.handle.data
    free(request)
    if transport == NULL:
        # It was closed meanwhile; its queue is gone.
        return
    stream = <StreamTransport> transport
    if stream.loop.deferring:
        stream.written = True
        stream.write_status = status
        stream.defer()
        return
    try:
        stream.on_written(status)
        stream.loop.leave_context()
    except BaseException as exc:
        stream.loop.fail(exc)


@cython.no_gc_clear
cdef class StreamTransport(NativeTransport):
    """A connected byte stream on libuv. Not for direct use: see ``loopfast.transports.tcp.TCPTransport``."""

    def __cinit__(self):
        self.bufs = self.inline_bufs
        self.owners = self.inline_owners
        self.capacity = 2

    def __dealloc__(self):
        # First, so that drop_queue() finds no request in flight.
        self.close_handle()
        self.drop_queue()
        self.drop_write_context()
        take_buffer_back(self)
        free(self.export)

    # ------------------------------------------------------------------------------------------------- opening

    cdef int open_stream(self, LoopCore loop, int fd) except -1:
        """Wrap the connected socket *fd*, which belongs to this transport from here on."""
        cdef int status
        loop.check_open()
        loop.check_not_polling()
        loop.borrow_read_buffer()
        self.allocate(sizeof(uv.uv_tcp_t))
        status = uv.uv_tcp_init(&loop.state.loop, <uv.uv_tcp_t*> self.handle)
        if status < 0:
            self.failed()
            check(status)
        self.opened(loop)
        status = uv.uv_tcp_open(<uv.uv_tcp_t*> self.handle, fd)
        if status < 0:
            self.close_handle()
            check(status)
        return 0

    cdef int begin(self) except -1:
        """connection_made() has returned: read, unless it paused or closed the transport."""
        if not self.closing and not self.paused:
            self.start_reading()
        return 0

    cdef int take_protocol(self, object protocol) except -1:
        """What was written before is sent first."""
        if self.queued:
            self.flush()
        if isinstance(protocol, FastProtocol):
            self.receiver = protocol
        else:
            # A transport that was never opened has no loop.
            self.receiver = None if self.loop is None else self.loop.on_protocol(protocol)
        self.buffered = self.receiver is None and isinstance(protocol, BufferedProtocol)
        self.replace_protocol(protocol)
        self.protocol_connected = True
        return 0

    # ------------------------------------------------------------------------------------------------- reading

    def is_reading(self) -> bool:
        """Return True if the transport receives data."""
        return not self.closing and not self.paused

    def pause_reading(self):
        """Stop delivering data until `resume_reading`. Does nothing if paused or closing."""
        if self.closing or self.paused or handed_over(self, "pause_reading"):
            return
        self.paused = True
        self.stop_reading()
        if self.loop._debug:
            logger.debug("%r pauses reading", self)

    def resume_reading(self):
        """Deliver data again. Does nothing if not paused, or closing."""
        if self.closing or not self.paused or handed_over(self, "resume_reading"):
            return
        self.paused = False
        self.start_reading()
        if self.loop._debug:
            logger.debug("%r resumes reading", self)

    cdef int start_reading(self) except -1:
        if not self.reading and self.handle != NULL:
            check(uv.uv_read_start(<uv.uv_stream_t*> self.handle, on_uv_alloc, on_uv_read))
            self.reading = True
            self.keep()
        return 0

    cdef int stop_reading(self) except -1:
        if self.reading:
            self.reading = False
            if self.lending:
                return 0
            if self.handle != NULL:
                uv.uv_read_stop(<uv.uv_stream_t*> self.handle)
            if not self.in_flight:
                self.unkeep()
        return 0

    cdef int on_deferred(self) except -1:
        """Do now what libuv's callbacks left, in their order: what a peer has said that is gone comes before the error
        of a write."""
        cdef uv.uv_buf_t buf
        cdef ssize_t size = uv.UV_ENOBUFS
        cdef bint is_reset
        if self.handle != NULL and self.reading:
            buf.base = NULL
            buf.len = 0
            if self.read_status:
                size, self.read_status = self.read_status, 0
            else:
                on_uv_alloc(self.handle, READ_BUFFER_SIZE, &buf)
            if buf.len:
                size = lf_recv(self.fd, buf.base, buf.len)
                if size == 0:
                    # The kernel tells of a reset once: the write has had it, and what looks like the end is none.
                    is_reset = self.written and self.write_status < 0 and self.write_status != uv.UV_EPIPE
                    size = self.write_status if is_reset else uv.UV_EOF
                elif size == -EAGAIN:
                    size = 0
            on_uv_read(<uv.uv_stream_t*> self.handle, size, &buf)
        if self.written:
            self.written = False
            if self.handle != NULL:
                self.on_written(self.write_status)
                self.loop.leave_context()
        return 0

    cdef int lend_buffer(self, uv.uv_buf_t* buf) except -1:
        """Let libuv read into what ``get_buffer`` returns."""
        cdef PyObject* args[2]
        cdef PyObject* result = NULL
        cdef char* base
        cdef Py_ssize_t size
        # There is one where get_buffer() replaced the protocol.
        take_buffer_back(self)
        protocol = self.protocol
        args[0] = <PyObject*> protocol
        args[1] = <PyObject*> ANY_SIZE
        if switch_context(self.loop, self.context) == 0:
            result = PyObject_VectorcallMethod(<PyObject*> GET_BUFFER, args, 2, NULL)
        if result == NULL:
            exit_context(self.loop)
            return self.on_protocol_raised("Fatal error: protocol.get_buffer() call failed.")
        if self.handle == NULL or self.closing:
            # get_buffer() closed the transport: read nothing. Where it paused, this read is still done, as by asyncio.
            Py_DECREF(result)
        elif lf_plain_buffer(result, &base, &size) and size > 0:
            # libuv reads at once and then calls on_uv_read(): neither context nor memory needs more than this.
            self.lent = result
            buf.base = base
            buf.len = size
        else:
            exit_context(self.loop)
            buffer = <object> result
            Py_DECREF(result)
            self.export_buffer(buffer, buf)
        return 0

    cdef int export_buffer(self, object buffer, uv.uv_buf_t* buf) except -1:
        """lend_buffer() for any object that has the buffer protocol."""
        try:
            if self.export == NULL:
                self.export = <Py_buffer*> malloc(sizeof(Py_buffer))
                if self.export == NULL:
                    raise MemoryError("no memory for a view of the protocol's buffer")
            PyObject_GetBuffer(buffer, self.export, PyBUF_WRITABLE)
        except BufferError:
            wrong = TypeError(f"get_buffer() has to return a writable bytes-like object, got {type(buffer).__name__!r}")
            return self.on_protocol_error(wrong, "Fatal error: protocol.get_buffer() call failed.")
        except BaseException as exc:
            return self.on_protocol_error(exc, "Fatal error: protocol.get_buffer() call failed.")
        if self.export.len == 0:
            PyBuffer_Release(self.export)
            empty = RuntimeError("get_buffer() returned an empty buffer")
            return self.on_protocol_error(empty, "Fatal error: protocol.get_buffer() call failed.")
        self.exporting = True
        buf.base = <char*> self.export.buf
        buf.len = self.export.len
        return 0

    cdef int on_protocol_raised(self, str message) except -1:
        """The protocol's callback raised what is set now: it costs the connection, or ends the run."""
        try:
            propagate()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            failure = exc
        return self.on_protocol_error(failure, message)

    cdef int on_protocol_error(self, object exception, str message) except -1:
        # Exception handler and connection_lost() see the context of the callback that failed.
        send_before_end(self)
        self.loop.enter_context(self.context)
        self.fatal_error(exception, message)
        return self.loop.leave_context()

    cdef int on_read_end(self, ssize_t status) except -1:
        """The stream ended, or reading failed; libuv has stopped reading."""
        if self.closing or status == uv.UV_ENOBUFS:
            # UV_ENOBUFS: get_buffer() paused and resumed, so nothing was lent; libuv asks again.
            return 0
        self.stop_reading()
        if status != uv.UV_EOF:
            return self.fatal_error(system_error(<int> status), "Fatal read error on socket transport")
        if self.loop._debug:
            logger.debug("%r received EOF", self)
        try:
            keep_open = self.protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            # The protocol has not decided: the next run, if there is one, tells it again.
            if not self.closing and not self.paused:
                self.start_reading()
            raise
        except BaseException as exc:
            return self.on_protocol_error(exc, "Fatal error: protocol.eof_received() call failed.")
        if not keep_open:
            self.close()
        return 0

    # ------------------------------------------------------------------------------------------------- writing

    def write(self, data):
        """Send *data*, a bytes-like object, without blocking.

        The bytes leave at the end of the running turn, together with whatever else was written in it, or at once when
        more than 32 KiB (or more than the high-water mark) have gathered. *data* may be changed as soon as this
        returns.

        Raises:
            TypeError: *data* is not bytes, bytearray or memoryview.
            RuntimeError: `write_eof` was called, or a sendfile is in progress.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.WriteTransport.write
        """
        cdef size_t size
        if type(data) is bytes and can_gather(self):
            # The hot path: the write may wait for the turn's end.
            size = <size_t> PyBytes_GET_SIZE(<PyObject*> data)
            if size == 0:
                return
            if self.queued + size <= min(self.high_water, <size_t> GATHER_LIMIT):
                if size <= SMALL_WRITE and self.loop.gathered + size <= GATHER_BUFFER_SIZE:
                    memcpy(self.loop.gather_buffer + self.loop.gathered, PyBytes_AS_STRING(<PyObject*> data), size)
                    append_gathered(self, size)
                else:
                    append_bytes(self, <PyObject*> data)
                if not self.wants_turn_end:
                    self.loop.request_turn_end(self)
                return
        self.write_slowly(data)

    cdef int write_bytes(self, bytes data) except -1:
        cdef size_t size = <size_t> PyBytes_GET_SIZE(<PyObject*> data)
        if size and can_gather(self) and self.queued + size <= min(self.high_water, <size_t> GATHER_LIMIT):
            append_bytes(self, <PyObject*> data)
            return 0 if self.wants_turn_end else self.loop.request_turn_end(self)
        return self.write_slowly(data)

    cdef char* reserve(self, size_t size) noexcept:
        if (size <= SMALL_WRITE and can_gather(self) and self.loop.gathered + size <= GATHER_BUFFER_SIZE
                and self.queued + size <= min(self.high_water, <size_t> GATHER_LIMIT)):
            return self.loop.gather_buffer + self.loop.gathered
        return NULL

    cdef int commit(self, size_t size) except -1:
        append_gathered(self, size)
        return 0 if self.wants_turn_end else self.loop.request_turn_end(self)

    cdef int write_slowly(self, object data) except -1:
        """write() in any state and of any bytes-like object."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if is_for_its_thread(self.loop):
            self.loop.call_soon_threadsafe(self.write, bytes(data))
            return 0
        self.check_writable("write")
        if self.conn_lost or self.handle == NULL:
            if len(data):
                self.note_lost_write()
            return 0
        if type(data) is bytes:
            if PyBytes_GET_SIZE(<PyObject*> data) == 0:
                return 0
            append_bytes(self, <PyObject*> data)
        else:
            try:
                self.enqueue_copy(data)
            except BufferError as exc:
                # Memory with gaps: as on asyncio, which hears of it when it sends.
                return self.fatal_error(exc, "Fatal write error on socket transport")
        return self.after_write()

    def writelines(self, list_of_data):
        """Send an iterable of bytes-like objects, like `write` of each in turn.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.WriteTransport.writelines
        """
        self.check_writable("writelines")
        if SKIPS_WHAT_IS_FALSE and not list_of_data:
            return
        pieces = [piece if type(piece) is bytes else bytes(memoryview(piece)) for piece in list_of_data]
        if is_for_its_thread(self.loop):
            self.loop.call_soon_threadsafe(self.writelines, pieces)
            return
        if self.conn_lost or self.handle == NULL:
            if any(pieces):
                self.note_lost_write()
            return
        for piece in pieces:
            if piece:
                append_bytes(self, <PyObject*> piece)
        if self.queued:
            self.after_write()

    cdef int check_writable(self, str method) except -1:
        if self.eof:
            raise RuntimeError(f"Cannot call {method}() after write_eof()")
        if self.empty_waiter is not None:
            raise RuntimeError(f"unable to {method}; sendfile is in progress")
        return 0

    cdef int enqueue_copy(self, object data) except -1:
        """Append a mutable buffer: what cannot be sent on the spot is copied."""
        cdef Py_buffer view
        cdef uv.uv_buf_t direct
        cdef Py_ssize_t sent = 0
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len > GATHER_LIMIT:
                # Large: send from the caller's memory what the kernel takes now, and copy only the rest.
                self.flush()
                if self.count == 0 and not self.conn_lost and self.handle != NULL and not polls_elsewhere(self.loop):
                    direct.base = <char*> view.buf
                    direct.len = view.len
                    sent = uv.uv_try_write(<uv.uv_stream_t*> self.handle, &direct, 1)
                    if sent < 0:
                        if sent != uv.UV_EAGAIN:
                            return self.on_write_error(system_error(sent))
                        sent = 0
                    self.loop._bytes_sent += sent
            if sent < view.len and not self.conn_lost and self.handle != NULL:
                copy = (<char*> view.buf)[sent:view.len]
                append_bytes(self, <PyObject*> copy)
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef int after_write(self) except -1:
        """Send now, or when the turn ends."""
        if self.in_flight:
            # Queued behind the request in progress, whose end sends it.
            return self.update_flow()
        if self.at_once or self.queued > GATHER_LIMIT or self.queued > self.high_water or self.loop.running_thread == 0:
            self.flush()
            if self.in_flight and self.write_context == NULL and not self.shares_context:
                # resume_writing() will run in the context of this write, as on asyncio.
                self.write_context = PyContext_CopyCurrent()
                if self.write_context == NULL:
                    return propagate()
            return 0
        return self.loop.request_turn_end(self)

    cdef void on_turn_end(self) noexcept:
        cdef int status = 0
        if self.count and not self.in_flight and self.handle != NULL and self.count <= SEGMENTS_PER_CALL:
            status = uv.uv_try_write(<uv.uv_stream_t*> self.handle, self.bufs + self.first, self.count)
            if status == <int> self.queued:
                # The hot path: the kernel has it all.
                self.loop._bytes_sent += <size_t> status
                release_sent(self)
                if not (self.closing or self.eof or self.empty_waiter is not None):
                    return
            elif status > 0:
                self.drop_sent(<size_t> status)
        guarded_flush(self, status)

    cdef int flush(self) except -1:
        """Send what has gathered; make a write request of what the kernel does not take."""
        if self.handle == NULL or is_for_its_thread(self.loop):
            return 0
        if polls_elsewhere(self.loop):
            return self.loop.request_turn_end(self) if self.count else 0
        self.send_queue()
        if self.in_flight:
            self.update_flow()
        elif (self.closing or self.eof or self.empty_waiter is not None) and self.count == 0 and not self.conn_lost:
            self.on_drained()
        return 0

    cdef int send_queue(self) except -1:
        """The sending of flush(), which leaves flow control and the end to its caller."""
        cdef int status
        cdef int attempted
        while self.count and not self.in_flight and self.handle != NULL:
            attempted = min(self.count, SEGMENTS_PER_CALL)
            status = uv.uv_try_write(<uv.uv_stream_t*> self.handle, self.bufs + self.first, attempted)
            if status < 0:
                if status != uv.UV_EAGAIN:
                    self.drop_queue()
                    return self.on_write_error(system_error(status))
                self.start_request()
                break
            self.drop_sent(<size_t> status)
            if self.count and attempted < SEGMENTS_PER_CALL:
                self.start_request()
        return 0

    cdef void drop_sent(self, size_t size) noexcept:
        """Forget *size* bytes from the front of the queue."""
        cdef PyObject* owner
        self.queued -= size
        self.loop._bytes_sent += size
        while self.count and size >= self.bufs[self.first].len:
            size -= self.bufs[self.first].len
            owner = self.owners[self.first]
            self.first += 1
            self.count -= 1
            Py_XDECREF(owner)
        if self.count:
            self.bufs[self.first].base += size
            self.bufs[self.first].len -= size
        else:
            reset_queue(self)

    cdef int start_request(self) except -1:
        """Hand the queue to libuv, which sends it as the socket becomes writable."""
        cdef uv.uv_write_t* request
        cdef int segments = min(self.count, SEGMENTS_PER_CALL)
        cdef int i, status
        keep_copies(self)
        # Not a part of the handle: most connections never need one.
        request = <uv.uv_write_t*> malloc(sizeof(uv.uv_write_t))
        status = uv.UV_ENOMEM if request == NULL else uv.uv_write(
            request, <uv.uv_stream_t*> self.handle, self.bufs + self.first, segments, on_uv_write)
        if status < 0:
            free(request)
            self.drop_queue()
            return self.on_write_error(system_error(status))
        lf_made(COUNTERS, LF_WRITE_REQUEST)
        self.in_flight = segments
        for i in range(self.first, self.first + segments):
            self.queued -= self.bufs[i].len
        self.keep()
        return 0

    cdef int on_written(self, int status) except -1:
        """The write request is done: release its segments, send what queued behind it."""
        cdef PyObject* owner
        while self.in_flight:
            owner = self.owners[self.first]
            if status == 0:
                self.loop._bytes_sent += self.bufs[self.first].len
            self.first += 1
            self.count -= 1
            self.in_flight -= 1
            Py_XDECREF(owner)
        if self.count == 0:
            reset_queue(self)
        if not self.reading:
            self.unkeep()
        write_context = <object> (self.write_context if self.write_context != NULL else self.context)
        self.loop.enter_context(<PyObject*> write_context)
        if self.conn_lost:
            return 0
        if status < 0:
            self.drop_queue()
            return self.on_write_error(system_error(status))
        self.send_queue()
        if self.in_flight:
            self.update_flow()
        if self.protocol_paused and not self.conn_lost:
            # Before the end: a protocol may hold the rest of a closing connection (TLS does), and write it now.
            self.resume_protocol()
        if self.count == 0:
            self.drop_write_context()
            if not self.conn_lost:
                self.on_drained()
        return 0

    cdef void drop_write_context(self) noexcept:
        cdef PyObject* context = self.write_context
        self.write_context = NULL
        Py_XDECREF(context)

    cdef int on_write_error(self, object exception) except -1:
        self.fatal_error(exception, "Fatal write error on socket transport")
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(exception)
        return 0

    cdef int on_drained(self) except -1:
        """The kernel has everything: finish what waited for that."""
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_result(None)
        if self.closing:
            return self.schedule_connection_lost(None)
        if self.eof and not self.eof_sent:
            self.eof_sent = True
            return self.shut_down_writing()
        return 0

    cdef bint is_sending(self) noexcept:
        return self.in_flight > 0 and not self.conn_lost

    cdef size_t unsent(self) noexcept:
        if self.handle == NULL or self.conn_lost:
            # What an abort() has left with libuv goes with the handle.
            return 0
        return self.queued + uv.uv_stream_get_write_queue_size(<uv.uv_stream_t*> self.handle)

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the kernel has not taken; what has gathered in this turn is sent first."""
        self.flush()
        return self.unsent()

    def set_write_gathering(self, enabled: bool):
        """Choose between gathering the writes of a turn (the default) and sending each at once.

        Args:
            enabled: False sends every write immediately, as asyncio's own transports do.
        """
        if is_for_its_thread(self.loop) and self.loop.left_to_its_thread(self.set_write_gathering, enabled):
            return
        self.at_once = not enabled
        if self.at_once:
            self.flush()

    cdef void drop_queue(self) noexcept:
        """Forget what is unsent. Segments of a write request stay while libuv may still read them: until the request
        ends or the handle is closed."""
        cdef PyObject* owner
        cdef int kept
        if self.handle == NULL:
            self.in_flight = 0
        kept = self.in_flight
        self.queued = 0
        while self.count > kept:
            self.count -= 1
            owner = self.owners[self.first + self.count]
            Py_XDECREF(owner)
        if self.count == 0:
            reset_queue(self)

    # ------------------------------------------------------------------------------------------------- ending

    def can_write_eof(self) -> bool:
        """Return True: the writing half can be shut down alone."""
        return True

    def write_eof(self):
        """Shut down the writing half once everything written has been sent. Reading goes on.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.WriteTransport.write_eof
        """
        if self.closing or self.eof or handed_over(self, "write_eof"):
            return
        self.flush()
        if self.closing:
            # The flush met an error, which has closed the transport.
            return
        self.eof = True
        if self.count == 0:
            self.on_drained()

    cdef int shut_down_writing(self) except -1:
        return 0

    def close(self):
        """Close once everything written has been sent; ``connection_lost(None)`` follows.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.BaseTransport.close
        """
        if self.closing or self.handle == NULL or handed_over(self, "close"):
            return
        self.flush()
        if self.closing:
            # The flush met an error, which has closed the transport.
            return
        self.closing = True
        self.stop_reading()
        if self.count == 0:
            self.schedule_connection_lost(None)

    def abort(self):
        """Close at once: what the kernel does not take now is dropped; ``connection_lost(None)`` follows.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.WriteTransport.abort
        """
        if self.handle == NULL or handed_over(self, "abort"):
            return
        send_before_end(self)
        self.force_close(None)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        send_before_end(self)
        NativeTransport._fatal_error(self, exc, message)

    def _force_close(self, exc):
        send_before_end(self)
        NativeTransport._force_close(self, exc)

    cdef int on_lost(self, object exception) except -1:
        self.receiver = None
        self.drop_queue()
        if self.empty_waiter is None:
            return 0
        if self.empty_waiter.done():
            (<object> self.loop)._end_writing(self.fd)
        else:
            self.empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))
        return 0

    # ------------------------------------------------------------------------------------------------- sendfile

    def _make_empty_waiter(self):
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        if self.handle == NULL:
            raise RuntimeError("the transport is closed")
        self.loop.check_not_polling()
        self.flush()
        self.empty_waiter = self.loop.create_future()
        if self.count == 0:
            self.empty_waiter.set_result(None)
        return self.empty_waiter

    def _reset_empty_waiter(self):
        self.empty_waiter = None


cdef inline int send_before_end(StreamTransport self) except -1:
    """The connection ends at once: what was written before in this turn is sent, as asyncio has done by then."""
    if self.queued and not self.in_flight:
        self.flush()
    return 0


cdef inline bint can_gather(StreamTransport self) noexcept:
    """True if a write may simply wait for the turn's end."""
    return not (self.conn_lost or self.eof or self.at_once or self.in_flight or self.handle == NULL
                or self.empty_waiter is not None or self.loop.running_thread == 0
                or is_for_its_thread(self.loop))


cdef inline int append_bytes(StreamTransport self, PyObject* data) except -1:
    """Append *data*, a bytes object that is not empty, to the queue, which keeps it until it is sent."""
    cdef int end = self.first + self.count
    if end == self.capacity:
        make_room(self)
        end = self.count
    Py_INCREF(data)
    self.owners[end] = data
    self.bufs[end].base = PyBytes_AS_STRING(data)
    self.bufs[end].len = PyBytes_GET_SIZE(data)
    self.count += 1
    self.queued += PyBytes_GET_SIZE(data)
    return 0


cdef inline int append_gathered(StreamTransport self, size_t size) except -1:
    """Append what is next in the loop's gather buffer. Such a segment has no owner."""
    cdef LoopCore loop = self.loop
    cdef char* place = loop.gather_buffer + loop.gathered
    cdef int last = self.first + self.count - 1
    if self.count and self.owners[last] == NULL and self.bufs[last].base + self.bufs[last].len == place:
        self.bufs[last].len += size
    else:
        if last + 1 == self.capacity:
            make_room(self)
            last = self.count - 1
        self.owners[last + 1] = NULL
        self.bufs[last + 1].base = place
        self.bufs[last + 1].len = size
        self.count += 1
    loop.gathered += size
    self.queued += size
    return 0


cdef int keep_copies(StreamTransport self) except -1:
    """Give the segments in the gather buffer owners of their own: they stay beyond the turn."""
    cdef int i
    for i in range(self.first, self.first + self.count):
        if self.owners[i] == NULL:
            copy = PyBytes_FromStringAndSize(self.bufs[i].base, self.bufs[i].len)
            if copy == NULL:
                return propagate()
            self.owners[i] = copy
            self.bufs[i].base = PyBytes_AS_STRING(copy)
    return 0


cdef inline void release_sent(StreamTransport self) noexcept:
    """The kernel has taken the whole queue."""
    cdef int i
    self.queued = 0
    for i in range(self.first, self.first + self.count):
        Py_XDECREF(self.owners[i])
    self.count = 0
    reset_queue(self)


cdef void reset_queue(StreamTransport self) noexcept:
    """The queue is empty: start over at its beginning, and give back an array that had to grow."""
    self.first = 0
    if self.bufs != self.inline_bufs:
        free(self.bufs)
        free(self.owners)
        self.bufs = self.inline_bufs
        self.owners = self.inline_owners
        self.capacity = 2


cdef int make_room(StreamTransport self) except -1:
    """Grow the queue, or move it to the front of its array if at least half of that is free."""
    cdef int capacity = self.capacity if self.first * 2 >= self.capacity and self.first else self.capacity * 2
    cdef uv.uv_buf_t* bufs = <uv.uv_buf_t*> malloc(capacity * sizeof(uv.uv_buf_t))
    cdef PyObject** owners = <PyObject**> malloc(capacity * sizeof(PyObject*))
    if bufs == NULL or owners == NULL:
        free(bufs)
        free(owners)
        raise MemoryError(f"no memory for {capacity} unsent writes")
    memcpy(bufs, self.bufs + self.first, self.count * sizeof(uv.uv_buf_t))
    memcpy(owners, self.owners + self.first, self.count * sizeof(PyObject*))
    if self.bufs != self.inline_bufs:
        free(self.bufs)
        free(self.owners)
    self.bufs = bufs
    self.owners = owners
    self.capacity = capacity
    self.first = 0
    return 0

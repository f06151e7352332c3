"""TLS: asyncio's own ``SSLProtocol`` of the running version, with its hot paths compiled.

Handshake, shutdown, time limits, errors and all state changes are CPython's code. Here is what happens for each record:
encrypted bytes go from the stream's buffer into OpenSSL, plain bytes to the protocol, and the other way round, without
asking OpenSSL for what is not there (which it answers with an exception) and without buffers of the largest size. The
direct engine calls OpenSSL itself, the portable one the methods of Python's ``_ssl``; see `set_engine`.
"""

import _ssl
import math
import os
import ssl
import sys
from asyncio import sslproto

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject

from loopfast.core cimport LoopCore
from loopfast.includes.buffer cimport lf_plain_buffer
from loopfast.includes.openssl cimport (
    lf_bio_pending, lf_bio_read, lf_bio_write, lf_tls_connection, lf_tls_forget_errors, lf_tls_has_pending, lf_tls_load,
    lf_tls_read, lf_tls_write,
)
from loopfast.includes.python cimport (
    Py_DECREF, Py_INCREF, Py_XDECREF, PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, PyErr_SetObject,
    PyObject_VectorcallMethod, PyThread_get_thread_ident, propagate,
)
from loopfast.includes.threads cimport lf_load_runner
from loopfast.transports.base cimport (
    FastProtocol, received_bytes, received_so_far, receiving_bytes, release_received,
)
from loopfast.transports.stream cimport StreamTransport

cdef enum:
    # Bytes of the longest record.
    RECORD_SIZE = 16384
    # Bytes encrypted before they are handed on, which bounds the memory BIO.
    SLICE_SIZE = 128 * 1024
    # Bytes from which on a write goes through _ssl, which lets other threads run meanwhile: some milliseconds.
    LARGE_WRITE = 1 << 20
    # Bytes moved by one call, whose sizes are of type int.
    MOVED_BYTES = 1 << 30

cdef object DO_HANDSHAKE = sslproto.SSLProtocolState.DO_HANDSHAKE
cdef object WRAPPED = sslproto.SSLProtocolState.WRAPPED
cdef object FLUSHING = sslproto.SSLProtocolState.FLUSHING
cdef object SHUTDOWN = sslproto.SSLProtocolState.SHUTDOWN
cdef tuple AGAIN = sslproto.SSLAgainErrors
cdef object InheritedProtocol = sslproto.SSLProtocol
cdef object SSLObject = ssl.SSLObject
cdef object SSLSocket = _ssl._SSLSocket
cdef object MemoryBIO = _ssl.MemoryBIO
cdef str DATA_RECEIVED = sys.intern("data_received")

# ----------------------------------------------------------------------------------------------------- choice of engine


cdef bint find_openssl() except -1:
    """Find the functions of the OpenSSL that _ssl is linked to; False where the direct engine cannot be."""
    # The layout of _ssl's objects was looked at in these versions, and OpenSSL's interface from 1.1.1 on.
    if sys.version_info >= (3, 16) or sys.implementation.name != "cpython":
        return False
    if not ssl.OPENSSL_VERSION.startswith("OpenSSL ") or ssl.OPENSSL_VERSION_INFO < (1, 1, 1):
        return False
    path = getattr(_ssl, "__file__", None)
    return path is not None and lf_tls_load(os.fsencode(path), _ssl.OPENSSL_VERSION_NUMBER)


cdef bint CAN_GO_DIRECT = find_openssl()
cdef bint MAY_GO_DIRECT = False
cdef bint MUST_GO_DIRECT = False


def set_engine(name):
    """Choose how connections made from now on reach OpenSSL. The variable LOOPFAST_TLS_ENGINE is the first choice.

    Args:
        name: ``"auto"`` (the default): directly where that is known to work. ``"direct"``: the same, but what does not
            work is an error. ``"portable"``: through Python's ``_ssl``.

    Raises:
        ValueError: no such engine, or it is not available here.
    """
    global MAY_GO_DIRECT, MUST_GO_DIRECT
    if name not in ("auto", "direct", "portable"):
        raise ValueError(f"no TLS engine is called {name!r}; there are auto, direct and portable")
    if name == "direct" and not CAN_GO_DIRECT:
        raise ValueError("the direct TLS engine does not work with this Python")
    MAY_GO_DIRECT = CAN_GO_DIRECT and name != "portable"
    MUST_GO_DIRECT = name == "direct"


def can_go_direct() -> bool:
    """Return True if the direct engine works with this Python and its OpenSSL."""
    return CAN_GO_DIRECT


set_engine(os.environ.get("LOOPFAST_TLS_ENGINE") or "auto")


cdef class TLSEngine(FastProtocol):
    """The compiled part of `TLSProtocol`. Not for direct use."""

    def __dealloc__(self):
        Py_XDECREF(self.connection)

    def _connect_engine(self):
        """Look up, once per connection, what every record needs."""
        connection = self._sslobj
        if type(connection) is SSLObject:
            # The wrapper's methods only pass their arguments on.
            connection = connection._sslobj
        self.ssl_read = connection.read
        self.ssl_write = connection.write
        self.feed = self._incoming.write
        self.take = self._outgoing.read
        if isinstance(self._loop, LoopCore):
            self.stream_loop = self._loop
        if MAY_GO_DIRECT:
            self.go_direct(connection)
            if MUST_GO_DIRECT and self.ssl == NULL:
                # Nobody will get it.
                self._app_transport._closed = True
                raise RuntimeError(f"the direct TLS engine does not know {connection!r}")

    cdef int go_direct(self, object connection) except -1:
        """Use the direct engine if everything is as expected."""
        if type(connection) is not SSLSocket or self.stream_loop is None:
            return 0
        if type(self._incoming) is not MemoryBIO or type(self._outgoing) is not MemoryBIO:
            return 0
        context = connection.context
        if getattr(context, "_msg_callback", None) is not None:
            # Only _ssl's own methods raise what it raises.
            return 0
        if self.connection != NULL:
            # Once and for all.
            return 0
        self.ssl = lf_tls_connection(
            <PyObject*> connection, <PyObject*> context, <PyObject*> self._incoming, <PyObject*> self._outgoing,
            &self.rbio, &self.wbio)
        if self.ssl != NULL:
            Py_INCREF(<PyObject*> connection)
            self.connection = <PyObject*> connection
        return 0

    @property
    def _engine(self):
        return "portable" if self.ssl == NULL else "direct"

    def connection_made(self, transport):
        """The transport below is there: start the handshake."""
        self.stream = transport if isinstance(transport, StreamTransport) else None
        InheritedProtocol.connection_made(self, transport)

    def connection_lost(self, exc):
        """The transport below is gone."""
        self.stream = None
        InheritedProtocol.connection_lost(self, exc)

    def _connect_receiver(self):
        """Find out who takes the data for the application's protocol."""
        loop = self._loop
        self.receiver = (<LoopCore> loop).on_protocol(self._app_protocol) if isinstance(loop, LoopCore) else None

    # ------------------------------------------------------------------------------------------------- threads
    # OpenSSL may not be in two threads with one connection, and _ssl lets other threads run while it is: a program that
    # calls a transport from the wrong thread would crash, as it does on asyncio. Its calls are moved to the loop.

    cdef bint is_elsewhere(self) noexcept:
        """True if only another thread may go into OpenSSL with this connection."""
        cdef unsigned long thread = self.inside
        if thread == 0 and self.stream_loop is not None:
            thread = lf_load_runner(&self.stream_loop.running_thread)
        return thread != 0 and thread != PyThread_get_thread_ident()

    cdef int take_step(self, object state, object step) except -1:
        """Call *step*, which goes into OpenSSL, or have the loop do it: then only if the state is still *state*."""
        cdef unsigned long before = self.inside
        if self.is_elsewhere():
            self._loop.call_soon_threadsafe(self._take_step, state, step)
            return 0
        self.inside = PyThread_get_thread_ident()
        try:
            step(self)
        finally:
            self.inside = before
        return 0

    def _take_step(self, state, step):
        if state is None or self._state is state:
            self.take_step(state, step)

    def _start_shutdown(self):
        if self.is_elsewhere():
            # After what was written before.
            self._loop.call_soon_threadsafe(self._start_shutdown)
        else:
            InheritedProtocol._start_shutdown(self)

    def _write_appdata(self, list_of_data):
        if self.is_elsewhere():
            self._loop.call_soon_threadsafe(self._write_appdata, [bytes(data) for data in list_of_data])
        else:
            InheritedProtocol._write_appdata(self, list_of_data)

    def _do_handshake(self):
        self.take_step(DO_HANDSHAKE, InheritedProtocol._do_handshake)

    def _do_flush(self):
        self.take_step(FLUSHING, InheritedProtocol._do_flush)

    def _do_shutdown(self):
        self.take_step(SHUTDOWN, InheritedProtocol._do_shutdown)

    def _do_read(self):
        self.take_step(None, TLSEngine._read)

    def _do_write(self):
        self.take_step(None, InheritedProtocol._do_write)

    def _process_outgoing(self):
        self.take_step(None, TLSEngine._send)

    # ------------------------------------------------------------------------------------------------- incoming

    cdef int receive(self, const char* data, Py_ssize_t size) noexcept:
        cdef Py_ssize_t capacity = 0
        cdef PyObject* payload
        try:
            if self.inside != 0 and self.is_elsewhere():
                raise RuntimeError("another thread uses this TLS connection")
            if self.ssl != NULL:
                if lf_bio_write(self.rbio, data, <int> size) != size:
                    raise MemoryError("no memory for encrypted data")
            else:
                payload = received_bytes(self.stream_loop, data, size, &capacity)
                if payload == NULL:
                    propagate()
                try:
                    self.feed(<object> payload)
                finally:
                    release_received(self.stream_loop, payload, capacity)
            self.process()
        except BaseException as exc:
            kind = type(exc)
            PyErr_SetObject(<PyObject*> kind, <PyObject*> exc)
            return -1
        return 0

    cdef int process(self) except -1:
        """New data is in OpenSSL's hands."""
        if self._state is WRAPPED:
            self.do_read()
        elif self._state is DO_HANDSHAKE:
            self._do_handshake()
        elif self._state is FLUSHING:
            self._do_flush()
        elif self._state is SHUTDOWN:
            self._do_shutdown()
        return 0

    def _read(self):
        self.do_read()

    cdef int do_read(self) except -1:
        if self._state is not WRAPPED and self._state is not FLUSHING:
            return 0
        try:
            if not self._app_reading_paused:
                if self._app_protocol_is_buffer:
                    self.read_into_buffer()
                elif self.ssl != NULL:
                    self.read_direct()
                else:
                    self.read_all()
                if self._write_backlog:
                    self._do_write()
                else:
                    self.send_out()
            self.control_reading()
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")
        return 0

    cdef int read_direct(self) except -1:
        """Give the protocol, in one piece, all that can be decrypted. Where OpenSSL has nothing, it is not asked."""
        cdef LoopCore loop = self.stream_loop
        cdef size_t room = lf_bio_pending(self.rbio)
        cdef size_t size = 0
        cdef size_t done = 0
        cdef Py_ssize_t capacity = 0
        cdef PyObject* data
        cdef int status
        cdef bint ended = False
        if lf_tls_has_pending(self.ssl):
            room += RECORD_SIZE
        if room == 0:
            return 0
        # Plain data is never longer than its records.
        data = receiving_bytes(loop, room, &capacity)
        if data == NULL:
            return propagate()
        lf_tls_forget_errors()
        try:
            while True:
                status = lf_tls_read(self.ssl, self.rbio, PyBytes_AS_STRING(data) + size, room - size, &done)
                if status <= 0:
                    break
                size += done
                if lf_bio_pending(self.rbio) == 0 and not lf_tls_has_pending(self.ssl):
                    break
                if size == room:
                    # Of something that is not encrypted. The rest comes in another piece.
                    self._loop.call_soon(self._do_read)
                    break
            if status < 0:
                # The end raises nothing, an error does.
                try:
                    ended = not self.ssl_read(RECORD_SIZE)
                except AGAIN:
                    pass
            if size:
                received_so_far(&data, size, &capacity)
                self.deliver(data)
        finally:
            if data != NULL:
                release_received(loop, data, capacity)
        if ended:
            # close_notify
            self._call_eof_received()
            self._start_shutdown()
        return 0

    cdef int deliver(self, PyObject* data) except -1:
        cdef PyObject* args[2]
        cdef PyObject* result
        # It may be replaced meanwhile, as the protocol may.
        cdef FastProtocol receiver = self.receiver
        if receiver is not None:
            if receiver.receive(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) < 0:
                return propagate()
            return 0
        protocol = self._app_protocol
        args[0] = <PyObject*> protocol
        args[1] = data
        result = PyObject_VectorcallMethod(<PyObject*> DATA_RECEIVED, args, 2, NULL)
        if result == NULL:
            return propagate()
        Py_DECREF(result)
        return 0

    cdef int read_all(self) except -1:
        """read_direct() of the portable engine."""
        cdef list chunks = None
        cdef bint ended = False
        first = None
        try:
            while True:
                chunk = self.ssl_read(RECORD_SIZE)
                if not chunk:
                    ended = True
                    break
                if first is None:
                    first = chunk
                elif chunks is None:
                    chunks = [first, chunk]
                else:
                    chunks.append(chunk)
                if len(chunk) < RECORD_SIZE and not self._incoming.pending:
                    break
        except AGAIN:
            pass
        if chunks is not None:
            first = b"".join(chunks)
        if first is not None:
            self.deliver(<PyObject*> first)
        if ended:
            # close_notify
            self._call_eof_received()
            self._start_shutdown()
        return 0

    cdef int read_into_buffer(self) except -1:
        """The same for a protocol that lends the memory."""
        cdef Py_ssize_t offset = 0
        cdef Py_ssize_t count = 1
        cdef Py_ssize_t size
        cdef Py_ssize_t lent_bytes = 0
        cdef size_t done = 0
        cdef char* base = NULL
        cdef int status = 1
        lent = self._app_protocol.get_buffer(self._incoming.pending)
        size = len(lent)
        if self.ssl != NULL and lf_plain_buffer(<PyObject*> lent, &base, &lent_bytes) and lent_bytes == size:
            lf_tls_forget_errors()
            while offset < size and status > 0:
                status = lf_tls_read(self.ssl, self.rbio, base + offset, size - offset, &done)
                if status > 0:
                    offset += done
        if status != 0 and offset < size:
            # The portable engine, or what the direct one leaves to _ssl: the end, and errors.
            try:
                # Of a bytearray each slice would be a copy.
                with memoryview(lent) as view:
                    while offset < size:
                        count = self.ssl_read(size - offset, view[offset:])
                        if count <= 0:
                            break
                        offset += count
            except AGAIN:
                pass
        lent = None
        if offset == size:
            if size:
                self._loop.call_soon(self._do_read)
            else:
                count = 0
        if offset > 0:
            self._app_protocol.buffer_updated(offset)
        if not count:
            self._call_eof_received()
            self._start_shutdown()
        return 0

    cdef int control_reading(self) except -1:
        cdef Py_ssize_t size
        if self.ssl != NULL:
            size = lf_bio_pending(self.rbio)
        else:
            size = self._incoming.pending
        if size >= self.incoming_high and not self._ssl_reading_paused:
            self._ssl_reading_paused = True
            self._transport.pause_reading()
        elif size <= self.incoming_low and self._ssl_reading_paused:
            self._ssl_reading_paused = False
            self._transport.resume_reading()
        return 0

    def _set_read_buffer_limits(self, high=None, low=None):
        InheritedProtocol._set_read_buffer_limits(self, high, low)
        # A mark may be any number; one beyond the address space is never reached.
        self.incoming_high = math.ceil(min(self._incoming_high_water, 1 << 62))
        self.incoming_low = math.floor(min(self._incoming_low_water, 1 << 62))

    # ------------------------------------------------------------------------------------------------- outgoing

    def _write(self, data):
        """``write()`` of the transport that the application has."""
        self.write_data(data)

    cdef int write_data(self, object data) except -1:
        cdef Py_buffer view
        if type(data) is not bytes and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if self.is_elsewhere():
            self._loop.call_soon_threadsafe(self._write, bytes(data))
            return 0
        if type(data) is bytes:
            return self.write_memory(data, PyBytes_AS_STRING(<PyObject*> data), PyBytes_GET_SIZE(<PyObject*> data))
        if type(data) is memoryview and not data.c_contiguous:
            # OpenSSL refuses it.
            self._write_appdata((data,))
            return 0
        if self.ssl == NULL:
            # It may wait, and the caller may change it meanwhile.
            return self.write_data(bytes(data))
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.write_memory(None, <char*> view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int write_memory(self, bytes data, const char* base, Py_ssize_t size) except -1:
        """Encrypt and send `size` bytes; `data`, if it is not None, holds them and nothing else."""
        cdef Py_ssize_t count
        cdef unsigned long before = self.inside
        if size == 0:
            return 0
        if self._state is not WRAPPED or self._write_backlog:
            self._write_appdata((base[:size] if data is None else data,))
            return 0
        self.inside = PyThread_get_thread_ident()
        try:
            if self.ssl != NULL and size < LARGE_WRITE:
                count = self.encrypt(base, size)
            else:
                count = self.encrypt_portably(base[:size] if data is None else data)
            if count < size:
                self._write_backlog.append(base[count:size])
                self._write_buffer_size += size - count
            self.send_out()
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")
        finally:
            self.inside = before
        return 0

    cdef Py_ssize_t encrypt(self, const char* base, Py_ssize_t size) except -1:
        """Return how many bytes OpenSSL has encrypted: fewer where it wants to read first."""
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t part
        cdef size_t done = 0
        while True:
            part = min(size - count, SLICE_SIZE)
            if lf_tls_write(self.ssl, base + count, part, &done):
                count += done
            else:
                try:
                    count += self.ssl_write(base[count:count + part])
                except AGAIN:
                    return count
            if count == size:
                return count
            self.drain()

    cdef Py_ssize_t encrypt_portably(self, bytes data) except -1:
        """encrypt() of the portable engine."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(<PyObject*> data)
        cdef Py_ssize_t count = 0
        try:
            if size <= SLICE_SIZE:
                return self.ssl_write(data)
            with memoryview(data) as view:
                while count < size:
                    count += self.ssl_write(view[count:count + SLICE_SIZE])
                    if count < size:
                        self.drain()
        except AGAIN:
            pass
        return count

    def _send(self):
        self.send_out()

    cdef int send_out(self) except -1:
        """Send what OpenSSL has written, unless the stream below is full."""
        return self.control_writing(self.drain())

    cdef Py_ssize_t drain(self) except -1:
        """Hand what OpenSSL has written to the stream below, unless that is full; return how many bytes stay."""
        cdef Py_ssize_t pending
        cdef char* place
        cdef PyObject* data
        if self.ssl == NULL:
            pending = self._outgoing.pending
            if pending and not self._ssl_writing_paused:
                self._transport.write(self.take())
                pending = self._outgoing.pending
            return pending
        pending = lf_bio_pending(self.wbio)
        while pending and not self._ssl_writing_paused:
            pending = min(pending, MOVED_BYTES)
            place = NULL
            if self.stream is not None and self._transport is self.stream:
                place = self.stream.reserve(pending)
            if place != NULL:
                lf_bio_read(self.wbio, place, <int> pending)
                # Nobody else is called.
                self.stream.commit(pending)
                return 0
            data = PyBytes_FromStringAndSize(NULL, pending)
            if data == NULL:
                return propagate()
            lf_bio_read(self.wbio, PyBytes_AS_STRING(data), <int> pending)
            encrypted = <object> data
            Py_DECREF(data)
            if self.stream is not None and self._transport is self.stream:
                self.stream.write_bytes(encrypted)
            else:
                self._transport.write(encrypted)
            pending = lf_bio_pending(self.wbio)
        return pending

    cdef int control_writing(self, Py_ssize_t pending) except -1:
        if self._write_buffer_size:
            pending += self._write_buffer_size
        if self._app_writing_paused:
            if pending <= self.outgoing_low:
                self._control_app_writing()
        elif pending >= self.outgoing_high:
            self._control_app_writing()
        return 0

    def _set_write_buffer_limits(self, high=None, low=None):
        InheritedProtocol._set_write_buffer_limits(self, high, low)
        self.outgoing_high = math.ceil(min(self._outgoing_high_water, 1 << 62))
        self.outgoing_low = math.floor(min(self._outgoing_low_water, 1 << 62))


class TLSProtocol(TLSEngine, InheritedProtocol):
    """asyncio's ``SSLProtocol`` with compiled hot paths."""

    # Only transports that are not native ask for its buffer.
    max_size = RECORD_SIZE

    def __init__(self, *args, **kwargs):
        # It is made when it is asked for.
        self.max_size = 0
        InheritedProtocol.__init__(self, *args, **kwargs)
        del self.max_size
        self._connect_engine()

    def _set_app_protocol(self, app_protocol):
        InheritedProtocol._set_app_protocol(self, app_protocol)
        self._connect_receiver()

    def _get_app_transport(self):
        transport = InheritedProtocol._get_app_transport(self)
        transport.__class__ = _SSLProtocolTransport
        return transport


class _SSLProtocolTransport(sslproto._SSLProtocolTransport):
    """The transport of a TLS connection: asyncio's own, but for `write`."""

    def write(self, data):
        """Encrypt *data*, a bytes-like object, and send it without blocking.

        Raises:
            TypeError: *data* is not bytes, bytearray or memoryview.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.WriteTransport.write
        """
        protocol = self._ssl_protocol
        if isinstance(protocol, TLSEngine):
            (<TLSEngine> protocol).write_data(data)
        else:
            protocol._write(data)

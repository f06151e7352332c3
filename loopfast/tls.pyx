"""TLS: asyncio's own ``SSLProtocol`` of the running version, with its hot paths compiled.

Handshake, shutdown, time limits, errors and all state changes are CPython's code. Here is what happens for each record:
encrypted bytes go from the stream's buffer into OpenSSL, plain bytes to the protocol, and the other way round, without
asking OpenSSL for what is not there (which it answers with an exception) and without buffers of the largest size.
"""

import ssl
from asyncio import sslproto

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject

from loopfast.core cimport LoopCore
from loopfast.includes.python cimport PyErr_SetObject, propagate
from loopfast.transports.base cimport FastProtocol, received_bytes, release_received

cdef enum:
    # Bytes of the longest record.
    RECORD_SIZE = 16384

cdef object DO_HANDSHAKE = sslproto.SSLProtocolState.DO_HANDSHAKE
cdef object WRAPPED = sslproto.SSLProtocolState.WRAPPED
cdef object FLUSHING = sslproto.SSLProtocolState.FLUSHING
cdef object SHUTDOWN = sslproto.SSLProtocolState.SHUTDOWN
cdef tuple AGAIN = sslproto.SSLAgainErrors
cdef object InheritedProtocol = sslproto.SSLProtocol
cdef object SSLObject = ssl.SSLObject


cdef class TLSEngine(FastProtocol):
    """The compiled part of `TLSProtocol`. Not for direct use."""

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

    def _connect_receiver(self):
        """Find out who takes the data for the application's protocol."""
        loop = self._loop
        self.receiver = (<LoopCore> loop).on_protocol(self._app_protocol) if isinstance(loop, LoopCore) else None

    # ------------------------------------------------------------------------------------------------- incoming

    cdef int receive(self, const char* data, Py_ssize_t size) noexcept:
        cdef Py_ssize_t capacity = 0
        cdef PyObject* payload
        try:
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
            self._do_read()
        elif self._state is DO_HANDSHAKE:
            self._do_handshake()
        elif self._state is FLUSHING:
            self._do_flush()
        elif self._state is SHUTDOWN:
            self._do_shutdown()
        return 0

    def _do_read(self):
        if self._state is not WRAPPED and self._state is not FLUSHING:
            return
        try:
            if not self._app_reading_paused:
                if self._app_protocol_is_buffer:
                    self.read_into_buffer()
                else:
                    self.read_all()
                if self._write_backlog:
                    self._do_write()
                else:
                    self.send_out()
            self.control_reading()
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")

    cdef int read_all(self) except -1:
        """Give the protocol, in one piece, all that can be decrypted."""
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
            self.deliver(b"".join(chunks))
        elif first is not None:
            self.deliver(first)
        if ended:
            # close_notify
            self._call_eof_received()
            self._start_shutdown()
        return 0

    cdef int deliver(self, bytes data) except -1:
        # It may be replaced meanwhile.
        cdef FastProtocol receiver = self.receiver
        if receiver is None:
            self._app_protocol.data_received(data)
        elif receiver.receive(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) < 0:
            return propagate()
        return 0

    cdef int read_into_buffer(self) except -1:
        """The same for a protocol that lends the memory."""
        cdef Py_ssize_t offset = 0
        cdef Py_ssize_t count = 1
        cdef Py_ssize_t size
        lent = self._app_protocol.get_buffer(self._incoming.pending)
        size = len(lent)
        try:
            # Of a bytearray each slice would be a copy.
            with memoryview(lent) as view:
                while offset < size:
                    count = self.ssl_read(size - offset, view[offset:])
                    if count <= 0:
                        break
                    offset += count
                else:
                    if size:
                        self._loop.call_soon(self._do_read)
                    else:
                        count = 0
        except AGAIN:
            pass
        if offset > 0:
            self._app_protocol.buffer_updated(offset)
        if not count:
            self._call_eof_received()
            self._start_shutdown()
        return 0

    cdef int control_reading(self) except -1:
        size = self._incoming.pending
        if size >= self._incoming_high_water and not self._ssl_reading_paused:
            self._ssl_reading_paused = True
            self._transport.pause_reading()
        elif size <= self._incoming_low_water and self._ssl_reading_paused:
            self._ssl_reading_paused = False
            self._transport.resume_reading()
        return 0

    # ------------------------------------------------------------------------------------------------- outgoing

    def _write(self, data):
        """``write()`` of the transport that the application has."""
        cdef Py_ssize_t count
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
            if type(data) is not memoryview or data.c_contiguous:
                # It may wait, and the caller may change it meanwhile.
                data = bytes(data)
            else:
                # OpenSSL refuses it.
                self._write_appdata((data,))
                return
        if PyBytes_GET_SIZE(data) == 0:
            return
        if self._state is not WRAPPED or self._write_backlog:
            self._write_appdata((data,))
            return
        try:
            try:
                count = self.ssl_write(data)
            except AGAIN:
                count = 0
            if count < PyBytes_GET_SIZE(data):
                self._write_backlog.append(data[count:])
                self._write_buffer_size += PyBytes_GET_SIZE(data) - count
            self.send_out()
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")

    def _process_outgoing(self):
        self.send_out()

    cdef int send_out(self) except -1:
        """Send what OpenSSL has written, unless the stream below is full."""
        cdef Py_ssize_t pending = self._outgoing.pending
        if pending and not self._ssl_writing_paused:
            self._transport.write(self.take())
            pending = self._outgoing.pending
        return self.control_writing(pending)

    cdef int control_writing(self, Py_ssize_t pending) except -1:
        if self._app_writing_paused:
            if self._write_buffer_size + pending <= self._outgoing_low_water:
                self._control_app_writing()
        elif self._write_buffer_size + pending >= self._outgoing_high_water:
            self._control_app_writing()
        return 0


class TLSProtocol(TLSEngine, InheritedProtocol):
    """asyncio's ``SSLProtocol`` with compiled hot paths."""

    # Only transports that are not native ask for its buffer.
    max_size = RECORD_SIZE

    def __init__(self, *args, **kwargs):
        InheritedProtocol.__init__(self, *args, **kwargs)
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
        self._ssl_protocol._write(data)

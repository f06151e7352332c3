# TLS over any stream transport: the hot half of asyncio's SSLProtocol.

from cpython.object cimport PyObject

from loopfast.transports.base cimport FastProtocol
from loopfast.transports.stream cimport StreamTransport


cdef class TLSEngine(FastProtocol):
    # What asyncio's SSLProtocol stores on itself and the hot paths read, under the same names.
    cdef public object _state, _conn_lost
    cdef public object _sslobj, _incoming, _outgoing
    cdef public object _transport, _app_protocol, _app_protocol_is_buffer
    cdef public object _write_backlog, _write_buffer_size, _outgoing_high_water, _outgoing_low_water
    cdef public object _ssl_writing_paused, _app_writing_paused
    cdef public object _incoming_high_water, _incoming_low_water
    cdef public object _app_reading_paused, _ssl_reading_paused
    cdef:
        # The transport below, if it is a native one.
        StreamTransport stream
        # Portable engine: bound methods of the connection that _ssl made, and of its two memory BIOs. The direct one
        # needs them where OpenSSL reports anything but data.
        object ssl_read
        object ssl_write
        object feed
        object take
        # Takes the data for the application's protocol; None if data_received() does.
        FastProtocol receiver
        # Direct engine: OpenSSL's SSL and its BIOs, which live as long as `connection` (owned); NULL: the portable one.
        void* ssl
        void* rbio
        void* wbio
        PyObject* connection
        # The thread that is in OpenSSL, or in what it calls, with this connection; 0: none.
        unsigned long inside
        # The water marks as C integers.
        Py_ssize_t incoming_high, incoming_low, outgoing_high, outgoing_low

    cdef int go_direct(self, object connection) except -1
    cdef bint is_elsewhere(self) noexcept
    cdef int take_step(self, object state, object step) except -1
    cdef int process(self) except -1
    cdef int do_read(self) except -1
    cdef int read_all(self) except -1
    cdef int read_direct(self) except -1
    cdef int deliver(self, PyObject* data) except -1
    cdef int read_into_buffer(self) except -1
    cdef int control_reading(self) except -1
    cdef int write_data(self, object data) except -1
    cdef int write_memory(self, bytes data, const char* base, Py_ssize_t size) except -1
    cdef Py_ssize_t encrypt(self, const char* base, Py_ssize_t size) except -1
    cdef Py_ssize_t encrypt_portably(self, bytes data) except -1
    cdef int send_out(self) except -1
    cdef Py_ssize_t drain(self) except -1
    cdef int control_writing(self, Py_ssize_t pending) except -1

# TLS over any stream transport: the hot half of asyncio's SSLProtocol.

from loopfast.transports.base cimport FastProtocol


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
        # Bound methods of OpenSSL's connection and of its two memory BIOs.
        object ssl_read
        object ssl_write
        object feed
        object take
        # Takes the data for the application's protocol; None if data_received() does.
        FastProtocol receiver

    cdef int process(self) except -1
    cdef int deliver(self, bytes data) except -1
    cdef int read_all(self) except -1
    cdef int read_into_buffer(self) except -1
    cdef int send_out(self) except -1
    cdef int control_writing(self, Py_ssize_t pending) except -1
    cdef int control_reading(self) except -1

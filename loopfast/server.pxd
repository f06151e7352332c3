# The listening side of a server: accepts, and hands each connection up through LoopCore.on_connection().

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from loopfast.core cimport LoopCore
from loopfast.handles.poll cimport UVPoll


cdef class Listener(UVPoll):
    cdef:
        # What every connection is made with.
        object protocol_factory
        object server
        # The TLS context and the limits of handshake and shutdown in seconds; None: connections are plain.
        tuple tls
        # The listening socket: the Server's, which closes it after close().
        object sock
        int backlog
        # The last time one connection waited and no more.
        bint comes_singly
        # The turn in which one was accepted without a look whether more wait.
        uint64_t looked_once
        # The last turn in which connections with TLS were accepted, and its time in libuv's milliseconds.
        uint64_t handshakes_turn, handshakes_at
        # The name of every connection's own end; None where the socket listens on all addresses.
        object local_name
        # The context the server was started in (owned); each connection gets a copy.
        PyObject* context
        # asyncio of 3.15 gave it: a connection's callbacks all run in the connection's copy.
        bint shares_context
        # Pending while accepting pauses for lack of descriptors or memory.
        object retry

    cdef int start(self, LoopCore loop, object sock, object protocol_factory, object server, tuple tls, int backlog,
                   object context) except -1
    cdef int handshakes_due(self) noexcept
    cdef int pause(self, int error) except -1
    cdef int report_error(self, int error, str message) except -1
    cdef int stop(self) except -1

# A connected stream socket as asyncio's users see it.

from loopfast.core cimport LoopCore
from loopfast.includes.socket cimport lf_ip_address, sockaddr_storage
from loopfast.transports.stream cimport StreamTransport


cdef class SocketStream(StreamTransport):
    cdef:
        # The peer as accept() reported it (0: not known); of other families than IP no more than the family.
        lf_ip_address peer
        # Its own end, looked up when the connection is closed (family 0: not yet, or its name is known).
        lf_ip_address local

    cdef int open_socket(self, LoopCore loop, int fd, int family, object sock) except -1


cdef class AcceptedSocket:
    cdef:
        # -1: somebody else has it.
        int fd
        int length
        sockaddr_storage peer
        LoopCore loop
        object server, local_name

    cdef SocketStream open(self, object protocol, object context)
    cdef void close(self) noexcept


# What accept() gave; it owns the descriptor, also if this raises.
cdef AcceptedSocket accepted_socket(
    LoopCore loop, int fd, sockaddr_storage* peer, int length, object server, object local_name
)
# The transport of an accepted connection; its descriptor belongs to the transport, also if this raises.
cdef SocketStream accepted_transport(
    LoopCore loop, int fd, sockaddr_storage* peer, int length, object protocol, object server, object local_name,
    object context
)
# The transport of a connected socket object, whose descriptor it takes over unless this raises.
cdef SocketStream socket_transport(
    LoopCore loop, object sock, object protocol, object waiter, dict extra, object server, object context
)

# A datagram endpoint over IPv4 or IPv6.

from cpython.object cimport PyObject

from loopfast.core cimport LoopCore
from loopfast.includes cimport uv
from loopfast.includes.socket cimport lf_ip_address, lf_known_address, sockaddr
from loopfast.transports.base cimport NativeTransport


cdef enum:
    KNOWN_ADDRESSES = 32


cdef class DatagramEndpoint(NativeTransport):
    cdef:
        # The address of create_datagram_endpoint(remote_addr=...), or None; and whether the kernel knows it.
        object address
        bint connected

        # Datagrams of one read: room lent, how many came, and whether that was all the kernel had.
        int room
        int received
        bint drained

        # Addresses met of late, in both forms, by their slot: a name is made once for many datagrams. The names are
        # owned: `name` as Python's socket module writes it, `given` as sendto() got it; NULL where not met. `peer` is
        # the one met last, in the table; NULL: none yet.
        lf_known_address[KNOWN_ADDRESSES] known
        lf_known_address* peer

        # Bytes (with headers, as asyncio counts them) and number of the datagrams that wait in libuv's queue.
        size_t queued
        int waiting
        # (size, status) of those that have left while the loop was deferring, or None.
        list left
        # Why libuv watches the socket no more, told while the loop was deferring. 0 if it does.
        int unwatched

    cdef int open_endpoint(self, LoopCore loop, object sock) except -1
    cdef int send(self, const char* data, Py_ssize_t size, object data_object, object address) except -1
    cdef int fail_write(self, object exception) except -1
    cdef int find_address(self, object address) except -1
    cdef int queue(self, const char* data, Py_ssize_t size, object data_object) except -1
    cdef PyObject* name_of(self, const sockaddr* address) except NULL
    cdef int remember(self, lf_ip_address* raw, int length, object name, object given) except -1
    cdef int on_error(self, object exception) except -1
    cdef int on_sent(self, size_t size, int status) except -1
    cdef int deliver(self, const char* data, Py_ssize_t size, const sockaddr* address) except -1


# The transport of the datagram socket `sock`, which it takes over unless this raises.
cdef DatagramEndpoint datagram_transport(
    LoopCore loop, object sock, object protocol, object address, object waiter, dict extra
)

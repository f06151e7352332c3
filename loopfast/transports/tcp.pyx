"""A connected stream socket as asyncio's users see it: names of both ends, socket object, half-close."""

import os
import socket
from _socket import socket as CoreSocket
from asyncio import constants, transports

cimport cython
from cpython.object cimport PyObject
from libc.string cimport memcpy

from loopfast.core cimport LoopCore
from loopfast.includes cimport uv
from loopfast.includes.python cimport Py_DECREF, PyTypeObject, propagate
from loopfast.includes.socket cimport (
    AF_INET, AF_INET6, lf_address, lf_check_stream, lf_close_socket, lf_ip_address, lf_local_address, lf_peer_address,
    lf_show_address, lf_shutdown_write, sockaddr_storage,
)
from loopfast.transports.base cimport end_name
from loopfast.transports.stream cimport StreamTransport

cdef tuple NO_ARGUMENTS = ()
# The number alone: the attribute of socket.socket makes a member of an enumeration of it each time.
cdef object family_of = CoreSocket.family.__get__
cdef object Socket = socket.socket


@cython.no_gc_clear
cdef class SocketStream(StreamTransport):
    """The compiled part of `TCPTransport`. Not for direct use."""

    cdef int open_socket(self, LoopCore loop, int fd, int family, object sock) except -1:
        """Take over the connected *fd*; where this raises, it still belongs to the caller."""
        loop.reserve_descriptor(fd)
        loop.on_descriptor_claimed(fd)
        self.open_stream(loop, fd)
        self.peer.any.sa_family = family
        self.claim(loop, fd, sock)
        if family == AF_INET or family == AF_INET6:
            # Small writes leave at once. A socket that cannot do this (a lost connection) shows it at the next read.
            uv.uv_tcp_nodelay(<uv.uv_tcp_t*> self.handle, 1)
        return 0

    cdef object socket_object(self):
        if self.sock is None and self.handle != NULL:
            self.hold_socket(socket.socket(self.peer.any.sa_family, socket.SOCK_STREAM, -1, self.fd))
        return self.sock

    cdef int family(self) except -1:
        return self.peer.any.sa_family

    cdef int release_socket(self) except -1:
        # Somebody may ask once it is closed.
        if self.sockname is None and not self.local.any.sa_family and self.handle != NULL:
            if lf_local_address(self.fd, &self.local) < 0:
                self.sockname = end_name(self.socket_object().getsockname)
        return StreamTransport.release_socket(self)

    cdef object own_name(self):
        cdef char host[64]
        cdef int port = 0
        cdef unsigned int flow = 0
        cdef unsigned int scope = 0
        if not self.local.any.sa_family:
            return StreamTransport.own_name(self)
        lf_show_address(&self.local.any, host, sizeof(host), &port, &flow, &scope)
        name = (host.decode("ascii"), port)
        return name + (flow, scope) if self.local.any.sa_family == AF_INET6 else name

    cdef int shut_down_writing(self) except -1:
        cdef int status = lf_shutdown_write(self.fd)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        return 0

    cdef object name_of_peer(self):
        cdef char host[64]
        cdef int port
        if lf_address(&self.peer.any, host, sizeof(host), &port) == 0 and port != 0:
            if self.peer.any.sa_family == AF_INET:
                return (host.decode("ascii"), port)
            return (host.decode("ascii"), port, 0, 0)
        return StreamTransport.name_of_peer(self)


class _Replaceable:
    """An attribute that is computed until somebody sets it on the transport, as test suites of frameworks do."""

    def __init__(self, compute):
        self.compute = compute

    def __get__(self, transport, owner=None):
        return self if transport is None else self.compute(transport)


cdef object user_socket(SocketStream transport):
    return transport.socket_object()


cdef object read_callback(SocketStream transport):
    if transport.protocol is None:
        return None
    if transport.buffered or transport.receiver is transport.protocol:
        return transport.protocol.buffer_updated
    return transport.protocol.data_received


class _StreamInterface(transports._FlowControlMixin):
    """What `TCPTransport` is to ``isinstance``: asyncio's fallback for sendfile asks for the mixin, everybody else for
    ``asyncio.Transport``. A C layout cannot inherit from either, as both have slots."""

    __slots__ = ()


_StreamInterface.__name__ = _StreamInterface.__qualname__ = "TCPTransport"


class TCPTransport(SocketStream):
    """The transport of a TCP (or UNIX) stream connection: an ``asyncio.Transport`` to ``isinstance``.

    Attributes can be set and methods replaced, as on asyncio's own transports.
    """

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE
    _sock = _Replaceable(user_socket)
    _read_ready_cb = _Replaceable(read_callback)

    @property
    def __class__(self):
        return _StreamInterface


cdef object made_kind = TCPTransport


cdef SocketStream new_transport():
    """Return a `TCPTransport` that is not open, without the lookups of a call from Python."""
    cdef PyTypeObject* kind = <PyTypeObject*> made_kind
    cdef PyObject* made = kind.tp_new(kind, <PyObject*> NO_ARGUMENTS, NULL)
    if made == NULL:
        propagate()
    transport = <SocketStream> made
    Py_DECREF(made)
    return transport


cdef SocketStream accepted_transport(
    LoopCore loop, int fd, sockaddr_storage* peer, int length, object protocol, object server, object local_name,
    object context
):
    cdef SocketStream transport
    try:
        transport = new_transport()
        transport.open_socket(loop, fd, peer.ss_family, None)
    except BaseException:
        lf_close_socket(fd)
        raise
    memcpy(&transport.peer, peer, min(length, <int> sizeof(lf_ip_address)))
    transport.open_transport(loop, protocol, server, None, context)
    transport.sockname = local_name
    transport.start(None)
    return transport


@cython.final
@cython.no_gc_clear
@cython.freelist(16)
cdef class AcceptedSocket:
    """A connection that a server has accepted and nobody serves yet: closed with this object, which lives as long as
    the handshake. Not for direct use."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        self.close()
        if self.loop is not None:
            self.loop.handshakes -= 1

    cdef void close(self) noexcept:
        if self.fd >= 0:
            lf_close_socket(self.fd)
            self.fd = -1

    cdef SocketStream open(self, object protocol, object context):
        """Return its transport, which has the descriptor from now on, also if this raises."""
        cdef int fd = self.fd
        if fd < 0:
            raise RuntimeError(f"{self!r} has no connection any more")
        self.fd = -1
        return accepted_transport(
            self.loop, fd, &self.peer, self.length, protocol, self.server, self.local_name, context)


cdef AcceptedSocket accepted_socket(
    LoopCore loop, int fd, sockaddr_storage* peer, int length, object server, object local_name
):
    cdef AcceptedSocket accepted
    try:
        accepted = AcceptedSocket.__new__(AcceptedSocket)
    except BaseException:
        lf_close_socket(fd)
        raise
    accepted.fd = fd
    accepted.length = length
    accepted.peer = peer[0]
    accepted.loop = loop
    loop.handshakes += 1
    accepted.server = server
    accepted.local_name = local_name
    return accepted


cdef bint tells_its_ends(object sock) except -1:
    """Return True if what the kernel says of *sock* is what its methods say, which a program may have replaced."""
    return (
        type(sock) is Socket
        and Socket.getsockname is CoreSocket.getsockname
        and Socket.getpeername is CoreSocket.getpeername
    )


cdef SocketStream socket_transport(
    LoopCore loop, object sock, object protocol, object waiter, dict extra, object server, object context
):
    cdef SocketStream transport = new_transport()
    cdef int fd = sock.fileno()
    # libuv aborts the process on a descriptor that cannot be polled.
    cdef int status = lf_check_stream(fd)
    if status < 0:
        raise OSError(-status, f"{os.strerror(-status)}: {sock!r}")
    cdef int family = family_of(sock)
    transport.open_socket(loop, fd, family, sock)
    transport.open_transport(loop, protocol, server, extra, context)
    # A client wants to know its ends after the connection is lost, too. An address of IPv4 is kept as it is, and shown
    # to whom asks for it.
    cdef bint is_kept = family == AF_INET and tells_its_ends(sock)
    if not is_kept or lf_local_address(fd, &transport.local) < 0:
        transport.sockname = end_name(sock.getsockname)
    if not is_kept or lf_peer_address(fd, &transport.peer) < 0:
        transport.peername = end_name(sock.getpeername)
    transport.start(waiter)
    return transport

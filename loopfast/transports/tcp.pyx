"""A connected stream socket as asyncio's users see it: names of both ends, socket object, half-close."""

import os
import socket
from asyncio import constants, transports, trsock

cimport cython
from libc.string cimport memcpy

from loopfast.core cimport LoopCore
from loopfast.includes cimport uv
from loopfast.includes.socket cimport (
    AF_INET, AF_INET6, lf_address, lf_check_stream, lf_close_socket, lf_shutdown_write, sockaddr_storage,
)
from loopfast.transports.stream cimport StreamTransport


@cython.no_gc_clear
cdef class SocketStream(StreamTransport):
    """The compiled part of `TCPTransport`. Not for direct use."""

    def __cinit__(self):
        self.fd = -1

    cdef int open_socket(self, LoopCore loop, int fd, int family, object sock) except -1:
        """Take over the connected *fd*; where this raises, it still belongs to the caller."""
        self.open_stream(loop, fd)
        self.fd = fd
        self.sock = sock
        self.peer.ss_family = family
        loop.claim_descriptor(fd, self)
        if family == AF_INET or family == AF_INET6:
            # Small writes leave at once. A socket that cannot do this (a lost connection) shows it at the next read.
            uv.uv_tcp_nodelay(<uv.uv_tcp_t*> self.handle, 1)
        return 0

    cdef object socket_object(self):
        if self.sock is None and self.handle != NULL:
            self.sock = socket.socket(self.peer.ss_family, socket.SOCK_STREAM, -1, self.fd)
        return self.sock

    cdef int release_socket(self) except -1:
        if self.fd >= 0:
            self.loop.release_descriptor(self.fd, self)
        if self.sock is not None:
            self.sock.detach()
            self.sock = None
        return 0

    cdef void on_loop_close(self) noexcept:
        try:
            self.release_socket()
        except Exception as exc:
            self.loop.fail(exc)
        self.closing = True
        self.close_handle()

    cdef int shut_down_writing(self) except -1:
        cdef int status = lf_shutdown_write(self.fd)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        return 0

    def get_extra_info(self, name, default=None):
        """Return what is known of the connection under *name*.

        Args:
            name: ``"socket"``, ``"sockname"``, ``"peername"``, or what the transport was made with.
            default: returned for an unknown name.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.BaseTransport.get_extra_info
        """
        if self.extra is not None and name in self.extra:
            return self.extra[name]
        if name == "peername":
            if self.peername is None and self.handle != NULL:
                self.peername = self.address_of_peer()
            return self.peername
        if name == "sockname":
            if self.sockname is None and self.handle != NULL:
                self.sockname = end_name(self.socket_object().getsockname)
            return self.sockname
        if name == "socket":
            if self.handle == NULL:
                return default
            # Whoever holds the socket may look at what is on the wire.
            self.flush()
            return trsock.TransportSocket(self.socket_object())
        return default

    cdef object address_of_peer(self):
        cdef char host[64]
        cdef int port
        if lf_address(&self.peer, host, sizeof(host), &port) == 0 and port != 0:
            if self.peer.ss_family == AF_INET:
                return (host.decode("ascii"), port)
            return (host.decode("ascii"), port, 0, 0)
        return end_name(self.socket_object().getpeername)

    @property
    def _extra(self):
        names = {name: self.get_extra_info(name) for name in ("socket", "sockname", "peername")}
        return {**names, **(self.extra or {})}

    @property
    def _sock_fd(self):
        return self.fd

    @property
    def _server(self):
        return self.server

    def __repr__(self):
        info = [type(self).__name__]
        if self.handle == NULL:
            info.append("closed")
        elif self.closing:
            info.append("closing")
        info.append(f"fd={self.fd}")
        if self.handle != NULL:
            info.append(f"read={'polling' if self.reading else 'idle'}")
            info.append(f"write=<{'polling' if self.in_flight else 'idle'}, bufsize={self.unsent()}>")
        return f"<{' '.join(info)}>"


cdef object end_name(object ask):
    """Call getsockname() or getpeername(); None where the connection is gone."""
    try:
        return ask()
    except OSError:
        return None


class _Replaceable:
    """An attribute that is computed until somebody sets it on the transport, as test suites of frameworks do."""

    def __init__(self, compute):
        self.compute = compute

    def __get__(self, transport, owner=None):
        return self if transport is None else self.compute(transport)


cdef object user_socket(SocketStream transport):
    return transport.socket_object()


cdef object read_callback(SocketStream transport):
    return None if transport.protocol is None else transport.protocol.data_received


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


cdef SocketStream accepted_transport(
    LoopCore loop, int fd, sockaddr_storage* peer, int length, object protocol, object server, object context
):
    cdef SocketStream transport = TCPTransport.__new__(TCPTransport)
    try:
        transport.open_socket(loop, fd, peer.ss_family, None)
    except BaseException:
        lf_close_socket(fd)
        raise
    memcpy(&transport.peer, peer, min(length, <int> sizeof(sockaddr_storage)))
    transport.open_transport(loop, protocol, server, None, context)
    transport.start(None)
    return transport


cdef SocketStream socket_transport(
    LoopCore loop, object sock, object protocol, object waiter, dict extra, object server, object context
):
    cdef SocketStream transport = TCPTransport.__new__(TCPTransport)
    cdef int fd = sock.fileno()
    # libuv aborts the process on a descriptor that cannot be polled.
    cdef int status = lf_check_stream(fd)
    if status < 0:
        raise OSError(-status, f"{os.strerror(-status)}: {sock!r}")
    transport.open_socket(loop, fd, sock.family, sock)
    transport.open_transport(loop, protocol, server, extra, context)
    # A client wants to know its ends after the connection is lost, too.
    transport.sockname = end_name(sock.getsockname)
    transport.peername = end_name(sock.getpeername)
    transport.start(waiter)
    return transport

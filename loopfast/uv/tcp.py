"""libuv's chapter "TCP handle"."""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import IntFlag
from typing import Any, TypeVar

from loopfast.uv._address import Address, as_sockaddr, make_address, name_of
from loopfast.uv._base import BaseLoop, callable_or_none, descriptor, whole_number
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check
from loopfast.uv.stream import ConnectRequest, Stream

__all__ = ["TCP", "TCPFlag", "socketpair"]

_ON_CONNECT = ffi.addressof(lib, "loopfast_on_connect")
_ON_CLOSE = ffi.addressof(lib, "loopfast_on_close")
_MOST = 0xFFFFFFFF
_Self = TypeVar("_Self", bound="TCP")


class TCPFlag(IntFlag):
    """uv_tcp_flags, for `TCP.bind()`."""

    #: An IPv6 address takes no IPv4 connections.
    IPV6ONLY = lib.UV_TCP_IPV6ONLY
    #: Several sockets may have this address, and the kernel spreads connections over them; not on every system.
    REUSEPORT = lib.UV_TCP_REUSEPORT


class TCP(Stream):
    """A TCP connection or server (uv_tcp_t).

    Arguments:
        loop: the loop it belongs to.
        family: AF_INET or AF_INET6 makes the socket at once (uv_tcp_init_ex); by default it is made when needed.
    """

    _c_type = "uv_tcp_t"

    def __init__(self, loop: BaseLoop, family: int = socket.AF_UNSPEC) -> None:
        if family == socket.AF_UNSPEC:
            self._create(loop, lib.uv_tcp_init)
        else:
            self._create(loop, lib.uv_tcp_init_ex, whole_number(family, "family", 0xFF))

    def _peer(self) -> TCP:
        return TCP(self.loop)

    def open(self, sock: int | socket.socket) -> None:
        """Take over a socket (uv_tcp_open): a descriptor, which is the handle's from now on, or `sock.detach()`.

        A `socket.socket` is detached once libuv has it.

        Raises:
            OSError: EEXIST, the loop has it already; ENOTSOCK, it is none.
        """
        handle = self._use()
        number = descriptor(sock)
        # libuv would take any descriptor, and fail later.
        with socket.socket(fileno=number) as probe:
            probe.detach()
        self.loop._refuse_taken(number)
        check(lib.uv_tcp_open(handle, number))
        if isinstance(sock, socket.socket):
            sock.detach()

    def nodelay(self, enable: bool) -> None:
        """Send small writes at once, or gather them (TCP_NODELAY; uv_tcp_nodelay)."""
        check(lib.uv_tcp_nodelay(self._use(), bool(enable)))

    def keepalive(self, enable: bool, delay: int = 60, interval: int | None = None, count: int | None = None) -> None:
        """Probe an idle connection (uv_tcp_keepalive, with `interval` and `count` uv_tcp_keepalive_ex).

        Arguments:
            delay: seconds until the first probe.
            interval: seconds between probes.
            count: probes without an answer after which the connection is broken.

        Raises:
            OSError: ENOSYS, this libuv is older than 1.52 and has no interval and count.
        """
        handle, delay = self._use(), whole_number(delay, "delay", _MOST)
        if interval is None and count is None:
            check(lib.uv_tcp_keepalive(handle, bool(enable), delay))
            return
        gap, number = whole_number(interval or 1, "interval", _MOST), whole_number(count or 10, "count", _MOST)
        check(lib.uv_tcp_keepalive_ex(handle, bool(enable), delay, gap, number))

    def simultaneous_accepts(self, enable: bool) -> None:
        """Let the system queue several accepts (uv_tcp_simultaneous_accepts; Windows, elsewhere without effect)."""
        check(lib.uv_tcp_simultaneous_accepts(self._use(), bool(enable)))

    def bind(self, address: Address, flags: TCPFlag | int = 0) -> None:
        """Give it a local address (uv_tcp_bind).

        Arguments:
            address: `(host, port)` with a numeric host; port 0 lets the system choose.

        Raises:
            ValueError, OverflowError: the host is no numeric address, the port is out of range.
            OSError: the system refused. That the address is in use is told by `listen()` or `connect()`.
        """
        storage = make_address(address)
        check(lib.uv_tcp_bind(self._use(), as_sockaddr(storage), int(TCPFlag(flags))))

    def getsockname(self) -> tuple[Any, ...]:
        """The local address (uv_tcp_getsockname): (host, port), of IPv6 (host, port, flowinfo, scope_id)."""
        name: tuple[Any, ...] = name_of(lib.uv_tcp_getsockname, self._use())
        return name

    def getpeername(self) -> tuple[Any, ...]:
        """The other end's address (uv_tcp_getpeername).

        Raises:
            OSError: ENOTCONN, it is not connected.
        """
        name: tuple[Any, ...] = name_of(lib.uv_tcp_getpeername, self._use())
        return name

    def connect(
        self: _Self, address: Address, callback: Callable[[_Self, Exception | None], object] | None = None
    ) -> ConnectRequest:
        """Connect (uv_tcp_connect).

        Arguments:
            address: `(host, port)` with a numeric host.
            callback: called as `callback(tcp, error)`.

        Raises:
            ValueError, OverflowError: the host is no numeric address, the port is out of range.
            OSError: EALREADY, it is connecting; others go to the callback.
            RuntimeError: the handle is closed.
        """
        storage = make_address(address)
        return self._begin_connect(lib.uv_tcp_connect, callback, as_sockaddr(storage), _ON_CONNECT, keep=storage)

    def close_reset(self: _Self, callback: Callable[[_Self], object] | None = None) -> None:
        """Close with a reset instead of an orderly end (uv_tcp_close_reset).

        Raises:
            OSError: EINVAL, a `shutdown()` is under way.
            RuntimeError: the handle is closed.
        """
        handle = self._use()
        callable_or_none(callback)
        cell = self._cell
        assert cell is not None
        check(lib.uv_tcp_close_reset(handle, _ON_CLOSE))
        cell.closing = True
        cell.on_close = callback
        cell.kept = self


def socketpair(kind: int = socket.SOCK_STREAM, protocol: int = 0, flags0: int = 0, flags1: int = 0) -> tuple[int, int]:
    """Two connected sockets (uv_socketpair), as descriptors that the caller closes or gives to `open()`.

    Arguments:
        kind: SOCK_STREAM or SOCK_DGRAM.
        flags0, flags1: UV_NONBLOCK_PIPE (0x40) for a non-blocking end.
    """
    pair = ffi.new("uv_os_sock_t[2]")
    check(lib.uv_socketpair(kind, protocol, pair, flags0, flags1))
    return int(pair[0]), int(pair[1])

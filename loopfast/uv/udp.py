"""libuv's chapter "UDP handle"."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from typing import Any, TypeVar

from loopfast.uv._address import Address, as_sockaddr, make_address, name_of, read_address
from loopfast.uv._base import BaseLoop, Cell, checked_callable, descriptor, from_libuv, whole_number
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check, error
from loopfast.uv.handle import Handle
from loopfast.uv.stream import Data, StreamRequest, buffers

__all__ = ["UDP", "Membership", "UDPFlag", "UDPSendRequest"]

_ON_ALLOC = ffi.addressof(lib, "loopfast_on_udp_alloc")
_ON_RECV = ffi.addressof(lib, "loopfast_on_udp_recv")
_ON_SEND = ffi.addressof(lib, "loopfast_on_udp_send")
#: libuv reads so many datagrams at once at most, each into room of 64 KiB.
_DATAGRAMS, _DATAGRAM = 20, 64 * 1024
_Self = TypeVar("_Self", bound="UDP")


class UDPFlag(IntFlag):
    """uv_udp_flags, of `bind()` and of what is received."""

    #: `bind()`: an IPv6 address takes no IPv4 datagrams.
    IPV6ONLY = lib.UV_UDP_IPV6ONLY
    #: Received: the datagram was longer than the buffer of 64 KiB.
    PARTIAL = lib.UV_UDP_PARTIAL
    #: `bind()`: others may have the address, too; the last one gets the datagrams.
    REUSEADDR = lib.UV_UDP_REUSEADDR
    #: Received: one of several datagrams of one read.
    MMSG_CHUNK = lib.UV_UDP_MMSG_CHUNK
    #: `bind()`: report errors that the network sends back (Linux).
    LINUX_RECVERR = lib.UV_UDP_LINUX_RECVERR
    #: `bind()`: others may have the address, too, and the kernel spreads datagrams over them; not on every system.
    REUSEPORT = lib.UV_UDP_REUSEPORT


class Membership(IntEnum):
    """uv_membership."""

    LEAVE_GROUP = lib.UV_LEAVE_GROUP
    JOIN_GROUP = lib.UV_JOIN_GROUP


class UDPSendRequest(StreamRequest):
    """A datagram being sent (uv_udp_send_t)."""

    _c_type = "uv_udp_send_t"


class UDP(Handle):
    """A UDP socket (uv_udp_t).

    Arguments:
        loop: the loop it belongs to.
        family: AF_INET or AF_INET6 makes the socket at once (uv_udp_init_ex); by default it is made when needed.
        recvmmsg: read several datagrams with one system call, where the system can; takes 1.25 MiB of memory.
    """

    _c_type = "loopfast_udp_t"

    def __init__(self, loop: BaseLoop, family: int = socket.AF_UNSPEC, recvmmsg: bool = False) -> None:
        flags = whole_number(family, "family", 0xFF) | (lib.UV_UDP_RECVMMSG if recvmmsg else 0)

        def initialise(pointer: Any, memory: Any) -> int:
            handle = ffi.addressof(memory, "handle")
            status = lib.uv_udp_init_ex(pointer, handle, flags) if flags else lib.uv_udp_init(pointer, handle)
            return int(status)

        cell = self._create(loop, initialise)
        cell.typed = ffi.addressof(cell.memory, "handle")
        if self.using_recvmmsg:
            cell.extra = ffi.new("char[]", _DATAGRAMS * _DATAGRAM)
            cell.memory.bulk, cell.memory.bulk_size = cell.extra, len(cell.extra)

    def open(self, sock: int | socket.socket, flags: UDPFlag | int = 0) -> None:
        """Take over a socket (uv_udp_open): a descriptor, which is the handle's from now on, or `sock.detach()`.

        A `socket.socket` is detached once libuv has it.

        Arguments:
            flags: REUSEADDR or REUSEPORT, to be set on it (uv_udp_open_ex).

        Raises:
            OSError: EBUSY, the handle has one; ENOTSOCK, it is none; ENOSYS, flags need libuv 1.52.
        """
        handle, number = self._use(), descriptor(sock)
        with socket.socket(fileno=number) as probe:
            probe.detach()
        self.loop._refuse_taken(number)
        if flags:
            check(lib.uv_udp_open_ex(handle, number, int(UDPFlag(flags))))
        else:
            check(lib.uv_udp_open(handle, number))
        if isinstance(sock, socket.socket):
            sock.detach()

    def bind(self, address: Address, flags: UDPFlag | int = 0) -> None:
        """Give it a local address (uv_udp_bind).

        Arguments:
            address: `(host, port)` with a numeric host; port 0 lets the system choose.

        Raises:
            ValueError, OverflowError: the host is no numeric address, the port is out of range.
            OSError: EADDRINUSE and what else the system says.
        """
        storage = make_address(address)
        check(lib.uv_udp_bind(self._use(), as_sockaddr(storage), int(UDPFlag(flags))))

    def connect(self, address: Address | None) -> None:
        """Send to, and receive from, this address alone (uv_udp_connect); None takes that back.

        Raises:
            OSError: EISCONN, it has one; ENOTCONN, it has none to take back.
        """
        storage = None if address is None else make_address(address)
        check(lib.uv_udp_connect(self._use(), ffi.NULL if storage is None else as_sockaddr(storage)))

    def getsockname(self) -> tuple[Any, ...]:
        """The local address (uv_udp_getsockname)."""
        name: tuple[Any, ...] = name_of(lib.uv_udp_getsockname, self._use())
        return name

    def getpeername(self) -> tuple[Any, ...]:
        """The address it is connected to (uv_udp_getpeername).

        Raises:
            OSError: ENOTCONN, it is not connected.
        """
        name: tuple[Any, ...] = name_of(lib.uv_udp_getpeername, self._use())
        return name

    def set_membership(
        self,
        multicast_addr: str,
        interface_addr: str | None,
        membership: Membership | int,
        source_addr: str | None = None,
    ) -> None:
        """Join or leave a multicast group (uv_udp_set_membership, with a source uv_udp_set_source_membership).

        Raises:
            OSError: EINVAL, an address is not numeric; what else the system says.
        """
        handle, action = self._use(), int(Membership(membership))
        group, interface = _text(multicast_addr), _text(interface_addr)
        if source_addr is None:
            check(lib.uv_udp_set_membership(handle, group, interface, action))
        else:
            check(lib.uv_udp_set_source_membership(handle, group, interface, _text(source_addr), action))

    def set_multicast_loop(self, on: bool) -> None:
        """Let multicast datagrams come back to this machine (uv_udp_set_multicast_loop)."""
        check(lib.uv_udp_set_multicast_loop(self._use(), bool(on)))

    def set_multicast_ttl(self, ttl: int) -> None:
        """How many hops multicast datagrams may go, 1 to 255 (uv_udp_set_multicast_ttl)."""
        check(lib.uv_udp_set_multicast_ttl(self._use(), ttl))

    def set_multicast_interface(self, interface_addr: str | None) -> None:
        """Where multicast datagrams leave (uv_udp_set_multicast_interface)."""
        check(lib.uv_udp_set_multicast_interface(self._use(), _text(interface_addr)))

    def set_broadcast(self, on: bool) -> None:
        """Allow datagrams to broadcast addresses (uv_udp_set_broadcast)."""
        check(lib.uv_udp_set_broadcast(self._use(), bool(on)))

    def set_ttl(self, ttl: int) -> None:
        """How many hops datagrams may go, 1 to 255 (uv_udp_set_ttl)."""
        check(lib.uv_udp_set_ttl(self._use(), ttl))

    def send(
        self: _Self,
        data: Data | Sequence[Data],
        address: Address | None = None,
        callback: Callable[[_Self, Exception | None], object] | None = None,
    ) -> UDPSendRequest:
        """Send one datagram (uv_udp_send). As with `Stream.write()`, nothing is copied.

        Arguments:
            data: a bytes-like object, or a list or tuple of them, sent as one.
            address: where to; None where the handle is connected.
            callback: called as `callback(udp, error)` once it was handed to the system.

        Raises:
            OSError: EDESTADDRREQ without an address, EISCONN with one where it is connected. Others go to the callback.
            RuntimeError: the handle is closed.
        """
        handle = self._use()
        storage = None if address is None else make_address(address)
        room, count, keep = buffers(data)
        request = UDPSendRequest(self, callback, (keep, storage))
        to = ffi.NULL if storage is None else as_sockaddr(storage)
        request._begin(lib.uv_udp_send, request._memory, handle, room, count, to, _ON_SEND)
        return request

    def try_send(self, data: Data | Sequence[Data], address: Address | None = None) -> int:
        """Send one datagram at once (uv_udp_try_send).

        Returns:
            The number of bytes.

        Raises:
            BlockingIOError: it cannot be sent now, or others wait.
            OSError: as `send()`.
        """
        handle = self._use()
        storage = None if address is None else make_address(address)
        room, count, _keep = buffers(data)
        to = ffi.NULL if storage is None else as_sockaddr(storage)
        return check(lib.uv_udp_try_send(handle, room, count, to))

    def try_send2(self, datagrams: Sequence[tuple[Data | Sequence[Data], Address | None]]) -> int:
        """Send several datagrams at once (uv_udp_try_send2).

        Arguments:
            datagrams: pairs of data and address.

        Returns:
            How many of them were sent.

        Raises:
            BlockingIOError: none can be sent now, or others wait.
            OSError: the first could not be sent; ENOSYS, this libuv is older than 1.50.
        """
        handle = self._use()
        if not datagrams:
            return 0
        packed = [buffers(data) for data, _ in datagrams]
        storages = [None if address is None else make_address(address) for _, address in datagrams]
        rooms = ffi.new("uv_buf_t *[]", [room for room, _, _ in packed])
        counts = ffi.new("unsigned int[]", [count for _, count, _ in packed])
        addresses = ffi.new(
            "struct sockaddr *[]", [ffi.NULL if storage is None else as_sockaddr(storage) for storage in storages]
        )
        return check(lib.uv_udp_try_send2(handle, len(packed), rooms, counts, addresses, 0))

    def recv_start(
        self: _Self, callback: Callable[[_Self, bytes, tuple[Any, ...] | None, UDPFlag, Exception | None], object]
    ) -> None:
        """Call `callback(udp, data, address, flags, error)` for each datagram (uv_udp_recv_start).

        For a failure `data` is empty and `error` says which; receiving goes on.

        Raises:
            OSError: EALREADY, it receives.
            RuntimeError: the handle is closed.
        """
        handle = self._use()
        checked_callable(callback)
        check(lib.uv_udp_recv_start(handle, _ON_ALLOC, _ON_RECV))
        self._callback = callback
        self._keep()

    def recv_stop(self) -> None:
        """Receive no more (uv_udp_recv_stop). Doing so again is allowed."""
        check(lib.uv_udp_recv_stop(self._use()))
        self._unkeep()

    @property
    def using_recvmmsg(self) -> bool:
        """Whether several datagrams are read at once (uv_udp_using_recvmmsg)."""
        return bool(lib.uv_udp_using_recvmmsg(self._use()))

    @property
    def send_queue_size(self) -> int:
        """How many bytes wait to be sent (uv_udp_get_send_queue_size)."""
        return int(lib.uv_udp_get_send_queue_size(self._use()))

    @property
    def send_queue_count(self) -> int:
        """How many datagrams wait to be sent (uv_udp_get_send_queue_count)."""
        return int(lib.uv_udp_get_send_queue_count(self._use()))


def _text(address: str | None) -> Any:
    if address is None:
        return ffi.NULL
    if not isinstance(address, str):
        raise TypeError(f"an address must be a str or None, got {address!r}")
    return address.encode("ascii", "replace")


@from_libuv
def _py_recv(pointer: Any, nread: int, base: Any, addr: Any, flags: int) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    udp = cell.owner()
    if udp is None:
        return
    if nread < 0:
        cell.loop._call(udp._callback, udp, b"", None, UDPFlag(0), error(nread))
        return
    data = ffi.buffer(base, nread)[:] if nread else b""
    cell.loop._call(udp._callback, udp, data, read_address(addr), UDPFlag(flags & 0xFF), None)

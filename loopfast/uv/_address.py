"""Socket addresses, as Python's `socket` module writes them: (host, port), of IPv6 (host, port, flowinfo, scope_id)."""

from __future__ import annotations

from typing import Any

from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check

#: What is accepted: a numeric host, a port, and for IPv6 flow information and scope.
Address = tuple[Any, ...]

_ROOM = 128


def make_address(address: Any) -> Any:
    """A `struct sockaddr *` that owns its memory.

    Raises:
        TypeError: not a tuple of a str and up to three ints.
        ValueError: the host is no numeric address.
        OverflowError: the port is not between 0 and 65535.
    """
    if not isinstance(address, (tuple, list)) or not 2 <= len(address) <= 4 or not isinstance(address[0], str):
        raise TypeError(f"an address is a (host, port) tuple, got {address!r}")
    host, port, flowinfo, scope_id = [*address, 0, 0][:4]
    if not all(isinstance(number, int) for number in (port, flowinfo, scope_id)):
        raise TypeError(f"port, flowinfo and scope_id of an address are ints, got {address!r}")
    if not 0 <= port <= 0xFFFF:
        raise OverflowError(f"port must be 0-65535, got {port!r}")
    if not 0 <= flowinfo <= 0xFFFFF or not 0 <= scope_id <= 0xFFFFFFFF:
        raise OverflowError(f"flowinfo must be 0-1048575 and scope_id 0-4294967295, got {address!r}")
    storage = ffi.new("struct sockaddr_storage *")
    text = host.encode("idna" if not host.isascii() else "ascii")
    if b"\0" in text:
        raise ValueError(f"embedded null byte in {host!r}")
    if lib.loopfast_make_address(text, port, flowinfo, scope_id, storage) < 0:
        raise ValueError(f"{host!r} is no numeric address; uv.getaddrinfo() finds those of a name")
    return storage


def as_sockaddr(storage: Any) -> Any:
    """`storage`, which must be kept, with the type that libuv's functions take."""
    return ffi.cast("struct sockaddr *", storage)


def read_address(sockaddr: Any) -> Any:
    """The tuple for a `struct sockaddr *` of IPv4 or IPv6; None for NULL."""
    if sockaddr == ffi.NULL:
        return None
    host, port = ffi.new("char[]", _ROOM), ffi.new("int *")
    flowinfo, scope_id = ffi.new("unsigned int *"), ffi.new("unsigned int *")
    family = check(lib.loopfast_read_address(sockaddr, host, _ROOM, port, flowinfo, scope_id))
    text = ffi.string(host).decode("ascii")
    if family == _FAMILY_4:
        return text, int(port[0])
    return text, int(port[0]), int(flowinfo[0]), int(scope_id[0])


def name_of(function: Any, handle: Any) -> Any:
    """What getsockname() or getpeername() of a TCP or UDP handle say."""
    storage = ffi.new("struct sockaddr_storage *")
    size = ffi.new("int *", ffi.sizeof("struct sockaddr_storage"))
    check(function(handle, as_sockaddr(storage), size))
    return read_address(as_sockaddr(storage))


def _family_of(host: str) -> int:
    host_, port, rest = ffi.new("char[]", _ROOM), ffi.new("int *"), ffi.new("unsigned int[2]")
    storage = make_address((host, 0))
    return int(lib.loopfast_read_address(as_sockaddr(storage), host_, _ROOM, port, rest, rest + 1))


_FAMILY_4 = _family_of("0.0.0.0")

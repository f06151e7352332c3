"""libuv's chapter "DNS utility functions", and from "Miscellaneous utilities" what turns addresses into text."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, NamedTuple, overload

from loopfast.uv._address import Address, as_sockaddr, make_address, read_address
from loopfast.uv._base import BaseLoop, whole_number
from loopfast.uv._pool import PoolRequest, both_or_none
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check, error
from loopfast.uv.loop import Loop

__all__ = [
    "AddrInfo",
    "GetAddrInfoRequest",
    "GetNameInfoRequest",
    "getaddrinfo",
    "getnameinfo",
    "inet_ntop",
    "inet_pton",
]

_ON_GETADDRINFO = ffi.addressof(lib, "loopfast_on_getaddrinfo")
_ON_GETNAMEINFO = ffi.addressof(lib, "loopfast_on_getnameinfo")


class AddrInfo(NamedTuple):
    """One answer of `getaddrinfo()` (struct addrinfo)."""

    family: int
    type: int
    protocol: int
    canonname: str
    address: tuple[Any, ...]


class GetAddrInfoRequest(PoolRequest):
    """A name being resolved (uv_getaddrinfo_t)."""

    _c_type = "uv_getaddrinfo_t"

    def _clean_up(self) -> None:
        lib.uv_freeaddrinfo(self._memory.addrinfo)
        self._memory.addrinfo = ffi.NULL


class GetNameInfoRequest(PoolRequest):
    """The name of an address being looked up (uv_getnameinfo_t)."""

    _c_type = "uv_getnameinfo_t"


@overload
def getaddrinfo(
    node: str | None,
    service: str | int | None = None,
    family: int = 0,
    type: int = 0,
    protocol: int = 0,
    flags: int = 0,
    *,
    loop: None = None,
    callback: None = None,
) -> list[AddrInfo]: ...
@overload
def getaddrinfo(
    node: str | None,
    service: str | int | None = None,
    family: int = 0,
    type: int = 0,
    protocol: int = 0,
    flags: int = 0,
    *,
    loop: BaseLoop,
    callback: Callable[[list[AddrInfo] | None, Exception | None], object],
) -> GetAddrInfoRequest: ...
def getaddrinfo(
    node: str | None,
    service: str | int | None = None,
    family: int = 0,
    type: int = 0,
    protocol: int = 0,
    flags: int = 0,
    *,
    loop: BaseLoop | None = None,
    callback: Callable[[Any, Any], object] | None = None,
) -> Any:
    """The addresses of a name (uv_getaddrinfo), IPv4 and IPv6.

    With `loop` and `callback` it works in libuv's thread pool and calls `callback(answers, error)`; else it waits.

    Arguments:
        node: a name or a numeric address; None for this machine.
        service: a name, a port number, or None.
        family, type, protocol, flags: as for `socket.getaddrinfo()`.

    Returns:
        A list of `AddrInfo`, or the request.

    Raises:
        socket.gaierror: the resolver's errors.
        OSError: EINVAL, neither node nor service was given, or the name cannot be encoded.
    """
    hints = ffi.new("struct addrinfo *")
    hints.ai_family, hints.ai_socktype, hints.ai_protocol, hints.ai_flags = family, type, protocol, flags
    names = (_encoded(node), _encoded(None if service is None else str(service)))
    if both_or_none(loop, callback):
        request = GetAddrInfoRequest(loop, callback, _answers, hints)
        request._begin(lib.uv_getaddrinfo, request.loop._enter(), request._memory, _ON_GETADDRINFO, *names, hints)
        return request
    memory = ffi.new("uv_getaddrinfo_t *")
    with Loop() as own:
        try:
            check(lib.uv_getaddrinfo(own.pointer, memory, ffi.NULL, *names, hints))
            return _answers(memory)
        finally:
            lib.uv_freeaddrinfo(memory.addrinfo)


@overload
def getnameinfo(address: Address, flags: int = 0, *, loop: None = None, callback: None = None) -> tuple[str, str]: ...
@overload
def getnameinfo(
    address: Address,
    flags: int = 0,
    *,
    loop: BaseLoop,
    callback: Callable[[tuple[str, str] | None, Exception | None], object],
) -> GetNameInfoRequest: ...
def getnameinfo(
    address: Address,
    flags: int = 0,
    *,
    loop: BaseLoop | None = None,
    callback: Callable[[Any, Any], object] | None = None,
) -> Any:
    """The names of an address and its port (uv_getnameinfo).

    With `loop` and `callback` it works in libuv's thread pool and calls `callback(names, error)`; else it waits.

    Arguments:
        address: `(host, port)` with a numeric host.
        flags: the NI_... constants of `socket`.

    Returns:
        (host, service), or the request.

    Raises:
        socket.gaierror: the resolver's errors.
        ValueError, OverflowError: the host is no numeric address, the port is out of range.
    """
    storage = make_address(address)
    if both_or_none(loop, callback):
        request = GetNameInfoRequest(loop, callback, _names, storage)
        request._begin(
            lib.uv_getnameinfo, request.loop._enter(), request._memory, _ON_GETNAMEINFO, as_sockaddr(storage), flags
        )
        return request
    memory = ffi.new("uv_getnameinfo_t *")
    with Loop() as own:
        check(lib.uv_getnameinfo(own.pointer, memory, ffi.NULL, as_sockaddr(storage), flags))
        return _names(memory)


def inet_ntop(family: int, packed: bytes) -> str:
    """An address as text (uv_inet_ntop).

    Raises:
        ValueError: `packed` has not the length of such an address.
        OSError: EAFNOSUPPORT, another family than AF_INET and AF_INET6.
    """
    size = _size(family)
    if len(packed) != size:
        raise ValueError(f"an address of family {family} has {size} bytes, got {len(packed)}")
    room = ffi.new("char[]", 64)
    check(lib.uv_inet_ntop(_native(family), bytes(packed), room, 64))
    text: str = ffi.string(room).decode("ascii")
    return text


def inet_pton(family: int, text: str) -> bytes:
    """An address in its packed form (uv_inet_pton).

    Raises:
        OSError: EINVAL, this is no such address; EAFNOSUPPORT, another family than AF_INET and AF_INET6.
    """
    room = ffi.new("char[]", _size(family))
    check(lib.uv_inet_pton(_native(family), _encoded(text), room))
    packed: bytes = ffi.buffer(room)[:]
    return packed


def _size(family: int) -> int:
    if family == socket.AF_INET:
        return 4
    if family == socket.AF_INET6:
        return 16
    raise error(lib.UV_EAFNOSUPPORT)


def _native(family: int) -> int:
    return whole_number(family, "family", 0xFFFF)


def _encoded(text: str | None) -> Any:
    if text is None:
        return ffi.NULL
    if not isinstance(text, str):
        raise TypeError(f"a str is needed, got {text!r}")
    if "\0" in text:
        raise ValueError(f"embedded null character in {text!r}")
    return text.encode("utf-8", "surrogateescape")


def _answers(memory: Any) -> list[AddrInfo]:
    answers, entry = [], memory.addrinfo
    while entry != ffi.NULL:
        if entry.ai_family in (socket.AF_INET, socket.AF_INET6):
            name = "" if entry.ai_canonname == ffi.NULL else ffi.string(entry.ai_canonname).decode("utf-8", "replace")
            kind = (entry.ai_family, entry.ai_socktype, entry.ai_protocol)
            answers.append(AddrInfo(*kind, name, read_address(entry.ai_addr)))
        entry = entry.ai_next
    return answers


def _names(memory: Any) -> tuple[str, str]:
    host, service = ffi.string(memory.host), ffi.string(memory.service)
    return host.decode("utf-8", "surrogateescape"), service.decode("utf-8", "surrogateescape")

"""libuv's chapter "Base request": what requests of every type can do."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from loopfast.uv._base import BaseLoop, Unique, zeroed
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check, error

__all__ = ["Request", "RequestType", "request_type_name"]


class RequestType(IntEnum):
    """uv_req_type, the kinds of requests."""

    UNKNOWN_REQ = lib.UV_UNKNOWN_REQ
    REQ = lib.UV_REQ
    CONNECT = lib.UV_CONNECT
    WRITE = lib.UV_WRITE
    SHUTDOWN = lib.UV_SHUTDOWN
    UDP_SEND = lib.UV_UDP_SEND
    FS = lib.UV_FS
    WORK = lib.UV_WORK
    GETADDRINFO = lib.UV_GETADDRINFO
    GETNAMEINFO = lib.UV_GETNAMEINFO
    RANDOM = lib.UV_RANDOM


def request_type_name(kind: RequestType | int) -> str | None:
    """libuv's name for a type of requests, such as "write" (uv_req_type_name); None if it has none."""
    name = lib.uv_req_type_name(int(kind))
    return None if name == ffi.NULL else ffi.string(name).decode("ascii")


class Request(Unique):
    """Something asked of libuv that ends with one callback (uv_req_t). Functions and methods return them.

    The loop keeps a request, and the buffers and handles it is about, alive until it is done.
    """

    _c_type = ""

    def __init__(self, loop: BaseLoop, callback: Callable[..., object] | None, keep: Any = None) -> None:
        self.loop = loop
        self._callback = callback
        self._keep = keep
        self._memory = zeroed(self._c_type)
        self._base = ffi.cast("uv_req_t *", self._memory)
        self._token: Any = None

    def _begin(self, function: Callable[..., int | None], *arguments: Any) -> None:
        """Call libuv; from then on the request is its own until the callback, unless it was refused."""
        self._token = ffi.new_handle(self)
        self._base.data = self._token
        self.loop._requests.add(self)
        try:
            status = function(*arguments)
        except BaseException:
            self._forget()
            raise
        if status is not None and status < 0:
            self._forget()
            raise self._error(status)

    def _forget(self) -> None:
        self.loop._requests.discard(self)
        self._token = self._keep = None

    def _error(self, status: int) -> Exception:
        return error(status)

    def _finish(self, status: int) -> None:
        """libuv is done with it."""
        raise NotImplementedError

    @property
    def type(self) -> RequestType:
        """The type of the request (uv_req_get_type)."""
        return RequestType(lib.uv_req_get_type(self._base))

    @property
    def done(self) -> bool:
        """Whether libuv is done with it: the callback was called, or is being called."""
        return self._token is None

    def cancel(self) -> None:
        """Cancel what has not begun yet (uv_cancel): the callback comes all the same, with ECANCELED as its error.

        For requests that go to the thread pool: of the file system, name resolution, `random()`, `queue_work()`.

        Raises:
            OSError: EBUSY when it has begun or is done, EINVAL for requests of another kind.
            RuntimeError: in a thread other than the one that runs the loop.
        """
        self.loop._enter()
        check(lib.UV_EBUSY if self.done else lib.uv_cancel(self._base))

    def __repr__(self) -> str:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return f"<{name} {'done' if self.done else 'pending'} at {id(self):#x}>"

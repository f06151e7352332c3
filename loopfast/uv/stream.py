"""libuv's chapter "Stream handle": what TCP connections, pipes and terminals have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from loopfast.uv._base import Cell, callable_or_none, checked_callable, from_libuv, whole_number
from loopfast.uv._uv import ffi, lib
from loopfast.uv.errors import check, error
from loopfast.uv.handle import Handle
from loopfast.uv.request import Request

__all__ = ["ConnectRequest", "ShutdownRequest", "Stream", "WriteRequest"]

_ON_ALLOC = ffi.addressof(lib, "loopfast_on_alloc")
_ON_READ = ffi.addressof(lib, "loopfast_on_read")
_ON_WRITE = ffi.addressof(lib, "loopfast_on_write")
_ON_CONNECTION = ffi.addressof(lib, "loopfast_on_connection")
_ON_SHUTDOWN = ffi.addressof(lib, "loopfast_on_shutdown")
_Self = TypeVar("_Self", bound="Stream")

#: What can be written: bytes, bytearray, a contiguous memoryview, array.array ...
Data = Any


class StreamRequest(Request):
    """A request of a stream or a UDP handle, whose callback gets the handle and an error or None."""

    def __init__(self, handle: Handle, callback: Callable[[Any, Exception | None], object] | None, keep: Any) -> None:
        super().__init__(handle.loop, callable_or_none(callback), keep)
        #: The stream it is about.
        self.handle = handle

    def _finish(self, status: int) -> None:
        callback, self._callback, self._keep = self._callback, None, None
        if callback is not None:
            self.loop._call(callback, self.handle, error(status) if status < 0 else None)


class WriteRequest(StreamRequest):
    """A write under way (uv_write_t)."""

    _c_type = "uv_write_t"


class ConnectRequest(StreamRequest):
    """A connection being made (uv_connect_t)."""

    _c_type = "uv_connect_t"

    def _finish(self, status: int) -> None:
        self.handle._connecting = False  # type: ignore[attr-defined]
        super()._finish(status)


class ShutdownRequest(StreamRequest):
    """A write side being shut down (uv_shutdown_t)."""

    _c_type = "uv_shutdown_t"


def buffers(data: Data | Sequence[Data]) -> tuple[Any, int, Any]:
    """`uv_buf_t[]`, their number, and what must be kept until they are used up: the exports lock a bytearray's size.

    Raises:
        TypeError: something is no bytes-like object.
        BufferError: a memoryview is not contiguous.
    """
    parts = data if isinstance(data, (list, tuple)) else (data,)
    views = []
    for part in parts:
        try:
            views.append(ffi.from_buffer(part))
        except TypeError:
            raise TypeError(f"a bytes-like object or a list of them is needed, got {type(part).__name__}") from None
    # libuv wants one buffer at least.
    room = ffi.new("uv_buf_t[]", max(len(views), 1))
    for slot, view in zip(room, views, strict=False):
        slot.base, slot.len = view, len(view)
    return room, max(len(views), 1), (room, views)


class Stream(Handle):
    """Base of `TCP`, `Pipe` and `TTY` (uv_stream_t): a duplex stream of bytes, or a server that accepts some."""

    _on_read: Any = None
    _on_connection: Any = None
    _connecting = False

    def _peer(self) -> Stream:
        """A new handle of the kind this server accepts."""
        raise TypeError(f"{type(self).__name__} handles accept no connections")

    def shutdown(self: _Self, callback: Callable[[_Self, Exception | None], object] | None = None) -> ShutdownRequest:
        """Send the end of the stream once all writes are done (uv_shutdown). Reading goes on.

        Arguments:
            callback: called as `callback(stream, error)`.

        Raises:
            OSError: ENOTCONN, it is not connected or was shut down before.
            RuntimeError: the handle is closed.
        """
        stream = self._stream()
        request = ShutdownRequest(self, callback, None)
        request._begin(lib.uv_shutdown, request._memory, stream, _ON_SHUTDOWN)
        return request

    def listen(self: _Self, callback: Callable[[_Self, Exception | None], object], backlog: int = 128) -> None:
        """Accept connections: call `callback(server, error)` for each that has come (uv_listen).

        The callback calls `accept()`. No other connection is reported until it, or somebody later, has done so.

        Arguments:
            backlog: how many connections the kernel may hold.

        Raises:
            OSError: EADDRINUSE, which `bind()` leaves to this call; EINVAL, it was not bound.
            RuntimeError: the handle is closed.
        """
        stream = self._stream()
        checked_callable(callback)
        check(lib.uv_listen(stream, whole_number(backlog, "backlog", 0x7FFFFFFF), _ON_CONNECTION))
        self._on_connection = callback
        self._keep()

    def accept(self, client: Handle | None = None) -> Any:
        """Take the connection that the callback of `listen()` announced (uv_accept).

        Arguments:
            client: a fresh handle of the same loop to be connected; by default a new one of this server's type.

        Returns:
            The connected handle.

        Raises:
            BlockingIOError: no connection waits.
            ValueError: `client` belongs to another loop, or has a descriptor already.
        """
        stream = self._stream()
        if client is None:
            client = self._peer()
        other = self._same_loop(client, "client")
        number = ffi.new("uv_os_fd_t *")
        if lib.uv_fileno(client._base(), number) == 0:
            raise ValueError(f"{client!r} has a descriptor already and cannot accept a connection")
        check(lib.uv_accept(stream, ffi.cast("uv_stream_t *", other)))
        return client

    def read_start(self: _Self, callback: Callable[[_Self, bytes, Exception | None], object]) -> None:
        """Read: call `callback(stream, data, error)` for whatever has come (uv_read_start).

        At the end of the stream `data` is empty and `error` an `EOFError`; for a failure it is an `OSError`. Reading is
        over then. The callback may stop reading or close the stream.

        Raises:
            OSError: EALREADY, it reads; ENOTCONN, it is not connected.
            RuntimeError: the handle is closed.
        """
        stream = self._stream()
        checked_callable(callback)
        check(lib.uv_read_start(stream, _ON_ALLOC, _ON_READ))
        self._on_read = callback
        self._keep()

    def read_stop(self) -> None:
        """Read no more (uv_read_stop). Doing so again is allowed."""
        check(lib.uv_read_stop(self._stream()))
        if self._on_connection is None:
            self._unkeep()

    def write(
        self: _Self,
        data: Data | Sequence[Data],
        callback: Callable[[_Self, Exception | None], object] | None = None,
        *,
        send_handle: Handle | None = None,
    ) -> WriteRequest:
        """Write everything, in order (uv_write, uv_write2).

        Nothing is copied: until the callback, a bytearray cannot be resized, and what is changed in it may or may not
        be sent.

        Arguments:
            data: a bytes-like object, or a list or tuple of them, sent as one.
            callback: called as `callback(stream, error)` once all of it has been handed to the system.
            send_handle: a stream or UDP handle of the same loop to be sent along, over a `Pipe` with `ipc=True`.

        Raises:
            TypeError: `data` is not bytes-like.
            OSError: EBADF or EPIPE, it is not connected; later failures go to the callback.
            ValueError: `send_handle` belongs to another loop.
            RuntimeError: the handle is closed.
        """
        stream = self._stream()
        room, count, keep = buffers(data)
        if send_handle is None:
            request = WriteRequest(self, callback, keep)
            request._begin(lib.uv_write, request._memory, stream, room, count, _ON_WRITE)
            return request
        other = ffi.cast("uv_stream_t *", self._same_loop(send_handle, "send_handle"))
        request = WriteRequest(self, callback, (keep, send_handle))
        request._begin(lib.uv_write2, request._memory, stream, room, count, other, _ON_WRITE)
        return request

    def try_write(self, data: Data | Sequence[Data], *, send_handle: Handle | None = None) -> int:
        """Write what can be written at once (uv_try_write, uv_try_write2).

        Returns:
            How many bytes were written, which may be fewer than all.

        Raises:
            BlockingIOError: nothing can be written now, or other writes wait.
            OSError: the connection is broken.
        """
        stream = self._stream()
        room, count, _keep = buffers(data)
        if send_handle is None:
            return check(lib.uv_try_write(stream, room, count))
        other = ffi.cast("uv_stream_t *", self._same_loop(send_handle, "send_handle"))
        return check(lib.uv_try_write2(stream, room, count, other))

    @property
    def readable(self) -> bool:
        """Whether it can be read from (uv_is_readable)."""
        return bool(lib.uv_is_readable(self._stream()))

    @property
    def writable(self) -> bool:
        """Whether it can be written to (uv_is_writable)."""
        return bool(lib.uv_is_writable(self._stream()))

    def set_blocking(self, blocking: bool) -> None:
        """Make writes wait until they are done (uv_stream_set_blocking). The loop stands still meanwhile."""
        check(lib.uv_stream_set_blocking(self._stream(), bool(blocking)))

    @property
    def write_queue_size(self) -> int:
        """How many bytes wait to be written (uv_stream_get_write_queue_size)."""
        return int(lib.uv_stream_get_write_queue_size(self._stream()))

    def _stream(self) -> Any:
        return ffi.cast("uv_stream_t *", self._use())

    def _same_loop(self, other: Any, what: str) -> Any:
        """The C handle of another stream or UDP handle, which must belong to this loop."""
        if not isinstance(other, Handle):
            raise TypeError(f"{what} must be a handle, got {other!r}")
        if other.loop is not self.loop:
            raise ValueError(f"{what} {other!r} belongs to another loop than {self!r}")
        if not isinstance(other, Stream) and other._c_type != "loopfast_udp_t":
            raise TypeError(f"{what} must be a stream or a UDP handle, got {other!r}")
        return other._use()

    def _begin_connect(self, function: Any, callback: Any, *arguments: Any, keep: Any) -> ConnectRequest:
        """Connect once at a time, which libuv itself does not see to for pipes."""
        handle = self._use()
        if self._connecting:
            raise error(lib.UV_EALREADY)
        request = ConnectRequest(self, callback, keep)
        request._begin(function, request._memory, handle, *arguments)
        self._connecting = True
        return request


@from_libuv
def _py_read(pointer: Any, nread: int, base: Any) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    stream = cell.owner()
    if stream is None:
        return
    if nread > 0:
        cell.loop._call(stream._on_read, stream, ffi.buffer(base, nread)[:], None)
        return
    if not cell.closing:
        lib.uv_read_stop(ffi.cast("uv_stream_t *", pointer))
        if stream._on_connection is None:
            cell.kept = None
    cell.loop._call(stream._on_read, stream, b"", error(nread))


@from_libuv
def _py_connection(pointer: Any, status: int) -> None:
    cell: Cell = ffi.from_handle(pointer.data)
    server = cell.owner()
    if server is not None:
        cell.loop._call(server._on_connection, server, error(status) if status < 0 else None)

"""BinaryFile: an open file with its buffers, on the requests of loopfast.fsops.

One operation of a file runs at a time, the others wait in their order. What an operation has begun ends, also if its
task is cancelled meanwhile: the next one takes what it brought, so that nothing is lost and the position is known.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import io
import os
import warnings
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar

from loopfast import fsops
from loopfast.fsops import Descriptor, Request

_T = TypeVar("_T")
_F = TypeVar("_F", bound="BinaryFile")
ReadableBuffer = Any  # bytes-like; collections.abc.Buffer is there from Python 3.12 on

#: Bytes of a buffer, as io.DEFAULT_BUFFER_SIZE is from Python 3.14 on.
BUFFER_SIZE = 128 * 1024
#: The least that is read ahead.
LEAST_READ = 8 * 1024


def as_bytes(data: Any) -> bytes:
    """Return *data* as bytes that nobody can change; without a copy where it is such already."""
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    with memoryview(data) as view:
        if view.readonly and view.c_contiguous and type(view.obj) is bytes and view.nbytes == len(view.obj):
            return view.obj
        return view.tobytes()


async def surely(waiter: asyncio.Future[Any]) -> None:
    """Wait until *waiter* is done, also if this task is cancelled, which is forgotten; its outcome is not looked at."""
    while not waiter.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiter])


class BinaryFile:
    """An open file of bytes, as `loopfast.fs.open` makes it: buffered reading and writing, positioned or not.

    The methods are those of Python's binary files with ``await``
    (https://docs.python.org/3/library/io.html#io.BufferedIOBase), and `pread`, `pwrite`, `fsync` and `fdatasync`. They
    raise ``ValueError`` on a closed file, ``io.UnsupportedOperation`` where the mode does not allow them, ``OSError``
    where the system fails, and ``RuntimeError`` in another event loop than that of the file.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        name: Any,
        mode: str,
        buffer_size: int,
        position: int,
        size: int,
        shares: bool,
    ) -> None:
        self._fd = descriptor
        self._loop = descriptor.loop
        self._number = descriptor.number
        self._name = name
        self._mode = mode
        self._readable = "r" in mode or "+" in mode
        self._writable = "r" not in mode or "+" in mode
        self._append = "a" in mode
        self._seekable = position >= 0
        self._buffer_size = buffer_size
        self._size_hint = size
        # Others use the descriptor, too: it is to stand where this file does.
        self._shares = shares and self._seekable
        # What was read ahead, up to `_end` in the file, and how much of that is taken.
        self._chunk = b""
        self._at = 0
        # Where the next request reads or writes.
        self._end = max(position, 0)
        # What is still to be written there; never while there is a chunk.
        self._out: list[bytes] = []
        self._out_size = 0
        # A request that runs, or ended unseen, and what takes its outcome.
        self._pending: Request[Any] | None = None
        self._finish: Callable[[BinaryFile, Request[Any]], Any] | None = None
        self._busy = False
        self._turns: collections.deque[asyncio.Future[None]] = collections.deque()
        self._closing: asyncio.Future[None] | None = None
        # Called once the file is closed, or dropped.
        self._on_close: Callable[[], object] | None = None

    # ------------------------------------------------------------------------------------------------- what it is

    @property
    def name(self) -> Any:
        """The path or descriptor that it was opened with."""
        return self._name

    @property
    def mode(self) -> str:
        """The mode that it was opened with."""
        return self._mode

    @property
    def closed(self) -> bool:
        """True from the call of `close` on."""
        return self._closing is not None

    def fileno(self) -> int:
        """Return the descriptor. What the buffers hold is not in it yet, or already out of it."""
        if self._closing is not None:
            raise ValueError("I/O operation on closed file")
        return self._number

    def isatty(self) -> bool:
        """Return True if this is a terminal."""
        return os.isatty(self.fileno())

    def readable(self) -> bool:
        """Return True if it can be read."""
        self.fileno()
        return self._readable

    def writable(self) -> bool:
        """Return True if it can be written."""
        self.fileno()
        return self._writable

    def seekable(self) -> bool:
        """Return True if it has positions: pipes and terminals have none."""
        self.fileno()
        return self._seekable

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<loopfast.fs.{type(self).__name__} name={self._name!r} mode={self._mode!r}{state}>"

    def __del__(self) -> None:
        if getattr(self, "_closing", True) is not None:
            return
        warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self, stacklevel=2)
        # What was not even begun is written here and now. The descriptor goes with the last request that uses it.
        try:
            if self._out and self._pending is None and self._fd.number >= 0:
                data = b"".join(self._out)
                while data:
                    offset = self._write_offset
                    count = os.write(self._number, data) if offset < 0 else os.pwrite(self._number, data, offset)
                    data = data[count:]
                    self._end += count
        finally:
            # Whoever has the warning may have the file with it.
            self._closing = self._loop.create_future()
            self._closing.set_result(None)
            self._fd.drop()
            if self._on_close is not None:
                self._on_close()

    # ------------------------------------------------------------------------------------------------- turns

    def _check(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"{self!r} belongs to another event loop")
        if self._closing is not None:
            raise ValueError("I/O operation on closed file")

    def _check_reads(self) -> None:
        self._check()
        if not self._readable:
            raise io.UnsupportedOperation("not readable")

    def _check_writes(self) -> None:
        self._check()
        if not self._writable:
            raise io.UnsupportedOperation("not writable")

    def _check_seeks(self) -> None:
        self._check()
        if not self._seekable:
            raise io.UnsupportedOperation("underlying stream is not seekable")

    async def _enter(self) -> None:
        """Wait for the turn, and for what an earlier operation left running."""
        if self._busy:
            turn = self._loop.create_future()
            self._turns.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
            if self._closing is not None:
                self._leave()
                raise ValueError("I/O operation on closed file")
        else:
            self._busy = True
        if self._pending is not None:
            try:
                await self._settle()
            except BaseException:
                self._leave()
                raise

    def _leave(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False

    async def _settle(self) -> None:
        request = self._pending
        if request is not None:
            if not request.done:
                await request.wait()
            self._take()

    def _take(self) -> Any:
        """Take the outcome of the pending request."""
        request, finish = self._pending, self._finish
        self._pending = self._finish = None
        assert request is not None and finish is not None
        return finish(self, request)

    async def _run(self, request: Request[Any], finish: Callable[[BinaryFile, Request[Any]], Any]) -> Any:
        """Run *request* to its end, even if this task is cancelled; return what *finish* makes of it."""
        request.start()
        self._pending, self._finish = request, finish
        if not request.done:
            await request.wait()
        return self._take()

    # ------------------------------------------------------------------------------------------------- buffers

    @property
    def _position(self) -> int:
        return self._end - (len(self._chunk) - self._at) + self._out_size

    def _stay(self) -> None:
        """Forget what was read ahead; the position stays."""
        self._end -= len(self._chunk) - self._at
        self._chunk, self._at = b"", 0

    def _add_chunk(self, request: Request[bytes]) -> int:
        data = request.outcome()
        self._end += len(data)
        self._chunk = data if self._at == len(self._chunk) else self._chunk[self._at :] + data
        self._at = 0
        return len(data)

    async def _fill(self, size: int) -> int:
        """Read up to about *size* bytes into the chunk; return how many came."""
        request = fsops.on_file(fsops.PREAD, self._fd, 0, self._end if self._seekable else -1, size)
        count: int = await self._run(request, BinaryFile._add_chunk)
        return count

    async def _fill_rest(self) -> None:
        """Read up to the end of the file into the chunk."""
        expected = self._size_hint - self._end + 1
        if self._seekable and expected <= BUFFER_SIZE:
            # Most likely at once.
            while await self._fill(max(expected, LEAST_READ, len(self._chunk) - self._at)):
                pass
        else:
            offset = self._end if self._seekable else -1
            await self._run(
                fsops.on_file(fsops.READ_WHOLE, self._fd, 0, offset, max(expected, 0)), BinaryFile._add_chunk
            )

    def _ahead(self) -> int:
        """How much to read ahead: not much more than there seems to be, and nothing without a buffer."""
        return min(self._buffer_size, max(self._size_hint - self._end + 1, LEAST_READ)) or 1

    def _have_written(self, request: Request[int]) -> None:
        """What was written leaves the buffer, also if there was no room for all."""
        data, written = b"".join(self._out), request.written
        self._out = [data[written:]] if written < len(data) else []
        self._out_size = len(data) - written
        self._moved(written)
        request.outcome()

    def _moved(self, count: int) -> None:
        if self._append and self._seekable:
            # Where the end of the file was is what the kernel knows.
            self._end = os.lseek(self._number, 0, os.SEEK_CUR)
        else:
            self._end += count
            self._size_hint = max(self._size_hint, self._end)
            if self._shares:
                os.lseek(self._number, self._end, os.SEEK_SET)

    def _end_request(self, request: Request[Any]) -> None:
        request.outcome()

    @property
    def _write_offset(self) -> int:
        return self._end if self._seekable and not self._append else -1

    async def _flush_out(self) -> None:
        if self._out:
            if len(self._out) > 1:
                self._out = [b"".join(self._out)]
            request = fsops.writing(fsops.PWRITE, self._fd, self._out[0], self._write_offset)
            await self._run(request, BinaryFile._have_written)

    def _have_written_directly(self, request: Request[int]) -> None:
        self._moved(request.written)
        request.outcome()

    async def _put(self, data: bytes) -> None:
        """Take *data* for writing: all of it, or none if this raises before it is begun."""
        if self._chunk:
            self._stay()
        size = len(data)
        if self._out and self._out_size + size > self._buffer_size:
            await self._flush_out()
        if size >= self._buffer_size:
            request = fsops.writing(fsops.PWRITE, self._fd, data, self._write_offset)
            await self._run(request, BinaryFile._have_written_directly)
        else:
            self._out.append(data)
            self._out_size += size

    # ------------------------------------------------------------------------------------------------- reading

    async def read(self, size: int | None = -1, /) -> bytes:
        """Return *size* bytes, fewer only at the end of the file; everything up to there if *size* is negative."""
        self._check_reads()
        if size is None:
            size = -1
        if size >= 0 and not self._busy and self._pending is None and size <= len(self._chunk) - self._at:
            return self._cut(size)
        await self._enter()
        try:
            return await self._read(size)
        finally:
            self._leave()

    def _cut(self, size: int) -> bytes:
        if self._at == 0 and size == len(self._chunk):
            data, self._chunk = self._chunk, b""
            return data
        data = self._chunk[self._at : self._at + size]
        self._at += len(data)
        return data

    async def _read(self, size: int) -> bytes:
        if self._out:
            await self._flush_out()
        if size < 0:
            await self._fill_rest()
            return self._cut(len(self._chunk) - self._at)
        while (missing := size - (len(self._chunk) - self._at)) > 0:
            if not await self._fill(max(missing, self._ahead())) or not self._buffer_size:
                break
        return self._cut(size)

    async def read1(self, size: int = -1, /) -> bytes:
        """Return up to *size* bytes: those of the buffer, or what one read gives; none only at the end of the file."""
        self._check_reads()
        await self._enter()
        try:
            if self._out:
                await self._flush_out()
            if self._at == len(self._chunk) and size:
                await self._fill(max(size, self._ahead()))
            return self._cut(len(self._chunk) - self._at if size < 0 else size)
        finally:
            self._leave()

    async def peek(self, size: int = 0, /) -> bytes:
        """Return what comes next, at least a byte but at the end of the file, and leave it there."""
        self._check_reads()
        await self._enter()
        try:
            if self._out:
                await self._flush_out()
            if self._at == len(self._chunk):
                await self._fill(self._ahead())
            return self._chunk[self._at :]
        finally:
            self._leave()

    async def readinto(self, buffer: Any, /) -> int:
        """Read into a writable buffer; return how many bytes, fewer than it holds only at the end of the file.

        The buffer is written to at the end, in the loop's thread: never by a read that was cancelled.
        """
        self._check_reads()
        with memoryview(buffer) as view, view.cast("B") as target:
            if target.readonly:
                raise TypeError("readinto() argument must be read-write bytes-like object")
            data = await self.read(len(target))
            target[: len(data)] = data
            return len(data)

    async def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line with its end, or at most *size* bytes of it; none at the end of the file."""
        self._check_reads()
        if size is None:
            size = -1
        if not self._busy and self._pending is None and (size < 0):
            end = self._chunk.find(b"\n", self._at) + 1
            if end:
                line = self._chunk[self._at : end]
                self._at = end
                return line
        await self._enter()
        try:
            return await self._readline(size)
        finally:
            self._leave()

    async def _readline(self, size: int) -> bytes:
        if self._out:
            await self._flush_out()
        looked_at = 0
        while True:
            end = self._chunk.find(b"\n", self._at + looked_at) + 1
            count = end - self._at if end else len(self._chunk) - self._at
            if 0 <= size <= count:
                return self._cut(size)
            if end:
                return self._cut(count)
            looked_at = count
            if not await self._fill(max(self._ahead(), count)):
                return self._cut(len(self._chunk) - self._at)

    async def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Return the remaining lines; no more once they exceed *hint* bytes, if that is positive."""
        lines = []
        total = 0
        while line := await self.readline():
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint < total:
                break
        return lines

    def __aiter__(self) -> BinaryFile:
        return self

    async def __anext__(self) -> bytes:
        if not self._busy and self._pending is None:
            end = self._chunk.find(b"\n", self._at) + 1
            if end:
                self._check_reads()
                line = self._chunk[self._at : end]
                self._at = end
                return line
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def pread(self, size: int, offset: int, /) -> bytes:
        """Return up to *size* bytes at *offset*, in one read, beside the other operations; the position stays."""
        self._check_reads()
        self._check_offset(size, offset)
        await self._be_written()
        data: bytes = await fsops.on_file(fsops.PREAD, self._fd, 0, offset, size)
        return data

    # ------------------------------------------------------------------------------------------------- writing

    async def write(self, data: ReadableBuffer, /) -> int:
        """Write *data*: into the buffer, and when that is full to the file. Returns the number of bytes.

        Cancelled, either all of it is written, at the latest with the next operation, or nothing.
        """
        self._check_writes()
        data = as_bytes(data)
        size = len(data)
        if not (self._busy or self._chunk) and self._pending is None and self._out_size + size < self._buffer_size:
            self._out.append(data)
            self._out_size += size
            return size
        await self._enter()
        try:
            await self._put(data)
        finally:
            self._leave()
        return size

    async def writelines(self, lines: Iterable[ReadableBuffer], /) -> None:
        """Write each of *lines*, without adding ends to them."""
        for line in lines:
            await self.write(line)

    async def pwrite(self, data: ReadableBuffer, offset: int, /) -> int:
        """Write *data* at *offset*, beside the other operations; the position stays. Returns the number of bytes.

        Cancelled, either all of it is written or nothing.
        """
        self._check_writes()
        data = as_bytes(data)
        self._check_offset(len(data), offset)
        await self._be_written()
        if self._chunk:
            self._stay()
        count: int = await fsops.writing(fsops.PWRITE, self._fd, data, offset)
        if self._chunk:
            # Read meanwhile, perhaps before.
            self._stay()
        return count

    def _check_offset(self, size: int, offset: int) -> None:
        if not self._seekable:
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
        if size < 0 or offset < 0:
            raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: negative size or offset: {size}, {offset}")

    async def _be_written(self) -> None:
        if self._out or (self._pending is not None and self._busy is False):
            await self.flush()

    async def truncate(self, size: int | None = None, /) -> int:
        """Give the file *size* bytes, the position by default, which stays. Returns the size."""
        self._check_writes()
        await self._enter()
        try:
            return await self._truncate(size)
        finally:
            self._leave()

    async def _truncate(self, size: int | None) -> int:
        await self._flush_out()
        if size is None:
            size = self._position
        if size < 0:
            raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: negative size: {size}")
        self._stay()
        request = fsops.on_file(fsops.FTRUNCATE, self._fd, 0, size)
        await self._run(request, BinaryFile._end_request)
        return size

    async def flush(self) -> None:
        """Have the system take what the buffer holds."""
        self._check()
        if self._busy or self._out or self._pending is not None:
            await self._enter()
            try:
                await self._flush_out()
            finally:
                self._leave()

    async def fsync(self) -> None:
        """Flush, and have the system write the file and what it knows of it to the device."""
        await self.flush()
        await fsops.on_file(fsops.FSYNC, self._fd)

    async def fdatasync(self) -> None:
        """Flush, and have the system write the file to the device, and of what it knows only what reading needs."""
        await self.flush()
        await fsops.on_file(fsops.FDATASYNC, self._fd)

    # ------------------------------------------------------------------------------------------------- position

    async def tell(self) -> int:
        """Return the position."""
        self._check_seeks()
        await self._enter()
        try:
            return self._position
        finally:
            self._leave()

    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to *offset* from the beginning, from here (``SEEK_CUR``), or from the end; return the position."""
        self._check_seeks()
        await self._enter()
        try:
            return await self._seek(offset, whence)
        finally:
            self._leave()

    async def _seek(self, offset: int, whence: int) -> int:
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"invalid whence ({whence!r}, should be 0, 1 or 2)")
        await self._flush_out()
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            info = await fsops.on_file(fsops.FSTAT, self._fd)
            offset += info.st_size
        if offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        start = self._end - len(self._chunk)
        if start <= offset <= self._end:
            self._at = offset - start
        else:
            self._chunk, self._at, self._end = b"", 0, offset
        if self._shares or self._append:
            os.lseek(self._number, offset, os.SEEK_SET)
        return offset

    # ------------------------------------------------------------------------------------------------- the end

    async def __aenter__(self: _F) -> _F:
        self._check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what the buffer holds, and close the file once nothing uses it. Idempotent.

        Cancelled, it goes on: the file is closed in any case.

        Raises:
            OSError: what the buffer held could not be written. The file is closed nevertheless.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"{self!r} belongs to another event loop")
        if self._closing is None:
            if self._busy or self._pending is not None or self._fd.in_flight:
                self._closing = asyncio.ensure_future(self._close_later())
            else:
                request = self._last_request()
                request.start()
                self._closing = self._loop.create_future()
                try:
                    await request.wait()
                    if self._on_close is not None:
                        self._on_close()
                    request.outcome()
                except asyncio.CancelledError:
                    # It ends by itself; who calls close() again need not wait.
                    self._close_quietly()
                    raise
                finally:
                    self._closing.set_result(None)
                return
        if not self._closing.done():
            await asyncio.shield(self._closing)

    aclose = close

    def _last_request(self) -> Request[None]:
        data, offset = b"".join(self._out), self._write_offset
        where = self._position if self._shares and not self._append else -1
        self._out = []
        return fsops.writing(fsops.FINISH, self._fd, data, offset, position=where)

    def _close_quietly(self) -> None:
        """Do what is to be done at the end, where the caller has another exception to raise."""
        try:
            if self._on_close is not None:
                self._on_close()
        except Exception as exc:
            self._loop.call_exception_handler({"message": f"after {self!r} was closed", "exception": exc})

    async def _close_later(self) -> None:
        """Close the file once nothing uses it. Who ends a program cancels this task, too: it goes on all the same."""
        try:
            # Those that wait for their turn are told that the file is closed.
            if self._busy:
                turn = self._loop.create_future()
                self._turns.append(turn)
                await surely(turn)
            failure: Exception | None = None
            try:
                if self._pending is not None:
                    if not self._pending.done:
                        await surely(self._pending.wait())
                    self._take()
            except Exception as exc:
                failure = exc
            if self._fd.in_flight:
                await surely(self._fd.idle())
            request = self._last_request()
            request.start()
            await surely(request.wait())
            request.outcome()
            if failure is not None:
                raise failure
        except BaseException:
            self._close_quietly()
            raise
        else:
            if self._on_close is not None:
                self._on_close()
        finally:
            self._leave()


class Opening(Generic[_T]):
    """What `loopfast.fs.open` and its relatives return: await it, or enter it with ``async with``."""

    def __init__(self, opener: Callable[[], Any]) -> None:
        self._opener: Callable[[], Any] | None = opener
        self._opened: Any = None

    def _open(self) -> Any:
        opener, self._opener = self._opener, None
        if opener is None:
            raise RuntimeError("a file is opened once: await what open() returns, or enter it, but not twice")
        return opener()

    def __await__(self) -> Generator[Any, Any, _T]:
        opening: Generator[Any, Any, _T] = self._open().__await__()
        return opening

    async def __aenter__(self) -> _T:
        self._opened = await self._open()
        entered: _T = await self._opened.__aenter__()
        return entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, error, trace)

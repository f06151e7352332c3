"""BinaryFile and TextFile: open files with buffers, on the requests of loopfast.fsops.

One operation of a file runs at a time, the others wait in their order. What an operation has begun ends, also if its task
is cancelled meanwhile: the next operation takes what it brought, so that nothing is lost and the position is known.
"""

from __future__ import annotations

import asyncio
import codecs
import collections
import errno
import io
import os
import re
import warnings
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar

from loopfast import fsops
from loopfast.fsops import Descriptor, Request

_T = TypeVar("_T")
_F = TypeVar("_F", bound="BinaryFile | TextFile")
ReadableBuffer = Any  # bytes-like; collections.abc.Buffer is there from Python 3.12 on

#: Bytes of a buffer, as io.DEFAULT_BUFFER_SIZE is from Python 3.14 on.
BUFFER_SIZE = 128 * 1024
#: The least that is read ahead.
LEAST_READ = 8 * 1024
_ANY_NEWLINE = re.compile(r"\r\n|\r|\n")


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
            request = fsops.on_file(fsops.READ_WHOLE, self._fd, 0, self._end if self._seekable else -1)
            await self._run(request, BinaryFile._add_chunk)
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
                except BaseException:
                    # It ends by itself; who calls close() again need not wait.
                    self._closing.set_result(None)
                    raise
                finally:
                    if self._on_close is not None:
                        self._on_close()
                self._closing.set_result(None)
                request.outcome()
                return
        if not self._closing.done():
            await asyncio.shield(self._closing)

    aclose = close

    def _last_request(self) -> Request[None]:
        data, offset = b"".join(self._out), self._write_offset
        where = self._position if self._shares and not self._append else -1
        self._out = []
        return fsops.writing(fsops.FINISH, self._fd, data, offset, position=where)

    async def _close_later(self) -> None:
        try:
            # Those that wait for their turn are told that the file is closed.
            if self._busy:
                turn = self._loop.create_future()
                self._turns.append(turn)
                await turn
            failure: Exception | None = None
            try:
                await self._settle()
            except Exception as exc:
                failure = exc
            if self._fd.in_flight:
                await self._fd.idle()
            request = self._last_request()
            request.start()
            await request.wait()
            request.outcome()
            if failure is not None:
                raise failure
        finally:
            self._leave()
            if self._on_close is not None:
                self._on_close()


class TextFile:
    """An open file of text, as `loopfast.fs.open` makes it, above a `BinaryFile`, its `buffer`.

    The methods are those of Python's text files with ``await``
    (https://docs.python.org/3/library/io.html#io.TextIOBase), and raise what those of `BinaryFile` raise, and
    ``UnicodeError``. What `tell` returns is for `seek` alone.
    """

    def __init__(
        self, buffer: BinaryFile, encoding: str, errors: str, newline: str | None, line_buffering: bool, mode: str
    ) -> None:
        self._binary = buffer
        self._encoding = encoding
        self._errors = errors
        self._mode = mode
        self._line_buffering = line_buffering
        # What ends a line: None for any of the three. As io.TextIOWrapper has it.
        self._ending = None if newline == "" else newline or "\n"
        self._written_ending = os.linesep if newline is None else newline
        self._translates = newline is None
        self._decodes_newlines = not newline
        self._encoder: Any = None
        self._decoder: Any = None
        # What was decoded, and how much of that is taken. The part before `_split` is left from older bytes.
        self._text = ""
        self._at = 0
        self._split = 0
        # For both parts: the decoder's flags where they begin, their bytes. And how many characters of the older bytes
        # come before `_text`.
        self._new: tuple[int, bytes] = (0, b"")
        self._old: tuple[int, bytes] = (0, b"")
        self._skipped = 0
        # The last look for more found the end of the file.
        self._has_ended = False

    # ------------------------------------------------------------------------------------------------- what it is

    @property
    def buffer(self) -> BinaryFile:
        """The file of bytes below. What was decoded ahead is taken from it already."""
        return self._binary

    @property
    def encoding(self) -> str:
        """The name of the encoding."""
        return self._encoding

    @property
    def errors(self) -> str:
        """What becomes of text that cannot be encoded or decoded."""
        return self._errors

    @property
    def line_buffering(self) -> bool:
        """True if the end of each line flushes."""
        return self._line_buffering

    @property
    def name(self) -> Any:
        """The path or descriptor that it was opened with."""
        return self._binary.name

    @property
    def mode(self) -> str:
        """The mode that it was opened with."""
        return self._mode

    @property
    def closed(self) -> bool:
        """True from the call of `close` on."""
        return self._binary.closed

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._binary.fileno()

    def isatty(self) -> bool:
        """Return True if this is a terminal."""
        return self._binary.isatty()

    def readable(self) -> bool:
        """Return True if it can be read."""
        return self._binary.readable()

    def writable(self) -> bool:
        """Return True if it can be written."""
        return self._binary.writable()

    def seekable(self) -> bool:
        """Return True if it has positions."""
        return self._binary.seekable()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<loopfast.fs.TextFile name={self.name!r} mode={self._mode!r} encoding={self._encoding!r}{state}>"

    # ------------------------------------------------------------------------------------------------- reading

    def _new_decoder(self) -> Any:
        decoder = codecs.getincrementaldecoder(self._encoding)(self._errors)
        return io.IncrementalNewlineDecoder(decoder, self._translates) if self._decodes_newlines else decoder

    async def _fill(self) -> bool:
        """Decode more; False at the end of the file."""
        binary = self._binary
        if self._decoder is None:
            self._decoder = self._new_decoder()
        rest = len(self._text) - self._at
        if binary._at == len(binary._chunk):
            await binary._fill(max(binary._ahead(), rest))
        # From here on nothing waits: the bytes are taken and decoded, or are still there.
        data = binary._chunk[binary._at :]
        waiting, flags = self._decoder.getstate()
        text = self._decoder.decode(data, not data)
        binary._at = len(binary._chunk)
        self._has_ended = not data
        if not rest:
            self._old, self._skipped = (0, b""), 0
        elif self._at >= self._split:
            self._old, self._skipped = self._new, self._at - self._split
        else:
            self._old, self._skipped = (self._old[0], self._old[1] + self._new[1]), self._skipped + self._at
        self._new = flags, waiting + data
        if waiting and rest:
            # They are in the older part, too.
            self._old = self._old[0], self._old[1][: len(self._old[1]) - len(waiting)]
        self._text = self._text[self._at :] + text
        self._at, self._split = 0, rest
        return bool(data)

    def _take(self, count: int) -> str:
        text = self._text[self._at : self._at + count]
        self._at += len(text)
        if self._at == len(self._text) and self._decoder is not None:
            waiting, flags = self._decoder.getstate()
            if not waiting:
                # Nothing before here is needed to tell where this is.
                self._text, self._at, self._split, self._skipped = "", 0, 0, 0
                self._new, self._old = (0 if self._has_ended else flags, b""), (0, b"")
        return text

    async def _be_read(self) -> None:
        if self._binary._out:
            await self._binary._flush_out()

    async def read(self, size: int | None = -1, /) -> str:
        """Return *size* characters, fewer only at the end of the file; everything up to there if *size* is negative."""
        binary = self._binary
        binary._check_reads()
        if size is None:
            size = -1
        await binary._enter()
        try:
            await self._be_read()
            if size < 0:
                # All of it, at once if it is not large, for one decoding.
                if binary._at == len(binary._chunk):
                    request = fsops.on_file(fsops.READ_WHOLE, binary._fd, 0, binary._end if binary._seekable else -1)
                    await binary._run(request, BinaryFile._add_chunk)
                while await self._fill():
                    pass
                return self._take(len(self._text) - self._at)
            while len(self._text) - self._at < size and await self._fill():
                pass
            return self._take(size)
        finally:
            binary._leave()

    def _line_end(self, start: int) -> int:
        """Return where the line in the text ends, looking from *start* on; -1 if it does not."""
        if self._ending is None:
            found = _ANY_NEWLINE.search(self._text, start)
            return found.end() if found else -1
        end = self._text.find(self._ending, start)
        return -1 if end < 0 else end + len(self._ending)

    async def readline(self, size: int = -1, /) -> str:
        """Return the next line with its end, or at most *size* characters of it; none at the end of the file."""
        binary = self._binary
        binary._check_reads()
        if size < 0 and not binary._busy and binary._pending is None:
            end = self._line_end(self._at)
            if end >= 0:
                line = self._text[self._at : end]
                self._at = end
                return line
        await binary._enter()
        try:
            await self._be_read()
            looked_at = 0
            while True:
                end = self._line_end(self._at + looked_at)
                count = (end if end >= 0 else len(self._text)) - self._at
                if 0 <= size <= count:
                    return self._take(size)
                if end >= 0:
                    return self._take(count)
                # An end of two characters may be there by half.
                looked_at = max(count - 1, 0)
                if not await self._fill() and self._line_end(self._at + looked_at) < 0:
                    rest = len(self._text) - self._at
                    return self._take(rest if size < 0 else min(size, rest))
        finally:
            binary._leave()

    async def readlines(self, hint: int | None = -1, /) -> list[str]:
        """Return the remaining lines; no more once they exceed *hint* characters, if that is positive."""
        lines = []
        total = 0
        while line := await self.readline():
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint < total:
                break
        return lines

    def __aiter__(self) -> TextFile:
        return self

    async def __anext__(self) -> str:
        if self._ending == "\n" and not self._binary._busy and self._binary._pending is None:
            end = self._text.find("\n", self._at) + 1
            if end:
                self._binary._check_reads()
                line = self._text[self._at : end]
                self._at = end
                return line
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    # ------------------------------------------------------------------------------------------------- writing

    def _encode_from(self, position: int) -> None:
        """Begin to encode at *position*: no mark of the byte order in the middle of a file."""
        if self._encoder is None:
            self._encoder = codecs.getincrementalencoder(self._encoding)(self._errors)
        if position:
            self._encoder.setstate(0)
        else:
            self._encoder.reset()

    def _encode(self, text: str) -> bytes:
        if self._encoder is None:
            self._encode_from(self._binary._position if self._binary._seekable else 0)
        data: bytes = self._encoder.encode(text)
        return data

    async def write(self, text: str, /) -> int:
        """Write *text*: into the buffer, and when that is full to the file. Returns the number of characters.

        After reading, it goes to where the reader is. Cancelled, either all of it is written or nothing.
        """
        binary = self._binary
        binary._check_writes()
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        size = len(text)
        has_end = self._line_buffering and ("\n" in text or "\r" in text)
        if self._written_ending and self._written_ending != "\n":
            text = text.replace("\n", self._written_ending)
        if (
            not (has_end or binary._busy or binary._chunk or self._text or self._new[1])
            and binary._pending is None
            and binary._out_size + 4 * len(text) + 8 < binary._buffer_size
        ):
            data = self._encode(text)
            binary._out.append(data)
            binary._out_size += len(data)
            return size
        await binary._enter()
        try:
            if self._text or self._new[1]:
                await self._be_where_read()
            await binary._put(self._encode(text))
            if has_end:
                await binary._flush_out()
        finally:
            binary._leave()
        return size

    async def writelines(self, lines: Iterable[str], /) -> None:
        """Write each of *lines*, without adding ends to them."""
        for line in lines:
            await self.write(line)

    async def _be_where_read(self) -> None:
        """Have the file of bytes stand where the text was read to."""
        if self._binary._seekable:
            await self._go_to(self._tell())
        self._forget()

    async def truncate(self, size: int | None = None, /) -> int:
        """Give the file *size* bytes, the position by default. Returns the size."""
        binary = self._binary
        binary._check_writes()
        await binary._enter()
        try:
            if self._text or self._new[1]:
                await self._be_where_read()
            return await binary._truncate(size)
        finally:
            binary._leave()

    async def flush(self) -> None:
        """Have the system take what the buffer holds."""
        await self._binary.flush()

    async def fsync(self) -> None:
        """Flush, and have the system write the file and what it knows of it to the device."""
        await self._binary.fsync()

    async def fdatasync(self) -> None:
        """Flush, and have the system write the file to the device, and of what it knows only what reading needs."""
        await self._binary.fdatasync()

    # ------------------------------------------------------------------------------------------------- position
    # A position of text, as in io.TextIOWrapper: where in the bytes decoding can begin, with which flags of the decoder,
    # how many bytes to feed it then, and how many of their characters to skip.

    def _forget(self) -> None:
        self._text, self._at, self._split, self._skipped = "", 0, 0, 0
        self._new = self._old = 0, b""
        if self._decoder is not None:
            self._decoder.reset()

    def _tell(self) -> int:
        binary = self._binary
        flags, data = self._new
        count = self._at - self._split
        position = binary._position - len(data)
        if count < 0:
            flags, data = self._old[0], self._old[1] + data
            position -= len(self._old[1])
            count = self._skipped + self._at
        if count == 0:
            return position | flags << 64
        # Decode once more from there, byte by byte, and remember the last place where nothing was left over.
        decoder = self._new_decoder()
        decoder.setstate((b"", flags))
        safe, safe_flags, safe_count, found = 0, flags, 0, 0
        for number in range(len(data)):
            found += len(decoder.decode(data[number : number + 1]))
            waiting, now = decoder.getstate()
            if not waiting and found <= count:
                safe, safe_flags, safe_count = number + 1, now, found
            if found >= count and not (found == count and waiting):
                fed = number + 1
                break
        else:
            fed = len(data)
            decoder.decode(b"", True)
            return (position + safe) | safe_flags << 64 | (fed - safe) << 128 | (count - safe_count) << 192 | 1 << 256
        if count == safe_count:
            return (position + safe) | safe_flags << 64
        return (position + safe) | safe_flags << 64 | (fed - safe) << 128 | (count - safe_count) << 192

    async def _go_to(self, cookie: int) -> None:
        binary = self._binary
        mask = (1 << 64) - 1
        position, flags = cookie & mask, cookie >> 64 & mask
        fed, skipped, is_end = cookie >> 128 & mask, cookie >> 192 & mask, cookie >> 256
        await binary._seek(position, os.SEEK_SET)
        self._forget()
        if cookie and (binary._readable or flags or skipped):
            if self._decoder is None:
                self._decoder = self._new_decoder()
            self._decoder.setstate((b"", flags))
            self._new = flags, b""
        if fed:
            data = await binary._read(fed)
            text = self._decoder.decode(data, bool(is_end))
            if len(text) < skipped:
                raise OSError("can't restore logical file position")
            self._text, self._at = text, skipped
            self._new = flags, data
        self._encode_from(cookie)

    async def tell(self) -> int:
        """Return the position, a number for `seek`."""
        binary = self._binary
        binary._check_seeks()
        await binary._enter()
        try:
            return self._tell()
        finally:
            binary._leave()

    async def seek(self, cookie: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to what `tell` returned, to the beginning (0), or, with an offset of 0, to here or to the end.

        Raises:
            ValueError: *cookie* is negative, or *whence* unknown.
            io.UnsupportedOperation: an offset from here or the end that is not 0.
        """
        binary = self._binary
        binary._check_seeks()
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"invalid whence ({whence!r}, should be 0, 1 or 2)")
        if whence and cookie:
            raise io.UnsupportedOperation(f"can't do nonzero {'cur' if whence == 1 else 'end'}-relative seeks")
        if cookie < 0:
            raise ValueError(f"negative seek position {cookie!r}")
        await binary._enter()
        try:
            if whence == os.SEEK_END:
                cookie = await binary._seek(0, os.SEEK_END)
                self._forget()
                self._encode_from(cookie)
            else:
                if whence == os.SEEK_CUR:
                    cookie = self._tell()
                await self._go_to(cookie)
            return cookie
        finally:
            binary._leave()

    # ------------------------------------------------------------------------------------------------- the end

    async def __aenter__(self: _F) -> _F:
        self.fileno()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what the buffer holds, and close the file. As `BinaryFile.close`."""
        await self._binary.close()

    aclose = close


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

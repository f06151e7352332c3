"""TextFile: text above a BinaryFile, decoded ahead and encoded behind, as io.TextIOWrapper does it."""

from __future__ import annotations

import codecs
import io
import os
import re
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TypeVar

from loopfast._files import BinaryFile

_F = TypeVar("_F", bound="TextFile")

_ANY_NEWLINE = re.compile(r"\r\n|\r|\n")


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
                    await binary._fill_rest()
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
    # A position of text, as in io.TextIOWrapper: where in the bytes decoding can begin, with which flags of the
    # decoder, how many bytes to feed it then, and how many of their characters to skip.

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

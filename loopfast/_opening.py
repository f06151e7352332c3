"""What open() does with its arguments, for files with a path, a descriptor, or without a name."""

from __future__ import annotations

import codecs
import io
import locale
import os
import stat
from collections.abc import Awaitable
from typing import Any

from loopfast import fsops
from loopfast._files import BUFFER_SIZE, BinaryFile, Opening
from loopfast._textfiles import TextFile
from loopfast.fsops import Descriptor


def parse_mode(mode: str) -> tuple[int, bool]:
    """Return the flags for the system and whether this is about bytes; raise what builtins.open() raises."""
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    letters = set(mode)
    if letters - set("rwxa+bt") or len(mode) > len(letters):
        raise ValueError(f"invalid mode: {mode!r}")
    if len(letters & set("rwxa")) != 1:
        raise ValueError(f"must have exactly one of create/read/write/append mode: {mode!r}")
    if letters >= {"b", "t"}:
        raise ValueError(f"can't have text and binary mode at once: {mode!r}")
    flags = os.O_RDWR if "+" in letters else os.O_RDONLY if "r" in letters else os.O_WRONLY
    if "w" in letters:
        flags |= os.O_CREAT | os.O_TRUNC
    elif "x" in letters:
        flags |= os.O_CREAT | os.O_EXCL
    elif "a" in letters:
        flags |= os.O_CREAT | os.O_APPEND
    return flags, "b" in letters


def text_encoding(encoding: str | None) -> str:
    """The name of the encoding, which must be one of text."""
    if encoding is None or encoding == "locale":
        encoding = io.text_encoding(encoding, 4)
        if encoding == "locale":
            encoding = locale.getencoding()
    elif not isinstance(encoding, str):
        raise TypeError(f"open() argument 'encoding' must be str or None, not {type(encoding).__name__}")
    if not getattr(codecs.lookup(encoding), "_is_text_encoding", True):
        raise LookupError(f"{encoding!r} is not a text encoding; use codecs.open() to handle arbitrary codecs")
    return encoding


def text_errors(errors: str | None) -> str:
    """Return the name of the way to treat errors of encoding; LookupError if there is none such."""
    if errors is None:
        return "strict"
    codecs.lookup_error(errors)
    return errors


def check_newline(newline: str | None) -> None:
    """Raise ValueError or TypeError unless *newline* is one that open() takes."""
    if newline is not None and not isinstance(newline, str):
        raise TypeError(f"open() argument 'newline' must be str or None, not {type(newline).__name__}")
    if newline not in (None, "", "\n", "\r", "\r\n"):
        raise ValueError(f"illegal newline value: {newline!r}")


async def make_file(
    request: Awaitable[Any],
    name: Any,
    mode: str,
    buffering: int,
    text: tuple[str, str, str | None] | None,
    closes: bool | None,
) -> Any:
    """Make the file of an open request. *closes*: of a descriptor that was given, whether the file owns it."""
    descriptor, kind, size, position, is_terminal = await request
    if stat.S_ISCHR(kind):
        # Where a terminal stands means nothing.
        position = -1 if is_terminal else position
    if closes:
        descriptor.is_owned = True
    buffer_size = buffering if buffering > 1 or buffering == 0 else BUFFER_SIZE
    file = BinaryFile(descriptor, name, mode, buffer_size, position, size, closes is not None)
    if text is None:
        return file
    return TextFile(file, *text, buffering == 1 or (buffering < 0 and is_terminal), mode)


def opening(
    file: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
) -> Opening[Any]:
    """Return what opens a file with the arguments of open(), which are checked here."""
    flags, is_binary = parse_mode(mode)
    text = None
    if is_binary:
        for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
            if value is not None:
                raise ValueError(f"binary mode doesn't take {name!r}, got {value!r}")
    else:
        check_newline(newline)
        if buffering == 0:
            raise ValueError("can't have unbuffered text I/O")
        text = text_encoding(encoding), text_errors(errors), newline
    if isinstance(file, int):
        if file < 0:
            raise ValueError(f"negative file descriptor: {file!r}")

        def open_number() -> Any:
            descriptor = Descriptor(file, False)
            request = fsops.on_file(fsops.OPEN, descriptor, 0, flags=flags)
            return make_file(request, file, mode, buffering, text, closefd)

        return Opening(open_number)
    if not closefd:
        raise ValueError(f"Cannot use closefd=False with file name {file!r}")
    path = os.fspath(file)
    if (b"\0" if isinstance(path, bytes) else "\0") in path:
        raise ValueError(f"embedded null byte in {path!r}")

    def open_path() -> Any:
        return make_file(fsops.on_path(fsops.OPEN, path, 0o666, flags), path, mode, buffering, text, None)

    return Opening(open_path)

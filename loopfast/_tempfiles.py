"""Temporary files and directories: what tempfile has, with ``await``."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from loopfast import fsops
from loopfast._files import Opening, surely
from loopfast._opening import make_file, opening, text_encoding, text_errors
from loopfast.fsops import Request

_T = TypeVar("_T")

#: Names that are tried for a temporary file, as in tempfile.
_TRIES = 10_000


def _temporary_names(suffix: Any, prefix: Any, dir: Any) -> tuple[Any, Callable[[], Any]]:
    """The directory for temporary files, and what makes names in it; text or bytes as the arguments say."""
    parts = [
        part if part is None or isinstance(part, (str, bytes)) else os.fspath(part) for part in (suffix, prefix, dir)
    ]
    is_bytes = any(isinstance(part, bytes) for part in parts)
    if is_bytes and any(isinstance(part, str) for part in parts):
        raise TypeError("Can't mix bytes and non-bytes in path components.")
    suffix, prefix, dir = parts
    if dir is None:
        dir = tempfile.gettempdirb() if is_bytes else tempfile.gettempdir()
    suffix = suffix if suffix is not None else b"" if is_bytes else ""
    prefix = prefix if prefix is not None else tempfile.gettempprefixb() if is_bytes else tempfile.gettempprefix()
    folder = os.path.abspath(dir)

    def make() -> Any:
        text = os.urandom(6).hex()
        return os.path.join(folder, prefix + (text.encode() if is_bytes else text) + suffix)

    return folder, make


async def _made(request: Request[_T], undo: Callable[[Any], None], path: Any) -> _T:
    """Run a request that makes *path* to its end; if this task is cancelled meanwhile, *undo* it then."""
    request.start()
    if not request.done:
        try:
            await request.wait()
        except BaseException:
            # Not in a task of its own: where a program ends, nobody would wait for that.
            request.cancel()
            if not request.done:
                await surely(request.wait())
            with contextlib.suppress(OSError):
                outcome: Any = request.outcome()
                if isinstance(outcome, tuple):
                    # Tracebacks keep the request and what came of it.
                    outcome[0].drop()
                undo(path)
            raise
    return request.outcome()


_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


async def _open_temporary(suffix: Any, prefix: Any, dir: Any) -> tuple[tuple[Any, ...], Any]:
    """Return the outcome of an open request for a new file, and its path."""
    _, make = _temporary_names(suffix, prefix, dir)
    for _ in range(_TRIES):
        path = make()
        try:
            return await _made(fsops.on_path(fsops.OPEN, path, 0o600, _NEW_FILE), os.unlink, path), path
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, "No usable temporary file name found")


async def mkstemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> tuple[int, Any]:
    """Make a file that only this user may use; return its descriptor, which is the caller's, and its path.

    Raises:
        OSError: it cannot be made.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.mkstemp
    """
    opened, path = await _open_temporary(suffix, prefix, dir)
    return opened[0].give(), path


async def mkdtemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
    """Make a directory that only this user may use; return its path.

    Raises:
        OSError: it cannot be made.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.mkdtemp
    """
    _, make = _temporary_names(suffix, prefix, dir)
    for _ in range(_TRIES):
        path = make()
        try:
            await _made(fsops.on_path(fsops.MKDIR, path, 0o700), os.rmdir, path)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(errno.EEXIST, "No usable temporary directory name found")


async def _done(outcome: Any) -> Any:
    return outcome


def _temporary(
    mode: str,
    buffering: int,
    encoding: str | None,
    newline: str | None,
    errors: str | None,
    suffix: Any,
    prefix: Any,
    dir: Any,
    delete: bool,
    is_named: bool,
) -> Opening[Any]:
    # The checks of open(), of which nothing is opened.
    opening("", mode, buffering, encoding, errors, newline, True)
    is_binary = "b" in mode
    text = None if is_binary else (text_encoding(encoding), text_errors(errors), newline)

    async def open_it() -> Any:
        opened, path = await _open_temporary(suffix, prefix, dir)
        try:
            if not is_named:
                _remove(path)
            file = await make_file(_done(opened), path if is_named else opened[0].number, mode, buffering, text, None)
        except BaseException:
            # Nobody else knows its name.
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        if is_named and delete:
            binary = file if is_binary else file.buffer
            binary._on_close = weakref.finalize(binary, _remove, path)
        return file

    return Opening(open_it)


def _remove(path: Any) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def TemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: Any = None,
    prefix: Any = None,
    dir: Any = None,
    *,
    errors: str | None = None,
) -> Opening[Any]:
    """Open a file without a name, which is gone when it is closed. The arguments are those of `open` and `mkstemp`.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.TemporaryFile
    """
    return _temporary(mode, buffering, encoding, newline, errors, suffix, prefix, dir, True, False)


def NamedTemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: Any = None,
    prefix: Any = None,
    dir: Any = None,
    delete: bool = True,
    *,
    errors: str | None = None,
) -> Opening[Any]:
    """Open a file whose ``name`` is its path, which is removed when it is closed, unless *delete* is False.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.NamedTemporaryFile
    """
    return _temporary(mode, buffering, encoding, newline, errors, suffix, prefix, dir, delete, True)


class TemporaryDirectory:
    """A directory that is removed with all that is in it: ``async with TemporaryDirectory() as path``.

    Args:
        suffix: what its name ends with.
        prefix: what it begins with.
        dir: where it is made.
        ignore_cleanup_errors: do not say that something in it could not be removed.
        delete: remove it.

    Source: https://docs.python.org/3/library/tempfile.html#tempfile.TemporaryDirectory
    """

    def __init__(
        self,
        suffix: Any = None,
        prefix: Any = None,
        dir: Any = None,
        ignore_cleanup_errors: bool = False,
        *,
        delete: bool = True,
    ) -> None:
        self._names = suffix, prefix, dir
        self._ignores = ignore_cleanup_errors
        self._deletes = delete
        #: The path, once it is made.
        self.name: Any = None
        self._finalizer: Any = None

    def __await__(self) -> Any:
        return self._make().__await__()

    async def _make(self) -> TemporaryDirectory:
        if self.name is not None:
            raise RuntimeError(f"this directory was made already: {self.name!r}")
        self.name = await mkdtemp(*self._names)
        if self._deletes:
            self._finalizer = weakref.finalize(self, _remove_dropped, self.name, repr(self))
        return self

    def __repr__(self) -> str:
        return f"<loopfast.fs.TemporaryDirectory {self.name!r}>"

    async def __aenter__(self) -> Any:
        await self._make()
        return self.name

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._deletes:
            await self.cleanup()

    async def cleanup(self) -> None:
        """Remove the directory. Idempotent. Cancelled, it is removed at the latest with this object.

        Raises:
            OSError: something in it could not be removed.
        """
        if self.name is None:
            return
        try:
            await self._remove_tree()
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._keep()
            raise
        self._keep()

    async def _remove_tree(self) -> None:
        try:
            await fsops.on_path(fsops.LSTAT, self.name)
        except FileNotFoundError:
            return
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, functools.partial(shutil.rmtree, self.name, self._ignores))

    def _keep(self) -> None:
        """Do not remove it when this object goes."""
        if self._finalizer is not None:
            self._finalizer.detach()


def _remove_dropped(path: Any, text: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    warnings.warn(f"implicitly cleaning up {text}", ResourceWarning, stacklevel=2)

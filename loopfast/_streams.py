"""What asyncio's streams become on a native transport: the same classes, with the common case of each method compiled.

An object gets its class here when it meets its transport. All that is not the common case is asyncio's own method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from loopfast.streams import use_classes

# Looked up at import: the classes that are extended are those that loopfast.streams knows.
InheritedReader = asyncio.StreamReader
InheritedProtocol = asyncio.StreamReaderProtocol
InheritedWriter = asyncio.StreamWriter


class _StreamReader(InheritedReader):
    pass


class _StreamWriter(InheritedWriter):
    pass


class _StreamReaderProtocol(InheritedProtocol):
    _client_connected_cb: Callable[..., Any] | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        callback = self._client_connected_cb
        if callback is None:
            super().connection_made(transport)
            return

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
            self._client_connected_cb = callback
            if type(writer) is InheritedWriter:
                writer.__class__ = _StreamWriter
            return callback(reader, writer)

        self._client_connected_cb = connected
        try:
            super().connection_made(transport)
        finally:
            self._client_connected_cb = callback


def _look_like(ours: type, theirs: type) -> None:
    """Have *ours* introduce itself as the class it stands for."""
    for name, method in vars(ours).items():
        if callable(method):
            method.__doc__ = getattr(theirs, name).__doc__
            method.__qualname__ = getattr(theirs, name).__qualname__
    ours.__doc__ = theirs.__doc__
    ours.__name__, ours.__qualname__, ours.__module__ = theirs.__name__, theirs.__qualname__, theirs.__module__


def use_fast_streams() -> None:
    """Have native transports give these classes to the streams that they meet."""
    _look_like(_StreamReader, InheritedReader)
    _look_like(_StreamWriter, InheritedWriter)
    _look_like(_StreamReaderProtocol, InheritedProtocol)
    use_classes(_StreamReader, _StreamReaderProtocol, _StreamWriter)

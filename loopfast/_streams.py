"""What asyncio's streams become on a native transport: the same classes, with the common case of each method compiled.

An object gets its class when it is made for a server, or else when it meets its transport. All that is not the common
case is asyncio's own method.
"""

from __future__ import annotations

import asyncio
from asyncio import streams
from types import CodeType, FunctionType
from typing import Any

from loopfast.streams import may_be_fast, use_classes

# Looked up at import: the classes that are extended are those that loopfast.streams knows.
InheritedReader = asyncio.StreamReader
InheritedProtocol = asyncio.StreamReaderProtocol
InheritedWriter = asyncio.StreamWriter
inherited_connection_made = InheritedProtocol.connection_made


class _StreamReader(InheritedReader):
    pass


class _StreamWriter(InheritedWriter):
    pass


class _StreamReaderProtocol(InheritedProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if streams.StreamWriter is InheritedWriter and InheritedProtocol.connection_made is inherited_connection_made:
            _connection_made(self, transport)
        else:
            super().connection_made(transport)


def _is_of_streams(function: Any) -> bool:
    return isinstance(function, FunctionType) and function.__globals__ is vars(streams)


def _with_our_classes(function: Any) -> Any:
    """Return asyncio's own *function*, which differs between versions, with our classes where it names asyncio's: an
    object that gets another class later keeps a second copy of its attributes. What is not asyncio's stays as it is.
    """
    if not _is_of_streams(function):
        return function
    names = {
        **vars(streams),
        "StreamReader": _StreamReader,
        "StreamReaderProtocol": _StreamReaderProtocol,
        "StreamWriter": _StreamWriter,
    }
    made = FunctionType(function.__code__, names, None, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


_connection_made = _with_our_classes(inherited_connection_made)

#: The code of what start_server() and start_unix_server() make a connection's protocol with.
_FACTORIES = frozenset(
    code
    for start in (streams.start_server, getattr(streams, "start_unix_server", None))
    for code in getattr(getattr(start, "__code__", None), "co_consts", ())
    if isinstance(code, CodeType)
)


def with_fast_streams(loop: asyncio.AbstractEventLoop, factory: Any) -> Any:
    """Return *factory*, which makes protocols; if it is that of asyncio's streams, one that makes our classes."""
    if not _is_of_streams(factory) or factory.__code__ not in _FACTORIES:
        return factory
    fast = _with_our_classes(factory)

    def make() -> Any:
        replaced = streams.StreamReader is not InheritedReader or streams.StreamReaderProtocol is not InheritedProtocol
        return factory() if replaced or not may_be_fast(loop) else fast()

    return make


def _look_like(ours: type, theirs: type) -> None:
    """Have *ours* introduce itself as the class it stands for."""
    for name, method in vars(ours).items():
        if callable(method):
            method.__doc__ = getattr(theirs, name).__doc__
            method.__qualname__ = getattr(getattr(theirs, name), "__qualname__", method.__qualname__)
    ours.__doc__ = theirs.__doc__
    ours.__name__, ours.__qualname__, ours.__module__ = theirs.__name__, theirs.__qualname__, theirs.__module__


def use_fast_streams() -> None:
    """Have native transports give these classes to the streams that they meet."""
    _look_like(_StreamReader, InheritedReader)
    _look_like(_StreamWriter, InheritedWriter)
    _look_like(_StreamReaderProtocol, InheritedProtocol)
    use_classes(_StreamReader, _StreamReaderProtocol, _StreamWriter)

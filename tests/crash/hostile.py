"""The fixed set of hostile arguments, and how a callable is called with them: in the same order for the same seed."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any


class Refusal(Exception):
    """What a hostile object raises."""


class Raising:
    """Raises at whatever is asked of it, but hash() of the type and identity."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise Refusal("hostile object")

    __index__ = __int__ = __float__ = __bool__ = __len__ = __iter__ = __next__ = __call__ = _refuse
    __eq__ = __hash__ = __repr__ = __str__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _refuse
    __getitem__ = __setitem__ = __delitem__ = __enter__ = __exit__ = __await__ = __add__ = __radd__ = _refuse
    fileno = close = cancel = done = _run = is_closing = getsockname = connection_made = data_received = _refuse


class Lying:
    """Answers every question, wrongly."""

    family = type = proto = -1
    _cancelled = False

    def __index__(self) -> int:
        return 2**31

    def __bool__(self) -> bool:
        raise Refusal("neither true nor false")

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return -1

    def __repr__(self) -> str:
        return "\0" * 3 + "\ud800"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: -1


class RaisingRepr:
    def __repr__(self) -> str:
        raise Refusal("no repr")

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise Refusal("called")


class HostileText(str):
    def __eq__(self, other: object) -> bool:
        raise Refusal("no comparison")

    __hash__ = str.__hash__


class HostileNumber(int):
    def __add__(self, other: object) -> Any:
        raise Refusal("no sum")

    __radd__ = __lt__ = __ge__ = __neg__ = __eq__ = __add__  # type: ignore[assignment]
    __hash__ = int.__hash__


def raising(*args: Any, **kwargs: Any) -> Any:
    raise Refusal("hostile function")


def exiting(*args: Any, **kwargs: Any) -> Any:
    raise SystemExit(77)


async def coroutine(*args: Any) -> None:
    raise Refusal("hostile coroutine")


def values(*own: Any) -> list[Callable[[], Any]]:
    """Return functions that make the hostile arguments; *own* are the objects under test, to be turned on themselves.

    Made anew for each call where a call can use them up.
    """
    closed_socket = socket.socket()
    closed_socket.close()
    unconnected = socket.socket()
    unconnected.setblocking(False)
    closed_loop = asyncio.SelectorEventLoop()
    closed_loop.close()
    regular = open(os.devnull, "rb")  # noqa: SIM115
    fixed: list[Any] = [
        None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**30, sys.maxsize, -1e308, 0.0, float("nan"), float("inf"),
        1j, "", "\0", "x\0y", "\ud800", HostileText("\0text"), HostileNumber(7), b"", b"\0", b"x" * 300_000,
        (), (1,), [None], {}, {"context": 1}, set(), object(), object, type, int, Raising(), Lying(), RaisingRepr(),
        raising, exiting, len, asyncio.Protocol, asyncio.BufferedProtocol, Raising,
        closed_socket, unconnected, regular, closed_loop, contextvars.copy_context(), Refusal("argument"),
        KeyboardInterrupt(), NotImplemented, ..., sys, memoryview(b"abc"), slice(None),
    ]  # fmt: skip
    made: list[Callable[[], Any]] = [lambda value=value: value for value in (*fixed, *own)]
    made += [
        bytearray,
        lambda: bytearray(b"x" * 70_000),
        lambda: iter([b"x", 1]),
        lambda: memoryview(bytearray(64))[::2],
        lambda: contextvars.copy_context(),
        asyncio.Protocol,
        asyncio.BufferedProtocol,
        lambda: _unawaited(coroutine()),
    ]
    return made


def _unawaited(coro: Any) -> Any:
    coro.close()
    return coro


def keywords_of(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except Exception:
        return ["context"]
    return [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def shortest(function: Any) -> int:
    """Return how many positional arguments *function* wants, 1 where that is not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except Exception:
        return 1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def argument_lists(
    function: Any, pool: list[Callable[[], Any]], count: int, rng: random.Random
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Yield *count* argument lists: mostly as many as *function* wants, so that the call gets past its signature."""
    wanted = shortest(function)
    names = keywords_of(function)
    yield (), {}
    for number in range(count - 1):
        length = wanted if number % 4 else rng.randrange(6)
        # Not of a generator: the tuple would grow, while the watchdog may hold it as one of all objects.
        positional = tuple([rng.choice(pool)() for _ in range(length)])
        keywords = {}
        if names and number % 3 == 0:
            for name in rng.sample(names, min(len(names), rng.randrange(1, 3))):
                if name not in names[:length]:
                    keywords[name] = rng.choice(pool)()
        yield positional, keywords


def shown(value: Any) -> str:
    """Return *value* for a log line, without running code of its own."""
    if type(value) in (int, float, complex, bool, type(None), str, bytes):
        text = ascii(value)
        return text if len(text) < 40 else f"{text[:30]}...({len(text)})"
    if isinstance(value, type):
        return type.__repr__(value)
    return object.__repr__(value)

# Python's view of the handles and their queues; the Cython declarations are in callbacks.pxd.

import asyncio
import sys
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

from typing_extensions import disjoint_base

_Ts = TypeVarTuple("_Ts")

def set_contexts(name: str) -> None: ...
def knows_contexts() -> bool: ...

@disjoint_base
class Handle(asyncio.Handle):
    def __init__(self) -> None: ...
    if sys.version_info < (3, 12):
        # asyncio has it from 3.12 on.
        def get_context(self) -> Context: ...

# Also a Handle of ours; as asyncio's handles have slots, a type checker allows one of the two bases.
@disjoint_base
class TimerHandle(asyncio.TimerHandle):
    def __init__(self) -> None: ...
    if sys.version_info < (3, 12):
        def get_context(self) -> Context: ...
    def __hash__(self) -> int: ...
    def __lt__(self, other: object, /) -> bool: ...
    def __le__(self, other: object, /) -> bool: ...
    def __gt__(self, other: object, /) -> bool: ...
    def __ge__(self, other: object, /) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...

# Made by call_soon_threadsafe() from Python 3.14 on.
@disjoint_base
class ThreadSafeHandle(Handle): ...

@disjoint_base
class CallbackQueues:
    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle: ...
    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    @property
    def slow_callback_duration(self) -> float: ...
    @slow_callback_duration.setter
    def slow_callback_duration(self, value: float) -> None: ...

    # Compiled, for _loop.py.
    def _set_timing(self, enabled: bool) -> None: ...
    def _timed_call(self) -> float: ...

    # asyncio's own, stored here.
    _current_handle: asyncio.Handle | None
    _debug: bool

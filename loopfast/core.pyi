# What Python code may know of the compiled core; the Cython declarations are in core.pxd.

import asyncio
import sys
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple

from typing_extensions import disjoint_base

_Ts = TypeVarTuple("_Ts")

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
class LoopObject: ...

@disjoint_base
class LoopCore:
    slow_callback_duration: float
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
    def time(self) -> float: ...
    def stop(self) -> None: ...
    def libuv_get_loop_t_ptr(self) -> object: ...

    # Compiled, for _loop.py.
    def _check_closed(self) -> None: ...
    def _close_core(self) -> None: ...
    def _run_until_stopped(self) -> None: ...

    # asyncio's own, stored here.
    _closed: bool
    _debug: bool
    _internal_fds: int
    _ready: Any
    _signal_handlers: dict[int, asyncio.Handle]
    _stopping: bool
    _thread_id: int | None

class UnraisableArguments:
    exc_type: type[BaseException]
    exc_value: BaseException
    exc_traceback: Any
    err_msg: str
    object: None
    def __init__(self, exception: BaseException) -> None: ...

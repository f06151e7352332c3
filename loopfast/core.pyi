# What Python code may know of the compiled core; the Cython declarations are in core.pxd.

import asyncio
from typing import TypedDict

class BuildInfo(TypedDict):
    libuv_loaded: str
    libuv_headers: str
    cython: str
    compiler: str
    debug: bool

class Handle(asyncio.Handle): ...
class TimerHandle(asyncio.TimerHandle): ...

def libuv_version() -> str: ...
def build_info() -> BuildInfo: ...
def debug_counters() -> dict[str, tuple[int, int]]: ...

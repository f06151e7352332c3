# What Python code may know of the build; the Cython declarations are in buildinfo.pxd.

from typing import TypedDict, type_check_only

@type_check_only
class BuildInfo(TypedDict):
    libuv_loaded: str
    libuv_headers: str
    cython: str
    compiler: str
    debug: bool

def libuv_version() -> str: ...
def build_info() -> BuildInfo: ...
def debug_counters() -> dict[str, tuple[int, int]]: ...

# The compiled cffi module: its names are those of libuv and are looked up in the declarations of _build.py.

from typing import Any

ffi: Any
lib: Any

"""The low-level libuv binding: a cffi API-mode module on the very libuv that loopfast's event loop runs on.

`lib` holds libuv's functions and constants under their own names (https://docs.libuv.org), `ffi` makes and casts C
data. A handle made here on `loop_pointer(loop)` is an equal of the loop's own. Rules libuv sets: call into a loop only
from the thread that runs it; keep a handle's memory and its callback alive until its close callback has run.
"""

from __future__ import annotations

import asyncio
from typing import Any

from loopfast.uv._uv import ffi, lib

__all__ = ["ffi", "lib", "loop_pointer", "version"]


def version() -> str:
    """The version of the libuv that is loaded, such as "1.52.1" (uv_version_string)."""
    return _text(lib.uv_version_string())


def loop_pointer(loop: asyncio.AbstractEventLoop | None = None) -> Any:
    """The `uv_loop_t *` of an asyncio loop, valid until that loop is closed.

    Arguments:
        loop: a `loopfast.Loop`; by default the running loop.

    Raises:
        RuntimeError: no `loop` was given and none is running, or the loop is closed.
        TypeError: the loop is not loopfast's. Loops of other libraries that offer such a pointer run on another copy of
            libuv, whose structures must not be handed to this one.
    """
    if loop is None:
        loop = asyncio.get_running_loop()
    if not any(kind.__module__.partition(".")[0] == "loopfast" for kind in type(loop).__mro__):
        raise TypeError(f"loop_pointer() needs a loopfast event loop, got {loop!r}")
    capsule = loop.libuv_get_loop_t_ptr()  # type: ignore[attr-defined]
    pointer = lib.loopfast_capsule_pointer(id(capsule))
    if pointer == ffi.NULL:
        raise TypeError(f"{type(loop).__name__}.libuv_get_loop_t_ptr() returned {capsule!r}, not a loop's capsule")
    return ffi.cast("uv_loop_t *", pointer)


def _text(chars: Any) -> str:
    """A NUL-terminated C string of libuv's, which are all ASCII."""
    text: str = ffi.string(chars).decode("ascii")
    return text


def _check_library() -> None:
    """ImportError unless the libuv loaded is the one whose headers this module was compiled with."""
    headers = _text(lib.LOOPFAST_UV_HEADER_VERSION_STRING)
    if lib.uv_version() != lib.LOOPFAST_UV_HEADER_VERSION or lib.uv_loop_size() != ffi.sizeof("uv_loop_t"):
        raise ImportError(
            f"loopfast.uv was compiled against libuv {headers} (loop of {ffi.sizeof('uv_loop_t')} bytes), but libuv "
            f"{version()} (loop of {lib.uv_loop_size()} bytes) is loaded; another libuv in this process comes first"
        )


_check_library()

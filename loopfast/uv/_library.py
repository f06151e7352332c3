"""Refuses to work with another libuv than the one whose headers loopfast.uv was compiled with."""

from __future__ import annotations

from loopfast.uv._uv import ffi, lib


def _check() -> None:
    headers, loaded = (
        ffi.string(text).decode("ascii") for text in (lib.LOOPFAST_UV_HEADER_VERSION_STRING, lib.uv_version_string())
    )
    if lib.uv_version() != lib.LOOPFAST_UV_HEADER_VERSION or lib.uv_loop_size() != ffi.sizeof("uv_loop_t"):
        raise ImportError(
            f"loopfast.uv was compiled against libuv {headers} (loop of {ffi.sizeof('uv_loop_t')} bytes), but libuv "
            f"{loaded} (loop of {lib.uv_loop_size()} bytes) is loaded; another libuv in this process comes first"
        )


_check()

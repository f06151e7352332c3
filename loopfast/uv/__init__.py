"""The low-level libuv binding: `ffi` and `lib` of a cffi API-mode module on the very libuv that loopfast's loop runs on."""

from loopfast.uv._uv import ffi, lib

__all__ = ["ffi", "lib"]

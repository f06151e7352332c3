"""Builds loopfast.uv._uv: cffi's API-mode view of the libuv the loop itself runs on. Run by setup.py only."""

from cffi import FFI

CDEF = """
    unsigned int uv_version(void);
    const char *uv_version_string(void);
    size_t uv_loop_size(void);
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source("loopfast.uv._uv", "#include <uv.h>")

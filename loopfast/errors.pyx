"""libuv's status codes as Python exceptions.

On POSIX a libuv code is a negated errno, and ``OSError(errno, text)`` picks its own subclass; the few codes that libuv
invented (name resolution, end of file) have entries of their own.
"""

import os
import socket

from loopfast.includes cimport uv

# Codes without an errno, by libuv's name for them (https://docs.libuv.org/en/v1.x/errors.html).
cdef dict NAMED = {
    "UV_EAI_AGAIN": socket.EAI_AGAIN,
    "UV_EAI_FAMILY": socket.EAI_FAMILY,
    "UV_EAI_FAIL": socket.EAI_FAIL,
    "UV_EAI_MEMORY": socket.EAI_MEMORY,
    "UV_EAI_NONAME": socket.EAI_NONAME,
    "UV_EAI_SERVICE": socket.EAI_SERVICE,
    "UV_EAI_SOCKTYPE": socket.EAI_SOCKTYPE,
}

cdef enum:
    # More than Linux has.
    KNOWN_TEXTS = 160

# Texts of the system's own error numbers: to ask for one costs more than all else about an error.
cdef list TEXTS = [None] * KNOWN_TEXTS


cdef object error_from_uv(int code):
    """Return the exception for the libuv status *code* (negative), without raising it."""
    if -KNOWN_TEXTS < code < 0 and TEXTS[-code] is not None:
        return OSError(-code, TEXTS[-code])
    cdef str name = uv.uv_err_name(code).decode("ascii")
    cdef str text = uv.uv_strerror(code).decode("utf-8", "replace")
    if code == uv.UV_EOF:
        return EOFError(text)
    if code == uv.UV_ENOMEM:
        return MemoryError(text)
    resolver = NAMED.get("UV_" + name)
    if resolver is not None:
        return socket.gaierror(resolver, text)
    if -4000 < code < 0:
        text = os.strerror(-code)
        if -KNOWN_TEXTS < code:
            TEXTS[-code] = text
        return OSError(-code, text)
    return OSError(f"libuv error {name} ({code}): {text}")


cdef object system_error(int code):
    return OSError(-code, os.strerror(-code)) if code == uv.UV_ENOMEM else error_from_uv(code)


cdef int raise_uv(int code) except -1:
    raise error_from_uv(code)


def uv_exception(int code) -> BaseException:
    """Return the exception that loopfast raises for a libuv status code.

    Args:
        code: a negative libuv status, as `uv_strerror` takes it.

    Returns:
        An ``OSError`` (of the subclass its errno picks), ``socket.gaierror``, ``MemoryError`` or ``EOFError``.

    Raises:
        ValueError: *code* is not negative.

    Source: https://docs.libuv.org/en/v1.x/errors.html
    """
    if code >= 0:
        raise ValueError(f"a libuv error code is negative, got {code!r}")
    return error_from_uv(code)

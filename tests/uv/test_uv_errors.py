"""Errors: the binding's table is that of the compiled loop, for every code there is."""

from __future__ import annotations

import errno
import re
import socket
from typing import Any

import pytest

from loopfast import uv
from loopfast.errors import uv_exception
from loopfast.uv import errors

CODES = {name: getattr(uv.lib, name) for name in dir(uv.lib) if re.fullmatch(r"UV_(E[A-Z0-9]\w+|UNKNOWN)", name)}


def test_they_are_all_there() -> None:
    assert len(CODES) > 80 and {"UV_EOF", "UV_ENOMEM", "UV_EAI_NONAME", "UV_UNKNOWN", "UV_E2BIG"} <= set(CODES)


@pytest.mark.parametrize(("name", "code"), sorted(CODES.items()))
def test_same_exception_as_the_loops(name: str, code: int) -> None:
    ours, theirs = errors.error(code), uv_exception(code)
    assert type(ours) is type(theirs) and ours.args == theirs.args and str(ours) == str(theirs)
    assert getattr(ours, "errno", None) == getattr(theirs, "errno", None)
    assert "UV_" + uv.err_name(code) == name


def test_what_they_are() -> None:
    expected: list[tuple[str, Any]] = [
        ("UV_ENOENT", FileNotFoundError),
        ("UV_EAGAIN", BlockingIOError),
        ("UV_ECONNRESET", ConnectionResetError),
        ("UV_EOF", EOFError),
        ("UV_ENOMEM", MemoryError),
        ("UV_EAI_NONAME", socket.gaierror),
    ]
    for name, kind in expected:
        assert type(errors.error(CODES[name])) is kind
    named = errors.error(uv.lib.UV_ENOENT, "file")
    assert isinstance(named, FileNotFoundError) and named.filename == "file"
    for code in (0, 5):
        with pytest.raises(ValueError, match=str(code)):
            errors.error(code)
    assert errors.check(7) == 7
    with pytest.raises(PermissionError):
        errors.check(uv.lib.UV_EPERM)


def test_names_and_texts() -> None:
    assert uv.err_name(uv.lib.UV_EBADF) == "EBADF" and uv.strerror(uv.lib.UV_EBADF) == "bad file descriptor"
    assert uv.translate_sys_error(errno.EPIPE) == uv.lib.UV_EPIPE
    assert "12345" in uv.err_name(-12345) and "12345" in uv.strerror(-12345)

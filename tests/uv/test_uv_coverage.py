"""The table of libuv's functions is that of the pinned header, and says what is true."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

import loopfast
from loopfast import uv
from loopfast.uv import coverage

ROOT = Path(loopfast.__file__).parents[1]
HEADER = ROOT / "vendor" / "libuv" / "include" / "uv.h"
TABLE = ROOT / "docs" / "libuv-coverage.md"


@pytest.fixture(scope="module")
def header() -> str:
    if not HEADER.exists():
        pytest.skip("built against the system's libuv: its source is not in vendor/libuv")
    return HEADER.read_text(encoding="utf-8")


def test_the_header_is_read(header: str) -> None:
    names = coverage.functions(header)
    assert len(names) > 300 and len(set(names)) == len(names)
    # A second reading, by a rule of its own.
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    assert len(names) == len(re.findall(r"^UV_EXTERN ", text, re.MULTILINE))
    assert {"uv_run", "uv_version", "uv_wtf8_to_utf16", "uv_thread_self", "uv_fs_get_ptr"} <= set(names)


def test_every_function_has_a_place_or_a_reason(header: str) -> None:
    names, found = coverage.functions(header), coverage.bindings()
    assert [name for name in names if name not in found and coverage.reason(name) is None] == []
    # What is left out may be called from within, but not be offered.
    for name in names:
        if name in found and coverage.reason(name) is not None:
            assert all(coverage._is_private(*place) for place in found[name]), name


def test_every_reason_is_needed(header: str) -> None:
    names = coverage.functions(header)
    for key in coverage.LEFT_OUT:
        assert any(name == key or key.endswith("*") and name.startswith(key[:-1]) for name in names), key


def test_every_place_exists(header: str) -> None:
    names = set(coverage.functions(header))
    for function, places in coverage.bindings().items():
        if function not in names:
            continue
        module, place = places[0]
        thing: Any = importlib.import_module(f"loopfast.uv.{module}")
        for part in place.split(".") if place else ():
            thing = getattr(thing, part)
        public = place.split(".")[0]
        if module not in {"fs", "errors"} and not coverage._is_private(module, place):
            assert hasattr(uv, public), f"{function} is in {module}.{place}, which loopfast.uv does not offer"


def test_the_compiled_module_has_them(header: str) -> None:
    names = set(coverage.functions(header))
    for function in coverage.bindings():
        if function in names and coverage.reason(function) is None:
            by_helper = any(function in called for called in coverage._helpers().values())
            assert by_helper or hasattr(uv.lib, function), function


def test_the_table_is_up_to_date(header: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loopfast.uv.coverage", str(HEADER)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == TABLE.read_text(encoding="utf-8"), (
        "run python -m loopfast.uv.coverage vendor/libuv/include/uv.h > docs/libuv-coverage.md"
    )


def test_a_new_function_is_noticed(header: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "version.h").write_text((HEADER.parent / "uv" / "version.h").read_text())
    more = tmp_path / "uv.h"
    more.write_text(header + "\nUV_EXTERN int uv_brand_new(int one,\n    int two);\n")
    assert coverage.main([str(more)]) == 1
    assert "uv_brand_new" in capsys.readouterr().err


def test_types_of_the_header_have_a_place(header: str) -> None:
    """Every handle and request type is a class here."""
    handles = re.search(r"#define UV_HANDLE_TYPE_MAP\(XX\)(.*?)\n\n", header, re.DOTALL)
    requests = re.search(r"#define UV_REQ_TYPE_MAP\(XX\)(.*?)\n\n", header, re.DOTALL)
    assert handles and requests
    for name in re.findall(r"XX\((\w+),", handles[1]):
        assert hasattr(uv.HandleType, name)
    for name in re.findall(r"XX\((\w+),", requests[1]):
        assert hasattr(uv.RequestType, name)
    text = "".join(path.read_text(encoding="utf-8") for path in coverage.HERE.glob("*.py"))
    for lower in re.findall(r"XX\(\w+, (\w+)\)", handles[1] + requests[1]):
        assert f"uv_{lower}_t" in text, lower


def test_the_annotations_of_overloads_mean_something() -> None:
    """They are text until somebody asks: a documentation tool, or typing.get_type_hints()."""
    asked = 0
    for function in filter(inspect.isfunction, vars(uv.fs).values()):
        for overload in typing.get_overloads(function):
            for annotation in overload.__annotations__.values():
                eval(annotation, vars(uv.fs))
                asked += 1
    assert asked > 100

"""The types of the public API: a strict type checker accepts good programs, finds mistakes, and the stubs are true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import loopfast

pytestmark = pytest.mark.timeout(300)

HERE = Path(__file__).resolve().parent


def run_mypy(module: str, *arguments: str) -> tuple[int, str]:
    """Run mypy, or a tool of it, in a process of its own, on the very loopfast that the tests use."""
    root = str(Path(loopfast.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "NO_COLOR": "1"}
    if "site-packages" not in root:
        environment["MYPYPATH"] = root
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=HERE,
        env=environment,
        timeout=280,
    )
    return ended.returncode, ended.stdout


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """What mypy says of both programs: file -> line -> the codes of its errors."""
    options = ["--strict", "--config-file=", "--show-error-codes", "--hide-error-context", "--no-pretty"]
    cache = str(tmp_path_factory.mktemp("mypy"))
    status, out = run_mypy("mypy", *options, "--cache-dir", cache, "sample.py", "mistakes.py")
    assert status in (0, 1), out
    found: dict[str, dict[int, set[str]]] = {"sample.py": {}, "mistakes.py": {}}
    for line in out.splitlines():
        if match := re.match(r"(.+?):(\d+): error: .*\[([\w-]+)\]$", line):
            found.setdefault(match[1], {}).setdefault(int(match[2]), set()).add(match[3])
    return found, out


def test_a_program_that_uses_the_public_names_is_accepted(checked):
    found, out = checked
    assert found.pop("sample.py") == {}, out
    assert set(found) == {"mistakes.py"}, out


def test_mistakes_are_found(checked):
    expected = {}
    for number, line in enumerate(HERE.joinpath("mistakes.py").read_text().splitlines(), 1):
        if "# E: " in line:
            expected[number] = set(line.partition("# E: ")[2].split(", "))
    assert len(expected) > 10
    found, out = checked
    assert found["mistakes.py"] == expected, out


def test_the_stubs_describe_the_compiled_modules(tmp_path):
    """Every compiled module has a stub beside it, whose names and signatures are those of the module."""
    configuration = tmp_path / "mypy.ini"
    configuration.write_text(f"[mypy]\ncache_dir = {tmp_path / 'cache'}\n")
    status, out = run_mypy(
        "mypy.stubtest",
        "loopfast",
        "--allowlist",
        str(HERE / "allowed.txt"),
        "--ignore-unused-allowlist",
        "--mypy-config-file",
        str(configuration),
    )
    assert status == 0, out


def test_the_package_says_that_it_is_typed():
    assert Path(loopfast.__file__).with_name("py.typed").is_file()

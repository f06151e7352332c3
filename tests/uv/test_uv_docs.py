"""Each example of docs/uv.md, and the README's, runs and prints what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import loopfast
from loopfast.uv import coverage

ROOT = Path(loopfast.__file__).parents[1]
PAGE = ROOT / "docs" / "uv.md"
EXAMPLE = re.compile(r"^```python\n((?:(?!```).*\n)*)```\n\n```text\n((?:(?!```).*\n)*)```", re.MULTILINE)


def examples(path: Path) -> list[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    found = EXAMPLE.findall(text)
    if path == PAGE:
        assert len(found) == text.count("```python\n"), "an example without its output"
    return [pair for pair in found if "loopfast import uv" in pair[0]]


CASES = [(path.name, *pair) for path in (PAGE, ROOT / "README.md") for pair in examples(path)]


@pytest.mark.parametrize(("page", "program", "output"), CASES, ids=[f"{case[0]}-{i}" for i, case in enumerate(CASES)])
def test_example(page: str, program: str, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == sorted(output.splitlines())


def test_there_are_examples() -> None:
    assert len(CASES) >= 10 and {page for page, _, _ in CASES} == {"uv.md", "README.md"}


def test_the_numbers_of_the_page() -> None:
    header = ROOT / "vendor" / "libuv" / "include" / "uv.h"
    if not header.exists():
        pytest.skip("built against the system's libuv: its source is not in vendor/libuv")
    names = coverage.functions(header.read_text(encoding="utf-8"))
    bound = sum(coverage.reason(name) is None for name in names)
    assert f"It offers {bound} of libuv's {len(names)} functions" in PAGE.read_text(encoding="utf-8")

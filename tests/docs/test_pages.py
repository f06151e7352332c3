"""What pages must say because code says it: environment variables, names. And the checks of the built site."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from blocks import blocks

import loopfast

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_every_environment_variable_is_documented() -> None:
    """A name in quotes in Python or Cython code is read, set or printed by it; C's own names are not in quotes."""
    used = set()
    folders = ("loopfast", "vendor", "bench", "tests/interop")
    for path in [ROOT / "setup.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py*"))]:
        if path.suffix in (".py", ".pyx") and "vendor/libuv/" not in path.as_posix():
            used |= set(re.findall(r"""["'](LOOPFAST_[A-Z_]+)["']""", path.read_text(encoding="utf-8")))
    assert {"LOOPFAST_TLS_ENGINE", "LOOPFAST_DEBUG", "LOOPFAST_CI"} <= used
    told = set(re.findall(r"LOOPFAST_[A-Z_]+", (DOCS / "troubleshooting.md").read_text(encoding="utf-8")))
    assert used - told == set(), "docs/troubleshooting.md does not list them"
    assert told - used == set(), "docs/troubleshooting.md lists what nobody reads"


def test_errors_of_builds_are_quoted_as_they_are() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    table = page.partition("## It does not build")[2].partition("**Without")[0]
    code = "".join(
        path.read_text(encoding="utf-8") for path in (*(ROOT / "vendor").glob("*.py"), ROOT / "loopfast/__init__.py")
    )
    quotations = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(quotations) == 5
    for piece in (piece.strip(" :") for text in quotations for piece in text.replace("'cc'", "...").split("...")):
        # Literals are split over lines.
        assert piece in re.sub(r'"\s+f?"', "", code), piece


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference.md").read_text(encoding="utf-8") + "".join(
        path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")
    )
    documented = set(re.findall(r"^ *\.\. (?:auto)?[a-z]+:: (?:loopfast\.)?([\w.]+)", text, re.MULTILINE))
    assert set(loopfast.__all__) | {"EventLoopPolicy"} <= documented


def test_every_page_is_in_the_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:[\w ]+<)?([a-z/-]+)>?$", index, re.MULTILINE))
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert pages - named == {"index", "README"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\npass\n", "no end"),
        ("<!-- example: flie x -->\n```python\n```\n", "no clause is called"),
        ("<!-- example: output -->\nwords\n", "is none"),
        ("<!-- example: output -->\n", "before no block"),
    ],
)
def test_a_page_that_cannot_be_understood(tmp_path: Path, text: str, message: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=message):
        blocks(page)


def load_check() -> Any:
    spec = importlib.util.spec_from_file_location("loopfast_docs_check", DOCS / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('<a href="other.html">', "no such file"),
        ('<a href="#there">', "no such anchor"),
        ('<p id="a"><p id="a">', "two elements"),
        ('<script src="https://example.org/x.js"></script>', "from elsewhere"),
    ],
)
def test_the_check_finds_what_is_wrong(tmp_path: Path, body: str, message: str) -> None:
    check = load_check()
    (tmp_path / "index.html").write_text('<p id="here"><a href="#here">x</a><a href="https://example.org/">y</a>')
    assert check.check(tmp_path) == ([], {"https://example.org/": {"index.html"}})
    (tmp_path / "index.html").write_text(body)
    wrong, _ = check.check(tmp_path)
    assert len(wrong) == 1 and message in wrong[0]

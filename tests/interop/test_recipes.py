"""docs/integrations.md: every section's files and commands, run as they are printed."""

from __future__ import annotations

import os
import re
import shlex
import sys
import sysconfig
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from programs import Program, connection, free_port, once_up, python

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
# A block, and the name of a file in the line before it.
BLOCK = re.compile(r"(?:^`(?P<title>[\w.]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SERVERS = ("uvicorn", "fastapi", "gunicorn", "hypercorn")

pytestmark = pytest.mark.interop(
    "uvicorn", "gunicorn", "uvicorn_worker", "hypercorn", "fastapi_cli", "pytest_asyncio", "anyio"
)


class Recipe(NamedTuple):
    files: dict[str, str]
    commands: list[tuple[list[str], list[str]]]  # words, and lines of the output


def recipes() -> dict[str, Recipe]:
    """The sections of the page that have commands."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        recipe = Recipe({}, [])
        for block in BLOCK.finditer(section):
            if block["title"]:
                recipe.files[block["title"]] = block["text"]
            elif block["language"] == "console":
                for line in block["text"].splitlines():
                    if line.startswith("$ "):
                        recipe.commands.append((shlex.split(line[2:]), []))
                    else:
                        recipe.commands[-1][1].append(line)
        if recipe.commands:
            found[section.partition("\n")[0]] = recipe
    return found


RECIPES = recipes()


def start(words: list[str], folder: Path) -> Program:
    """Start a command as the shell of an activated environment would."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = {"PATH": path, "HOME": str(folder)}
    if words[0] in ("loopfast", *SERVERS):
        words = ["python", "-m", *words]
    assert words[0] == "python"
    return python(*words[1:], cwd=folder, **environment)


def test_the_page_was_read() -> None:
    assert {"uvicorn", "gunicorn", "hypercorn", "pytest-asyncio", "anyio"} <= RECIPES.keys()
    assert all(recipe.files for recipe in RECIPES.values())


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is for POSIX systems")
@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    for title, text in recipe.files.items():
        (tmp_path / title).write_text(text, encoding="utf-8")
    for words, output in recipe.commands:
        port = free_port()
        is_server = any(word in SERVERS for word in words)
        with start([word.replace("8000", str(port)) for word in words], tmp_path) as program:
            if is_server:
                program.expect(rf"(?i)(running on|listening at:?) .*:{port}")
                answer = once_up(partial(connection, port), "/")
                assert answer in (b"loopfast._loop", {"loop": "loopfast._loop"})
                assert program.stop() in (0, -15), program.output
            else:
                assert program.ended() == 0, program.output
                for line in output:
                    program.expect(f"^{re.escape(line)}" if "passed" in line else f"^{re.escape(line)}$")

"""``make test-all``: builds loopfast and runs ``make test`` with each interpreter found, and sums up.

Looked for: the Pythons that pyproject.toml names and the free-threaded 3.14, in the variable LOOPFAST_PYTHONS (paths or
commands, separated by spaces), on PATH, and among pyenv's. Ends with 1 where one failed or was not found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FREE_THREADED = "3.14t"
# Asked of an interpreter before it is used. A build needs the headers, and the compiler it was made with or `cc`.
PROBE = """
import json, os, shutil, sys, sysconfig
headers = os.path.join(sysconfig.get_path("include"), "Python.h")
compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2] + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""),
    "full": sys.version.split()[0],
    "headers": os.path.exists(headers),
    "compiler": shutil.which(compiler) is not None,
    "ensurepip": __import__("importlib.util").util.find_spec("ensurepip") is not None,
}))
"""


class Interpreter(NamedTuple):
    """One that works: its command, "3.14" or "3.14t", and what PROBE says of it."""

    command: str
    version: str
    facts: dict[str, object]


def wanted() -> list[str]:
    """The versions that pyproject.toml's classifiers name, oldest first, and the free-threaded one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in project["classifiers"]]
    return [*(match[1] for match in found if match), FREE_THREADED]


def candidates(versions: list[str]) -> Iterator[str]:
    """Commands that may be interpreters, those that the user names first."""
    yield from os.environ.get("LOOPFAST_PYTHONS", "").split()
    for version in versions:
        yield f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    found = pyenv.glob("3.*/bin/python") if os.name != "nt" else pyenv.glob("3.*/python.exe")
    yield from map(str, sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))], reverse=True))


def probe(command: str) -> Interpreter | None:
    """What *command* is; None where it is no interpreter that runs (pyenv's shims answer without one behind them)."""
    path = shutil.which(command)
    if path is None:
        return None
    try:
        done = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, timeout=60)
        facts = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return Interpreter(path, str(facts["version"]), facts) if facts and facts["headers"] else None


def find(versions: list[str]) -> dict[str, Interpreter]:
    """The first interpreter of each version."""
    found: dict[str, Interpreter] = {}
    for command in candidates(versions):
        if (interpreter := probe(command)) and interpreter.version in versions:
            found.setdefault(interpreter.version, interpreter)
    return found


def prepare(interpreter: Interpreter) -> dict[str, str]:
    """The environment for `make` with *interpreter*; makes its virtual environment where `python -m venv` cannot."""
    environment = dict(os.environ)
    if interpreter.version == FREE_THREADED:
        # Or a module of some other package would turn the GIL on.
        environment["PYTHON_GIL"] = "0"
    if not interpreter.facts["compiler"] and "CC" not in environment:
        # One that was built elsewhere remembers a compiler that is not here.
        environment["CC"] = shutil.which("cc") or "gcc"
        environment["LDSHARED"] = f"{environment['CC']} -shared"
    folder = ROOT / ".venv" / interpreter.version
    if interpreter.facts["ensurepip"] is False or not can_make_environments(interpreter, folder):
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        subprocess.run([interpreter.command, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
        for pip in (interpreter.command, sys.executable):
            words = [pip, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(python)]
            if subprocess.run([*words, "install", "pip"], timeout=600).returncode == 0:
                break
        (folder / ".created").touch()
    return environment


def can_make_environments(interpreter: Interpreter, folder: Path) -> bool:
    """True if *folder* is there, or `python -m venv` makes it."""
    if (folder / ".created").exists():
        return True
    words = [interpreter.command, "-m", "venv", "--clear", str(folder)]
    if subprocess.run(words, capture_output=True, timeout=300).returncode == 0:
        (folder / ".created").touch()
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def run(interpreter: Interpreter, target: str, arguments: str) -> tuple[bool, str]:
    """``make target`` with *interpreter*: whether it passed, and the last line that sums up."""
    words = ["make", target, f"PYTHON={interpreter.command}", f"VENV=.venv/{interpreter.version}", f"ARGS={arguments}"]
    last = ""
    with subprocess.Popen(
        words, cwd=ROOT, env=prepare(interpreter), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.search(r"\d+ (passed|failed|error)", line):
                last = line.strip(" =\n")
    return process.returncode == 0, last or f"make ended with {process.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-all", description=__doc__)
    parser.add_argument("--only", metavar="VERSION", action="append", help="3.12, 3.14t ...; again for more")
    parser.add_argument("--target", default="test", help="what to make (default: test)")
    parser.add_argument("--list", action="store_true", help="say what was found, and end")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    versions = options.only or wanted()
    found = find(versions)
    if options.list:
        for version in versions:
            print(f"{version:6} {found[version].command if version in found else 'not found'}")
        return 0
    results: dict[str, tuple[bool, str]] = {}
    for version in versions:
        if version not in found:
            results[version] = False, "not found: name one in LOOPFAST_PYTHONS"
            continue
        print(f"\n=== Python {found[version].facts['full']}: {found[version].command}", flush=True)
        started = time.monotonic()
        passed, text = run(found[version], options.target, " ".join(options.arguments))
        results[version] = passed, f"{text} ({time.monotonic() - started:.0f} s)"
    print(f"\n=== make {options.target} with every Python")
    for version, (passed, text) in results.items():
        print(f"{version:6} {'passed' if passed else 'FAILED'}  {text}")
    return 0 if all(passed for passed, _ in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

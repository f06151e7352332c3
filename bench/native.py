"""Where the benchmarks are, how their processes start, and their C programs, compiled on the spot and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
LAUNCHER = SOURCES / "launch.py"


def checkout(sources: Path = SOURCES) -> Path | None:
    """Returns the folder of the checkout that `sources` belong to, None for an installed package."""
    root = sources.parent
    return root if (root / "setup.py").is_file() and (root / "loopfast").is_dir() else None


def cache() -> Path:
    """Returns the folder for what is compiled: the checkout's build/bench, otherwise one of the user's caches."""
    if (root := checkout()) is not None:
        return root / "build" / "bench"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "loopfast-bench"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loopfast-bench"


CACHE = cache()


def command(module: str, *arguments: str) -> list[str]:
    """Returns the command line that runs `module` of this folder (such as "suite.worker") in a fresh process."""
    return [sys.executable, str(LAUNCHER), module, *arguments]


class Unavailable(Exception):
    """Something a measurement needs is absent on this machine; the text says what, on one line."""


def tool(name: str, package: str) -> str:
    """Returns the path of the program `name`; raises Unavailable, naming the Debian package, where there is none."""
    path = shutil.which(name)
    if path is None:
        raise Unavailable(f"{name} is not installed (package {package})")
    return path


def build(source: str, flags: Sequence[str], output: str) -> Path:
    """Compiles bench/`source` with the system's C compiler and `flags` to a file named `output`; returns its path.

    An existing result of the same source and command is used again. Raises Unavailable with the compiler's first
    error where it does not compile.
    """
    compiler = os.environ.get("CC", "cc").split()
    tool(compiler[0], "gcc")
    # Libraries come after the source: the linker resolves from left to right.
    libraries = [flag for flag in flags if flag.startswith("-l")]
    words = [*compiler, "-O2", "-std=gnu11", "-Wall", *(flag for flag in flags if flag not in libraries)]
    content = (SOURCES / source).read_bytes()
    key = hashlib.sha256(b"\0".join([content, *(word.encode() for word in [*words, *libraries])])).hexdigest()[:16]
    target = CACHE / key / output
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two processes or threads may compile at the same time: each writes its own file, the rename decides.
    partial = target.with_name(f"{output}.{os.getpid()}.{threading.get_ident()}")
    done = subprocess.run(
        [*words, str(SOURCES / source), "-o", str(partial), *libraries], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        reason = next((line for line in done.stderr.splitlines() if "error" in line or "cannot find" in line), "")
        raise Unavailable(f"{source} does not compile: {reason or done.stderr.strip()[-200:]}")
    os.replace(partial, target)
    return target

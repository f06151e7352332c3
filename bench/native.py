"""Compiles the C programs of the benchmarks on the spot, into a cache under build/ keyed by source and command."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench"
CACHE = ROOT / "build" / "bench"


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
    command = [*compiler, "-O2", "-std=gnu11", "-Wall", *(flag for flag in flags if flag not in libraries)]
    content = (SOURCES / source).read_bytes()
    key = hashlib.sha256(b"\0".join([content, *(word.encode() for word in [*command, *libraries])])).hexdigest()[:16]
    target = CACHE / key / output
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two processes or threads may compile at the same time: each writes its own file, the rename decides.
    partial = target.with_name(f"{output}.{os.getpid()}.{threading.get_ident()}")
    done = subprocess.run(
        [*command, str(SOURCES / source), "-o", str(partial), *libraries], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        reason = next((line for line in done.stderr.splitlines() if "error" in line or "cannot find" in line), "")
        raise Unavailable(f"{source} does not compile: {reason or done.stderr.strip()[-200:]}")
    os.replace(partial, target)
    return target

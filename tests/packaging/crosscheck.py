"""``make crosscheck``: compiles and links libuv and every extension module for Windows and macOS, on any machine.

zig is the compiler, and brings the C headers and libraries of those systems; CPython's own headers come from its source
archive (``--source Python-3.14.N.tar.xz``). Every name must be found: in libuv, in the system's libraries, or among
those that CPython's headers export. Nothing made here is run, and Visual C++ is not its compiler: no build, a check.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from vendor import build as libuv_build  # noqa: E402
from vendor import fetch as libuv_fetch  # noqa: E402

AREA = ROOT / "build" / "cross"
HEADERS = ROOT / "loopfast" / "includes"
JOBS = int(os.environ.get("JOBS") or 2)
# zig checks undefined behaviour at run time unless told otherwise.
COMPILE = ["-O0", "-fno-sanitize=undefined", "-Wall", "-Werror", "-Wno-unused-function", "-Wno-deprecated-declarations"]
# Visual C++ has neither GNU C nor arrays of variable length.
STANDARD = ["-std=c11", "-Wgnu", "-Wvla"]
OURS = [*STANDARD, "-Wpedantic", "-Wextra", "-Wno-unused-parameter"]
THEIRS = ["-w"]


class Refused(Exception):
    """What a compiler or linker said, or a name that nobody has."""


@dataclass(frozen=True)
class Target:
    """A system as zig calls it, as `sys.platform` does, and how its modules are called."""

    triple: str
    platform: str
    suffix: str


TARGETS = {
    "windows": Target("x86_64-windows-gnu", "win32", ".pyd"),
    "macos-x86_64": Target("x86_64-macos.11.0-none", "darwin", ".so"),
    "macos-arm64": Target("aarch64-macos.11.0-none", "darwin", ".so"),
}


def zig(*words: str | Path) -> str:
    """Run zig; return what it prints. Refused with its errors."""
    done = subprocess.run(
        [sys.executable, "-m", "ziglang", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise Refused("\n".join(lines[:40]) or f"zig {words[0]} ended with {done.returncode}")
    return done.stdout


def python_headers(archive: Path) -> tuple[Path, str]:
    """Unpack Include/ and PC/ of CPython's source *archive*; return the folder and the version, such as "3.14"."""
    folder = AREA / "python"
    marker = folder / "archive"
    state = f"{archive.name} {archive.stat().st_size}"
    if not marker.exists() or marker.read_text() != state:
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                inside = member.name.partition("/")[2]
                if (
                    member.isfile()
                    and inside.endswith((".h", ".h.in"))
                    and inside.startswith(("Include/", "PC/pyconfig"))
                ):
                    member.name = inside
                    tar.extract(member, folder, filter="data")
        if not (folder / "Include" / "Python.h").exists():
            raise Refused(f"{archive} is no archive of CPython's source")
        marker.write_text(state)
    text = (folder / "Include" / "patchlevel.h").read_text(encoding="utf-8")
    major, minor = (re.search(rf"#define PY_{part}_VERSION\s+(\d+)", text) for part in ("MAJOR", "MINOR"))
    assert major and minor
    return folder, f"{major[1]}.{minor[1]}"


def configuration(target: Target, headers: Path) -> Path:
    """The folder with the target's pyconfig.h."""
    folder = AREA / target.triple / "include"
    folder.mkdir(parents=True, exist_ok=True)
    if target.platform == "win32":
        [found] = [path for name in ("pyconfig.h", "pyconfig.h.in") if (path := headers / "PC" / name).exists()][:1]
        text = found.read_text(encoding="utf-8")
    else:
        # macOS has none before CPython's configure has run there. That of this interpreter has the same sizes, and
        # CPython's headers ask it for little else.
        path = Path(sysconfig.get_config_h_filename())
        # Debian's only leads to one per kind of machine.
        other = path.parents[1] / str(sysconfig.get_config_var("MULTIARCH")) / path.parent.name / path.name
        text = (other if other.exists() else path).read_text(encoding="utf-8")
    if (folder / "pyconfig.h").exists() and (folder / "pyconfig.h").read_text(encoding="utf-8") == text:
        return folder
    (folder / "pyconfig.h").write_text(text, encoding="utf-8")
    return folder


def exported(headers: Path) -> tuple[set[str], set[str]]:
    """The names of the functions, and of the data, that CPython's headers export."""
    functions: set[str] = set()
    data: set[str] = set()
    for path in (headers / "Include").rglob("*.h"):
        text = path.read_text(encoding="utf-8")
        functions.update(re.findall(r"PyAPI_FUNC\([^;{]*?\)\s*(?:_Py_NO_RETURN\s+)?(\w+)\s*\(", text))
        data.update(re.findall(r"PyAPI_DATA\([^;{]*?\)\s*(\w+)", text))
    return functions, data


def python_library(target: Target, headers: Path) -> Path:
    """Something to link with that has CPython's names and nothing behind them."""
    functions, data = exported(headers)
    folder = AREA / target.triple
    if target.platform == "win32":
        listing, library = folder / "python.def", folder / "python.lib"
        names = [*sorted(functions), *(f"{name} DATA" for name in sorted(data))]
        listing.write_text("LIBRARY python3.dll\nEXPORTS\n" + "\n".join(names) + "\n", encoding="ascii")
        zig("dlltool", "-m", "i386:x86-64", "-d", listing, "-l", library)
        return library
    architecture = {"x86_64": "x86_64", "aarch64": "arm64"}[target.triple.partition("-")[0]]
    names = ", ".join(f"_{name}" for name in sorted(functions | data))
    library = folder / "python.tbd"
    library.write_text(
        f"--- !tapi-tbd\ntbd-version: 4\ntargets: [ {architecture}-macos ]\ninstall-name: '@rpath/Python'\n"
        f"exports:\n  - targets: [ {architecture}-macos ]\n    symbols: [ {names} ]\n...\n",
        encoding="ascii",
    )
    return library


def compile_all(jobs: list[tuple[Path, Path, list[str]]], target: Target) -> list[Path]:
    """Compile each (source, object, arguments); return the objects. Refused with all that was said."""

    def one(job: tuple[Path, Path, list[str]]) -> str:
        source, output, arguments = job
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            zig("cc", "-target", target.triple, "-c", *COMPILE, *arguments, "-o", output, source)
        except Refused as exc:
            return f"{source}:\n{exc}"
        return ""

    with ThreadPoolExecutor(JOBS) as pool:
        said = [text for text in pool.map(one, jobs) if text]
    if said:
        raise Refused("\n".join(said))
    return [output for _, output, _ in jobs]


def defines(macros: Iterable[tuple[str, str | None]]) -> list[str]:
    return [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in macros]


def link(target: Target, output: Path, *words: str | Path) -> None:
    zig("cc", "-target", target.triple, "-shared", "-o", output, *words)


class Check:
    """One target's."""

    def __init__(self, target: Target, headers: Path) -> None:
        self.target = target
        self.folder = AREA / target.triple
        self.recipe = libuv_build.platform_for(target.platform)
        self.python_includes = [configuration(target, headers), headers / "Include"]
        source = libuv_fetch.locate()
        if source is None:
            raise Refused(libuv_build.missing_source_message(libuv_fetch.Pin.load()))
        self.libuv, _ = libuv_build.prepared_tree(source, self.folder)
        self.python = python_library(target, headers)
        self.library = self.folder / self.recipe.library
        self.to_link_with = self.library.with_suffix(".lib") if target.platform == "win32" else self.library

    def includes(self) -> list[str]:
        ours = [f"-I{HEADERS}"]
        theirs = [word for path in (*self.python_includes, self.libuv / "include") for word in ("-isystem", str(path))]
        return [*ours, *theirs]

    def build_libuv(self) -> str:
        """libuv as the shared library that setup.py makes, against the system's own libraries."""
        arguments = [
            *THEIRS,
            "-std=gnu11",
            "-fno-strict-aliasing",
            *defines([*self.recipe.macros, ("BUILDING_UV_SHARED", "1")]),
            f"-I{self.libuv / 'include'}",
            f"-I{self.libuv / 'src'}",
        ]
        jobs = [
            (self.libuv / name, self.folder / "libuv" / Path(name).with_suffix(".o"), arguments)
            for name in self.recipe.sources
        ]
        objects = compile_all(jobs, self.target)
        libraries = [f"-l{name}" for name in self.recipe.libraries]
        if self.target.platform == "darwin":
            named = f"-Wl,-install_name,@rpath/{self.library.name}"
        else:
            named = f"-Wl,--out-implib,{self.to_link_with}"
        link(self.target, self.library, *objects, *libraries, named)
        return f"{len(objects)} files"

    def check_headers(self) -> str:
        """Each of our headers alone, strictly: what it uses it includes, and it is standard C."""
        headers = sorted(HEADERS.glob("*.h"))
        jobs = []
        for header in headers:
            alone = self.folder / "headers" / f"{header.stem}.c"
            alone.parent.mkdir(parents=True, exist_ok=True)
            alone.write_text(f'#include "{header.name}"\n', encoding="ascii")
            jobs.append((alone, alone.with_suffix(".o"), [*OURS, *self.includes()]))
        compile_all(jobs, self.target)
        return f"{len(headers)} files"

    def build_modules(self) -> str:
        """Every extension module as C, and linked with libuv, the system's libraries and CPython's names."""
        base = ROOT / "build" / "c"
        wanted = [path.relative_to(ROOT).with_suffix(".c") for path in (ROOT / "loopfast").rglob("*.pyx")]
        wanted.append(Path("loopfast/uv/_uv.c"))
        if missing := [str(path) for path in wanted if not (base / path).exists()]:
            raise Refused(f"not translated to C yet, build first (make test): {', '.join(missing)}")
        arguments = [*STANDARD, *defines([("USING_UV_SHARED", "1")]), *self.includes(), f"-I{base}"]
        jobs = [(base / path, (self.folder / "modules" / path).with_suffix(".o"), arguments) for path in sorted(wanted)]
        objects = compile_all(jobs, self.target)
        system = ["-lws2_32"] if self.target.platform == "win32" else []
        said = []
        for made in objects:
            try:
                link(self.target, made.with_suffix(self.target.suffix), made, self.to_link_with, self.python, *system)
            except Refused as exc:
                said.append(f"{made.relative_to(self.folder)}:\n{exc}")
        if said:
            raise Refused("\n".join(said))
        return f"{len(objects)} modules"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make crosscheck", description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="an archive of CPython's source, 3.11 or later")
    parser.add_argument("--target", choices=TARGETS, action="append", help="again for more (default: all)")
    options = parser.parse_args()
    AREA.mkdir(parents=True, exist_ok=True)
    failed = 0
    headers, version = python_headers(options.source)
    print(f"with the headers of Python {version}")
    for name in options.target or TARGETS:
        check = Check(TARGETS[name], headers)
        for step, title in (
            (check.build_libuv, "libuv"),
            (check.check_headers, "headers"),
            (check.build_modules, "loopfast"),
        ):
            try:
                print(f"ok      {name}: {title}, {step()}", flush=True)
            except Refused as exc:
                failed += 1
                print(f"FAILED  {name}: {title}\n{exc}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

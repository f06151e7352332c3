"""``make release-check``: everything a release needs, short of uploading it. Ends with 1 where something is missing.

The version and the changelog, linters, types and tests, then sdist and wheel in dist/ as users get them:
size, licences, symbols, run paths, what the metadata asks for, and an installation outside the checkout.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
LARGEST_WHEEL = 1_500_000  # bytes
# What `make` does, each a step of its own. The slow ones are left out by --quick.
QUICK_TARGETS = ("lint", "typecheck")
SLOW_TARGETS = ("test-all", "packaging")
INSTALLED = """
import sys
import loopfast
assert "cffi" not in sys.modules and "_cffi_backend" not in sys.modules, "import loopfast loads cffi"
async def main():
    import asyncio
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close()
    server.close()
loopfast.run(main())
import loopfast.uv
print(loopfast.__version__)
"""


class Wrong(Exception):
    """What a release may not go out with."""


def version() -> str:
    """The version, from the one place that states it."""
    text = (ROOT / "loopfast/_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise Wrong("loopfast/_version.py states no __version__")
    return match[1]


def check_version_is_in_one_place() -> str:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sources = [name for name in listed if name.endswith((".py", ".toml", ".pyx", ".cfg")) and name[:6] != "bench/"]
    stated = re.compile(r"version\w*\s*=\s*[\"']" + re.escape(version()) + r"[\"']")
    found = [name for name in sources if stated.search((ROOT / name).read_text(encoding="utf-8"))]
    if found != ["loopfast/_version.py"]:
        raise Wrong(f"the version is stated in {found}")
    return version()


def check_changelog() -> str:
    """A release has a dated section of its own, and nothing is left under Unreleased."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version())}\] - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE):
        raise Wrong(f"CHANGELOG.md has no section '## [{version()}] - YYYY-MM-DD'")
    unreleased = re.search(r"^## \[Unreleased\]\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    if unreleased and unreleased[1].strip():
        raise Wrong("CHANGELOG.md still has something under Unreleased")
    return "dated"


def check_tree_is_clean() -> str:
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    if changed:
        raise Wrong(f"not committed:\n{changed.rstrip()}")
    return "clean"


def the_only(pattern: str) -> Path:
    found = sorted(DIST.glob(pattern))
    if len(found) != 1:
        raise Wrong(f"dist/ should hold one {pattern}, and has {[path.name for path in found]}")
    return found[0]


def check_sdist() -> str:
    with tarfile.open(the_only("*.tar.gz")) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    for wanted in ("LICENSE", "vendor/libuv/LICENSE", "vendor/libuv/src/uv-common.c", "loopfast/core.pyx", "setup.py"):
        if wanted not in names:
            raise Wrong(f"the sdist has no {wanted}")
    if built := [name for name in names if name.endswith((".so", ".pyd", ".dylib", ".o", ".pyc"))]:
        raise Wrong(f"the sdist holds what was built: {built}")
    return f"{len(names)} files"


def check_wheel() -> str:
    wheel = the_only("*.whl")
    size = wheel.stat().st_size
    if size >= LARGEST_WHEEL:
        raise Wrong(f"{wheel.name} has {size:,} bytes, at most {LARGEST_WHEEL:,} were allowed")
    if sys.platform == "linux" and "linux_" in wheel.name.replace("manylinux_", "").replace("musllinux_", ""):
        raise Wrong(f"{wheel.name} was not repaired")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        fields = message_from_bytes(archive.read(metadata))
        licences = [name for name in names if "/licenses/" in name]
        if not any(name.endswith("/LICENSE") for name in licences) or not any("libuv" in name for name in licences):
            raise Wrong(f"licences of loopfast and libuv are wanted, there are {licences}")
        if fields["Version"] != version():
            raise Wrong(f"the wheel is version {fields['Version']}")
        needed = [line for line in fields.get_all("Requires-Dist") or () if "extra ==" not in line]
        if [re.split(r"[^\w-]", line)[0] for line in needed] != ["cffi"]:
            raise Wrong(f"the wheel asks for {needed}")
        if sys.platform == "linux":
            with tempfile.TemporaryDirectory() as folder:
                archive.extractall(folder)
                check_binaries(Path(folder))
    return f"{wheel.name}, {size:,} bytes"


def check_binaries(folder: Path) -> None:
    """No symbol table, no run path that leads out of the package, one libuv."""
    binaries = [path for path in sorted(folder.rglob("*")) if ".so" in path.suffixes]
    if len([path for path in binaries if "-uv" in path.name]) != 1:
        raise Wrong(f"one libuv is wanted: {[path.name for path in binaries]}")
    for path in binaries:
        sections = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
        if re.search(r"\.(symtab|debug_info)\b", sections):
            raise Wrong(f"{path.name} is not stripped")
        dynamic = subprocess.run(["readelf", "-dW", path], capture_output=True, text=True, check=True).stdout
        for run_path in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic):
            if not all(entry.startswith("$ORIGIN") for entry in run_path.split(":")):
                raise Wrong(f"{path.name} looks for libraries in {run_path}")


def check_installation() -> str:
    """``pip install`` of the wheel brings cffi and what that needs, and the package works outside the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
        python = Path(folder, "Scripts/python.exe" if os.name == "nt" else "bin/python")
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "--quiet", "install", the_only("*.whl")], check=True, timeout=300)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        ask = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "check": True, "timeout": 120}
        listed = subprocess.run([*pip, "list", "--format", "freeze"], **ask).stdout
        packages = {line.partition("=")[0].lower() for line in listed.splitlines()} - {"pip", "setuptools", "wheel"}
        if packages != {"loopfast", "cffi", "pycparser"}:
            raise Wrong(f"the installation brings {sorted(packages)}")
        printed = subprocess.run([python, "-W", "error", "-c", INSTALLED], **ask).stdout.strip()
        if printed != version():
            raise Wrong(f"the installed version is {printed}")
    return ", ".join(sorted(packages))


def check_types() -> str:
    """``pyright --verifytypes``: every public name has a known type."""
    words = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--ignoreexternal"]
    # It follows no import hook of an editable installation.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, "--verifytypes", "loopfast"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    score = re.search(r"Type completeness score: (\S+)", done.stdout)
    if done.returncode or score is None:
        raise Wrong((done.stdout + done.stderr)[-2000:])
    return score[1]


def check_metadata() -> str:
    """The description renders, and the metadata is what an index accepts."""
    words = [sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(DIST.iterdir()))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Wrong(done.stdout + done.stderr)
    return "accepted"


def make(target: str) -> Callable[[], str]:
    def run() -> str:
        if subprocess.run(["make", target], cwd=ROOT).returncode:
            raise Wrong(f"make {target} failed")
        return "passed"

    return run


def main() -> int:
    parser = argparse.ArgumentParser(prog="make release-check", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without make test-all and make packaging")
    parser.add_argument("--draft", action="store_true", help="before the day: no dated changelog, no clean tree")
    parser.add_argument("--built", action="store_true", help="look at dist/ as it is, and make nothing")
    options = parser.parse_args()
    steps: list[tuple[str, Callable[[], str]]] = [("version in one place", check_version_is_in_one_place)]
    if not options.draft:
        steps += [("changelog", check_changelog), ("work tree", check_tree_is_clean)]
    if not options.built:
        targets = [*QUICK_TARGETS, *(() if options.quick else SLOW_TARGETS), "wheels"]
        steps += [(f"make {target}", make(target)) for target in targets]
    steps += [
        ("sdist", check_sdist),
        ("wheel", check_wheel),
        ("metadata", check_metadata),
        ("installation", check_installation),
        ("types", check_types),
    ]
    failed = 0
    for name, step in steps:
        try:
            text = step()
        except (Wrong, subprocess.SubprocessError, OSError) as exc:
            failed += 1
            print(f"FAILED  {name}: {exc}", flush=True)
        else:
            print(f"ok      {name}: {text}", flush=True)
    print("ready for upload" if not failed else f"{failed} of {len(steps)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

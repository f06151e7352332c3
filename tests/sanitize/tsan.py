"""`make tsan`: loops in several threads, on a free-threaded CPython and an extension built with ThreadSanitizer.

The sanitizer has to see the interpreter's own synchronisation, so the interpreter is built with it as well, once, from
its source archive. tests/sanitize/README.md says how to get one, and explains what is suppressed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sanitized import AREA, copy_sources, joined
from threads import SCENARIOS

HERE = Path(__file__).resolve().parent
PREFIX = AREA / "python-tsan"
JOBS = os.environ.get("JOBS", "2")

TSAN_OPTIONS = {
    "halt_on_error": "0",
    "exitcode": "66",
    # Both stacks of a race are wanted, however long ago the first was.
    "history_size": "7",
    "second_deadlock_stack": "1",
    "suppressions": str(HERE / "tsan.supp"),
}
# Asked of an interpreter: has it no GIL, and was it built with the sanitizer?
QUESTION = "import sysconfig as s; print(s.get_config_var('Py_GIL_DISABLED'), s.get_config_var('CONFIG_ARGS'))"


def is_suitable(python: Path) -> bool:
    answer = subprocess.run([python, "-c", QUESTION], capture_output=True, text=True).stdout
    return answer.startswith("1 ") and "--with-thread-sanitizer" in answer


def build_interpreter(archive: Path) -> Path:
    """Build CPython from its source *archive* and install it, with what building an extension takes."""
    print(
        f"building a free-threaded interpreter with ThreadSanitizer from {archive.name}; this takes ten minutes or so"
    )
    with tempfile.TemporaryDirectory(dir=AREA) as folder:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
        (source,) = Path(folder).iterdir()
        quiet = {"cwd": source, "check": True, "stdout": subprocess.DEVNULL}
        options = "--disable-gil --with-thread-sanitizer --disable-test-modules --without-ensurepip".split()
        subprocess.run(["./configure", "-q", f"--prefix={PREFIX}", *options], **quiet)
        # A build runs the interpreter; what the sanitizer thinks of that is not the question.
        environment = {**os.environ, "TSAN_OPTIONS": "report_bugs=0"}
        # Compiling all of the library ahead takes longer than all the rest.
        command = ["make", "-s", f"-j{JOBS}", "install", "COMPILEALL_OPTS=-r 0"]
        subprocess.run(command, env=environment, **quiet)
    return PREFIX / "bin" / "python3"


def interpreter(given: Path | None, archive: Path | None) -> Path:
    """The interpreter to use; ends the program if there is none."""
    python = given or PREFIX / "bin" / "python3"
    if given is None and not python.exists() and archive is not None:
        python = build_interpreter(archive)
    if not python.exists() or not is_suitable(python):
        sys.exit(
            f"error: {python} is no free-threaded CPython built with ThreadSanitizer. "
            "make tsan ARGS='--source Python-3.14.N.tar.xz' builds one; ARGS='--python PATH' names another"
        )
    return python


def install_packages(python: Path) -> None:
    """Install what building takes. This interpreter's pip does it: under the sanitizer pip takes minutes to start."""
    ask = "import sys, sysconfig as s; print(s.get_path('purelib'), '%d.%d' % sys.version_info[:2])"
    place, version = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    abis = [word for abi in (f"cp{version.replace('.', '')}t", "abi3t", "none") for word in ("--abi", abi)]
    options = [
        "--target",
        place,
        "--python-version",
        version,
        "--implementation",
        "cp",
        *abis,
        "--only-binary",
        ":all:",
    ]
    packages = ["setuptools>=77", "cffi>=2"]
    subprocess.run([sys.executable, "-m", "pip", "-q", "install", *options, *packages], check=True)


def build(python: Path, tree: Path) -> None:
    """Build the extensions in *tree*, a copy of the checkout."""
    copy_sources(tree)
    environment = {**os.environ, "LOOPFAST_SANITIZE": "thread", "PYTHONPATH": "", "TSAN_OPTIONS": "report_bugs=0"}
    # This interpreter translates: the C code is the same for every interpreter, and under the sanitizer Cython takes
    # the better part of an hour.
    subprocess.run([sys.executable, "setup.py", "-q", "translate"], cwd=tree, env=environment, check=True)
    environment["LOOPFAST_TRANSLATED"] = "1"
    if subprocess.run([python, "-c", "import cffi, setuptools"], env=environment, capture_output=True).returncode:
        install_packages(python)
    command = [python, "setup.py", "-q", "build_ext", "--inplace", f"-j{JOBS}"]
    subprocess.run(command, cwd=tree, env=environment, check=True)


def summary(report: str) -> str:
    """The line of a report that names the place."""
    found = re.search(r"^SUMMARY: .*$", report, re.MULTILINE)
    return found[0] if found else report[:200]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make tsan", description=__doc__)
    parser.add_argument("--python", type=Path, help="a free-threaded interpreter built with ThreadSanitizer")
    parser.add_argument("--source", type=Path, help="an archive of CPython's source to build one from")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=600, help="after which a scenario has failed")
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; all by default")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("error: make tsan needs Linux")
    AREA.mkdir(parents=True, exist_ok=True)
    python = interpreter(options.python, options.source)
    tree = AREA / "tsan-tree"
    build(python, tree)

    logs = AREA / "tsan-logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    failed = 0
    for name in options.scenarios or SCENARIOS:
        environment = {
            **os.environ,
            "PYTHON_GIL": "0",
            "PYTHONPATH": str(tree),
            "TSAN_OPTIONS": joined(TSAN_OPTIONS, logs, name),
        }
        command = [python, tree / "tests" / "sanitize" / "threads.py", name]
        command += ["--threads", str(options.threads), "--rounds", str(options.rounds)]
        try:
            status: object = subprocess.run(command, cwd=tree, env=environment, timeout=options.seconds).returncode
        except subprocess.TimeoutExpired:
            status = "none: it did not end"
        if status != 0:
            failed += 1
            print(f"{name}: exit status {status}")

    found: dict[str, tuple[int, str]] = {}
    for path in sorted(logs.iterdir()):
        for report in re.split(r"^={18}$", path.read_text(errors="replace"), flags=re.MULTILINE):
            if "SUMMARY:" in report:
                count, first = found.get(summary(report), (0, report))
                found[summary(report)] = (count + 1, first)
    for line, (count, report) in sorted(found.items()):
        print(f"---- {count} times: {line}{report}")
    print(f"sanitizer: {len(found)} different reports" if found else "sanitizer: no report")
    return bool(failed or found)


if __name__ == "__main__":
    sys.exit(main())

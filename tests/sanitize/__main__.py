"""`make asan`: the test suite on a build with AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sanitized import AREA, copy_sources, joined

SANITIZERS = "address,undefined"

UNSEEN = "lets a call fail that the sanitizer asks the C library for itself"
# Left out, each with its reason. Nothing of what is compiled is exercised by these alone.
LEFT_OUT = {
    "tests/leaks/test_memory.py": "measures memory, which the sanitizer multiplies",
    "tests/bench": "measures speed, which a sanitizer changes, and starts compilers of its own",
    "tests/packaging": "builds packages, with flags of its own",
    "tests/parity": "repeats the interpreter's own tests, for minutes; --with-parity runs them too",
    "tests/typing": "runs type checkers and reads docstrings; no compiled code but imports",
    "tests/faults/test_limits.py::test_no_memory_for_a_datagram": UNSEEN,
    "tests/faults/test_limits.py::test_no_thread_for_the_pool": UNSEEN,
}

# A shadow value for each byte, a red zone around each block: memory is no measure here, and the leak checker would
# report what the interpreter keeps until its end. detect_stack_use_after_return costs half the speed and finds nothing
# in code that never lends the address of a local variable beyond a call.
ASAN_OPTIONS = {
    "detect_leaks": "0",
    "detect_stack_use_after_return": "0",
    "check_initialization_order": "1",
    "strict_string_checks": "1",
    "abort_on_error": "0",
    "exitcode": "99",
    # Tests ask for absurd amounts on purpose; the allocator is to answer NULL, as the C library's does.
    "allocator_may_return_null": "1",
    # faulthandler's handlers are tested; the sanitizer's own must give way.
    "allow_user_segv_handler": "1",
}
# Times that a test may take longer than usual. The sanitizers take three; the rest is for a busy machine, as hangs are
# what the limits are for.
SLOWNESS = 6
# Seconds after which a folder of tests is ended.
LONGEST = 3600
UBSAN_OPTIONS = {"print_stacktrace": "1", "halt_on_error": "0"}


def runtime_libraries() -> list[str]:
    """The sanitizers' shared libraries of the compiler that builds the extensions."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    found = []
    for name in ("libasan.so", "libubsan.so"):
        answer = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        path = Path(answer.stdout.strip())
        if not path.is_absolute():
            sys.exit(f"error: {compiler} has no {name}; install its sanitizer libraries (Debian: they come with gcc)")
        found.append(str(path.resolve()))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make asan", description=__doc__.partition("\n")[0])
    parser.add_argument("--with-parity", action="store_true", help="CPython's own asyncio tests, too")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("arguments", nargs="*", help="folders, files or options for pytest (after --)")
    options = parser.parse_args()

    if not sys.platform.startswith("linux"):
        sys.exit("error: make asan needs Linux")
    started = time.monotonic()
    libraries = runtime_libraries()
    tree = AREA / "tree"
    copy_sources(tree)
    build = {**os.environ, "LOOPFAST_SANITIZE": SANITIZERS, "LOOPFAST_DEBUG": "1", "PYTHONPATH": ""}
    jobs = build.get("JOBS", "2")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", f"-j{jobs}"], cwd=tree, env=build, check=True
    )
    if options.build_only:
        return 0

    logs = AREA / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    left_out = dict(LEFT_OUT)
    if options.with_parity:
        del left_out["tests/parity"]
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    tests = Tests(tree, logs, libraries, left_out)
    if any(not word.startswith("-") for word in options.arguments):
        tests.run("what was named", options.arguments)
    else:
        for place in places(tree):
            tests.run(place, [place, *options.arguments])
    print(f"{tests.passed} tests passed in {(time.monotonic() - started) / 60:.0f} minutes, the build included")
    for place in tests.bad:
        print(f"FAILED: {place}")
    found = sorted(logs.glob("*san.*"))
    print(f"sanitizers: {len(found)} reports" if found else "sanitizers: no report")
    return bool(tests.bad or found)


def places(tree: Path) -> list[str]:
    """Each folder of tests, and each file that is in none: a process that ends early takes only one of them with it."""
    return sorted(
        f"tests/{path.name}"
        for path in (tree / "tests").iterdir()
        if path.match("test_*.py") or (path.is_dir() and next(path.glob("test_*.py"), None))
    )


class Tests:
    """Runs pytest on one place after the other, and counts."""

    def __init__(self, tree: Path, logs: Path, libraries: list[str], left_out: dict[str, str]) -> None:
        self.tree = tree
        self.logs = logs
        self.left_out = left_out
        self.environment = {
            **os.environ,
            "LOOPFAST_SANITIZE": SANITIZERS,
            "LOOPFAST_DEBUG": "1",
            "LD_PRELOAD": " ".join(libraries),
            "LOOPFAST_TEST_SLOWNESS": str(SLOWNESS),
            # Blocks of the interpreter's own allocator would be one block to the sanitizer.
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": str(tree),
            "ASAN_OPTIONS": joined(ASAN_OPTIONS, logs, "asan"),
            "UBSAN_OPTIONS": joined(UBSAN_OPTIONS, logs, "ubsan"),
        }
        self.passed = 0
        self.bad: list[str] = []

    def run(self, place: str, arguments: list[str]) -> None:
        if place in self.left_out:
            return
        print(f"---- {place}", flush=True)
        results = self.logs / "results.xml"
        results.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow and not interop", "-p", "no:cacheprovider"]
        # On asyncio's own loop nothing of ours runs.
        command += ["--loops", "loopfast", f"--junitxml={results}"]
        command += [f"--{'deselect' if '::' in name else 'ignore'}={name}" for name in self.left_out]
        before = set(self.logs.glob("*san.*"))
        with subprocess.Popen([*command, *arguments], cwd=self.tree, env=self.environment) as process:
            try:
                status = process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                process.kill()
                print(f"it did not end within {LONGEST} s")
                status = -1
        if results.exists():
            suite = ElementTree.parse(results).getroot()[0]
            count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
            self.passed += count["tests"] - count["failures"] - count["errors"] - count["skipped"]
        # A report of a process that a test started, and whose exit status nobody looked at, counts as well.
        reports = sorted(set(self.logs.glob("*san.*")) - before)
        for path in reports:
            print(f"---- {path.name}\n{path.read_text(errors='replace')}")
        if reports or status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            self.bad.append(f"{place}: exit status {status}, {len(reports)} reports")


if __name__ == "__main__":
    sys.exit(main())

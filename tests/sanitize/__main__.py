"""`make asan`: the test suite on a build with AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from sanitized import AREA, copy_sources, joined

SANITIZERS = "address,undefined"

# Left out, each with its reason. Nothing of what is compiled is exercised by these alone.
LEFT_OUT = {
    "tests/leaks/test_memory.py": "measures memory, which the sanitizer multiplies",
    "tests/bench": "measures speed, which a sanitizer changes, and starts compilers of its own",
    "tests/packaging": "builds packages, with flags of its own",
    "tests/parity": "repeats the interpreter's own tests, for minutes; --with-parity runs them too",
    "tests/typing": "runs type checkers and reads docstrings; no compiled code but imports",
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
    environment = {
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
    left_out = dict(LEFT_OUT)
    if options.with_parity:
        del left_out["tests/parity"]
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    command = [sys.executable, "-m", "pytest", "-m", "not slow and not interop", "-p", "no:cacheprovider"]
    # On asyncio's own loop nothing of ours runs.
    command += ["--loops", "loopfast", *(f"--ignore={name}" for name in left_out)]
    has_place = any(not word.startswith("-") for word in options.arguments)
    command += options.arguments if has_place else ["tests", *options.arguments]
    status = subprocess.run(command, cwd=tree, env=environment).returncode

    # A report of a process that a test started, and whose exit status nobody looked at, counts as well.
    found = sorted(logs.iterdir())
    for path in found:
        print(f"---- {path.name}\n{path.read_text(errors='replace')}")
    print(f"sanitizers: {len(found)} reports" if found else "sanitizers: no report")
    return status or bool(found)


if __name__ == "__main__":
    sys.exit(main())

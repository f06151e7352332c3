"""``python -m tests.parity``: CPython's test_asyncio on loopfast, compared with the interpreter's own loop."""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
# Modules that make loops; the others test pure Python.
MODULES = (
    "test_base_events",
    "test_buffered_proto",
    "test_context",
    "test_eager_task_factory",
    "test_events",
    "test_free_threading",
    "test_futures",
    "test_futures2",
    "test_locks",
    "test_pep492",
    "test_queues",
    "test_runners",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_ssl",
    "test_sslproto",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_tasks",
    "test_threads",
    "test_timeouts",
    "test_unix_events",
    "test_waitfor",
)
# What `make test` runs: the loop itself, servers, streams, low-level sockets, sendfile.
QUICK = (
    "test_base_events",
    "test_buffered_proto",
    "test_context",
    "test_eager_task_factory",
    "test_events",
    "test_futures",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_streams",
)


def available(modules: Sequence[str]) -> list[str]:
    """Return those of *modules* that this interpreter ships."""
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_asyncio") is None:
        return []
    return [module for module in modules if importlib.util.find_spec(f"test.test_asyncio.{module}") is not None]


def run(kind: str, module: str, timeout: float) -> tuple[dict[str, str], str]:
    """Run *module* on the loop *kind* in a process of its own.

    Returns:
        The outcome of each test, and what the process printed; without outcomes, it crashed or took longer than
        *timeout* seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-X", "faulthandler", str(HERE / "child.py"), kind, module, str(result)]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
                check=False,
            )
            output = done.stdout
        except subprocess.TimeoutExpired as exc:
            output = f"{(exc.stdout or b'').decode(errors='replace')}\ntimed out after {timeout:g} s"
        return (json.loads(result.read_text()) if result.exists() else {}), output


def differences(module: str, timeout: float) -> tuple[list[str], int]:
    """Compare both loops on *module*.

    Returns:
        A line for each test that passes on asyncio and not on loopfast, or that is listed and passes; and how many
        tests passed.
    """
    listed = tomllib.loads((HERE / "not_applicable.toml").read_text()).get(module, {})
    ours, output = run("loopfast", module, timeout)
    if not ours:
        return [f"{module}: no result on loopfast\n{output[-3000:]}"], 0
    names = {test: test.split(f".{module}.", 1)[-1] for test in ours}
    unlisted = [test for test, outcome in ours.items() if outcome == "failed" and names[test] not in listed]
    found = [
        f"{module}: {name} is listed as not applicable, but passes"
        for test, name in names.items()
        if name in listed and ours[test] == "passed"
    ]
    if unlisted:
        # A failure counts only where the interpreter's own loop passes on this machine.
        theirs, _ = run("asyncio", module, timeout)
        found += [
            f"{module}: {names[test]} fails\n{excerpt(output, test)}"
            for test in unlisted
            if theirs.get(test) == "passed"
        ]
    return found, list(ours.values()).count("passed")


def excerpt(output: str, test: str) -> str:
    """Return the traceback of *test* in unittest's *output*."""
    for section in output.split("=" * 70)[1:]:
        if test in section.split("-" * 70)[0]:
            return section.strip()[-1500:]
    return ""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help="modules of test.test_asyncio (default: all that make loops)"
    )
    parser.add_argument("--quick", action="store_true", help="the part that `make test` runs")
    parser.add_argument("--jobs", type=int, default=2, help="modules run at the same time (default: 2)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one module (default: 300)")
    options = parser.parse_args(words)
    modules = available(options.modules or (QUICK if options.quick else MODULES))
    missing = set(options.modules) - set(modules)
    if missing or not modules:
        parser.error(f"this interpreter ships no test.test_asyncio module {', '.join(sorted(missing)) or 'at all'}")
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda name: differences(name, options.timeout), modules)
        for module, (found, passed) in zip(modules, results, strict=True):
            print(f"{module:26} {passed:5} passed  {len(found)} different", flush=True)
            for line in found:
                print(f"  {line}")
            failed += len(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

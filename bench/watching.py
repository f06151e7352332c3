"""loopfast.watch() beside watchfiles: a storm of changes, and the time from a write to its report.

``python -m bench.watching`` needs watchfiles. Each figure is the median of several rounds, each in a fresh process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

FOLDERS = 100
WRITER = f"""
import os, sys
for number in range(int(sys.argv[2])):
    with open(f"{{sys.argv[1]}}/{{number % {FOLDERS}}}/{{number}}", "w") as file:
        file.write("x")
"""
#: As delivered, and with the shortest waits that can be asked for.
WATCHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "loopfast, usual": ("loopfast", {}),
    "watchfiles, usual": ("watchfiles", {}),
    "loopfast, fast": ("loopfast", {"debounce": 0}),
    "watchfiles, fast": ("watchfiles", {"debounce": 1, "step": 1, "rust_timeout": 1000}),
}


@contextlib.asynccontextmanager
async def changed(name: str, root: Path) -> AsyncIterator[AsyncGenerator[set[str], None]]:
    """The paths that the watcher *name* reports, list by list; it watches when this is entered."""
    package, options = WATCHERS[name]
    if package == "loopfast":
        import loopfast

        async with loopfast.watch(root, **options) as watch:
            yield ({str(change.path) for change in changes} async for changes in watch)
        return
    import watchfiles

    stop = asyncio.Event()
    # It says nothing of when it has begun: the first report of a file of ours does.
    steps = watchfiles.awatch(root, stop_event=stop, **options)
    first = asyncio.ensure_future(anext(steps))
    while not first.done():
        (root / "begin").write_text(str(time.time()))
        await asyncio.sleep(0.02)
    # Its reports of that are over.
    await asyncio.sleep(2)
    yield ({path for _, path in changes} async for changes in steps)
    stop.set()


async def storm(name: str, root: Path, count: int) -> dict[str, float]:
    """Another process makes *count* files: seconds until all are reported, those after its end, our processor time."""
    wanted = {str(root / str(number % FOLDERS) / str(number)) for number in range(count)}
    async with changed(name, root) as reports:
        before, cpu = time.perf_counter(), time.process_time()
        writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(root), str(count))
        ended = asyncio.create_task(writer.wait())
        written: list[float] = []
        ended.add_done_callback(lambda _: written.append(time.perf_counter()))
        async with asyncio.timeout(120):
            async for paths in reports:
                wanted -= paths
                if not wanted:
                    break
        after, cpu = time.perf_counter(), time.process_time() - cpu
        await ended
        await asyncio.sleep(0)
    return {"seconds": after - before, "after the writer": max(0, after - written[0]), "cpu": cpu}


async def latency(name: str, root: Path, count: int) -> dict[str, float]:
    """One write at a time: the median and the 99th percentile of the seconds until it is reported."""
    file = root / "0" / "file"
    found = []
    # Opened once: to truncate a file can take longer than anything here.
    with open(file, "wb", buffering=0) as opened:
        async with changed(name, root) as reports:
            for number in range(count):
                before = time.perf_counter()
                opened.write(b"x")
                while str(file) not in await anext(reports):
                    pass
                found.append(time.perf_counter() - before)
                # Not in step with anybody's clock, and nothing of this one comes late.
                await asyncio.sleep(0.005 + number % 7 / 1000)
    found.sort()
    return {"median": statistics.median(found), "p99": found[int(len(found) * 0.99)]}


def measure(what: str, name: str, count: int) -> dict[str, float]:
    """One round, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for number in range(FOLDERS):
            (root / str(number)).mkdir()
        if WATCHERS[name][0] == "loopfast":
            import loopfast

            run = loopfast.run
        else:
            run = asyncio.run
        return run({"storm": storm, "latency": latency}[what](name, root, count))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.watching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--writes", type=int, default=100)
    parser.add_argument("--what", choices=["storm", "latency"], help="only this (both)")
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "NAME", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1], int(options.one[2]))))
        return
    for what, count in (("storm", options.files), ("latency", options.writes)):
        if options.what not in (None, what):
            continue
        results: dict[str, list[dict[str, float]]] = {name: [] for name in WATCHERS}
        for _ in range(options.rounds):
            for name in WATCHERS:
                command = [sys.executable, "-m", "bench.watching", "--one", what, name, str(count)]
                environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                results[name].append(json.loads(done.stdout))
        for name, rounds in results.items():
            medians = {key: statistics.median(result[key] for result in rounds) for key in rounds[0]}
            text = ", ".join(f"{key} {value * 1000:,.2f} ms" for key, value in medians.items())
            rate = f", {count / medians['seconds']:,.0f} files/s" if what == "storm" else ""
            print(f"{what:8} {name:18} {text}{rate}", flush=True)


if __name__ == "__main__":
    main()

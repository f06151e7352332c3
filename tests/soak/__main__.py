"""`make soak MINUTES=n`: a server process and two client processes under mixed load, faults and churn.

Owns the run: it starts the processes, watches them from the interpreter's own loop, prints how they fare, and judges.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# A shorter run has no second half to compare with its first: memory is still growing to its level.
SHORTEST_FOR_MEMORY = 60
# Loads that have to go on; what else is counted may rest.
STEADY = "timers threads descriptors sockets processes names tcp lent tls unix stream udp http misdeeds".split()
SABOTAGES = ("byte", "descriptor", "report", "stall", "memory")


class Process:
    """One process of the run, and what it told."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name, self.process = name, process
        self.counts: collections.Counter[str] = collections.Counter()
        #: Load -> when its count last grew.
        self.moved: dict[str, float] = {}
        self.problems: list[str] = []
        self.memory: list[tuple[float, int]] = []
        self.descriptors: list[int] = []
        self.lags: list[float] = []
        self.ended = False
        self.places: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.reading = asyncio.ensure_future(self.read())

    async def read(self) -> None:
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            try:
                found = json.loads(line)
            except ValueError:
                self.problems.append(f"printed {line[:200]!r}")
                continue
            now = time.monotonic()
            for name, count in found["counts"].items():
                if count > self.counts[name] or name not in self.moved:
                    self.moved[name] = now
            self.counts.update({name: count - self.counts[name] for name, count in found["counts"].items()})
            self.problems += found["problems"]
            self.lags += found["lags"]
            self.memory.append((now, found["rss"]))
            self.descriptors.append(found["descriptors"])
            self.ended |= "end" in found
            if "places" in found:
                self.places.set_result(found["places"])
        if not self.places.done():
            self.places.set_exception(RuntimeError(f"{self.name} ended before it served"))
            self.places.exception()

    def stalled(self, limit: float) -> list[str]:
        """The loads that have not completed a step for `limit` seconds."""
        if self.process.returncode is not None:
            return []
        now = time.monotonic()
        if self.memory and now - self.memory[-1][0] > limit:
            return ["everything"]
        # What is rare, because it is a fault or its consequence, is not waited for.
        return [name for name, when in self.moved.items() if now - when > limit and name in STEADY]

    async def stop(self, patience: float) -> None:
        """Ask the process to end, and see that it does."""
        assert self.process.stdin
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(b"stop\n")
            await self.process.stdin.drain()
        try:
            async with asyncio.timeout(patience):
                await asyncio.wait([self.reading])
                status = await self.process.wait()
        except TimeoutError:
            self.problems.append(f"did not end within {patience} s after it was asked to")
            await self.dump()
            return
        if status or not self.ended:
            self.problems.append(f"exit status {status}" + ("" if self.ended else ", without a last word"))

    async def dump(self) -> None:
        """Have all stacks printed, then end the process."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(1)
            self.process.kill()
            await self.process.wait()

    def take_lags(self) -> str:
        lags, self.lags = sorted(self.lags), []
        if not lags:
            return "lag -"
        middle, late = lags[len(lags) // 2], lags[int(len(lags) * 0.99)]
        return f"lag {middle * 1e3:.1f}/{late * 1e3:.0f}/{lags[-1] * 1e3:.0f} ms"


class Soak:
    """The whole run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.seconds = options.minutes * 60
        self.processes: list[Process] = []
        self.problems: list[str] = []
        self.all_lags: list[float] = []
        self.shown: set[str] = set()

    async def start(self, name: str, program: str, *arguments: str) -> Process:
        options = ["--loop", self.options.loop, "--seed", str(self.options.seed), "--folder", str(self.folder)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / program),
            *options,
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=1 << 24,
        )
        self.processes.append(Process(name, process))
        return self.processes[-1]

    async def run(self) -> int:
        options = self.options
        began = time.monotonic()
        print(f"soak: {options.minutes:g} minutes, loop {options.loop}, seed {options.seed} (ARGS='--seed N' repeats)")
        # A run of seconds has shortages, too.
        shortage = ["--shortage", str(min(20.0, self.seconds / 4))]
        sabotage = ["--sabotage", options.sabotage] if options.sabotage else []
        server = await self.start("server", "served.py", *shortage, *sabotage)
        try:
            places = json.dumps(await asyncio.wait_for(server.places, 60))
            await self.start("peaceful", "clients.py", "--places", places)
            await self.start("hostile", "clients.py", "--places", places, "--hostile")
            loaded = time.monotonic()
            await self.watch(loaded)
            ended = time.monotonic()
            for process in reversed(self.processes):
                await process.stop(90)
        finally:
            for process in self.processes:
                await process.dump()
        if not any(self.all_problems()):
            self.judge_memory(loaded, ended)
        return self.summary(began)

    async def watch(self, loaded: float) -> None:
        """Print a line every now and then until the time is over or something went wrong."""
        next_line = loaded + self.options.every
        while time.monotonic() < loaded + self.seconds:
            await asyncio.sleep(0.5)
            for process in self.processes:
                if process.process.returncode is not None:
                    process.problems.append(f"ended early with status {process.process.returncode}")
                for name in process.stalled(self.options.stall):
                    process.problems.append(f"stalled: {name} did nothing for {self.options.stall:g} s")
            if any(self.all_problems()):
                return
            if time.monotonic() >= next_line:
                next_line += self.options.every
                self.line(time.monotonic() - loaded)

    def line(self, seconds: float) -> None:
        parts = []
        for process in self.processes:
            if process.memory:
                self.all_lags += process.lags if process.name == "server" else []
                memory = f"{process.memory[-1][1] / 1024:.1f} MiB"
                parts.append(f"{process.name} {memory} {process.descriptors[-1]} fd {process.take_lags()}")
        counts = self.counts()
        done = sum(counts[name] for name in STEADY)
        print(f"{seconds:6.0f} s  {done} steps, {self.verified(counts)} MB verified | {' | '.join(parts)}", flush=True)

    def counts(self) -> collections.Counter[str]:
        return sum((process.counts for process in self.processes), collections.Counter())

    def verified(self, counts: collections.Counter[str]) -> int:
        return sum(count for name, count in counts.items() if name.endswith(" bytes")) // 1_000_000

    def all_problems(self) -> list[str]:
        return [f"{process.name}: {text}" for process in self.processes for text in process.problems] + self.problems

    def judge_memory(self, loaded: float, ended: float) -> None:
        """Compare the median of the last quarter with that of the second: the first is for growing to the level."""
        if ended - loaded < SHORTEST_FOR_MEMORY:
            print(f"memory is not judged: the run was shorter than {SHORTEST_FOR_MEMORY} s")
            return
        for process in self.processes:
            quarters: list[list[int]] = [[], [], [], []]
            for when, kib in process.memory:
                if loaded <= when < ended:
                    quarters[int((when - loaded) / (ended - loaded) * 4)].append(kib)
            levels = [statistics.median(quarter) for quarter in quarters]
            text = (
                f"{process.name}: memory by quarters " + ", ".join(f"{level / 1024:.1f}" for level in levels) + " MiB"
            )
            print(text)
            if levels[3] - levels[1] > self.options.growth:
                self.problems.append(f"{text}: grew by more than {self.options.growth} KiB")

    def summary(self, began: float) -> int:
        counts, problems = self.counts(), self.all_problems()
        print(f"after {time.monotonic() - began:.0f} s, by load:")
        for name, count in sorted(counts.items()):
            print(f"  {name:32} {count}")
        lags = sorted(self.all_lags + self.processes[0].lags)
        if lags:
            shares = (("50 %", 0.5), ("99 %", 0.99), ("99.9 %", 0.999))
            told = ", ".join(f"{name} {lags[int(len(lags) * share)] * 1e3:.1f}" for name, share in shares)
            print(f"lag of the server's loop in ms: {told}, most {lags[-1] * 1e3:.0f}")
        for process in self.processes:
            if process.descriptors:
                print(
                    f"descriptors of {process.name}: most {max(process.descriptors)}, "
                    f"at the end {process.descriptors[-1]}"
                )
        for text in problems[:20]:
            print(f"WRONG: {text}")
        print(f"soak: {'FAILED' if problems else 'passed'}, seed {self.options.seed}")
        return bool(problems)


def make_certificate(folder: Path) -> None:
    subprocess.run(
        [
            *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(),
            *"-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1".split(),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--loop", choices=("loopfast", "asyncio"), default="loopfast")
    parser.add_argument("--every", type=float, default=10, help="seconds between two lines (default: %(default)s)")
    parser.add_argument("--stall", type=float, default=60, help="seconds without progress that are a stall")
    parser.add_argument("--growth", type=int, default=4096, help="KiB a process may grow by, second to last quarter")
    parser.add_argument("--sabotage", choices=SABOTAGES, help="have the server do wrong, to see the run notice it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_certificate(Path(name))
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(Soak(options, Path(name)).run())


if __name__ == "__main__":
    sys.exit(main())

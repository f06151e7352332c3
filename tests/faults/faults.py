"""Fails every call that a scenario makes, one after the other, with every errno its manual page allows.

python tests/faults/faults.py --scenario tcp                         all of one scenario
python tests/faults/faults.py --scenario tcp --call epoll_ctl --nth 3 --errno ENOMEM    one injection again
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import calls
from scenarios import FRESH, LOOPFAST_ONLY, SCENARIOS

HERE = Path(__file__).parent
# Injections of one process, unless it dies before.
BATCH = 150
LASTS = 1_000_000
# Seconds for a batch; each injection has a limit of its own in the program.
LIMIT = 600


def build_shim(folder: Path) -> Path:
    """Compile the shim into *folder*."""
    library = folder / "faults-shim.so"
    command = [os.environ.get("CC", "cc"), "-O1", "-g", "-shared", "-fPIC", "-o", str(library), str(HERE / "shim.c")]
    subprocess.run([*command, "-ldl", "-pthread"], check=True, stdin=subprocess.DEVNULL)
    return library


def make_certificate(folder: Path) -> None:
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)


def begin(command: list[str], text: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start *command* with *text* as its input, in a session of its own."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.close()
    process.stdin = None
    return process


class Problem:
    """A fault that was not handled well, with the line that repeats it."""

    def __init__(self, scenario: str, options: str, injection: dict[str, Any], what: list[str], detail: str) -> None:
        self.what = what
        self.detail = detail
        self.replay = (
            f"--scenario {scenario} --call {injection['call']} --nth {injection['nth']} --errno {injection['errno']}"
            + " --lasting" * (injection["times"] > 1)
            + options
        )

    def __str__(self) -> str:
        return f'{"; ".join(self.what)}\n    {self.detail}\n    replay: make torture ARGS="{self.replay}"'


def crashed_in_ours(err: str) -> bool:
    """Whether the code of loopfast or libuv took part in a crash for want of the interpreter's own memory.

    The interpreter itself does not survive each of its failing allocations, and forgets what should happen next.
    """
    frames = err.partition("crashed in:\n")[2].partition("end of crash")[0].splitlines()
    # The handler, the signal's return, then what was running and its caller. Further out is whoever drops an object
    # that the interpreter has left half made.
    return any("/loopfast/" in frame for frame in frames[2:4]) or ("crashed in:" not in err and "Timeout (" not in err)


class Faults:
    """Plans and runs injections in processes of their own.

    Args:
        folder: for the compiled shim and the files of the scenarios.
        loop: the loop to try, "loopfast" or "asyncio".
        no_ring: as on a system without io_uring, where libuv tells the kernel of each watcher by itself.
    """

    def __init__(self, folder: Path, loop: str = "loopfast", no_ring: bool = False) -> None:
        self.folder = folder
        self.loop = loop
        self.no_ring = no_ring
        self.shim = build_shim(folder)
        if not (folder / "cert.pem").exists():
            make_certificate(folder)

    def start(self, scenario: str, **plan: Any) -> subprocess.Popen[str]:
        plan = {
            "scenario": scenario,
            "loop": self.loop,
            "folder": str(self.folder),
            "count": False,
            "no_ring": False,
            "warm_up": 0 if scenario in FRESH else 2,
            **plan,
        }
        environment = {
            "LD_PRELOAD": self.preloaded,
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        return begin([sys.executable, str(HERE / "program.py")], json.dumps(plan), environment)

    @property
    def preloaded(self) -> str:
        """What is to be loaded first: the shim, behind what this process has (a sanitizer wants to be the first)."""
        return " ".join(filter(None, (os.environ.get("LD_PRELOAD"), str(self.shim))))

    def finished(self, process: subprocess.Popen[str], limit: float = LIMIT) -> tuple[Any, list[dict[str, Any]], str]:
        """Exit status, what the program said and what it wrote when it died."""
        try:
            out, err = process.communicate(timeout=limit)
            status: Any = process.returncode
        except subprocess.TimeoutExpired:
            # With the children that hold its pipes: CPython's own fork() hangs in the child if it gets no memory there.
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            status = "no end"
        return status, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err

    def problem(self, scenario: str, injection: dict[str, Any], what: list[str], detail: str) -> Problem:
        options = f" --loop {self.loop}" * (self.loop != "loopfast") + " --no-ring" * self.no_ring
        return Problem(scenario, options, injection, what, detail)

    def count(self, scenario: str) -> dict[str, int]:
        """How often the scenario makes each call."""
        status, said, err = self.finished(self.start(scenario, count=True, no_ring=self.no_ring))
        if status != 0 or not said or "counts" not in said[-1]:
            raise RuntimeError(f"{scenario} fails without a fault: {status}\n{err}")
        counts: dict[str, int] = said[-1]["counts"]
        return {call: number for call, number in counts.items() if number}

    def plan(self, scenario: str, most: int, memory: int = 0) -> list[dict[str, Any]]:
        """Every injection of the scenario; of a call made more than *most* times some, the first among them."""
        injections = []
        for call, number in self.count(scenario).items():
            chosen = list(range(1, number + 1))
            if number > most:
                first = most // 2
                chosen = chosen[:first] + sorted(random.sample(chosen[first:], most - first))
            for error in calls.ERRORS.get(call, ()):
                if (scenario, call, error) in calls.LIES:
                    continue
                injections += [{"call": call, "nth": nth, "errno": error, "times": 1} for nth in chosen]
                if error in calls.LASTING and not (error == "ENOBUFS" and call in calls.NOT_LASTING):
                    injections += [{"call": call, "nth": nth, "errno": error, "times": LASTS} for nth in chosen[:8]]
        if memory and scenario not in FRESH and importlib.util.find_spec("_testcapi"):
            # More often near the start, where the loop is made.
            places = sorted({int(10 ** random.uniform(0, 5)) for _ in range(memory)})
            injections += [{"call": calls.PYTHON_MEMORY, "nth": n, "errno": "ENOMEM", "times": 1} for n in places]
        return injections

    def run(self, scenario: str, injections: list[dict[str, Any]]) -> Iterator[Problem | int]:
        """Yield the problems as they are found, and the numbers of injections done."""
        batch = 1 if scenario in FRESH else BATCH
        rest = list(injections)
        while rest:
            current = rest[:batch]
            status, said, err = self.finished(self.start(scenario, injections=current, no_ring=self.no_ring))
            at = max((line["at"] for line in said if "at" in line), default=-1)
            for line in said:
                if "problem" in line and (scenario, line["injection"]["call"]) not in calls.INHERITED:
                    what, where = line["problem"], line["caller"]
                    yield self.problem(scenario, line["injection"], what, f"{where}: {line['came']}")
            if status == 0:
                yield len(current)
                rest = rest[len(current) :]
                continue
            if at < 0:
                raise RuntimeError(f"{scenario} does not start: {status}\n{err}")
            hung = "Timeout (" in err or status == "no end"
            if current[at]["call"] != calls.PYTHON_MEMORY or crashed_in_ours(err):
                what = "hung" if hung else f"died with {status}"
                yield self.problem(scenario, current[at], [what], err[-3000:])
            yield at + 1
            rest = rest[at + 1 :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS)
    parser.add_argument("--call", choices=[*calls.ERRORS, calls.PYTHON_MEMORY])
    parser.add_argument("--nth", type=int)
    parser.add_argument("--errno")
    parser.add_argument("--lasting", action="store_true", help="every call from the nth on fails")
    parser.add_argument("--no-ring", action="store_true", help="without io_uring")
    parser.add_argument("--loop", default="loopfast", choices=("loopfast", "asyncio"))
    parser.add_argument("--most", type=int, default=40, help="places tried of a call made more often than that")
    parser.add_argument("--memory", type=int, default=40, help="allocations of the interpreter tried in a scenario")
    parser.add_argument("--seconds", type=float, default=900, help="no new scenario after this time")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"faults: seed {options.seed}", flush=True)
    started = time.monotonic()
    total: Counter[str] = Counter()
    found = 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        faults = Faults(Path(name), options.loop, options.no_ring)

        def one(scenario: str) -> list[Problem]:
            if options.loop != "loopfast" and scenario in LOOPFAST_ONLY:
                return []
            if time.monotonic() - started > options.seconds:
                print(f"{scenario}: left out, the time is up", flush=True)
                return []
            if options.nth is not None:
                times = LASTS if options.lasting else 1
                injections = [{"call": options.call, "nth": options.nth, "errno": options.errno, "times": times}]
            else:
                injections = [
                    injection
                    for injection in faults.plan(scenario, options.most, options.memory)
                    if options.call in (None, injection["call"]) and options.errno in (None, injection["errno"])
                ]
            problems = []
            before = time.monotonic()
            for step in faults.run(scenario, injections):
                if isinstance(step, Problem):
                    problems.append(step)
                    print(f"PROBLEM {step}", flush=True)
                else:
                    total[scenario] += step
            seconds = time.monotonic() - before
            print(f"{scenario}: {total[scenario]} injections, {len(problems)} problems, {seconds:.0f} s", flush=True)
            return problems

        for problems in pool.map(one, options.scenario or SCENARIOS):
            found += len(problems)
    print(f"faults: {total.total()} injections, {found} problems, seed {options.seed}", flush=True)
    return found != 0


if __name__ == "__main__":
    sys.exit(main())

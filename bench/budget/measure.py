"""Measures one row on one loop: a worker process under callgrind or strace, beside it the load generator.

Both tools see two sections of one run, N1 and N2 operations long, after a warm-up; the cost of an operation is the
difference of the sections divided by N2 - N1, so that starting, stopping and the marks themselves cancel out.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from .. import load, native
from .rows import ROWS, Row
from .worker import MARK

TIMEOUT = 300
"""Seconds after which a worker is given up; the longest row takes about ten."""

AVOIDED = ("mmap", "munmap", "mremap", "ioctl")
"""System calls that no server row may show in its steady state."""


class Failed(Exception):
    """A row could not be measured; the text is the reason, on one line."""


@dataclasses.dataclass(frozen=True)
class Function:
    """A function's share of one operation, in instructions: on its own and with all it calls."""

    name: str
    own: float
    inclusive: float


@dataclasses.dataclass
class Cost:
    """What one operation of a row costs on one loop; None where it was not measured, `reason` saying why."""

    row: str
    loop: str
    ir: float | None = None
    syscalls: dict[str, float] | None = None
    faults: list[str] = dataclasses.field(default_factory=list)
    reason: str | None = None

    @property
    def syscall_total(self) -> float | None:
        """System calls per operation, all kinds together."""
        return None if self.syscalls is None else sum(self.syscalls.values())


def scaled(counts: tuple[int, int, int], divisor: int) -> tuple[int, int, int]:
    """Returns `counts` with the long section shortened by `divisor`, to a multiple of the short one."""
    warm_up, short, long = counts
    step = short
    return warm_up, short, short + max(step, (long - short) // divisor // step * step)


@contextlib.contextmanager
def worker(prefix: list[str], row: Row, loop: str, marks: str, counts: tuple[int, int, int]) -> Iterator[None]:
    """Runs the worker of `row` behind the command `prefix` to its end, with a load generator where the row has one.

    Raises Failed with the last line of the worker's (or the generator's) complaint where it does not end well.
    """
    with contextlib.ExitStack() as stack:
        descriptors = [-1, -1, -1]
        client = None
        if row.load is not None:
            kind = socket.SOCK_DGRAM if row.load.protocol == "udp" else socket.SOCK_STREAM
            local = row.load.protocol == "unix"
            listener = stack.enter_context(socket.socket(socket.AF_UNIX if local else socket.AF_INET, kind))
            if local:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="loopfast-budget-"))
                address = str(Path(folder, "socket")), 0
                listener.bind(address[0])
            else:
                listener.bind(("127.0.0.1", 0))
                address = listener.getsockname()
            if kind == socket.SOCK_STREAM:
                listener.listen(128)
            client = subprocess.Popen(
                row.load.command(*address),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(_end, client)
            descriptors = [listener.fileno(), client.stdin.fileno(), client.stdout.fileno()]
        command = [*prefix, *native.command("budget.worker", row.name, loop, marks)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"PYTHONHASHSEED": "0", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        measured = subprocess.Popen(
            [*command, *map(str, [*descriptors, *counts])],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[number for number in descriptors if number >= 0],
        )
        stack.callback(_end, measured)
        try:
            _, complaint = measured.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Failed(f"gave no result within {TIMEOUT} s") from None
        if measured.returncode != 0:
            if client is not None and client.poll() is not None:
                complaint = client.stderr.read() or complaint
            lines = [line for line in complaint.splitlines() if line.strip() and not line.startswith("==")]
            raise Failed(lines[-1].strip() if lines else f"the worker ended with status {measured.returncode}")
        yield


def _end(process: subprocess.Popen) -> None:
    """Ends `process` (the worker with its whole session: strace leaves its child behind) and releases its pipes."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def instructions(row: Row, loop: str, counts: tuple[int, int, int], profile: Path | None = None) -> float:
    """Returns the user-space instructions of one operation of `row` on `loop`, all threads of the process together.

    `profile` names a file that receives the most expensive functions, per operation. Raises Failed,
    native.Unavailable.
    """
    prefix = [native.tool("valgrind", "valgrind"), "--tool=callgrind", "--instr-atstart=no", "--quiet"]
    native.build("marks.c", ["-shared", "-fPIC"], "marks.so")
    with tempfile.TemporaryDirectory(prefix="loopfast-budget-") as folder:
        prefix.append(f"--callgrind-out-file={folder}/counts")
        with worker(prefix, row, loop, "callgrind", counts):
            sections = [Path(folder, f"counts.{number}") for number in (1, 2)]
            short, long = map(_total, sections)
            if profile is not None:
                profile.write_text(profile_text(sections[1], counts[2]))
    return (long - short) / (counts[2] - counts[1])


def _total(dump: Path) -> int:
    """Returns the instructions counted in one callgrind dump."""
    for line in dump.read_text().splitlines():
        if line.startswith(("totals:", "summary:")):
            return int(line.split()[1])
    raise Failed(f"callgrind wrote no total into {dump.name}")


def profile_text(dump: Path, operations: int, limit: int = 45) -> str:
    """Returns the `limit` most expensive functions of a callgrind dump, as instructions per operation.

    Two lists: with all they call, and on their own.
    """
    annotate = native.tool("callgrind_annotate", "valgrind")
    lists = []
    for title, inclusive in (("with all they call", "yes"), ("on their own", "no")):
        done = subprocess.run(
            [annotate, f"--inclusive={inclusive}", "--threshold=99.9", "--auto=no", str(dump)],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = []
        for line in done.stdout.splitlines():
            found = re.match(r"\s*([\d,]+)\s+(?:\([\s\d.]+%\)\s+)?(\S.*)", line)
            if found is None or found[2].startswith("PROGRAM TOTALS"):
                continue
            name = re.sub(r"^\?\?\?:|^\S*/(?=[^/]+:)", "", found[2])
            name = re.sub(r"\[\S*/([^/\]]+)\]", r"[\1]", name)
            lines.append(f"{int(found[1].replace(',', '')) / operations:12.1f}  {name}")
        lists.append(f"Instructions per operation, functions {title}:\n" + "\n".join(lines[:limit]))
    return "\n\n".join(lists) + "\n"


def syscalls(row: Row, loop: str, counts: tuple[int, int, int]) -> tuple[dict[str, float], list[str]]:
    """Returns the system calls of one operation by name, and the rules of a server row that the run broke.

    Raises Failed, native.Unavailable.
    """
    prefix = [native.tool("strace", "strace"), "-f", "-qq", "--signal=none"]
    with tempfile.TemporaryDirectory(prefix="loopfast-budget-") as folder:
        log = Path(folder, "log")
        with worker([*prefix, "-o", str(log)], row, loop, "strace", counts):
            sections = sections_of(log.read_text(errors="replace"))
    if len(sections) != 2:
        raise Failed(f"strace's log has {len(sections)} marked sections instead of 2")
    short, long = sections
    span = counts[2] - counts[1]
    per_operation = {name: (long[name] - short[name]) / span for name in short.keys() | long.keys()}
    per_operation = {name: value for name, value in sorted(per_operation.items()) if value}
    return per_operation, faults(row, long - short, span) if row.load is not None else []


def sections_of(log: str) -> list[collections.Counter[str]]:
    """Counts the system calls of an strace log (-f -o) by name, for each stretch between two of the worker's marks."""
    sections: list[collections.Counter[str]] = []
    current: collections.Counter[str] | None = None
    for line in log.splitlines():
        if f'write(-1, "{MARK}"' in line:
            if current is not None:
                sections.append(current)
            current = collections.Counter()
        elif current is not None and (call := re.match(r"\d+\s+([a-z]\w*)\(", line)):
            current[call[1]] += 1
    return sections


def faults(row: Row, calls: Mapping[str, int], operations: int) -> list[str]:
    """Returns which rules of a steady server were broken by the `calls` that `operations` messages brought about."""
    broken = [f"{name} {calls[name]}x" for name in AVOIDED if calls.get(name)]
    connections = operations if row.load.fresh else row.load.connections
    if calls.get("epoll_ctl", 0) > connections:
        broken.append(f"epoll_ctl {calls['epoll_ctl']}x for {connections} connections")
    return broken


def measure(name: str, loop: str, divisor: int = 1, profile: Path | None = None) -> Cost:
    """Measures the row called `name` on `loop`; never raises for what a machine lacks or a loop cannot do.

    `divisor` shortens the long sections, `profile` is the folder that receives a profile of the row.
    """
    row = ROWS[name]
    cost = Cost(name, loop)
    counts = scaled(row.counts, divisor)
    try:
        target = profile / f"{name}.{loop.replace(':', '.')}.txt" if profile is not None else None
        cost.ir = instructions(row, loop, counts, target)
        taken = [syscalls(row, loop, counts) for _ in range(row.takes)]
        cost.syscalls, cost.faults = min(taken, key=lambda take: sum(take[0].values()))
    except (Failed, native.Unavailable, load.LoadError) as error:
        cost.reason = str(error)
    return cost

"""Measures a micro workload on one loop: one fresh pyperf process each time it is asked."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from .. import native
from ..native import Unavailable
from .results import Sample
from .worker import REASON

INHERIT = (
    "--inherit-environ",
    ",".join(name for name in os.environ if name.startswith(("PYTHON", "LD_", "UV_", "XDG_"))),
)
"""pyperf gives its workers almost no environment; without these they would find other modules than their parent."""
TIMEOUT = 90
"""Seconds after which a measured process is given up."""


class Failed(Exception):
    """A loop cannot be measured on a workload; the text is the reason, on one line."""


@dataclasses.dataclass
class Micro:
    """A micro workload on a loop; keeps the calibrated number of repeats from the first process to the later ones."""

    workload: str
    loop: str
    min_time: float
    values: int
    repeats: int | None = None

    def measure(self) -> Sample:
        """Returns the sample of one process; raises Failed where it does not end well."""
        with tempfile.TemporaryDirectory(prefix="loopfast-bench-") as folder:
            file = Path(folder, "pyperf.json")
            command = native.command("suite.worker", "--quiet", "--processes", "1", "--warmups", "1", *INHERIT)
            command += ["--values", str(self.values), "--min-time", str(self.min_time), "--output", str(file)]
            command += ["--loops", str(self.repeats)] if self.repeats is not None else []
            run_group([*command, self.workload, self.loop])
            import pyperf

            benchmark = pyperf.Benchmark.load(str(file))
        self.repeats = benchmark.get_loops()
        return Sample(list(benchmark.get_values()), operations=benchmark.get_total_loops())


def require_pyperf() -> None:
    """Raises Unavailable, with the way to install it, where pyperf is not there."""
    if importlib.util.find_spec("pyperf") is None:
        raise Unavailable("pyperf is not installed; install the extra: pip install 'loopfast[bench]'")


def run_group(command: list[str]) -> None:
    """Runs `command` to its end in a session of its own and leaves no process of it; raises Failed with the reason."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, complaint = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Failed(f"no result within {TIMEOUT} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    if process.returncode != 0:
        raise Failed(reason(complaint, process.returncode))


def reason(complaint: str, status: int) -> str:
    """Returns the one line of a failed process's standard error that says why it failed."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    marked = [line.removeprefix(REASON) for line in lines if line.startswith(REASON)]
    return (marked or lines[-1:] or [f"ended with status {status}"])[0]

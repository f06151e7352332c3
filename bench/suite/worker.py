"""The measured process of a micro workload: ``launch.py suite.worker WORKLOAD LOOP``, a pyperf script.

pyperf does the calibration, the warm-up and the timing, and starts this module again as its own worker.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from .. import loops, native
from .registry import LOOP_VARIABLE, load_all

REASON = "bench-reason: "
"""Begins the line of standard error that tells why the workload could not be measured."""


def main() -> None:
    """Measures the workload that the command line names."""
    import pyperf

    def keep_names(command: list[str], arguments: argparse.Namespace) -> None:
        command.extend([arguments.workload, arguments.loop])

    runner = pyperf.Runner(program_args=(str(native.LAUNCHER), "suite.worker"), add_cmdline_args=keep_names)
    runner.argparser.add_argument("workload")
    runner.argparser.add_argument("loop")
    arguments = runner.parse_args()
    workload = load_all()[arguments.workload]
    os.environ[LOOP_VARIABLE] = arguments.loop

    def timed(repeats: int) -> float:
        try:
            loop = loops.factory(arguments.loop)()
            # What the loop and its executor start late is not the workload's.
            workload.run(loop, 1)
            begun = time.perf_counter()
            told = workload.run(loop, repeats)
            spent = time.perf_counter() - begun if told is None else told
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        except Exception as error:  # whatever a loop does wrong is a row of the table, not a traceback
            text = " ".join(str(error).split())
            print(f"{REASON}{type(error).__name__}: {text}".rstrip(": "), file=sys.stderr, flush=True)
            os._exit(1)
        return spent

    runner.bench_time_func(arguments.workload, timed, inner_loops=workload.batch)


if __name__ == "__main__":
    main()

"""Start-up: what a process and a loop cost before and after the work."""

from __future__ import annotations

import os
import subprocess
import sys

from ... import loops
from ..registry import LOOP_VARIABLE, Loop, check, micro


def fresh(program: str) -> list[str]:
    """Returns the command of a fresh interpreter that runs `program` and finds modules where this process does."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"]


PROGRAM = """
import asyncio
{imports}
with asyncio.Runner(loop_factory={factory}) as runner:
    print(runner.run(asyncio.sleep(0, "done")))
"""


@micro("startup.loop", "a loop made, run for one turn and closed", batch=1)
def startup_loop(_loop: Loop, repeats: int) -> None:
    make = loops.factory(os.environ[LOOP_VARIABLE])
    done = 0
    for _ in range(repeats):
        loop = make()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        done += loop.is_closed()
    check(done, repeats)


IMPORT = """
import time
begun = time.perf_counter()
{imports}
{factory}
print(time.perf_counter() - begun)
"""


@micro("startup.import", "the import of the loop's package (asyncio's included) in a fresh interpreter", batch=1)
def startup_import(_loop: Loop, repeats: int) -> float:
    imports, factory = loops.source(os.environ[LOOP_VARIABLE])
    command = fresh(IMPORT.format(imports=imports, factory=factory))
    # The interpreter's own start is not counted, so the processes tell the time themselves.
    return sum(
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(repeats)
    )


@micro("startup.process", "an interpreter started that imports the loop and runs sleep(0)", batch=1)
def startup_process(_loop: Loop, repeats: int) -> None:
    imports, factory = loops.source(os.environ[LOOP_VARIABLE])
    command = fresh(PROGRAM.format(imports=imports, factory=factory))
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        check(int(done.stdout.strip() == "done"), 1)

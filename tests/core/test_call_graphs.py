"""``python -m asyncio ps`` and ``pstree``: the tasks of a running process, which another one reads from its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import program

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14) or not sys.platform.startswith("linux"),
    reason="asyncio has the commands from 3.14 on, and elsewhere they want more than the same user",
)

TASKS = """
async def leaf(ready):
    ready.set()
    await asyncio.sleep(60)

async def middle(ready):
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(ready), name="the leaf")

async def main():
    ready, ended = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    task = asyncio.create_task(middle(ready), name="the middle")
    await ready.wait()
    print("ready", flush=True)
    await ended.wait()
    task.cancel()

run(main())
"""


def tasks_of(pid: int, command: str) -> str:
    done = subprocess.run([sys.executable, "-m", "asyncio", command, str(pid)], capture_output=True, text=True)
    if "ermi" in done.stderr:
        pytest.skip(f"this kernel does not let a process read another's memory: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_the_tasks_of_another_process(loop_kind, command):
    with program(loop_kind, TASKS) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            found = tasks_of(process.pid, command)
        finally:
            process.terminate()
            process.communicate()
    for word in ("Task-1", "main", "the middle", "middle", "TaskGroup.__aexit__", "the leaf", "leaf", "sleep"):
        assert word in found
    if command == "pstree":
        # The one that waits is above what it waits for.
        assert found.index("the middle") < found.index("TaskGroup._aexit") < found.index("the leaf")
    assert process.returncode == 0

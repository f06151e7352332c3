"""The measured process: runs one row on one loop in marked sections, under callgrind or strace.

Started by measure.py only: ``launch.py budget.worker ROW LOOP MARKS LISTENER TO_CLIENT FROM_CLIENT N0 N1 N2``,
the descriptors being -1 for a row without a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from .. import loops, native
from .rows import ROWS, Row

MARK = "loopfast-mark"


def callgrind_marks() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns (begin, end-of-section) that control callgrind from inside the process."""
    library = ctypes.CDLL(str(native.build("marks.c", ["-shared", "-fPIC"], "marks.so")))
    return library.marks_begin, library.marks_dump


def strace_marks() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns (begin, end-of-section) that leave a line in strace's log: a write to a descriptor that cannot be."""

    def mark() -> None:
        with contextlib.suppress(OSError):
            os.write(-1, MARK.encode())

    return mark, mark


class Client:
    """The other end of the load generator's pipes: asks for a phase and runs the loop until it has been answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop, to_client: int, from_client: int) -> None:
        self.loop = loop
        self.to_client = to_client
        self.from_client = from_client
        self.answer = b""
        loop.add_reader(from_client, self._on_answer)

    def _on_answer(self) -> None:
        self.answer = os.read(self.from_client, 4096)
        self.loop.stop()

    def run(self, count: int) -> None:
        """Serves until the generator says that `count` messages have been answered."""
        os.write(self.to_client, f"count {count}\n".encode())
        self.loop.run_forever()
        if not self.answer:
            raise SystemExit("the load generator ended early")


def prepare(
    row: Row, loop: asyncio.AbstractEventLoop, listener: int, to_client: int, from_client: int
) -> tuple[Callable[[int], None], Any]:
    """Returns a function that performs so many operations of `row`, and what must stay alive for it."""
    if row.load is None:
        return lambda count: row.run(loop, count), None
    bound = socket.socket(fileno=listener)
    bound.setblocking(False)
    client = Client(loop, to_client, from_client)
    return client.run, loop.run_until_complete(row.run(loop, bound))


def find(name: str, loop_name: str) -> Row:
    """Returns the row called `name`, which may be a workload of the suite."""
    if not name.startswith("suite:"):
        return ROWS[name]
    from ..suite import counting, registry

    os.environ[registry.LOOP_VARIABLE] = loop_name
    return counting.row(name)


def main(arguments: list[str]) -> None:
    """Runs warm-up, short and long section of the row that the command line names."""
    name, loop_name, marks, *numbers = arguments
    listener, to_client, from_client, warm_up, *sections = map(int, numbers)
    begin, end_section = callgrind_marks() if marks == "callgrind" else strace_marks()
    if marks == "callgrind":
        # The simulated processor is some fifty times slower: keep as many operations between two hand-overs of the
        # interpreter lock as at full speed, or the rows with threads would mostly count hand-overs.
        sys.setswitchinterval(sys.getswitchinterval() * 50)
    loop = loops.factory(loop_name)()
    asyncio.set_event_loop(loop)
    # Under valgrind everything is slow, and nothing is to be looked into for that.
    loop.slow_callback_duration = 3600
    run, _keep = prepare(find(name, loop_name), loop, listener, to_client, from_client)
    run(warm_up)
    # The garbage collector stays on, being a part of what collectable handles cost; what start-up left is set aside, so
    # that the collections of a section look at the section's own objects only and come at the same points each time.
    gc.collect()
    gc.freeze()
    begin()
    for count in sections:
        run(count)
        end_section()
    # Transports and tasks are left as they are: closing them is not measured, and the process ends here.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])

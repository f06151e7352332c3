"""What the processes of a soak run share: counting, reporting, measuring the loop's lag, and data that can be verified.

A member tells how it fares by a line of JSON on its standard output each second; "stop" on its standard input ends it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import faulthandler
import gc
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

LOCALHOST = "127.0.0.1"
# Seconds between two status lines, and between two looks at how late the loop is.
STATUS = 1.0
LAG = 0.02
# Seconds an operation of a load may take: with every descriptor in use, a connection waits to be accepted.
PATIENCE = 40
BLOCK = 65521
# Open from the start: it has to be read when no descriptor is left, too.
STATM = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


class Pattern:
    """An endless sequence of bytes with a period of BLOCK, a prime: a lost, repeated or moved piece shows."""

    def __init__(self, seed: int) -> None:
        self._block = random.Random(seed).randbytes(BLOCK)

    def piece(self, start: int, size: int) -> bytes:
        start %= BLOCK
        times = (start + size) // BLOCK + 1
        return (self._block * times)[start : start + size]


class Wrong(Exception):
    """A byte, a count or an order was not as it has to be."""


def require(condition: object, text: str) -> None:
    if not condition:
        raise Wrong(text)


def same(got: bytes, wanted: bytes, what: str) -> None:
    """Compare, and say where the difference is."""
    if got != wanted:
        at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
        raise Wrong(f"{what}: {len(got)} bytes for {len(wanted)}, different from byte {at} on")


def descriptors() -> dict[int, str]:
    """The open descriptors of this process and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {number: text for number, text in found.items() if text != f"/proc/{os.getpid()}/fd"}


def resident() -> int:
    """Resident memory in KiB."""
    return int(os.pread(STATM, 100, 0).split()[1]) * (os.sysconf("SC_PAGESIZE") // 1024)


def transports() -> collections.Counter[str]:
    """The transports that exist, by class."""
    return collections.Counter(type(o).__name__ for o in gc.get_objects() if isinstance(o, asyncio.BaseTransport))


class Member:
    """One process of the run: its loads, its counts, what went wrong."""

    def __init__(self, seed: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self.lags: list[float] = []
        self.descriptors = 0
        self.stopping = asyncio.Event()
        #: Takes what the exception handler gets; True: expected.
        self.is_expected: Callable[[dict[str, Any]], bool] = lambda context: False
        self._loads: list[asyncio.Task[None]] = []
        self.loop.set_exception_handler(self._reported)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        threading.excepthook = lambda args: self.problem(f"thread: {args.exc_type.__name__}: {args.exc_value}")
        sys.unraisablehook = lambda args: self.problem(f"unraisable: {args.exc_value!r} in {args.object!r}")

    # ---- what went wrong

    def problem(self, text: str) -> None:
        if len(self.problems) < 50:
            self.problems.append(text)

    def _reported(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self.is_expected(context):
            self.counts["reports expected"] += 1
            return
        error = context.get("exception")
        lines = "".join(traceback.format_exception(error)) if error is not None else ""
        self.problem(f"reported: {context.get('message')}\n{lines}")

    # ---- loads

    def load(self, name: str, step: Callable[[random.Random], Awaitable[None]], workers: int) -> None:
        """Repeat `step` in `workers` tasks until the run ends."""
        for number in range(workers):
            chooser = random.Random(f"{self.random.random()} {name} {number}")
            self._loads.append(self.loop.create_task(self._repeat(name, step, chooser), name=f"{name} {number}"))

    async def _repeat(
        self, name: str, step: Callable[[random.Random], Awaitable[None]], chooser: random.Random
    ) -> None:
        while not self.stopping.is_set():
            try:
                async with asyncio.timeout(PATIENCE):
                    await step(chooser)
                self.counts[name] += 1
            except TimeoutError:
                self.problem(f"{name}: not done after {PATIENCE} s")
            except Exception as exc:
                self.problem(f"{name}: " + "".join(traceback.format_exception(exc)))
                await asyncio.sleep(0.5)
            await asyncio.sleep(chooser.expovariate(1 / 0.005))

    async def finish(self) -> None:
        """Wait for the loads to end by themselves."""
        if self._loads:
            _, late = await asyncio.wait(self._loads, timeout=PATIENCE + 5)
            for task in late:
                self.problem(f"{task.get_name()}: did not end")
                task.cancel()

    # ---- conversation with the controller

    def watch_lag(self) -> None:
        due = self.loop.time() + LAG

        def look() -> None:
            nonlocal due
            now = self.loop.time()
            if now < due - 0.001:
                self.problem(f"a timer came {due - now:.6f} s early")
            self.lags.append(round(now - due, 6))
            due = now + LAG
            if not self.stopping.is_set():
                self.loop.call_at(due, look)

        self.loop.call_at(due, look)

    def tell(self, **more: Any) -> None:
        with contextlib.suppress(OSError):
            # Where no descriptor is left, not even this can be counted.
            self.descriptors = len(descriptors())
        found = {
            "counts": self.counts,
            "problems": self.problems,
            "lags": self.lags,
            "rss": resident(),
            "descriptors": self.descriptors,
            **more,
        }
        print(json.dumps(found), flush=True)
        self.problems, self.lags = [], []

    async def report_until_stopped(self) -> None:
        """Tell a status each second until the controller says stop, or is gone."""

        def commanded() -> None:
            os.read(0, 100)
            self.loop.remove_reader(0)
            self.stopping.set()

        self.loop.add_reader(0, commanded)
        self.watch_lag()
        while not self.stopping.is_set():
            self.tell()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), STATUS)


async def settled(wanted: dict[int, str], seconds: float = 15) -> list[str]:
    """Wait until no other descriptors are open than `wanted`; return what is left beyond them."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        left = {number: text for number, text in descriptors().items() if wanted.get(number) != text}
        # libuv's ring for changes of the poll set is made once per loop, when there are many: one may have come since.
        if rings := [number for number, text in left.items() if text == "anon_inode:[io_uring]"]:
            del left[rings[0]]
        if not left or asyncio.get_running_loop().time() > deadline:
            return [f"{number} {text}" for number, text in left.items()]
        await asyncio.sleep(0.05)


def run(main: Callable[[], Any], kind: str) -> None:
    """Run `main` to its end on a loop of `kind`."""
    if kind == "asyncio":
        factory: Any = asyncio.SelectorEventLoop
    else:
        import loopfast

        factory = loopfast.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())

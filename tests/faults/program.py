"""Runs one scenario again and again in this process, each time with one call failing, and reports what was not clean.

Started by `faults.py`, with the shim preloaded, and its plan as JSON on standard input. Prints one JSON object per
line: {"at": n} before the nth injection, {"problem": ...} for a fault that was not handled well, at the end "done".
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from asyncio import constants
from pathlib import Path
from typing import Any

import calls
import scenarios

try:
    import _testcapi
except ImportError:
    _testcapi = None

# Seconds that a scenario may take; then nothing will come any more.
PATIENCE = 2.5
# Seconds for all of an injection, after which the process itself has stopped to respond.
HANG = 12
# What a failing call may be seen as.
CLEAN = (OSError, MemoryError, RuntimeError, EOFError, asyncio.CancelledError)
# What comes of the warning about a coroutine that nobody awaited if it is collected while a named tuple is made: the
# interpreter imports warnings in the frame that runs, and that one has no builtins.
CANNOT_WARN = (KeyError, "'__import__'")


class Shim:
    """The shim's functions, and where the code of loopfast and libuv lies."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)
        self.library.faults_name.restype = self.library.faults_caller.restype = ctypes.c_char_p
        self.library.faults_count.restype = ctypes.c_long
        self.library.faults_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int]
        self.library.faults_add_range.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self.found: set[tuple[int, int]] = set()
        self.numbers = {self.library.faults_name(kind).decode(): kind for kind in range(self.library.faults_kinds())}

    def find_code(self) -> None:
        """Tell the library where our code is, as far as it has not been told."""
        for line in Path("/proc/self/maps").read_text().splitlines():
            fields = line.split()
            if "x" in fields[1] and "/loopfast/" in fields[-1]:
                start, end = (int(part, 16) for part in fields[0].split("-"))
                if (start, end) in self.found:
                    continue
                self.found.add((start, end))
                if self.library.faults_add_range(start, end) < 0:
                    raise RuntimeError("no room for another range of code")

    def arm(self, call: str | None, nth: int = 0, times: int = 1, error: int = 0, ours_only: bool = False) -> None:
        kind = -1 if call is None else self.numbers[call]
        self.library.faults_arm(kind, nth, times, error, ours_only)

    def counts(self) -> dict[str, int]:
        return {name: self.library.faults_count(kind) for name, kind in self.numbers.items()}


class Attempt:
    """One run of a scenario: the loop made, run and closed, and what came of it."""

    def __init__(self, setting: scenarios.Setting, scenario: Any) -> None:
        self.setting = setting
        self.scenario = scenario
        self.loop: Any = None
        self.raised: list[BaseException] = []
        self.reports: list[Any] = []
        self.unraisable: list[Any] = []
        self.seconds = 0.0
        # The number of an allocation by the interpreter that is to fail.
        self.starve_at = 0

    def run(self, disarm: Any) -> None:
        self.setting.heard.clear()
        started = time.monotonic()
        sys.unraisablehook = lambda what: self.unraisable.append((what.exc_type, str(what.exc_value)))
        threading.excepthook = lambda what: self.unraisable.append((what.exc_type, str(what.exc_value)))
        self.step(self.work)
        disarm_late = self.setting.disarm_late
        if not disarm_late:
            disarm()
        if self.loop is not None:
            self.step(self.drain)
            self.step(self.drain)
            self.step(self.loop.close)
            disarm()
            if not self.loop.is_closed():
                self.step(self.loop.close)
            self.closed = self.loop.is_closed()
        else:
            self.closed = True
        disarm()
        self.loop = None
        self.seconds = time.monotonic() - started

    def step(self, function: Any) -> None:
        try:
            function()
        except BaseException as exc:
            # Its frames hold what the scenario opened.
            exc.__traceback__ = None
            exc.__context__ = None
            self.raised.append(exc)

    def work(self) -> None:
        if self.starve_at:
            _testcapi.set_nomemory(self.starve_at, self.starve_at + 1)
        self.loop = self.setting.new_event_loop()
        self.loop.set_exception_handler(
            lambda loop, context: self.reports.append((context.get("message"), repr(context.get("exception"))))
        )
        self.loop.run_until_complete(asyncio.wait_for(self.scenario(self.setting), PATIENCE))

    def drain(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())

    def told(self) -> bool:
        return bool(self.raised or self.reports or self.setting.heard or self.unraisable)

    def description(self) -> str:
        return (
            f"raised {[repr(exc) for exc in self.raised]}, reported {self.reports}, "
            f"heard {[repr(exc) for exc in self.setting.heard]}, unraisable {self.unraisable}"
        )


def descriptors() -> dict[int, str]:
    """What this process has open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    # The listing's own is closed by now.
    return {number: target for number, target in found.items() if not target.endswith("/fd")}


def children_left() -> int:
    """End and count the children that nobody has waited for."""
    count = 0
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return count
        if pid == 0:
            # Runs still.
            for name in Path("/proc/self/task").iterdir():
                for child in (name / "children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
            time.sleep(0.01)
        count += pid != 0


class Program:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.shim = Shim()
        if plan["loop"] == "asyncio":
            new_event_loop: Any = asyncio.SelectorEventLoop
        else:
            import loopfast

            new_event_loop = loopfast.new_event_loop
        self.setting = scenarios.Setting(Path(plan["folder"]), new_event_loop)
        self.setting.disarm_late = False
        self.scenario = scenarios.SCENARIOS[plan["scenario"]]
        self.shim.find_code()
        self.shim.library.faults_catch_crashes()
        if plan["no_ring"]:
            self.shim.library.faults_forbid_ring()
        self.problems = 0

    def say(self, **what: Any) -> None:
        print(json.dumps(what), flush=True)

    def attempt(self, injection: dict[str, Any] | None) -> tuple[Attempt, int]:
        """Run the scenario once, and return what came of it and how many calls failed."""
        attempt = Attempt(self.setting, self.scenario)
        starving = injection is not None and injection["call"] == calls.PYTHON_MEMORY
        faulthandler.dump_traceback_later(HANG / 3 if starving else HANG, exit=True)
        if injection is None:
            self.shim.arm(None)
            self.setting.disarm_late = True
        else:
            lasting = injection["times"] > 1 or injection["call"] == calls.PYTHON_MEMORY
            # What lasts ends with the scenario, so that the loop can be given back.
            self.setting.disarm_late = not lasting
            self.shim.arm(
                None if injection["call"] == calls.PYTHON_MEMORY else injection["call"],
                injection["nth"],
                injection["times"],
                calls.number(injection["errno"]),
                injection.get("ours", False),
            )
        of_python = injection is not None and injection["call"] == calls.PYTHON_MEMORY

        def disarm() -> None:
            self.shim.library.faults_disarm()
            if of_python:
                _testcapi.remove_mem_hooks()

        if of_python:
            attempt.starve_at = injection["nth"]
        attempt.run(disarm)
        fired = self.shim.library.faults_fired() or of_python
        faulthandler.cancel_dump_traceback_later()
        return attempt, fired

    def warm_up(self, rounds: int) -> None:
        """Import and make what is made once only; a scenario must succeed without a fault."""
        for _ in range(rounds):
            attempt, _ = self.attempt(None)
            if attempt.told():
                raise SystemExit(f"without a fault: {attempt.description()}")

    def run(self) -> None:
        if self.plan["count"]:
            self.warm_up(self.plan["warm_up"])
            attempt, _ = self.attempt(None)
            if attempt.told():
                raise SystemExit(f"without a fault: {attempt.description()}")
            self.say(counts=self.shim.counts(), seconds=attempt.seconds)
            return
        self.warm_up(self.plan["warm_up"])
        fired_in_all = 0
        for index, injection in enumerate(self.plan["injections"]):
            self.say(at=index)
            before, threads_before = descriptors(), threading.active_count()
            attempt, fired = self.attempt(injection)
            fired_in_all += fired > 0
            problems = self.judge(attempt, injection, fired)
            left = {number: target for number, target in descriptors().items() if before.get(number) != target}
            if left:
                gc.collect()
                left = {number: target for number, target in descriptors().items() if before.get(number) != target}
            if self.plan["scenario"] in scenarios.FRESH:
                # What libuv opens once for all loops of a process: a pipe.
                left = {number: target for number, target in left.items() if not target.startswith("pipe:")}
            if left:
                problems.append(f"descriptors left: {left}")
            lost = sorted(set(before) - set(descriptors()))
            if lost:
                problems.append(f"descriptors of others closed: {lost}")
            if self.shim.library.faults_bad_closes():
                by = os.path.basename(self.shim.library.faults_caller(True).decode())
                problems.append(f"closed a descriptor that was not open: {by}")
            if children_left():
                problems.append("a child that nobody waited for")
            for thread in threading.enumerate() if threading.active_count() > threads_before else ():
                # It may just have been told to end.
                if thread is not threading.main_thread():
                    thread.join(1)
            if threading.active_count() > threads_before:
                problems.append(f"threads left: {threading.enumerate()}")
            if problems and injection["call"] != calls.PYTHON_MEMORY:
                self.problems += 1
                self.say(
                    problem=problems,
                    index=index,
                    injection=injection,
                    caller=os.path.basename(self.shim.library.faults_caller(False).decode()),
                    came=attempt.description(),
                )
            if left:
                for number in left:
                    os.close(number)
            if index % 32 == 31 or index == len(self.plan["injections"]) - 1:
                # What failed before must not be felt now.
                attempt, _ = self.attempt(None)
                if attempt.told():
                    self.say(
                        problem=["does not work any more, without a fault"],
                        index=index,
                        injection=injection,
                        caller="",
                        came=attempt.description(),
                    )
        self.say(done=True, fired=fired_in_all, problems=self.problems)

    def judge(self, attempt: Attempt, injection: dict[str, Any], fired: int) -> list[str]:
        """What is wrong with the way in which the fault came out."""
        problems = []
        if injection["call"] == calls.PYTHON_MEMORY:
            # Whatever the interpreter and asyncio make of it, but for a crash, and for what the callers look at.
            return problems
        is_harmless = calls.is_harmless(injection["call"], injection["errno"])
        for exc in attempt.raised:
            if isinstance(exc, TimeoutError) and exc.errno is None:
                if not (attempt.reports or attempt.setting.heard or attempt.unraisable):
                    problems.append("stalled, and nobody was told")
                elif is_harmless:
                    problems.append("stalled")
            elif not isinstance(exc, CLEAN):
                problems.append(f"an odd exception: {exc!r}")
        if is_harmless and fired and attempt.told() and not problems:
            problems.append("should not have been felt")
        problems += [f"an odd exception: {name.__name__}: {text}" for name, text in attempt.unraisable
                     if not issubclass(name, CLEAN) and (name, text) != CANNOT_WARN]  # fmt: skip
        if not attempt.closed:
            problems.append("the loop could not be closed")
        return problems


def main() -> None:
    # Children start without the shim.
    os.environ.pop("LD_PRELOAD", None)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    constants.ACCEPT_RETRY_DELAY = 0.01
    constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES = 1 << 30
    Program(json.load(sys.stdin)).run()


if __name__ == "__main__":
    main()

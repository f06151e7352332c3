"""What a workload is, and the table of all of them.

A new one is a decorated function in a module of workloads/ that AREAS names.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fnmatch
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from ..load import Load

Loop = asyncio.AbstractEventLoop
LOOP_VARIABLE = "LOOPFAST_BENCH_LOOP"
"""Environment variable of a measured process that names its loop, for workloads that make loops of their own."""
AREAS = ("scheduling", "tasks", "startup", "sockets", "web")
"""The modules of workloads/, in the order of the tables."""


class WrongWork(Exception):
    """A loop did not do what the workload asked of it; its time means nothing."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """One operation to be timed.

    Without `load` it is a micro workload: `run(loop, repeats)` performs repeats * `batch` operations and is timed by
    pyperf. With `load` it is a server: `run(loop, listener)` is a coroutine function that starts one and returns what
    must stay alive, and the C generator is the client. `requires` names packages; `expect` is the JSON text that an
    HTTP server must answer.
    """

    name: str
    title: str
    run: Callable[..., Any]
    batch: int = 1
    load: Load | None = None
    quick: bool = False
    requires: tuple[str, ...] = ()
    expect: str | None = None

    @property
    def group(self) -> str:
        """The part of the name before the first dot."""
        return self.name.partition(".")[0]

    @property
    def family(self) -> str:
        """The first two parts of the name: the same code under several loads."""
        return ".".join(self.name.split(".")[:2])


WORKLOADS: dict[str, Workload] = {}


def add(workload: Workload) -> None:
    """Enters `workload` into the table; a name may be taken once."""
    if workload.name in WORKLOADS:
        raise ValueError(f"two workloads are called {workload.name}")
    WORKLOADS[workload.name] = workload


def micro(
    name: str, title: str, batch: int = 1, quick: bool = False
) -> Callable[[Callable[[Loop, int], Any]], Callable[[Loop, int], Any]]:
    """Registers a micro workload, written as a function or a coroutine function of the loop and the repeats."""

    def register(function: Callable[[Loop, int], Any]) -> Callable[[Loop, int], Any]:
        run = function
        if asyncio.iscoroutinefunction(function):

            @functools.wraps(function)
            def run(loop: Loop, repeats: int) -> None:
                loop.run_until_complete(function(loop, repeats))

        add(Workload(name, title, run, batch=batch, quick=quick))
        return function

    return register


def server(
    name: str,
    title: str,
    *,
    quick: bool = False,
    requires: Sequence[str] = (),
    expect: str | None = None,
    **load: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a server workload; `load` as in Load. May be repeated on one function, for several loads."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        described = Load(**load)
        add(Workload(name, title, function, 1, described, quick, tuple(requires), expect))
        return function

    return register


def check(done: int, wanted: int) -> None:
    """Raises WrongWork unless as much was done as was asked for."""
    if done != wanted:
        raise WrongWork(f"{done} of {wanted} operations were done")


def load_all() -> dict[str, Workload]:
    """Returns the table with every module of workloads/ imported."""
    for name in AREAS:
        importlib.import_module(f".workloads.{name}", __package__)
    # As written, but with the loads of a server from small to large: stacked decorators register from below.
    places: dict[str, int] = {}
    for workload in WORKLOADS.values():
        for part in (workload.group, workload.family):
            places.setdefault(part, len(places))

    def place(workload: Workload) -> tuple[int, ...]:
        load = workload.load
        size = (0, 0, 0) if load is None else (load.size, load.connections, load.pipeline)
        return places[workload.group], places[workload.family], *size

    return {workload.name: workload for workload in sorted(WORKLOADS.values(), key=place)}


def select(patterns: Sequence[str], quick: bool = False) -> list[Workload]:
    """Returns the workloads that match any of `patterns` (shell wildcards, or a group), all where there is none.

    With `quick` and no pattern, the representative ones only. Raises ValueError naming a pattern without a match.
    """
    table = load_all()
    if not patterns:
        return [workload for workload in table.values() if workload.quick or not quick]
    chosen: dict[str, Workload] = {}
    for pattern in patterns:
        found = [w for w in table.values() if w.group == pattern or fnmatch.fnmatchcase(w.name, pattern)]
        if not found:
            raise ValueError(f"no workload matches {pattern!r}; python -m bench list shows them")
        chosen.update((w.name, w) for w in found)
    return [workload for workload in table.values() if workload.name in chosen]

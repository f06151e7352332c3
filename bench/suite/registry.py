"""What a workload is, and the table of all of them.

A new one is a decorated function in a module of workloads/ that AREAS names.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import fnmatch
import functools
import importlib
import inspect
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


class Tier(enum.IntEnum):
    """Which runs a workload is a part of: the quick one too, the ordinary one, or the full one only."""

    QUICK = 0
    DEFAULT = 1
    FULL = 2


@dataclasses.dataclass(frozen=True)
class Workload:
    """One operation to be measured.

    Without `load` it is a micro workload: `run(loop, repeats)` performs repeats * `batch` operations and is timed by
    pyperf, unless it returns the seconds itself. With `load` it is a server: `run(loop, listener)` is a coroutine
    function that starts one and returns what must stay alive, and the C generator is the client; with `idle` what is
    measured is the memory of a connection, not time. `requires` names packages; `expect` is the JSON text that an
    HTTP server must answer.
    """

    name: str
    title: str
    run: Callable[..., Any]
    batch: int = 1
    load: Load | None = None
    tier: Tier = Tier.DEFAULT
    requires: tuple[str, ...] = ()
    expect: str | None = None
    idle: bool = False

    @property
    def unit(self) -> str:
        """What its values are: seconds per operation, or bytes per connection."""
        return "byte" if self.idle else "second"

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


def tier(quick: bool) -> Tier:
    """Returns the tier of a workload that no matrix made."""
    return Tier.QUICK if quick else Tier.DEFAULT


def micro(
    name: str, title: str, batch: int = 1, quick: bool = False
) -> Callable[[Callable[[Loop, int], Any]], Callable[[Loop, int], Any]]:
    """Registers a micro workload, written as a function or a coroutine function of the loop and the repeats."""

    def register(function: Callable[[Loop, int], Any]) -> Callable[[Loop, int], Any]:
        run = function
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            def run(loop: Loop, repeats: int) -> float | None:
                return loop.run_until_complete(function(loop, repeats))

        add(Workload(name, title, run, batch=batch, tier=tier(quick)))
        return function

    return register


def server(
    name: str,
    title: str,
    *,
    quick: bool = False,
    requires: Sequence[str] = (),
    expect: str | None = None,
    idle: bool = False,
    **load: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a server workload; `load` as in Load. May be repeated on one function, for several loads."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        add(Workload(name, title, function, 1, Load(**load), tier(quick), tuple(requires), expect, idle))
        return function

    return register


KIB, MIB = 1024, 1024 * 1024
SIZES = {"64B": 64, "1KiB": KIB, "16KiB": 16 * KIB, "64KiB": 64 * KIB, "1MiB": MIB}
CONNECTIONS = (1, 10, 100, 1000)
IN_FLIGHT = 128 * MIB
"""The matrix leaves out what would have more bytes than this under way at once."""


def matrix(
    family: str,
    title: str,
    *,
    default: Sequence[str] = (),
    quick: Sequence[str] = (),
    **load: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers an echo server under every size and number of connections.

    `quick` and `default` name those of the quick and the ordinary run ("1KiB.c10"); the rest is of the full run only.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        cells = {
            f"{label}.c{count}": Load(size=size, connections=count, **load)
            for label, size in SIZES.items()
            for count in CONNECTIONS
            if size * count <= IN_FLIGHT
        }
        for name in (*default, *quick):
            if name not in cells:
                raise ValueError(f"{family} has no {name}")
        for name, one in cells.items():
            chosen = Tier.QUICK if name in quick else Tier.DEFAULT if name in default else Tier.FULL
            size = name.partition(".")[0].replace("KiB", " KiB").replace("MiB", " MiB").replace("64B", "64 B")
            many = f"{one.connections:,} connection{'s' if one.connections > 1 else ''}"
            add(Workload(f"{family}.{name}", f"{title}, {size}, {many}", function, load=one, tier=chosen))
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


def select(patterns: Sequence[str], limit: Tier = Tier.DEFAULT) -> list[Workload]:
    """Returns the workloads that match any of `patterns` (shell wildcards, or a group), all where there is none.

    A group or no pattern stands for those up to the tier `limit`; a name or a pattern with wildcards for any. Raises
    ValueError naming a pattern without a match.
    """
    table = load_all()
    if not patterns:
        return [workload for workload in table.values() if workload.tier <= limit]
    chosen: set[str] = set()
    for pattern in patterns:
        found = {w.name for w in table.values() if w.group == pattern and w.tier <= max(limit, Tier.DEFAULT)}
        found = found or {w.name for w in table.values() if fnmatch.fnmatchcase(w.name, pattern)}
        if not found:
            raise ValueError(f"no workload matches {pattern!r}; the command list shows them")
        chosen |= found
    return [workload for workload in table.values() if workload.name in chosen]

"""Repeats of every group of operations leave nothing: no object, no descriptor, and no native object on a debug build.

On loopfast with the garbage collector off: what ends frees itself, nothing waits in a cycle to be found.
"""

from __future__ import annotations

import collections
import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from leaking import SCENARIOS, Scenario
from support import gc_disabled, open_descriptors, settle

# Few enough to be quick, and more than anything that is kept once: what leaks per repeat is left at least this often.
REPEATS = 12
# Cycles in the interpreter's own Python code, which both loops run: asyncio leaves the same objects.
INHERITED_CYCLES = {
    "tls_refused": "create_connection(): the failed future is a local variable in the traceback of its error",
    "processes_with_input": "the protocol of asyncio.subprocess and the StreamWriter of stdin refer to each other",
}
if sys.version_info < (3, 12, 2):
    INHERITED_CYCLES["tls_server_with_bad_clients"] = (
        "SSLProtocol._on_handshake_complete(): the error, in its traceback"
    )


@pytest.fixture
def executor(loop):
    """The loop's threads, of which there is one: others would be started in the middle of it, as chance has it."""
    executor = ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    return executor


def repeat(scenario: Scenario, loop: Any, executor: ThreadPoolExecutor, contexts: Any, times: int) -> None:
    async def repeated() -> None:
        for _ in range(times):
            await scenario(loop, contexts)
        await settle(10)

    loop.run_until_complete(repeated())
    # The thread holds a job, and all that it leads to, until it has the next one.
    executor.submit(int).result()


def census() -> collections.Counter[str]:
    """Count the objects that exist, by type. Frames and code of the count itself are not among them."""
    return collections.Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())


def growth(before: collections.Counter[str]) -> dict[str, int]:
    """The types of which there is one more for every repeat, or nearly: less may be a cache that fills."""
    return {name: count for name, count in (census() - before).items() if count >= REPEATS // 2}


@pytest.mark.parametrize("name", SCENARIOS)
def test_repeats_leave_nothing(loop, loop_kind, executor, certificate, name):
    scenario = SCENARIOS[name]
    repeat(scenario, loop, executor, certificate, 3)
    growth(census())
    gc.collect()
    descriptors, before = open_descriptors(), census()
    repeat(scenario, loop, executor, certificate, REPEATS)
    gc.collect()
    assert growth(before) == {}
    assert open_descriptors() == descriptors


@pytest.mark.loopfast_only("asyncio has cycles in its tasks and transports")
@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - INHERITED_CYCLES.keys()))
def test_repeats_leave_nothing_without_the_collector(loop, loop_kind, executor, certificate, name):
    scenario = SCENARIOS[name]
    repeat(scenario, loop, executor, certificate, 3)
    growth(census())
    with gc_disabled():
        descriptors, before = open_descriptors(), census()
        repeat(scenario, loop, executor, certificate, REPEATS)
        assert growth(before) == {}
        assert open_descriptors() == descriptors

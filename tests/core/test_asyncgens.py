"""Asynchronous generators: finished by the loop when dropped, and by shutdown_asyncgens()."""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest


async def generator(log):
    try:
        while True:
            yield 1
    finally:
        await asyncio.sleep(0)
        log.append("finished")


async def test_a_dropped_generator_is_finished(loop):
    log = []
    agen = generator(log)
    await agen.asend(None)
    del agen
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert log == ["finished"]


def test_shutdown_finishes_all(loop):
    log = []
    held = []

    async def main():
        for _ in range(3):
            agen = generator(log)
            await agen.asend(None)
            held.append(agen)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert log == ["finished"] * 3


def test_an_exception_while_finishing_is_reported(loop, reports):
    async def failing():
        try:
            yield 1
        finally:
            raise LookupError

    held = failing()

    async def main():
        await held.asend(None)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    report = reports.take()
    assert isinstance(report["exception"], LookupError)
    assert report["asyncgen"] is held


def test_starting_a_generator_after_shutdown_warns(loop):
    held = []

    async def main():
        agen = generator([])
        held.append(agen)
        await agen.asend(None)
        await agen.aclose()

    loop.run_until_complete(loop.shutdown_asyncgens())
    with pytest.warns(ResourceWarning, match="was scheduled after"):
        loop.run_until_complete(main())


def test_the_hooks_are_restored(loop):
    before = sys.get_asyncgen_hooks()
    inside = []

    async def main():
        inside.append(sys.get_asyncgen_hooks())

    loop.run_until_complete(main())
    assert sys.get_asyncgen_hooks() == before
    assert inside[0].firstiter is not None and inside[0].finalizer is not None

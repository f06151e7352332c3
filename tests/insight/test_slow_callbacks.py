"""Slow callbacks and stalls: counted always, named where callbacks are timed, with the stack of the task."""

from __future__ import annotations

import asyncio
import functools
import time

import pytest
from support import Recorder, datagram_endpoint, settle, transport_and_peer, until

pytestmark = pytest.mark.loopfast_only("asyncio's loops have no statistics")

#: Seconds that a callback is slow from in these tests, and how long a slow one takes. A shared machine stops for some
#: tens of milliseconds now and then, and what runs just then is slow: far above that the counts are certain.
LIMIT, LONG = 0.2, 0.21


@pytest.fixture
def loop(loop):
    loop.slow_callback_duration = LIMIT
    return loop


@pytest.fixture
def timing(loop):
    """The loop, timing its callbacks."""
    loop._set_timing(True)
    return loop


def dawdle(*_args):
    time.sleep(LONG)


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


# ------------------------------------------------------------------------------------------------------- without timing


def test_a_stall_is_noticed_without_timing(loop):
    loop.call_soon(dawdle)
    run_once(loop)
    loop.run_until_complete(asyncio.sleep(0.001))
    statistics = loop.statistics()
    assert (statistics.stalls, statistics.slow_callbacks) == (1, 1)
    assert statistics.longest_stall >= LONG
    [slow] = statistics.slow
    assert slow.duration >= LONG
    assert "not timed" in slow.callback
    assert not statistics.timing


async def test_a_stall_is_noticed_at_once_by_who_asks(loop):
    time.sleep(LONG)
    assert loop.statistics().stalls == 1
    # And counted once.
    assert loop.statistics().stalls == 1
    await asyncio.sleep(0.001)
    assert loop.statistics().stalls == 1


def test_none_without_a_slow_one(loop):
    loop.slow_callback_duration = 60
    loop.call_soon(dawdle)
    run_once(loop)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert (loop.statistics().stalls, loop.statistics().slow_callbacks, loop.statistics().slow) == (0, 0, ())


def test_sleep_is_no_stall(loop):
    loop.run_until_complete(asyncio.sleep(2 * LIMIT))
    statistics = loop.statistics()
    assert statistics.idle_time > LIMIT
    assert statistics.slow_callbacks == statistics.stalls == 0


def test_two_stalls_start_the_timing(loop):
    async def main():
        for _ in range(2):
            time.sleep(LONG)
            await asyncio.sleep(0.001)
        assert loop.statistics().timing
        await culprit()

    async def culprit():
        time.sleep(LONG)
        await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    statistics = loop.statistics()
    assert statistics.slow_callbacks == statistics.stalls == 3
    assert "not timed" in statistics.slow[0].callback
    assert "main" in statistics.slow[-1].callback


@pytest.mark.parametrize("value", [None, "text", float("nan")])
def test_a_duration_that_is_none(loop, value):
    """asyncio takes anything, and only debug mode looks at it."""
    loop.slow_callback_duration = value
    assert loop.slow_callback_duration is value
    loop.call_soon(dawdle)
    run_once(loop)
    assert loop.statistics().stalls == 0


@pytest.mark.parametrize("value", [0, -1, 0.0000001])
def test_a_duration_of_nothing_makes_not_everything_slow(loop, value):
    loop.slow_callback_duration = value
    for _ in range(100):
        loop.call_soon(int)
    run_once(loop)
    assert loop.statistics().slow_callbacks <= 3


# ---------------------------------------------------------------------------------------------------------- with timing


def test_each_slow_callback_is_named(timing):
    timing.call_soon(dawdle)
    timing.call_soon(int)
    timing.call_soon(functools.partial(dawdle, 1))
    timing.call_later(0, dawdle)
    timing.call_soon_threadsafe(dawdle)
    timing.call_later(0.001, timing.stop)
    timing.run_forever()
    statistics = timing.statistics()
    assert statistics.timing
    assert statistics.slow_callbacks == 4
    assert [slow.duration >= LONG for slow in statistics.slow] == [True] * 4
    assert all("dawdle" in slow.callback for slow in statistics.slow)
    assert all(slow.taken == "start" and slow.stack[0].startswith(__file__) for slow in statistics.slow)
    assert all(slow.task is None for slow in statistics.slow)
    assert abs(statistics.slow[-1].when - time.time()) < 60


def test_the_stack_of_a_suspended_task(timing):
    async def inner():
        time.sleep(LONG)
        await asyncio.sleep(0.001)

    async def outer():
        await inner()

    async def main():
        await asyncio.create_task(outer(), name="the culprit")

    timing.run_until_complete(main())
    [slow] = [each for each in timing.statistics().slow if each.task == "the culprit"]
    assert slow.taken == "after"
    assert "outer" in slow.callback
    functions = [line.partition(" in ")[2] for line in slow.stack]
    assert "outer: await inner()" in functions[0]
    assert "inner: await asyncio.sleep(0.001)" in functions[1]
    assert "sleep" in functions[2]


def test_where_a_task_that_has_ended_began(timing):
    async def brief():
        time.sleep(LONG)

    timing.run_until_complete(brief())
    [slow] = timing.statistics().slow
    assert slow.taken == "start"
    assert "brief" in slow.stack[0]


def test_a_reader(timing):
    import socket

    one, other = socket.socketpair()
    one.setblocking(False)

    def readable():
        time.sleep(LONG)
        one.recv(10)
        timing.stop()

    timing.add_reader(one, readable)
    other.send(b"x")
    timing.run_forever()
    timing.remove_reader(one)
    assert "readable" in timing.statistics().slow[-1].callback
    one.close()
    other.close()


async def test_data_received(timing):
    class Slow(Recorder):
        def data_received(self, data):
            time.sleep(LONG)
            super().data_received(data)

    async with transport_and_peer(Slow) as (_, protocol, peer):
        peer.send(b"x")
        await protocol.received(1)
        await settle()
        slow = timing.statistics().slow[-1]
    assert "Slow.data_received()" in slow.callback
    assert slow.taken == "start" and "data_received" in slow.stack[0]


async def test_datagram_received(timing):
    class Slow(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            time.sleep(LONG)

    async with datagram_endpoint(Slow) as (transport, _):
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await until(lambda: timing.statistics().bytes_received)
        await settle()
        assert "Slow.datagram_received()" in timing.statistics().slow[-1].callback


def test_only_the_last_are_remembered(timing):
    timing.slow_callback_duration = 0
    for number in range(100):
        timing.call_soon(time.sleep, 0.0011 + number * 1e-9)
    run_once(timing)
    statistics = timing.statistics()
    assert statistics.slow_callbacks >= 100
    assert len(statistics.slow) == 16


def test_a_repr_that_raises(timing, reports):
    class Rude:
        def __call__(self):
            time.sleep(LONG)

        def __repr__(self):
            raise ValueError("none of your business")

    timing.call_soon(Rude())
    timing.call_soon(dawdle, Rude())
    run_once(timing)
    assert timing.statistics().slow_callbacks == 2
    assert any("repr() raised ValueError" in slow.callback for slow in timing.statistics().slow)


def test_long_texts_are_cut(timing):
    class Wordy:
        def __call__(self):
            time.sleep(LONG)

        def __repr__(self):
            return "word " * 10000

    timing.call_soon(dawdle, Wordy())
    run_once(timing)
    assert len(timing.statistics().slow[-1].callback) <= 300


def test_a_deep_stack_is_cut(timing):
    async def down(depth):
        if depth:
            await down(depth - 1)
        else:
            time.sleep(LONG)
            await asyncio.sleep(0.001)

    timing.run_until_complete(down(100))
    [slow] = timing.statistics().slow
    assert len(slow.stack) <= 24
    assert "sleep" in slow.stack[-1]


def test_what_a_slow_callback_raises_is_reported_all_the_same(timing, reports):
    def fail():
        time.sleep(LONG)
        raise ZeroDivisionError

    timing.call_soon(fail)
    run_once(timing)
    assert isinstance(reports.take()["exception"], ZeroDivisionError)
    assert timing.statistics().slow_callbacks == 1


def test_keyboard_interrupt_ends_the_run_all_the_same(timing):
    def interrupt():
        raise KeyboardInterrupt

    timing.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        timing.run_forever()
    run_once(timing)


def test_the_handle_is_released(timing):
    import gc
    import weakref

    class Argument:
        pass

    argument = Argument()
    reference = weakref.ref(argument)
    handle = timing.call_soon(dawdle, argument)
    run_once(timing)
    del argument
    gc.collect()
    assert reference() is None
    assert handle.get_context() is None


# ----------------------------------------------------------------------------------------------------------- debug mode


def test_debug_mode_logs_the_stack_of_the_task(loop, caplog):
    loop.set_debug(True)

    async def inner():
        time.sleep(LONG)
        await asyncio.sleep(0.001)

    async def outer():
        await inner()

    loop.run_until_complete(outer())
    [message] = [record.getMessage() for record in caplog.records if "Executing" in record.getMessage()]
    first, head, *stack = message.splitlines()
    assert first.startswith("Executing <Task") and first.endswith("seconds")
    assert "suspended" in head
    assert "in test_debug_mode_logs_the_stack_of_the_task.<locals>.outer: await inner()" in stack[0]
    assert loop.statistics().slow_callbacks == 1


async def test_debug_mode_logs_slow_protocols(loop, caplog):
    """As asyncio does, whose transports read in callbacks."""
    loop.set_debug(True)

    class Slow(Recorder):
        def data_received(self, data):
            time.sleep(LONG)
            super().data_received(data)

    async with transport_and_peer(Slow) as (_, protocol, peer):
        peer.send(b"x")
        await protocol.received(1)
        await settle()
    assert any(
        record.getMessage().startswith("Executing ") and "data_received" in record.getMessage()
        for record in caplog.records
    )


def test_nothing_is_logged_without_debug_mode(timing, caplog):
    timing.call_soon(dawdle)
    run_once(timing)
    assert timing.statistics().slow_callbacks == 1
    assert caplog.text == ""

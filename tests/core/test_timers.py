"""call_later and call_at: never early, in order of deadline, first in first out, with full resolution."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import pytest
from support import settle


def test_time_is_monotonic_time(loop):
    before = time.monotonic()
    now = loop.time()
    assert before <= now <= time.monotonic()


def test_time_advances_within_a_callback(loop):
    seen = []

    def callback():
        seen.append(loop.time())
        time.sleep(0.002)
        seen.append(loop.time())
        loop.stop()

    loop.call_soon(callback)
    loop.run_forever()
    assert seen[1] - seen[0] >= 0.002


@pytest.mark.parametrize("delay", [0.0001, 0.0003, 0.0007, 0.001, 0.0015, 0.0031, 0.01])
async def test_sleep_is_never_early(loop, delay):
    for _ in range(20):
        start = time.monotonic()
        await asyncio.sleep(delay)
        # asyncio itself compares with the clock's resolution, 1 ns on Linux.
        assert time.monotonic() - start >= delay - time.get_clock_info("monotonic").resolution


def test_callbacks_are_never_early(loop):
    resolution = time.get_clock_info("monotonic").resolution
    early = []
    left = 300

    def fire(deadline):
        nonlocal left
        if time.monotonic() < deadline - resolution:
            early.append(deadline)
        left -= 1
        if left == 0:
            loop.stop()

    generator = random.Random(1)
    start = loop.time()
    for _ in range(left):
        deadline = start + generator.random() * 0.05
        loop.call_at(deadline, fire, deadline)
    loop.run_forever()
    assert early == []


@pytest.mark.loopfast_only("asyncio rounds up to whole milliseconds")
async def test_sub_millisecond_sleeps_are_honoured(loop):
    durations = []
    for _ in range(100):
        start = time.monotonic()
        await asyncio.sleep(0.0003)
        durations.append(time.monotonic() - start)
    assert statistics.median(durations) < 0.0009


def test_order_of_deadlines(loop):
    calls = []
    start = loop.time()
    deadlines = [start + 0.001 * number for number in range(30)]
    for deadline in random.Random(2).sample(deadlines, len(deadlines)):
        loop.call_at(deadline, calls.append, deadline)
    loop.call_at(start + 0.05, loop.stop)
    loop.run_forever()
    assert calls == deadlines


def test_order_of_deadlines_that_are_due_together(loop):
    calls = []
    start = loop.time()
    for number in random.Random(3).sample(range(500), 500):
        loop.call_at(start + number * 1e-6, calls.append, number)
    loop.call_at(start + 0.01, loop.stop)
    time.sleep(0.002)
    loop.run_forever()
    assert calls == list(range(500))


def test_equal_deadlines_are_first_in_first_out(loop):
    calls = []
    deadline = loop.time() + 0.005
    for number in range(100):
        loop.call_at(deadline, calls.append, number)
    loop.call_at(deadline, loop.stop)
    loop.run_forever()
    if type(loop).__module__.startswith("asyncio"):
        # asyncio's heap does not promise it.
        calls.sort()
    assert calls == list(range(100))


@pytest.mark.parametrize("delay", [0, -1, -1e9, float("-inf")])
def test_zero_and_negative_delays_run_in_the_next_turn(loop, delay):
    calls = []
    handle = loop.call_later(delay, calls.append, 1)
    assert isinstance(handle, asyncio.TimerHandle)
    loop.stop()
    loop.run_forever()
    assert calls == [1]


@pytest.mark.parametrize("delay", [1e9, 1e18, 1e300, float("inf")])
def test_huge_delays_never_fire(loop, delay):
    timer = loop.call_later(delay, pytest.fail, "fired")
    loop.call_later(0.005, loop.stop)
    loop.run_forever()
    assert not timer.cancelled()
    timer.cancel()


@pytest.mark.loopfast_only("asyncio raises ValueError out of the run where NaN is the earliest deadline")
def test_not_a_number_does_not_disturb_the_order(loop):
    calls = []
    start = loop.time()
    timer = loop.call_later(float("nan"), calls.append, "nan")
    for number in (3, 1, 2):
        loop.call_at(start + number * 0.001, calls.append, number)
    loop.call_at(start + 0.006, loop.stop)
    loop.run_forever()
    timer.cancel()
    assert [call for call in calls if call != "nan"] == [1, 2, 3]


@pytest.mark.parametrize("delay", ["1", object(), b"1"])
def test_delay_of_a_wrong_type(loop, delay):
    with pytest.raises(TypeError):
        loop.call_later(delay, print)


def test_delay_and_deadline_are_required(loop):
    with pytest.raises(TypeError, match="delay must not be None"):
        loop.call_later(None, print)
    with pytest.raises(TypeError, match="when cannot be None"):
        loop.call_at(None, print)
    with pytest.raises(TypeError):
        loop.call_later()
    with pytest.raises(TypeError):
        loop.call_at(1)


def test_integer_and_fraction_like_deadlines(loop):
    from decimal import Decimal
    from fractions import Fraction

    calls = []
    loop.call_at(int(loop.time()) - 1, calls.append, 1)
    loop.call_at(True, calls.append, 2)
    loop.call_later(Fraction(1, 1000), calls.append, 3)
    with pytest.raises(TypeError):
        # As for asyncio: a float and a Decimal cannot be added.
        loop.call_later(Decimal("0.001"), calls.append, 4)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert sorted(calls) == [1, 2, 3]


@pytest.mark.parametrize("count", range(7))
def test_arguments_reach_the_callback(loop, count):
    calls = []
    loop.call_later(0, lambda *args: calls.append(args), *range(count))
    loop.stop()
    loop.run_forever()
    assert calls == [tuple(range(count))]


def test_cancelled_timers_do_not_fire(loop):
    calls = []
    timers = [loop.call_later(0.001 * (number % 10), calls.append, number) for number in range(1000)]
    for number in random.Random(4).sample(range(1000), 1000):
        if number % 2:
            timers[number].cancel()
            timers[number].cancel()
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert sorted(calls) == list(range(0, 1000, 2))


def test_a_due_timer_can_cancel_the_next(loop):
    calls = []
    deadline = loop.time() + 0.001
    loop.call_at(deadline, lambda: later.cancel())
    later = loop.call_at(deadline + 1e-6, calls.append, "cancelled")
    loop.call_at(deadline + 0.01, loop.stop)
    time.sleep(0.003)
    loop.run_forever()
    assert calls == []


def test_a_timer_that_makes_timers(loop):
    calls = []

    def again(depth):
        calls.append(depth)
        if depth == 50:
            loop.stop()
        else:
            loop.call_later(0, again, depth + 1)

    loop.call_later(0, again, 0)
    loop.run_forever()
    assert calls == list(range(51))


def test_timers_made_between_runs_fire(loop):
    calls = []
    loop.call_later(0.001, calls.append, 1)
    time.sleep(0.002)
    loop.stop()
    loop.run_forever()
    assert calls == [1]


def test_an_exception_in_a_timer_is_reported(loop, reports):
    timer = loop.call_later(0, lambda: 1 / 0)
    loop.call_later(0.005, loop.stop)
    loop.run_forever()
    report = reports.take()
    assert report["handle"] is timer
    assert isinstance(report["exception"], ZeroDivisionError)


async def test_wait_for_and_timeout(loop):
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(loop.create_future(), 0.001)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(100)


def test_the_wall_clock_does_not_matter(loop, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert loop.run_until_complete(asyncio.sleep(0.001, "woke")) == "woke"


def test_a_long_timer_beside_short_ones(loop):
    long = loop.call_later(1000, print)
    for _ in range(20):
        assert loop.run_until_complete(asyncio.sleep(0.0005, 1)) == 1
    long.cancel()


async def test_time_replaced_on_a_loop(loop, monkeypatch):
    # As test suites do to make a long timeout pass.
    fired = []
    start = loop.time()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: start)
        loop.call_at(start + 1000, fired.append, "at")
        loop.call_later(2000, fired.append, "later")
        await settle()
        assert fired == []
        patch.setattr(loop, "time", lambda: start + 1000)
        await settle()
        assert fired == ["at"]
        patch.setattr(loop, "time", lambda: start + 3000)
        await settle()
        assert fired == ["at", "later"]
    assert start <= loop.time() < start + 1000
    pending = loop.call_later(1000, fired.append, "too early")
    await asyncio.sleep(0.001)
    assert fired == ["at", "later"]
    pending.cancel()


def test_a_subclass_with_a_clock_of_its_own(loop):
    class TimeTravel(type(loop)):
        now = 1000.0

        def time(self):
            return self.now

    def advance(seconds):
        travelling.now += seconds

    travelling = TimeTravel()
    try:
        fired = []
        travelling.call_at(1100, fired.append, "second")
        assert travelling.call_later(50, fired.append, "first").when() == 1050
        travelling.call_later(150, travelling.stop)
        travelling.call_soon(advance, 120)
        travelling.call_soon(travelling.call_soon, advance, 40)
        travelling.run_forever()
        assert fired == ["first", "second"]
    finally:
        travelling.close()

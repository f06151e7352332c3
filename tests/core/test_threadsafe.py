"""call_soon_threadsafe: every call of every thread runs exactly once, and wakes a sleeping loop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

THREADS = 8
CALLS = 2000


def test_wakes_a_sleeping_loop(loop):
    # Without a wake-up this run would last for ever.
    thread = threading.Timer(0.02, loop.call_soon_threadsafe, [loop.stop])
    thread.start()
    loop.run_forever()
    thread.join()


def test_wakes_a_loop_that_waits_for_a_timer(loop):
    timer = loop.call_later(3600, print)
    thread = threading.Timer(0.02, loop.call_soon_threadsafe, [loop.stop])
    thread.start()
    loop.run_forever()
    thread.join()
    timer.cancel()


def test_every_call_of_many_threads_runs_exactly_once_and_in_order(loop):
    calls = {thread: [] for thread in range(THREADS)}
    running = THREADS

    def finished():
        nonlocal running
        running -= 1
        if running == 0:
            loop.stop()

    def work(thread):
        for number in range(CALLS):
            loop.call_soon_threadsafe(calls[thread].append, number)
            if number % 100 == 0:
                time.sleep(0)
        loop.call_soon_threadsafe(finished)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert all(numbers == list(range(CALLS)) for numbers in calls.values())


def test_ping_pong_between_threads(loop):
    # Each round finds the loop asleep, or about to sleep: a lost wake-up hangs.
    rounds = 500
    turn = threading.Semaphore(0)
    count = 0

    def pong():
        nonlocal count
        count += 1
        turn.release()
        if count == rounds:
            loop.stop()

    def ping():
        for _ in range(rounds):
            loop.call_soon_threadsafe(pong)
            turn.acquire()

    thread = threading.Thread(target=ping)
    thread.start()
    loop.run_forever()
    thread.join()
    assert count == rounds


def test_before_the_loop_runs(loop):
    calls = []
    loop.call_soon_threadsafe(calls.append, 1)
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(calls.append, 2))
    thread.start()
    thread.join()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert calls == [1, 2]


async def test_from_the_own_thread_keeps_the_order(loop):
    calls = []
    loop.call_soon(calls.append, 1)
    loop.call_soon_threadsafe(calls.append, 2)
    loop.call_soon(calls.append, 3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert calls == [1, 2, 3]


async def test_returns_a_handle_that_cancels(loop):
    handle = loop.call_soon_threadsafe(pytest.fail, "cancelled, and ran")
    assert isinstance(handle, asyncio.Handle)
    handle.cancel()
    await asyncio.sleep(0)


def test_during_close_runs_once_or_raises(loop_factory):
    for _ in range(20):
        loop = loop_factory()
        refused = threading.Event()

        def call(loop=loop, refused=refused):
            while True:
                try:
                    loop.call_soon_threadsafe(int)
                except RuntimeError:
                    refused.set()
                    return

        thread = threading.Thread(target=call)
        thread.start()
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        thread.join()
        assert refused.is_set()


def test_run_coroutine_threadsafe(loop):
    results = []

    async def work(number):
        await asyncio.sleep(0)
        return number * 2

    def other():
        futures = [asyncio.run_coroutine_threadsafe(work(number), loop) for number in range(100)]
        results.extend(future.result() for future in futures)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    thread.start()
    loop.run_forever()
    thread.join()
    assert results == [2 * number for number in range(100)]


def test_loops_in_many_threads(loop_factory):
    results = []

    async def main(number):
        for _ in range(50):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return number

    def work(number):
        loop = loop_factory()
        results.append(loop.run_until_complete(main(number)))
        loop.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(THREADS))


def test_other_threads_run_while_the_loop_sleeps(loop):
    # The blocking poll must not hold the GIL: nothing else ends this run.
    ticks = []

    def tick():
        for number in range(10):
            ticks.append(number)
            time.sleep(0.001)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=tick)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert ticks == list(range(10))


# ------------------------------------------------------------------------------------------------ handles (Python 3.14)

thread_safe_handles = pytest.mark.skipif(
    not hasattr(asyncio.events, "_ThreadSafeHandle"), reason="thread-safe handles came with Python 3.14"
)


@thread_safe_handles
@pytest.mark.parametrize("debug", [False, True])
def test_cancelling_from_another_thread_waits_for_the_callback(loop, debug):
    loop.set_debug(debug)
    inside, cancelled = threading.Event(), threading.Event()
    order = []

    def callback():
        inside.set()
        assert not cancelled.wait(0.05)
        order.append("ran")

    def cancel():
        inside.wait()
        handle.cancel()
        order.append("cancelled")
        cancelled.set()
        assert handle.cancelled()
        loop.call_soon_threadsafe(loop.stop)

    handle = loop.call_soon_threadsafe(callback)
    assert isinstance(handle, asyncio.events._ThreadSafeHandle)
    thread = threading.Thread(target=cancel)
    thread.start()
    loop.run_forever()
    thread.join()
    assert order == ["ran", "cancelled"]


@thread_safe_handles
@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_waiting_canceller_is_released_by_a_failure(loop, reports, failure):
    inside = threading.Event()

    def callback():
        inside.set()
        threading.Event().wait(0.02)
        raise failure

    def cancel():
        inside.wait()
        handle.cancel()
        loop.call_soon_threadsafe(loop.stop)

    handle = loop.call_soon_threadsafe(callback)
    thread = threading.Thread(target=cancel)
    thread.start()
    if failure is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
    loop.run_forever()
    thread.join(5)
    assert not thread.is_alive()
    if failure is ValueError:
        assert isinstance(reports.take()["exception"], ValueError)


def test_a_handle_cancels_itself(loop):
    seen = []

    def callback():
        handle.cancel()
        seen.append(handle.cancelled())
        loop.stop()

    handle = loop.call_soon_threadsafe(callback)
    loop.run_forever()
    assert seen == [True]


def test_a_cancelled_handle_does_not_run(loop):
    handle = loop.call_soon_threadsafe(pytest.fail)
    handle.cancel()
    assert handle.cancelled()
    loop.call_soon(loop.stop)
    loop.run_forever()

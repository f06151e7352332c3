"""Scheduling: callbacks, wake-ups from threads, timers, watched descriptors."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from ..registry import Loop, check, micro

TIMERS = 10_000


def turns(loop: Loop, count: int, tick: Callable[[], None]) -> None:
    """Runs `tick` in `count` consecutive turns of the loop."""
    left = count

    def turn() -> None:
        nonlocal left
        if left == 0:
            loop.stop()
            return
        left -= 1
        tick()
        loop.call_soon(turn)

    loop.call_soon(turn)
    loop.run_forever()


def batches(loop: Loop, repeats: int, *arguments: int) -> None:
    """Has call_soon carry 100 calls with `arguments` in each of `repeats` turns."""
    done = 0

    def callback(*_arguments: int) -> None:
        nonlocal done
        done += 1

    def tick() -> None:
        for _ in range(100):
            loop.call_soon(callback, *arguments)

    turns(loop, repeats, tick)
    check(done, repeats * 100)


@micro("call_soon.batch", "call_soon(f), 100 in one turn", batch=100, quick=True)
def call_soon_batch(loop: Loop, repeats: int) -> None:
    batches(loop, repeats)


@micro("call_soon.argument", "call_soon(f, x), 100 in one turn", batch=100)
def call_soon_argument(loop: Loop, repeats: int) -> None:
    batches(loop, repeats, 1)


@micro("call_soon.single", "call_soon(f), one in each turn", batch=100, quick=True)
def call_soon_single(loop: Loop, repeats: int) -> None:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1

    turns(loop, repeats * 100, tick)
    check(done, repeats * 100)


@micro("threadsafe.same_thread", "call_soon_threadsafe(f) from the loop's thread, 10 in one turn", batch=100)
def threadsafe_same_thread(loop: Loop, repeats: int) -> None:
    done = 0

    def callback() -> None:
        nonlocal done
        done += 1

    def tick() -> None:
        for _ in range(10):
            loop.call_soon_threadsafe(callback)

    turns(loop, repeats * 10, tick)
    check(done, repeats * 100)


@micro("threadsafe.other_thread", "call_soon_threadsafe(f) from another thread, 1,000 at once", batch=1000, quick=True)
def threadsafe_other_thread(loop: Loop, repeats: int) -> None:
    done = 0

    def callback() -> None:
        nonlocal done
        done += 1

    def work() -> None:
        for _ in range(repeats * 1000):
            loop.call_soon_threadsafe(callback)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    check(done, repeats * 1000)


@micro("threadsafe.round_trip", "a call to another thread's loop and its answer back", batch=10)
def threadsafe_round_trip(loop: Loop, repeats: int) -> None:
    # Both ends sleep between messages, so each needs a wake-up.
    import queue

    requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
    left = repeats * 10

    def answered() -> None:
        nonlocal left
        left -= 1
        if left:
            requests.put(True)
        else:
            requests.put(False)
            loop.stop()

    def work() -> None:
        while requests.get():
            loop.call_soon_threadsafe(answered)

    thread = threading.Thread(target=work)
    thread.start()
    requests.put(True)
    loop.run_forever()
    thread.join()
    check(left, 0)


@micro("timer.fire", "call_later(1 ms), created and fired, 10,000 at once", batch=TIMERS, quick=True)
def timer_fire(loop: Loop, repeats: int) -> None:
    # Creating so many takes longer than they wait, so no time is slept away. Whole milliseconds: some loops round.
    done = 0

    def callback() -> None:
        nonlocal done
        done += 1

    def batch() -> None:
        if done == repeats * TIMERS:
            loop.stop()
            return
        for _ in range(TIMERS):
            loop.call_later(0.001, callback)
        loop.call_later(0.002, batch)

    loop.call_soon(batch)
    loop.run_forever()
    check(done, repeats * TIMERS)


@micro("timer.cancel", "call_later(10 s), created and cancelled, 1,000 at once", batch=1000, quick=True)
def timer_cancel(loop: Loop, repeats: int) -> None:
    fired = 0

    def callback() -> None:
        nonlocal fired
        fired += 1

    def tick() -> None:
        handles = [loop.call_later(10, callback) for _ in range(1000)]
        for handle in handles:
            handle.cancel()

    turns(loop, repeats, tick)
    check(fired, 0)


@micro("timer.resident", "call_later(102 s), created and cancelled beside 1,000 others", batch=100)
def timer_resident(loop: Loop, repeats: int) -> None:
    # As with timeouts of requests: the new one is later than those that are running.
    fired = 0

    def callback() -> None:
        nonlocal fired
        fired += 1

    resident = [loop.call_later(100 + i / 1000, callback) for i in range(1000)]

    def tick() -> None:
        for _ in range(100):
            loop.call_later(102, callback).cancel()

    turns(loop, repeats, tick)
    for handle in resident:
        handle.cancel()
    check(fired, 0)


@micro("reader.churn", "add_reader and remove_reader, with a turn of the loop each", batch=10)
def reader_churn(loop: Loop, repeats: int) -> None:
    ours, theirs = socket.socketpair()
    done = 0

    def readable() -> None:
        nonlocal done
        done += 1
        loop.remove_reader(ours)
        if done == repeats * 10:
            loop.stop()
        else:
            loop.add_reader(ours, readable)

    with ours, theirs:
        theirs.send(b"x")
        loop.add_reader(ours, readable)
        loop.run_forever()
    check(done, repeats * 10)

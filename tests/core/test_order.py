"""The order of a turn, which asyncio's single queue gives: what was ready, what the poll brought, the timers due."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time

import pytest


@pytest.fixture
def pair():
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    with ends[0], ends[1]:
        yield ends


async def test_what_a_thread_scheduled_comes_before_the_data_it_sent_afterwards(loop, pair):
    near, far = pair
    rounds = 300
    done = loop.create_future()
    called = threading.Event()
    callbacks: list[int] = []
    counts: list[int] = []

    class Counting(asyncio.Protocol):
        def data_received(self, data):
            counts.append(len(callbacks))
            called.set()
            if len(counts) == rounds:
                done.set_result(None)

    def work():
        for number in range(rounds):
            called.clear()
            loop.call_soon_threadsafe(callbacks.append, number)
            far.send(b"x")
            called.wait(10)

    transport, _ = await loop.create_connection(Counting, sock=near)
    thread = threading.Thread(target=work)
    thread.start()
    await done
    thread.join()
    transport.close()
    assert counts == list(range(1, rounds + 1))


@pytest.mark.parametrize("kind", ["reader", "sock_recv", "transport"])
async def test_what_ready_callbacks_schedule_comes_before_what_data_causes(loop, pair, kind):
    near, far = pair
    log = []
    done = loop.create_future()

    def on_data(*_):
        log.append("data")
        loop.remove_reader(near) if kind == "reader" else None
        loop.call_soon(log.append, "caused")
        loop.call_soon(done.set_result, None)

    if kind == "reader":
        loop.add_reader(near, on_data)
    elif kind == "transport":
        protocol = type("Protocol", (asyncio.Protocol,), {"data_received": on_data})
        transport, _ = await loop.create_connection(protocol, sock=near)
    else:
        task = loop.create_task(loop.sock_recv(near, 10))
        task.add_done_callback(on_data)
    await asyncio.sleep(0.001)

    def first():
        log.append("first")
        loop.call_soon(log.append, "second")

    far.send(b"x")
    loop.call_soon(first)
    await done
    assert log.index("second") < log.index("caused")
    if kind == "sock_recv":
        assert log == ["first", "second", "data", "caused"]
        await task
    if kind == "transport":
        transport.close()


async def test_a_timer_that_was_due_comes_before_one_that_data_made(loop, pair):
    near, far = pair
    log = []
    done = loop.create_future()

    class Making(asyncio.Protocol):
        def data_received(self, data):
            log.append("data")
            loop.call_at(0, log.append, "made now, due long ago")
            loop.call_later(0, done.set_result, None)

    def both():
        far.send(b"x")
        time.sleep(0.02)

    transport, _ = await loop.create_connection(Making, sock=near)
    await asyncio.sleep(0.001)
    loop.call_later(0.01, log.append, "due")
    loop.call_soon(both)
    await done
    transport.close()
    assert log == ["data", "due", "made now, due long ago"]


async def test_a_cancelled_timer_among_those_that_wait_for_the_next_turn(loop, pair):
    near, far = pair
    log = []
    done = loop.create_future()

    class Making(asyncio.Protocol):
        def data_received(self, data):
            cancelled = loop.call_at(0, log.append, "cancelled")
            loop.call_at(1, log.append, "made")
            loop.call_later(0.001, done.set_result, None)
            loop.call_soon(cancelled.cancel)

    def both():
        far.send(b"x")
        time.sleep(0.02)

    transport, _ = await loop.create_connection(Making, sock=near)
    await asyncio.sleep(0.001)
    loop.call_later(0.01, log.append, "due")
    loop.call_soon(both)
    await done
    transport.close()
    assert log == ["due", "made"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_run_that_was_interrupted_goes_on_in_order(loop, pair, error):
    near, far = pair
    log = []

    def readable():
        loop.remove_reader(near)
        log.append("reader")
        loop.call_soon(loop.stop)

    def interrupt():
        log.append("interrupt")
        loop.call_soon(log.append, "scheduled by it")
        raise error

    def begin():
        far.send(b"x")
        loop.call_soon(log.append, "before")
        loop.call_soon(interrupt)
        for number in range(400):
            loop.call_soon(log.append, number)

    loop.add_reader(near, readable)
    loop.call_soon(begin)
    with pytest.raises(error):
        loop.run_forever()
    loop.run_forever()
    assert log == ["before", "interrupt", *range(400), "reader", "scheduled by it"]


async def test_a_reply_does_not_wait_for_a_timer_that_is_due_soon(loop, pair):
    near, far = pair

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    def receive():
        with contextlib.suppress(BlockingIOError):
            return far.recv(10)
        return None

    transport, _ = await loop.create_connection(Echo, sock=near)
    in_time = 0
    for _ in range(20):
        seen = loop.create_future()

        def begin(seen=seen):
            # Nothing is ready then, and the deadline less than a millisecond away.
            far.send(b"x")
            loop.call_later(0.0005, lambda: seen.set_result(receive()))

        loop.call_soon(begin)
        reply = await seen
        if reply:
            in_time += 1
        while not reply:
            # Not loop.sock_recv(): what it leaves behind wakes the loop for every reply to come.
            await asyncio.sleep(0.001)
            reply = receive()
        assert reply == b"x"
    transport.close()
    # A machine that stops for half a millisecond is late by itself; a loop that waits is, always.
    assert in_time >= 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.loopfast_only("asyncio's child changes the very set of descriptors that its parent waits on")
def test_socket_calls_wait_on_in_a_forked_child_and_in_its_parent(loop, pair):
    near, far = pair
    task = loop.create_task(loop.sock_recv(near, 10))
    loop.run_until_complete(asyncio.sleep(0.001))
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            # It looks at its sockets, but leaves the data to the parent.
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
            loop.call_later(0.05, os.write, tell, b"x")
            loop.run_until_complete(asyncio.sleep(0.3))
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            loop.call_later(0.001, theirs.send, b"child")
            received = loop.run_until_complete(asyncio.wait_for(loop.sock_recv(ours, 10), 5))
            status = 0 if received == b"child" else 2
        os._exit(status)
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        pipe.read(1)
        far.send(b"parent")
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert loop.run_until_complete(asyncio.wait_for(task, 5)) == b"parent"

"""sock_recv() and its kin where a socket is shared: by two objects, with add_reader(), with a loop that is idle."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref

import pytest
from sockops import first_step
from support import new_event_loop


@pytest.fixture
def pair():
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    with ends[0], ends[1]:
        yield ends


async def settle():
    for _ in range(5):
        await asyncio.sleep(0.001)


async def test_two_objects_of_one_descriptor_wait_in_both_directions(loop, pair):
    near, far = pair
    other = socket.socket(fileno=near.fileno())
    receiving = loop.create_task(loop.sock_recv(near, 10))
    await settle()
    size = 4_000_000
    sending = loop.create_task(loop.sock_sendall(other, bytes(size)))
    await settle()
    far.send(b"hello")
    assert await receiving == b"hello"
    received = 0
    while received < size:
        received += len(await loop.sock_recv(far, 1 << 20))
    await sending
    other.detach()


async def test_of_two_objects_of_one_descriptor_the_later_gets_the_data(loop, pair):
    near, far = pair
    other = socket.socket(fileno=near.fileno())
    first = loop.create_task(loop.sock_recv(near, 10))
    await settle()
    second = loop.create_task(loop.sock_recv(other, 10))
    await settle()
    far.send(b"hello")
    assert await second == b"hello"
    assert not first.done()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    other.detach()


async def test_a_watched_object_is_let_go_when_a_call_took_its_place(loop):
    near, far = socket.socketpair()
    near.setblocking(False)
    loop.add_reader(near, lambda: None)
    task = loop.create_task(loop.sock_recv(near, 10))
    await settle()
    far.send(b"x")
    await task
    await settle()
    near.close()
    far.close()
    left = weakref.ref(near)
    del near
    gc.collect()
    assert left() is None


async def test_a_finished_call_keeps_no_socket(loop):
    near, far = socket.socketpair()
    near.setblocking(False)
    task = loop.create_task(loop.sock_recv(near, 10))
    await settle()
    far.send(b"x")
    await task
    near.close()
    far.close()
    left = weakref.ref(near)
    del near
    gc.collect()
    assert left() is None
    assert task.result() == b"x"


def test_calls_that_need_not_wait_work_on_a_loop_that_does_not_run(loop, pair):
    near, far = pair

    async def main():
        for _ in range(100):
            await loop.sock_sendall(far, b"x")
            assert await loop.sock_recv(near, 10) == b"x"

    with contextlib.closing(new_event_loop("asyncio")) as other:
        other.run_until_complete(asyncio.wait_for(main(), 5))


def test_a_call_made_before_the_loop_was_closed(loop, pair):
    near, _ = pair

    async def wait_once():
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(loop.sock_recv(near, 10), 0.001)

    loop.run_until_complete(wait_once())
    call = loop.sock_recv(near, 10)
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        first_step(call)


def test_an_error_of_one_waiting_call_does_not_cost_the_others_their_wake_up(loop_kind):
    """The kernel tells of an edge once."""
    base = type(new_closed(loop_kind))

    class Interrupted(base):
        interrupts = 0

        def call_soon(self, callback, *args, context=None):
            if self.interrupts and args and isinstance(args[0], asyncio.Future):
                self.interrupts -= 1
                raise KeyboardInterrupt
            return super().call_soon(callback, *args, context=context)

    loop = Interrupted()
    ends = [socket.socketpair() for _ in range(4)]
    for near, _ in ends:
        near.setblocking(False)
    tasks = [loop.create_task(loop.sock_recv(near, 10)) for near, _ in ends]
    loop.run_until_complete(asyncio.sleep(0.001))

    def send():
        for _, far in ends:
            far.send(b"x")
        loop.interrupts = 1

    loop.call_soon(send)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    _, waiting = loop.run_until_complete(asyncio.wait(tasks, timeout=0.2))
    # That of the call whose future could not tell its task is lost in asyncio too.
    assert len(waiting) <= 1
    for task in waiting:
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    for near, far in ends:
        near.close()
        far.close()


def new_closed(kind):
    loop = new_event_loop(kind)
    loop.close()
    return loop

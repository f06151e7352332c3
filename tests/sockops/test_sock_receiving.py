"""sock_recv, sock_recv_into, sock_recvfrom and sock_recvfrom_into: at once and waiting, cancelled, two at a time."""

from __future__ import annotations

import array
import asyncio
import socket
import struct
import sys

import pytest
from sockops import RECEIVERS, cancelled, first_step, pair, udp_pair, waiting
from support import pattern, settle

receivers = pytest.mark.parametrize("receive", RECEIVERS.values(), ids=RECEIVERS)
MIB = 1 << 20


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@receivers
async def test_data_that_is_there_is_taken_without_waiting(loop, receive):
    with pair() as (mine, peer):
        peer.send(b"hello")
        # Loopback delivers within send().
        assert first_step(receive(loop, mine)) == b"hello"
        assert loop.remove_reader(mine) is False


@receivers
async def test_waiting_for_data(loop, receive):
    with pair() as (mine, peer):
        task = await waiting(receive(loop, mine))
        peer.send(b"hello")
        assert await task == b"hello"
        await settle()
        assert loop.remove_reader(mine) is False


@receivers
@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_end_of_the_stream(loop, receive, when):
    with pair() as (mine, peer):
        task = None if when == "before" else await waiting(receive(loop, mine))
        peer.send(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert await (task or receive(loop, mine)) == b"last"
        assert await receive(loop, mine) == b""
        assert await receive(loop, mine) == b""


@receivers
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_reset(loop, receive, when):
    with pair() as (mine, peer):
        task = None if when == "before" else await waiting(receive(loop, mine))
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await (task or receive(loop, mine))
        await settle()
        assert loop.remove_reader(mine) is False


@receivers
async def test_a_cancelled_call_takes_no_data(loop, receive):
    with pair() as (mine, peer):
        await cancelled(await waiting(receive(loop, mine)))
        peer.send(b"kept")
        await settle()
        assert loop.remove_reader(mine) is False
        assert mine.recv(100) == b"kept"


@receivers
async def test_cancelled_when_the_data_is_already_there(loop, receive):
    """Between the arrival and the turn of the loop that would read it."""
    with pair() as (mine, peer):
        task = await waiting(receive(loop, mine))
        peer.send(b"kept")
        await cancelled(task)
        await settle()
        assert mine.recv(100) == b"kept"


@receivers
async def test_cancelled_before_it_began(loop, receive):
    with pair() as (mine, peer):
        peer.send(b"kept")
        task = asyncio.ensure_future(receive(loop, mine))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mine.recv(100) == b"kept"


@receivers
async def test_cancelled_when_it_is_done_loses_the_result_only(loop, receive):
    with pair() as (mine, peer):
        peer.send(b"one")
        task = asyncio.ensure_future(receive(loop, mine))
        await task
        assert task.cancel() is False and task.result() == b"one"


@receivers
async def test_a_timeout(loop, receive):
    with pair() as (mine, peer):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await receive(loop, mine)
        peer.send(b"kept")
        assert await receive(loop, mine) == b"kept"


@receivers
async def test_many_calls_in_turn(loop, receive):
    with pair() as (mine, peer):
        for number in range(200):
            task = asyncio.ensure_future(receive(loop, mine))
            await asyncio.sleep(0)
            peer.send(b"%d" % number)
            assert await task == b"%d" % number


async def test_of_two_waiting_calls_the_later_gets_the_data(loop):
    with pair() as (mine, peer):
        first = await waiting(loop.sock_recv(mine, 100))
        second = await waiting(loop.sock_recv(mine, 100))
        peer.send(b"data")
        assert await second == b"data"
        await settle()
        assert not first.done()
        await cancelled(first)


async def test_the_end_of_the_earlier_call_does_not_disturb_the_later(loop):
    with pair() as (mine, peer):
        first = await waiting(loop.sock_recv(mine, 100))
        second = await waiting(loop.sock_recv(mine, 100))
        await cancelled(first)
        await settle()
        peer.send(b"data")
        assert await second == b"data"


async def test_a_reader_callback_replaces_a_waiting_call_and_the_other_way_round(loop):
    with pair() as (mine, peer):
        calls = []
        task = await waiting(loop.sock_recv(mine, 100))
        loop.add_reader(mine, lambda: calls.append(mine.recv(100)))
        peer.send(b"one")
        await settle(10)
        while not calls:
            await asyncio.sleep(0.001)
        assert calls == [b"one"] and not task.done()
        await cancelled(task)
        await settle()
        # The cancelled call did not take the callback with it.
        peer.send(b"two")
        while len(calls) < 2:
            await asyncio.sleep(0.001)
        second = await waiting(loop.sock_recv(mine, 100))
        peer.send(b"three")
        assert await second == b"three"
        assert calls == [b"one", b"two"]
        await settle()
        assert loop.remove_reader(mine) is False


async def test_removing_the_reader_stops_a_waiting_call(loop):
    with pair() as (mine, peer):
        task = await waiting(loop.sock_recv(mine, 100))
        assert loop.remove_reader(mine) is True
        peer.send(b"kept")
        await settle(10)
        assert not task.done()
        await cancelled(task)
        assert mine.recv(100) == b"kept"


async def test_reading_and_writing_one_socket_at_once(loop):
    data = pattern(4 * MIB)
    with pair(send_buffer=131072) as (mine, peer):

        async def echo():
            while piece := await loop.sock_recv(peer, 1 << 16):
                await loop.sock_sendall(peer, piece)

        echoing = asyncio.ensure_future(echo())
        sending = asyncio.ensure_future(loop.sock_sendall(mine, data))
        received = bytearray()
        while len(received) < len(data):
            received += await loop.sock_recv(mine, 1 << 20)
        assert received == data
        await sending
        mine.shutdown(socket.SHUT_WR)
        await echoing


# --------------------------------------------------------------------------------------------------- sizes and buffers


@pytest.mark.parametrize("size", [1, 3, 5, 100, 1 << 20, 1 << 28])
async def test_sizes(loop, size):
    with pair() as (mine, peer):
        peer.send(b"hello")
        assert await loop.sock_recv(mine, size) == b"hello"[:size]
        peer.send(b"hello")
        assert (await loop.sock_recvfrom(mine, size))[0] == (b"hello"[size:] + b"hello")[:size]


async def test_a_size_of_zero_does_not_wait_and_takes_nothing(loop):
    with pair() as (mine, peer):
        peer.send(b"kept")
        assert await loop.sock_recv(mine, 0) == b""
        assert (await loop.sock_recvfrom(mine, 0))[0] == b""
        assert await loop.sock_recv_into(mine, bytearray()) == 0
        assert mine.recv(10) == b"kept"


@pytest.mark.parametrize(
    "size, error",
    [(-1, ValueError), ("5", TypeError), (None, TypeError), (1.5, TypeError), (1 << 70, (OverflowError, MemoryError))],
)
async def test_sizes_that_are_none(loop, size, error):
    with pair() as (mine, peer):
        peer.send(b"kept")
        with pytest.raises(error):
            await loop.sock_recv(mine, size)
        with pytest.raises(error):
            await loop.sock_recvfrom(mine, size)
        assert mine.recv(10) == b"kept"


class Index:
    def __index__(self):
        return 3


async def test_a_size_that_is_an_index(loop):
    with pair() as (mine, peer):
        peer.send(b"hello")
        assert await loop.sock_recv(mine, Index()) == b"hel"
        assert await loop.sock_recv(mine, True) == b"l"


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "waiting"])
@pytest.mark.parametrize("function", ["sock_recv_into", "sock_recvfrom_into"])
@pytest.mark.parametrize(
    "make",
    [lambda: bytearray(8), lambda: memoryview(bytearray(8)), lambda: array.array("b", bytes(8))],
    ids=["bytearray", "memoryview", "array"],
)
async def test_buffers(loop, function, make, wait):
    buffer = make()
    with pair() as (mine, peer):
        coroutine = getattr(loop, function)(mine, buffer)
        task = await waiting(coroutine) if wait else coroutine
        peer.send(b"hello")
        result = await task
        assert (result if function == "sock_recv_into" else result[0]) == 5
        assert bytes(buffer) == b"hello\0\0\0"


@pytest.mark.parametrize("function", ["sock_recv_into", "sock_recvfrom_into"])
async def test_a_part_of_a_buffer(loop, function):
    buffer = bytearray(b"........")
    with pair() as (mine, peer):
        peer.send(b"hello")
        await getattr(loop, function)(mine, memoryview(buffer)[2:5])
        assert buffer == b"..hel..."
        assert mine.recv(10) == b"lo"


async def test_recvfrom_into_with_a_size(loop):
    buffer = bytearray(b"........")
    with udp_pair() as (mine, peer):
        for size, text in ((3, b"hel....."), (0, b"hello..."), (8, b"hello...")):
            buffer[:] = b"........"
            peer.sendto(b"hello", mine.getsockname())
            count, address = await loop.sock_recvfrom_into(mine, buffer, size)
            assert buffer == text and count == len(text.rstrip(b"."))
            assert address == peer.getsockname()
        with pytest.raises(ValueError):
            await loop.sock_recvfrom_into(mine, buffer, 9)
        with pytest.raises(ValueError):
            await loop.sock_recvfrom_into(mine, buffer, -1)


@pytest.mark.parametrize("function", ["sock_recv_into", "sock_recvfrom_into"])
@pytest.mark.parametrize("buffer", [b"read-only", "text", None, 5, [1]], ids=repr)
async def test_buffers_that_are_none(loop, function, buffer):
    with pair() as (mine, peer):
        peer.send(b"kept")
        with pytest.raises(TypeError):
            await getattr(loop, function)(mine, buffer)
        assert mine.recv(10) == b"kept"


async def test_the_buffer_is_locked_while_the_call_waits_only(loop):
    """Resizing a bytearray meanwhile is possible, or an error; after the call it is possible."""
    buffer = bytearray(8)
    with pair() as (mine, peer):
        task = await waiting(loop.sock_recv_into(mine, buffer))
        peer.send(b"x")
        await task
        buffer.extend(b"more")
        task = await waiting(loop.sock_recv_into(mine, buffer))
        await cancelled(task)
        await settle()
        buffer.extend(b"more")


async def test_large_amounts(loop):
    data = pattern(8 * MIB)
    with pair() as (mine, peer):
        sending = asyncio.ensure_future(loop.sock_sendall(peer, data))
        buffer = bytearray(len(data))
        view = memoryview(buffer)
        position = 0
        while position < len(data):
            position += await loop.sock_recv_into(mine, view[position:])
        assert buffer == data
        await sending


async def test_results_are_new_objects_of_the_right_size(loop):
    with pair() as (mine, peer):
        peer.send(b"one")
        one = await loop.sock_recv(mine, 1 << 16)
        peer.send(b"two")
        two = await loop.sock_recv(mine, 1 << 16)
        assert (one, two) == (b"one", b"two") and type(one) is bytes
        # Not a piece of 64 KiB.
        assert sys.getsizeof(one) < 100


# ------------------------------------------------------------------------------------------------------------ datagrams


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "waiting"])
async def test_datagrams(loop, wait):
    with udp_pair() as (mine, peer):
        for data in (b"one", b"", b"x" * 30_000):
            task = await waiting(loop.sock_recvfrom(mine, 65536)) if wait else None
            peer.sendto(data, mine.getsockname())
            assert await (task or loop.sock_recvfrom(mine, 65536)) == (data, peer.getsockname())
        task = await waiting(loop.sock_recv(mine, 65536)) if wait else None
        peer.sendto(b"two", mine.getsockname())
        assert await (task or loop.sock_recv(mine, 65536)) == b"two"


async def test_each_call_takes_one_datagram_and_cuts_it(loop):
    with udp_pair() as (mine, peer):
        for data in (b"first", b"second"):
            peer.sendto(data, mine.getsockname())
        assert (await loop.sock_recvfrom(mine, 3))[0] == b"fir"
        assert (await loop.sock_recvfrom(mine, 100))[0] == b"second"


async def test_an_error_of_the_peer(loop):
    """A connected datagram socket hears that nobody listens."""
    with udp_pair() as (mine, peer):
        mine.connect(peer.getsockname())
        task = await waiting(loop.sock_recv(mine, 100))
        peer.close()
        mine.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            await task


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the platform has no UNIX sockets")
async def test_the_address_of_unix_datagrams(loop, tmp_path):
    mine, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with mine, peer:
        mine.setblocking(False)
        peer.send(b"anonymous")
        assert await loop.sock_recvfrom(mine, 100) == (b"anonymous", None)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer,
    ):
        mine.bind(str(tmp_path / "mine"))
        peer.bind(str(tmp_path / "peer"))
        mine.setblocking(False)
        task = await waiting(loop.sock_recvfrom(mine, 100))
        peer.sendto(b"named", str(tmp_path / "mine"))
        assert await task == (b"named", str(tmp_path / "peer"))


async def test_the_address_of_a_stream_is_nothing(loop):
    with pair() as (mine, peer):
        peer.send(b"x")
        expected = mine.recvfrom(10)[1]
        peer.send(b"x")
        assert await loop.sock_recvfrom(mine, 10) == (b"x", expected)
        peer.send(b"x")
        assert await loop.sock_recvfrom_into(mine, bytearray(4)) == (1, expected)


# ------------------------------------------------------------------------------------------------------------- fairness


async def test_a_busy_pair_does_not_starve_the_loop(loop):
    """Calls that never wait never let go of the loop; ones that wait for each other must share it."""
    ticks = 0
    with pair() as (mine, peer):

        async def ping():
            for _ in range(500):
                await loop.sock_sendall(mine, b"ping")
                await loop.sock_recv(mine, 100)

        async def pong():
            while data := await loop.sock_recv(peer, 100):
                await loop.sock_sendall(peer, data)

        def tick():
            nonlocal ticks
            ticks += 1
            if not pinging.done():
                loop.call_soon(tick)

        answering = asyncio.ensure_future(pong())
        pinging = asyncio.ensure_future(ping())
        loop.call_soon(tick)
        timer = loop.create_future()
        loop.call_later(0.001, timer.set_result, None)
        await timer
        assert not pinging.done()
        await pinging
        assert ticks >= 400
        mine.shutdown(socket.SHUT_WR)
        await answering


async def test_many_sockets_wait_at_once(loop):
    pairs = [pair() for _ in range(50)]
    ends = [each.__enter__() for each in pairs]
    try:
        tasks = [await waiting(loop.sock_recv(mine, 100)) for mine, _ in ends]
        for number, (_, peer) in reversed(list(enumerate(ends))):
            peer.send(b"%d" % number)
        assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(50)]
    finally:
        for each in pairs:
            each.__exit__(None, None, None)

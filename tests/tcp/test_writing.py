"""The write path: order, ownership of buffers, flow control, what a close does with the queue."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import pytest
from support import Recorder, pattern, read_exactly, read_to_end, settle, transport_and_peer, until

MANY = 3_000_000


async def test_large_writes_keep_their_order(loop):
    data = pattern(MANY)
    async with transport_and_peer(send_buffer=16384) as (transport, _, peer):
        for start in range(0, MANY, 70_001):
            transport.write(data[start : start + 70_001])
        assert await read_exactly(peer, MANY) == data


async def test_small_writes_over_many_turns_keep_their_order(loop):
    data = pattern(200_000)
    async with transport_and_peer(send_buffer=8192) as (transport, _, peer):
        reader = asyncio.ensure_future(read_exactly(peer, len(data)))
        for start in range(0, len(data), 997):
            transport.write(data[start : start + 997])
            if start % 7 == 0:
                await asyncio.sleep(0)
        assert await reader == data


@pytest.mark.loopfast_only(
    "from Python 3.12 on asyncio sends what the socket does not take at once from the caller's memory"
)
@pytest.mark.parametrize("size", [10, 4096, 5000, 70_000, 8_000_000])
@pytest.mark.parametrize("make", [bytearray, lambda data: memoryview(bytearray(data))], ids=["bytearray", "memoryview"])
async def test_a_buffer_may_be_changed_after_write(loop, size, make):
    data = pattern(size)
    async with transport_and_peer() as (transport, _, peer):
        buffer = make(data)
        transport.write(buffer)
        buffer[:] = bytes(size)
        received = await read_exactly(peer, size)
        same = received == data
        assert same, "what was sent is not what was written"


async def test_memoryview_of_items_wider_than_a_byte(loop):
    async with transport_and_peer() as (transport, _, peer):
        transport.write(memoryview(b"abcdefgh").cast("I"))
        assert await read_exactly(peer, 8) == b"abcdefgh"


async def test_memory_with_gaps_costs_the_connection(loop, reports):
    async with transport_and_peer() as (transport, protocol, _):
        transport.write(memoryview(b"abcdef")[::2])
        assert transport.is_closing()
        assert isinstance(await asyncio.wait_for(protocol.lost, 10), BufferError)
    assert reports.take()["message"] == "Fatal write error on socket transport"


@pytest.mark.parametrize("nothing", [None, 0, ()], ids=repr)
async def test_writelines_of_nothing(loop, nothing):
    async with transport_and_peer() as (transport, _, peer):
        if sys.version_info < (3, 12) and nothing != ():
            with pytest.raises(TypeError):
                transport.writelines(nothing)
        else:
            transport.writelines(nothing)
        transport.write(b"next")
        assert await read_exactly(peer, 4) == b"next"


async def test_writelines(loop):
    async with transport_and_peer() as (transport, _, peer):
        transport.writelines([b"one ", bytearray(b"two "), memoryview(b"three"), b""])
        transport.writelines([])
        assert await read_exactly(peer, 13) == b"one two three"


async def test_thousands_of_pieces_in_one_turn(loop):
    data = pattern(40_000)
    async with transport_and_peer(send_buffer=4096) as (transport, _, peer):
        transport.writelines([data[start : start + 8] for start in range(0, len(data), 8)])
        assert await read_exactly(peer, len(data)) == data


@pytest.mark.parametrize("data", ["text", 1, None, [b"list"], object()])
async def test_write_refuses_what_is_not_bytes(loop, data):
    async with transport_and_peer() as (transport, _, peer):
        with pytest.raises(TypeError, match=type(data).__name__):
            transport.write(data)
        transport.write(b"")
        transport.write(b"fine")
        assert await read_exactly(peer, 4) == b"fine"


async def test_water_marks_default_to_asyncios(loop):
    async with transport_and_peer() as (transport, _, _peer):
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        for bad in ({"high": 1, "low": 2}, {"high": 5, "low": -1}):
            with pytest.raises(ValueError, match="must be >="):
                transport.set_write_buffer_limits(**bad)


async def test_each_crossing_of_the_marks_is_told_once(loop):
    async with transport_and_peer(send_buffer=65536) as (transport, protocol, peer):
        # Otherwise it grows from round to round, as its reader is fast, until everything fits.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        for _ in range(3):
            for _ in range(20):
                transport.write(bytes(50_000))
            assert protocol.events.count("pause") == protocol.events.count("resume") + 1
            assert transport.get_write_buffer_size() > 65536
            resumed = protocol.events.count("resume")
            await read_exactly(peer, 1_000_000)
            await until(lambda before=resumed: protocol.events.count("resume") > before)
            await until(lambda: transport.get_write_buffer_size() == 0)
        assert [name for name in protocol.events if name in ("pause", "resume")] == ["pause", "resume"] * 3


async def test_a_small_write_does_not_pause_at_high_water_zero(loop):
    async with transport_and_peer() as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x")
        assert await read_exactly(peer, 1) == b"x"
        assert protocol.events == ["made"]


async def test_write_buffer_size_is_zero_once_the_kernel_has_it(loop):
    async with transport_and_peer() as (transport, _, peer):
        transport.write(b"abc")
        assert transport.get_write_buffer_size() == 0
        assert peer.recv(3) == b"abc"


async def test_close_sends_the_queue_first(loop):
    data = pattern(MANY)
    async with transport_and_peer(send_buffer=16384) as (transport, protocol, peer):
        transport.write(data)
        transport.close()
        assert transport.is_closing()
        transport.close()
        assert await read_to_end(peer) == data
        assert await protocol.lost is None


async def test_write_eof_sends_the_queue_first_and_reading_goes_on(loop):
    data = pattern(MANY)
    async with transport_and_peer(send_buffer=16384) as (transport, protocol, peer):
        assert transport.can_write_eof()
        transport.write(data)
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.write(b"late")
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.writelines([b"late"])
        assert await read_to_end(peer) == data
        peer.sendall(b"answer")
        assert await protocol.received(6) == b"answer"


async def test_abort_drops_the_queue(loop):
    async with transport_and_peer(send_buffer=8192) as (transport, protocol, peer):
        transport.write(bytes(MANY))
        transport.abort()
        assert transport.is_closing()
        assert await protocol.lost is None
        assert len(await read_to_end(peer)) < MANY


async def test_what_was_written_before_abort_and_fits_is_sent(loop):
    async with transport_and_peer() as (transport, protocol, peer):
        transport.write(b"last words")
        transport.abort()
        await protocol.lost
        assert await read_to_end(peer) == b"last words"


async def test_writes_after_the_connection_is_lost_are_ignored(loop, caplog):
    async with transport_and_peer() as (transport, protocol, _peer):
        transport.abort()
        for _ in range(10):
            transport.write(b"x")
        transport.writelines([b"y"])
        await protocol.lost
        await settle()
        transport.write(b"z")
        transport.close()
        transport.abort()
    assert "socket.send() raised exception" in caplog.text


async def test_a_reset_peer_is_reported_to_connection_lost(loop):
    import socket
    import struct

    async with transport_and_peer() as (transport, protocol, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert isinstance(await protocol.lost, ConnectionError)
        assert transport.is_closing()


async def test_pause_writing_that_raises_is_reported(loop, reports):
    class Protocol(Recorder):
        def pause_writing(self):
            raise ZeroDivisionError

    async with transport_and_peer(Protocol, send_buffer=65536) as (transport, _, peer):
        transport.write(bytes(1_000_000))
        context = reports.take()
        assert "pause_writing" in context["message"]
        assert context["transport"] is transport
        assert len(await read_exactly(peer, 1_000_000)) == 1_000_000


@pytest.mark.loopfast_only("gathering the writes of a turn is loopfast's own")
async def test_gathering_can_be_turned_off(loop):
    async with transport_and_peer() as (transport, _, peer):
        transport.write(b"later")
        with pytest.raises(BlockingIOError):
            peer.recv(100)
        await asyncio.sleep(0)
        assert await read_exactly(peer, 5) == b"later"
        transport.write(b"first ")
        transport.set_write_gathering(False)
        transport.write(b"now")
        assert await read_exactly(peer, 9) == b"first now"
    loop.set_write_gathering(False)
    async with transport_and_peer() as (transport, _, peer):
        transport.write(b"now")
        assert peer.recv(100) == b"now"


async def test_new_limits_do_not_pause_for_what_can_be_sent(loop):
    async with transport_and_peer() as (transport, protocol, peer):
        transport.write(b"first")
        transport.set_write_buffer_limits(0)
        transport.write(b"second")
        assert await read_exactly(peer, 11) == b"firstsecond"
        assert protocol.events == ["made"]


@pytest.mark.parametrize("way", ["shutdown", "dup", "fileno"])
async def test_the_socket_is_used_after_what_was_written(loop, way):
    """A socket that was asked for long before: what goes past the transport comes after what it was given."""
    async with transport_and_peer() as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        transport.write(b"written, ")
        if way == "shutdown":
            sock.shutdown(socket.SHUT_WR)
        elif way == "dup":
            with sock.dup() as other:
                other.send(b"sent")
        else:
            os.write(sock.fileno(), b"sent")
        expected = b"written, " + (b"" if way == "shutdown" else b"sent")
        assert await read_exactly(peer, len(expected)) == expected
        assert protocol.events == ["made"]

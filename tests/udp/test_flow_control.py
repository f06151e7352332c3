"""A datagram endpoint whose socket takes no more: the queue, its limits, its end.

UNIX datagram sockets, because the kernel drops UDP datagrams where it would have to make their sender wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import sys
import tempfile
import weakref

import pytest
from support import DatagramRecorder, datagram_endpoint, new_event_loop, receive_datagram, settle, until

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("no UNIX sockets", allow_module_level=True)

SIZE = 1000


def unix_pair():
    """Return two connected sockets. The second one has a name, without which it would not count as a peer."""
    mine, peer = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    with tempfile.TemporaryDirectory() as directory:
        for sock, other in ((mine, peer), (peer, mine)):
            sock.bind(os.path.join(directory, f"{sock.fileno()}"))
            if other.getsockname():
                sock.connect(other.getsockname())
                other.connect(sock.getsockname())
    for sock in (mine, peer):
        sock.setblocking(False)
    return mine, peer


@contextlib.asynccontextmanager
async def endpoint_and_peer(protocol=DatagramRecorder):
    mine, peer = unix_pair()
    with peer:
        async with datagram_endpoint(protocol, sock=mine) as (transport, proto):
            yield transport, proto, peer


def fill(transport):
    """Send numbered datagrams until one is queued; return how many there are, the queued one included."""
    count = 0
    while not transport.get_write_buffer_size():
        transport.sendto(b"%04d" % count + bytes(SIZE - 4))
        count += 1
        assert count < 10_000
    return count


async def numbers(peer, count):
    return [int((await receive_datagram(peer))[0][:4]) for _ in range(count)]


async def test_what_is_queued_goes_out_in_order(loop):
    async with endpoint_and_peer() as (transport, protocol, peer):
        count = fill(transport)
        for number in range(count, 3000):
            transport.sendto(b"%04d" % number)
        assert await numbers(peer, 3000) == list(range(3000))
        await settle()
        # Also a datagram sent into an empty queue that was full once.
        transport.sendto(b"3000")
        assert await numbers(peer, 1) == [3000]
        assert protocol.errors == []


async def test_a_queued_datagram_is_not_overtaken(loop):
    async with endpoint_and_peer() as (transport, _, peer):
        count = fill(transport)
        # There is room again, but one waits.
        first = peer.recv(SIZE)
        assert first[:4] == b"0000"
        transport.sendto(b"%04d" % count)
        assert await numbers(peer, count) == list(range(1, count + 1))


async def test_data_changed_after_sendto(loop):
    async with endpoint_and_peer() as (transport, _, peer):
        count = fill(transport)
        data = bytearray(b"original")
        transport.sendto(data)
        transport.sendto(memoryview(data)[:4])
        data[:] = b"changed!"
        # No export may be held either.
        data.clear()
        await numbers(peer, count)
        assert (await receive_datagram(peer))[0] == b"original"
        assert (await receive_datagram(peer))[0] == b"orig"


def test_write_buffer_size_is_that_of_asyncio(loop_kind, loop_factory):
    """How the header is accounted for differs between versions; asyncio of the same version tells."""

    async def sizes():
        found = []
        async with endpoint_and_peer() as (transport, _, peer):
            found.append(transport.get_write_buffer_size())
            fill(transport)
            for data in (b"x", bytearray(100), memoryview(b"abc"), b"", memoryview(bytes(8)).cast("I")):
                found.append(transport.get_write_buffer_size())
                transport.sendto(data)
            found.append(transport.get_write_buffer_size())
            transport.sendto(b"last")
            while (await receive_datagram(peer))[0] != b"last":
                pass
            await settle()
            found.append(transport.get_write_buffer_size())
        return found

    def run(factory):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(sizes())

    found = run(loop_factory)
    assert found == run(lambda: new_event_loop("asyncio"))
    assert found[0] == 0 and found[1] in (SIZE, SIZE + 8)


async def test_pause_and_resume_writing(loop):
    async with endpoint_and_peer() as (transport, protocol, peer):
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        count = fill(transport)
        while "pause" not in protocol.events:
            assert transport.get_write_buffer_size() <= 64 * 1024
            transport.sendto(b"%04d" % count + bytes(SIZE - 4))
            count += 1
        # Inside sendto(), and at the first byte above the limit.
        assert 64 * 1024 < transport.get_write_buffer_size() <= 64 * 1024 + SIZE + 8
        transport.sendto(b"%04d" % count)
        assert protocol.events == ["made", "pause"]
        assert await numbers(peer, count + 1) == list(range(count + 1))
        await until(lambda: "resume" in protocol.events)
        assert protocol.events == ["made", "pause", "resume"]


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ({}, (16 * 1024, 64 * 1024)),
        ({"high": 5000}, (1250, 5000)),
        ({"low": 100}, (100, 400)),
        ({"high": 0}, (0, 0)),
        ({"high": 3000, "low": 2000}, (2000, 3000)),
    ],
)
async def test_limits(loop, arguments, limits):
    low, high = limits
    async with endpoint_and_peer() as (transport, protocol, peer):
        transport.set_write_buffer_limits(**arguments)
        assert transport.get_write_buffer_limits() == limits
        count = fill(transport)
        while transport.get_write_buffer_size() <= high:
            assert "pause" not in protocol.events
            transport.sendto(b"%04d" % count + bytes(SIZE - 4))
            count += 1
        assert protocol.events == ["made", "pause"]
        for bad in ({"high": 10, "low": 20}, {"high": -1}, {"low": -1}):
            with pytest.raises(ValueError, match="must be >= low"):
                transport.set_write_buffer_limits(**bad)
        await numbers(peer, count)
        if low >= 8 * count:
            await until(lambda: "resume" in protocol.events)
            assert protocol.events == ["made", "pause", "resume"]


async def test_a_limit_that_is_lowered_pauses(loop):
    async with endpoint_and_peer() as (transport, protocol, _):
        fill(transport)
        assert protocol.events == ["made"]
        transport.set_write_buffer_limits(high=10)
        assert protocol.events == ["made", "pause"]


async def test_resume_writing_runs_in_the_context_of_the_first_queued_datagram(loop):
    variable = contextvars.ContextVar("variable", default=None)
    seen = []

    class Protocol(DatagramRecorder):
        def pause_writing(self):
            seen.append(("pause", variable.get()))

        def resume_writing(self):
            seen.append(("resume", variable.get()))

    async with endpoint_and_peer(Protocol) as (transport, _, peer):
        variable.set("first")
        count = fill(transport)
        variable.set("later")
        transport.set_write_buffer_limits(high=900, low=890)
        await numbers(peer, count)
        await until(lambda: len(seen) == 2)
        assert seen == [("pause", "later"), ("resume", "first")]


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
async def test_an_exception_in_flow_control_is_reported(loop, reports, name):
    def method(self):
        raise ZeroDivisionError(name)

    async with endpoint_and_peer(type("Protocol", (DatagramRecorder,), {name: method})) as (transport, protocol, peer):
        count = fill(transport)
        transport.set_write_buffer_limits(high=900, low=890)
        await numbers(peer, count)
        await until(lambda: reports)
        context = reports.take()
        assert context["message"] == f"protocol.{name}() failed"
        assert str(context["exception"]) == name
        assert context["transport"] is transport and context["protocol"] is protocol
        transport.sendto(b"1111")
        assert await numbers(peer, 1) == [1111]


async def test_sending_more_inside_resume_writing(loop):
    class Protocol(DatagramRecorder):
        def resume_writing(self):
            super().resume_writing()
            self.transport.sendto(b"9999")

    async with endpoint_and_peer(Protocol) as (transport, protocol, peer):
        count = fill(transport)
        transport.set_write_buffer_limits(high=900, low=890)
        assert await numbers(peer, count + 1) == [*range(count), 9999]
        assert protocol.events == ["made", "pause", "resume"]


async def test_close_sends_what_is_queued(loop):
    async with endpoint_and_peer() as (transport, protocol, peer):
        count = fill(transport)
        for number in range(count, count + 20):
            transport.sendto(b"%04d" % number)
        transport.close()
        assert transport.is_closing()
        await settle()
        assert not protocol.lost.done()
        transport.close()
        assert await numbers(peer, count + 20) == list(range(count + 20))
        assert await protocol.lost is None
        assert transport.get_extra_info("socket").fileno() == -1


async def test_close_with_data_queued_receives_no_more(loop):
    async with endpoint_and_peer() as (transport, protocol, peer):
        count = fill(transport)
        transport.close()
        peer.send(b"too late")
        await numbers(peer, count)
        await protocol.lost
        assert protocol.datagrams == []


@pytest.mark.parametrize("closed_before", [False, True])
async def test_abort_drops_what_is_queued(loop, closed_before):
    async with endpoint_and_peer() as (transport, protocol, peer):
        count = fill(transport)
        if closed_before:
            transport.close()
        transport.abort()
        assert transport.is_closing() and not protocol.lost.done()
        assert await protocol.lost is None
        assert await numbers(peer, count - 1) == list(range(count - 1))
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        transport.abort()
        transport.close()
        await settle()
        assert protocol.events == ["made", "lost"]


@pytest.mark.parametrize("closing", [False, True])
async def test_errors_of_queued_datagrams(loop, closing):
    """The peer goes away: one error for each datagram, and the endpoint stays until it is closed."""
    async with endpoint_and_peer() as (transport, protocol, peer):
        fill(transport)
        transport.sendto(b"second")
        if closing:
            transport.close()
        peer.close()
        await protocol.failed(2)
        assert isinstance(protocol.errors[0], ConnectionError)
        assert isinstance(protocol.errors[1], OSError)
        if not closing:
            await settle()
            assert not transport.is_closing()
            transport.close()
        assert await protocol.lost is None


async def test_an_oversized_datagram_in_the_queue_is_an_error_of_its_own(loop):
    async with endpoint_and_peer() as (transport, protocol, peer):
        count = fill(transport)
        transport.sendto(bytes(10_000_000))
        transport.sendto(b"%04d" % count)
        assert await numbers(peer, count + 1) == list(range(count + 1))
        assert len(protocol.errors) == 1
        assert not transport.is_closing()


async def test_unconnected_endpoints_queue_with_the_address(loop, tmp_path):
    addresses = [str(tmp_path / name) for name in "ab"]
    with contextlib.ExitStack() as stack:
        peers = []
        for address in addresses:
            peer = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            peer.setblocking(False)
            peer.bind(address)
            peers.append(peer)
        async with datagram_endpoint(family=socket.AF_UNIX) as (transport, protocol):
            count = 0
            while not transport.get_write_buffer_size():
                transport.sendto(b"%04d" % count + bytes(SIZE), addresses[0])
                count += 1
            transport.sendto(b"1234", addresses[1])
            transport.sendto(b"5678", str(tmp_path / "missing"))
            transport.sendto(b"4321", addresses[0])
            # Behind those to the other address, although this peer has room.
            with pytest.raises(BlockingIOError):
                peers[1].recv(1)
            assert await numbers(peers[0], count) == list(range(count))
            assert await numbers(peers[1], 1) == [1234]
            assert await numbers(peers[0], 1) == [4321]
            assert [type(error) for error in protocol.errors] == [FileNotFoundError]


async def test_queued_memory_is_released(loop):
    class Data(bytearray):
        pass

    async with endpoint_and_peer() as (transport, protocol, _):
        fill(transport)
        data = Data(100_000)
        reference = weakref.ref(data)
        transport.sendto(data)
        del data
        gc.collect()
        assert reference() is None
        data = b"x" * 100
        before = sys.getrefcount(data)
        for _ in range(1000):
            transport.sendto(data)
        transport.abort()
        await protocol.lost
        await settle()
        assert sys.getrefcount(data) == before

"""Data through TLS: large and small, every kind of bytes, flow control in both directions, buffered protocols."""

from __future__ import annotations

import array
import asyncio
import random
import socket

import pytest
from support import BufferedRecorder, Echo, Recorder, pattern, settle, tcp_pair, until
from tlssupport import SIDES, VERSIONS, open_tls, tls_and_peer, tls_pair, tls_peer, write_until_paused

MIB = 1 << 20


class BufferedView(BufferedRecorder):
    """A BufferedRecorder that lends a memoryview."""

    def __init__(self, size=64):
        super().__init__(size)
        self.buffer = memoryview(self.buffer)


class Blocks(Recorder):
    """Does not touch anything in data_received: what was delivered is in `pieces`."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def data_received(self, data):
        super().data_received(data)
        self.pieces.append(data)


# ------------------------------------------------------------------------------------------------------------ transfers


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
async def test_large_transfers_both_ways_at_once(loop, contexts, side, version):
    mine, theirs = pattern(5 * MIB), pattern(4 * MIB)[::-1]
    async with tls_and_peer(contexts, side, version=version) as (transport, protocol, peer):

        async def write():
            for start in range(0, len(mine), MIB):
                transport.write(mine[start : start + MIB])
                await settle()

        writing = asyncio.create_task(write())
        sending = asyncio.create_task(peer.write(theirs))
        assert await protocol.received(len(theirs)) == theirs
        await asyncio.gather(writing, sending)
        assert await peer.read_exactly(len(mine)) == mine


@pytest.mark.parametrize("version", VERSIONS)
async def test_large_transfers_between_two_transports(loop, contexts, version):
    data = pattern(6 * MIB)
    async with tls_pair(contexts, server=Echo, version=version) as (client, _):
        client.transport.write(data)
        assert await client.received(len(data)) == data


async def test_many_small_writes(loop, contexts):
    numbers = b"".join(b"%d," % number for number in range(5000))
    async with tls_and_peer(contexts) as (transport, _, peer):
        for number in range(5000):
            transport.write(b"%d," % number)
        assert await peer.read_exactly(len(numbers)) == numbers


async def test_records_that_come_in_pieces(loop, contexts):
    data = pattern(40_000)
    async with tls_and_peer(contexts) as (_, protocol, peer):
        peer.tls.write(data)
        records = peer.outgoing.read()
        random_sizes = random.Random(5)
        while records:
            size = random_sizes.randint(1, 3000)
            peer.sock.send(records[:size])
            records = records[size:]
            await settle(2)
        assert await protocol.received(len(data)) == data


async def test_several_records_at_once_are_one_call(loop, contexts):
    async with tls_and_peer(contexts, protocol=Blocks) as (_, protocol, peer):
        for word in (b"one", b"two", b"three"):
            peer.tls.write(word)
        await peer.flush()
        assert await protocol.received(11) == b"onetwothree"
        assert protocol.pieces == [b"onetwothree"]
        assert type(protocol.pieces[0]) is bytes


async def test_an_empty_record_is_nothing(loop, contexts):
    async with tls_and_peer(contexts, protocol=Blocks) as (transport, protocol, peer):
        peer.tls.write(b"")
        await peer.flush()
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"
        assert protocol.pieces == [b"x"] and not transport.is_closing()


@pytest.mark.parametrize("side", SIDES)
async def test_data_that_comes_with_the_end_of_the_handshake(loop, contexts, side):
    """connection_made comes first, and a server's connection_made sees a working transport."""

    class Greeting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"welcome")

    async with tls_and_peer(contexts, side, Greeting) as (_, protocol, peer):
        await peer.write(b"hello")
        assert await peer.read_exactly(7) == b"welcome"
        assert await protocol.received(5) == b"hello"
        assert protocol.events[:2] == ["made", "data"]


# ------------------------------------------------------------------------------------------------------ kinds of bytes


async def test_what_is_changed_after_write_is_not_what_is_sent(loop, contexts):
    first, second, third = bytearray(pattern(3 * MIB)), bytearray(b"second"), bytearray(b"third")
    expected = bytes(first) + b"second" + b"third"
    async with tls_and_peer(contexts, send_buffer=131072) as (transport, _, peer):
        transport.write(first)
        transport.write(memoryview(second))
        transport.writelines([third])
        for changed in (first, second, third):
            changed[:] = bytes(len(changed))
        assert await peer.read_exactly(len(expected)) == expected


@pytest.mark.parametrize(
    "data",
    [b"12345678", bytearray(b"12345678"), memoryview(b"12345678"), memoryview(b"1x2x3x4x5x6x7x8x")[::2]],
    ids=["bytes", "bytearray", "memoryview", "strided memoryview"],
)
async def test_kinds_of_bytes(loop, contexts, reports, data):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        transport.write(b"<")
        transport.write(data)
        if isinstance(data, memoryview) and not data.contiguous:
            # TLS cannot take it: the connection ends, with a report.
            assert isinstance(await protocol.lost, BufferError)
            assert isinstance(reports.take()["exception"], BufferError)
            return
        transport.write(b">")
        assert await peer.read_exactly(10) == b"<12345678>"


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"], array.array("b", b"x")], ids=repr)
async def test_kinds_that_write_refuses(loop, contexts, data):
    async with tls_and_peer(contexts) as (transport, _, peer):
        with pytest.raises(TypeError, match=type(data).__name__):
            transport.write(data)
        transport.write(b"fine")
        assert await peer.read_exactly(4) == b"fine"


async def test_empty_writes(loop, contexts):
    async with tls_and_peer(contexts) as (transport, _, peer):
        for data in (b"", bytearray(), memoryview(b"")):
            transport.write(data)
        transport.writelines([])
        assert transport.get_write_buffer_size() == 0
        transport.write(b"x")
        assert await peer.read_exactly(1) == b"x"


@pytest.mark.parametrize("kind", [list, tuple, iter])
async def test_writelines(loop, contexts, kind):
    pieces = [b"one", bytearray(b"two"), memoryview(b"three"), pattern(100_000)]
    async with tls_and_peer(contexts) as (transport, _, peer):
        transport.writelines(kind(pieces))
        assert await peer.read_exactly(100_011) == b"onetwothree" + pieces[3]


async def test_write_in_callbacks_keeps_the_order(loop, contexts):
    async with tls_pair(contexts, server=Echo) as (client, server):
        expected = b"".join(b"%04d" % number for number in range(500))
        for number in range(500):
            client.transport.write(b"%04d" % number)
            if number % 50 == 0:
                await settle()
        assert await client.received(len(expected)) == expected
        server.transport.write(b"end")
        assert (await client.received(len(expected) + 3))[-3:] == b"end"


# ------------------------------------------------------------------------------------------------ flow control, writing


async def test_the_default_limits(loop, contexts):
    async with tls_and_peer(contexts) as (transport, _, _peer):
        assert transport.get_write_buffer_limits() == (131072, 524288)
        assert transport.get_read_buffer_limits() == (65536, 262144)
        assert transport.get_write_buffer_size() == transport.get_read_buffer_size() == 0


@pytest.mark.parametrize("which", ["write", "read"])
@pytest.mark.parametrize(
    "keywords, expected",
    [
        ({"high": 100}, (25, 100)),
        ({"low": 100}, (100, 400)),
        ({"high": 100, "low": 10}, (10, 100)),
        ({"high": 0}, (0, 0)),
        ({"high": 7, "low": 7}, (7, 7)),
        ({"high": 10, "low": 11}, None),
        ({"high": -1}, None),
        ({"low": -1}, None),
    ],
)
async def test_setting_limits(loop, contexts, which, keywords, expected):
    async with tls_and_peer(contexts) as (transport, _, peer):
        setter, getter = (getattr(transport, f"{verb}_{which}_buffer_limits") for verb in ("set", "get"))
        before = getter()
        if expected is None:
            with pytest.raises(ValueError, match="must be >="):
                setter(**keywords)
            assert getter() == before
        else:
            setter(**keywords)
            assert getter() == expected
            setter()
            assert getter() == before
        transport.write(b"x")
        assert await peer.read_exactly(1) == b"x"


@pytest.mark.parametrize("side", SIDES)
async def test_writing_pauses_and_resumes(loop, contexts, side):
    async with tls_and_peer(contexts, side, send_buffer=131072) as (transport, protocol, peer):
        data = write_until_paused(transport, protocol)
        # The first write may be taken by the transport below, no more.
        assert len(data) <= 2 * MIB
        assert transport.get_write_buffer_size() >= transport.get_write_buffer_limits()[1]
        assert await peer.read_exactly(len(data)) == data
        await until(lambda: "resume" in protocol.events)
        assert protocol.events == ["made", "pause", "resume"]
        assert transport.get_write_buffer_size() == 0


async def test_pause_comes_once_until_resume(loop, contexts):
    async with tls_and_peer(contexts, send_buffer=131072) as (transport, protocol, peer):
        for number in range(3):
            write_until_paused(transport, protocol)
            transport.write(bytes(MIB))
            while protocol.events.count("resume") == number:
                await peer.read_exactly(65536)
                await settle(1)
        assert protocol.events == ["made"] + ["pause", "resume"] * 3


async def test_drain_waits_for_the_peer(loop, contexts):
    """The data waiting in this process stays near the limit however much a writer who drains has to say."""
    mine, sock = tcp_pair()
    peer = tls_peer(contexts, sock, "client")
    with sock:
        opening = asyncio.open_connection(sock=mine, ssl=contexts.client(), server_hostname="localhost")
        (_, writer), _ = await asyncio.gather(opening, peer.handshake())
        total = 32 * MIB
        most = 0

        async def write():
            nonlocal most
            for _ in range(total // 65536):
                writer.write(bytes(65536))
                most = max(most, writer.transport.get_write_buffer_size())
                await writer.drain()

        writing = asyncio.create_task(write())
        await asyncio.sleep(0.1)
        assert not writing.done()
        assert await peer.read_exactly(total) == bytes(total)
        await writing
        assert most < 2 * MIB
        writer.transport.abort()
        await settle()


async def test_lowering_the_limit_pauses_and_raising_it_resumes(loop, contexts):
    async with tls_and_peer(contexts, send_buffer=131072) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=100 * MIB)
        written = 0
        while transport.get_write_buffer_size() < MIB:
            transport.write(bytes(MIB))
            written += 1
        assert protocol.events == ["made"]
        transport.set_write_buffer_limits(high=1000)
        assert protocol.events == ["made", "pause"]
        transport.set_write_buffer_limits(high=400 * MIB)
        assert protocol.events == ["made", "pause", "resume"]
        await peer.read_exactly(written * MIB)


async def test_abort_with_data_waiting(loop, contexts):
    async with tls_and_peer(contexts, send_buffer=131072) as (transport, protocol, _):
        write_until_paused(transport, protocol)
        transport.abort()
        assert await protocol.lost is None
        assert protocol.events == ["made", "pause", "lost"]


# ------------------------------------------------------------------------------------------------ flow control, reading


@pytest.mark.parametrize("side", SIDES)
async def test_pause_reading_stops_delivery(loop, contexts, side):
    data = pattern(MIB)
    async with tls_and_peer(contexts, side) as (transport, protocol, peer):
        assert transport.is_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        sending = asyncio.create_task(peer.write(data))
        await until(lambda: transport.get_read_buffer_size() > 0)
        await settle(20)
        assert protocol.data == b"" and protocol.events == ["made"]
        transport.resume_reading()
        assert transport.is_reading()
        assert protocol.data == b"", "not in resume_reading() itself"
        assert await protocol.received(len(data)) == data
        await sending


async def test_a_paused_reader_holds_the_peer_back(loop, contexts):
    size = 64 * MIB
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        transport.pause_reading()
        sending = asyncio.create_task(peer.write(bytes(size)))
        high = transport.get_read_buffer_limits()[1]
        await until(lambda: transport.get_read_buffer_size() >= high)
        await asyncio.sleep(0.1)
        assert not sending.done()
        assert transport.get_read_buffer_size() < high + MIB
        transport.resume_reading()
        await protocol.received(size)
        await sending
        assert transport.get_read_buffer_size() == 0


async def test_pausing_in_data_received(loop, contexts):
    class Careful(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    data = pattern(2 * MIB)
    async with tls_and_peer(contexts, protocol=Careful) as (transport, protocol, peer):
        sending = asyncio.create_task(peer.write(data))
        calls = 0
        while len(protocol.data) < len(data):
            before = len(protocol.data)
            transport.resume_reading()
            await until(lambda before=before: len(protocol.data) > before)
            before = len(protocol.data)
            await settle()
            assert len(protocol.data) == before
            calls += 1
        assert protocol.data == data and calls > 1
        await sending


async def test_pausing_in_connection_made(loop, contexts):
    class Paused(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async with tls_and_peer(contexts, "server", Paused) as (transport, protocol, peer):
        assert not transport.is_reading()
        await peer.write(b"early")
        await until(lambda: transport.get_read_buffer_size() > 0)
        await settle()
        assert protocol.data == b""
        transport.resume_reading()
        assert await protocol.received(5) == b"early"


async def test_pausing_and_resuming_twice_is_the_same_as_once(loop, contexts):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        transport.resume_reading()
        transport.pause_reading()
        transport.pause_reading()
        transport.resume_reading()
        transport.resume_reading()
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"


async def test_writing_while_reading_is_paused(loop, contexts):
    data = pattern(3 * MIB)
    async with tls_and_peer(contexts) as (transport, _, peer):
        transport.pause_reading()
        transport.write(data)
        assert await peer.read_exactly(len(data)) == data


# ----------------------------------------------------------------------------------------------------------- protocols


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 64, 16384, 300_000])
async def test_a_buffered_protocol(loop, contexts, version, size):
    data = pattern(1000 if size == 1 else 200_000)
    async with tls_and_peer(contexts, protocol=lambda: BufferedView(size), version=version) as (
        transport,
        protocol,
        peer,
    ):
        sending = asyncio.create_task(peer.write(data))
        assert await protocol.received(len(data)) == data
        await sending
        transport.write(b"answer")
        assert await peer.read_exactly(6) == b"answer"
        await peer.unwrap()
        assert await protocol.lost is None
        assert protocol.events == ["made", "data", "eof", "lost"]


async def test_a_buffered_protocol_that_lends_a_bytearray(loop, contexts):
    async with tls_and_peer(contexts, protocol=lambda: BufferedRecorder(1000)) as (_, protocol, peer):
        await peer.write(b"x" * 1000)
        assert await protocol.received(1000) == b"x" * 1000


@pytest.mark.loopfast_only("asyncio loses what does not come with the first record of a lent bytearray")
async def test_several_records_in_a_lent_bytearray(loop, contexts):
    async with tls_and_peer(contexts, protocol=lambda: BufferedRecorder(1000)) as (_, protocol, peer):
        for word in (b"one", b"two", b"three"):
            peer.tls.write(word)
        await peer.flush()
        assert await protocol.received(11) == b"onetwothree"


async def test_a_buffered_protocol_that_pauses(loop, contexts):
    class Careful(BufferedView):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.pause_reading()

    data = pattern(50_000)
    async with tls_and_peer(contexts, protocol=lambda: Careful(10_000)) as (transport, protocol, peer):
        await peer.write(data)
        for number in range(1, 6):
            await until(lambda number=number: len(protocol.data) >= number * 10_000)
            await settle()
            assert len(protocol.data) == number * 10_000
            transport.resume_reading()
        assert protocol.data == data


class Armed(BufferedView):
    """Behaves until `armed` is set: the loop may ask for a buffer before there is anything to read."""

    armed = False


@pytest.mark.parametrize("lent", [None, 5, "text", b"read-only", [1, 2]], ids=repr)
async def test_a_buffer_that_is_none(loop, contexts, reports, lent):
    class Lending(Armed):
        def get_buffer(self, sizehint):
            return lent if self.armed else super().get_buffer(sizehint)

    async with tls_and_peer(contexts, protocol=Lending) as (transport, protocol, peer):
        protocol.armed = True
        await peer.write(b"x")
        assert isinstance(await protocol.lost, TypeError)
        assert isinstance(reports.take()["exception"], TypeError)
        assert transport.is_closing() and protocol.data == b""


async def test_an_empty_buffer_ends_the_connection(loop, contexts):
    class Lending(Armed):
        def get_buffer(self, sizehint):
            return bytearray() if self.armed else super().get_buffer(sizehint)

    async with tls_and_peer(contexts, protocol=Lending, ssl_shutdown_timeout=0.1) as (transport, protocol, peer):
        protocol.armed = True
        await peer.write(b"x")
        await protocol.lost
        assert transport.is_closing() and protocol.data == b""


@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
async def test_a_buffered_protocol_that_raises(loop, contexts, reports, method):
    class Failing(Armed):
        pass

    def fail(self, *args):
        if self.armed:
            raise ZeroDivisionError
        return getattr(Armed, method)(self, *args)

    setattr(Failing, method, fail)
    async with tls_and_peer(contexts, protocol=Failing) as (_, protocol, peer):
        protocol.armed = True
        await peer.write(b"x")
        assert isinstance(await protocol.lost, ZeroDivisionError)
        context = reports.take()
        assert context["message"] == "Fatal error on SSL protocol"
        assert isinstance(context["exception"], ZeroDivisionError)


@pytest.mark.parametrize("kind", [Recorder, BufferedView])
async def test_set_protocol(loop, contexts, kind):
    async with tls_and_peer(contexts) as (transport, first, peer):
        assert transport.get_protocol() is first
        await peer.write(b"first")
        await first.received(5)
        second = kind()
        second.connection_made(transport)
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        await peer.write(b"second")
        assert await second.received(6) == b"second"
        assert first.data == b"first"
        await peer.unwrap()
        assert await second.lost is None
        assert first.events == ["made", "data"] and second.events == ["made", "data", "eof", "lost"]


async def test_set_protocol_in_data_received(loop, contexts):
    class Switching(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.next = Recorder()
            self.next.connection_made(self.transport)
            self.transport.set_protocol(self.next)

    async with tls_and_peer(contexts, protocol=Switching) as (_, protocol, peer):
        await peer.write(b"one")
        await until(lambda: protocol.data)
        await peer.write(b"two")
        assert await protocol.next.received(3) == b"two"
        assert protocol.data == b"one"


async def test_a_slow_handshake_in_single_bytes(loop, contexts):
    """Every byte of the peer's handshake comes alone."""
    mine, sock = tcp_pair()
    peer = tls_peer(contexts, sock, "server")

    class OneByOne(socket.socket):
        def send(self, data, *args):
            return super().send(data[:1], *args)

    slow = OneByOne(sock.family, sock.type, sock.proto, sock.detach())
    slow.setblocking(False)
    peer.sock = slow
    with slow:
        (transport, protocol), _ = await asyncio.gather(open_tls(contexts, "server", mine, Recorder), peer.handshake())
        await peer.write(b"done")
        assert await protocol.received(4) == b"done"
        transport.abort()
        await protocol.lost

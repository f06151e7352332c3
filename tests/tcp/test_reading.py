"""The read path: pausing, end of stream, protocols that raise, lent buffers, changing the protocol."""

from __future__ import annotations

import array
import asyncio
import socket

import pytest
from support import BufferedRecorder, Recorder, pattern, run_program, settle, tcp_pair, transport_and_peer, until


async def send_all(loop, sock, data):
    await loop.sock_sendall(sock, data)


async def test_everything_arrives_in_order(loop):
    data = pattern(2_000_000)
    async with transport_and_peer() as (_, protocol, peer):
        await send_all(loop, peer, data)
        assert await protocol.received(len(data)) == data


async def test_pausing_in_connection_made_is_honoured(loop):
    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async with transport_and_peer(Protocol) as (transport, protocol, peer):
        peer.send(b"early")
        await settle(20)
        assert protocol.data == b""
        assert not transport.is_reading()
        transport.resume_reading()
        assert transport.is_reading()
        assert await protocol.received(5) == b"early"


async def test_pausing_in_data_received_takes_effect_at_once(loop):
    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async with transport_and_peer(Protocol) as (transport, protocol, peer):
        peer.setblocking(True)
        sender = loop.run_in_executor(None, peer.sendall, pattern(1_000_000))
        seen = 0
        while seen < 1_000_000:
            await until(lambda before=seen: len(protocol.data) > before)
            seen = len(protocol.data)
            await settle(10)
            assert len(protocol.data) == seen
            transport.resume_reading()
        await sender
        assert protocol.data == pattern(1_000_000)


async def test_data_before_a_fin_while_paused_is_delivered_after_resume(loop):
    async with transport_and_peer() as (transport, protocol, peer):
        transport.pause_reading()
        transport.pause_reading()
        peer.send(b"last")
        peer.shutdown(socket.SHUT_WR)
        await settle(10)
        transport.resume_reading()
        transport.resume_reading()
        await protocol.lost
        assert protocol.data == b"last"
        assert protocol.events == ["made", "data", "eof", "lost"]


async def test_eof_received_may_keep_the_writing_half_open(loop):
    class Protocol(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    async with transport_and_peer(Protocol) as (transport, protocol, peer):
        peer.shutdown(socket.SHUT_WR)
        await protocol.eof
        assert not transport.is_closing()
        transport.write(b"still here")
        await settle()
        assert peer.recv(100) == b"still here"
        transport.close()
        assert await protocol.lost is None


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
async def test_a_protocol_that_raises_costs_the_connection(loop, reports, method):
    def fail(*args):
        raise ZeroDivisionError(method)

    Protocol = type("Protocol", (Recorder,), {method: fail})
    async with transport_and_peer(Protocol) as (transport, protocol, peer):
        peer.send(b"x")
        peer.shutdown(socket.SHUT_WR)
        assert isinstance(await protocol.lost, ZeroDivisionError)
        context = reports.take()
        assert method in context["message"]
        assert context["transport"] is transport and context["protocol"] is protocol


async def test_connection_made_that_raises_is_reported(loop, reports):
    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    async with transport_and_peer(Protocol) as (_, protocol, peer):
        peer.send(b"x")
        assert await protocol.received(1) == b"x"
        assert isinstance(reports.take()["exception"], ZeroDivisionError)


async def test_connection_lost_that_raises_is_reported(loop, reports):
    class Protocol(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    async with transport_and_peer(Protocol) as (transport, protocol, _peer):
        transport.close()
        await protocol.lost
        await settle()
        assert isinstance(reports.take()["exception"], ZeroDivisionError)


def test_keyboard_interrupt_in_data_received_leaves_the_loop_usable(loop_kind):
    out = run_program(
        loop_kind,
        """
        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                raise KeyboardInterrupt
        loop = new_event_loop()
        one, other = socket.socketpair()
        transport, _ = loop.run_until_complete(loop.create_connection(Protocol, sock=one))
        other.send(b"x")
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
        print(loop.run_until_complete(asyncio.sleep(0, "usable")))
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        other.close()
    """,
    )
    assert out.split() == ["interrupted", "usable"]


async def test_set_protocol_in_data_received_takes_the_next_data(loop):
    second = Recorder(loop)

    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            second.events.append("made")
            self.transport.set_protocol(second)

    async with transport_and_peer(Protocol) as (transport, first, peer):
        peer.send(b"one")
        await first.received(3)
        assert transport.get_protocol() is second
        peer.send(b"two")
        assert await second.received(3) == b"two"
        assert first.data == b"one"


@pytest.mark.parametrize("kinds", [(Recorder, BufferedRecorder), (BufferedRecorder, Recorder)])
async def test_what_raised_is_named_after_another_kind_of_protocol_took_its_place(loop, reports, kinds):
    callbacks = {Recorder: "data_received", BufferedRecorder: "buffer_updated"}
    first, second = kinds

    class Protocol(first):
        def fails(self, received):
            self.transport.set_protocol(second(loop=loop))
            raise ValueError("after the swap")

    setattr(Protocol, callbacks[first], Protocol.fails)
    async with transport_and_peer(Protocol) as (transport, _, peer):
        peer.send(b"x")
        await until(transport.is_closing)
        await settle()
    report = reports.take()
    assert report["message"] == f"Fatal error: protocol.{callbacks[first]}() call failed."
    assert str(report["exception"]) == "after the swap"


async def test_a_buffered_protocol_gets_its_own_buffer_filled(loop):
    data = pattern(100_000)
    async with transport_and_peer(BufferedRecorder) as (_, protocol, peer):
        await send_all(loop, peer, data)
        assert await protocol.received(len(data)) == data
        assert set(protocol.hints) == {-1}


async def test_switching_between_plain_and_buffered(loop):
    async with transport_and_peer() as (transport, plain, peer):
        peer.send(b"plain")
        await plain.received(5)
        buffered = BufferedRecorder(loop=loop)
        buffered.events.append("made")
        transport.set_protocol(buffered)
        peer.send(b"buffered")
        assert await buffered.received(8) == b"buffered"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (bytearray(), RuntimeError),
        (b"read-only", TypeError),
        (memoryview(bytearray(8))[::2], TypeError),
        (None, TypeError),
        (7, TypeError),
    ],
)
async def test_a_bad_buffer_costs_the_connection(loop, reports, answer, error):
    class Protocol(BufferedRecorder):
        def get_buffer(self, sizehint):
            return answer

    async with transport_and_peer(Protocol) as (_, protocol, peer):
        peer.send(b"x")
        assert isinstance(await protocol.lost, error)
        report = reports.take()
        assert isinstance(report["exception"], error)
        assert report["transport"] is not None


async def test_a_buffered_protocol_may_close_in_get_buffer(loop):
    class Protocol(BufferedRecorder):
        def get_buffer(self, sizehint):
            self.transport.close()
            return super().get_buffer(sizehint)

    async with transport_and_peer(Protocol) as (_, protocol, peer):
        peer.send(b"x")
        assert await protocol.lost is None


async def test_a_buffered_protocol_may_pause_in_get_buffer(loop):
    """The read that the buffer was asked for is still done: so a protocol may ask for one read at a time."""

    class Sparing(asyncio.BufferedProtocol):
        def __init__(self):
            self.buffer, self.data, self.lost = bytearray(7), bytearray(), loop.create_future()

        def connection_made(self, transport):
            self.transport = transport

        def get_buffer(self, sizehint):
            self.transport.pause_reading()
            return self.buffer

        def buffer_updated(self, nbytes):
            self.data += self.buffer[:nbytes]
            loop.call_later(0.001, self.transport.resume_reading)

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    for busy in (False, True):
        async with transport_and_peer(Sparing) as (_, protocol, peer):
            stop = keep_busy(loop) if busy else lambda: None
            peer.send(b"0123456789" * 3)
            await until(lambda protocol=protocol: len(protocol.data) == 30)
            assert protocol.data == b"0123456789" * 3
            peer.close()
            assert await protocol.lost is None
            stop()


async def test_a_protocol_that_leaves_and_raises_is_named_as_the_one_it_was(loop, reports):
    class Leaving(BufferedRecorder):
        def buffer_updated(self, nbytes):
            self.transport.set_protocol(Recorder())
            raise ValueError("after set_protocol()")

    async with transport_and_peer(Leaving) as (transport, _, peer):
        peer.send(b"x")
        await until(transport.is_closing)
    assert "buffer_updated()" in reports.take()["message"]


def keep_busy(loop):
    """Have a callback ready in every turn until what this returns is called."""
    handles = []

    def tick():
        handles[:] = [loop.call_soon(tick)]

    tick()
    return lambda: handles[0].cancel()


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("words", [b"last words", b""])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_what_a_peer_said_before_it_went_is_heard(loop, kind, words, busy):
    """Though the end of the peer is first felt by what is still to be written to it."""
    mine, peer = tcp_pair() if kind == "tcp" else socket.socketpair()
    mine.setblocking(False)
    connect = loop.create_connection if kind == "tcp" else loop.create_unix_connection
    transport, protocol = await connect(Recorder, sock=mine)
    stop = keep_busy(loop) if busy else lambda: None
    transport.write(b"x" * 5_000_000)
    await settle()
    if words:
        peer.send(words)
    # Something is unread: that is a reset, and no end.
    peer.close()
    error = await protocol.lost
    stop()
    assert protocol.data == words
    assert protocol.events == ["made", "pause", *(["data"] if words else []), "lost"]
    assert isinstance(error, ConnectionError if words else ConnectionResetError)


async def test_the_lent_buffer_is_given_back(loop):
    async with transport_and_peer(BufferedRecorder) as (_, protocol, peer):
        peer.send(b"x")
        await protocol.received(1)
        protocol.buffer.extend(b"a bytearray with an export could not grow")


async def test_streams(loop):
    async def echo(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.writelines([b"one\n", b"two\n"])
    assert await reader.readline() == b"one\n"
    assert await reader.readuntil(b"\n") == b"two\n"
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


# ------------------------------------------------------------------------------------------------ objects that are kept


async def test_data_is_not_changed_by_later_reads(loop):
    kept = []
    hashes = []

    class Protocol(Recorder):
        def data_received(self, data):
            hashes.append(hash(data) == hash(bytes(bytearray(data))))
            if data[0] % 2:
                kept.append((data, bytes(bytearray(data))))
            super().data_received(bytes(bytearray(data)))

    async with transport_and_peer(Protocol) as (_, protocol, peer):
        expected = 0
        for i in range(60):
            message = bytes([i]) * (1 + i * 37 % 1500)
            peer.send(message)
            expected += len(message)
            await protocol.received(expected)
    assert all(hashes)
    assert len(kept) == 30
    assert all(data == copy for data, copy in kept)


@pytest.mark.parametrize("keep", [memoryview, lambda data: (data,), lambda data: iter(data), lambda data: data.upper])
async def test_data_that_something_refers_to_is_not_changed(loop, keep):
    holders = []

    class Protocol(Recorder):
        def data_received(self, data):
            holders.append(keep(data))
            super().data_received(bytes(bytearray(data)))

    def content(holder):
        if isinstance(holder, tuple):
            return holder[0]
        return holder() if callable(holder) else bytes(holder)

    async with transport_and_peer(Protocol) as (_, protocol, peer):
        for i, letter in enumerate(b"ABCDEF", 1):
            peer.send(bytes([letter]) * 1000)
            await protocol.received(1000 * i)
    assert [content(holder)[:1] for holder in holders] == [b"A", b"B", b"C", b"D", b"E", b"F"]


@pytest.mark.parametrize(
    "make", [bytearray, lambda size: memoryview(bytearray(size)), lambda size: array.array("b", bytes(size))]
)
async def test_a_buffer_is_the_protocols_again_when_it_is_told(loop, make):
    class Protocol(asyncio.BufferedProtocol):
        def connection_made(self, transport):
            self.got = b""

        def get_buffer(self, sizehint):
            self.buffer = make(100)
            return self.buffer

        def buffer_updated(self, size):
            self.got += bytes(self.buffer[:size])
            if isinstance(self.buffer, memoryview):
                self.buffer.release()
            else:
                del self.buffer[:]

        def connection_lost(self, exc):
            pass

    async with transport_and_peer(Protocol) as (_, protocol, peer):
        peer.send(pattern(1000))
        await until(lambda: len(protocol.got) == 1000)
        assert protocol.got == pattern(1000)


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_the_read_callback_is_there(loop, kind):
    """Test suites of frameworks, and CPython's own, look at this private attribute."""
    async with transport_and_peer(kind) as (transport, _, _):
        assert transport._read_ready_cb is not None

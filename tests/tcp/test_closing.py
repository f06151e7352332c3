"""The end of a connection: every order of close, abort, write_eof, end of stream and reset."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import socket
import struct
import sys
import weakref

import pytest
from support import (
    BufferedRecorder,
    Echo,
    Recorder,
    pattern,
    program,
    read_exactly,
    read_to_end,
    serving,
    settle,
    tcp_pair,
    transport_and_peer,
    until,
)

METHODS = {
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "is_closing": lambda transport: transport.is_closing(),
    "is_reading": lambda transport: transport.is_reading(),
    "pause_reading": lambda transport: transport.pause_reading(),
    "resume_reading": lambda transport: transport.resume_reading(),
    "write": lambda transport: transport.write(b"x"),
    "writelines": lambda transport: transport.writelines([b"x", b"y"]),
    "write_eof": lambda transport: transport.write_eof(),
    "can_write_eof": lambda transport: transport.can_write_eof(),
    "get_write_buffer_size": lambda transport: transport.get_write_buffer_size(),
    "get_write_buffer_limits": lambda transport: transport.get_write_buffer_limits(),
    "set_write_buffer_limits": lambda transport: transport.set_write_buffer_limits(100),
    "get_protocol": lambda transport: transport.get_protocol(),
    "set_protocol": lambda transport: transport.set_protocol(transport.get_protocol() or asyncio.Protocol()),
    "get_extra_info": lambda transport: [transport.get_extra_info(n) for n in ("socket", "peername", "sockname", "x")],
    "repr": repr,
}


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("ending", ["close", "abort", "peer closes", "peer resets"])
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            method,
            marks=pytest.mark.loopfast_only(
                "asyncio's writelines() looks at a loop that is gone",
                when=method == "writelines" and sys.version_info >= (3, 12),
            ),
        )
        for method in METHODS
    ],
)
async def test_every_method_after_the_end(loop, method, ending):
    async with transport_and_peer() as (transport, protocol, peer):
        match ending:
            case "peer closes":
                peer.close()
            case "peer resets":
                reset(peer)
            case _:
                getattr(transport, ending)()
                METHODS[method](transport)
        await protocol.lost
        METHODS[method](transport)
        await settle()
        METHODS[method](transport)
        assert protocol.events[-1] == "lost" and protocol.events.count("lost") == 1
        assert transport.is_closing()


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["close", "abort", "write_eof", "pause_reading"])), ids="-".join
)
async def test_every_order_of_ending(loop, order):
    async with transport_and_peer() as (transport, protocol, peer):
        transport.write(b"first")
        for method in order:
            METHODS[method](transport)
        await protocol.lost
        assert protocol.events == ["made", "lost"]
        assert await read_to_end(peer) == b"first"


async def test_connection_lost_comes_after_the_call_that_closes(loop):
    async with transport_and_peer() as (transport, protocol, _peer):
        transport.abort()
        assert protocol.events == ["made"]
        await protocol.lost


async def test_a_closed_transport_has_let_go_of_its_descriptor(loop):
    async with transport_and_peer() as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        fd = sock.fileno()
        assert fd >= 0
        transport.close()
        await protocol.lost
        await settle()
        assert sock.fileno() == -1
        # The number is free again.
        new = socket.socket()
        assert new.fileno() <= fd
        new.close()


async def test_the_peer_sees_the_end_only_after_all_data(loop):
    data = pattern(5_000_000)
    async with transport_and_peer(send_buffer=131072) as (transport, _, peer):
        transport.write(data[:1_000_000])
        await settle()
        transport.write(data[1_000_000:])
        transport.write_eof()
        transport.close()
        assert await read_to_end(peer) == data


async def test_close_while_writing_ignores_what_still_comes_in(loop):
    async with transport_and_peer(send_buffer=131072) as (transport, protocol, peer):
        transport.write(bytes(3_000_000))
        transport.close()
        peer.send(b"too late")
        await read_exactly(peer, 3_000_000)
        assert await protocol.lost is None
        assert protocol.data == b""


async def test_a_protocol_that_is_resumed_while_closing_may_write_the_rest(loop):
    class Protocol(Recorder):
        def resume_writing(self):
            super().resume_writing()
            self.transport.write(b"the rest")

    async with transport_and_peer(Protocol, send_buffer=131072) as (transport, protocol, peer):
        data = pattern(4_000_000)
        transport.write(data)
        # Queued behind the write that is in progress, so that the queue ends later than that write.
        transport.write(b"the last but one, ")
        transport.close()
        assert await read_to_end(peer) == data + b"the last but one, the rest"
        assert await protocol.lost is None
        assert protocol.events == ["made", "pause", "resume", "lost"]


async def test_abort_after_close_with_data_queued(loop):
    async with transport_and_peer(send_buffer=131072) as (transport, protocol, _peer):
        transport.write(bytes(3_000_000))
        transport.close()
        await settle()
        assert not protocol.lost.done()
        transport.abort()
        assert await protocol.lost is None
        assert transport.get_write_buffer_size() == 0


async def test_what_was_written_before_a_callback_raised_is_sent(loop, reports):
    """An error costs the connection, not the answer."""
    for protocol, callback in (
        (Recorder, "data_received"),
        (BufferedRecorder, "buffer_updated"),
        (Recorder, "eof_received"),
    ):

        class Protocol(protocol):
            def fails(self, *args):
                self.transport.write(b"an answer, ")
                self.transport.writelines([b"and ", b"another"])
                raise ValueError("afterwards")

        setattr(Protocol, callback, Protocol.fails)
        async with transport_and_peer(Protocol) as (_, made, peer):
            if callback == "eof_received":
                peer.shutdown(socket.SHUT_WR)
            else:
                peer.send(b"x")
            assert await read_to_end(peer) == b"an answer, and another", callback
            assert str(await made.lost) == "afterwards"
        assert str(reports.take()["exception"]) == "afterwards"


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit(3)"])
def test_what_was_written_before_the_run_was_ended_is_sent(loop_kind, error):
    code = f"""
    from support import tcp_pair, Recorder, read_exactly
    mine, peer = tcp_pair()
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(Recorder, sock=mine)
        def end():
            transport.write(b"a last word")
            raise {error}
        loop.call_soon(end)
        await loop.create_future()
    loop = new_event_loop()
    try:
        loop.run_until_complete(main())
    except BaseException as exc:
        print(repr(exc))
    peer.settimeout(10)
    print(peer.recv(100))
    os._exit(0)
    """
    with program(loop_kind, code, "-u") as process:
        out, err = process.communicate(timeout=25)
    assert out.splitlines() == [error if "(" in error else error + "()", "b'a last word'"], err


async def test_nothing_is_left_to_send_after_an_abort(loop):
    async with transport_and_peer() as (transport, _, _):
        transport.write(bytes(8_000_000))
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert "write=<idle, bufsize=0>" in repr(transport)


async def test_a_reset_while_closing_with_data_queued(loop):
    async with transport_and_peer(send_buffer=131072) as (transport, protocol, peer):
        transport.write(bytes(3_000_000))
        transport.close()
        reset(peer)
        assert isinstance(await protocol.lost, (ConnectionError, type(None)))
        assert protocol.events.count("lost") == 1


async def test_half_close_in_both_directions(loop):
    class Protocol(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    async with transport_and_peer(Protocol) as (transport, protocol, peer):
        transport.write_eof()
        assert await read_to_end(peer) == b""
        peer.send(b"still readable")
        await protocol.received(14)
        peer.shutdown(socket.SHUT_WR)
        await protocol.eof
        assert not protocol.lost.done()
        transport.close()
        assert await protocol.lost is None


async def test_write_eof_twice_and_after_close(loop):
    async with transport_and_peer() as (transport, protocol, _peer):
        transport.write_eof()
        transport.write_eof()
        transport.close()
        transport.write_eof()
        await protocol.lost


async def test_writing_to_a_peer_that_closed_ends_in_connection_lost(loop):
    async with transport_and_peer() as (transport, protocol, peer):
        transport.pause_reading()
        peer.close()
        for _ in range(200):
            transport.write(b"x" * 1000)
            await asyncio.sleep(0.0005)
            if transport.is_closing():
                break
        assert isinstance(await protocol.lost, ConnectionError)


async def test_queued_writes_are_dropped_with_the_connection(loop):
    class Payload(bytearray):
        pass

    async with transport_and_peer(send_buffer=131072) as (transport, protocol, _peer):
        payload = Payload(5_000_000)
        reference = weakref.ref(payload)
        transport.write(payload)
        del payload
        transport.abort()
        await protocol.lost
        await settle()
        assert reference() is None


async def test_the_protocol_is_released(loop):
    async with transport_and_peer() as (transport, protocol, _peer):
        transport.close()
        await protocol.lost
        await settle()
        reference = weakref.ref(protocol)
        protocol.transport = None
        assert protocol.lost.done()
        del protocol
        gc.collect()
        # `transport_and_peer` still holds one.
        assert reference() is not None
        assert transport.get_protocol() is None or transport.get_protocol() is reference()


@pytest.mark.parametrize("seed", range(8))
async def test_random_orders_end_cleanly(loop, seed, caplog):
    """Whatever the order of operations on both ends: one made, one lost, and no byte out of place."""
    generator = random.Random(seed)
    data = pattern(4_000_000)
    async with transport_and_peer(send_buffer=generator.choice([32768, 131072])) as (transport, protocol, peer):
        sent = 0
        received = bytearray()
        ending = generator.choice(["close", "write_eof", "abort"])
        for _ in range(400):
            match generator.randrange(12):
                case 0 | 1 | 2 | 3:
                    size = generator.choice([1, 100, 5000, 70_000])
                    piece = data[sent : sent + size]
                    kind = generator.randrange(3)
                    if kind == 2:
                        half = len(piece) // 2
                        transport.writelines([piece[:half], memoryview(bytearray(piece[half:]))])
                    else:
                        transport.write(bytearray(piece) if kind else piece)
                    sent += len(piece)
                case 4 | 5:
                    with contextlib.suppress(BlockingIOError):
                        received += peer.recv(generator.choice([10, 5000, 1_000_000]))
                case 6 if ending == "write_eof":
                    # Else the kernel may answer the close of a socket with unread data by a reset.
                    peer.send(b"in")
                case 7:
                    transport.pause_reading()
                case 8:
                    transport.resume_reading()
                case 9:
                    transport.get_write_buffer_size()
                case 10:
                    transport.set_write_buffer_limits(high=generator.choice([0, 1000, 100_000]))
                case 11:
                    await asyncio.sleep(0)
        METHODS[ending](transport)
        received += await read_to_end(peer)
        if ending == "write_eof":
            peer.close()
            transport.resume_reading()
        await protocol.lost
        assert received == data[: len(received)]
        if ending != "abort":
            assert len(received) == sent
        assert protocol.events[0] == "made" and protocol.events.count("lost") == 1
        flow = [name for name in protocol.events if name in ("pause", "resume")]
        assert flow == (["pause", "resume"] * len(flow))[: len(flow)]


async def test_hundreds_of_connections_at_once(loop):
    async with serving(Echo) as (_, address):
        pairs = await asyncio.gather(*(loop.create_connection(Recorder, *address) for _ in range(300)))
        for number, (transport, _) in enumerate(pairs):
            transport.write(b"%05d" % number)
        for number, (transport, protocol) in enumerate(pairs):
            assert await protocol.received(5) == b"%05d" % number
            transport.close()
        await asyncio.gather(*(protocol.lost for _, protocol in pairs))


async def test_a_cancelled_connect_leaves_nothing(loop):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        task = loop.create_task(loop.create_connection(Recorder, *listener.getsockname()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_protocol_keeps_its_transport_alive_and_no_more(loop):
    lost = loop.create_future()

    class Protocol(asyncio.Protocol):
        def connection_lost(self, exc):
            lost.set_result(exc)

    # Nobody holds transport or protocol: the loop does, until the connection ends.
    async with serving(Protocol) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        gc.collect()
        writer.close()
        await writer.wait_closed()
        assert await lost is None
        assert await reader.read() == b""
        await until(lost.done)


@pytest.mark.parametrize("data", [b"answer", bytearray(100_000)], ids=["small", "large and mutable"])
async def test_a_reset_that_a_write_meets_first(loop, data):
    """The kernel tells of it once, and then of a broken pipe."""

    class Answering(Recorder):
        def data_received(self, received):
            self.transport.write(data)

    async with transport_and_peer(Answering) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"question")
        reset(peer)
        transport.resume_reading()
        assert isinstance(await protocol.lost, ConnectionResetError)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_end_of_stream_that_ends_the_run_is_told_again(loop, error):
    mine, peer = tcp_pair()

    class Ending(Recorder):
        def eof_received(self):
            super().eof_received()
            if self.events.count("eof") == 1:
                raise error

    protocol = Ending(loop)
    loop.run_until_complete(loop.create_connection(lambda: protocol, sock=mine))
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(error):
        loop.run_until_complete(protocol.lost)
    assert loop.run_until_complete(protocol.lost) is None
    assert protocol.events == ["made", "eof", "eof", "lost"]
    peer.close()

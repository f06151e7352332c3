"""Protocols that close, abort, write, pause or raise from inside their own callbacks, in every place."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest
from support import BufferedRecorder, Recorder, pattern, read_exactly, settle, tcp_pair, transport_and_peer, until

CALLBACKS = ("connection_made", "data_received", "eof_received", "pause_writing", "resume_writing", "connection_lost")


def protocol_that(callback, action, base=Recorder):
    """Return a Recorder class that calls ``action(transport)`` at the end of *callback*, the first time."""

    class Protocol(base):
        acted = False

    def wrapped(self, *args):
        result = getattr(base, callback)(self, *args)
        if not self.acted:
            self.acted = True
            action(self.transport)
        return result

    setattr(Protocol, callback, wrapped)
    return Protocol


async def provoke(protocol, transport, peer):
    """Make all that is left of CALLBACKS happen."""
    peer.send(b"data")
    await settle()
    if not transport.is_closing():
        transport.write(bytes(3_000_000))
        await settle()
    try:
        while True:
            try:
                if not peer.recv(1 << 20):
                    break
            except BlockingIOError:
                if protocol.events[-1] in ("resume", "lost") or transport.get_write_buffer_size() == 0:
                    break
                await asyncio.sleep(0.0005)
        peer.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    await settle()
    transport.close()
    peer.close()
    await protocol.lost
    await settle()


ACTIONS = {
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "close and abort": lambda transport: (transport.close(), transport.abort(), transport.close()),
    "write": lambda transport: transport.write(b"x" * 1000),
    "write much": lambda transport: transport.write(bytes(200_000)),
    "writelines": lambda transport: transport.writelines([b"x" * 10] * 5000),
    "write and close": lambda transport: (transport.write(b"bye"), transport.close()),
    "write_eof": lambda transport: transport.can_write_eof() and not transport.is_closing() and transport.write_eof(),
    "pause_reading": lambda transport: transport.pause_reading(),
    "pause and resume": lambda transport: (transport.pause_reading(), transport.resume_reading()),
    "limits": lambda transport: transport.set_write_buffer_limits(high=10, low=1),
    "same protocol again": lambda transport: transport.set_protocol(transport.get_protocol()),
    "look": lambda transport: (
        repr(transport),
        transport.get_extra_info("socket"),
        transport.get_write_buffer_size(),
        transport.is_reading(),
    ),
}


def marks_of(callback, action):
    if callback == "resume_writing" and action in ("close", "abort", "close and abort", "write and close"):
        return pytest.mark.loopfast_only("asyncio closes a second time when resume_writing() has closed")
    if callback == "connection_lost" and action == "writelines":
        return pytest.mark.loopfast_only("asyncio's writelines() looks at a loop that is gone")
    return ()


@pytest.mark.parametrize("base", [Recorder, BufferedRecorder], ids=["Protocol", "BufferedProtocol"])
@pytest.mark.parametrize(
    ("callback", "action"),
    [pytest.param(callback, action, marks=marks_of(callback, action)) for callback in CALLBACKS for action in ACTIONS],
)
async def test_acting_inside_a_callback(loop, callback, action, base):
    if base is BufferedRecorder and callback == "data_received":
        callback = "buffer_updated"
    # After write_eof() the writes of this test raise, as they should.
    protocol_class = protocol_that(callback, ACTIONS[action], base)
    async with transport_and_peer(protocol_class, send_buffer=131072) as (transport, protocol, peer):
        try:
            await provoke(protocol, transport, peer)
        except RuntimeError as exc:
            assert action == "write_eof" and "write_eof" in str(exc)
            transport.abort()
            await protocol.lost
        assert protocol.events[0] == "made"
        assert protocol.events[-1] == "lost"
        assert protocol.events.count("lost") == 1
        flow = [name for name in protocol.events if name in ("pause", "resume")]
        assert flow == (["pause", "resume"] * len(flow))[: len(flow)]


class Odd(BaseException):
    """Neither an Exception nor an interrupt."""


@pytest.mark.parametrize("kind", [LookupError, Odd, asyncio.CancelledError])
@pytest.mark.parametrize("callback", CALLBACKS)
async def test_raising_inside_a_callback(loop, reports, callback, kind):
    def fail(transport):
        raise kind(callback)

    async with transport_and_peer(protocol_that(callback, fail), send_buffer=131072) as (transport, protocol, peer):
        await provoke(protocol, transport, peer)
        assert protocol.events.count("lost") == 1
    assert isinstance(reports.take()["exception"], kind)
    reports.clear()
    # The loop goes on.
    async with transport_and_peer() as (_, protocol, peer):
        peer.send(b"x")
        assert await protocol.received(1) == b"x"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("callback", CALLBACKS)
def test_interrupting_inside_a_callback(loop, loop_kind, reports, callback, kind):
    def interrupt(transport):
        raise kind(callback)

    one, peer = tcp_pair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 131072)
    protocol_class = protocol_that(callback, interrupt)
    protocols = []

    def factory():
        protocols.append(protocol_class(loop))
        return protocols[0]

    async def main():
        transport, protocol = await loop.create_connection(factory, sock=one)
        await provoke(protocol, transport, peer)

    task = loop.create_task(main())
    with pytest.raises(kind):
        loop.run_until_complete(task)
    # It ended the run, nothing else: the rest happens in the next one.
    loop.run_until_complete(asyncio.wait([task]))
    # pause_writing() is called inside write(), so the task gets it, too.
    assert isinstance(task.exception(), kind) if callback == "pause_writing" else task.exception() is None
    protocols[0].transport.abort()
    loop.run_until_complete(protocols[0].lost)
    loop.run_until_complete(settle())
    assert protocols[0].events.count("lost") == 1
    peer.close()
    if callback == "resume_writing" and loop_kind == "asyncio":
        # asyncio is interrupted between emptying its queue and forgetting the descriptor, and asserts in the next
        # event.
        assert all(isinstance(report["exception"], AssertionError) for report in reports)
        reports.clear()


@pytest.mark.parametrize("kind", [LookupError, Odd])
async def test_a_protocol_factory_that_raises(loop, kind):
    def factory():
        raise kind

    one, peer = tcp_pair()
    with pytest.raises(kind):
        await loop.create_connection(factory, sock=one)
    one.close()
    peer.close()


async def test_closing_in_connection_made_never_delivers_data(loop):
    async with transport_and_peer(protocol_that("connection_made", ACTIONS["close"])) as (_, protocol, peer):
        peer.send(b"x")
        assert await protocol.lost is None
        assert protocol.events == ["made", "lost"]


async def test_closing_in_data_received_delivers_nothing_more(loop):
    async with transport_and_peer(protocol_that("data_received", ACTIONS["close"])) as (_, protocol, peer):
        peer.setblocking(True)
        await loop.run_in_executor(None, send_ignoring_reset, peer, pattern(2_000_000))
        await protocol.lost
        assert protocol.events == ["made", "data", "lost"]
        assert len(protocol.data) < 2_000_000


def send_ignoring_reset(sock, data):
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)


async def test_pause_writing_is_not_called_inside_resume_writing(loop):
    depth = []

    class Protocol(Recorder):
        inside = False

        def pause_writing(self):
            depth.append(self.inside)
            super().pause_writing()

        def resume_writing(self):
            super().resume_writing()
            self.inside = True
            if self.events.count("resume") < 5:
                self.transport.write(bytes(1_000_000))
            self.inside = False

    async with transport_and_peer(Protocol, send_buffer=131072) as (transport, protocol, peer):
        transport.write(bytes(1_000_000))
        await read_exactly(peer, 5_000_000)
        await until(lambda: protocol.events.count("resume") == 5)
        flow = [name for name in protocol.events if name in ("pause", "resume")]
        assert flow == ["pause", "resume"] * 5


async def test_replacing_the_protocol_in_every_callback(loop):
    log = []

    class Protocol(Recorder):
        def swap(self):
            other = Protocol()
            other.transport = self.transport
            other.events.append("made")
            other.lost.add_done_callback(lambda future: log.append("lost"))
            self.transport.set_protocol(other)

        def data_received(self, data):
            log.append(bytes(data))
            self.swap()

        def eof_received(self):
            log.append("eof")
            self.swap()

    async with transport_and_peer(Protocol) as (_, _, peer):
        for number in range(5):
            peer.send(b"%d" % number)
            await until(lambda number=number: len(log) == number + 1)
        peer.close()
        await until(lambda: "lost" in log)
    assert log == [b"0", b"1", b"2", b"3", b"4", "eof", "lost"]


async def test_a_reset_while_the_protocol_is_paused(loop):
    async with transport_and_peer(send_buffer=131072) as (transport, protocol, peer):
        transport.write(bytes(3_000_000))
        assert protocol.events[-1] == "pause"
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert isinstance(await protocol.lost, ConnectionError)
        assert protocol.events.count("lost") == 1


async def test_protocols_without_the_optional_methods(loop, reports):
    class Bare:
        def connection_made(self, transport):
            self.transport = transport

        def connection_lost(self, exc):
            lost.set_result(exc)

    lost = loop.create_future()
    async with transport_and_peer(Bare) as (_, _, peer):
        peer.send(b"x")
        assert isinstance(await lost, AttributeError)
    assert isinstance(reports.take()["exception"], AttributeError)


async def test_deleting_the_protocols_method_while_connected(loop, reports):
    async with transport_and_peer() as (transport, protocol, peer):
        protocol.data_received = lambda data: late.append(bytes(data))
        late = []
        # asyncio looks the method up at each call.
        peer.send(b"x")
        await until(lambda: late or protocol.data)
        transport.close()
        await protocol.lost

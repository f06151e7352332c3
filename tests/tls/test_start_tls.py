"""start_tls: both sides, what was written and read before, TLS in TLS, failures, transports that are closing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import ssl
import sys
from asyncio import sslproto

import pytest
from support import (
    LOCALHOST,
    BufferedRecorder,
    Recorder,
    pattern,
    read_exactly,
    read_to_end,
    serving,
    settle,
    transport_and_peer,
    until,
)
from tlssupport import SIDES, VERSIONS, TlsPeer, connect, tls_and_peer, tls_peer, write_until_paused


async def upgrade(contexts, side, transport, protocol, **options):
    """Call start_tls as *side* and make the result the protocol's transport."""
    if side == "client":
        options = {"server_hostname": "localhost", **options}
    context = getattr(contexts, side)()
    loop = asyncio.get_running_loop()
    new = await loop.start_tls(transport, protocol, context, server_side=side == "server", **options)
    protocol.transport = new
    return new


@contextlib.asynccontextmanager
async def upgraded(contexts, side="client", protocol=Recorder, *, version=None, send_buffer=None, **options):
    """A transport after start_tls, its protocol, the peer."""
    async with transport_and_peer(protocol, send_buffer=send_buffer) as (plain, proto, sock):
        peer = tls_peer(contexts, sock, side, version=version)
        transport, _ = await asyncio.gather(upgrade(contexts, side, plain, proto, **options), peer.handshake())
        try:
            yield transport, proto, peer
        finally:
            transport.abort()
            await settle()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", [Recorder, lambda: BufferedRecorder(1000)], ids=["plain", "buffered"])
async def test_a_conversation(loop, contexts, side, version, kind):
    async with upgraded(contexts, side, kind, version=version) as (transport, protocol, peer):
        # connection_made is not called a second time.
        assert protocol.events == ["made"]
        assert transport.get_protocol() is protocol
        transport.write(b"secret")
        assert await peer.read_exactly(6) == b"secret"
        await peer.write(b"answer")
        assert await protocol.received(6) == b"answer"
        assert transport.get_extra_info("ssl_object").version() == version
        transport.close()
        await peer.unwrap()
        assert await protocol.lost is None
        assert protocol.events[:2] == ["made", "data"] and protocol.events[-1] == "lost"


@pytest.mark.parametrize("side", SIDES)
async def test_large_transfers(loop, contexts, side):
    data = pattern(3 << 20)
    async with upgraded(contexts, side) as (transport, protocol, peer):
        transport.write(data)
        assert await peer.read_exactly(len(data)) == data
        sending = asyncio.create_task(peer.write(data))
        assert await protocol.received(len(data)) == data
        await sending


@pytest.mark.parametrize("side", SIDES)
async def test_what_was_written_before_goes_out_in_the_clear(loop, contexts, side):
    before = pattern(2 << 20)
    async with transport_and_peer(send_buffer=131072) as (plain, protocol, sock):
        plain.set_write_buffer_limits(high=4 << 20)
        plain.write(before)
        assert plain.get_write_buffer_size() > 0
        upgrading = asyncio.create_task(upgrade(contexts, side, plain, protocol))
        assert await read_exactly(sock, len(before)) == before
        peer = tls_peer(contexts, sock, side)
        transport, _ = await asyncio.gather(upgrading, peer.handshake())
        transport.write(b"after")
        assert await peer.read_exactly(5) == b"after"
        transport.abort()


@pytest.mark.loopfast_only("asyncio's TLS stumbles over resume_writing() for what was written before it")
async def test_while_writing_is_paused(loop, contexts):
    async with transport_and_peer(send_buffer=131072) as (plain, protocol, sock):
        plain.write(bytes(2 << 20))
        assert protocol.events == ["made", "pause"]
        upgrading = asyncio.create_task(upgrade(contexts, "client", plain, protocol))
        await read_exactly(sock, 2 << 20)
        peer = tls_peer(contexts, sock, "client")
        transport, _ = await asyncio.gather(upgrading, peer.handshake())
        assert protocol.events == ["made", "pause", "resume"]
        transport.write(b"after")
        assert await peer.read_exactly(5) == b"after"
        transport.abort()


@pytest.mark.loopfast_only("asyncio's TLS stumbles over resume_writing() for what was written before it")
async def test_another_protocol_while_writing_is_paused(loop, contexts):
    """What has never been told to pause is not told to resume."""
    async with transport_and_peer(send_buffer=131072) as (plain, before, sock):
        plain.write(bytes(2 << 20))
        assert before.events == ["made", "pause"]
        after = Recorder()
        upgrading = asyncio.create_task(upgrade(contexts, "client", plain, after))
        await read_exactly(sock, 2 << 20)
        peer = tls_peer(contexts, sock, "client")
        transport, _ = await asyncio.gather(upgrading, peer.handshake())
        transport.write(b"after")
        assert await peer.read_exactly(5) == b"after"
        assert after.events == []
        transport.abort()


@pytest.mark.loopfast_only("asyncio's TLS stumbles over resume_writing() for what was written before it")
async def test_tls_in_tls_while_writing_is_paused(loop, contexts):
    async with tls_and_peer(contexts, send_buffer=131072) as (outer, protocol, peer):
        before = write_until_paused(outer, protocol)
        upgrading = asyncio.create_task(upgrade(contexts, "client", outer, protocol))
        assert await peer.read_exactly(len(before)) == before
        within = TlsPeer(Tunnel(peer), contexts.server(), server_side=True)
        inner, _ = await asyncio.gather(upgrading, within.handshake())
        assert protocol.events == ["made", "pause", "resume"]
        inner.write(b"after")
        assert await within.read_exactly(5) == b"after"
        inner.abort()


@pytest.mark.parametrize("options", [{"wrong": 1}, {"ssl_handshake_timeout": 1, "ssl": 1}])
async def test_keywords_it_does_not_have(loop, contexts, options):
    async with transport_and_peer() as (plain, protocol, _):
        with pytest.raises(TypeError, match=r"start_tls\(\) got an unexpected keyword argument"):
            await loop.start_tls(plain, protocol, contexts.client(), **options)


async def test_a_replaced_class_of_tls_protocols_is_used(loop, contexts, monkeypatch):
    class Replacement(sslproto.SSLProtocol):
        pass

    monkeypatch.setattr(sslproto, "SSLProtocol", Replacement)
    async with upgraded(contexts) as (transport, _, peer):
        assert type(transport._ssl_protocol) is Replacement
        transport.write(b"x")
        assert await peer.read_exactly(1) == b"x"


async def test_both_ways_of_making_tls_give_the_same_kind(loop, contexts):
    async with tls_and_peer(contexts) as (made_so, _, _), upgraded(contexts) as (upgraded_to, _, _):
        assert type(upgraded_to) is type(made_so)
        assert type(upgraded_to._ssl_protocol) is type(made_so._ssl_protocol)
        assert isinstance(upgraded_to._ssl_protocol, sslproto.SSLProtocol)
        assert isinstance(upgraded_to, sslproto._SSLProtocolTransport)


async def test_what_came_before_is_delivered_in_the_clear(loop, contexts):
    async with transport_and_peer() as (plain, protocol, sock):
        sock.send(b"clear")
        assert await protocol.received(5) == b"clear"
        peer = tls_peer(contexts, sock, "client")
        transport, _ = await asyncio.gather(upgrade(contexts, "client", plain, protocol), peer.handshake())
        await peer.write(b" and secret")
        assert await protocol.received(16) == b"clear and secret"
        transport.abort()
        await protocol.lost


@pytest.mark.parametrize("side", SIDES)
async def test_the_peer_speaks_tls_before_we_do(loop, contexts, side):
    """What has come in, but was not read because of pause_reading, belongs to the handshake."""
    async with transport_and_peer() as (plain, protocol, sock):
        plain.pause_reading()
        peer = tls_peer(contexts, sock, side)
        shaking = asyncio.create_task(peer.handshake())
        await settle(20)
        transport, _ = await asyncio.gather(upgrade(contexts, side, plain, protocol), shaking)
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"
        transport.abort()
        await protocol.lost


async def test_streams_on_both_sides(loop, contexts):
    ended = loop.create_future()

    async def serve(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        await writer.start_tls(contexts.server())
        async for line in reader:
            writer.write(line.upper())
        writer.close()
        await writer.wait_closed()
        ended.set_result(None)

    server = await asyncio.start_server(serve, LOCALHOST, 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"STARTTLS\n"
    await writer.start_tls(contexts.client(), server_hostname="localhost")
    assert writer.get_extra_info("cipher") is not None
    for line in (b"one\n", b"two\n"):
        writer.write(line)
        assert await reader.readline() == line.upper()
    writer.close()
    await writer.wait_closed()
    await ended
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("inner", VERSIONS)
@pytest.mark.parametrize("outer", VERSIONS)
async def test_tls_in_tls(loop, contexts, outer, inner):
    data = pattern(1 << 20)
    async with tls_and_peer(contexts, version=outer) as (transport, protocol, peer):
        context = contexts.load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "other")
        context.maximum_version = VERSIONS[inner]
        within = TlsPeer(Tunnel(peer), context, server_side=True)
        client = contexts.client(trusts="other")
        second, _ = await asyncio.gather(
            loop.start_tls(transport, protocol, client, server_hostname="other.example"), within.handshake()
        )
        assert second is not transport
        assert second.get_extra_info("ssl_object").version() == inner
        assert second.get_extra_info("ssl_object").server_hostname == "other.example"
        assert transport.get_extra_info("ssl_object").server_hostname == "localhost"
        assert second.get_extra_info("peername") == transport.get_extra_info("peername") is not None
        await within.write(data)
        assert await protocol.received(len(data)) == data
        second.write(data)
        assert await within.read_exactly(len(data)) == data
        second.abort()
        assert await protocol.lost is None


class Tunnel:
    """The socket of a TLS peer inside another: what goes through it is data of the outer one."""

    def __init__(self, outer):
        self.outer = outer

    def send(self, data):
        self.outer.tls.write(data)
        for piece in iter(lambda: self.outer.outgoing.read(1 << 16), b""):
            while piece:
                try:
                    piece = piece[self.outer.sock.send(piece) :]
                except BlockingIOError:
                    self.read_ahead()
        return len(data)

    def read_ahead(self):
        with contextlib.suppress(BlockingIOError):
            self.outer.incoming.write(self.outer.sock.recv(1 << 16))

    def recv(self, size):
        self.read_ahead()
        try:
            return self.outer.tls.read(size)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None


async def test_tls_in_tls_on_both_ends(loop, contexts):
    made = loop.create_future()

    class Server(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.set_result(self)

    server = await loop.create_server(Server, LOCALHOST, 0, ssl=contexts.server())
    transport, client = await connect(contexts, server.sockets[0].getsockname())
    other = await made
    client_end, server_end = await asyncio.gather(
        upgrade(contexts, "client", transport, client), upgrade(contexts, "server", other.transport, other)
    )
    client_end.write(b"in a tunnel")
    assert await other.received(11) == b"in a tunnel"
    server_end.write(b"indeed")
    assert await client.received(6) == b"indeed"
    client_end.close()
    assert await client.lost is None
    assert await other.lost is None
    assert other.events == ["made", "data", "eof", "lost"]
    server.close()
    await settle()


# ------------------------------------------------------------------------------------------------------------- the ends


@pytest.mark.parametrize("side", SIDES)
async def test_the_end_is_as_of_any_tls_connection(loop, contexts, side):
    async with upgraded(contexts, side) as (transport, protocol, peer):
        await peer.write(b"bye")
        await peer.unwrap()
        assert await protocol.lost is None
        assert protocol.events == ["made", "data", "eof", "lost"]
    async with upgraded(contexts, side, ssl_shutdown_timeout=0.05) as (transport, protocol, peer):
        transport.close()
        assert isinstance(await protocol.lost, TimeoutError)
    async with upgraded(contexts, side) as (transport, protocol, peer):
        peer.sock.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert protocol.events == ["made", "eof", "lost"]


@pytest.mark.parametrize("side", SIDES)
async def test_closing_the_transport_below(loop, contexts, side):
    async with transport_and_peer() as (plain, protocol, sock):
        peer = tls_peer(contexts, sock, side)
        transport, _ = await asyncio.gather(upgrade(contexts, side, plain, protocol), peer.handshake())
        plain.close()
        assert await protocol.lost is None
        assert transport.is_closing()
        assert protocol.events == ["made", "lost"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("method", ["close", "abort"])
async def test_on_a_transport_that_is_closing(loop, contexts, side, method):
    async with transport_and_peer() as (plain, protocol, sock):
        getattr(plain, method)()
        # There is no transport to return.
        assert await upgrade(contexts, side, plain, protocol) is None
        await protocol.lost
        await settle()
        assert protocol.events == ["made", "lost"]
        assert await read_to_end(sock) == b""


@pytest.mark.parametrize("side", SIDES)
async def test_a_silent_peer_runs_into_the_timeout(loop, contexts, side):
    async with transport_and_peer() as (plain, protocol, sock):
        below = plain.get_extra_info("socket")
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer than"):
            await upgrade(contexts, side, plain, protocol, ssl_handshake_timeout=0.05)
        await settle()
        assert plain.is_closing() and below.fileno() == -1
        await read_to_end(sock)


@pytest.mark.parametrize(
    "sent, error", [(b"220 no such thing\r\n" * 5, ssl.SSLError), (b"", ConnectionResetError)], ids=["junk", "end"]
)
@pytest.mark.parametrize("side", SIDES)
async def test_a_peer_that_does_not_play_along(loop, contexts, side, sent, error):
    async with transport_and_peer() as (plain, protocol, sock):
        below = plain.get_extra_info("socket")
        upgrading = asyncio.create_task(upgrade(contexts, side, plain, protocol))
        await settle()
        sock.send(sent) if sent else sock.shutdown(socket.SHUT_WR)
        with pytest.raises(error):
            await upgrading
        await settle()
        assert plain.is_closing() and below.fileno() == -1


async def test_a_wrong_certificate(loop, contexts):
    async with transport_and_peer() as (plain, protocol, sock):
        shaking = asyncio.create_task(tls_peer(contexts, sock, "client").handshake())
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await upgrade(contexts, "client", plain, protocol, server_hostname="wrong.example")
        with contextlib.suppress(OSError):
            await shaking
        assert plain.is_closing()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("turns", [1, 2, 5])
async def test_cancelled(loop, contexts, side, turns):
    async with transport_and_peer() as (plain, protocol, sock):
        below = plain.get_extra_info("socket")
        upgrading = asyncio.create_task(upgrade(contexts, side, plain, protocol))
        await settle(turns)
        upgrading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upgrading
        await settle()
        assert plain.is_closing() and below.fileno() == -1
        await read_to_end(sock)


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("context", [None, True, "context", object()], ids=["None", "True", "str", "object"])
async def test_a_context_is_needed(loop, context):
    async with transport_and_peer() as (plain, protocol, _):
        with pytest.raises(TypeError, match="sslcontext is expected to be an instance of ssl.SSLContext"):
            await loop.start_tls(plain, protocol, context)
        assert not plain.is_closing() and plain.get_protocol() is protocol


async def test_transports_that_cannot(loop, contexts):
    transport, protocol = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (LOCALHOST, 0))
    for wrong in (transport, asyncio.Transport(), None):
        with pytest.raises(TypeError, match=r"is not supported by start_tls\(\)"):
            await loop.start_tls(wrong, protocol, contexts.client())
    transport.close()
    await settle()


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("value", [0, -1])
async def test_timeouts_must_be_positive(loop, contexts, name, value):
    async with transport_and_peer() as (plain, protocol, _):
        with pytest.raises(ValueError, match=f"{name} should be a positive number, got {value}"):
            await upgrade(contexts, "client", plain, protocol, **{name: value})
        assert not plain.is_closing()


async def test_the_plain_transport_can_be_paused_before(loop, contexts):
    async with transport_and_peer() as (plain, protocol, sock):
        plain.pause_reading()
        peer = tls_peer(contexts, sock, "client")
        transport, _ = await asyncio.gather(upgrade(contexts, "client", plain, protocol), peer.handshake())
        assert transport.is_reading()
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"
        transport.abort()
        await protocol.lost


async def test_on_an_accepted_connection_of_a_server(loop, contexts):
    """In data_received the command, in a task the upgrade: how mail servers do it."""

    class Server(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if self.data == b"STARTTLS\r\n":
                self.task = asyncio.ensure_future(self.secure())

        async def secure(self):
            # start_tls() stops reading before the peer can answer this.
            self.transport.write(b"ready\r\n")
            await upgrade(contexts, "server", self.transport, self)
            # What comes with the end of the handshake, data_received() has before start_tls() returns.
            await until(lambda: self.data.endswith(b"HELO"))
            self.transport.write(b"hello")

    async with serving(Server) as (_, address):
        with socket.create_connection(address) as sock:
            sock.setblocking(False)
            sock.send(b"STARTTLS\r\n")
            assert await read_exactly(sock, 7) == b"ready\r\n"
            peer = tls_peer(contexts, sock, "server")
            await peer.handshake()
            await peer.write(b"HELO")
            assert await peer.read_exactly(5) == b"hello"
            await peer.unwrap()
            assert await read_to_end(sock) == b""


async def test_sendfile_after_start_tls(loop, contexts):
    data = pattern(300_000)
    async with upgraded(contexts) as (transport, _, peer):
        reading = asyncio.create_task(peer.read_exactly(len(data)))
        assert await loop.sendfile(transport, io.BytesIO(data)) == len(data)
        assert await reading == data


@pytest.mark.skipif(sys.version_info < (3, 12), reason="wait_closed() waits for connections from Python 3.12")
async def test_the_server_counts_an_upgraded_connection(loop, contexts):
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    async with serving(factory) as (server, address):
        with socket.create_connection(address) as sock:
            sock.setblocking(False)
            peer = tls_peer(contexts, sock, "server")
            await until(lambda: made and made[0].events)
            transport, _ = await asyncio.gather(
                upgrade(contexts, "server", made[0].transport, made[0]), peer.handshake()
            )
            server.close()
            waiting = asyncio.create_task(server.wait_closed())
            await settle()
            assert not waiting.done()
            transport.abort()
            await waiting


async def test_over_a_pair_of_unix_sockets(loop, contexts):
    one, other = socket.socketpair()
    other.setblocking(False)
    plain, protocol = await loop.create_connection(Recorder, sock=one)
    peer = tls_peer(contexts, other, "server")
    with other:
        transport, _ = await asyncio.gather(upgrade(contexts, "server", plain, protocol), peer.handshake())
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"
        transport.abort()
        await protocol.lost

"""The end of a TLS connection: who closes, what the peer sees, the argument of connection_lost, failing callbacks."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import struct
import sys
import weakref

import pytest
from support import Recorder, pattern, read_to_end, run_program, settle, until
from tlssupport import SIDES, VERSIONS, connect, tls_and_peer, tls_pair, tls_server, write_until_paused

METHODS = {
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "is_closing": lambda transport: transport.is_closing(),
    "write": lambda transport: transport.write(b"x"),
    "writelines": lambda transport: transport.writelines([b"x", b"y"]),
    "can_write_eof": lambda transport: transport.can_write_eof(),
    "get_extra_info": lambda transport: [transport.get_extra_info(n) for n in ("socket", "cipher", "ssl_object", "x")],
    "repr": repr,
}


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# ------------------------------------------------------------------------------------------------- who closes, and how


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
async def test_close_says_goodbye_and_waits_for_the_answer(loop, contexts, side, version):
    async with tls_and_peer(contexts, side, version=version) as (transport, protocol, peer):
        transport.write(b"last words")
        transport.close()
        assert transport.is_closing()
        assert await peer.read_to_end() == (b"last words", "close_notify")
        await settle()
        # The peer has not answered yet.
        assert protocol.events == ["made"]
        await peer.close_notify()
        assert await protocol.lost is None
        # eof_received(): the peer has ended its direction too.
        assert protocol.events == ["made", "eof", "lost"]
        assert await read_to_end(peer.sock) == b""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
async def test_the_peer_says_goodbye(loop, contexts, side, version):
    async with tls_and_peer(contexts, side, version=version) as (transport, protocol, peer):
        await peer.write(b"last words")
        await peer.unwrap()
        assert await protocol.lost is None
        assert protocol.events == ["made", "data", "eof", "lost"] and protocol.data == b"last words"
        assert transport.is_closing()
        assert await read_to_end(peer.sock) == b""


@pytest.mark.loopfast_only(
    "asyncio's close() forgets how to write what does not leave at once", when=sys.version_info >= (3, 12)
)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
async def test_the_peer_says_goodbye_while_much_is_unsent(loop, contexts, side, version):
    async with tls_and_peer(contexts, side, version=version, send_buffer=131072) as (transport, protocol, peer):
        data = pattern(1 << 14)
        written = bytearray()
        # In small pieces, as a stream's drain() has it: some queue in the transport below, the rest waits in TLS.
        while "pause" not in protocol.events:
            transport.write(data)
            written += data
            await asyncio.sleep(0)
        await peer.close_notify()
        await until(transport.is_closing)
        received, _ = await peer.read_to_end()
        assert received == written
        assert await protocol.lost is None


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("before", [b"", b"last words"])
async def test_a_bare_fin(loop, contexts, side, before):
    async with tls_and_peer(contexts, side) as (transport, protocol, peer):
        if before:
            await peer.write(before)
        peer.sock.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert protocol.events == (["made", "data", "eof", "lost"] if before else ["made", "eof", "lost"])
        assert protocol.data == before
        assert transport.is_closing()
        assert await peer.read_to_end() == (b"", "eof")


async def test_a_fin_in_the_middle_of_a_record(loop, contexts):
    async with tls_and_peer(contexts) as (_, protocol, peer):
        await peer.write(b"whole")
        peer.tls.write(b"half")
        peer.sock.send(peer.outgoing.read()[:-5])
        peer.sock.shutdown(socket.SHUT_WR)
        await protocol.lost
        assert protocol.data == b"whole" and protocol.events == ["made", "data", "eof", "lost"]


@pytest.mark.parametrize("side", SIDES)
async def test_a_reset(loop, contexts, side):
    async with tls_and_peer(contexts, side) as (transport, protocol, peer):
        reset(peer.sock)
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.events == ["made", "lost"]
        assert transport.is_closing()


@pytest.mark.parametrize("side", SIDES)
async def test_abort(loop, contexts, side):
    async with tls_and_peer(contexts, side) as (transport, protocol, peer):
        await settle()
        transport.abort()
        assert transport.is_closing() and protocol.events == ["made"]
        assert await protocol.lost is None
        assert protocol.events == ["made", "lost"]
        _, ending = await peer.read_to_end()
        assert ending in ("eof", "reset")


async def test_abort_after_close(loop, contexts):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        transport.close()
        await settle()
        assert not protocol.lost.done()
        transport.abort()
        assert await protocol.lost is None
        assert await peer.read_to_end() == (b"", "close_notify")


@pytest.mark.parametrize("side", SIDES)
async def test_a_peer_that_does_not_answer_goodbye(loop, contexts, side):
    async with tls_and_peer(contexts, side, ssl_shutdown_timeout=0.05) as (transport, protocol, peer):
        transport.close()
        error = await protocol.lost
        assert isinstance(error, TimeoutError) and str(error) == "SSL shutdown timed out"
        assert protocol.events == ["made", "lost"]
        assert (await peer.read_to_end())[1] == "close_notify"


async def test_a_peer_that_does_not_read_runs_into_the_shutdown_timeout(loop, contexts):
    async with tls_and_peer(contexts, send_buffer=131072, ssl_shutdown_timeout=0.1) as (transport, protocol, _):
        transport.write(bytes(8_000_000))
        transport.close()
        assert isinstance(await protocol.lost, TimeoutError)


@pytest.mark.parametrize("side", SIDES)
async def test_an_answer_to_goodbye_within_the_timeout(loop, contexts, side):
    async with tls_and_peer(contexts, side, ssl_shutdown_timeout=10) as (transport, protocol, peer):
        transport.close()
        await peer.unwrap()
        assert await protocol.lost is None


async def test_data_after_our_goodbye(loop, contexts):
    """The peer was still sending: that data has nowhere to go."""
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        transport.close()
        await peer.write(b"too late")
        assert isinstance(await protocol.lost, ssl.SSLError)
        assert protocol.events == ["made", "lost"] and protocol.data == b""


async def test_data_that_is_there_at_close_is_delivered(loop, contexts):
    class Closing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if len(self.data) == len(data):
                self.transport.close()

    async with tls_and_peer(contexts, protocol=Closing) as (_, protocol, peer):
        await peer.write(b"one")
        await peer.unwrap()
        assert await protocol.lost is None
        assert protocol.data == b"one"


@pytest.mark.parametrize("version", VERSIONS)
async def test_everything_written_arrives_before_the_end(loop, contexts, version):
    data = pattern(5_000_000)
    async with tls_and_peer(contexts, "server", version=version, send_buffer=131072) as (transport, protocol, peer):
        transport.write(data[:1_000_000])
        await settle()
        transport.write(data[1_000_000:])
        transport.close()
        assert await peer.read_to_end() == (data, "close_notify")
        await peer.close_notify()
        assert await protocol.lost is None


async def test_both_ends_close_at_once(loop, contexts):
    async with tls_pair(contexts) as (client, server):
        client.transport.close()
        server.transport.close()
        assert await client.lost is None
        assert await server.lost is None


async def test_eof_received_cannot_keep_it_open(loop, contexts, caplog):
    class KeepingOpen(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    async with tls_and_peer(contexts, protocol=KeepingOpen) as (_, protocol, peer):
        with caplog.at_level(logging.WARNING, "asyncio"):
            await peer.unwrap()
            assert await protocol.lost is None
        assert protocol.events == ["made", "eof", "lost"]
        assert "returning true from eof_received() has no effect when using ssl" in caplog.text


async def test_there_is_no_half_close(loop, contexts):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        assert transport.can_write_eof() is False
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        assert not transport.is_closing()
        transport.write(b"x")
        assert await peer.read_exactly(1) == b"x"
        await peer.write(b"y")
        assert await protocol.received(1) == b"y"


@pytest.mark.parametrize("side", SIDES)
async def test_the_goodbye_waits_for_reading_to_resume(loop, contexts, side):
    async with tls_and_peer(contexts, side) as (transport, protocol, peer):
        transport.pause_reading()
        await peer.write(b"kept")
        await peer.close_notify()
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: transport.get_read_buffer_size() > 0)
        await settle()
        assert protocol.events == ["made"]
        transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.events == ["made", "data", "eof", "lost"] and protocol.data == b"kept"


async def test_a_bare_fin_waits_for_reading_to_resume(loop, contexts):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        transport.pause_reading()
        await peer.write(b"kept")
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: transport.get_read_buffer_size() > 0)
        await asyncio.sleep(0.05)
        assert protocol.events == ["made"]
        transport.resume_reading()
        await until(lambda: protocol.data)
        assert protocol.data == b"kept"
        transport.close()
        await protocol.eof


# --------------------------------------------------------------------------------------- methods at and after the end


@pytest.mark.parametrize("ending", ["close", "abort", "peer closes", "peer resets"])
@pytest.mark.parametrize("method", METHODS)
async def test_every_method_after_the_end(loop, contexts, method, ending):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        match ending:
            case "peer closes":
                await peer.unwrap()
            case "peer resets":
                reset(peer.sock)
            case _:
                getattr(transport, ending)()
                METHODS[method](transport)
                if ending == "close" and method != "abort":
                    await peer.unwrap()
        await protocol.lost
        for _ in range(2):
            METHODS[method](transport)
            await settle()
        assert protocol.events[-1] == "lost" and protocol.events.count("lost") == 1
        assert transport.is_closing()


@pytest.mark.parametrize("method", ["write", "writelines"])
async def test_writes_after_the_end_warn_at_last(loop, contexts, method, caplog):
    async with tls_and_peer(contexts) as (transport, protocol, _):
        transport.abort()
        await protocol.lost
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(3):
                METHODS[method](transport)
            assert caplog.text == ""
            for _ in range(4):
                METHODS[method](transport)
        assert "SSL connection is closed" in caplog.text


async def test_data_written_after_close_is_not_sent(loop, contexts):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        transport.write(b"before")
        transport.close()
        transport.write(b"after")
        transport.writelines([b"long", b"after"])
        assert await peer.read_to_end() == (b"before", "close_notify")
        await peer.close_notify()
        await protocol.lost


@pytest.mark.parametrize("side", SIDES)
async def test_close_in_connection_made(loop, contexts, side):
    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"bye")
            transport.close()

    async with tls_and_peer(contexts, side, Closing) as (transport, protocol, peer):
        assert transport.is_closing()
        assert await peer.read_to_end() == (b"bye", "close_notify")
        await peer.close_notify()
        assert await protocol.lost is None
        assert protocol.events[0] == "made" and protocol.events[-1] == "lost"


@pytest.mark.parametrize("method", ["abort", "close"])
async def test_ending_in_data_received(loop, contexts, method):
    class Ending(Recorder):
        def data_received(self, data):
            super().data_received(data)
            getattr(self.transport, method)()

    async with tls_and_peer(contexts, protocol=Ending, ssl_shutdown_timeout=0.1) as (_, protocol, peer):
        for _ in range(3):
            await peer.write(b"x" * 20_000)
        await protocol.lost
        assert protocol.events == ["made", "data", "lost"]
        # abort() in data_received() is the last of it.
        assert method == "close" or len(protocol.data) <= 60_000


async def test_nothing_is_kept_of_a_closed_connection(loop, contexts):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        alive = [weakref.ref(item) for item in (protocol, transport)]
        transport.close()
        await peer.unwrap()
        await protocol.lost
        await settle()
        assert sock.fileno() == -1
        protocol.transport = None
    del transport, protocol, peer, sock
    await settle()
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_a_dropped_open_transport_warns(loop_kind, certificate_files):
    out = run_program(
        loop_kind,
        f"""
        import ssl
        folder = {str(certificate_files)!r}
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(folder + "/cert.pem", folder + "/key.pem")
        client = ssl.create_default_context(cafile=folder + "/cert.pem")

        async def main():
            loop = asyncio.get_running_loop()
            one, other = socket.socketpair()
            ends = await asyncio.gather(
                loop.create_connection(asyncio.Protocol, sock=one, ssl=client, server_hostname="localhost"),
                loop.connect_accepted_socket(asyncio.Protocol, other, ssl=server),
            )
            (mine, _), (theirs, _) = ends
            return mine, theirs

        loop = new_event_loop()
        transports = loop.run_until_complete(main())
        loop.close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del transports
            gc.collect()
        words = "unclosed transport <asyncio._SSLProtocolTransport"
        print(sum(w.category is ResourceWarning and str(w.message).startswith(words) for w in caught))
        """,
    )
    assert out.split() == ["2"]


# --------------------------------------------------------------------------------------------------- failing callbacks


class Failure(Exception):
    pass


FAILING = {
    "data_received": "Fatal error on SSL protocol",
    "eof_received": "Error calling eof_received()",
}


def failing(method, error=Failure):
    class Failing(Recorder):
        pass

    def fail(self, *args):
        getattr(Recorder, method)(self, *args)
        raise error

    setattr(Failing, method, fail)
    return Failing


@pytest.mark.parametrize("method", FAILING)
async def test_a_callback_that_raises_ends_the_connection(loop, contexts, reports, method):
    async with tls_and_peer(contexts, protocol=failing(method)) as (transport, protocol, peer):
        await peer.write(b"x")
        if method == "eof_received":
            await peer.close_notify()
        assert isinstance(await protocol.lost, Failure)
        context = reports.take()
        assert context["message"] == FAILING[method]
        assert isinstance(context["exception"], Failure)
        assert "transport" in context and "protocol" in context
        assert transport.is_closing()
        assert protocol.events[-1] == "lost"


async def test_an_os_error_of_a_callback_ends_the_connection_without_a_report(loop, contexts, reports):
    async with tls_and_peer(contexts, protocol=failing("data_received", OSError)) as (_, protocol, peer):
        await peer.write(b"x")
        assert isinstance(await protocol.lost, OSError)


async def test_connection_made_raises_in_a_client(loop, contexts, reports):
    # The other one: that the peer's handshake was cut off, if the test hears of that first.
    with pytest.raises((Failure, ssl.SSLEOFError)):
        async with tls_and_peer(contexts, protocol=failing("connection_made")):
            pass
    await until(lambda: reports)
    context = reports.take()
    assert isinstance(context["exception"], Failure)


async def test_connection_made_raises_in_a_server(loop, contexts, reports):
    made = []

    def factory():
        made.append(failing("connection_made")())
        return made[-1]

    async with tls_server(contexts, factory) as (_, address):
        _, protocol = await connect(contexts, address)
        await protocol.lost
        await until(lambda: reports)
        assert isinstance(reports.take()["exception"], Failure)
        assert isinstance(await made[0].lost, Failure)


async def test_connection_lost_raises(loop, contexts, reports):
    async with tls_and_peer(contexts, protocol=failing("connection_lost")) as (transport, protocol, _):
        transport.abort()
        await protocol.lost
        await settle()
        assert isinstance(reports.take()["exception"], Failure)
        assert transport.get_extra_info("socket") is None or transport.get_extra_info("socket").fileno() == -1


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
async def test_flow_control_that_raises_does_not_end_the_connection(loop, contexts, reports, method):
    async with tls_and_peer(contexts, protocol=failing(method), send_buffer=131072) as (transport, protocol, peer):
        data = write_until_paused(transport, protocol)
        assert await peer.read_exactly(len(data)) == data
        await until(lambda: "resume" in protocol.events)
        context = reports.take()
        assert context["message"] == f"protocol.{method}() failed"
        assert isinstance(context["exception"], Failure)
        transport.write(b"still here")
        assert await peer.read_exactly(10) == b"still here"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_data_received_leaves_the_loop(loop, contexts, error):
    async def main():
        async with tls_pair(contexts, server=failing("data_received", error)) as (client, _):
            client.transport.write(b"x")
            await loop.create_future()

    with pytest.raises(error):
        loop.run_until_complete(main())


# ------------------------------------------------------------------------------------------------------------- servers


@pytest.mark.skipif(sys.version_info < (3, 13), reason="close_clients() came with Python 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_a_server_ends_its_connections(loop, contexts, method):
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    async with tls_server(contexts, factory) as (server, address):
        _, protocol = await connect(contexts, address)
        await until(lambda: made and made[0].events)
        server.close()
        getattr(server, method)()
        await protocol.lost
        await made[0].lost
        await server.wait_closed()
        assert made[0].transport.is_closing()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="wait_closed() waits for connections from Python 3.12")
async def test_wait_closed_waits_for_tls_connections(loop, contexts):
    async with tls_server(contexts, Recorder) as (server, address):
        transport, protocol = await connect(contexts, address)
        server.close()
        waiting = asyncio.create_task(server.wait_closed())
        await settle()
        assert not waiting.done()
        transport.close()
        await protocol.lost
        await waiting


async def test_is_closing_from_the_first_sign_of_the_end(loop, contexts):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        assert transport.is_closing() is False
        await peer.close_notify()
        await protocol.eof
        assert transport.is_closing() is True
        await protocol.lost

"""The TLS handshake: who it accepts, how it fails, names and protocols it agrees on, and the keywords' checks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import sys

import pytest
from support import LOCALHOST, Echo, Recorder, read_to_end, settle, tcp_pair, until
from tlssupport import SIDES, VERSIONS, TlsPeer, connect, open_tls, tls_and_peer, tls_pair, tls_peer, tls_server


class Never(asyncio.Protocol):
    """The protocol of a connection whose handshake fails: nothing of it may be called."""

    def __init__(self):
        self.calls = []

    def connection_made(self, transport):
        self.calls.append("made")

    def connection_lost(self, exc):
        self.calls.append("lost")


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# ------------------------------------------------------------------------------------------------------ blocking peers


def blocking_client(contexts, address, version):
    with (
        socket.create_connection(address, timeout=10) as sock,
        contexts.client(version=version).wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"question")
        answer = tls.recv(100)
        while len(answer) < 8:
            answer += tls.recv(100)
        version = tls.version()
        tls.unwrap().close()
        return answer, version


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_blocking_client(loop, contexts, version):
    async with tls_server(contexts, Echo) as (_, address):
        assert await asyncio.to_thread(blocking_client, contexts, address, version) == (b"question", version)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_blocking_server(loop, contexts, version):
    mine, peer = tcp_pair()
    peer.setblocking(True)
    peer.settimeout(10)

    def serve():
        with contexts.server(version=version).wrap_socket(peer, server_side=True) as tls:
            tls.sendall(tls.recv(100).upper())
            # The client's close_notify, then its end of stream.
            return tls.recv(100)

    serving = asyncio.create_task(asyncio.to_thread(serve))
    reader, writer = await asyncio.open_connection(sock=mine, ssl=contexts.client(), server_hostname="localhost")
    writer.write(b"question")
    assert await reader.readexactly(8) == b"QUESTION"
    assert writer.get_extra_info("ssl_object").version() == version
    writer.close()
    assert await serving == b""
    with contextlib.suppress(ConnectionResetError):
        # The server ends without an answer to close_notify.
        await writer.wait_closed()


async def test_both_ends_are_streams(loop, contexts):
    async def serve(reader, writer):
        async for line in reader:
            writer.write(line[::-1])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, LOCALHOST, 0, ssl=contexts.server())
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(
        "localhost", address[1], ssl=contexts.client(), family=socket.AF_INET
    )
    for _ in range(3):
        writer.write(b"abc\n")
        assert await reader.readexactly(4) == b"\ncba"
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    server.close()
    await server.wait_closed()


async def test_over_a_unix_socket(loop, contexts, tmp_path):
    path = str(tmp_path / "socket")
    server = await loop.create_unix_server(Echo, path, ssl=contexts.server())
    transport, protocol = await loop.create_unix_connection(
        Recorder, path, ssl=contexts.client(), server_hostname="localhost"
    )
    transport.write(b"hello")
    assert await protocol.received(5) == b"hello"
    assert transport.get_extra_info("peername") == path
    transport.close()
    assert await protocol.lost is None
    server.close()
    await settle()


# ------------------------------------------------------------------------------------------------- handshakes that fail


@pytest.mark.parametrize("side", SIDES)
async def test_a_silent_peer_runs_into_the_timeout(loop, contexts, side):
    mine, peer = tcp_pair()
    protocol = Never()
    with peer:
        with pytest.raises(ConnectionAbortedError, match=r"handshake is taking longer than 0\.05 seconds"):
            await open_tls(contexts, side, mine, lambda: protocol, ssl_handshake_timeout=0.05)
        await settle()
        assert mine.fileno() == -1
        assert protocol.calls == []


async def test_the_handshake_timeout_of_a_server_closes_only_that_connection(loop, contexts):
    made = []

    class Server(Echo):
        def connection_made(self, transport):
            made.append(transport)
            super().connection_made(transport)

    async with tls_server(contexts, Server, ssl_handshake_timeout=0.5) as (_, address):
        with socket.create_connection(address) as silent:
            silent.setblocking(False)
            transport, protocol = await connect(contexts, address)
            assert await read_to_end(silent) == b""
            transport.write(b"still here")
            assert await protocol.received(10) == b"still here"
            transport.close()
            await protocol.lost
        assert len(made) == 1


async def test_a_handshake_within_the_timeout_outlives_it(loop, contexts):
    async with tls_and_peer(contexts, ssl_handshake_timeout=0.5) as (transport, protocol, peer):
        await asyncio.sleep(0.55)
        assert not transport.is_closing()
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"


FAILURES = {
    "junk": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", ssl.SSLError),
    "a record of unknown type": (b"\xff" * 600, ssl.SSLError),
    "end at once": (b"", ConnectionResetError),
    "truncated": (b"\x16\x03\x01\x02\x00\x01\x00", ConnectionResetError),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("failure", FAILURES)
async def test_what_is_no_handshake(loop, contexts, side, failure):
    sent, error = FAILURES[failure]
    mine, peer = tcp_pair()
    protocol = Never()
    with peer:
        peer.send(sent)
        if error is ConnectionResetError:
            peer.shutdown(socket.SHUT_WR)
        with pytest.raises(error):
            await open_tls(contexts, side, mine, lambda: protocol)
        await settle()
        assert mine.fileno() == -1
    assert protocol.calls == []


@pytest.mark.parametrize("side", SIDES)
async def test_a_reset_in_the_handshake(loop, contexts, side):
    mine, peer = tcp_pair()
    protocol = Never()
    opening = asyncio.create_task(open_tls(contexts, side, mine, lambda: protocol))
    await settle()
    reset(peer)
    with pytest.raises(ConnectionResetError):
        await opening
    assert protocol.calls == []


@pytest.mark.parametrize("failure", [*FAILURES, "reset"])
async def test_a_server_survives_connections_that_are_no_tls(loop, contexts, failure):
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    async with tls_server(contexts, factory) as (_, address):
        with socket.create_connection(address) as bad:
            bad.setblocking(False)
            if failure == "reset":
                await settle()
                reset(bad)
            else:
                bad.send(FAILURES[failure][0])
                bad.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    await read_to_end(bad)
        transport, protocol = await connect(contexts, address)
        transport.write(b"x")
        await until(lambda: len(made) == 2 and made[1].data)
        assert made[0].events == []
        transport.abort()
        await made[1].lost


async def test_a_failed_handshake_is_reported_in_debug_mode(loop, contexts, reports):
    loop.set_debug(True)
    async with tls_server(contexts, Never) as (_, address):
        with socket.create_connection(address) as bad:
            bad.setblocking(False)
            bad.send(FAILURES["junk"][0])
            await until(lambda: reports)
            context = reports.take()
    assert context["message"] == "Error on transport creation for incoming connection"
    assert isinstance(context["exception"], ssl.SSLError)
    assert isinstance(context["protocol"], Never)
    assert type(context["transport"]).__name__ == "_SSLProtocolTransport"


@pytest.mark.parametrize("side", SIDES)
async def test_cancelled_in_the_handshake(loop, contexts, side):
    mine, peer = tcp_pair()
    protocol = Never()
    opening = asyncio.create_task(open_tls(contexts, side, mine, lambda: protocol))
    with peer:
        await settle()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await settle()
        assert mine.fileno() == -1
        await read_to_end(peer)
    assert protocol.calls == []


async def test_closing_the_server_during_a_handshake(loop, contexts):
    async with tls_server(contexts, Recorder) as (server, address):
        with socket.create_connection(address) as sock:
            sock.setblocking(False)
            peer = tls_peer(contexts, sock, "server")
            await settle()
            server.close()
            # The connection was accepted: it goes on.
            await peer.handshake()
            assert peer.tls.version() == "TLSv1.3"


# ---------------------------------------------------------------------------------------------- certificates and names


@pytest.mark.parametrize(
    "trusts, name, words",
    [
        ("other", "localhost", "self[- ]signed certificate"),
        ("localhost", "wrong.example", "Hostname mismatch"),
        ("localhost", "127.0.0.2", "IP address mismatch"),
    ],
)
async def test_a_certificate_that_is_refused(loop, contexts, trusts, name, words):
    mine, sock = tcp_pair()
    protocol = Never()
    peer = tls_peer(contexts, sock, "client")
    with sock:
        served = asyncio.create_task(peer.handshake())
        with pytest.raises(ssl.SSLCertVerificationError, match=words) as info:
            await open_tls(
                contexts,
                "client",
                mine,
                lambda: protocol,
                ssl=contexts.client(trusts=trusts),
                server_hostname=name,
            )
        assert isinstance(info.value, ssl.CertificateError) and isinstance(info.value, OSError)
        assert info.value.reason == "CERTIFICATE_VERIFY_FAILED" and info.value.verify_code
        with contextlib.suppress(OSError):
            await served
    assert protocol.calls == []


async def test_the_default_context_does_not_trust_an_unknown_certificate(loop, contexts):
    async with tls_server(contexts, Recorder) as (_, address):
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(contexts, address, ssl=True)


@pytest.mark.parametrize("host", ["localhost", LOCALHOST])
async def test_the_host_is_the_name_to_check(loop, contexts, host):
    async with tls_server(contexts, Echo) as (_, address):
        transport, protocol = await loop.create_connection(
            Recorder, host, address[1], ssl=contexts.client(), family=socket.AF_INET
        )
        assert transport.get_extra_info("ssl_object").server_hostname == host
        transport.close()
        await protocol.lost


async def test_an_empty_name_is_not_checked(loop, contexts):
    context = contexts.client()
    context.check_hostname = False
    async with tls_and_peer(contexts, ssl=context, server_hostname="") as (transport, _, peer):
        assert transport.get_extra_info("ssl_object").server_hostname is None
        assert peer.tls.version() == "TLSv1.3"


async def test_an_empty_name_that_the_context_would_check(loop, contexts):
    context = contexts.client()
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    except ValueError:
        # Newer ssl modules refuse it.
        mine, peer = tcp_pair()
        with mine, peer, pytest.raises(ValueError, match="check_hostname requires server_hostname"):
            await open_tls(contexts, "client", mine, Never, server_hostname="")
    else:
        async with tls_and_peer(contexts, server_hostname="") as (transport, _, _peer):
            assert transport.get_extra_info("ssl_object").server_hostname is None


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_certificate(loop, contexts, version):
    client = contexts.load_chain(contexts.client(version=version), "other")
    made = loop.create_future()

    class Server(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.set_result(transport)

    async with tls_server(contexts, Server, ssl=contexts.server(clients="other")) as (_, address):
        transport, protocol = await connect(contexts, address, ssl=client)
        transport.write(b"x")
        assert await protocol.received(1) == b"x"
        subject = dict(pair for (pair,) in (await made).get_extra_info("peercert")["subject"])
        assert subject["commonName"] == "other.example"
        transport.close()
        await protocol.lost


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("presents", [None, "localhost"])
async def test_a_client_certificate_that_is_missing_or_refused(loop, contexts, version, presents):
    client = contexts.client(version=version)
    if presents is not None:
        contexts.load_chain(client, presents)
    mine, sock = tcp_pair()
    peer = TlsPeer(sock, client, server_hostname="localhost")
    protocol = Never()
    context = contexts.server(version=version, clients="other")
    opening = asyncio.create_task(open_tls(contexts, "server", mine, lambda: protocol, ssl=context))
    with sock, contextlib.suppress(ssl.SSLError, ConnectionError):
        await peer.handshake()
        # A client of TLS 1.3 is done before the server has looked.
        await peer.read_to_end()
    error = ssl.SSLCertVerificationError if presents else ssl.SSLError
    with pytest.raises(error, match=None if presents else "(?i)peer did not return a certificate"):
        await opening
    assert protocol.calls == []


async def test_an_alert_after_the_handshake_of_a_client(loop, contexts):
    """With TLS 1.3 a server refuses the client's certificate when the client has long been connected."""
    mine, sock = tcp_pair()
    peer = TlsPeer(sock, contexts.server(clients="other"), server_side=True)
    with sock:
        opening = asyncio.create_task(open_tls(contexts, "client", mine, Recorder))
        with pytest.raises(ssl.SSLError):
            await peer.handshake()
        await peer.flush()
        _, protocol = await opening
        assert isinstance(await protocol.lost, ssl.SSLError)
        assert protocol.events == ["made", "lost"]


@pytest.mark.parametrize("name", ["localhost", "other.example", LOCALHOST])
async def test_sni_callback(loop, contexts, name):
    asked = []
    server, other = contexts.server(), contexts.server("other")

    def choose(tls, asked_for, context):
        asked.append((asked_for, context is server))
        if asked_for == "other.example":
            tls.context = other

    server.sni_callback = choose
    client = contexts.client()
    client.load_verify_locations(contexts.certificate("other"))
    async with tls_server(contexts, Echo, ssl=server) as (_, address):
        transport, protocol = await connect(contexts, address, ssl=client, server_hostname=name)
        subject = dict(pair for (pair,) in transport.get_extra_info("peercert")["subject"])
        assert subject["commonName"] == ("other.example" if name == "other.example" else "localhost")
        # An address is no name to be asked for.
        assert asked == [(None if name == LOCALHOST else name, True)]
        transport.close()
        await protocol.lost


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("outcome", ["raises", "alert", "returns nonsense"])
async def test_an_sni_callback_that_refuses(loop, contexts, outcome):
    def refuse(tls, name, context):
        if outcome == "raises":
            raise ZeroDivisionError
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if outcome == "alert" else "nonsense"

    server = contexts.server()
    server.sni_callback = refuse
    mine, sock = tcp_pair()
    protocol = Never()
    opening = asyncio.create_task(open_tls(contexts, "server", mine, lambda: protocol, ssl=server))
    with sock:
        with contextlib.suppress(OSError):
            await tls_peer(contexts, sock, "server").handshake()
        with pytest.raises(ssl.SSLError):
            await opening
    assert protocol.calls == []


@pytest.mark.parametrize(
    "offered, known, agreed",
    [
        (["h2", "http/1.1"], ["http/1.1", "h2"], "http/1.1"),
        (["h2"], ["h2"], "h2"),
        (["h2"], None, None),
        (None, ["h2"], None),
    ],
)
async def test_alpn(loop, contexts, offered, known, agreed):
    client, server = contexts.client(), contexts.server()
    if offered:
        client.set_alpn_protocols(offered)
    if known:
        server.set_alpn_protocols(known)
    one, other = tcp_pair()
    (mine, protocol), (theirs, _) = await asyncio.gather(
        open_tls(contexts, "client", one, Recorder, ssl=client),
        open_tls(contexts, "server", other, Recorder, ssl=server),
    )
    for transport in (mine, theirs):
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == agreed
    theirs.close()
    await protocol.lost
    await settle()


@pytest.mark.parametrize("side", SIDES)
async def test_no_version_in_common(loop, contexts, side):
    mine, sock = tcp_pair()
    protocol = Never()
    peer = tls_peer(contexts, sock, side, version="TLSv1.2")
    context = getattr(contexts, side)(version="TLSv1.3")
    opening = asyncio.create_task(open_tls(contexts, side, mine, lambda: protocol, ssl=context))
    with sock:
        with contextlib.suppress(OSError):
            await peer.handshake()
        await peer.flush()
        with pytest.raises(ssl.SSLError, match="(?i)protocol"):
            await opening
    assert protocol.calls == []


# ------------------------------------------------------------------------------------------------------------- keywords


@pytest.mark.parametrize(
    "options, words",
    [
        ({"server_hostname": "x"}, "server_hostname is only meaningful with ssl"),
        ({"ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"ssl_shutdown_timeout": 1}, "ssl_shutdown_timeout is only meaningful with ssl"),
        ({"ssl": True}, "You must set server_hostname when using ssl without a host"),
        (
            {"ssl": True, "server_hostname": "x", "ssl_handshake_timeout": 0},
            "ssl_handshake_timeout should be a positive",
        ),
        ({"ssl": True, "server_hostname": "x", "ssl_handshake_timeout": -1}, "ssl_handshake_timeout should be a posit"),
        ({"ssl": True, "server_hostname": "x", "ssl_shutdown_timeout": 0}, "ssl_shutdown_timeout should be a positive"),
        ({"ssl": True, "server_hostname": "x", "ssl_shutdown_timeout": -1}, "ssl_shutdown_timeout should be a positi"),
    ],
)
async def test_keywords_that_create_connection_refuses(loop, options, words):
    mine, peer = tcp_pair()
    with mine, peer, pytest.raises(ValueError, match=words):
        await loop.create_connection(Never, sock=mine, **options)


@pytest.mark.parametrize("options", [{"ssl_handshake_timeout": 1}, {"ssl_shutdown_timeout": 1}])
async def test_timeouts_without_ssl_that_servers_refuse(loop, options, tmp_path):
    (name,) = options
    words = f"{name} is only meaningful with ssl"
    with pytest.raises(ValueError, match=words):
        await loop.create_server(Never, LOCALHOST, 0, **options)
    with pytest.raises(ValueError, match=words):
        await loop.create_unix_server(Never, tmp_path / "socket", **options)
    with pytest.raises(ValueError, match=words):
        await loop.create_unix_connection(Never, tmp_path / "socket", **options)
    mine, peer = tcp_pair()
    with mine, peer, pytest.raises(ValueError, match=words):
        await loop.connect_accepted_socket(Never, mine, **options)


async def test_types_of_the_ssl_keyword(loop, contexts):
    with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
        await loop.create_server(Never, LOCALHOST, 0, ssl=True)
    mine, peer = tcp_pair()
    with mine, peer:
        with pytest.raises(ValueError, match="Server side SSL needs a valid SSLContext"):
            await loop.connect_accepted_socket(Never, mine, ssl=True)
        assert mine.fileno() == -1 or sys.version_info < (3, 15)
    for wrong, error in (("context", AttributeError), (object(), AttributeError)):
        mine, peer = tcp_pair()
        with mine, peer, pytest.raises(error):
            await loop.create_connection(Never, sock=mine, ssl=wrong, server_hostname="localhost")


@pytest.mark.parametrize("name, error", [(7, AttributeError), ("nul\0inside", TypeError), (".localhost", ValueError)])
async def test_names_of_wrong_type_or_form(loop, contexts, name, error):
    mine, peer = tcp_pair()
    with mine, peer, pytest.raises(error):
        await open_tls(contexts, "client", mine, Never, server_hostname=name)


@pytest.mark.parametrize("kind", ["create_connection", "connect_accepted_socket", "create_server"])
async def test_sockets_that_are_tls_already_are_refused(loop, contexts, kind):
    mine, peer = tcp_pair()
    context = contexts.client()
    wrapped = context.wrap_socket(mine, server_hostname="localhost", do_handshake_on_connect=False)
    with wrapped, peer, pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
        if kind == "create_connection":
            await loop.create_connection(Never, sock=wrapped)
        elif kind == "connect_accepted_socket":
            await loop.connect_accepted_socket(Never, wrapped)
        else:
            await loop.create_server(Never, sock=wrapped)


async def test_a_pair_of_both_ends_in_one_loop(loop, contexts):
    async with tls_pair(contexts) as (client, server):
        client.transport.write(b"ping")
        assert await server.received(4) == b"ping"
        server.transport.write(b"pong")
        assert await client.received(4) == b"pong"

"""What a TLS transport tells of itself, sendfile, TLS 1.3's messages after the handshake, contexts of variables."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile

import pytest
from support import LOCALHOST, BufferedRecorder, Echo, Recorder, pattern, run_program, settle, tcp_pair, until
from tlssupport import SIDES, VERSIONS, TlsPeer, connect, open_tls, tls_and_peer, tls_pair, tls_server

# ---------------------------------------------------------------------------------------------------------- extra info


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
async def test_extra_info(loop, contexts, side, version):
    context = getattr(contexts, side)(version=version)
    async with tls_and_peer(contexts, side, ssl=context) as (transport, _, peer):
        info = transport.get_extra_info
        assert info("sslcontext") is context
        tls = info("ssl_object")
        assert isinstance(tls, ssl.SSLObject) and tls.version() == version
        assert tls.context is context and tls.server_side is (side == "server")
        assert info("cipher") == tls.cipher() == peer.tls.cipher()
        assert info("compression") is None
        if side == "client":
            subject = dict(pair for (pair,) in info("peercert")["subject"])
            assert subject == {"organizationName": "localhost", "commonName": "localhost"}
            assert info("peercert") == tls.getpeercert()
        else:
            assert info("peercert") is None
        assert info("peername") == peer.sock.getsockname()
        assert info("sockname") == peer.sock.getpeername()
        sock = info("socket")
        assert type(sock).__name__ == "TransportSocket" and sock.fileno() >= 0
        assert sock.family == socket.AF_INET and sock.getpeername() == peer.sock.getsockname()
        assert info("nothing") is None and info("nothing", 5) == 5


async def test_extra_info_in_connection_made(loop, contexts):
    seen = []

    class Looking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            names = ("peercert", "cipher", "ssl_object", "sslcontext", "socket", "peername", "sockname")
            seen.append([transport.get_extra_info(name) is not None for name in names])

    async with tls_and_peer(contexts, protocol=Looking):
        assert seen == [[True] * 7]


async def test_the_channel_binding_of_both_ends(loop, contexts):
    async with tls_and_peer(contexts, version="TLSv1.2") as (transport, _, peer):
        binding = transport.get_extra_info("ssl_object").get_channel_binding("tls-unique")
        assert binding and binding == peer.tls.get_channel_binding("tls-unique")


async def test_what_kind_of_object_it_is(loop, contexts):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        assert isinstance(transport, asyncio.Transport)
        assert type(transport).__name__ == "_SSLProtocolTransport"
        assert "_SSLProtocolTransport" in repr(transport)
        # Test suites of frameworks do both.
        transport.note = "kept"
        assert transport.note == "kept"
        written = []
        transport.write = written.append
        transport.write(b"x")
        assert written == [b"x"]
        del transport.write
        transport.write(b"y")
        assert await peer.read_exactly(1) == b"y"
        assert protocol.events == ["made"]


async def test_each_connection_of_a_server_has_its_own_transport(loop, contexts):
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    async with tls_server(contexts, factory) as (_, address):
        clients = await asyncio.gather(*(connect(contexts, address) for _ in range(10)))
        await until(lambda: len(made) == 10 and all(protocol.events for protocol in made))
        for number, (transport, _) in enumerate(clients):
            transport.write(b"%d" % number)
        names = {transport.get_extra_info("sockname"): b"%d" % number for number, (transport, _) in enumerate(clients)}
        for protocol in made:
            assert await protocol.received(1) == names[protocol.transport.get_extra_info("peername")]
            protocol.transport.close()
        for _, protocol in clients:
            assert await protocol.lost is None
        for protocol in made:
            assert await protocol.lost is None


async def test_the_protocols_of_a_context_variable(loop, contexts):
    """The callbacks of a client see the variables of the task that opened it."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Looking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(variable.get())

        def data_received(self, data):
            super().data_received(data)
            seen.append(variable.get())

    variable.set("outer")
    async with tls_and_peer(contexts, protocol=Looking) as (_, protocol, peer):
        await peer.write(b"x")
        await protocol.received(1)
        assert seen == ["outer", "outer"]


def test_debug_mode_logs_the_handshake(loop_kind, certificate_files):
    out = run_program(
        loop_kind,
        f"""
        import logging, ssl
        logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(message)s")
        folder = {str(certificate_files)!r}
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(folder + "/cert.pem", folder + "/key.pem")
        client = ssl.create_default_context(cafile=folder + "/cert.pem")

        async def main():
            loop = asyncio.get_running_loop()
            one, other = socket.socketpair()
            (mine, _), (theirs, _) = await asyncio.gather(
                loop.create_connection(asyncio.Protocol, sock=one, ssl=client, server_hostname="localhost"),
                loop.connect_accepted_socket(asyncio.Protocol, other, ssl=server),
            )
            mine.close()
            await asyncio.sleep(0.05)

        run(main(), debug=True)
        """,
    )
    assert out.count("starts SSL handshake") == 2
    assert out.count("SSL handshake took") == 2


# ------------------------------------------------------------------------------------------------------------ sendfile


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_sendfile(loop, contexts, kind, version):
    data = pattern(1_000_000)
    async with tls_and_peer(contexts, version=version) as (transport, protocol, peer):
        with tempfile.TemporaryFile() if kind == "file" else io.BytesIO() as file:
            file.write(data)
            file.flush()
            file.seek(0)
            transport.write(b"head")
            reading = asyncio.create_task(peer.read_exactly(4 + len(data) + 1000 + 4))
            assert await loop.sendfile(transport, file) == len(data)
            assert file.tell() == len(data)
            assert await loop.sendfile(transport, file, 1000, 1000) == 1000
            assert file.tell() == 2000
            transport.write(b"tail")
            assert await reading == b"head" + data + data[1000:2000] + b"tail"
        assert transport.get_protocol() is protocol
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"


async def test_sendfile_without_the_fallback(loop, contexts):
    async with tls_and_peer(contexts) as (transport, _, peer):
        words = "fallback is disabled and native sendfile is not supported"
        with tempfile.TemporaryFile() as file, pytest.raises(RuntimeError, match=words):
            await loop.sendfile(transport, file, fallback=False)
        transport.write(b"fine")
        assert await peer.read_exactly(4) == b"fine"


async def test_sendfile_pauses_reading_meanwhile(loop, contexts):
    class Slow(io.BytesIO):
        def readinto(self, buffer):
            states.append(transport.is_reading())
            return super().readinto(buffer)

    states = []
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        await peer.write(b"meanwhile")
        reading = asyncio.create_task(peer.read_exactly(100_000))
        assert await loop.sendfile(transport, Slow(bytes(100_000))) == 100_000
        await reading
        assert set(states) == {False} and transport.is_reading()
        assert await protocol.received(9) == b"meanwhile"


async def test_sendfile_on_a_transport_that_is_closing(loop, contexts):
    async with tls_and_peer(contexts) as (transport, _, _peer):
        transport.close()
        with pytest.raises(RuntimeError, match="Transport is closing"):
            await loop.sendfile(transport, io.BytesIO(b"x"))


async def test_the_peer_goes_during_sendfile(loop, contexts):
    async with tls_and_peer(contexts, send_buffer=131072) as (transport, protocol, peer):
        with tempfile.TemporaryFile() as file:
            file.truncate(50_000_000)
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await peer.read_exactly(100_000)
            peer.close()
            # asyncio before 3.15 notices only if it was waiting to write.
            with contextlib.suppress(ConnectionError):
                await sending
        await protocol.lost
        assert transport.is_closing() and transport.get_write_buffer_size() == 0
        assert protocol.events.count("lost") == 1


async def test_a_cancelled_sendfile(loop, contexts):
    async with tls_and_peer(contexts, send_buffer=131072) as (transport, protocol, peer):
        with tempfile.TemporaryFile() as file:
            file.truncate(50_000_000)
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await peer.read_exactly(100_000)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        assert transport.get_protocol() is protocol and transport.is_reading()
        assert not transport.is_closing()


# ------------------------------------------------------------------------------------------------------------- TLS 1.3


async def test_data_received_that_raises_after_writing(loop, contexts, reports):
    """What was written is sent."""

    class Protocol(Recorder):
        def data_received(self, data):
            self.transport.write(b"an answer")
            raise ValueError("afterwards")

    async with tls_pair(contexts, client=Protocol) as (client, server):
        server.transport.write(b"x")
        await server.received(len(b"an answer"))
        assert str(await client.lost) == "afterwards"
        assert bytes(server.data) == b"an answer"
    report = reports.take()
    assert report["message"] == "Fatal error on SSL protocol"
    assert str(report["exception"]) == "afterwards"


async def test_connection_made_that_raises(loop, contexts, reports):
    """The report names the callback of TLS, which the transport called."""

    class Protocol(Recorder):
        def connection_made(self, transport):
            raise ValueError("made")

    async with tls_server(contexts, Recorder) as (_, address):
        with pytest.raises(ValueError, match="made"):
            await connect(contexts, address, Protocol)
    report = reports.take()
    assert report["message"] == "Fatal error: protocol.buffer_updated() call failed."
    assert str(report["exception"]) == "made"


async def test_session_tickets_are_no_data(loop, contexts):
    async with tls_and_peer(contexts, version="TLSv1.3") as (transport, protocol, peer):
        await settle(10)
        assert protocol.events == ["made"]
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"
        # They came before the data.
        assert transport.get_extra_info("ssl_object").session.has_ticket


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_is_resumed(loop, contexts, version):
    """Also a short handshake ends with connection_made and works."""
    server, client = contexts.server(version=version), contexts.client(version=version)
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    async with tls_server(contexts, factory, ssl=server) as (_, address):
        session = None
        for turn in range(2):
            with socket.create_connection(address) as sock:
                sock.setblocking(False)
                peer = TlsPeer(sock, client, server_hostname="localhost", session=session)
                await peer.handshake()
                await peer.write(b"x")
                await until(lambda turn=turn: len(made) > turn and made[turn].data)
                made[turn].transport.write(b"y")
                assert await peer.read_exactly(1) == b"y"
                assert peer.tls.session_reused is bool(turn)
                assert made[turn].transport.get_extra_info("ssl_object").session_reused is bool(turn)
                session = peer.tls.session
                made[turn].transport.abort()
                await made[turn].lost


class OpenSSL:
    """The program `openssl`, which takes lines of a single letter as orders and sends others as data."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            ["openssl", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.said = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.__exit__(*exc_info)

    async def order(self, line):
        """Write *line* and wait until it is read: two lines in one read would be one order."""
        import fcntl
        import termios

        self.process.stdin.write(line)
        self.process.stdin.flush()
        await until(lambda: not any(fcntl.ioctl(self.process.stdin, termios.FIONREAD, bytes(4))))

    async def port(self):
        """Return the port that a server listens on."""
        while not (found := re.search(rb"ACCEPT .*:(\d+)\n", self.said)):
            self.said += self.process.stdout.read() or b""
            await asyncio.sleep(0.002)
        return int(found[1])


@pytest.mark.parametrize("letter", [b"k", b"K"], ids=["update", "update requested"])
async def test_a_client_updates_its_keys(loop, contexts, letter):
    made = loop.create_future()

    class Server(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.set_result(self)

    async with tls_server(contexts, Server, ssl=contexts.server(version="TLSv1.3")) as (_, address):
        with OpenSSL("s_client", "-connect", f"{LOCALHOST}:{address[1]}") as process:
            protocol = await made
            await process.order(b"before\n")
            await protocol.received(7)
            for number in range(3):
                await process.order(letter + b"\n")
                protocol.transport.write(b"down")
                await process.order(b"%d\n" % number)
                await protocol.received(7 + 2 * (number + 1))
            assert protocol.data == b"before\n0\n1\n2\n"
            assert protocol.events == ["made", "data"]
            protocol.transport.abort()
            await protocol.lost


async def test_a_server_updates_its_keys(loop, contexts):
    files = ("-cert", str(contexts.folder / "cert.pem"), "-key", str(contexts.folder / "key.pem"))
    with OpenSSL("s_server", "-accept", f"{LOCALHOST}:0", *files, "-tls1_3") as process:
        transport, protocol = await connect(contexts, (LOCALHOST, await process.port()))
        total = 0
        for number in range(3):
            await process.order(b"K\n")
            transport.write(b"up %d\n" % number)
            await process.order(b"down %d\n" % number)
            total += 7
            await protocol.received(total)
        assert protocol.data == b"down 0\ndown 1\ndown 2\n"
        assert protocol.events == ["made", "data"]
        transport.abort()
        await protocol.lost


async def test_a_client_cannot_renegotiate(loop, contexts):
    made = loop.create_future()

    class Server(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.set_result(self)

    async with tls_server(contexts, Server, ssl=contexts.server(version="TLSv1.2")) as (_, address):
        with OpenSSL("s_client", "-connect", f"{LOCALHOST}:{address[1]}", "-tls1_2") as process:
            protocol = await made
            before = protocol.transport.get_extra_info("ssl_object").cipher()
            await process.order(b"before\n")
            await protocol.received(7)
            await process.order(b"R\n")
            # The client gives up when it is refused.
            await protocol.lost
            assert protocol.data == b"before\n"
            assert protocol.events.count("made") == 1 and before


# ------------------------------------------------------------------------------------------------------------- mixtures


async def test_tls_and_plain_connections_side_by_side(loop, contexts):
    async with tls_server(contexts, Echo) as (_, address):
        plain = await loop.create_server(Echo, LOCALHOST, 0)
        transport, protocol = await connect(contexts, address)
        clear, other = await loop.create_connection(Recorder, *plain.sockets[0].getsockname())
        for number in range(50):
            transport.write(b"%03d" % number)
            clear.write(b"%03d" % number)
        expected = b"".join(b"%03d" % number for number in range(50))
        assert await protocol.received(150) == expected and await other.received(150) == expected
        for each, end in ((transport, protocol), (clear, other)):
            each.close()
            await end.lost
        plain.close()


async def test_many_connections_at_once(loop, contexts):
    data = pattern(50_000)
    async with tls_server(contexts, Echo) as (_, address):

        async def converse():
            transport, protocol = await connect(contexts, address)
            transport.write(data)
            assert await protocol.received(len(data)) == data
            transport.close()
            assert await protocol.lost is None

        await asyncio.gather(*(converse() for _ in range(40)))


async def test_a_socket_whose_own_methods_are_called(loop, contexts):
    class Counting(socket.socket):
        sent = 0

        def send(self, data, *flags):
            self.sent += len(data)
            return super().send(data, *flags)

    mine, sock = tcp_pair()
    counting = Counting(mine.family, mine.type, mine.proto, mine.detach())
    peer = TlsPeer(sock, contexts.server(), server_side=True)
    with sock:
        (transport, protocol), _ = await asyncio.gather(
            open_tls(contexts, "client", counting, Recorder), peer.handshake()
        )
        before = counting.sent
        transport.write(bytes(1000))
        assert await peer.read_exactly(1000) == bytes(1000)
        assert before > 0 and counting.sent >= before + 1000
        transport.abort()
        await protocol.lost


async def test_buffered_and_plain_protocols_at_the_two_ends(loop, contexts):
    data = pattern(400_000)
    async with tls_pair(contexts, server=lambda: BufferedRecorder(4096)) as (client, server):
        client.transport.write(data)
        assert await server.received(len(data)) == data
        server.transport.write(data)
        assert await client.received(len(data)) == data


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_with_eager_tasks(loop, contexts):
    loop.set_task_factory(asyncio.eager_task_factory)
    async with tls_server(contexts, Echo) as (_, address):
        transport, protocol = await connect(contexts, address)
        transport.write(b"x")
        assert await protocol.received(1) == b"x"
        transport.close()
        assert await protocol.lost is None


@pytest.mark.loopfast_only("asyncio's own reports once for each place of the backlog")
@pytest.mark.parametrize("is_closed_meanwhile", [False, True])
def test_a_server_out_of_descriptors_reports_once_and_tries_again(loop_kind, certificate_files, is_closed_meanwhile):
    out = run_program(
        loop_kind,
        f"""
        import resource, ssl
        asyncio.constants.ACCEPT_RETRY_DELAY = 0.05
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain({str(certificate_files / "cert.pem")!r}, {str(certificate_files / "key.pem")!r})
        async def main():
            loop = asyncio.get_running_loop()
            messages = []
            loop.set_exception_handler(lambda loop, context: messages.append(context["message"]))
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context, backlog=100)
            client = socket.socket()
            client.setblocking(False)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            client.connect_ex(server.sockets[0].getsockname())
            while not messages:
                await asyncio.sleep(0)
            print(len(messages))
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            if {is_closed_meanwhile}:
                server.close()
                await asyncio.sleep(0.1)
            else:
                client.send(b"not TLS")
                # Answered, if only by the end: it was accepted after all.
                await loop.sock_recv(client, 100)
                server.close()
            client.close()
            await asyncio.sleep(0.01)
            print([message for message in messages if "resource" not in message and "SSL" not in message])
        run(main())
        """,
    )
    assert out == "1\n[]\n"

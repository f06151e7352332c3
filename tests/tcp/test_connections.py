"""create_connection, create_server and what they return: keywords, errors, names of both ends, servers' methods."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import ssl
import subprocess
import sys
import tempfile

import pytest
from support import (
    LOCALHOST,
    Echo,
    Recorder,
    datagram_endpoint,
    gc_disabled,
    open_descriptors,
    pattern,
    read_exactly,
    read_to_end,
    run_program,
    serving,
    settle,
    tcp_pair,
    transport_and_peer,
    until,
)


async def connect(address, protocol=Recorder, **options):
    return await asyncio.get_running_loop().create_connection(protocol, *address, **options)


async def echo_once(address, **options):
    transport, protocol = await connect(address, **options)
    transport.write(b"ping")
    await protocol.received(4)
    transport.close()
    await protocol.lost


class Wrapped:
    """Behaves like a socket and is none: what asyncio calls on it must reach it."""

    sent = 0

    def __init__(self, sock):
        self.sock = sock

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def send(self, data):
        self.sent += len(data)
        return self.sock.send(data)


class Counting(socket.socket):
    """A socket whose own methods must be called."""

    sent = 0

    def __init__(self, sock):
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.setblocking(False)

    def send(self, data):
        self.sent += len(data)
        return super().send(data)


@pytest.mark.parametrize("kind", [Wrapped, Counting])
async def test_an_object_that_behaves_like_a_socket(loop, kind):
    mine, peer = tcp_pair()
    wrapped = kind(mine)
    with peer:
        transport, protocol = await loop.create_connection(Recorder, sock=wrapped)
        transport.write(b"request")
        peer.send(b"answer")
        assert await protocol.received(6) == b"answer"
        assert peer.recv(100) == b"request"
        assert wrapped.sent == 7
        transport.abort()
        await protocol.lost


async def test_what_a_transport_is(loop):
    async with serving(Echo) as (_, address):
        transport, protocol = await connect(address)
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.ReadTransport) and isinstance(transport, asyncio.WriteTransport)
        assert transport.get_protocol() is protocol
        assert transport.get_extra_info("peername") == address
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert sock.getsockname() == transport.get_extra_info("sockname")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert transport.get_extra_info("nothing", 7) == 7
        transport.note = "attributes can be set"
        transport.write = lambda data: None
        transport.write(b"and methods replaced")
        transport.close()
        await protocol.lost
        assert transport.get_extra_info("peername") == address


class Named:
    """Stands in a class for a method, and is found without the instance, as a mock is."""

    def __init__(self):
        self.calls = []

    def __call__(self, *args):
        self.calls.append(args)
        return self


async def test_get_extra_info_replaced_in_asyncios_class(loop, monkeypatch):
    # Nothing between asyncio's own transports and BaseTransport defines the method: replaced there, by a test suite or
    # a tracer, it is replaced for all of them.
    async with serving(Echo) as (_, address), datagram_endpoint() as (endpoint, _):
        transport, protocol = await connect(address)
        info = Named()
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.BaseTransport, "get_extra_info", info)
            assert transport.get_extra_info("peername") is info
            assert endpoint.get_extra_info("sockname", 7) is info
        assert info.calls == [("peername",), ("sockname", 7)]

        original = asyncio.BaseTransport.get_extra_info

        def shown(self, name, default=None):
            return self, name, original(self, name, default)

        with monkeypatch.context() as patch:
            patch.setattr(asyncio.BaseTransport, "get_extra_info", shown)
            assert transport.get_extra_info("peername") == (transport, "peername", address)
            assert transport.get_extra_info("nothing", 7) == (transport, "nothing", 7)
        assert transport.get_extra_info("peername") == address
        transport.close()
        await protocol.lost


async def test_the_socket_of_a_transport_is_one_object(loop):
    # Whoever stores it, or makes it a key, compares it later: TransportSocket defines no equality.
    async with serving(Echo) as (_, address):
        transport, protocol = await connect(address)
        sock = transport.get_extra_info("socket")
        assert transport.get_extra_info("socket") is sock
        transport.write(b"ping")
        await protocol.received(4)
        assert transport.get_extra_info("socket") is sock and sock.fileno() >= 0
        transport.close()
        await protocol.lost
        assert transport.get_extra_info("socket") is sock
        assert sock.fileno() == -1


async def test_names_of_an_accepted_connection(loop):
    accepted = []
    async with serving(lambda: accepted.append(Recorder()) or accepted[-1]) as (_, address):
        transport, protocol = await connect(address)
        await until(lambda: accepted and accepted[0].transport)
        theirs = accepted[0].transport
        assert theirs.get_extra_info("peername") == transport.get_extra_info("sockname")
        assert theirs.get_extra_info("sockname") == address
        assert theirs.get_extra_info("socket").getpeername() == transport.get_extra_info("sockname")
        transport.close()
        await protocol.lost
        await accepted[0].lost


async def test_keywords_of_create_connection(loop):
    async with serving(Echo) as (_, address):
        await echo_once(address, local_addr=(LOCALHOST, 0))
        await echo_once(address, family=socket.AF_INET, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST)
        await echo_once(("localhost", address[1]), happy_eyeballs_delay=0.25, interleave=1)
        sock = socket.create_connection(address)
        sock.setblocking(False)
        transport, protocol = await loop.create_connection(Recorder, sock=sock)
        transport.write(b"ping")
        assert await protocol.received(4) == b"ping"
        transport.close()
        await protocol.lost
        assert sock.fileno() == -1


async def test_keywords_that_say_what_holds_anyway(loop):
    async with serving(Echo) as (_, address):
        await echo_once(address, **asyncio.BaseEventLoop.create_connection.__kwdefaults__)
        with pytest.raises(ValueError, match="server_hostname is only meaningful with ssl"):
            await connect(address, server_hostname="")
        with pytest.raises(TypeError, match="unheard_of"):
            loop.create_connection(Recorder, *address, unheard_of=None)


async def test_connecting_with_sockets_of_another_kind(loop, monkeypatch):
    """Test suites put a class of their own in the place of socket.socket, which need not be derived from it."""
    plain = socket.socket

    class Stand:
        def __init__(self, *args, **kwargs):
            self.sock = plain(*args, **kwargs)

        def __getattr__(self, name):
            return getattr(self.sock, name)

    async with serving(Echo) as (_, address):
        monkeypatch.setattr(socket, "socket", Stand)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.write(b"ping")
        assert await protocol.received(4) == b"ping"
        transport.close()
        await protocol.lost


@pytest.mark.parametrize("replaced", ["subclass", "class"])
async def test_a_socket_that_names_other_ends(loop, monkeypatch, replaced):
    """As one does that goes through a proxy."""
    names = {"getpeername": ("203.0.113.7", 443), "getsockname": ("203.0.113.8", 80)}
    methods = {name: lambda self, value=value: value for name, value in names.items()}
    async with serving(Echo) as (_, address):
        sock = type("Proxied", (socket.socket,), methods)() if replaced == "subclass" else socket.socket()
        sock.connect(address)
        if replaced == "class":
            for name, method in methods.items():
                monkeypatch.setattr(socket.socket, name, method, raising=False)
        transport, protocol = await loop.create_connection(Recorder, sock=sock)
        assert transport.get_extra_info("peername") == names["getpeername"]
        assert transport.get_extra_info("sockname") == names["getsockname"]
        transport.close()
        await protocol.lost


async def test_a_refused_connection(loop):
    with socket.socket() as unused:
        unused.bind((LOCALHOST, 0))
        address = unused.getsockname()
        before = open_descriptors()
        with pytest.raises(ConnectionRefusedError) as caught:
            await connect(address)
        assert str(caught.value) == f"[Errno {errno.ECONNREFUSED}] Connect call failed {address}"
        assert caught.value.__context__ is None
        assert open_descriptors() == before


@pytest.mark.parametrize("error", [OSError, KeyError])
async def test_a_failing_socket_call_closes_the_new_socket(loop, monkeypatch, error):
    async with serving(Echo) as (_, address):
        before = open_descriptors()

        async def sock_connect(sock, address):
            raise error("not now")

        monkeypatch.setattr(loop, "sock_connect", sock_connect, raising=False)
        with pytest.raises(error, match="not now"):
            await connect(address)
        assert open_descriptors() == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ValueError),
        ({"host": LOCALHOST, "port": 1, "sock": socket.socket}, ValueError),
        ({"host": LOCALHOST, "port": 1, "server_hostname": "x"}, ValueError),
        ({"host": LOCALHOST, "port": 1, "ssl_handshake_timeout": 1}, ValueError),
        ({"host": LOCALHOST, "port": 99999}, OverflowError),
        ({"host": LOCALHOST, "port": 1}, OSError),
        ({"host": "a\0b", "port": 1}, ValueError),
    ],
)
async def test_bad_arguments_of_create_connection(loop, arguments, error):
    arguments = {name: value() if value is socket.socket else value for name, value in arguments.items()}
    try:
        with pytest.raises(error):
            await loop.create_connection(Recorder, **arguments)
    finally:
        if "sock" in arguments:
            arguments["sock"].close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors came with Python 3.12")
async def test_all_errors(loop):
    with socket.socket() as unused:
        unused.bind((LOCALHOST, 0))
        with pytest.raises(ExceptionGroup) as caught:
            await connect(unused.getsockname(), all_errors=True)
    assert all(isinstance(error, ConnectionRefusedError) for error in caught.value.exceptions)


async def test_a_datagram_socket_is_refused(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="Stream Socket was expected"):
        await loop.create_connection(Recorder, sock=sock)


async def test_keywords_of_create_server(loop):
    for options in ({"backlog": 5}, {"reuse_address": True}, {"reuse_port": True}, {"family": socket.AF_INET}):
        async with serving(Echo, **options) as (_, address):
            await echo_once(address)
    if sys.version_info >= (3, 13, 1):
        async with serving(Echo, keep_alive=True) as (server, address):
            assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    sock = socket.create_server((LOCALHOST, 0))
    server = await loop.create_server(Echo, sock=sock)
    await echo_once(server.sockets[0].getsockname())
    server.close()
    await settle()
    assert sock.fileno() == -1


async def test_many_connections_after_single_ones(loop):
    """loopfast looks for one connection a turn, and for all that wait once it was not the only one."""
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    async with serving(factory) as (_, address):
        for count in (1, 1, 1, 40, 1, 1, 3, 40, 40):
            before = len(made)
            clients = [socket.create_connection(address) for _ in range(count)]
            await until(lambda wanted=before + count: len(made) == wanted)
            for client in clients:
                client.close()
        for protocol in made:
            await protocol.lost


async def test_a_port_in_use(loop):
    async with serving(Echo) as (_, address):
        before = open_descriptors()
        with pytest.raises(OSError, match=str(address[1])):
            await loop.create_server(Echo, *address)
        gc.collect()
        assert open_descriptors() == before


async def test_starting_later_and_stopping(loop):
    server = await loop.create_server(Echo, LOCALHOST, 0, start_serving=False)
    address = server.sockets[0].getsockname()
    assert not server.is_serving() and server.get_loop() is loop
    with pytest.raises(OSError):
        await connect(address)
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    await echo_once(address)
    server.close()
    server.close()
    assert server.sockets == () and not server.is_serving()
    await server.wait_closed()
    with pytest.raises(OSError):
        await connect(address)


async def test_serve_forever_ends_when_cancelled(loop):
    server = await loop.create_server(Echo, LOCALHOST, 0)
    task = loop.create_task(server.serve_forever())
    await echo_once(server.sockets[0].getsockname())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="close_clients and abort_clients came with Python 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_ending_a_servers_clients(loop, method):
    server = await loop.create_server(Echo, LOCALHOST, 0)
    transport, protocol = await connect(server.sockets[0].getsockname())
    transport.write(b"ping")
    await protocol.received(4)
    waiter = loop.create_task(server.wait_closed())
    server.close()
    await settle()
    assert not waiter.done()
    getattr(server, method)()
    await protocol.lost
    await waiter


@pytest.mark.loopfast_only("asyncio leaves the accepted socket open until it is collected")
async def test_a_factory_that_raises_costs_that_connection_only(loop, reports):
    calls = []

    def factory():
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return Echo()

    loop.set_debug(True)
    async with serving(factory) as (_, address):
        transport, protocol = await connect(address)
        await protocol.lost
        transport.close()
        assert isinstance(reports.take()["exception"], ZeroDivisionError)
        await echo_once(address)
    loop.set_debug(False)


async def test_a_transports_descriptor_cannot_be_watched(loop):
    async with transport_and_peer() as (transport, _, _peer):
        fd = transport.get_extra_info("socket").fileno()
        for method in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                method(fd, print)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.remove_reader(fd)


async def test_sendfile_native_and_fallback(loop):
    data = pattern(500_000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        async with transport_and_peer() as (transport, _, peer):
            transport.write(b"head")
            reader = asyncio.ensure_future(read_exactly(peer, 4 + len(data) + 1000))
            assert await loop.sendfile(transport, file, 0, None, fallback=False) == len(data)
            assert await loop.sendfile(transport, file, 1000, 1000) == 1000
            assert await reader == b"head" + data + data[1000:2000]
        import io

        async with transport_and_peer() as (transport, _, peer):
            reader = asyncio.ensure_future(read_exactly(peer, len(data)))
            assert await loop.sendfile(transport, io.BytesIO(data)) == len(data)
            assert await reader == data


async def test_the_loop_may_be_asked_about_the_descriptor_while_a_file_is_sent(loop, tmp_path):
    file_path = tmp_path / "file"
    file_path.write_bytes(data := pattern(8_000_000))
    async with transport_and_peer(send_buffer=1 << 14) as (transport, _, peer):
        fd = transport.get_extra_info("socket").fileno()
        with file_path.open("rb") as file:
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await settle()
            assert not loop.remove_reader(fd)
            assert await read_exactly(peer, len(data)) == data
            assert await sending == len(data)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.remove_reader(fd)


@pytest.mark.loopfast_only("asyncio's sendfile() waits for ever")
@pytest.mark.parametrize("method", ["close", "abort"])
async def test_a_transport_closed_while_a_file_is_sent(loop, tmp_path, method):
    """The connection goes at once, and the sender hears of it."""
    file_path = tmp_path / "file"
    file_path.write_bytes(pattern(8_000_000))
    async with transport_and_peer(send_buffer=1 << 14) as (transport, protocol, peer):
        with file_path.open("rb") as file:
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await settle()
            getattr(transport, method)()
            with pytest.raises(ConnectionError):
                await sending
            assert await protocol.lost is None
            assert len(await read_to_end(peer)) < 8_000_000


@pytest.mark.parametrize("name", ["peername", "sockname", "socket"])
async def test_names_that_are_first_asked_for_after_the_end(loop, name):
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    async with serving(factory) as (_, address):
        transport, protocol = await connect(address, factory)
        await until(lambda: len(made) == 2 and made[1].events)
        transport.close()
        for each in made:
            await each.lost
        await settle()
        client, accepted = (each.transport.get_extra_info(name) for each in (protocol, made[1 - made.index(protocol)]))
        match name:
            case "peername":
                assert client == address and accepted is not None
            case "sockname":
                assert accepted == address and client is not None
            case "socket":
                assert client.fileno() == accepted.fileno() == -1


async def test_tls(loop, certificate):
    server, client = certificate
    data = pattern(300_000)
    async with serving(Echo, ssl=server) as (_, address):
        transport, protocol = await connect(("localhost", address[1]), ssl=client)
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        transport.write(data)
        assert await protocol.received(len(data)) == data
        transport.close()
        await protocol.lost
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(("localhost", address[1]), ssl=ssl.create_default_context())


async def test_start_tls(loop, certificate):
    server, client = certificate

    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.drain()
        await writer.start_tls(server)
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, LOCALHOST, 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"go\n"
    await writer.start_tls(client, server_hostname="localhost")
    writer.write(b"secret\n")
    assert await reader.readline() == b"SECRET\n"
    writer.close()
    await writer.wait_closed()
    listening.close()
    await listening.wait_closed()


@pytest.mark.loopfast_only("asyncio's own transports leave cycles to the collector")
async def test_many_connections_leave_nothing_behind_without_the_collector(loop):
    async with serving(Echo) as (_, address):
        await echo_once(address)
        await settle()
        before, objects = open_descriptors(), None
        with gc_disabled():
            for number in range(400):
                await echo_once(address)
                if number == 50:
                    objects = len(gc.get_objects())
            await settle()
            assert len(gc.get_objects()) - objects < 200
        assert open_descriptors() == before


def test_a_transport_collected_with_its_socket_closes_nothing_else(loop_kind):
    """A file that is opened as soon as the descriptor is free keeps it."""
    code = """
        opened = []
        warnings.simplefilter("always")
        warnings.showwarning = lambda *args: opened.append(os.open(os.devnull, os.O_RDONLY))

        class Protocol(asyncio.Protocol):
            pass

        async def main():
            with socket.create_server(("127.0.0.1", 0)) as server:
                sock = socket.create_connection(server.getsockname())
                sock.setblocking(False)
                transport, protocol = await asyncio.get_running_loop().create_connection(Protocol, sock=sock)
                transport.pause_reading()
                protocol.cycle = [transport, sock]
                del transport, protocol, sock
                gc.collect()
                await asyncio.sleep(0)

        run(main())
        gc.collect()
        for fd in opened:
            os.fstat(fd)
        print(bool(opened))
    """
    assert run_program(loop_kind, code) == "True\n"


def test_a_dropped_open_transport_warns_and_closes_its_descriptor(loop_kind):
    out = run_program(
        loop_kind,
        """
        loop = new_event_loop()
        one, other = socket.socketpair()
        transport, protocol = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=one))
        transport.pause_reading()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del transport, protocol, one
            gc.collect()
        print(any(str(w.message).startswith("unclosed transport") for w in caught if w.category is ResourceWarning))
        loop.run_until_complete(asyncio.sleep(0))
        print(other.recv(10))
        loop.close()
        other.close()
    """,
    )
    assert out.splitlines() == ["True", "b''"]


def test_running_out_of_descriptors_pauses_accepting_and_recovers(loop_kind):
    out = run_program(
        loop_kind,
        """
        from support import take_all_descriptors
        from asyncio import constants
        constants.ACCEPT_RETRY_DELAY = 0.05
        messages = []
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: messages.append(context["message"]))
            made = []
            class Protocol(asyncio.Protocol):
                def connection_made(self, transport):
                    made.append(transport)
            server = await loop.create_server(Protocol, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            clients = [socket.create_connection(address) for _ in range(3)]
            while len(made) < 3:
                await asyncio.sleep(0)
            waiting = socket.socket()
            waiting.setblocking(False)
            taken = take_all_descriptors()
            waiting.connect_ex(address)
            while not messages:
                await asyncio.sleep(0.001)
            assert len(made) == 3
            for fd in taken:
                os.close(fd)
            while len(made) < 4:
                await asyncio.sleep(0.001)
            for sock in [*clients, waiting]:
                sock.close()
            for transport in made:
                transport.abort()
            server.close()
            await asyncio.sleep(0)
            print(messages[0])
        run(main())
    """,
    )
    assert out.strip() == "socket.accept() out of system resource"


def test_one_vectored_send_carries_header_and_body(loop_kind, tmp_path):
    if loop_kind == "asyncio":
        pytest.skip("gathering the writes of a turn is loopfast's own")
    import shutil

    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "log"
    code = f"""
import sys
sys.path[:] = {sys.path!r}
import asyncio, socket, loopfast
async def main():
    one, other = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=one)
    transport.write(b"HEADER" * 1000)
    transport.write(b"BODY" * 2000)
    await asyncio.sleep(0)
    assert len(other.recv(100000)) == 14000
    transport.close()
    await asyncio.sleep(0)
    other.close()
loopfast.run(main())
"""
    subprocess.run(
        ["strace", "-f", "-e", "trace=write,writev,sendto,sendmsg", "-s", "12", "-o", log, sys.executable, "-c", code],
        check=True,
        timeout=60,
        env={**os.environ},
    )
    sends = [line for line in log.read_text().splitlines() if "HEADER" in line or "BODY" in line]
    assert len(sends) == 1 and "writev" in sends[0]

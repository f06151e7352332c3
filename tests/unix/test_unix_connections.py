"""create_unix_connection() and connect_accepted_socket() on UNIX sockets: addresses, options, TLS, credentials."""

from __future__ import annotations

import array
import asyncio
import os
import pathlib
import shutil
import socket
import ssl
import struct
import subprocess

import pytest
from support import Echo, Recorder, open_descriptors, pattern, read_exactly, read_to_end, settle


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


@pytest.fixture
def listener(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(5)
        yield sock


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """The file with key and certificate of a server named "localhost"."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl program to make a certificate with")
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = file.with_suffix(".key")
    subprocess.run([*command, "-keyout", key, "-out", file], check=True, capture_output=True)
    file.write_text(file.read_text() + key.read_text())
    return file


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "path"])
async def test_kinds_of_paths(loop, listener, path, kind):
    transport, protocol = await loop.create_unix_connection(Recorder, kind(path))
    peer, _ = listener.accept()
    with peer:
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_extra_info("peername") == path
        assert transport.get_extra_info("sockname") == ""
        peer.setblocking(False)
        transport.write(b"abc")
        transport.writelines([b"d", bytearray(b"e"), memoryview(b"f")])
        assert await read_exactly(peer, 6) == b"abcdef"
        peer.send(b"xyz")
        assert await protocol.received(3) == b"xyz"
        transport.close()
        assert await protocol.lost is None
        assert await read_to_end(peer) == b""


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("missing", FileNotFoundError),
        ("file", ConnectionRefusedError),
        ("stale", ConnectionRefusedError),
        ("x" * 200, OSError),
        (5, TypeError),
        (("a", 5), TypeError),
    ],
    ids=repr,
)
async def test_paths_that_raise(loop, tmp_path, monkeypatch, bad, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("stale")
    before = open_descriptors()
    with pytest.raises(error):
        await loop.create_unix_connection(Recorder, bad)
    assert open_descriptors() == before


@pytest.mark.loopfast_only("asyncio connects to what stands before the NUL")
@pytest.mark.parametrize("path", ["served\0more", b"served\0more", "served\0"], ids=repr)
async def test_a_path_is_not_cut_at_nul(loop, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind("served")
        listener.listen()
        sock.setblocking(False)
        with pytest.raises(ValueError, match="null byte"):
            await loop.create_unix_connection(Recorder, path)
        with pytest.raises(ValueError, match="null byte"):
            await loop.sock_connect(sock, path)
        await loop.sock_connect(sock, "served")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no path and sock were specified"),
        ({"path": "a", "sock": 5}, "path and sock can not be specified at the same time"),
        ({"path": "a", "server_hostname": "b"}, "server_hostname is only meaningful with ssl"),
        ({"path": "a", "ssl": True}, "you have to pass server_hostname when using ssl"),
        ({"path": "a", "ssl_handshake_timeout": 5}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"path": "a", "ssl_shutdown_timeout": 5}, "ssl_shutdown_timeout is only meaningful with ssl"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
async def test_keywords_that_raise(loop, options, message):
    with pytest.raises(ValueError, match=message):
        await loop.create_unix_connection(Recorder, **options)


async def test_a_connected_socket(loop, listener, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    transport, protocol = await loop.create_unix_connection(Recorder, sock=sock)
    peer, _ = listener.accept()
    with peer:
        assert sock.gettimeout() == 0
        peer.send(b"hello")
        assert await protocol.received(5) == b"hello"
        transport.close()
        await protocol.lost
        await settle()
        assert sock.fileno() == -1


async def test_a_pair_with_large_data_in_both_directions(loop):
    one, other = socket.socketpair()
    mine, recorder = await loop.create_unix_connection(Recorder, sock=one)
    theirs, echo = await loop.create_unix_connection(Echo, sock=other)
    assert mine.get_extra_info("peername") in ("", None)
    data = pattern(3_000_000)
    mine.write(data)
    assert await recorder.received(len(data)) == data
    assert recorder.events[:2] == ["made", "pause"] and recorder.events.count("resume") == 1
    mine.close()
    assert await recorder.lost is None
    await settle()
    assert theirs.is_closing()


async def test_half_close(loop):
    class Protocol(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    one, peer = socket.socketpair()
    peer.setblocking(False)
    with peer:
        transport, protocol = await loop.create_unix_connection(Protocol, sock=one)
        assert transport.can_write_eof()
        peer.shutdown(socket.SHUT_WR)
        await protocol.eof
        transport.write(b"after the end of the other direction")
        transport.write_eof()
        assert await read_to_end(peer) == b"after the end of the other direction"
        transport.close()
        assert await protocol.lost is None


@pytest.mark.parametrize("unread", [False, True])
async def test_a_peer_that_goes_away(loop, unread):
    one, peer = socket.socketpair()
    transport, protocol = await loop.create_unix_connection(Recorder, sock=one)
    if unread:
        # Closing a UNIX socket that has something to read resets the connection.
        transport.write(b"never read")
        await settle()
    peer.close()
    lost = await protocol.lost
    assert isinstance(lost, ConnectionResetError) if unread else lost is None
    assert protocol.events == (["made", "lost"] if unread else ["made", "eof", "lost"])


async def test_connect_accepted_socket(loop, listener, path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    accepted, _ = listener.accept()
    with client:
        client.setblocking(False)
        transport, protocol = await loop.connect_accepted_socket(Recorder, accepted)
        assert transport.get_extra_info("sockname") == path
        client.send(b"hello")
        assert await protocol.received(5) == b"hello"
        transport.write(b"answer")
        assert await read_exactly(client, 6) == b"answer"
        transport.close()
        assert await protocol.lost is None


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="no SO_PEERCRED")
async def test_credentials_of_the_peer(loop, path):
    found = loop.create_future()

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            size = struct.calcsize("3i")
            raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            found.set_result(struct.unpack("3i", raw))
            transport.close()

    server = await loop.create_unix_server(Protocol, path)
    _, protocol = await loop.create_unix_connection(Recorder, path)
    assert await found == (os.getpid(), os.getuid(), os.getgid())
    await protocol.lost
    server.close()
    await settle()


@pytest.mark.skipif(not hasattr(socket, "SCM_RIGHTS"), reason="no descriptor passing")
async def test_descriptors_sent_along_are_not_received(loop):
    """Who reads without asking for descriptors gets the data, and none is left open."""
    one, peer = socket.socketpair()
    with peer:
        transport, protocol = await loop.create_unix_connection(Recorder, sock=one)
        before = open_descriptors()
        reader, writer = os.pipe()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader]))
        peer.sendmsg([b"with a descriptor"], [rights])
        os.close(reader)
        assert await protocol.received(17) == b"with a descriptor"
        # The kernel closed the copy: nobody can read the pipe.
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")
        os.close(writer)
        assert open_descriptors() == before
        transport.close()
        await protocol.lost


@pytest.mark.skipif(not hasattr(socket, "SCM_RIGHTS"), reason="no descriptor passing")
async def test_descriptors_can_be_passed_before_the_loop_has_the_socket(loop, listener, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    accepted, _ = listener.accept()
    reader, writer = os.pipe()
    socket.send_fds(sock, [b"take it"], [writer])
    os.close(writer)
    data, (received,), _, _ = socket.recv_fds(accepted, 100, 1)
    assert data == b"take it"
    transport, protocol = await loop.connect_accepted_socket(Recorder, accepted)
    os.write(received, b"works")
    assert os.read(reader, 10) == b"works"
    for fd in (received, reader):
        os.close(fd)
    sock.close()
    assert await protocol.lost is None
    assert transport.is_closing()


async def test_a_cancelled_connect_leaves_nothing(loop, path):
    # libuv opens a descriptor in reserve with the first stream of a loop.
    one, other = socket.socketpair()
    other.close()
    transport, protocol = await loop.create_unix_connection(Recorder, sock=one)
    transport.close()
    await protocol.lost
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        fillers = []
        # Until the queue of the listener is full and a connect would have to wait.
        while True:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            fillers.append(sock)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        before = open_descriptors()
        task = loop.create_task(loop.create_unix_connection(Recorder, path))
        await settle()
        task.cancel()
        with pytest.raises((asyncio.CancelledError, BlockingIOError)):
            await task
        await settle()
        left = open_descriptors() - before
        for sock in fillers:
            sock.close()
        assert left == set()


async def test_many_connections(loop, path):
    server = await loop.create_unix_server(Echo, path, backlog=300)
    pairs = await asyncio.gather(*(loop.create_unix_connection(Recorder, path) for _ in range(200)))
    for number, (transport, _) in enumerate(pairs):
        transport.write(b"%04d" % number)
    for number, (transport, protocol) in enumerate(pairs):
        assert await protocol.received(4) == b"%04d" % number
        transport.close()
    await asyncio.gather(*(protocol.lost for _, protocol in pairs))
    server.close()
    await settle()


# ------------------------------------------------------------------------------------------------------------------ TLS


def contexts(certificate):
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    connecting = ssl.create_default_context(cafile=str(certificate))
    return serving, connecting


async def test_tls(loop, path, certificate):
    serving, connecting = contexts(certificate)
    server = await loop.create_unix_server(Echo, path, ssl=serving, ssl_handshake_timeout=10, ssl_shutdown_timeout=10)
    transport, protocol = await loop.create_unix_connection(
        Recorder, path, ssl=connecting, server_hostname="localhost", ssl_handshake_timeout=10, ssl_shutdown_timeout=10
    )
    data = pattern(500_000)
    transport.write(data)
    assert await protocol.received(len(data)) == data
    assert transport.get_extra_info("peername") == path
    assert transport.get_extra_info("sslcontext") is connecting
    assert transport.get_extra_info("peercert")["subjectAltName"] == (("DNS", "localhost"),)
    transport.close()
    assert await protocol.lost is None
    server.close()
    await settle()


async def test_tls_with_another_host_name(loop, path, certificate):
    serving, connecting = contexts(certificate)
    server = await loop.create_unix_server(Recorder, path, ssl=serving)
    with pytest.raises(ssl.SSLCertVerificationError):
        await loop.create_unix_connection(Recorder, path, ssl=connecting, server_hostname="elsewhere")
    server.close()
    await settle(20)


async def test_start_tls_over_a_pair(loop, certificate):
    serving, connecting = contexts(certificate)
    one, other = socket.socketpair()
    server_transport, echo = await loop.create_unix_connection(Echo, sock=other)
    transport, protocol = await loop.create_unix_connection(Recorder, sock=one)

    async def serve():
        echo.transport = await loop.start_tls(server_transport, echo, serving, server_side=True)

    task = loop.create_task(serve())
    upgraded = await loop.start_tls(transport, protocol, connecting, server_hostname="localhost")
    await task
    upgraded.write(b"encrypted")
    assert await protocol.received(9) == b"encrypted"
    upgraded.close()
    assert await protocol.lost is None
    await settle(20)
    assert echo.transport.is_closing()


async def test_the_socket_of_a_closed_connection_has_its_family(loop):
    mine, peer = socket.socketpair()
    with peer:
        transport, protocol = await loop.create_connection(Recorder, sock=mine)
        transport.abort()
        await protocol.lost
        sock = transport.get_extra_info("socket")
        assert (sock.fileno(), sock.family) == (-1, socket.AF_UNIX)

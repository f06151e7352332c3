"""create_unix_server(): kinds of addresses, what is at the path before and after, sockets passed in, the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import pathlib
import socket
import stat
import sys

import pytest
from support import Echo, Recorder, open_descriptors, settle

CLEANS_UP = sys.version_info >= (3, 13)
# In these cases asyncio leaves a socket to the collector, which warns.
forgets_the_socket = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a feature of Linux")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


@contextlib.asynccontextmanager
async def unix_server(path=None, protocol=Echo, **options):
    server = await asyncio.get_running_loop().create_unix_server(protocol, path, **options)
    try:
        yield server
    finally:
        server.close()
        await settle()


async def check_echo(address):
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(Recorder, address)
    transport.write(b"hello")
    assert await protocol.received(5) == b"hello"
    transport.close()
    assert await protocol.lost is None


# ------------------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "path"])
async def test_kinds_of_paths(loop, path, kind):
    async with unix_server(kind(path)) as server:
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        (sock,) = server.sockets
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert sock.getsockname() == path and sock.family == socket.AF_UNIX
        for address in (path, os.fsencode(path), pathlib.Path(path)):
            await check_echo(address)
    assert server.sockets == ()


async def test_a_name_that_is_not_ascii(loop, tmp_path):
    path = str(tmp_path / "socket-\xe9-\u2603")
    async with unix_server(path):
        await check_echo(path)


@needs_linux
@pytest.mark.parametrize("encode", [str, str.encode], ids=["str", "bytes"])
async def test_abstract_names(loop, encode):
    name = encode(f"\0loopfast-test-{os.getpid()}")
    async with unix_server(name) as server:
        assert server.sockets[0].getsockname() == f"\0loopfast-test-{os.getpid()}".encode()
        await check_echo(name)
        with pytest.raises(OSError) as info:
            await loop.create_unix_server(Echo, name)
        assert info.value.errno == errno.EADDRINUSE
        assert str(info.value) == f"[Errno {errno.EADDRINUSE}] Address {name!r} is already in use"
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, name)


@needs_linux
async def test_an_abstract_name_with_nul_inside(loop):
    name = f"\0loopfast\0test-{os.getpid()}"
    async with unix_server(name) as server:
        assert server.sockets[0].getsockname() == name.encode()
        await check_echo(name)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("x" * 200, OSError),
        ("missing-directory/socket", FileNotFoundError),
        (5, TypeError),
        ([], TypeError),
        (("path", 5), TypeError),
    ],
    ids=repr,
)
async def test_paths_that_raise(loop, tmp_path, monkeypatch, bad, error):
    monkeypatch.chdir(tmp_path)
    before = open_descriptors()
    with pytest.raises(error):
        await loop.create_unix_server(Echo, bad)
    assert open_descriptors() == before
    assert os.listdir(tmp_path) == []


@forgets_the_socket
@pytest.mark.parametrize(
    ("bad", "error"), [("a\0b", ValueError), (b"a\0b", ValueError), ("", IndexError), (b"", IndexError)], ids=repr
)
async def test_paths_that_are_no_names(loop, tmp_path, monkeypatch, bad, error):
    monkeypatch.chdir(tmp_path)
    before = open_descriptors()
    with pytest.raises(error):
        await loop.create_unix_server(Echo, bad)
    gc.collect()
    assert open_descriptors() == before
    assert os.listdir(tmp_path) == []


async def test_a_stale_socket_is_replaced(loop, path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    os.link(path, path + ".kept")
    async with unix_server(path):
        assert not os.path.samefile(path, path + ".kept")
        await check_echo(path)


async def test_also_the_socket_of_a_live_server_is_replaced(loop, path):
    async with unix_server(path) as first:
        inode = os.stat(path).st_ino
        async with unix_server(path):
            await check_echo(path)
            if os.stat(path).st_ino != inode:
                first.close()
                await settle()
                # Closing the first one does not remove what belongs to the second one.
                await check_echo(path)


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
async def test_what_is_no_socket_is_left_alone(loop, path, kind):
    match kind:
        case "file":
            pathlib.Path(path).write_text("precious")
        case "directory":
            os.mkdir(path)
        case _:
            os.symlink(path + ".missing", path)
    with pytest.raises(OSError) as info:
        await loop.create_unix_server(Echo, path)
    assert info.value.errno == errno.EADDRINUSE
    assert str(info.value) == f"[Errno {errno.EADDRINUSE}] Address {path!r} is already in use"
    assert os.path.lexists(path)
    if kind == "file":
        assert pathlib.Path(path).read_text() == "precious"


@forgets_the_socket
async def test_what_cannot_be_looked_at_is_logged(loop, monkeypatch, path, caplog):
    original = os.stat

    def deny(name, *arguments, **options):
        if name == path:
            raise PermissionError(13, "denied")
        return original(name, *arguments, **options)

    monkeypatch.setattr(os, "stat", deny)
    if CLEANS_UP:
        # From 3.13 on the inode is wanted as well.
        with pytest.raises(PermissionError):
            await loop.create_unix_server(Echo, path)
    else:
        async with unix_server(path):
            await check_echo(path)
    messages = [record.getMessage() for record in caplog.records]
    assert any(message.startswith(f"Unable to check or remove stale UNIX socket {path!r}") for message in messages)
    # The records hold the exceptions, and these the frames.
    caplog.clear()
    gc.collect()


# ------------------------------------------------------------------------------------------------------- cleanup_socket


@pytest.mark.skipif(not CLEANS_UP, reason="new in Python 3.13")
@pytest.mark.parametrize("given", ["path", "socket"])
@pytest.mark.parametrize("cleanup", [True, False, None], ids=["yes", "no", "default"])
async def test_cleanup_socket(loop, path, given, cleanup):
    options = {} if cleanup is None else {"cleanup_socket": cleanup}
    if given == "socket":
        options["sock"] = socket.socket(socket.AF_UNIX)
        options["sock"].bind(path)
    async with unix_server(None if given == "socket" else path, **options):
        await check_echo(path)
    assert os.path.exists(path) is (cleanup is False)


@pytest.mark.skipif(CLEANS_UP, reason="from Python 3.13 on the socket is removed")
async def test_the_socket_stays_and_there_is_no_keyword(loop, path):
    async with unix_server(path):
        pass
    assert os.path.exists(path)
    with pytest.raises(TypeError, match="cleanup_socket"):
        await loop.create_unix_server(Echo, path, cleanup_socket=True)


@pytest.mark.skipif(not CLEANS_UP, reason="new in Python 3.13")
async def test_cleanup_removes_only_its_own_socket(loop, path):
    async with unix_server(path):
        os.rename(path, path + ".kept")
        pathlib.Path(path).write_text("somebody else's")
    assert pathlib.Path(path).read_text() == "somebody else's"
    assert os.path.exists(path + ".kept")


@pytest.mark.skipif(not CLEANS_UP, reason="new in Python 3.13")
async def test_cleanup_of_a_socket_that_is_gone(loop, path, caplog):
    async with unix_server(path):
        os.unlink(path)
    assert caplog.records == []


@pytest.mark.skipif(not CLEANS_UP, reason="new in Python 3.13")
async def test_cleanup_that_fails_is_logged(loop, monkeypatch, path, caplog):
    async with unix_server(path) as server:

        def unlink(name, *arguments, **options):
            raise PermissionError(13, "denied")

        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", unlink)
            server.close()
            await settle()
    assert caplog.records[0].getMessage().startswith(f"Unable to clean up listening UNIX socket {path!r}")


# ------------------------------------------------------------------------------------------------------------- keywords


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "path was not specified, and no sock specified"),
        ({"path": "a", "sock": True}, ValueError, "path and sock can not be specified at the same time"),
        ({"path": "a", "ssl": True}, TypeError, "ssl argument must be an SSLContext or None"),
        ({"path": "a", "ssl": False}, TypeError, "ssl argument must be an SSLContext or None"),
        ({"path": "a", "ssl_handshake_timeout": 5}, ValueError, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"path": "a", "ssl_shutdown_timeout": 5}, ValueError, "ssl_shutdown_timeout is only meaningful with ssl"),
        ({"path": "a", "mood": 5}, TypeError, "unexpected keyword"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
async def test_keywords_that_raise(loop, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    if options.get("sock"):
        options = {**options, "sock": socket.socket(socket.AF_UNIX)}
    with pytest.raises(error, match=message):
        await loop.create_unix_server(Echo, **options)
    if "sock" in options:
        assert options["sock"].fileno() >= 0
        options["sock"].close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("family, kind", [("AF_INET", "SOCK_STREAM"), ("AF_UNIX", "SOCK_DGRAM")])
@pytest.mark.parametrize("method", ["create_unix_server", "create_unix_connection"])
async def test_sockets_of_the_wrong_kind(loop, method, family, kind):
    with socket.socket(getattr(socket, family), getattr(socket, kind)) as sock:
        with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected, got <socket"):
            await getattr(loop, method)(Echo, sock=sock)
        assert sock.fileno() >= 0


async def test_a_socket_that_was_bound(loop, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    async with unix_server(sock=sock) as server:
        assert sock.gettimeout() == 0
        assert server.sockets[0].fileno() == sock.fileno()
        await check_echo(path)
    assert sock.fileno() == -1


async def test_backlog(loop, path):
    async with unix_server(path, backlog=300):
        await asyncio.gather(*(check_echo(path) for _ in range(250)))


@pytest.mark.parametrize("backlog", [1, 100])
async def test_start_serving_false(loop, path, backlog):
    async with unix_server(path, start_serving=False, backlog=backlog) as server:
        assert os.path.exists(path) and not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_unix_connection(Recorder, path)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        await check_echo(path)
    assert not server.is_serving()


# ------------------------------------------------------------------------------------------------------------------ end


async def test_serve_forever_is_cancelled(loop, path):
    async with unix_server(path) as server:
        task = loop.create_task(server.serve_forever())
        await check_echo(path)
        with pytest.raises(RuntimeError, match="already being awaited"):
            await server.serve_forever()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving() and server.sockets == ()
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            await loop.create_unix_connection(Recorder, path)
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()


async def test_serve_forever_ends_with_the_server(loop, path):
    async with unix_server(path) as server:
        task = loop.create_task(server.serve_forever())
        await check_echo(path)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_closed_server_keeps_its_connections(loop, path):
    async with unix_server(path) as server:
        transport, protocol = await loop.create_unix_connection(Recorder, path)
        transport.write(b"x")
        await protocol.received(1)
        server.close()
        await settle()
        transport.write(b"y")
        assert await protocol.received(2) == b"xy"
        if sys.version_info >= (3, 12, 1):
            waiter = loop.create_task(server.wait_closed())
            await settle()
            assert not waiter.done()
            transport.close()
            await waiter
        else:
            transport.close()
        await protocol.lost


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in Python 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_clients_are_ended(loop, path, method):
    accepted = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.append(self)

    async with unix_server(path, Protocol) as server:
        clients = [await loop.create_unix_connection(Recorder, path) for _ in range(3)]
        while len(accepted) < 3:
            await asyncio.sleep(0)
        for protocol in accepted:
            # More than the socket takes, to clients that do not read.
            protocol.transport.write(bytes(2_000_000))
        for transport, _ in clients:
            transport.pause_reading()
        await settle()
        server.close()
        getattr(server, method)()
        await settle()
        assert [protocol.lost.done() for protocol in accepted] == [method == "abort_clients"] * 3
        for transport, protocol in clients:
            transport.resume_reading()
            await protocol.lost
            assert (len(protocol.data) == 2_000_000) is (method == "close_clients")
        assert [await protocol.lost for protocol in accepted] == [None] * 3
        await server.wait_closed()


async def test_descriptors(loop, path):
    async with unix_server(path):
        # libuv opens a descriptor in reserve with the first stream of a loop.
        await check_echo(path)
        await settle()
        before = open_descriptors()
    for _ in range(30):
        async with unix_server(path):
            await check_echo(path)
        await settle()
    assert open_descriptors() < before


async def test_async_with_server(loop, path):
    server = await loop.create_unix_server(Echo, path)
    async with server:
        await check_echo(path)
    assert not server.is_serving()


async def test_the_streams_interface(loop, path):
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(serve, path, limit=100_000) as server:
        assert server.sockets[0].getsockname() == path
        reader, writer = await asyncio.open_unix_connection(path, limit=100_000)
        writer.write(b"hello\n" + b"x" * 80_000 + b"\n")
        assert await reader.readline() == b"HELLO\n"
        assert len(await reader.readline()) == 80_001
        assert writer.get_extra_info("peername") == path
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        one, other = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=one)
        other.send(b"through a pair")
        assert await reader.readexactly(14) == b"through a pair"
        writer.close()
        await writer.wait_closed()
        other.close()

"""sock_connect and sock_accept: families, names, refusals, cancellation, what both return."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys

import pytest
from sockops import cancelled, first_step, listening, pair, waiting
from support import LOCALHOST, open_descriptors, run_program, settle


@contextlib.contextmanager
def client(family=socket.AF_INET, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as sock:
        sock.setblocking(False)
        yield sock


# --------------------------------------------------------------------------------------------------------- sock_connect


@pytest.mark.parametrize("host", [LOCALHOST, "localhost", "::1"])
async def test_connecting(loop, host):
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        if family == socket.AF_INET:
            raise
        pytest.skip("the kernel has no IPv6")
    with server, client(family) as sock:
        assert await loop.sock_connect(sock, (host, server.getsockname()[1])) is None
        accepted, _ = server.accept()
        with accepted:
            assert sock.getpeername() == server.getsockname()
            await loop.sock_sendall(sock, b"x")
            assert accepted.recv(10) == b"x"
        await settle()
        assert loop.remove_writer(sock) is False


async def test_connecting_again_and_again_lets_others_run(loop):
    """A connection to this machine stands when connect() returns, though that tells of one in progress."""
    turns = 0

    def count():
        nonlocal turns
        turns += 1
        handle[0] = loop.call_soon(count)

    handle = [loop.call_soon(count)]
    with listening() as server:
        for _ in range(64):
            with client() as sock:
                await loop.sock_connect(sock, server.getsockname())
                server.accept()[0].close()
    handle[0].cancel()
    assert turns >= 3


async def test_connecting_replaces_a_writer_and_leaves_none(loop):
    with listening() as server, client() as sock:
        loop.add_writer(sock, lambda: None)
        await loop.sock_connect(sock, server.getsockname())
        assert loop.remove_writer(sock) is False


async def test_connecting_in_a_task_that_is_being_cancelled(loop):
    connected = []

    async def connect(sock, address):
        asyncio.current_task().cancel()
        await loop.sock_connect(sock, address)
        connected.append(sock)

    with listening() as server, client() as sock:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(connect(sock, server.getsockname()))
        assert connected == []


async def test_the_resolver_is_asked_about_protocols_it_may_not_know(loop, monkeypatch):
    asked = []

    async def getaddrinfo(host, port, **options):
        asked.append(options["proto"])
        raise socket.gaierror(socket.EAI_SOCKTYPE, "unknown")

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo, raising=False)
    # What a socket says of itself is what it was made with: the kernel need not know the protocol.
    with (
        listening() as server,
        client() as sock,
        socket.socket(sock.family, sock.type, 132, fileno=os.dup(sock.fileno())) as other,
    ):
        other.setblocking(False)
        with pytest.raises(socket.gaierror):
            await loop.sock_connect(other, server.getsockname())
    assert asked == [132]


@pytest.mark.parametrize("port", ["text", "number"])
async def test_a_name_of_a_service(loop, port, monkeypatch):
    """The resolver of the loop is asked for what is no address, with the socket's family and type."""
    asked = []
    with listening() as server, client() as sock:
        address = server.getsockname()

        async def getaddrinfo(host, port, **options):
            asked.append((host, port, options["family"], options["type"]))
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo, raising=False)
        wanted = "service" if port == "text" else address[1]
        await loop.sock_connect(sock, ("name.example", wanted))
        assert asked == [("name.example", wanted, socket.AF_INET, socket.SOCK_STREAM)]
        assert sock.getpeername() == address


async def test_a_name_that_does_not_exist(loop):
    with client() as sock, pytest.raises(socket.gaierror):
        await loop.sock_connect(sock, ("does-not-exist.invalid", 80))


async def test_cancelled_while_the_name_is_resolved(loop, monkeypatch):
    async def getaddrinfo(host, port, **options):
        await asyncio.Event().wait()

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo, raising=False)
    with client() as sock:
        await cancelled(await waiting(loop.sock_connect(sock, ("name.example", 80))))
        with pytest.raises(OSError) as info:
            sock.getpeername()
        assert info.value.errno == errno.ENOTCONN


async def test_refused(loop):
    with listening() as server:
        address = server.getsockname()
    with client() as sock:
        with pytest.raises(ConnectionRefusedError) as info:
            await loop.sock_connect(sock, address)
        assert info.value.errno == errno.ECONNREFUSED
        assert str(info.value) == f"[Errno {errno.ECONNREFUSED}] Connect call failed {address}"
        await settle()
        assert loop.remove_writer(sock) is False


async def test_it_starts_at_once(loop):
    with listening() as server, client() as sock:
        coroutine = loop.sock_connect(sock, server.getsockname())
        with contextlib.suppress(StopIteration):
            coroutine.send(None)
        # Nothing of the loop has run since, but the kernel has the request.
        accepted, _ = server.accept()
        accepted.close()
        coroutine.close()
        await settle()


async def test_already_connected(loop):
    with pair() as (mine, peer):
        with pytest.raises(OSError) as info:
            await loop.sock_connect(mine, peer.getsockname())
        assert info.value.errno == errno.EISCONN
        await loop.sock_sendall(mine, b"x")
        assert peer.recv(10) == b"x"


async def test_connecting_a_datagram_socket(loop):
    with client(kind=socket.SOCK_DGRAM) as sock, socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind((LOCALHOST, 0))
        assert await loop.sock_connect(sock, peer.getsockname()) is None
        await loop.sock_sendall(sock, b"x")
        assert peer.recv(10) == b"x"


@pytest.mark.parametrize("address", [None, 5, "text", (LOCALHOST,), (), (1, 2, 3, 4, 5, 6)], ids=repr)
async def test_addresses_of_wrong_form(loop, address):
    with client() as sock, pytest.raises((TypeError, ValueError, OSError)):
        await loop.sock_connect(sock, address)


async def test_a_connection_of_another_family(loop):
    with client(socket.AF_INET) as sock, pytest.raises(OSError):
        await loop.sock_connect(sock, ("::1", 9))


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the platform has no UNIX sockets")
async def test_unix_sockets(loop, tmp_path):
    for path in (str(tmp_path / "server"), os.fsencode(tmp_path / "other")):
        with socket.socket(socket.AF_UNIX) as server, client(socket.AF_UNIX) as sock:
            server.bind(path)
            server.listen()
            server.setblocking(False)
            # No name to resolve, nothing to wait for.
            assert first_step(loop.sock_connect(sock, path)) is None
            accepted, address = await loop.sock_accept(server)
            with accepted:
                assert address == "" and accepted.family == socket.AF_UNIX
                await loop.sock_sendall(sock, b"x")
                assert await loop.sock_recv(accepted, 10) == b"x"
    with client(socket.AF_UNIX) as sock:
        with pytest.raises(FileNotFoundError):
            await loop.sock_connect(sock, str(tmp_path / "nothing"))
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_connect(sock, str(tmp_path / "server"))
        with pytest.raises(TypeError):
            await loop.sock_connect(sock, (LOCALHOST, 80))


async def test_a_cancelled_connect(loop):
    """The queue of the listener is full, so that the handshake of TCP does not end."""
    with socket.create_server((LOCALHOST, 0), backlog=0) as server, contextlib.ExitStack() as stack:
        tasks = []
        while not tasks or tasks[-1].done():
            sock = stack.enter_context(client())
            tasks.append(asyncio.ensure_future(loop.sock_connect(sock, server.getsockname())))
            await asyncio.sleep(0.02)
            assert len(tasks) < 50
        await cancelled(tasks[-1])
        await settle()
        assert loop.remove_writer(sock) is False
        for task in tasks[:-1]:
            assert task.result() is None


async def test_many_connections_at_once(loop):
    with listening() as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(client()) for _ in range(50)]

        async def accept():
            for _ in socks:
                sock, _ = await loop.sock_accept(server)
                stack.enter_context(sock)

        await asyncio.gather(accept(), *(loop.sock_connect(sock, server.getsockname()) for sock in socks))
        assert len({sock.getsockname() for sock in socks}) == 50


# ---------------------------------------------------------------------------------------------------------- sock_accept


async def test_a_connection_that_is_there(loop):
    with listening() as server, socket.create_connection(server.getsockname()) as peer:
        accepted, address = first_step(loop.sock_accept(server))
        with accepted:
            assert address == peer.getsockname() == accepted.getpeername()
            assert type(accepted) is socket.socket and accepted.gettimeout() == 0
            assert not accepted.get_inheritable()
        assert loop.remove_reader(server) is False


async def test_waiting_for_a_connection(loop):
    with listening() as server:
        task = await waiting(loop.sock_accept(server))
        with socket.create_connection(server.getsockname()) as peer:
            accepted, address = await task
            with accepted:
                assert address == peer.getsockname()
                assert accepted.gettimeout() == 0
        await settle()
        assert loop.remove_reader(server) is False


async def test_the_connections_come_in_order(loop):
    with listening() as server, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(socket.create_connection(server.getsockname())) for _ in range(20)]
        for peer in peers:
            accepted, address = await loop.sock_accept(server)
            accepted.close()
            assert address == peer.getsockname()


async def test_a_cancelled_accept_takes_no_connection(loop):
    with listening() as server:
        await cancelled(await waiting(loop.sock_accept(server)))
        with socket.create_connection(server.getsockname()) as peer:
            await settle()
            accepted, address = server.accept()
            accepted.close()
            assert address == peer.getsockname()
        assert loop.remove_reader(server) is False


async def test_cancelled_when_the_connection_is_already_there(loop):
    """Between its arrival and the turn of the loop that would accept it."""
    with listening() as server:
        task = await waiting(loop.sock_accept(server))
        before = open_descriptors()
        with socket.create_connection(server.getsockname()) as peer:
            await cancelled(task)
            await settle()
            accepted, address = server.accept()
            accepted.close()
            assert address == peer.getsockname()
        assert open_descriptors() == before


async def test_of_two_waiting_accepts_the_later_gets_the_connection(loop):
    with listening() as server:
        first = await waiting(loop.sock_accept(server))
        second = await waiting(loop.sock_accept(server))
        with socket.create_connection(server.getsockname()):
            accepted, _ = await second
            accepted.close()
        await settle()
        assert not first.done()
        await cancelled(first)


async def test_a_socket_that_does_not_listen(loop):
    with client() as sock:
        with pytest.raises(OSError) as info:
            await loop.sock_accept(sock)
        assert info.value.errno == errno.EINVAL
    with pair() as (mine, _):
        with pytest.raises(OSError) as info:
            await loop.sock_accept(mine)
        assert info.value.errno == errno.EINVAL


@pytest.mark.skipif(sys.platform == "win32", reason="the platform has no limit of descriptors")
def test_no_descriptor_is_left_for_a_connection(loop_kind):
    out = run_program(
        loop_kind,
        """
        import errno, resource

        async def main():
            loop = asyncio.get_running_loop()
            server = socket.create_server(("127.0.0.1", 0))
            server.setblocking(False)
            peer = socket.create_connection(server.getsockname())
            taken = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            try:
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
            try:
                await loop.sock_accept(server)
            except OSError as error:
                print(error.errno == errno.EMFILE)
            for fd in taken:
                os.close(fd)
            connection, address = await loop.sock_accept(server)
            print(address == peer.getsockname())
            for sock in (server, peer, connection):
                sock.close()

        run(main())
        """,
    )
    assert out.split() == ["True", "True"]

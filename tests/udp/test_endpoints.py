"""How datagram endpoints are made and end: keywords and their rules, kinds of sockets, names, closing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import socket
import stat
import struct
import sys
import warnings

import pytest
from support import LOCALHOST, DatagramRecorder, datagram_endpoint, open_descriptors, receive_datagram, settle

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no UNIX sockets")
# Before 3.11.8 and 3.12.2 the type had to be SOCK_DGRAM.
TYPES_BUT_STREAM = sys.version_info >= (3, 12, 2) or (3, 11, 8) <= sys.version_info < (3, 12)
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a feature of Linux")


def udp_socket():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((LOCALHOST, 0))
    return sock


# ------------------------------------------------------------------------------------------------------------- keywords


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "unexpected address family"),
        ({"local_addr": LOCALHOST}, TypeError, "2-tuple is expected"),
        ({"local_addr": (LOCALHOST, 0, 0)}, TypeError, "2-tuple is expected"),
        ({"local_addr": [LOCALHOST, 0]}, TypeError, "2-tuple is expected"),
        ({"remote_addr": (LOCALHOST,)}, TypeError, "2-tuple is expected"),
        ({"remote_addr": 5}, TypeError, "2-tuple is expected"),
        ({"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 5)}, ValueError, "can not get address information"),
        ({"local_addr": ("127.0.0.1", 0), "family": socket.AF_INET6}, OSError, None),
        ({"local_addr": ("no-such-host.invalid", 0)}, OSError, None),
        ({"local_addr": ("203.0.113.1", 0)}, OSError, None),
        ({"local_addr": (LOCALHOST, 0), "reuse_address": True}, TypeError, "unexpected keyword"),
        ({"local_addr": (LOCALHOST, 0), "backlog": 5}, TypeError, "unexpected keyword"),
        ({"family": socket.AF_INET, "proto": socket.IPPROTO_TCP}, OSError, None),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
async def test_keywords_that_raise(loop, options, error, message):
    before = open_descriptors()
    with pytest.raises(error, match=message):
        await loop.create_datagram_endpoint(DatagramRecorder, **options)
    gc.collect()
    # Threads that resolve names may still open and close files of their own.
    assert not any(stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in open_descriptors() - before)


@needs_unix
@pytest.mark.parametrize("address", [b"bytes", ("a", 5), 5, ["x"]], ids=repr)
@pytest.mark.parametrize("side", ["local_addr", "remote_addr"])
async def test_unix_addresses_are_strings(loop, side, address):
    with pytest.raises(TypeError, match="string is expected"):
        await loop.create_datagram_endpoint(DatagramRecorder, family=socket.AF_UNIX, **{side: address})


@pytest.mark.parametrize(
    "option",
    [
        {"local_addr": (LOCALHOST, 0)},
        {"remote_addr": (LOCALHOST, 5)},
        {"family": 1},
        {"proto": 1},
        {"flags": 1},
        {"reuse_port": True},
        {"allow_broadcast": True},
        {"family": 1, "proto": 2, "allow_broadcast": True},
    ],
    ids=lambda option: "-".join(option),
)
async def test_keywords_that_do_not_go_with_a_socket(loop, option):
    problems = ", ".join(f"{name}={value}" for name, value in option.items())
    with udp_socket() as sock:
        with pytest.raises(ValueError) as info:
            await loop.create_datagram_endpoint(DatagramRecorder, sock=sock, **option)
        assert str(info.value) == (
            f"socket modifier keyword arguments can not be used when sock is specified. ({problems})"
        )
        assert sock.fileno() >= 0


async def test_keywords_that_go_with_a_socket(loop):
    sock = udp_socket()
    sock.setblocking(True)
    options = {"local_addr": None, "remote_addr": None, "family": 0, "proto": 0, "flags": 0, "reuse_port": False}
    async with datagram_endpoint(sock=sock, allow_broadcast=False, **options):
        assert sock.gettimeout() == 0


@pytest.mark.parametrize("family", [socket.AF_INET, *([socket.AF_UNIX] if hasattr(socket, "AF_UNIX") else [])])
async def test_a_stream_socket_is_refused(loop, family):
    with socket.socket(family) as sock:
        with pytest.raises(ValueError, match="A (datagram|UDP) [Ss]ocket was expected, got <socket"):
            await loop.create_datagram_endpoint(DatagramRecorder, sock=sock)
        assert sock.fileno() >= 0


async def test_family_alone(loop):
    with udp_socket() as peer:
        async with datagram_endpoint(family=socket.AF_INET) as (transport, protocol):
            assert transport.get_extra_info("sockname") == ("0.0.0.0", 0)
            # The kernel binds it now.
            transport.sendto(b"x", peer.getsockname())
            _, sender = await receive_datagram(peer)
            # The name is that of the beginning; the socket tells the current one.
            assert transport.get_extra_info("sockname") == ("0.0.0.0", 0)
            assert transport.get_extra_info("socket").getsockname()[1] == sender[1]
            peer.sendto(b"y", sender)
            assert await protocol.received(1) == [b"y"]


@pytest.mark.parametrize("options", [{"family": socket.AF_INET}, {"proto": socket.IPPROTO_UDP}, {"flags": 1}])
async def test_what_restricts_resolution(loop, monkeypatch, options):
    calls = []
    original = loop.getaddrinfo

    async def getaddrinfo(host, port, **keywords):
        calls.append((host, port, keywords))
        return await original("127.0.0.1", port, type=socket.SOCK_DGRAM)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    async with datagram_endpoint(local_addr=("some-name", 0), **options) as (transport, _):
        assert transport.get_extra_info("sockname")[0] == "127.0.0.1"
    expected = {"family": 0, "type": socket.SOCK_DGRAM, "proto": 0, "flags": 0, **options}
    assert calls == [("some-name", 0, expected)]


async def test_host_names_are_resolved(loop):
    async with datagram_endpoint(local_addr=("localhost", 0), family=socket.AF_INET) as (server, served):
        port = server.get_extra_info("sockname")[1]
        assert server.get_extra_info("sockname")[0].startswith("127.")
        async with datagram_endpoint(remote_addr=("localhost", port), family=socket.AF_INET) as (client, _):
            client.sendto(b"x")
            assert await served.received(1) == [b"x"]


async def test_the_next_address_is_tried(loop, monkeypatch):
    async def getaddrinfo(host, port, **_):
        kind = (socket.SOCK_DGRAM, socket.IPPROTO_UDP, "")
        return [
            (socket.AF_INET6, *kind, ("2001:db8::1", port, 0, 0)),
            (socket.AF_INET, *kind, ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    async with datagram_endpoint(local_addr=("name", 0)) as (transport, _):
        assert transport.get_extra_info("sockname")[0] == "127.0.0.1"


async def test_empty_answer_of_the_resolver(loop, monkeypatch):
    async def getaddrinfo(host, port, **_):
        return []

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match="returned empty list"):
        await loop.create_datagram_endpoint(DatagramRecorder, local_addr=("name", 0))


async def test_a_port_in_use(loop):
    async with datagram_endpoint() as (transport, _):
        with pytest.raises(OSError) as info:
            await loop.create_datagram_endpoint(DatagramRecorder, local_addr=transport.get_extra_info("sockname"))
        assert info.value.errno == errno.EADDRINUSE


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")
async def test_reuse_port(loop):
    async with datagram_endpoint(local_addr=(LOCALHOST, 0), reuse_port=True) as (one, first):
        address = one.get_extra_info("sockname")
        assert one.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        async with datagram_endpoint(local_addr=address, reuse_port=True) as (_, second):
            with contextlib.ExitStack() as stack:
                for _ in range(50):
                    stack.enter_context(udp_socket()).sendto(b"x", address)
                while len(first.datagrams) + len(second.datagrams) < 50:
                    await asyncio.sleep(0.001)
                assert first.datagrams and second.datagrams


async def test_reuse_port_needs_the_option(loop, monkeypatch):
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(ValueError, match="reuse_port not supported by socket module"):
        await loop.create_datagram_endpoint(DatagramRecorder, local_addr=(LOCALHOST, 0), reuse_port=True)
    gc.collect()


@pytest.mark.parametrize("allowed", [True, False, None])
async def test_allow_broadcast(loop, allowed):
    async with datagram_endpoint(local_addr=("0.0.0.0", 0), allow_broadcast=allowed) as (transport, protocol):
        sock = transport.get_extra_info("socket")
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)) is bool(allowed)
        # The broadcast address of the loopback network, whatever other interfaces there are.
        transport.sendto(b"x", ("127.255.255.255", sock.getsockname()[1]))
        if allowed:
            assert await protocol.received(1) == [b"x"]
        else:
            assert [type(error) for error in protocol.errors] == [PermissionError]


async def test_multicast_on_loopback(loop):
    group = "239.255.42.42"
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", 0))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(LOCALHOST))
    port = sock.getsockname()[1]
    async with datagram_endpoint(sock=sock) as (_, protocol), datagram_endpoint() as (sender, _):
        options = sender.get_extra_info("socket")
        options.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOCALHOST))
        options.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sender.sendto(b"to the group", (group, port))
        assert await protocol.received(1) == [b"to the group"]
        assert protocol.datagrams[0][1] == sender.get_extra_info("sockname")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no sockets for both IPv4 and IPv6")
async def test_both_families_through_one_socket(loop):
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    port = sock.getsockname()[1]
    async with datagram_endpoint(sock=sock) as (transport, protocol), datagram_endpoint() as (client, received):
        client.sendto(b"over IPv4", (LOCALHOST, port))
        assert await protocol.received(1) == [b"over IPv4"]
        host, *rest = protocol.datagrams[0][1]
        assert (host, *rest) == (f"::ffff:{LOCALHOST}", client.get_extra_info("sockname")[1], 0, 0)
        # Host and port are enough.
        transport.sendto(b"back", (host, rest[0]))
        assert await received.received(1) == [b"back"]
        assert received.datagrams[0][1] == (LOCALHOST, port)


async def test_the_descriptor_cannot_be_watched_besides(loop):
    async with datagram_endpoint() as (transport, protocol):
        sock = transport.get_extra_info("socket")
        for method in (loop.add_reader, loop.add_writer):
            for fd in (sock, sock.fileno()):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    method(fd, print)
        for method in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                method(sock)
        transport.sendto(b"still usable", transport.get_extra_info("sockname"))
        assert await protocol.received(1) == [b"still usable"]


async def test_debug_mode_logs(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 100
    with caplog.at_level(logging.DEBUG, "asyncio"):
        async with datagram_endpoint() as (transport, protocol):
            assert f"Datagram endpoint local_addr=('{LOCALHOST}', 0) remote_addr=None created: (" in caplog.text
            address = transport.get_extra_info("sockname")
            async with datagram_endpoint(remote_addr=address) as (client, _):
                assert f"Datagram endpoint remote_addr={address!r} created: (" in caplog.text
                client.sendto(b"x")
                assert await protocol.received(1) == [b"x"]
    loop.set_debug(False)


# ------------------------------------------------------------------------------------------------------- other families


def unix_names(tmp_path):
    return [str(tmp_path / "one"), str(tmp_path / "two")]


def abstract_names(tmp_path):
    return [f"\0loopfast-test-{os.getpid()}-{id(tmp_path)}-{number}" for number in range(2)]


@needs_unix
@pytest.mark.parametrize("names", [unix_names, pytest.param(abstract_names, marks=needs_linux)])
async def test_unix_datagrams(loop, tmp_path, names):
    one, two = names(tmp_path)
    # The kernel tells abstract names as bytes.
    told = [name.encode() if name[0] == "\0" else name for name in (one, two)]
    async with datagram_endpoint(family=socket.AF_UNIX, local_addr=one) as (server, served):
        assert server.get_extra_info("sockname") == told[0]
        assert not server.get_extra_info("peername")
        async with datagram_endpoint(family=socket.AF_UNIX, local_addr=two, remote_addr=one) as (client, asked):
            assert client.get_extra_info("peername") == told[0]
            client.sendto(b"question")
            assert await served.received(1) == [b"question"]
            assert served.datagrams[0][1] == told[1]
            server.sendto(b"answer", told[1])
            assert await asked.received(1) == [b"answer"]
            server.sendto(b"again", two)
            await asked.received(2)
            with pytest.raises(ValueError, match="must be None or"):
                client.sendto(b"x", two)
        async with datagram_endpoint(family=socket.AF_UNIX) as (nameless, _):
            nameless.sendto(b"who am I?", one)
            await served.received(2)
            assert served.datagrams[1] == (b"who am I?", None)


@needs_unix
async def test_a_stale_unix_socket_is_replaced_and_a_file_is_not(loop, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
    inode = os.stat(path).st_ino
    os.link(path, path + ".kept")
    async with datagram_endpoint(family=socket.AF_UNIX, local_addr=path) as (transport, _):
        assert os.stat(path).st_ino != inode
        assert transport.get_extra_info("sockname") == path
    # It stays when the endpoint is closed.
    assert os.path.exists(path)
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(OSError) as info:
        await loop.create_datagram_endpoint(DatagramRecorder, family=socket.AF_UNIX, local_addr=str(file))
    assert info.value.errno == errno.EADDRINUSE
    assert file.read_text() == "precious"


@needs_unix
async def test_unix_paths_that_are_missing_or_too_long(loop, tmp_path):
    with pytest.raises(FileNotFoundError):
        await loop.create_datagram_endpoint(
            DatagramRecorder, family=socket.AF_UNIX, remote_addr=str(tmp_path / "missing")
        )
    with pytest.raises(OSError, match="too long"):
        await loop.create_datagram_endpoint(
            DatagramRecorder, family=socket.AF_UNIX, local_addr=str(tmp_path / ("x" * 200))
        )
    async with datagram_endpoint(family=socket.AF_UNIX) as (transport, protocol):
        transport.sendto(b"x", str(tmp_path / "missing"))
        assert [type(error) for error in protocol.errors] == [FileNotFoundError]


@needs_unix
async def test_socket_pairs(loop, reports):
    mine, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with peer:
        async with datagram_endpoint(sock=mine) as (transport, protocol):
            peer.send(b"three")
            peer.send(b"four")
            assert await protocol.received(2) == [b"three", b"four"]
            assert {address for _, address in protocol.datagrams} == {None}
            # A peer without a name does not count as one: there has to be an address, and there is none.
            assert transport.get_extra_info("peername") == ""
            assert not transport.is_closing()
            transport.sendto(b"one")
            assert isinstance(reports.take()["exception"], TypeError)
            assert isinstance(await protocol.lost, TypeError)


@needs_unix
async def test_seqpacket(loop, tmp_path):
    if not hasattr(socket, "SOCK_SEQPACKET"):
        pytest.skip("no SOCK_SEQPACKET")
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(1)
        mine = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.connect(path)
        peer, _ = listener.accept()
    peer.setblocking(False)
    with mine, peer:
        if not TYPES_BUT_STREAM:
            with pytest.raises(ValueError, match="A UDP Socket was expected"):
                await loop.create_datagram_endpoint(DatagramRecorder, sock=mine)
            return
        async with datagram_endpoint(sock=mine) as (transport, protocol):
            assert transport.get_extra_info("peername") == path
            transport.sendto(b"one")
            transport.sendto(b"two", None)
            assert [(await receive_datagram(peer))[0] for _ in range(2)] == [b"one", b"two"]
            peer.send(b"three")
            assert await protocol.received(1) == [b"three"]


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="no netlink sockets")
async def test_netlink(loop):
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
    sock.bind((0, 0))
    async with datagram_endpoint(sock=sock) as (transport, protocol):
        assert transport.get_extra_info("sockname") == sock.getsockname()
        # RTM_GETLINK, as a dump: header, then an empty ifinfomsg.
        transport.sendto(struct.pack("IHHIIBxHiII", 32, 18, 0x301, 7, 0, 0, 0, 0, 0, 0), (0, 0))
        await protocol.received(1)
        data, address = protocol.datagrams[0]
        assert struct.unpack_from("IHHI", data)[1:4:2] == (16, 7)
        assert address == (0, 0)


# -------------------------------------------------------------------------------------------------------------- closing


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_the_end(loop, ending):
    async with datagram_endpoint() as (transport, protocol):
        sock = transport.get_extra_info("socket")
        assert not transport.is_closing()
        getattr(transport, ending)()
        assert transport.is_closing()
        assert protocol.events == ["made"] and sock.fileno() >= 0
        assert await protocol.lost is None
        await settle()
        assert sock.fileno() == -1
        transport.close()
        transport.abort()
        await settle()
        assert protocol.events == ["made", "lost"]
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert transport.get_extra_info("sockname")[0] == LOCALHOST
        repr(transport)


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_the_end_inside_datagram_received(loop, ending):
    class Protocol(DatagramRecorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            getattr(self.transport, ending)()

    sock = udp_socket()
    with udp_socket() as peer:
        for _ in range(5):
            peer.sendto(b"x", sock.getsockname())
        async with datagram_endpoint(Protocol, sock=sock) as (_, protocol):
            assert await protocol.lost is None
            assert protocol.events == ["made", "datagram", "lost"]


async def test_the_end_inside_connection_made(loop):
    class Protocol(DatagramRecorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.close()

    sock = udp_socket()
    with udp_socket() as peer:
        peer.sendto(b"x", sock.getsockname())
        async with datagram_endpoint(Protocol, sock=sock) as (transport, protocol):
            assert transport.is_closing()
            assert await protocol.lost is None
            assert protocol.events == ["made", "lost"]


async def test_the_end_inside_error_received(loop):
    class Protocol(DatagramRecorder):
        def error_received(self, exc):
            super().error_received(exc)
            self.transport.abort()

    async with datagram_endpoint(Protocol) as (transport, protocol):
        transport.sendto(bytes(70_000), (LOCALHOST, 9))
        assert await protocol.lost is None
        assert protocol.events == ["made", "error", "lost"]


async def test_sendto_after_the_end_is_logged_and_lost(loop, caplog):
    with udp_socket() as peer:
        async with datagram_endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
            transport.close()
            for _ in range(3):
                transport.sendto(b"x")
            await protocol.lost
            for _ in range(4):
                transport.sendto(b"x")
            assert [record.getMessage() for record in caplog.records] == ["socket.send() raised exception."] * 3
            with pytest.raises(TypeError):
                transport.sendto("x")
            with pytest.raises(BlockingIOError):
                peer.recv(10)


async def test_repr_in_every_state(loop):
    async with datagram_endpoint() as (transport, protocol):
        assert f"fd={transport.get_extra_info('socket').fileno()}" in repr(transport)
        transport.close()
        assert "closing" in repr(transport)
        await protocol.lost
        await settle()
        assert "closed" in repr(transport)


async def test_a_cancelled_creation_leaves_nothing(loop):
    before = open_descriptors()
    task = loop.create_task(loop.create_datagram_endpoint(DatagramRecorder, local_addr=(LOCALHOST, 0)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert open_descriptors() == before


async def test_descriptors_of_many_endpoints(loop):
    before = open_descriptors()
    for _ in range(20):
        endpoints = [
            await loop.create_datagram_endpoint(DatagramRecorder, local_addr=(LOCALHOST, 0)) for _ in range(20)
        ]
        for transport, _ in endpoints:
            transport.close()
        await asyncio.gather(*(protocol.lost for _, protocol in endpoints))
        await settle()
    assert open_descriptors() == before


async def test_the_number_of_a_closed_descriptor_is_not_touched_again(loop):
    async with datagram_endpoint() as (transport, protocol):
        fd = transport.get_extra_info("socket").fileno()
        transport.close()
        await protocol.lost
        await settle()
        reader, writer = os.pipe()
        try:
            os.dup2(reader, fd) if fd not in (reader, writer) else None
            transport.abort()
            await settle()
            os.fstat(fd)
        finally:
            for number in {reader, writer, fd}:
                os.close(number)


def test_a_closed_loop(loop, recwarn):
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with udp_socket() as sock, pytest.raises(RuntimeError, match="Event loop is closed"):
        coroutine = loop.create_datagram_endpoint(lambda: DatagramRecorder(loop), sock=sock)
        try:
            coroutine.send(None)
        finally:
            coroutine.close()
    gc.collect()


@pytest.mark.filterwarnings("default::ResourceWarning")
@pytest.mark.parametrize("loop_closed", [False, True])
def test_an_endpoint_nobody_closed(loop_factory, loop_closed):
    gc.collect()
    before = open_descriptors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = loop_factory()
        transport, protocol = loop.run_until_complete(
            loop.create_datagram_endpoint(lambda loop=loop: DatagramRecorder(loop), local_addr=(LOCALHOST, 0))
        )
        fd = transport.get_extra_info("socket").fileno()
        if loop_closed:
            loop.close()
        protocol.transport = None
        del transport, protocol, loop
        gc.collect()
    messages = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    assert any("unclosed transport" in message and f"fd={fd}" in message for message in messages), messages
    assert open_descriptors() == before

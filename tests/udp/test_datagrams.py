"""Datagrams from one end to the other: addresses, sizes, order, errors, exceptions, contexts."""

from __future__ import annotations

import array
import asyncio
import contextvars
import errno
import socket
import sys
import threading

import pytest
from support import LOCALHOST, DatagramRecorder, datagram_endpoint, pattern, receive_datagram, settle, until

EMPTY_DATAGRAMS_ARE_SENT = sys.version_info >= (3, 13)


def ipv6_is_there():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


def link_local_address():
    """Return an IPv6 address of this machine that means nothing without its scope id, or None."""
    try:
        with open("/proc/net/if_inet6") as table:
            lines = [line.split() for line in table]
    except OSError:
        return None
    for digits, index, _, scope, flags, _name in lines:
        # 0x40: tentative, cannot be bound yet.
        if scope == "20" and not int(flags, 16) & 0x40:
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))}%{int(index, 16)}"
    return None


LINK_LOCAL = link_local_address()
HOSTS = [
    LOCALHOST,
    pytest.param("::1", marks=pytest.mark.skipif(not ipv6_is_there(), reason="no IPv6")),
    pytest.param(LINK_LOCAL, marks=pytest.mark.skipif(not LINK_LOCAL, reason="no link-local address"), id="link-local"),
]


def bound_socket(host=LOCALHOST):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, 0))
    return sock


@pytest.fixture
def deaf_address():
    """An address that nobody else gets meanwhile: what is connected takes nothing from strangers."""
    with bound_socket() as sock:
        sock.connect((LOCALHOST, 9))
        yield sock.getsockname()


# -------------------------------------------------------------------------------------------------- exchange, addresses


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
async def test_exchange(loop, host, connected):
    async with datagram_endpoint(local_addr=(host, 0)) as (server, served):
        address = server.get_extra_info("sockname")
        options = {"remote_addr": (host, address[1])} if connected else {"local_addr": (host, 0)}
        async with datagram_endpoint(**options) as (client, asked):
            client.sendto(b"question", None if connected else address)
            assert await served.received(1) == [b"question"]
            _, sender = served.datagrams[0]
            # A scope id that is lost would show here.
            assert sender == client.get_extra_info("sockname")
            server.sendto(b"answer", sender)
            assert await asked.received(1) == [b"answer"]
            assert asked.datagrams[0][1] == address
            assert type(asked.datagrams[0][0]) is bytes and type(sender) is tuple
            assert len(address) == (4 if ":" in host else 2)
            assert client.get_extra_info("peername") == (address if connected else None)


async def test_extra_info(loop):
    with bound_socket() as peer:
        async with datagram_endpoint(local_addr=(LOCALHOST, 0), remote_addr=peer.getsockname()) as (transport, _):
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert transport.get_extra_info("socket") is sock
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_DGRAM)
            assert transport.get_extra_info("sockname") == sock.getsockname()
            assert transport.get_extra_info("peername") == peer.getsockname()
            assert transport.get_extra_info("nothing") is None
            assert transport.get_extra_info("nothing", 5) == 5
        assert sock.fileno() == -1


async def test_the_transport_is_one_of_asyncio(loop):
    async with datagram_endpoint() as (transport, protocol):
        # Up to 3.12 asyncio's own is no DatagramTransport.
        assert isinstance(transport, asyncio.BaseTransport)
        assert isinstance(transport, asyncio.DatagramTransport) or sys.version_info < (3, 13)
        assert transport.get_protocol() is protocol
        assert protocol.transport is transport
        transport.note = "an attribute of the user"
        assert transport.note == "an attribute of the user"


async def test_a_datagram_leaves_at_once(loop):
    with bound_socket() as peer:
        async with datagram_endpoint() as (transport, _):
            assert transport.sendto(b"now", peer.getsockname()) is None
            assert peer.recv(100) == b"now"
            assert transport.get_write_buffer_size() == 0


async def test_host_names_in_sendto(loop):
    with bound_socket() as peer:
        async with datagram_endpoint() as (transport, _):
            transport.sendto(b"named", ("localhost", peer.getsockname()[1]))
            assert (await receive_datagram(peer))[0] == b"named"


@pytest.mark.skipif(not ipv6_is_there(), reason="no IPv6")
@pytest.mark.parametrize("written", [("0:0:0:0:0:0:0:1",), ("::1",), ("::1", 0)])
async def test_senders_are_named_as_the_kernel_does_not_as_sendto_was_asked(loop, written):
    with bound_socket("::1") as peer:
        async with datagram_endpoint(local_addr=("::1", 0)) as (transport, protocol):
            address = (written[0], peer.getsockname()[1], *written[1:])
            for _ in range(2):
                transport.sendto(b"question", address)
                assert (await receive_datagram(peer))[0] == b"question"
                peer.sendto(b"answer", transport.get_extra_info("sockname"))
            await protocol.received(2)
            assert [sender for _, sender in protocol.datagrams] == [peer.getsockname()] * 2


@pytest.mark.loopfast_only("no method of a transport is for other threads; here a loop that sleeps hears of the end")
async def test_the_end_from_another_thread(loop):
    protocol = DatagramRecorder()
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=(LOCALHOST, 0))
    thread = threading.Timer(0.05, transport.close)
    thread.start()
    await asyncio.wait_for(protocol.lost, 5)
    thread.join()


async def test_a_connected_endpoint_hears_its_peer_only(loop):
    with bound_socket() as peer, bound_socket() as stranger:
        async with datagram_endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
            address = transport.get_extra_info("sockname")
            stranger.sendto(b"from a stranger", address)
            peer.sendto(b"from the peer", address)
            assert await protocol.received(1) == [b"from the peer"]


@pytest.mark.parametrize("host", HOSTS[:2])
async def test_the_address_with_a_connected_endpoint(loop, host):
    with bound_socket(host) as peer:
        address = peer.getsockname()
        async with datagram_endpoint(remote_addr=address[:2]) as (transport, _):
            for count, accepted in enumerate([(), (None,), (address,)]):
                transport.sendto(b"%d" % count, *accepted)
                assert (await receive_datagram(peer))[0] == b"%d" % count
            others = [("127.0.0.1", 9), (host, address[1] + 1), list(address), host, 5]
            if ":" in host:
                others.append(address[:2])
            for other in others:
                with pytest.raises(ValueError) as info:
                    transport.sendto(b"x", other)
                assert str(info.value) == f"Invalid address: must be None or {address}"
            with pytest.raises(TypeError):
                transport.sendto(b"x", address, 5)
            transport.sendto(addr=None, data=b"by keyword")
            assert (await receive_datagram(peer))[0] == b"by keyword"


async def test_the_address_is_not_looked_at_if_the_socket_came_connected(loop):
    with bound_socket() as peer:
        mine = bound_socket()
        mine.connect(peer.getsockname())
        async with datagram_endpoint(sock=mine) as (transport, _):
            assert transport.get_extra_info("peername") == peer.getsockname()
            transport.sendto(b"one")
            transport.sendto(b"two", ("127.0.0.1", 1))
            assert (await receive_datagram(peer))[0] == b"one"
            assert (await receive_datagram(peer))[0] == b"two"


async def test_allow_broadcast_with_a_remote_address(loop):
    with bound_socket() as peer, bound_socket() as stranger:
        address = peer.getsockname()
        async with datagram_endpoint(remote_addr=address, allow_broadcast=True) as (transport, protocol):
            # Not connected, so that answers may come from everywhere; it still sends to this address only.
            assert transport.get_extra_info("peername") is None
            transport.sendto(b"one")
            data, sender = await receive_datagram(peer)
            assert data == b"one"
            with pytest.raises(ValueError, match="must be None or"):
                transport.sendto(b"x", stranger.getsockname())
            stranger.sendto(b"two", (LOCALHOST, sender[1]))
            assert await protocol.received(1) == [b"two"]


# -------------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "data", ["text", None, 5, [b"x"], array.array("b", b"x")], ids=lambda data: type(data).__name__
)
@pytest.mark.parametrize("connected", [False, True])
async def test_data_of_a_wrong_type(loop, data, connected):
    with bound_socket() as peer:
        options = {"remote_addr": peer.getsockname()} if connected else {"local_addr": (LOCALHOST, 0)}
        async with datagram_endpoint(**options) as (transport, protocol):
            with pytest.raises(TypeError, match="data argument must be a bytes.* not '" + type(data).__name__):
                transport.sendto(data, peer.getsockname())
            assert not transport.is_closing()
            transport.sendto(b"still usable", peer.getsockname())
            assert (await receive_datagram(peer))[0] == b"still usable"
            assert protocol.errors == []


@pytest.mark.parametrize(
    "data",
    [
        b"abcd",
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        memoryview(bytearray(b"xabcdx"))[1:5],
        memoryview(array.array("H", b"abcd")),
    ],
    ids=["bytes", "bytearray", "memoryview", "part of a memoryview", "memoryview of words"],
)
async def test_data_of_every_type(loop, data):
    with bound_socket() as peer:
        async with datagram_endpoint() as (transport, _):
            transport.sendto(data, peer.getsockname())
            assert (await receive_datagram(peer))[0] == b"abcd"


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (None, TypeError),
        ((LOCALHOST,), TypeError),
        ((LOCALHOST, "53"), TypeError),
        ("127.0.0.1:53", TypeError),
        ([LOCALHOST, 53], TypeError),
        ((LOCALHOST, 65536), OverflowError),
        ((LOCALHOST, -1), OverflowError),
    ],
    ids=repr,
)
async def test_an_address_of_a_wrong_form_is_fatal(loop, reports, address, error):
    async with datagram_endpoint() as (transport, protocol):
        transport.sendto(b"x", address)
        assert transport.is_closing()
        context = reports.take()
        assert context["message"] == "Fatal write error on datagram transport"
        assert isinstance(context["exception"], error)
        assert context["transport"] is transport and context["protocol"] is protocol
        assert await protocol.lost is context["exception"]
        assert protocol.errors == []


async def test_data_that_is_not_contiguous_is_fatal(loop, reports):
    with bound_socket() as peer:
        async with datagram_endpoint() as (transport, protocol):
            transport.sendto(memoryview(b"abcd")[::2], peer.getsockname())
            context = reports.take()
            assert context["message"] == "Fatal write error on datagram transport"
            assert isinstance(context["exception"], BufferError)
            assert await protocol.lost is context["exception"]


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (("255.255.255.255", 9), PermissionError),
        (("<broadcast>", 9), PermissionError),
        (("no-such-host.invalid", 9), socket.gaierror),
        (("::1", 9), socket.gaierror),
    ],
    ids=["broadcast", "broadcast by name", "unknown name", "other family"],
)
async def test_what_the_system_refuses_is_an_error_and_no_end(loop, address, kind):
    with bound_socket() as peer:
        async with datagram_endpoint() as (transport, protocol):
            transport.sendto(b"x", address)
            # Inside sendto().
            assert protocol.events == ["made", "error"]
            assert isinstance(protocol.errors[0], kind)
            transport.sendto(b"still usable", peer.getsockname())
            assert (await receive_datagram(peer))[0] == b"still usable"


# ----------------------------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize("host", HOSTS[:2])
async def test_the_largest_datagram_and_one_that_is_too_long(loop, host):
    # IPv6 counts without its own header.
    largest = 65535 - 8 if ":" in host else 65535 - 8 - 20
    async with datagram_endpoint(local_addr=(host, 0)) as (receiver, received):
        address = receiver.get_extra_info("sockname")
        async with datagram_endpoint(local_addr=(host, 0)) as (transport, protocol):
            data = pattern(largest)
            transport.sendto(data, address)
            assert await received.received(1) == [data]
            transport.sendto(data + b"x", address)
            assert [error.errno for error in await protocol.failed()] == [errno.EMSGSIZE]
            transport.sendto(b"still usable", address)
            assert (await received.received(2))[1] == b"still usable"


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")], ids=lambda data: type(data).__name__)
@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
async def test_empty_datagrams(loop, empty, connected):
    with bound_socket() as peer:
        options = {"remote_addr": peer.getsockname()} if connected else {"local_addr": (LOCALHOST, 0)}
        async with datagram_endpoint(**options) as (transport, protocol):
            transport.sendto(empty, peer.getsockname())
            transport.sendto(b"x", peer.getsockname())
            if EMPTY_DATAGRAMS_ARE_SENT:
                assert (await receive_datagram(peer))[0] == b""
            assert (await receive_datagram(peer))[0] == b"x"
            mine = transport.get_extra_info("sockname")
            for data in (b"", b"y", b"", b""):
                peer.sendto(data, mine)
            assert await protocol.received(4) == [b"", b"y", b"", b""]
            assert {address for _, address in protocol.datagrams} == {peer.getsockname()}


# ---------------------------------------------------------------------------------------------------------------- order


async def test_order_of_many_datagrams(loop):
    async with datagram_endpoint() as (receiver, received):
        address = receiver.get_extra_info("sockname")
        async with datagram_endpoint() as (transport, _):
            for start in range(0, 3000, 100):
                for number in range(start, start + 100):
                    transport.sendto(b"%d" % number, address)
                await received.received(start + 100)
            assert [data for data, _ in received.datagrams] == [b"%d" % number for number in range(3000)]


async def test_a_burst_larger_than_the_receive_buffer(loop):
    async with datagram_endpoint() as (receiver, received):
        address = receiver.get_extra_info("sockname")
        async with datagram_endpoint() as (transport, protocol):
            for number in range(5000):
                transport.sendto(b"%d" % number, address)
            # The kernel dropped what had no room; what came is in order, and nothing came twice.
            await received.received(1)
            await settle()
            while received.datagrams[-1][0] != b"end":
                transport.sendto(b"end", address)
                await asyncio.sleep(0.001)
            numbers = [int(data) for data, _ in received.datagrams if data != b"end"]
            assert numbers[:50] == list(range(50))
            assert numbers == sorted(set(numbers))
            assert protocol.errors == []


async def test_what_waited_in_the_socket_is_received(loop):
    mine = bound_socket()
    with bound_socket() as peer:
        for number in range(100):
            peer.sendto(b"%d" % number, mine.getsockname())
        async with datagram_endpoint(sock=mine) as (_, protocol):
            assert await protocol.received(100) == [b"%d" % number for number in range(100)]


async def test_a_flood_does_not_starve_the_loop(loop):
    """Two endpoints throw a ball at each other without an end; timers and other callbacks run all the same."""

    class Player(DatagramRecorder):
        def datagram_received(self, data, addr):
            self.events.append("datagram")
            self.transport.sendto(data, addr)
            self.transport.sendto(data, addr) if len(self.events) < 50 else None

    async with datagram_endpoint(Player) as (one, first), datagram_endpoint(Player) as (other, _):
        one.sendto(b"ball", other.get_extra_info("sockname"))
        await until(lambda: len(first.events) > 200)
        for _ in range(20):
            await asyncio.sleep(0.001)


# ----------------------------------------------------------------------------------------------------- port unreachable


@pytest.mark.parametrize("host", HOSTS[:2])
async def test_port_unreachable(loop, host):
    deaf = bound_socket(host)
    deaf.connect((host, 9))
    address = deaf.getsockname()
    async with datagram_endpoint(remote_addr=address[:2]) as (transport, protocol):
        transport.sendto(b"to nobody")
        errors = await protocol.failed()
        assert isinstance(errors[0], ConnectionRefusedError)
        assert not transport.is_closing()
        deaf.close()
        # Somebody opens the port: the endpoint works.
        async with datagram_endpoint(local_addr=address[:2]) as (server, served):
            transport.sendto(b"to somebody")
            assert await served.received(1) == [b"to somebody"]
            server.sendto(b"back", served.datagrams[0][1])
            assert await protocol.received(1) == [b"back"]
        assert len(errors) == 1


async def test_port_unreachable_is_told_by_the_next_sendto(loop, deaf_address):
    async with datagram_endpoint(remote_addr=deaf_address) as (transport, protocol):
        transport.sendto(b"x")
        assert protocol.errors == []
        transport.sendto(b"x")
        assert [type(error) for error in protocol.errors] == [ConnectionRefusedError]
        await settle()
        transport.close()
        assert await protocol.lost is None
        assert set(map(type, protocol.errors)) == {ConnectionRefusedError}


async def test_an_unconnected_endpoint_does_not_hear_of_closed_ports(loop, deaf_address):
    with bound_socket() as peer:
        async with datagram_endpoint() as (transport, protocol):
            transport.sendto(b"x", deaf_address)
            await settle()
            transport.sendto(b"x", peer.getsockname())
            await receive_datagram(peer)
            assert protocol.events == ["made"]


# ---------------------------------------------------------------------------------------------------- exceptions, calls


def raising(name):
    def method(self, *args):
        getattr(DatagramRecorder, name)(self, *args)
        raise ZeroDivisionError(name)

    return type("Protocol", (DatagramRecorder,), {name: method})


@pytest.mark.parametrize("name", ["connection_made", "datagram_received", "connection_lost"])
async def test_an_exception_in_a_callback_is_reported(loop, reports, name):
    with bound_socket() as peer:
        async with datagram_endpoint(raising(name)) as (transport, protocol):
            for number in range(2):
                peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            assert await protocol.received(2) == [b"0", b"1"]
            transport.sendto(b"still usable", peer.getsockname())
            assert (await receive_datagram(peer))[0] == b"still usable"
            sock = transport.get_extra_info("socket")
            transport.close()
            assert await protocol.lost is None
            await settle()
            assert sock.fileno() == -1
        for _ in range(2 if name == "datagram_received" else 1):
            context = reports.take()
            assert str(context["exception"]) == name
            assert context["message"].startswith("Exception in callback")


async def test_an_exception_in_error_received_comes_out_of_sendto(loop):
    async with datagram_endpoint(raising("error_received")) as (transport, protocol):
        with pytest.raises(ZeroDivisionError, match="error_received"):
            transport.sendto(bytes(70_000), (LOCALHOST, 9))
        assert not transport.is_closing()
        assert len(protocol.errors) == 1


async def test_an_exception_in_error_received_of_a_read_is_reported(loop, reports, deaf_address):
    async with datagram_endpoint(raising("error_received"), remote_addr=deaf_address) as (
        transport,
        protocol,
    ):
        transport.sendto(b"x")
        await protocol.failed()
        await settle()
        assert str(reports.take()["exception"]) == "error_received"
        assert not transport.is_closing()


def test_exceptions_that_end_the_loop(loop_factory):
    class Protocol(DatagramRecorder):
        def datagram_received(self, data, addr):
            raise KeyboardInterrupt

    loop = loop_factory()
    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(lambda: Protocol(loop), local_addr=(LOCALHOST, 0))
    )
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    transport.close()
    loop.run_until_complete(settle())
    loop.close()


async def test_the_order_of_callbacks(loop):
    mine = bound_socket()
    with bound_socket() as peer:
        peer.sendto(b"x", mine.getsockname())
        transport, protocol = await loop.create_datagram_endpoint(DatagramRecorder, sock=mine)
        assert protocol.events[0] == "made"
        await protocol.received(1)
        transport.close()
        assert "lost" not in protocol.events
        await protocol.lost
        assert protocol.events == ["made", "datagram", "lost"]


async def test_set_protocol_inside_datagram_received(loop):
    later = DatagramRecorder()

    class Protocol(DatagramRecorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.set_protocol(later)
            assert self.transport.get_protocol() is later

    with bound_socket() as peer:
        async with datagram_endpoint(Protocol) as (transport, protocol):
            for number in range(3):
                peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            assert await later.received(2) == [b"1", b"2"]
            assert protocol.events == ["made", "datagram"]
            transport.close()
            assert await later.lost is None


async def test_contexts_of_callbacks(loop):
    variable = contextvars.ContextVar("variable", default="nothing")
    seen = []

    class Protocol(DatagramRecorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(("made", variable.get()))
            variable.set("set by connection_made")

        def datagram_received(self, data, addr):
            seen.append((data.decode(), variable.get()))
            variable.set("set by datagram_received")
            super().datagram_received(data, addr)

        def error_received(self, exc):
            seen.append(("error", variable.get()))

        def connection_lost(self, exc):
            seen.append(("lost", variable.get()))
            super().connection_lost(exc)

    variable.set("creator")
    transport, protocol = await loop.create_datagram_endpoint(Protocol, local_addr=(LOCALHOST, 0))
    with bound_socket() as peer:
        for number in range(2):
            variable.set(f"sender {number}")
            peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            await protocol.received(number + 1)
    variable.set("sendto")
    transport.sendto(bytes(70_000), (LOCALHOST, 9))
    variable.set("closer")
    transport.close()
    await protocol.lost
    assert seen == [
        ("made", "creator"),
        ("0", "creator"),
        # All datagrams are received in one context.
        ("1", "set by datagram_received"),
        ("error", "sendto"),
        ("lost", "closer"),
    ]

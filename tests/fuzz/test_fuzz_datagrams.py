"""Random orders of what can be done with datagram endpoints, and whatever others send to them."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, rule
from noting import ERRORS
from twins import Twins, World, content, examples, outcome, shown

LOCALHOST = "127.0.0.1"
LARGEST = 65507

operations = st.one_of(
    st.tuples(st.just("send"), st.tuples(st.sampled_from(["peer", "none"]), st.sampled_from([1, 10, 9000, LARGEST]))),
    st.tuples(st.just("send"), st.tuples(st.sampled_from(["peer", "none"]), st.just(LARGEST + 1))),
    st.tuples(st.just("send_wrong"), st.sampled_from(["text", None, 5])),
    st.tuples(
        st.just("send_to_wrong"), st.sampled_from(["address", 5, (), (LOCALHOST,), (LOCALHOST, -1), (None, None)])
    ),
    st.tuples(st.sampled_from(["close", "abort", "is_closing", "is_empty", "extra"]), st.none()),
)
scripts = st.dictionaries(
    st.sampled_from(["made", "datagram", "error", "lost"]),
    st.lists(
        st.one_of(operations, st.tuples(st.just("raise"), st.sampled_from(["ValueError", "OSError", "Bang"]))),
        max_size=2,
    ),
)
junk = st.one_of(
    st.binary(max_size=100), st.builds(content, st.integers(0, 99), st.sampled_from([1, 1500, 9000, LARGEST]))
)


class Hearing(asyncio.DatagramProtocol):
    """Notes what it hears, without the sender's number, and does what its script says."""

    def __init__(self, world: World, subject: str, peer: socket.socket, script: dict[str, Any]) -> None:
        self.world, self.subject, self.peer, self.script = world, subject, peer, dict(script)
        self.transport: Any = None

    def act(self, event: str) -> None:
        for name, value in self.script.pop(event, ()):
            if name == "raise":
                raise ERRORS[value]
            self.world.note(self.subject, "in " + event, name, outcome(OPERATIONS[name], self, value))

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.world.note(self.subject, "made")
        self.act("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.world.note(
            self.subject, "datagram", data, addr == self.peer.getsockname() if self.peer.fileno() >= 0 else 0
        )
        self.act("datagram")

    def error_received(self, exc: Exception) -> None:
        self.world.note(self.subject, "error", shown(exc))
        self.act("error")

    def connection_lost(self, exc: Exception | None) -> None:
        self.world.note(self.subject, "lost", shown(exc))
        self.act("lost")


def send(end: Hearing, value: tuple[str, int]) -> Any:
    to, size = value
    if end.transport.is_closing():
        # asyncio's looks at a socket that is gone.
        return "not called"
    try:
        address = end.peer.getsockname() if to == "peer" else None
    except OSError:
        return "no peer"
    return end.transport.sendto(content(size, size), address)


def extra(end: Hearing, value: None) -> Any:
    return [type(end.transport.get_extra_info(name)).__name__ for name in ("sockname", "peername", "nothing")]


OPERATIONS: dict[str, Any] = {
    "send": send,
    "send_wrong": lambda end, value: end.transport.sendto(value),
    "send_to_wrong": lambda end, value: end.transport.is_closing() or end.transport.sendto(b"data", value),
    "close": lambda end, value: end.transport.close(),
    "abort": lambda end, value: end.transport.abort(),
    "is_closing": lambda end, value: end.transport.is_closing(),
    "is_empty": lambda end, value: end.transport.get_write_buffer_size() == 0,
    "extra": extra,
}


class Datagrams(Twins):
    """An endpoint is a subject, and so is the socket that it talks with."""

    endpoints: Any = Bundle("endpoints")

    @rule(target=endpoints, kind=st.sampled_from(["local", "connected", "socket", "unix"]), script=scripts)
    def open(self, kind: str, script: Any) -> str:
        name = self.name("endpoint")

        def act(world: World) -> None:
            family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
            peer = socket.socket(family, socket.SOCK_DGRAM)
            peer.bind("" if kind == "unix" else (LOCALHOST, 0))
            peer.setblocking(False)
            world.things[name + " peer"] = peer

            def make() -> Hearing:
                world.things[name] = Hearing(world, name, peer, script)
                return world.things[name]

            if kind == "local":
                options: Any = {"local_addr": (LOCALHOST, 0)}
            elif kind == "connected":
                options = {"local_addr": (LOCALHOST, 0), "remote_addr": peer.getsockname()}
            else:
                sock = socket.socket(family, socket.SOCK_DGRAM)
                sock.bind("" if kind == "unix" else (LOCALHOST, 0))
                options = {"sock": sock}
            world.wait(world.loop.create_datagram_endpoint(make, **options))
            address = world.things[name].transport.get_extra_info("sockname")
            world.things[name + " address"] = [address]

            def hear() -> None:
                while peer.fileno() >= 0:
                    try:
                        world.note(name + " peer", "heard", peer.recv(1 << 17))
                    except BlockingIOError:
                        return
                    except OSError as exc:
                        world.note(name + " peer", "error", shown(exc))

            world.pumps[name] = hear

        self.both(act, subject=name)
        return name

    @rule(endpoint=endpoints, chosen=st.lists(operations, min_size=1, max_size=3), inside=st.booleans())
    def operate(self, endpoint: str, chosen: Any, inside: bool) -> None:
        def act(world: World) -> None:
            for name, value in chosen:
                world.note(endpoint, name, outcome(OPERATIONS[name], world.things[endpoint], value))

        self.both(act, subject=endpoint, inside=inside)

    @rule(endpoint=endpoints, datagrams=st.lists(junk, min_size=1, max_size=4))
    def hear(self, endpoint: str, datagrams: list[bytes]) -> None:
        def act(world: World) -> Any:
            peer, address = world.things[endpoint + " peer"], world.things[endpoint + " address"][0]
            return [outcome(peer.sendto, data, address) for data in datagrams]

        self.both(act, subject=endpoint)

    @rule(endpoint=endpoints, datagrams=st.lists(junk, min_size=1, max_size=3))
    def hear_a_stranger(self, endpoint: str, datagrams: list[bytes]) -> None:
        def act(world: World) -> Any:
            address = world.things[endpoint + " address"][0]
            family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
            with socket.socket(family, socket.SOCK_DGRAM) as stranger:
                if family == socket.AF_INET:
                    stranger.bind((LOCALHOST, 0))
                return [outcome(stranger.sendto, data, address) for data in datagrams]

        self.both(act, subject=endpoint)

    @rule(endpoint=consumes(endpoints), chosen=st.lists(operations, min_size=1, max_size=3))
    def lose_the_peer(self, endpoint: str, chosen: Any) -> None:
        """Who sends to a connected one that is gone hears so."""
        self.both(lambda world: world.things[endpoint + " peer"].close())
        for operation in chosen:
            self.operate(endpoint, [operation], True)

    def teardown(self) -> None:
        for world in self.worlds:
            for thing in world.things.values():
                if isinstance(thing, Hearing):
                    thing.script = {}
                    if not thing.transport.is_closing():
                        thing.transport.abort()
        super().teardown()


TestDatagrams = Datagrams.TestCase
TestDatagrams.settings = examples(30)

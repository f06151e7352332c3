"""Random orders of what can be done with a stream transport, from outside, from callbacks and by the other end."""

from __future__ import annotations

import socket
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, multiple, precondition, rule
from noting import OPERATIONS, PROTOCOLS, Noting, changes, questions, reset, scripts, without_closing, writes
from twins import Peer, Twins, World, content, examples, outcome, stream_pair

# More than the sockets of a pair hold together.
HUGE = 600_000


class Transports(Twins):
    """Transports with a plain socket at the other end, and pairs of transports."""

    ends: Any = Bundle("ends")
    peers: Any = Bundle("peers")

    def connect(self, world: World, subject: str, sock: socket.socket, protocol: str, script: dict[str, Any]) -> None:
        def make() -> Noting:
            world.things[subject] = PROTOCOLS[protocol](world, subject, without_closing(script))
            return world.things[subject]

        world.start(subject, subject, lambda: world.loop.create_connection(make, sock=sock))

    @rule(
        target=ends,
        kind=st.sampled_from(["unix", "tcp"]),
        protocols=st.tuples(*[st.sampled_from(list(PROTOCOLS))] * 2),
        first=scripts,
        second=scripts,
    )
    @precondition(lambda self: not self.gathers)
    def open_two(self, kind: str, protocols: tuple[str, str], first: Any, second: Any) -> Any:
        subjects = self.name("end"), self.name("end")
        self.partner_of.update(zip(subjects, reversed(subjects), strict=True))

        def act(world: World) -> None:
            for subject, sock, protocol, script in zip(
                subjects, stream_pair(kind), protocols, (first, second), strict=True
            ):
                self.connect(world, subject, sock, protocol, dict(script))

        self.both(act)
        return multiple(*subjects)

    # With a plain socket: the names of the two ends go into two bundles.

    @initialize(target=ends, gathers=st.booleans())
    def begin(self, gathers: bool) -> Any:
        # Where writes gather, whoever writes twice to an end that is gone hears of it later than asyncio tells.
        self.gathers = gathers
        for world in self.worlds:
            world.gather(gathers)
        self.peer_of: dict[str, str] = {}
        self.partner_of: dict[str, str] = {}
        return multiple()

    def sender_to(self, subject: str) -> str | None:
        return self.peer_of.get(subject) or self.partner_of.get(subject)

    @rule(
        target=peers, kind=st.sampled_from(["unix", "tcp"]), protocol=st.sampled_from(list(PROTOCOLS)), script=scripts
    )
    def open_one(self, kind: str, protocol: str, script: Any) -> Any:
        subject, peer = self.name("end"), self.name("peer")
        self.peer_of[peer] = subject

        def act(world: World) -> None:
            mine, other = stream_pair(kind)
            world.things[peer] = Peer(world, peer, other)
            self.connect(world, subject, mine, protocol, dict(script))

        self.both(act)
        return peer

    # ------------------------------------------------------------------------------------------------- this end

    def operate(self, subject: str, operations: list[tuple[str, Any]], inside: bool) -> None:
        def act(world: World) -> Any:
            end = world.things.get(subject)
            if end is None or end.transport is None:
                return "was never made"
            for name, value in operations:
                # set_protocol() has put another in its place.
                end = world.things[subject]
                world.note(subject, name, outcome(OPERATIONS[name], end, value))
            return None

        self.both(act, subject=subject, inside=inside)

    @rule(end=ends, operations=st.lists(st.one_of(writes, changes), min_size=1, max_size=4), inside=st.booleans())
    def change(self, end: str, operations: Any, inside: bool) -> None:
        self.operate(end, operations, inside)

    @rule(
        peer=peers,
        operations=st.lists(st.one_of(writes, changes), min_size=1, max_size=4),
        inside=st.booleans(),
    )
    def change_one(self, peer: str, operations: Any, inside: bool) -> None:
        self.operate(self.peer_of[peer], operations, inside)

    @rule(end=ends, question=questions)
    def ask(self, end: str, question: Any) -> None:
        self.operate(end, [question], True)

    @rule(peer=peers, question=questions)
    def ask_one(self, peer: str, question: Any) -> None:
        self.operate(self.peer_of[peer], [question], False)

    @rule(peer=peers)
    def write_much(self, peer: str) -> None:
        self.operate(self.peer_of[peer], [("write", ("bytes", HUGE))], True)

    # ------------------------------------------------------------------------------------------------- the other end

    def other_end(self, peer: str, operation: Any) -> None:
        self.both(lambda world: operation(world.things[peer]), subject=peer)

    @rule(peer=peers, size=st.integers(1, 3000))
    def peer_sends(self, peer: str, size: int) -> None:
        self.other_end(peer, lambda peer: peer.send(content(size, size)))

    @rule(peer=peers, reads=st.booleans())
    def peer_reads(self, peer: str, reads: bool) -> None:
        self.other_end(peer, lambda peer: peer.listen() if reads else peer.rest())

    @rule(peer=peers)
    def peer_shuts_down(self, peer: str) -> None:
        self.other_end(peer, lambda peer: peer.shutdown())

    @rule(peer=consumes(peers), resets=st.booleans(), operations=st.lists(st.one_of(writes, changes), max_size=2))
    @precondition(lambda self: not self.gathers)
    def peer_ends(self, peer: str, resets: bool, operations: Any) -> None:
        def end(peer: Peer) -> None:
            peer.rest()
            reset(peer.sock) if resets else peer.close()

        self.other_end(peer, end)
        for operation in operations:
            self.operate(self.peer_of[peer], [operation], True)

    def teardown(self) -> None:
        for world in self.worlds:
            for thing in world.things.values():
                if isinstance(thing, Peer):
                    thing.close()
                elif thing.transport is not None and not thing.is_lost:
                    thing.script = {"eof_result": None}
                    thing.transport.abort()
        super().teardown()


TestTransports = Transports.TestCase
TestTransports.settings = examples(40)

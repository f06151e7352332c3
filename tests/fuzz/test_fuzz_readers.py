"""Random orders of reads and writes of asyncio's streams, with data that comes in pieces, late, or never."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, precondition, rule
from noting import reset
from twins import Peer, Twins, World, content, examples, outcome, stream_pair

HUGE = 600_000
# With few letters, so that separators are found, nearly found, and split.
texts = st.text("ab\r\n", min_size=1, max_size=30).map(str.encode)
reads = st.one_of(
    st.tuples(st.just("read"), st.sampled_from([-1, 0, 1, 5, 1000])),
    st.tuples(st.just("readexactly"), st.sampled_from([-1, 0, 1, 7, 40, 200])),
    st.tuples(st.just("readuntil"), st.sampled_from([b"\n", b"\r\n", b"ab", b"", b"aab"])),
    st.tuples(st.just("readline"), st.none()),
)
writes = st.one_of(
    st.tuples(st.just("write"), st.sampled_from([0, 1, 1000])),
    st.tuples(st.just("writelines"), st.sampled_from([1, 1000])),
    st.tuples(st.sampled_from(["close", "write_eof", "can_write_eof", "is_closing", "at_eof", "feed_eof"]), st.none()),
)


def write(world: World, writer: asyncio.StreamWriter, data: bytes) -> None:
    """asyncio's looks at a loop that is gone once what was left at close() has been sent."""
    with contextlib.suppress(AttributeError) if world.kind == "asyncio" else contextlib.nullcontext():
        writer.write(data)


class Readers(Twins):
    streams: Any = Bundle("streams")

    @initialize(gathers=st.booleans())
    def begin(self, gathers: bool) -> None:
        # Where writes gather, whoever writes twice to an end that is gone hears of it later than asyncio tells.
        self.gathers = gathers
        for world in self.worlds:
            world.gather(gathers)

    @rule(
        target=streams,
        kind=st.sampled_from(["unix", "tcp"]),
        limit=st.sampled_from([1, 10, 40, 65536]),
        served=st.booleans(),
    )
    def open(self, kind: str, limit: int, served: bool) -> str:
        name = self.name("stream")

        def act(world: World) -> None:
            mine, other = stream_pair(kind)
            world.things[name + "'"] = Peer(world, name + "'", other)

            async def serve() -> tuple[Any, Any]:
                """As start_server() does for each connection."""
                found = world.loop.create_future()
                reader = asyncio.StreamReader(limit=limit, loop=world.loop)
                protocol = asyncio.StreamReaderProtocol(reader, lambda *pair: found.set_result(pair), loop=world.loop)
                await world.loop.connect_accepted_socket(lambda: protocol, mine)
                return await found

            async def connect() -> tuple[Any, Any]:
                return await asyncio.open_connection(sock=mine, limit=limit)

            world.things[name] = world.wait(serve() if served else connect())

        self.both(act)
        return name

    @rule(stream=streams, what=reads)
    def read(self, stream: str, what: Any) -> None:
        method, value = what
        # A second one at a time is refused, but only where it has to wait.
        name = f"{stream} read"
        if self.worlds[0].is_pending(name):
            name += " too"
            if self.worlds[0].is_pending(name):
                return

        def act(world: World) -> None:
            arguments = () if value is None else (value,)
            world.start(stream, name, lambda: getattr(world.things[stream][0], method)(*arguments))

        self.both(act)

    @rule(stream=streams, turns=st.integers(0, 1))
    def cancel(self, stream: str, turns: int) -> None:
        def act(world: World) -> None:
            for name, task in world.tasks.items():
                if name.startswith(stream + " "):
                    task.cancel()

        self.both(act, inside=bool(turns))

    @rule(stream=streams, chosen=st.lists(writes, min_size=1, max_size=3), inside=st.booleans())
    def write(self, stream: str, chosen: Any, inside: bool) -> None:
        def act(world: World) -> None:
            reader, writer = world.things[stream]
            for name, value in chosen:
                if name == "writelines" and writer.is_closing():
                    # asyncio's looks at a loop that is gone.
                    continue
                operation = getattr(reader if name in ("at_eof", "feed_eof") else writer, name)
                if name == "write":
                    operation = functools.partial(write, world, writer)
                arguments: Any = () if value is None else (content(value, value),)
                if name == "writelines":
                    arguments = ([b"first", *arguments],)
                world.note(stream, name, outcome(operation, *arguments))

        self.both(act, subject=stream, inside=inside)

    @rule(stream=streams, name=st.sampled_from(["drain", "wait_closed"]))
    def wait(self, stream: str, name: str) -> None:
        def act(world: World) -> None:
            if not world.is_pending(f"{stream} {name}"):
                world.start(stream, f"{stream} {name}", getattr(world.things[stream][1], name))

        self.both(act)

    @rule(stream=streams)
    def write_much(self, stream: str) -> None:
        self.both(lambda world: write(world, world.things[stream][1], content(3, HUGE)), subject=stream, inside=True)

    @rule(stream=streams, pieces=st.lists(texts, min_size=1, max_size=4), slowly=st.booleans())
    def peer_sends(self, stream: str, pieces: list[bytes], slowly: bool) -> None:
        if slowly:
            pieces = [bytes([byte]) for byte in b"".join(pieces)[:10]]
        for piece in pieces:
            self.both(lambda world, piece=piece: world.things[stream + "'"].send(piece), subject=stream)

    @rule(stream=streams, pieces=st.lists(texts, min_size=1, max_size=4))
    def peer_sends_at_once(self, stream: str, pieces: list[bytes]) -> None:
        self.both(lambda world: [world.things[stream + "'"].send(piece) for piece in pieces], subject=stream)

    @rule(stream=streams, number=st.booleans())
    def peer_reads(self, stream: str, number: bool) -> None:
        def act(world: World) -> None:
            peer = world.things[stream + "'"]
            peer.listen() if number else peer.rest()

        self.both(act)

    @rule(stream=streams)
    def peer_shuts_down(self, stream: str) -> None:
        self.both(lambda world: world.things[stream + "'"].shutdown(), subject=stream)

    @rule(stream=consumes(streams), resets=st.booleans(), what=reads)
    @precondition(lambda self: not self.gathers)
    def peer_ends(self, stream: str, resets: bool, what: Any) -> None:
        def act(world: World) -> None:
            peer = world.things[stream + "'"]
            peer.rest()
            reset(peer.sock) if resets else peer.close()

        self.both(act)
        self.read(stream, what)
        self.wait(stream, "drain")
        self.wait(stream, "wait_closed")

    def teardown(self) -> None:
        for world in self.worlds:
            for thing in world.things.values():
                if isinstance(thing, Peer):
                    thing.close()
                else:
                    # asyncio's looks at a loop that is gone.
                    with contextlib.suppress(AttributeError):
                        thing[1].transport.abort()
        super().teardown()


TestReaders = Readers.TestCase
TestReaders.settings = examples(30)

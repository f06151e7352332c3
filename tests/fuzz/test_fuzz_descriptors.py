"""Random orders of readers, writers and sock_* calls on sockets that data comes to, that end, and that are replaced.

What asyncio's own loop answers by chance is left out: two receivers at a time on one socket (the later one replaces the
watcher of the earlier), a reader beside a receiver, and a socket closed under either.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, rule
from twins import Peer, Twins, World, content, examples, shown, stream_pair

LOCALHOST = "127.0.0.1"
HUGE = 600_000

WRONG_DESCRIPTORS: dict[str, Any] = {
    "negative": -1,
    "huge": 2**40,
    "not open": 1_000_000,
    "text": "1",
    "none": None,
    "float": 1.5,
    "object": object(),
}


def datagram_pair() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for sock in (one, other):
        sock.setblocking(False)
    return one, other


class Descriptors(Twins):
    """Each pair of sockets is a subject: ours, and the peer's."""

    pairs: Any = Bundle("pairs")
    listeners: Any = Bundle("listeners")

    def __init__(self) -> None:
        super().__init__()
        self.kind_of: dict[str, str] = {}

    # ------------------------------------------------------------------------------------------------- sockets

    @rule(target=pairs, kind=st.sampled_from(["unix", "tcp", "datagram"]))
    def open(self, kind: str) -> str:
        name = self.name("pair")
        self.kind_of[name] = kind

        def act(world: World) -> None:
            mine, other = datagram_pair() if kind == "datagram" else stream_pair(kind)
            world.things[name] = mine
            world.things[name + "'"] = Peer(world, name + "'", other)

        self.both(act)
        return name

    @rule(pair=consumes(pairs), order=st.permutations(["reader", "writer", "tasks", "socket"]), at_once=st.booleans())
    def close(self, pair: str, order: list[str], at_once: bool) -> None:
        """Take the watchers away, close, and use what is closed."""

        def part(world: World, what: str) -> Any:
            match what:
                case "reader":
                    return world.loop.remove_reader(world.things[pair])
                case "writer":
                    return world.loop.remove_writer(world.things[pair])
                case "tasks":
                    for name, task in world.tasks.items():
                        if name.startswith(pair + " "):
                            task.cancel()
            return None

        parts = [what for what in order if what != "socket"]

        def act(world: World) -> Any:
            results = [part(world, what) for what in parts]
            if at_once:
                world.things[pair].close()
            return results

        self.both(act, subject=pair)
        self.both(lambda world: world.things[pair].close())
        self.both(lambda world: world.loop.add_reader(world.things[pair], print), subject=pair)
        self.both(lambda world: world.loop.remove_writer(world.things[pair]), subject=pair)
        self.both(
            lambda world: world.start(pair, f"{pair} closed", lambda: world.loop.sock_recv(world.things[pair], 10))
        )
        self.both(lambda world: world.things[pair + "'"].close())

    def is_busy(self, pair: str, *names: str) -> bool:
        """Is a call of one of these kinds waiting? The same on both, as their logs have been compared."""
        return any(self.worlds[0].is_pending(f"{pair} {name}") for name in names)

    def is_watched(self, pair: str, event: str) -> bool:
        return f"{pair} {event}" in self.worlds[0].things

    # ------------------------------------------------------------------------------------------------- watchers

    @rule(pair=pairs, how=st.sampled_from(["all", "some", "once", "error", "replace"]), inside=st.booleans())
    def add_reader(self, pair: str, how: str, inside: bool) -> None:
        if self.is_busy(pair, "receive"):
            return
        limit = 3 if how == "some" else 1 << 16

        def act(world: World) -> Any:
            sock = world.things[pair]
            key = f"{pair} read"

            def readable() -> None:
                if how == "once":
                    world.things.pop(key)
                    world.note(pair, "readable once", world.loop.remove_reader(sock))
                    return
                try:
                    data = sock.recv(limit)
                except OSError as exc:
                    world.note(pair, "reader", shown(exc))
                    data = b""
                else:
                    world.note(pair, "data", data)
                if not data or how == "replace":
                    world.things.pop(key)
                    world.note(pair, "removed", world.loop.remove_reader(sock))
                if how == "replace" and data:
                    world.things[key] = True
                    world.note(pair, "again", world.loop.add_reader(sock, last))
                if how == "error":
                    world.things.pop(key, None)
                    world.loop.remove_reader(sock)
                    raise LookupError

            def last() -> None:
                world.things.pop(key)
                world.note(pair, "last", world.loop.remove_reader(sock))

            world.things[key] = True
            return world.loop.add_reader(sock if how == "all" else sock.fileno(), readable)

        self.both(act, subject=pair, inside=inside)

    @rule(pair=pairs, turns=st.integers(1, 3), by_number=st.booleans())
    def add_writer(self, pair: str, turns: int, by_number: bool) -> None:
        if self.is_busy(pair, "send"):
            return

        def act(world: World) -> Any:
            sock = world.things[pair]
            key = f"{pair} write"
            left = [turns]

            def writable() -> None:
                left[0] -= 1
                world.note(pair, "writable", left[0])
                if not left[0]:
                    world.things.pop(key)
                    world.note(pair, "no writer", world.loop.remove_writer(sock))

            world.things[key] = True
            return world.loop.add_writer(sock.fileno() if by_number else sock, writable)

        self.both(act, subject=pair)

    @rule(pair=pairs, event=st.sampled_from(["read", "write"]), inside=st.booleans())
    def remove(self, pair: str, event: str, inside: bool) -> None:
        if self.is_busy(pair, "receive" if event == "read" else "send"):
            return

        def act(world: World) -> Any:
            world.things.pop(f"{pair} {event}", None)
            remove = world.loop.remove_reader if event == "read" else world.loop.remove_writer
            return remove(world.things[pair])

        self.both(act, subject=pair, inside=inside)

    @rule(
        wrong=st.sampled_from(list(WRONG_DESCRIPTORS)),
        method=st.sampled_from(["add_reader", "remove_reader", "add_writer", "remove_writer"]),
    )
    def wrong_descriptor(self, wrong: str, method: str) -> None:
        def act(world: World) -> Any:
            arguments = (print,) if method.startswith("add") else ()
            return getattr(world.loop, method)(WRONG_DESCRIPTORS[wrong], *arguments)

        self.both(act)

    @rule(path=st.sampled_from([os.devnull, "file", "folder"]), method=st.sampled_from(["add_reader", "add_writer"]))
    def odd_file(self, path: str, method: str) -> None:
        """What epoll refuses."""
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(dir=folder) as file:
            paths = {"file": file.name, "folder": folder}
            fd = os.open(paths.get(path, path), os.O_RDONLY)
            try:
                self.both(lambda world: getattr(world.loop, method)(fd, print))
                self.both(lambda world: getattr(world.loop, method.replace("add", "remove"))(fd))
            finally:
                os.close(fd)

    # ------------------------------------------------------------------------------------------------- sock_*

    @rule(
        pair=pairs,
        method=st.sampled_from(["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"]),
        size=st.sampled_from([0, 1, 10, 5000]),
    )
    def receive(self, pair: str, method: str, size: int) -> None:
        if self.is_busy(pair, "receive") or self.is_watched(pair, "read"):
            return

        def act(world: World) -> None:
            sock = world.things[pair]

            async def call() -> Any:
                if method.endswith("into"):
                    buffer = bytearray(size)
                    found = await getattr(world.loop, method)(sock, buffer)
                    return found, bytes(buffer)
                return await getattr(world.loop, method)(sock, size)

            world.start(pair, f"{pair} receive", call)

        self.both(act)

    @rule(
        pair=pairs,
        size=st.sampled_from([0, 1, 1000, HUGE]),
        form=st.sampled_from([bytes, bytearray, memoryview]),
        method=st.sampled_from(["sock_sendall", "sock_sendall", "sock_sendto"]),
    )
    def send(self, pair: str, size: int, form: Any, method: str) -> None:
        if self.is_busy(pair, "send") or self.is_watched(pair, "write"):
            return
        if method == "sock_sendto":
            size = min(size, 1000)

        def act(world: World) -> None:
            arguments = (None,) if method == "sock_sendto" else ()
            data = form(content(size, size))
            world.start(pair, f"{pair} send", lambda: getattr(world.loop, method)(world.things[pair], data, *arguments))

        self.both(act)

    @rule(pair=pairs, name=st.sampled_from(["receive", "send"]), sends=st.booleans())
    def cancel(self, pair: str, name: str, sends: bool) -> None:
        # How much of a large amount TCP has taken differs from run to run.
        if self.is_busy(pair, name) and (name, self.kind_of[pair]) != ("send", "tcp"):
            # What was sent to the socket before it was cancelled is there for the next call.
            self.both(lambda world: world.tasks[f"{pair} {name}"].cancel(), subject=pair)
            if sends:
                self.peer_sends(pair, 5)

    @rule(
        pair=pairs,
        call=st.sampled_from(
            ["sock_recv", "sock_sendall", "sock_recv_into", "sock_accept", "sock_connect", "sock_sendto"]
        ),
        value=st.sampled_from([None, -1, "text", 1.5, b"bytes"]),
    )
    def wrong_value(self, pair: str, call: str, value: Any) -> None:
        if self.is_busy(pair, "send", "receive") or self.is_watched(pair, "write") or self.is_watched(pair, "read"):
            return

        def act(world: World) -> None:
            arguments = () if call == "sock_accept" else (value, value) if call == "sock_sendto" else (value,)
            name = f"{pair} wrong"
            world.start(pair, name, lambda: getattr(world.loop, call)(world.things[pair], *arguments))

        self.both(act)
        # What right arguments made of a wrong call (bytes to sock_sendall) may wait.
        self.both(lambda world: world.tasks[f"{pair} wrong"].cancel(), subject=pair)

    # ------------------------------------------------------------------------------------------------- connecting

    @rule(target=listeners, family=st.sampled_from([socket.AF_INET, socket.AF_UNIX]))
    def listen(self, family: int) -> str:
        name = self.name("listener")

        def act(world: World) -> None:
            sock = socket.socket(family)
            # An autobound abstract address: no file.
            sock.bind((LOCALHOST, 0) if family == socket.AF_INET else "")
            sock.listen(10)
            sock.setblocking(False)
            world.things[name] = sock
            world.things[name + " address"] = (sock.getsockname(),)

        self.both(act)
        return name

    @rule(listener=listeners)
    def accept(self, listener: str) -> None:
        if self.is_busy(listener, "accept"):
            return

        def act(world: World) -> None:
            async def call() -> Any:
                sock, _ = await world.loop.sock_accept(world.things[listener])
                blocking = sock.getblocking()
                sock.close()
                return blocking

            world.start(listener, f"{listener} accept", call)

        self.both(act)

    @rule(listener=listeners)
    def cancel_accept(self, listener: str) -> None:
        if self.is_busy(listener, "accept"):
            self.both(lambda world: world.tasks[f"{listener} accept"].cancel(), subject=listener)

    @rule(listener=listeners, leaves=st.booleans())
    def connect(self, listener: str, leaves: bool) -> None:
        name = self.name("client")

        def act(world: World) -> None:
            sock = socket.socket(world.things[listener].family)
            sock.setblocking(False)
            world.things[name] = sock
            address = world.things[listener + " address"][0]
            world.start(name, f"{name} connect", lambda: world.loop.sock_connect(sock, address))

        self.both(act)
        if leaves:
            self.both(lambda world: world.things[name].close())

    @rule(listener=consumes(listeners))
    def stop_listening(self, listener: str) -> None:
        if self.is_busy(listener, "accept"):
            self.both(lambda world: world.tasks[f"{listener} accept"].cancel(), subject=listener)
        self.both(lambda world: world.things[listener].close())
        # Whoever comes now is refused.
        name = self.name("late")

        def act(world: World) -> None:
            address = world.things[listener + " address"][0]
            sock = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
            sock.setblocking(False)
            world.things[name] = sock
            world.start(name, f"{name} connect", lambda: world.loop.sock_connect(sock, address))

        self.both(act)

    # ------------------------------------------------------------------------------------------------- the other end

    @rule(pair=pairs, size=st.integers(1, 3000))
    def peer_sends(self, pair: str, size: int) -> None:
        self.both(lambda world: world.things[pair + "'"].send(content(size, size)), subject=pair)

    @rule(pair=pairs, reads=st.booleans())
    def peer_reads(self, pair: str, reads: bool) -> None:
        def act(world: World) -> None:
            peer = world.things[pair + "'"]
            peer.listen() if reads else peer.rest()

        self.both(act)

    @rule(pair=pairs)
    def peer_shuts_down(self, pair: str) -> None:
        self.both(lambda world: world.things[pair + "'"].shutdown(), subject=pair)

    @rule(pair=pairs)
    def peer_closes(self, pair: str) -> None:
        self.both(lambda world: world.things[pair + "'"].close())

    def teardown(self) -> None:
        for world in self.worlds:
            for name, thing in world.things.items():
                if isinstance(thing, Peer):
                    thing.rest()
                elif isinstance(thing, socket.socket) and thing.fileno() >= 0 and not name.startswith("client"):
                    with contextlib.suppress(OSError, ValueError):
                        world.loop.remove_reader(thing)
                        world.loop.remove_writer(thing)
            for task in world.tasks.values():
                task.cancel()
            with contextlib.suppress(AssertionError):
                world.drain()
            for thing in world.things.values():
                if isinstance(thing, Peer):
                    thing.close()
        super().teardown()


TestDescriptors = Descriptors.TestCase
TestDescriptors.settings = examples(40)

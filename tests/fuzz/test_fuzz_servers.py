"""Random orders of what can be done with servers, while clients come, talk, leave and reset."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, rule
from noting import PROTOCOLS, Noting, reset, scripts, without_closing
from twins import Peer, Twins, World, content, examples

LOCALHOST = "127.0.0.1"
KNOWS_CLIENTS = hasattr(asyncio.Server, "close_clients")


class Servers(Twins):
    """A server is a subject, each of its connections another (numbered as they were accepted), each client one more."""

    servers: Any = Bundle("servers")
    clients: Any = Bundle("clients")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.mkdtemp()
        for world in self.worlds:
            # Whoever writes twice to a client that is gone would hear of it later than asyncio tells.
            world.gather(False)
        self.server_of: dict[str, str] = {}

    # ------------------------------------------------------------------------------------------------- servers

    @rule(
        target=servers,
        kind=st.sampled_from(["tcp", "unix", "socket"]),
        starts=st.sampled_from([True, True, False]),
        protocol=st.sampled_from(list(PROTOCOLS)),
        script=scripts,
    )
    def create(self, kind: str, starts: bool, protocol: str, script: Any) -> str:
        name = self.name("server")

        def act(world: World) -> Any:
            def make() -> Any:
                number = sum(key.startswith(name + ".") for key in world.things) + 1
                end = PROTOCOLS[protocol](world, f"{name}.{number}", without_closing(dict(script)))
                world.things[f"{name}.{number}"] = end
                return end

            loop = world.loop
            if kind == "unix":
                path = f"{self.folder}/{world.kind}{name}"
                opening = loop.create_unix_server(make, path, start_serving=starts)
            elif kind == "socket":
                sock = socket.socket()
                sock.bind((LOCALHOST, 0))
                opening = loop.create_server(make, sock=sock, start_serving=starts)
            else:
                opening = loop.create_server(make, LOCALHOST, 0, start_serving=starts)
            server = world.things[name] = world.wait(opening)
            world.things[name + " address"] = [server.sockets[0].getsockname()]
            return len(server.sockets), server.is_serving()

        self.both(act, subject=name)
        return name

    @rule(
        server=servers,
        name=st.sampled_from(
            ["close", "start_serving", "serve_forever", "stop serving", "wait_closed", "close_clients", "abort_clients"]
        ),
        inside=st.booleans(),
    )
    def change(self, server: str, name: str, inside: bool) -> None:
        if name.endswith("_clients") and not KNOWS_CLIENTS:
            return

        def act(world: World) -> Any:
            mine = world.things[server]
            match name:
                case "stop serving":
                    task = world.tasks.get(f"{server} serve_forever")
                    return task is not None and task.cancel()
                case "serve_forever" | "start_serving" | "wait_closed":
                    if world.is_pending(f"{server} {name}"):
                        return "is waiting"
                    return world.start(server, f"{server} {name}", getattr(mine, name))
            return getattr(mine, name)()

        self.both(act, subject=server, inside=inside)

    @rule(server=servers)
    def ask(self, server: str) -> None:
        def act(world: World) -> Any:
            mine = world.things[server]
            return mine.is_serving(), len(mine.sockets), mine.get_loop() is world.loop

        self.both(act, subject=server)

    # ------------------------------------------------------------------------------------------------- clients

    def connect_to(self, world: World, server: str, name: str) -> Any:
        address = world.things[server + " address"][0]
        sock = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
        # Its own end says so when it was closed, whatever came of the connection.
        world.things[name] = Peer(world, name, sock)
        try:
            sock.setblocking(True)
            sock.settimeout(5)
            sock.connect(address)
        finally:
            sock.setblocking(False)
        return "connected"

    @rule(target=clients, server=servers, size=st.sampled_from([0, 1, 3000]))
    def connect(self, server: str, size: int) -> str:
        name = self.name("client")

        def act(world: World) -> Any:
            self.connect_to(world, server, name)
            world.things[name].listen()
            return world.things[name].send(content(size, size)) if size else None

        self.both(act, subject=name)
        return name

    @rule(
        server=servers,
        fates=st.lists(
            st.sampled_from(["close", "reset", "send and reset", "send and close", "half-close"]), max_size=6
        ),
    )
    def storm(self, server: str, fates: list[str]) -> None:
        """Clients that are gone before they are accepted."""
        names = [self.name("client") for _ in fates]

        def act(world: World) -> Any:
            for name, fate in zip(names, fates, strict=True):
                self.connect_to(world, server, name)
                peer = world.things[name]
                if fate.startswith("send"):
                    peer.send(content(7, 100))
                if fate == "half-close":
                    peer.listen()
                    peer.shutdown()
                elif fate.endswith("reset"):
                    reset(peer.sock)
                else:
                    peer.close()

        self.both(act, subject=server)

    @rule(client=clients, size=st.integers(1, 3000))
    def send(self, client: str, size: int) -> None:
        self.both(lambda world: world.things[client].send(content(size, size)), subject=client)

    @rule(client=clients)
    def shut_down(self, client: str) -> None:
        self.both(lambda world: world.things[client].shutdown(), subject=client)

    @rule(client=consumes(clients), resets=st.booleans())
    def leave(self, client: str, resets: bool) -> None:
        def act(world: World) -> None:
            world.things[client].rest()
            reset(world.things[client].sock) if resets else world.things[client].close()

        self.both(act, subject=client)

    # ------------------------------------------------------------------------------------------------- connections

    @rule(
        server=servers,
        number=st.integers(1, 4),
        name=st.sampled_from(["close", "abort", "write_eof", "pause_reading", "resume_reading", "write", "is_closing"]),
    )
    def operate(self, server: str, number: int, name: str) -> None:
        def act(world: World) -> Any:
            end = world.things.get(f"{server}.{number}")
            if end is None or end.transport is None:
                return "was never made"
            arguments = (content(number, 500),) if name == "write" else ()
            return getattr(end.transport, name)(*arguments)

        self.both(act, subject=f"{server}.{number}")

    def teardown(self) -> None:
        for world in self.worlds:
            for thing in list(world.things.values()):
                if isinstance(thing, (Peer, asyncio.AbstractServer)):
                    thing.close()
                elif isinstance(thing, Noting) and thing.transport is not None:
                    thing.script = {"eof_result": None}
                    thing.transport.abort()
            with contextlib.suppress(AssertionError):
                world.drain()
        super().teardown()
        shutil.rmtree(self.folder, ignore_errors=True)


TestServers = Servers.TestCase
TestServers.settings = examples(30)

"""DrainingServer: uvicorn's server, ended so that no request on a connection it has accepted goes unanswered."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

__all__ = ["DrainingServer"]

if TYPE_CHECKING:

    class Server:
        """What is used of ``uvicorn.Server``; uvicorn need not be there where types are checked."""

        servers: list[asyncio.Server]
        server_state: Any
        started: bool
        force_exit: bool

        def __init__(self, config: Any) -> None: ...
        async def serve(self, sockets: list[socket.socket] | None = None) -> None: ...
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None: ...
        def run(self, sockets: list[socket.socket] | None = None) -> None: ...

else:
    from uvicorn import Server


class DrainingServer(Server):
    """``uvicorn.Server`` that on its way out waits for the first request of the connections it has just accepted.

    uvicorn closes every connection on which no request is in progress, those included whose client has only just
    connected and is about to send, or has sent what was not read yet; and it forgets those that it has accepted but not
    made yet, so that a client that keeps asking on one keeps the server from ending. Under load every restart meets
    some of them. This server stops accepting first, and closes such a connection once its request is answered, or when
    none has come in `patience` seconds. A kept-alive connection that is idle is closed at once, as in uvicorn: a client
    must be prepared for that (RFC 9112, section 9.3.1) and sends an idempotent request again.
    """

    #: Seconds that a new connection is given to say what it wants.
    patience: float = 1.0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, wait for what new connections have to say, then do what uvicorn does."""
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        while True:
            await asyncio.sleep(0.01)  # at least once: what this turn has accepted becomes a connection in the next
            if self.force_exit or loop.time() > deadline or not any(map(_is_new, self.server_state.connections)):
                break
        # uvicorn begins with telling all that are there now to end.
        latecomers = loop.create_task(self._end_latecomers(set(self.server_state.connections)))
        try:
            await super().shutdown(sockets)
        finally:
            latecomers.cancel()

    async def _end_latecomers(self, told: set[Any]) -> None:
        """End connections that are not among those ``told``, such as from a TLS handshake that was under way."""
        loop = asyncio.get_running_loop()
        first_seen: dict[Any, float] = {}
        while True:
            now = loop.time()
            for connection in self.server_state.connections - told:
                if not _is_new(connection) or now - first_seen.setdefault(connection, now) > self.patience:
                    told.add(connection)
                    connection.shutdown()
            await asyncio.sleep(0.02)


def _is_new(connection: Any) -> bool:
    """Whether no request has begun on a connection, by what both of uvicorn's HTTP protocols keep of it.

    WebSocket connections have no such attribute: their request has been answered.
    """
    return getattr(connection, "cycle", connection) is None

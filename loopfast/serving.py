"""DrainingServer: uvicorn's server, ended so that no request on a connection it has accepted goes unanswered."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

__all__ = ["DrainingServer"]

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = uvicorn.Server


class DrainingServer(_Base):
    """``uvicorn.Server`` that on its way out waits for the first request of the connections it has just accepted.

    uvicorn closes every connection on which no request is in progress, those included whose client has only just
    connected and is about to send, or has sent what was not read yet. Under load there are some in every restart. This
    server stops accepting first, and closes such a connection once its request is answered, or when none has come in
    `patience` seconds. A kept-alive connection that is idle is closed at once, as in uvicorn: a client must be prepared
    for that (RFC 9112, section 9.3.1) and sends an idempotent request again.
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
        while any(map(_is_new, self.server_state.connections)) and not self.force_exit and loop.time() < deadline:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)


def _is_new(connection: Any) -> bool:
    """Whether no request has begun on a connection, by what both of uvicorn's HTTP protocols keep of it.

    WebSocket connections have no such attribute: their request has been answered.
    """
    return getattr(connection, "cycle", connection) is None

"""What is said to every server of `served_app`, over http.client and the blocking client of websockets: no loop on
this side, so a failure is the server's.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal

import pytest
from programs import ask, check_no_complaints, package
from support import pattern

websockets_exceptions = package("websockets.exceptions")

PIECE = 65536
BODY = pattern(3_000_000)


def pieces(body, size=PIECE):
    return (body[start : start + size] for start in range(0, len(body), size))


def check_http(connect, kind):
    """Talk HTTP on one kept-alive connection."""
    with contextlib.closing(connect()) as link:
        assert ask(link, "GET", "/loop")["loop"] == kind
        kept = link.sock
        for size in (0, 1, PIECE, len(BODY)):
            expected = {"size": size, "sha256": hashlib.sha256(BODY[:size]).hexdigest()}
            assert ask(link, "POST", "/digest", BODY[:size]) == expected
            assert ask(link, "POST", "/digest", pieces(BODY[:size])) == expected
        received = ask(link, "GET", "/stream?pieces=300&size=20000")
        assert received == b"".join(bytes([number % 251]) * 20_000 for number in range(300))
        assert ask(link, "GET", "/thread") == {"main": False}
        assert ask(link, "GET", "/command") == {"out": "through cat", "status": 0}
        assert link.sock is kept, "the connection was not kept alive"


def check_websocket(connect):
    """Talk over a WebSocket, and let each side close one."""
    big = BODY[:900_000]
    with connect() as link:
        for message in ("text", "", "\N{SNOWMAN}" * 1000, b"", b"bytes", big):
            link.send(message)
            assert link.recv(timeout=20) == message
        for number in range(200):
            link.send(str(number))
        assert [link.recv(timeout=20) for _ in range(200)] == [str(number) for number in range(200)]
        assert link.ping().wait(20), "no answer to a ping"
    with connect() as link:
        link.send("close")
        with pytest.raises(websockets_exceptions.ConnectionClosed) as caught:
            link.recv(timeout=20)
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4321, "as asked")


def check_end(server, number=signal.SIGTERM, known=()):
    """End the server by a signal: in good order, with a status as asyncio gives it, and nothing reported."""
    status = server.stop(number)
    assert status in (0, -number), server.output
    assert "application ended" in server.said, server.output
    check_no_complaints(server, *known)

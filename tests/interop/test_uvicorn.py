"""uvicorn serving a FastAPI application: HTTP and WebSocket implementations, TLS, UNIX sockets, workers, reload, the
end by a signal. Started from the command line as users do, with the loop named by an import string.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import socket
import textwrap
from functools import partial
from pathlib import Path

import pytest
from programs import (
    UVICORN_LOOPS,
    Program,
    ask,
    check_no_complaints,
    connection,
    expect_workers,
    once,
    once_up,
    package,
    python,
)
from support import LOCALHOST
from talk import BODY, PIECE, check_end, check_http, check_websocket

websockets_client = package("websockets.sync.client")
websockets_exceptions = package("websockets.exceptions")

pytestmark = pytest.mark.interop("uvicorn", "fastapi", "websockets", "wsproto", "httptools", "h11")

WEBSOCKETS = ("websockets", "websockets-sansio", "wsproto")


def uvicorn(
    kind: str,
    *options: str | os.PathLike[str],
    app: str = "served_app:app",
    cwd: Path | None = None,
    **environment: str,
) -> Program:
    words = ("-m", "uvicorn", app, "--loop", UVICORN_LOOPS[kind], "--no-use-colors", *options)
    return python(*words, cwd=cwd, **environment)


def port_of(server: Program, scheme: str = "http") -> int:
    return int(server.expect(rf"running on {scheme}://127\.0\.0\.1:(\d+)")[1])


@pytest.mark.parametrize("websocket", WEBSOCKETS)
@pytest.mark.parametrize("http_parser", ["h11", "httptools"])
def test_tcp(loop_kind, http_parser, websocket):
    with uvicorn(loop_kind, "--http", http_parser, "--ws", websocket, "--port", "0") as server:
        port = port_of(server)
        check_http(partial(connection, port), loop_kind)
        check_websocket(partial(websockets_client.connect, f"ws://{LOCALHOST}:{port}/echo"))
        check_end(server)


@pytest.mark.parametrize(("http_parser", "websocket"), [("h11", "wsproto"), ("httptools", "websockets-sansio")])
def test_tls(loop_kind, certificate, http_parser, websocket):
    files = ("--ssl-certfile", certificate.cert, "--ssl-keyfile", certificate.key)
    with uvicorn(loop_kind, "--http", http_parser, "--ws", websocket, "--port", "0", *files) as server:
        port = port_of(server, "https")
        context = certificate.client()
        check_http(partial(connection, port, context=context), loop_kind)
        check_websocket(partial(websockets_client.connect, f"wss://localhost:{port}/echo", ssl=context))
        # One that does not speak TLS must not disturb the others.
        with socket.create_connection((LOCALHOST, port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                while stranger.recv(1000):
                    pass
        assert once(partial(connection, port, context=context), "/loop")["loop"] == loop_kind
        check_end(server)


@pytest.mark.parametrize(("http_parser", "websocket"), [("h11", "websockets-sansio"), ("httptools", "wsproto")])
def test_unix_socket(loop_kind, tmp_path, http_parser, websocket):
    # Relative: the folder's own name may be too long for a socket.
    with uvicorn(loop_kind, "--http", http_parser, "--ws", websocket, "--uds", "s", cwd=tmp_path) as server:
        server.expect("running on unix socket s")
        path = os.path.relpath(tmp_path / "s")
        check_http(partial(connection, unix=path), loop_kind)
        check_websocket(partial(websockets_client.unix_connect, path, "ws://localhost/echo"))
        # Not SIGTERM, which uvicorn delivers to itself again before it gets to removing the socket.
        check_end(server, signal.SIGINT)
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("http_parser", ["h11", "httptools"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_while_a_request_is_in_flight(loop_kind, number, http_parser):
    """The request completes, a WebSocket is told, nobody new is let in, and the server ends."""
    with uvicorn(loop_kind, "--http", http_parser, "--ws", "websockets-sansio", "--port", "0") as server:
        port = port_of(server)
        with (
            contextlib.closing(connection(port)) as idle,
            contextlib.closing(connection(port)) as link,
            websockets_client.connect(f"ws://{LOCALHOST}:{port}/echo") as websocket,
        ):
            assert ask(idle, "GET", "/loop")["loop"] == loop_kind
            link.putrequest("POST", "/digest")
            link.putheader("Content-Length", str(len(BODY)))
            link.endheaders(BODY[:PIECE])
            server.expect("upload begun")
            websocket.send("before")
            assert websocket.recv(timeout=20) == "before"

            server.send_signal(number)
            server.expect("Waiting for connections to close")
            with pytest.raises(ConnectionRefusedError):
                once(partial(connection, port), "/loop")
            with pytest.raises(websockets_exceptions.ConnectionClosed) as caught:
                websocket.recv(timeout=20)
            assert caught.value.rcvd.code == 1012
            assert idle.sock.recv(1) == b"", "the idle connection was kept"

            link.send(BODY[PIECE:])
            response = link.getresponse()
            assert response.status == 200
            assert hashlib.sha256(BODY).hexdigest() in response.read().decode()
        status = server.ended()
    assert status in (0, -number), server.output
    assert "application ended" in server.said
    check_no_complaints(server)


@pytest.mark.parametrize("http_parser", ["h11", "httptools"])
def test_pipelined_requests_and_a_half_closed_client(loop_kind, http_parser):
    with uvicorn(loop_kind, "--http", http_parser, "--port", "0") as server:
        port = port_of(server)
        count = 50
        with socket.create_connection((LOCALHOST, port), timeout=20) as client:
            request = b"GET /thread HTTP/1.1\r\nHost: localhost\r\n\r\n"
            client.sendall(request * (count - 1) + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            received = b""
            while piece := client.recv(PIECE):
                received += piece
        assert received.count(b"HTTP/1.1 200") == received.count(b'{"main":false}') == count
        # A client that leaves in the middle of a large answer, and one in the middle of its request.
        for text in (b"GET /stream?pieces=500&size=20000 HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /digest HTTP/1.1\r\nHo"):
            with socket.create_connection((LOCALHOST, port), timeout=20) as client:
                client.sendall(text)
                if text.startswith(b"GET"):
                    assert client.recv(1)
        assert once(partial(connection, port), "/loop")["loop"] == loop_kind
        check_end(server)


def test_workers(loop_kind):
    """Both workers serve, one that dies is replaced, and all go with the supervisor."""
    with uvicorn(loop_kind, "--workers", "2", "--port", "0") as server:
        port = port_of(server)
        workers = expect_workers(server)
        assert len(set(workers)) == 2
        for worker, other in (workers, reversed(workers)):
            # The one that is stopped cannot accept, so the answer is the other's.
            os.kill(other, signal.SIGSTOP)
            try:
                assert once_up(partial(connection, port), "/loop") == {"loop": loop_kind, "pid": worker}
            finally:
                os.kill(other, signal.SIGCONT)
        os.kill(workers[0], signal.SIGKILL)
        [replacement] = expect_workers(server, 1)
        os.kill(workers[1], signal.SIGSTOP)
        try:
            assert once_up(partial(connection, port), "/loop") == {"loop": loop_kind, "pid": replacement}
        finally:
            os.kill(workers[1], signal.SIGCONT)
        assert server.stop() == 0, server.output
        assert server.said.count("application ended") == 2, server.output
        # The supervisor does not close its listening socket.
        check_no_complaints(server, "ResourceWarning")


VERSIONED = """
    import asyncio

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        kind = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": f"{version} on {{kind}}".encode()}})
"""


def test_reload(loop_kind, tmp_path):
    source = tmp_path / "versioned.py"

    def write(version):
        # Of another size each time: Python tells by size and whole seconds whether its compiled copy is out of date.
        source.write_text(textwrap.dedent(VERSIONED).format(version=version) + "#" * version)

    write(0)
    options = ("--reload", "--reload-dir", tmp_path, "--lifespan", "off", "--port", "0")
    with uvicorn(loop_kind, *options, app="versioned:app", cwd=tmp_path) as server:
        port = port_of(server)
        server.expect("Started server process")
        assert once_up(partial(connection, port), "/") == f"0 on {loop_kind}".encode()
        for version in range(1, 11):
            # The watcher says nowhere that it has begun to watch: change the file until it sees that.
            write(version)
            with contextlib.suppress(AssertionError):
                server.expect("detected changes|Reloading", patience=1)
                break
        server.expect("Started server process")
        assert once_up(partial(connection, port), "/") == f"{version} on {loop_kind}".encode()
        assert server.stop() in (0, -signal.SIGTERM), server.output
        check_no_complaints(server)


def test_run_in_a_program_after_install(loop_kind, tmp_path):
    """uvicorn.run(app) without a word about the loop; uvloop, which uvicorn would take by itself, is installed."""
    program = tmp_path / "program.py"
    choice = {"loopfast": "", "asyncio": ', loop="asyncio"'}[loop_kind]
    install = {"loopfast": "loopfast.install()", "asyncio": ""}[loop_kind]
    program.write_text(
        f"import loopfast, uvicorn\n{install}\nfrom served_app import app\nuvicorn.run(app, port=0{choice})\n"
        "print('run() returned')\n"
    )
    with python(program) as server:
        port = port_of(server)
        check_http(partial(connection, port), loop_kind)
        check_end(server, signal.SIGINT)
        assert "run() returned" in server.said


def test_two_hundred_clients_at_once(loop_kind):
    """More connections than one accept call takes, all open before the first request."""
    with uvicorn(loop_kind, "--port", "0", "--no-access-log") as server:
        port = port_of(server)
        links = [http.client.HTTPConnection(LOCALHOST, port, timeout=20) for _ in range(200)]
        for link in links:
            link.connect()
        for _ in range(2):
            for link in links:
                link.request("GET", "/loop")
            assert {link.getresponse().read() for link in links} == {
                f'{{"loop":"{loop_kind}","pid":{server.process.pid}}}'.encode()
            }
        for link in links:
            link.close()
        check_end(server)


def test_in_debug_mode(loop_kind):
    """asyncio's debug mode checks threads, callbacks and coroutines; a sound server gives it nothing to say."""
    with uvicorn(loop_kind, "--port", "0", PYTHONASYNCIODEBUG="1") as server:
        port = port_of(server)
        check_http(partial(connection, port), loop_kind)
        check_websocket(partial(websockets_client.connect, f"ws://{LOCALHOST}:{port}/echo"))
        check_end(server)

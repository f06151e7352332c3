"""hypercorn and gunicorn serving the same application: their own ways to a loop, HTTP/2, workers, reload, the end."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import textwrap
from functools import partial

import pytest
from programs import (
    UVICORN_LOOPS,
    Program,
    ask,
    check_no_complaints,
    connection,
    expect_workers,
    once_up,
    package,
    python,
    wait_until_closed,
)
from support import LOCALHOST
from talk import BODY, PIECE, check_end, check_http, check_websocket

httpx = package("httpx")
websockets_client = package("websockets.sync.client")

pytestmark = pytest.mark.interop("hypercorn", "gunicorn", "uvicorn", "uvicorn_worker", "fastapi", "httpx", "websockets")

# hypercorn knows loops by its own names only; as a coroutine it runs on any.
HYPERCORN = """
    import asyncio, sys
    import hypercorn.asyncio, hypercorn.config
    import loopfast
    from served_app import app

    config = hypercorn.config.Config()
    config.bind = [sys.argv[2]]
    config.certfile, config.keyfile = sys.argv[3:] or (None, None)
    run = {"loopfast": loopfast.run, "asyncio": asyncio.run}[sys.argv[1]]
    run(hypercorn.asyncio.serve(app, config))
"""


@pytest.fixture
def hypercorn(loop_kind, tmp_path):
    program = tmp_path / "serve.py"
    program.write_text(textwrap.dedent(HYPERCORN))
    return lambda *arguments: python(program, loop_kind, *arguments, cwd=tmp_path)


def hypercorn_port(server, scheme="http"):
    return int(server.expect(rf"Running on {scheme}://127\.0\.0\.1:(\d+)")[1])


def test_hypercorn(loop_kind, hypercorn):
    with hypercorn(f"{LOCALHOST}:0") as server:
        port = hypercorn_port(server)
        check_http(partial(connection, port), loop_kind)
        check_websocket(partial(websockets_client.connect, f"ws://{LOCALHOST}:{port}/echo"))
        check_end(server)


def test_hypercorn_unix_socket(loop_kind, hypercorn, tmp_path):
    with hypercorn("unix:s") as server:
        server.expect("Running on http://unix:s")
        path = os.path.relpath(tmp_path / "s")
        check_http(partial(connection, unix=path), loop_kind)
        check_websocket(partial(websockets_client.unix_connect, path, "ws://localhost/echo"))
        check_end(server, signal.SIGINT)


def test_hypercorn_http2(loop_kind, hypercorn, certificate):
    """Many requests at once on one TLS connection, beside an HTTP/1.1 client of the same port."""
    with hypercorn(f"{LOCALHOST}:0", certificate.cert, certificate.key) as server:
        port = hypercorn_port(server, "https")
        context = certificate.client()
        check_http(partial(connection, port, context=context), loop_kind)
        check_websocket(partial(websockets_client.connect, f"wss://localhost:{port}/echo", ssl=context))
        with httpx.Client(http2=True, verify=certificate.client(), base_url=f"https://localhost:{port}") as client:
            response = client.get("/loop")
            assert (response.http_version, response.json()["loop"]) == ("HTTP/2", loop_kind)
            assert client.post("/digest", content=BODY).json()["sha256"] == hashlib.sha256(BODY).hexdigest()
            streams = [client.stream("GET", f"/stream?pieces={number}&size=20000") for number in range(20)]
            with contextlib.ExitStack() as stack:
                # All are open before the first is read.
                responses = [stack.enter_context(stream) for stream in streams]
                for number, response in reversed(list(enumerate(responses))):
                    assert response.read() == b"".join(bytes([piece]) * 20_000 for piece in range(number))
        # hypercorn lets an error escape when it closes a WebSocket over TLS and the client's last words come late.
        check_end(server, known=("Traceback", "Unhandled"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_hypercorn_a_signal_while_a_request_is_in_flight(loop_kind, hypercorn, number):
    with hypercorn(f"{LOCALHOST}:0") as server:
        port = hypercorn_port(server)
        with contextlib.closing(connection(port)) as link:
            link.putrequest("POST", "/digest")
            link.putheader("Content-Length", str(len(BODY)))
            link.endheaders(BODY[:PIECE])
            server.expect("upload begun")
            server.send_signal(number)
            wait_until_closed(port)
            link.send(BODY[PIECE:])
            response = link.getresponse()
            assert response.status == 200
            assert hashlib.sha256(BODY).hexdigest() in response.read().decode()
        assert server.ended() in (0, -number), server.output
        assert "application ended" in server.said
        check_no_complaints(server)


def test_hypercorn_workers_with_install_in_the_application(loop_kind):
    """Its worker processes import the application before they make a loop without naming a kind."""
    install = {"INSTALL_LOOPFAST": "1"} if loop_kind == "loopfast" else {}
    command = ("-m", "hypercorn", "-w", "2", "-b", f"{LOCALHOST}:0", "served_app:app")
    with python(*command, **install) as server:
        expect_workers(server)
        port = hypercorn_port(server)
        check_http(partial(connection, port), loop_kind)
        assert server.stop() == 0, server.output
        assert server.said.count("application ended") == 2, server.output
        check_no_complaints(server, "ResourceWarning")


# ------------------------------------------------------------------------------------------------------------- gunicorn


def gunicorn(folder, *options, configuration="", **environment) -> Program:
    (folder / "gunicorn.conf.py").write_text(configuration)
    words = ("-m", "gunicorn", "served_app:app", "-b", f"{LOCALHOST}:0", "-w", "2", *options)
    # It puts a socket for its control into the home folder.
    return python(*words, cwd=folder, HOME=str(folder), **environment)


def check_gunicorn(server, kind):
    """Serve, renew the workers on SIGHUP, end on SIGTERM."""
    port = int(server.expect(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])
    old = set(expect_workers(server))
    connect = partial(connection, port)
    assert once_up(connect, "/loop")["loop"] == kind
    check_http(connect, kind)
    check_websocket(partial(websockets_client.connect, f"ws://{LOCALHOST}:{port}/echo"))
    with contextlib.closing(connect()) as link:
        assert ask(link, "GET", "/loop")["pid"] in old
        server.send_signal(signal.SIGHUP)
        new = set(expect_workers(server))
        assert not old & new
    while (answer := once_up(connect, "/loop"))["pid"] in old:
        pass
    assert answer["pid"] in new
    assert answer["loop"] == kind
    assert server.stop() == 0, server.output
    assert server.said.count("application ended") == 4, server.output


def test_gunicorn_uvicorn_worker_that_names_the_loop(loop_kind, tmp_path):
    worker = f"""
    from uvicorn_worker import UvicornWorker

    class Worker(UvicornWorker):
        CONFIG_KWARGS = {{"loop": {UVICORN_LOOPS[loop_kind]!r}, "http": "auto"}}
    """
    (tmp_path / "worker.py").write_text(textwrap.dedent(worker))
    with gunicorn(tmp_path, "-k", "worker.Worker") as server:
        check_gunicorn(server, loop_kind)


@pytest.mark.loopfast_only("asyncio needs no installation")
def test_gunicorn_uvicorn_worker_with_install_in_the_application(loop_kind, tmp_path):
    with gunicorn(tmp_path, "-k", "uvicorn_worker.UvicornWorker", INSTALL_LOOPFAST="1") as server:
        check_gunicorn(server, loop_kind)


def test_gunicorn_asgi_worker_with_install_in_the_configuration(loop_kind, tmp_path):
    """gunicorn's own worker makes its loop before it loads the application, but after its configuration."""
    configuration = "import loopfast\nloopfast.install()\n" if loop_kind == "loopfast" else ""
    with gunicorn(tmp_path, "-k", "asgi", "--asgi-loop", "asyncio", configuration=configuration) as server:
        check_gunicorn(server, loop_kind)

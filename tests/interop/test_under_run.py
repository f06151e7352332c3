"""`loopfast run` with real servers whose commands name no loop: workers, reload, gunicorn's classes, the alias."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
from functools import partial

import pytest
from programs import Program, ask, check_no_complaints, connection, expect_workers, once_up, package, python
from support import LOCALHOST
from talk import check_end, check_http, check_websocket

websockets_client = package("websockets.sync.client")

pytestmark = [
    pytest.mark.interop("uvicorn", "gunicorn", "uvicorn_worker", "hypercorn", "fastapi_cli", "websockets"),
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn and the signals of the tests are POSIX's"),
]


def run(*words, **options) -> Program:
    """Start `loopfast run` with *words*; the environment has a real uvloop where that is installed."""
    return python("-m", "loopfast", "run", *words, **options)


def uvicorn_port(server):
    return int(server.expect(r"running on http://127\.0\.0\.1:(\d+)")[1])


def gunicorn_port(server):
    return int(server.expect(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])


def check(server, port, kind="loopfast"):
    check_http(partial(connection, port), kind)
    check_websocket(partial(websockets_client.connect, f"ws://{LOCALHOST}:{port}/echo"))


@pytest.mark.parametrize("words", [["-m", "uvicorn"], ["uvicorn"]], ids=["module", "command"])
def test_uvicorn(words):
    with run(*words, "served_app:app", "--port", "0") as server:
        check(server, uvicorn_port(server))
        check_end(server)


def test_uvicorn_workers_and_one_that_is_replaced():
    with run("-m", "uvicorn", "served_app:app", "--port", "0", "--workers", "2") as server:
        port = uvicorn_port(server)
        workers = expect_workers(server)
        os.kill(workers[0], signal.SIGKILL)
        workers = {workers[1], *expect_workers(server, 1)}
        seen = set()
        while seen != workers:
            answer = once_up(partial(connection, port), "/loop")
            assert answer["loop"] == "loopfast"
            seen.add(answer["pid"])
        assert server.stop() == 0, server.output
        check_no_complaints(server, "ResourceWarning")  # the supervisor does not close its listening socket


VERSIONED = """
    import asyncio

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        kind = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": f"{version} on {{kind}}".encode()}})
"""


def test_uvicorn_reload(tmp_path):
    source = tmp_path / "versioned.py"

    def write(version):
        # Of another size each time: Python tells by size and whole seconds whether its compiled copy is out of date.
        source.write_text(textwrap.dedent(VERSIONED).format(version=version) + "#" * version)

    write(0)
    options = ("--reload", "--reload-dir", tmp_path, "--lifespan", "off", "--port", "0")
    with run("-m", "uvicorn", "versioned:app", *options, cwd=tmp_path) as server:
        port = uvicorn_port(server)
        server.expect("Started server process")
        assert once_up(partial(connection, port), "/") == b"0 on loopfast"
        for version in range(1, 11):
            # The watcher says nowhere that it has begun to watch: change the file until it sees that.
            write(version)
            with contextlib.suppress(AssertionError):
                server.expect("detected changes|Reloading", patience=1)
                break
        server.expect("Started server process")
        assert once_up(partial(connection, port), "/") == f"{version} on loopfast".encode()
        assert server.stop() in (0, -signal.SIGTERM), server.output
        check_no_complaints(server)


def test_fastapi(tmp_path):
    """FastAPI's own command, which has no option for the loop."""
    (tmp_path / "main.py").write_text("from served_app import app\n")
    with run("-m", "fastapi", "run", "main.py", "--port", "0", "--host", LOCALHOST, cwd=tmp_path) as server:
        port = uvicorn_port(server)
        check(server, port)
        assert server.stop() in (0, -signal.SIGTERM), server.output
        assert "application ended" in server.said, server.output


def test_hypercorn_workers():
    with run("-m", "hypercorn", "-w", "2", "-b", f"{LOCALHOST}:0", "served_app:app") as server:
        expect_workers(server)
        port = int(server.expect(r"Running on http://127\.0\.0\.1:(\d+)")[1])
        check(server, port)
        assert server.stop() == 0, server.output
        assert server.said.count("application ended") == 2, server.output


def gunicorn(folder, *options, under_run=True, as_uvloop=False, **environment) -> Program:
    (folder / "gunicorn.conf.py").touch()
    words = ("-m", "gunicorn", "served_app:app", "-b", f"{LOCALHOST}:0", "-w", "2", *options)
    # It puts a socket for its control into the home folder.
    start = partial(run, *(["--as-uvloop"] if as_uvloop else [])) if under_run else python
    return start(*words, cwd=folder, HOME=str(folder), **environment)


@pytest.mark.parametrize(
    ("worker", "under_run"),
    [
        ("uvicorn_worker.UvicornWorker", True),
        ("asgi", True),
        ("loopfast.workers.UvicornWorker", False),
        ("loopfast.workers.UvicornH11Worker", False),
    ],
)
def test_gunicorn(worker, under_run, tmp_path):
    """Its workers are forked; --preload loads the application before that. With our classes nothing else is needed."""
    with gunicorn(tmp_path, "-k", worker, "--preload", under_run=under_run) as server:
        port = gunicorn_port(server)
        old = set(expect_workers(server))
        once_up(partial(connection, port), "/loop")
        check(server, port)
        server.send_signal(signal.SIGHUP)
        new = set(expect_workers(server))
        while (answer := once_up(partial(connection, port), "/loop"))["pid"] in old:
            pass
        assert answer["pid"] in new
        assert answer["loop"] == "loopfast"
        assert server.stop() == 0, server.output


def test_a_choice_that_was_made_stays_and_the_alias_turns_it(tmp_path):
    """gunicorn's ASGI worker, told to take uvloop."""
    pytest.importorskip("uvloop")
    for as_uvloop, kind in ((False, "uvloop"), (True, "loopfast")):
        with gunicorn(tmp_path, "-k", "asgi", "--asgi-loop", "uvloop", as_uvloop=as_uvloop) as server:
            port = gunicorn_port(server)
            for _ in range(2):  # one that is still starting does not hear of the end
                server.expect("ASGI server listening")
            assert once_up(partial(connection, port), "/loop")["loop"] == kind
            with contextlib.closing(connection(port)) as link:
                assert ask(link, "GET", "/command") == {"out": "through cat", "status": 0}
            assert server.stop() == 0, server.output
            assert ("LoopfastAliasWarning" in server.said) is as_uvloop, server.output


def test_the_alias_and_real_uvloop_in_one_process(tmp_path):
    """It refuses while uvloop's loops are open; afterwards it hides the real one until it is taken back."""
    pytest.importorskip("uvloop")
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import warnings
        import uvloop
        import loopfast

        warnings.simplefilter("ignore", loopfast.LoopfastAliasWarning)
        loop = uvloop.new_event_loop()
        try:
            loopfast.uvloop_alias()
        except RuntimeError as exc:
            print("refused:", exc)
        loop.close()
        real = uvloop
        with loopfast.uvloop_alias():
            import uvloop
            print("inside:", uvloop.run(__import__("asyncio").sleep(0, uvloop.Loop is loopfast.Loop)))
        import uvloop
        print("after:", uvloop is real, uvloop.run(__import__("asyncio").sleep(0, 5)))
        """)
    )
    with python(program) as running:
        running.expect("refused: .* 1 open event loop")
        running.expect("inside: True")
        running.expect("after: True 5")
        assert running.ended() == 0

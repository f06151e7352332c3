"""The endpoint that `loopfast top` asks: who may, what it answers, and peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Echo, run_program, serving, settle

import loopfast
from loopfast import _endpoint

pytestmark = [
    pytest.mark.loopfast_only("asyncio's loops have no endpoint"),
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no UNIX sockets here"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lf-") as name:
        yield Path(name).resolve() / "place"


@pytest.fixture
def path(loop, folder) -> str:
    """The endpoint of the loop, open."""
    return loop.open_statistics_endpoint(folder)


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.setblocking(False)
    return sock


async def read_line(sock: socket.socket) -> bytes:
    """Read up to the end of a line, or of the stream, without a watcher of the loop's."""
    data = b""
    while not data.endswith(b"\n"):
        try:
            piece = sock.recv(1 << 20)
        except BlockingIOError:
            await asyncio.sleep(0.0005)
            continue
        except ConnectionResetError:
            return data
        if not piece:
            return data
        data += piece
    return data


async def ask(sock: socket.socket) -> dict[str, Any]:
    sock.send(_endpoint.REQUEST)
    line = await read_line(sock)
    assert line.endswith(b"\n"), "dropped without an answer"
    return dict(json.loads(line))


async def assert_dropped(sock: socket.socket) -> None:
    assert await read_line(sock) == b""
    sock.close()


# -------------------------------------------------------------------------------------------------------------- service


async def test_it_answers(loop, path):
    with connect(path) as sock:
        first = await ask(sock)
        second = await ask(sock)
    assert first["pid"] == os.getpid()
    assert first["loopfast"] == loopfast.__version__
    assert first["thread"] == threading.current_thread().name
    assert set(first["statistics"]) == set(loop.statistics().as_dict())
    assert first["statistics"]["running"] is True
    assert second["statistics"]["callbacks"] > first["statistics"]["callbacks"]


async def test_modes(loop, folder, path):
    assert Path(path).parent == folder
    assert Path(path).name.startswith(f"loopfast-{os.getpid()}-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_opening_twice(loop, folder, path, tmp_path):
    assert loop.open_statistics_endpoint() == path
    assert loop.open_statistics_endpoint(folder) == path
    with pytest.raises(RuntimeError, match="is open at"):
        loop.open_statistics_endpoint(tmp_path)


async def test_closing(loop, path):
    sock = connect(path)
    await ask(sock)
    assert loop.statistics().timing
    loop.close_statistics_endpoint()
    assert not os.path.exists(path)
    assert not loop.statistics().timing
    await assert_dropped(sock)
    loop.close_statistics_endpoint()


async def test_opening_again(loop, folder, path):
    loop.close_statistics_endpoint()
    again = loop.open_statistics_endpoint(folder)
    with connect(again) as sock:
        assert (await ask(sock))["pid"] == os.getpid()


def test_the_loop_removes_it_when_it_closes(loop_factory, folder):
    loop = loop_factory()
    path = loop.open_statistics_endpoint(folder)
    sock = connect(path)
    loop.run_until_complete(settle())
    loop.close()
    assert not os.path.exists(path)
    sock.setblocking(True)
    with contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""
    sock.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.open_statistics_endpoint(folder)
    loop.close_statistics_endpoint()


async def test_it_does_not_keep_the_loop_polling(loop, path):
    """With nothing else watched, a turn with callbacks ready makes no system call, as without an endpoint."""
    with connect(path) as sock:
        await ask(sock)
        before = loop.statistics()
        for _ in range(600):
            await asyncio.sleep(0)
        now = loop.statistics()
    # A poll every 61 turns may find something.
    assert now.events - before.events <= 20
    assert now.descriptors == 0
    assert set(now.transports.values()) == {0} and now.listeners == 0


async def test_several_loops_of_a_process(loop, folder, path):
    found: list[str] = []
    opened, done = threading.Event(), threading.Event()

    def other():
        async def main():
            found.append(asyncio.get_running_loop().open_statistics_endpoint(folder))
            opened.set()
            await asyncio.get_running_loop().run_in_executor(None, done.wait)

        loopfast.run(main())

    thread = threading.Thread(target=other, name="the other one")
    thread.start()
    try:
        await loop.run_in_executor(None, opened.wait)
        assert found[0] != path
        with connect(found[0]) as sock, connect(path) as own:
            answer, mine = await ask(sock), await ask(own)
            assert answer["thread"] == "the other one"
            assert answer["pid"] == os.getpid()
            assert answer["loop"] != mine["loop"]
    finally:
        done.set()
        await loop.run_in_executor(None, thread.join)
    assert not os.path.exists(found[0])


async def test_a_slow_callback_is_seen_while_it_runs(loop, path):
    loop.slow_callback_duration = 0.03

    def blocking_part():
        time.sleep(0.3)

    async def victim():
        blocking_part()

    with connect(path) as sock:
        await ask(sock)
        await asyncio.create_task(victim(), name="victim")
        answer = await ask(sock)
    [slow] = [each for each in answer["statistics"]["slow"] if each["task"] == "victim"]
    assert slow["taken"] == "during"
    assert "in test_a_slow_callback_is_seen_while_it_runs.<locals>.victim: blocking_part()" in slow["stack"][-2]
    assert "time.sleep(0.3)" in slow["stack"][-1]
    assert not any("loopfast/_loop.py" in line for line in slow["stack"])


async def test_the_watching_thread_ends_with_the_last_client(loop, path):
    with connect(path) as one, connect(path) as other:
        await ask(one)
        await ask(other)
        [thread] = [each for each in threading.enumerate() if each.name == "loopfast-top"]
        assert thread.daemon
    await loop.run_in_executor(None, thread.join)
    assert not thread.is_alive()


# ------------------------------------------------------------------------------------------------------------- mischief


@pytest.mark.parametrize(
    "request_",
    [b"\n", b"help\n", b"statistics?", b"x" * 100_000, b"\0" * 12, b"STATISTICS\n", b"statistics\nstatistics\n", b"{}"],
    ids=range(8),
)
async def test_wrong_requests(loop, path, request_):
    with connect(path) as good:
        await ask(good)
        bad = connect(path)
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            bad.send(request_)
        await assert_dropped(bad)
        assert (await ask(good))["pid"] == os.getpid()


async def test_a_request_in_pieces(loop, path):
    with connect(path) as sock:
        for index in range(len(_endpoint.REQUEST)):
            sock.send(_endpoint.REQUEST[index : index + 1])
            await settle()
        assert json.loads(await read_line(sock))["pid"] == os.getpid()


async def test_one_that_goes_away_at_once(loop, path):
    for _ in range(30):
        for words in (b"", _endpoint.REQUEST):
            # Elsewhere, since it waits once the backlog is full.
            sock = await loop.run_in_executor(None, connect, path)
            sock.send(words)
            sock.close()
    with connect(path) as sock:
        assert (await ask(sock))["pid"] == os.getpid()


async def test_one_that_does_not_read(loop, path):
    """Its answers fill the kernel's buffer, and then it is dropped; nothing gathers in the process."""
    sock = connect(path)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    dropped = False
    while not dropped:
        try:
            sock.send(_endpoint.REQUEST)
        except (BrokenPipeError, ConnectionResetError):
            dropped = True
        except BlockingIOError:
            pytest.fail("the requests gather")
        with connect(path) as other:
            await ask(other)
    sock.close()


async def test_one_that_asks_without_a_pause(loop, path):
    """It waits for its next answer, while the loop goes on."""
    begin = loop.statistics().time
    with connect(path) as sock:
        for _ in range(5):
            answer = await ask(sock)
    assert answer["statistics"]["time"] - begin >= 4 * _endpoint.PAUSE


async def test_more_clients_than_there_is_room_for(loop, path):
    """The one that was silent longest gives way."""
    socks = []
    for _ in range(_endpoint.CLIENTS):
        socks.append(connect(path))
        await ask(socks[-1])
    late = connect(path)
    await ask(late)
    await assert_dropped(socks.pop(0))
    for sock in socks:
        assert (await ask(sock))["pid"] == os.getpid()
        sock.close()
    late.close()


async def test_a_flood_of_connections(loop, path):
    """More than are served, none of which says anything: a server of the loop answers meanwhile."""
    async with serving(Echo) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        idle = []
        for _ in range(60):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(path)
            idle.append(sock)
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
        writer.close()
        await writer.wait_closed()
        for sock in idle:
            sock.close()
    with connect(path) as sock:
        assert (await ask(sock))["pid"] == os.getpid()


async def test_no_descriptor_left_to_accept(loop, path):
    import resource

    sock = socket.socket(socket.AF_UNIX)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    filling: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                filling.append(os.dup(sock.fileno()))
        sock.connect(path)
        before = loop.statistics().callbacks
        await asyncio.sleep(0.02)
        # It is left alone for a while, rather than tried in each turn.
        assert loop.statistics().callbacks - before < 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in filling:
            os.close(fd)
    sock.setblocking(False)
    assert (await ask(sock))["pid"] == os.getpid()
    sock.close()


# ---------------------------------------------------------------------------------------------------------------- users

as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the right to change user")

STRANGER = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    sock.connect(sys.argv[1])
    sock.sendall(b"statistics\\n")
    print(sock.recv(100))
except OSError as exc:
    print(type(exc).__name__)
"""


async def ask_as_stranger(loop: Any, path: str) -> str:
    command = [sys.executable, "-I", "-c", STRANGER, path]
    done = await loop.run_in_executor(None, lambda: subprocess.run(command, capture_output=True, text=True, timeout=30))
    assert done.stderr == ""
    return str(done.stdout).strip()


@as_root
async def test_another_user_cannot_connect(loop, path):
    assert await ask_as_stranger(loop, path) == "PermissionError"


@as_root
async def test_another_user_is_not_answered(loop, folder, path):
    """Even where the modes were changed: the kernel tells who connects."""
    for each in (folder.parent, folder, Path(path)):
        each.chmod(0o777)
    assert await ask_as_stranger(loop, path) in ("b''", "ConnectionResetError", "BrokenPipeError")
    with connect(path) as sock:
        assert (await ask(sock))["pid"] == os.getpid()


@pytest.mark.parametrize("what", ["others may write", "somebody else's", "a file", "no place"])
def test_unsafe_folders(loop, folder, what):
    expected: type[OSError] = PermissionError
    if what == "no place":
        folder, expected = folder / "deeper", FileNotFoundError
    elif what == "a file":
        folder.write_text("")
        expected = NotADirectoryError
    else:
        folder.mkdir()
        folder.chmod(0o777 if what == "others may write" else 0o755)
        if what == "somebody else's":
            if os.geteuid() != 0:
                pytest.skip("needs the right to give a folder away")
            os.chown(folder, 65534, 65534)
    with pytest.raises(expected) as caught:
        loop.open_statistics_endpoint(folder)
    assert caught.value.filename == str(folder)
    assert loop.statistics().timing is False


def test_a_path_that_is_too_long(loop, folder):
    folder.mkdir()
    deep = folder / ("x" * 110)
    with pytest.raises(OSError, match="too long"):
        loop.open_statistics_endpoint(deep)
    assert list(deep.iterdir()) == []


def test_the_default_folder_must_be_ours(monkeypatch, folder):
    """In a folder that all can write to, somebody may have been there first."""
    shared = folder
    shared.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared / "not there"))
    private = shared / f"loopfast-{os.geteuid()}"
    private.symlink_to("/etc")
    with pytest.raises(PermissionError, match="a link"):
        _endpoint.choose_folder()
    private.unlink()
    private.mkdir(0o755)
    assert _endpoint.choose_folder() == str(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    runtime = shared / "not there"
    runtime.mkdir()
    assert _endpoint.choose_folder() == str(runtime / "loopfast")


def test_a_new_endpoint_clears_up(loop, folder):
    """After processes that were killed; what may be alive, or is no socket of ours, stays."""
    folder.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {
        "dead": _endpoint.file_name(ended.pid, 1),
        "listens": _endpoint.file_name(ended.pid, 2),
        "alive": _endpoint.file_name(os.getppid(), 1),
        "other": "other.sock",
    }
    with contextlib.ExitStack() as stack:
        for what, name in names.items():
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(folder / name))
            if what == "listens":
                sock.listen()
        (folder / _endpoint.file_name(ended.pid, 3)).write_text("a file")
        loop.open_statistics_endpoint(folder)
        left = set(os.listdir(folder))
    assert names["dead"] not in left
    assert {names["listens"], names["alive"], names["other"], _endpoint.file_name(ended.pid, 3)} <= left


def test_what_a_dead_process_left(loop, folder):
    """One of the same number, killed: its socket gives way, and nothing else does."""
    endpoint = _endpoint.Endpoint(loop, str(folder))
    folder.mkdir()
    left = folder / _endpoint.file_name(os.getpid(), endpoint._number)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(left))
    assert endpoint.open() == str(left)
    endpoint.close()
    left.write_text("not a socket")
    with pytest.raises(FileExistsError):
        endpoint.open()
    assert left.read_text() == "not a socket"


# ---------------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize(("value", "wanted"), [("", False), ("0", False), ("off", False), ("1", True), ("yes", True)])
def test_the_variable(value, wanted):
    assert _endpoint.wanted_folder(value) is wanted


def test_the_variable_as_a_path():
    assert _endpoint.wanted_folder("/run/mine") == "/run/mine"
    assert _endpoint.wanted_folder("./mine") == os.path.abspath("mine")
    with pytest.warns(RuntimeWarning, match="'mine'"):
        assert _endpoint.wanted_folder("mine") is False


def test_switched_on_by_the_environment(loop_kind, folder):
    out = run_program(
        loop_kind,
        """
        loop = new_event_loop()
        print(os.listdir(os.environ["LOOPFAST_TOP"]) if os.path.exists(os.environ["LOOPFAST_TOP"]) else "none before")
        async def main():
            [name] = os.listdir(os.environ["LOOPFAST_TOP"])
            assert name.startswith(f"loopfast-{os.getpid()}-"), name
            assert loop.statistics().timing
        loop.run_until_complete(main())
        loop.run_until_complete(main())
        loop.close()
        print(os.listdir(os.environ["LOOPFAST_TOP"]))
        """,
        LOOPFAST_TOP=str(folder),
    )
    assert out == "none before\n[]\n"


def test_a_folder_that_cannot_be_had_stops_no_program(loop_kind, folder):
    out = run_program(
        loop_kind,
        """
        warnings.simplefilter("always")
        with warnings.catch_warnings(record=True) as caught:
            for _ in range(3):
                run(asyncio.sleep(0, "fine"))
        print(*[str(each.message) for each in caught], sep="\\n")
        """,
        LOOPFAST_TOP=str(folder / "deeper"),
    )
    lines = out.splitlines()
    assert len(lines) == 3 and all("cannot be opened" in line and str(folder) in line for line in lines)


def test_a_program_that_does_not_close_its_loop(loop_kind, folder):
    out = run_program(
        loop_kind,
        """
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        print(len(os.listdir(os.environ["LOOPFAST_TOP"])))
        sys.stdout.flush()
        loop.__class__.__del__ = lambda self: None
        """,
        LOOPFAST_TOP=str(folder),
    )
    assert out == "1\n"
    assert os.listdir(folder) == []


def test_forked_workers_have_their_own(loop_kind, folder):
    out = run_program(
        loop_kind,
        """
        warnings.simplefilter("ignore")
        folder = os.environ["LOOPFAST_TOP"]
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        [parents] = os.listdir(folder)
        children = []
        for number in range(2):
            child = os.fork()
            if child == 0:
                # The first runs the loop it has inherited, the second one of its own.
                mine = loop if number == 0 else new_event_loop()
                mine.run_until_complete(asyncio.sleep(0))
                assert parents in os.listdir(folder)
                assert any(name.startswith(f"loopfast-{os.getpid()}-") for name in os.listdir(folder))
                mine.close()
                loop.close()
                assert os.listdir(folder) == [parents] or number == 0, os.listdir(folder)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        async def ask():
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            sock.connect(os.path.join(folder, parents))
            await loop.sock_sendall(sock, b"statistics\\n")
            answer = await loop.sock_recv(sock, 100000)
            assert b'"pid": %d' % os.getpid() in answer, answer
            sock.close()
        loop.run_until_complete(ask())
        loop.close()
        print(os.listdir(folder))
        """,
        LOOPFAST_TOP=str(folder),
    )
    assert out == "[]\n"


def test_a_child_holds_nothing_of_the_parents(loop_kind, folder):
    """When the parent dies, its clients see that, although a child of it lives."""
    out = run_program(
        loop_kind,
        """
        warnings.simplefilter("ignore")
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        path = loop._endpoint.path
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        sock.sendall(b"statistics\\n")
        loop.run_until_complete(asyncio.sleep(0.01))
        assert sock.recv(1 << 20)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        loop.close()
        assert sock.recv(10) == b""
        os.write(writing, b"x")
        assert os.waitpid(child, 0)[1] == 0
        sock.close()
        print("gone")
        """,
        LOOPFAST_TOP=str(folder),
    )
    assert out == "gone\n"


async def test_debug_mode(loop, path):
    loop.set_debug(True)
    with connect(path) as sock:
        assert (await ask(sock))["statistics"]["debug"] is True

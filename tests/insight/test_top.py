"""`loopfast top`, run as a user runs it: on processes of ours, on what is none, and in a terminal."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PROGRAM_PRELUDE, program

import loopfast
from loopfast import _endpoint, _top

pytestmark = pytest.mark.timeout(60)

ROOT = str(Path(loopfast.__file__).parents[1])

SERVING = """
async def main():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    print("ready", flush=True)
    await asyncio.Event().wait()
run(main())
"""
assert "def run" in PROGRAM_PRELUDE


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lf-") as name:
        yield Path(name).resolve() / "place"


@contextlib.contextmanager
def running(folder: Path, code: str = SERVING, **environment: str) -> Iterator[Any]:
    """A process with an endpoint in *folder*, which has printed a line and is killed at the end."""
    with program("loopfast", code, **{"LOOPFAST_TOP": str(folder), **environment}) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
            process.communicate()


def top(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loopfast", "top", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": ROOT, "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=50,
    )


# ---------------------------------------------------------------------------------------------------------- one process


def test_once_as_json(folder):
    with running(folder) as process:
        done = top(process.pid, "--once", "--json", "--interval", 0.05)
        assert (done.returncode, done.stderr) == (0, "")
        [loop] = json.loads(done.stdout)
        assert loop["pid"] == process.pid
        assert loop["answers"] is True
        assert loop["statistics"]["listeners"] == 1
        assert loop["rates"]["iterations"] > 0
        assert 0 <= loop["rates"]["utilisation"] <= 1


def test_once_as_text(folder):
    pytest.importorskip("rich")
    with running(folder) as process:
        done = top(process.pid, "--once", "--interval", 0.05)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{process.pid}/1" in done.stdout
        assert "turns/s" in done.stdout
        assert "1 listening" in done.stdout
        assert "\x1b" not in done.stdout


def test_json_lines_until_the_process_ends(folder):
    with running(folder) as process:
        command = [sys.executable, "-m", "loopfast", "top", str(process.pid), "--json", "--interval", "0.05"]
        with subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": ROOT}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watching:
            assert watching.stdout is not None
            lines = [json.loads(watching.stdout.readline()) for _ in range(3)]
            process.kill()
            out, err = watching.communicate(timeout=30)
    assert lines[0][0]["rates"] is None
    assert lines[2][0]["statistics"]["time"] > lines[1][0]["statistics"]["time"]
    assert watching.returncode == 0
    assert err == f"loopfast top: process {process.pid} has ended, or closed its loops\n"


def test_slow_callbacks_with_their_stack(folder):
    pytest.importorskip("rich")
    code = """
    def culprit():
        time.sleep(0.15)
    async def main():
        print("ready", flush=True)
        while True:
            await asyncio.sleep(0.001)
            culprit()
    run(main())
    """
    with running(folder, code) as process:
        # Looked at from outside from the first answer on, so the second one has it.
        done = top(process.pid, "--once", "--interval", 1)
    assert done.returncode == 0, done.stderr
    assert "slow: " in done.stdout
    assert re.search(r"in main\b", done.stdout)
    assert re.search(r"in culprit\b", done.stdout)


def test_a_loop_that_is_blocked(folder):
    pytest.importorskip("rich")
    code = """
    async def main():
        await asyncio.sleep(0)
        print("ready", flush=True)
        time.sleep(1000)
    run(main())
    """
    with running(folder, code) as process:
        done = top(process.pid, "--once", "--interval", 0.05)
    assert done.returncode == 1
    assert "blocked" in done.stderr and "Traceback" not in done.stderr


def test_workers_of_a_parent(folder):
    """A parent without a loop, as that of uvicorn's workers: its children are shown."""
    code = """
    import subprocess
    text = '''
    import asyncio, loopfast
    async def main():
        print("up", flush=True)
        await asyncio.Event().wait()
    loopfast.run(main())
    '''
    import textwrap
    command = [sys.executable, "-c", textwrap.dedent(text)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for child in children:
        child.stdout.readline()
    print("ready", flush=True)
    try:
        sys.stdin.read()
        signal.pause()
    finally:
        for child in children:
            child.kill()
    """
    with running(folder, code, PYTHONPATH=ROOT) as process:
        done = top(process.pid, "--once", "--json", "--interval", 0.05)
        pids = {loop["pid"] for loop in json.loads(done.stdout)} if done.returncode == 0 else set()
        process.send_signal(signal.SIGINT)
        process.wait()
    assert len(pids) == 2 and process.pid not in pids, done.stderr


# ----------------------------------------------------------------------------------------------------- nothing to watch


def test_a_process_that_is_gone(folder):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    done = top(ended.pid, "--once", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"loopfast top: there is no process {ended.pid}\n"


def test_a_process_without_an_endpoint():
    done = top(os.getpid(), "--once", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "no statistics endpoint" in line and "LOOPFAST_TOP=1" in line


def test_what_a_killed_process_has_left(folder):
    with running(folder) as process:
        pass
    [left] = os.listdir(folder)
    assert str(process.pid) in left
    done = top("--folder", folder, "--json")
    assert json.loads(done.stdout) == []
    # Nobody will ever answer there.
    assert os.listdir(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to change user")
def test_permission_denied(folder):
    """As another user: no endpoint of ours can be asked, and the line says so."""
    with running(folder) as process:
        code = "import os, sys; from loopfast import _top; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        code += f"sys.exit(_top.main(['{process.pid}', '--once', '--json']))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=50,
        )
    assert done.returncode == 1
    assert "permission denied" in done.stderr and "uid 0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the system does not tell who listens")
def test_a_socket_with_the_name_of_another_process(folder):
    """Anybody may give a socket a name like that; who listens is what counts."""
    folder.mkdir(0o700)
    with running(folder / "real") as process, socket.socket(socket.AF_UNIX) as fake:
        fake.bind(str(folder / _endpoint.file_name(process.pid, 1)))
        fake.listen()
        with pytest.raises(PermissionError) as caught:
            _top.Watched(_top.Place(process.pid, 1, str(folder / _endpoint.file_name(process.pid, 1))))
        assert caught.value.errno == errno.EPERM
        done = top(process.pid, "--once", "--json", "--folder", folder)
        assert done.returncode == 1 and "permission denied" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["x"], "invalid int"),
        (["0"], "positive"),
        (["-5"], "-5"),
        (["1", "--interval", "0"], "--interval"),
        (["1", "--interval", "nan"], "--interval"),
        (["1", "2"], "2"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage(arguments, word):
    done = top(*arguments)
    assert done.returncode == 2
    assert word in done.stderr and "Traceback" not in done.stderr


def test_a_huge_process_number():
    done = top(2**70, "--once", "--json")
    assert done.returncode == 1
    assert "there is no process" in done.stderr


def test_without_rich(folder):
    code = "import sys; sys.modules['rich'] = None; from loopfast import _top; sys.exit(_top.main(['1']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 2
    assert "pip install 'loopfast[top]'" in done.stderr


# -------------------------------------------------------------------------------------------------- lists and terminals


def test_the_list_of_processes(folder):
    pytest.importorskip("rich")
    with running(folder) as one, running(folder) as other:
        done = top("--folder", folder)
        assert done.returncode == 0, done.stderr
        for process in (one, other):
            assert f"{process.pid}/1" in done.stdout
            assert re.search(rf"^{process.pid}  .*python", done.stdout, re.MULTILINE)
        # Also where we do not know the folder: the kernel lists the sockets.
        pids = {loop["pid"] for loop in json.loads(top("--json").stdout)}
        if sys.platform == "linux":
            assert {one.pid, other.pid} <= pids


def test_no_process_at_all(folder):
    done = top("--folder", folder)
    assert done.returncode == 1
    assert "no process with a statistics endpoint" in done.stderr


@pytest.mark.parametrize("ending", ["Ctrl+C", "the process ends"])
def test_in_a_terminal(folder, ending):
    pytest.importorskip("rich")
    with running(folder) as process:
        command = [sys.executable, "-m", "loopfast", "top", str(process.pid), "--interval", "0.05"]
        own, theirs = pty.openpty()
        environment = os.environ | {"PYTHONPATH": ROOT, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
        with subprocess.Popen(
            command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        ) as watching:
            os.close(theirs)
            shown = read_until(own, rb"(?s)turns/s.*turns/s.*turns/s")
            if ending == "Ctrl+C":
                watching.send_signal(signal.SIGINT)
            else:
                process.kill()
            shown += read_until(own, None)
            assert watching.wait(30) == 0
        os.close(own)
    assert b"Traceback" not in shown
    assert f"{process.pid}/1".encode() in shown
    # The cursor, hidden while it is live, is shown again.
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert (b"has ended" in shown) == (ending != "Ctrl+C")


def read_until(fd: int, pattern: bytes | None) -> bytes:
    """Read from a terminal until *pattern* has come, or to the end."""
    data = b""
    deadline = time.monotonic() + 40
    while pattern is None or not re.search(pattern, data):
        assert time.monotonic() < deadline, data
        if select.select([fd], [], [], 0.2)[0]:
            try:
                piece = os.read(fd, 65536)
            except OSError as exc:
                assert exc.errno == errno.EIO
                return data
            if not piece:
                return data
            data += piece
    return data


def test_what_another_process_says_does_not_command_the_terminal():
    assert _top.plain("name\x1b[2J\x07\n\u202e") == "name\\x1b[2J\\x07\\n\\u202e"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1k"), (12345, "12.3k"), (4.56e6, "4.56M")]
)
def test_quantities(number, text):
    assert _top.quantity(number) == text

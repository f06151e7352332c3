"""The demonstration from end to end, its end by a signal, and its count of sends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

for package in ("fastapi", "uvicorn", "httpx", "websockets"):
    pytest.importorskip(package, reason=f"{package} is not installed")

from bench import loops, native  # noqa: E402
from bench.demo import check, compare  # noqa: E402

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)
COMMAND = [sys.executable, "-m", "bench.demo"]
# The demonstration is of loopfast; that the other loops pass it as well shows that it does not favour one.
LOOPS = ["loopfast", "asyncio"]


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs the demonstration to its end."""
    return subprocess.run(
        [*COMMAND, *words], cwd=native.SOURCES.parent, capture_output=True, text=True, check=False, timeout=110
    )


@pytest.mark.parametrize("loop", LOOPS)
def test_every_route_is_checked_and_the_loops_are_set_side_by_side(loop: str) -> None:
    done = demo("--quick", "--loop", loop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n  ok  ") == 6
    assert re.search(rf"^  loop +{loop}\.", done.stdout, re.MULTILINE)
    assert "demonstration and not a benchmark" in done.stdout
    for name in compare.ORDER:
        figures = re.search(rf"^{name} +([\d,]+) ", done.stdout, re.MULTILINE)
        if loops.missing(name) is None:
            assert figures is not None and int(figures[1].replace(",", "")) > 0
        else:
            assert f"{name}: left out" in done.stdout


@pytest.mark.parametrize("loop", LOOPS)
def test_serve_answers_until_interrupted(loop: str) -> None:
    server = subprocess.Popen(
        [*COMMAND, "--serve", "--port", "0", "--loop", loop],
        cwd=native.SOURCES.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        url = re.search(r"http://[\d.:]+", server.stdout.readline())[0]
        with urllib.request.urlopen(f"{url}/served-by", timeout=20) as answer:
            assert loop.encode() in answer.read()
        os.killpg(server.pid, signal.SIGINT)
        rest, _ = server.communicate(timeout=20)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert server.returncode in (0, 130), rest
    assert "Traceback" not in rest


def test_an_interrupt_leaves_no_process_behind() -> None:
    running = subprocess.Popen(
        [*COMMAND, "--loop", "asyncio"],
        cwd=native.SOURCES.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    for line in running.stdout:
        if found := re.search(r"Talking to http://127\.0\.0\.1:(\d+)", line):
            break
    os.kill(running.pid, signal.SIGINT)
    _, complaint = running.communicate(timeout=20)
    # Python ends itself by the signal where it came in a module's exec() of text, although it was handled afterwards.
    assert running.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in complaint
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(found[1])), timeout=5)


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = demo("--serve", "--loop", "asyncio", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"bench.demo: cannot serve on 127.0.0.1 port {port}: Address already in use"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is absent")
def test_one_send_per_request_where_asyncio_makes_two() -> None:
    done = demo("--syscalls", "--quick", "--loop", "loopfast")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d\.\d\d) ", done.stdout, re.MULTILINE))
    assert counts["asyncio"] == "2.00"
    assert float(counts["loopfast"]) <= 1.01


def test_sends_are_told_from_other_writes() -> None:
    log = [
        '7 write(14<TCP:[127.0.0.1:1->127.0.0.1:2]>, "HTTP/1.1 200 OK"..., 130) = 130',
        '7 sendto(15<TCPv6:[[::1]:1->[::1]:2]>, "{}", 2, 0, NULL, 0 <unfinished ...>',
        "7 <... sendto resumed>) = 2",
        '7 write(2<pipe:[11]>, "INFO", 4) = 4',
        '7 sendto(5<UNIX-STREAM:[1->2]>, "\\0", 1, 0, NULL, 0) = 1',
    ]
    assert compare.count_sends(log) == {"write": 1, "sendto": 1}


def test_a_wrong_answer_is_named() -> None:
    with pytest.raises(check.CheckFailed, match=r"GET /json: got 500, wanted 200"):
        check.expect("GET /json", 500, 200)

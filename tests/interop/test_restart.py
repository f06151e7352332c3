"""Restarts under load: every request is counted, none is lost. gunicorn by SIGHUP, a uvicorn that follows another."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from load import Load
from programs import Program, connection, expect_workers, free_port, once_up, python
from support import LOCALHOST

if sys.platform != "win32":
    import fcntl

pytestmark = [
    pytest.mark.interop("uvicorn", "gunicorn", "uvicorn_worker", "fastapi"),
    pytest.mark.timeout(180),  # five generations of servers
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn, and sockets that are handed over, are POSIX's"),
]

RESTARTS = 4


def check(load: Load, generations: list[set[int]]) -> None:
    """Every generation has answered, and every request was."""
    print(f"{load.answers.total()} requests, {load.resent} of them sent again, {len(load.lost)} lost")
    assert load.lost == [], (load.lost[:5], len(load.lost), sum(load.answers.values()))
    for pids in generations:
        assert sum(load.answers[pid] for pid in pids) > 0


@pytest.mark.parametrize("worker", ["UvicornWorker", "UvicornH11Worker"])
def test_gunicorn_by_sighup(worker, tmp_path):
    """The arbiter keeps the listening socket, new workers accept from it, the old ones answer what they have."""
    (tmp_path / "gunicorn.conf.py").touch()
    words = ("-m", "gunicorn", "served_app:app", "-b", f"{LOCALHOST}:0", "-w", "2")
    with python(*words, "-k", f"loopfast.workers.{worker}", cwd=tmp_path, HOME=str(tmp_path)) as server:
        port = int(server.expect(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])

        def changed(ends):
            """Wait until two workers have started and *ends* have ended, in whichever order."""
            pids = {"started": set(), "ended": set()}
            while (len(pids["started"]), len(pids["ended"])) != (2, ends):
                found = server.expect(r"application (started|ended) in (\d+)")
                pids[found[1]].add(int(found[2]))
            return pids["started"]

        generations = [changed(0)]
        once_up(partial(connection, port), "/loop")
        with Load(port) as load:
            load.wait_for(100)
            for _ in range(RESTARTS):
                server.send_signal(signal.SIGHUP)
                generations.append(changed(2))
                load.wait_for(500, generations[-1])
        check(load, generations)
        assert server.stop() == 0, server.output


# Serves on a socket that it is given, or on one of its own that shares its port.
SERVE = """
    import socket, sys
    import uvicorn
    from loopfast.serving import DrainingServer

    how, number = sys.argv[1], int(sys.argv[2])
    if how == "inherited":
        listening = socket.socket(fileno=number)
    else:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", number))
    config = uvicorn.Config("served_app:app", loop="loopfast:new_event_loop", access_log=False)
    DrainingServer(config).run(sockets=[listening])
"""


def take_over(start: Callable[[], Program], port: int) -> None:
    """Restart a server under load: the next one is up before the old one is told to end."""
    with contextlib.ExitStack() as stack:

        def begin() -> tuple[Program, set[int]]:
            server = stack.enter_context(start())
            return server, set(expect_workers(server, 1))

        server, pids = begin()
        generations = [pids]
        once_up(partial(connection, port), "/loop")
        with Load(port) as load:
            load.wait_for(100)
            for _ in range(RESTARTS):
                following, pids = begin()
                generations.append(pids)
                load.wait_for(1, pids)
                assert server.stop() in (0, -signal.SIGTERM), server.output
                server = following
                load.wait_for(500, pids)
        check(load, generations)
        assert server.stop() in (0, -signal.SIGTERM), server.output


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "serve.py"
    path.write_text(textwrap.dedent(SERVE))
    return path


def test_two_processes_on_one_inherited_socket(program):
    """As a supervisor or systemd's socket activation has it: the queue of connections outlives every server."""
    with socket.create_server((LOCALHOST, 0), backlog=1000) as listening:
        number = listening.fileno()
        take_over(
            lambda: python(program, "inherited", str(number), cwd=program.parent, pass_fds=[number]),
            listening.getsockname()[1],
        )


def in_a_network_of_its_own(action: Callable[[], None]) -> None:
    """Call *action* in a thread with an empty network namespace in which closing sockets hand their queue on.

    Linux's man pages: network_namespaces(7); net.ipv4.tcp_migrate_req in the kernel's ip-sysctl.rst.
    """
    new_network, set_flags, up = 0x40000000, 0x8914, 0x1  # CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP
    setting = Path("/proc/sys/net/ipv4/tcp_migrate_req")
    if not setting.exists():
        pytest.skip("needs a Linux kernel of 5.14 or later with net.ipv4.tcp_migrate_req")

    def in_thread() -> str | None:
        if ctypes.CDLL(None, use_errno=True).unshare(new_network) != 0:
            return os.strerror(ctypes.get_errno())
        with socket.socket() as sock:
            fcntl.ioctl(sock, set_flags, struct.pack("16sh14x", b"lo", up))
        setting.write_text("1")
        action()
        return None

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        if reason := pool.submit(in_thread).result():
            pytest.skip(f"needs the right to make a network namespace: {reason}")


@pytest.mark.skipif(sys.platform != "linux", reason="handing connections on to another socket is Linux's")
def test_two_processes_that_share_a_port(program):
    """SO_REUSEPORT: each has a queue of its own, and the kernel hands on what is in that of a socket that is closed."""

    def action() -> None:
        port = free_port()
        take_over(lambda: python(program, "own", str(port), cwd=program.parent), port)

    in_a_network_of_its_own(action)

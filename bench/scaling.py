"""`python -m bench.scaling`: one server process and two, on a shared listening socket and with SO_REUSEPORT.

Needs wrk. Server and client share the machine, so the processor time that each took is reported beside the rate.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

HOST = "127.0.0.1"
APP = "bench.demo.app:app"
PATH = "/json"
TICKS = os.sysconf("SC_CLK_TCK")
SETUPS = {"1 process": 1, "2, shared socket": 2, "2, SO_REUSEPORT": 2}
CLIENTS = {"32 kept connections": (), "a connection per request": ("-H", "Connection: close")}


class Run(NamedTuple):
    """One run of the client against one setup."""

    rate: float  # requests per second
    p99: float  # milliseconds
    failed: int
    server: float  # seconds of processor time per second, all processes
    client: float
    share: float  # of the server's processor time, that of the busiest process
    cost: float  # microseconds of the server's processor time per request


def serve(port: int) -> None:
    """Serve on a listening socket of our own at a port that others may listen at, too."""
    import uvicorn

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((HOST, port))
    config = uvicorn.Config(APP, loop="loopfast:new_event_loop", log_level="error", backlog=2048)
    uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def servers(setup: str, port: int) -> Iterator[None]:
    count = SETUPS[setup]
    if setup == "2, SO_REUSEPORT":
        commands = [[sys.executable, "-m", "bench.scaling", "--serve", str(port)]] * count
    else:
        options = ["--loop", "loopfast:new_event_loop", "--log-level", "error", "--port", str(port)]
        commands = [[sys.executable, "-m", "uvicorn", APP, "--workers", str(count), *options]]
    # In this session: Linux may divide processors among sessions, which would favour two servers over one.
    started = [subprocess.Popen(command) for command in commands]
    try:
        deadline = time.monotonic() + 60
        while len(listeners(port)) < count or not answers(port):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{setup}: the servers do not start")
            time.sleep(0.2)
        time.sleep(1)  # the second process of a shared socket says nowhere that it is up
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), 5) as sock:
            sock.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return sock.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def command_of(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def listeners(port: int) -> list[int]:
    """The processes that hold a socket which listens at ``port``, but for supervisors."""
    found = []
    inodes = set()
    with open("/proc/net/tcp") as file:
        for line in list(file)[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].split(":")[1], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            links = {os.readlink(f"/proc/{name}/fd/{number}") for number in os.listdir(f"/proc/{name}/fd")}
            if links & inodes:
                found.append(int(name))
    workers = [pid for pid in found if b"spawn_main" in command_of(pid)]
    return workers or found


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(port: int, options: tuple[str, ...], seconds: int) -> Run:
    pids = listeners(port)
    before = {pid: cpu_seconds(pid) for pid in pids}
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    command = ["wrk", "-t", "1", "-c", "32", "-d", str(seconds), "--latency", *options, f"http://{HOST}:{port}{PATH}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = [cpu_seconds(pid) - before[pid] for pid in pids]
    client = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
    requests = int(re.search(r"(\d+) requests in", said)[1])
    unit, number = {"us": 1e-3, "ms": 1.0, "s": 1e3}, re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    failures = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    failed = sum(map(int, failures.groups())) if failures else 0
    return Run(
        rate=float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),
        p99=float(number[1]) * unit[number[2]],
        failed=failed + (int(bad[1]) if bad else 0),
        server=sum(used) / took,
        client=client / took,
        share=max(used) / sum(used),
        cost=sum(used) / requests * 1e6,
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each setup has its turn (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=3, help="of one run of the client (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    runs: dict[tuple[str, str], list[Run]] = {}
    for turn in range(arguments.rounds):
        for setup in SETUPS:
            port = free_port()
            with servers(setup, port):
                for name, options in CLIENTS.items():
                    runs.setdefault((name, setup), []).append(measure(port, options, arguments.seconds))
        print(f"round {turn + 1} of {arguments.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    print(
        "| client | server | requests/s | range | p99 ms | failed | server CPUs | client CPUs | busiest | µs/request |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for (name, setup), taken in runs.items():
        middle = Run(*map(statistics.median, zip(*taken, strict=True)))
        rates = sorted(run.rate for run in taken)
        print(
            f"| {name} | {setup} | {middle.rate:,.0f} | {rates[0]:,.0f} - {rates[-1]:,.0f} | {middle.p99:.1f} "
            f"| {sum(run.failed for run in taken)} | {middle.server:.2f} | {middle.client:.2f} | {middle.share:.0%} "
            f"| {middle.cost:.0f} |"
        )


if __name__ == "__main__":
    main()

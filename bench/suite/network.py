"""Measures a server workload on one loop: a fresh server process and the C generator, each on processors of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .. import native
from ..load import Generator, LoadError, cpu_seconds
from ..native import Unavailable
from .micro import Failed, reason
from .registry import Workload
from .results import Sample

START_SECONDS = 30


@dataclasses.dataclass
class Network:
    """A server workload on a loop. `cpus` are the processors of the server and of the generator, None for any."""

    workload: Workload
    loop: str
    seconds: float
    cpus: tuple[set[int] | None, set[int] | None]

    def measure(self) -> Sample:
        """Returns the sample of one server process; raises Failed where it does not serve or answers wrongly."""
        load = self.workload.load
        for_server, for_client = self.cpus
        if self.workload.idle:
            return self._memory()
        with self._serving(for_server) as (process, host, port):
            if self.workload.expect is not None:
                self._check_answer(host, port)
            try:
                with Generator(load, host, port, for_client) as client:
                    # Enough that each connection has been served, however many there are.
                    client.run(count=load.connections * load.pipeline)
                    client.run(seconds=self.seconds / 4)
                    before, client_before, begun = cpu_seconds(process.pid), client.cpu_seconds(), time.perf_counter()
                    got = client.run(seconds=self.seconds)
                    spent = time.perf_counter() - begun
                    cpu = cpu_seconds(process.pid) - before
                    share = (client.cpu_seconds() - client_before) / spent
            except LoadError as error:
                raise Failed(str(error)) from None
            except FileNotFoundError:  # the server's folder in /proc
                raise Failed("the server ended during the measurement") from None
        latency = {"p50": got.p50_us, "p99": got.p99_us, "p99.9": got.p999_us, "max": got.max_us}
        flow = got.bytes / got.seconds
        return Sample([got.seconds / got.messages], latency, cpu / got.messages, share, flow, got.messages)

    def _memory(self) -> Sample:
        """Returns the sample of the bytes that one of many connections adds to the server, once it has been used."""
        load = self.workload.load
        few = load.connections // (10 if load.protocol == "tls" else 2)
        for_server, for_client = self.cpus
        try:
            with self._serving(for_server) as (process, host, port), Generator(load, host, port, for_client) as client:
                # The first half pays for what all share, and fills what is free in the process: after a tenth, what a
                # connection takes was 40 % more or less from build to build. With TLS it would fill what the handshakes
                # leave behind, which belongs to the figure. The phases open as many connections as they have messages.
                client.run(count=few)
                before = memory(process.pid)
                client.run(count=load.connections)
                grown = memory(process.pid) - before
        except LoadError as error:
            raise Failed(str(error)) from None
        except FileNotFoundError:
            raise Failed("the server ended during the measurement") from None
        if grown <= 0:
            raise Failed(f"the server's memory did not grow with {load.connections - few} connections")
        return Sample([grown / (load.connections - few)])

    @contextlib.contextmanager
    def _serving(self, cpus: set[int] | None) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
        with tempfile.TemporaryDirectory(prefix="loopfast-bench-") as folder:
            path = str(Path(folder, "socket")) if self.workload.load.protocol == "unix" else "-"
            command = native.command("suite.serve", self.workload.name, self.loop, path)
            with open(Path(folder, "stderr"), "w+") as complaint:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaint, text=True
                )
                try:
                    if cpus:
                        os.sched_setaffinity(process.pid, cpus)
                    line = first_line(process)
                    if not line:
                        complaint.seek(0)
                        raise Failed(reason(complaint.read(), process.wait()))
                    if not line.strip().isdecimal():
                        raise Failed(f"the server said {line.strip()!r} instead of its port")
                    yield process, "127.0.0.1" if path == "-" else path, int(line)
                finally:
                    process.kill()
                    process.wait()
                    process.stdout.close()

    def _check_answer(self, host: str, port: int) -> None:
        load = self.workload.load
        connection = http.client.HTTPConnection(host, port, timeout=10)
        try:
            connection.request(load.method, load.path, load.body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200 or json.loads(text) != json.loads(self.workload.expect):
                raise Failed(f"answered {answer.status} {text[:60]!r} instead of {self.workload.expect}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Failed(f"{type(error).__name__}: {error}") from None
        finally:
            connection.close()


def memory(pid: int) -> int:
    """Returns the bytes that the process `pid` has allocated and touched (Linux's anonymous memory).

    Not what it has mapped of files: how much of that is its own changes with the processes that start beside it.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise Failed("the system does not tell the memory of a process")


def first_line(process: subprocess.Popen[str]) -> str:
    """Returns the first line the process prints, empty where it ends first; raises Failed after START_SECONDS."""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(START_SECONDS):
            raise Failed(f"the server did not start within {START_SECONDS} s")
    return process.stdout.readline()


def processors() -> tuple[set[int] | None, set[int] | None]:
    """Returns disjoint processors for server and generator, so that neither runs at the other's cost; None for one."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (None, None) if len(usable) < 2 else ({usable[0]}, set(usable[1:]))


def missing(workload: Workload) -> str | None:
    """Returns why `workload` cannot be measured here on any loop, None where it can."""
    if sys.platform != "linux":
        return "the load generator needs Linux"
    absent = [package for package in workload.requires if importlib.util.find_spec(package) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    try:
        workload.load.command("127.0.0.1", 0)
        if workload.load.protocol == "tls":
            native.tool("openssl", "openssl")
    except Unavailable as error:
        return str(error)
    return None

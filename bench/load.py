"""Drives the C load generator (load.c): compiles it, starts it, asks it for phases and reads their figures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from . import native


class LoadError(Exception):
    """The load generator ended early; the text is its own last line (a refused connection, a wrong answer, ...)."""


@dataclasses.dataclass(frozen=True)
class Load:
    """What the generator sends. Sizes in bytes; `reply` 0 means "as long as the message, and equal to it"."""

    protocol: str = "tcp"
    connections: int = 10
    size: int = 1024
    reply: int = 0
    pipeline: int = 1
    fresh: bool = False
    method: str = "GET"
    path: str = "/"
    body: str | None = None

    def command(self, host: str, port: int) -> list[str]:
        """Returns the command line of the generator against `host` and `port`; with "unix" the host is a path.

        Raises native.Unavailable where it cannot be compiled, or where TLS is wanted and OpenSSL's headers are absent.
        """
        words = [str(program(tls=self.protocol == "tls")), "--protocol", self.protocol, "--host", host]
        words += ["--port", str(port), "--connections", str(self.connections), "--pipeline", str(self.pipeline)]
        if self.protocol in ("http", "ws"):
            words += ["--method", self.method, "--path", self.path]
            words += ["--body", self.body] if self.body is not None else []
        if self.protocol != "http":
            words += ["--size", str(self.size), "--reply", str(self.reply or self.size)]
        return words + (["--fresh"] if self.fresh else [])


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one phase measured at the client: messages answered, seconds, bytes received, latencies in microseconds."""

    messages: int
    seconds: float
    bytes: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


@functools.cache
def program(tls: bool = False) -> Path:
    """Returns the compiled generator, with TLS where `tls`; raises native.Unavailable where it cannot be built."""
    if not tls:
        return native.build("load.c", [], "load")
    try:
        return native.build("load.c", ["-DWITH_TLS", "-lssl", "-lcrypto"], "load-tls")
    except native.Unavailable as error:
        raise native.Unavailable(f"the load generator has no TLS (package libssl-dev): {error}") from None


def cpu_seconds(pid: int) -> float:
    """Returns the processor time that the process `pid` has used, user and system, all threads (Linux)."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


class Generator:
    """A running load generator, used as a context manager; `run` asks for one phase."""

    def __init__(self, load: Load, host: str, port: int, cpus: set[int] | None = None) -> None:
        """Starts the generator; connections are made by the first phase. `cpus` pins it to those processors."""
        self._process = subprocess.Popen(
            load.command(host, port),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if cpus:
            os.sched_setaffinity(self._process.pid, cpus)

    def run(self, *, count: int | None = None, seconds: float | None = None) -> Figures:
        """Exchanges `count` messages, or as many as fit into `seconds`; returns the figures of the phase.

        Raises LoadError where the server refuses, closes, stalls or answers wrongly, ValueError unless exactly one
        limit is given.
        """
        if (count is None) == (seconds is None):
            raise ValueError("give either count or seconds")
        phase = f"count {count}\n" if count is not None else f"seconds {seconds}\n"
        try:
            self._process.stdin.write(phase)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            raise LoadError(self._process.stderr.read().strip() or f"ended with status {self._process.returncode}")
        return Figures(**json.loads(line))

    def cpu_seconds(self) -> float:
        """Returns the processor time the generator has used since its start, user and system (Linux)."""
        return cpu_seconds(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(BrokenPipeError):  # a phase that the generator did not read any more
                pipe.close()

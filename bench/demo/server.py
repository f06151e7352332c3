"""The server process of the demonstration: uvicorn with the application, on a free port, on a chosen loop."""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.native import SOURCES

UVICORN_LOOPS = {"loopfast": "loopfast:new_event_loop", "uvloop": "uvloop", "asyncio": "asyncio"}
"""What uvicorn's --loop is told, for each loop; a loop that is not its own is named as an import string."""

START_SECONDS = 30
STOP_SECONDS = 10


class ServerError(Exception):
    """The server did not start, or did not end when told to; the text is its own last line."""


class Server:
    """uvicorn in a process of its own, used as a context manager that leaves no process behind."""

    def __init__(self, loop: str, prefix: Sequence[str] = (), cpus: set[int] | None = None) -> None:
        """`loop` is a name of UVICORN_LOOPS; `prefix` a command to run uvicorn under (strace); `cpus` pins it."""
        self.loop = loop
        self.port = 0
        self.command = [sys.executable, "-m", "uvicorn", "bench.demo.app:app", "--loop", UVICORN_LOOPS[loop]]
        self.command += ["--host", "127.0.0.1", "--port", "0", "--no-access-log", "--no-use-colors"]
        self._prefix = list(prefix)
        self._cpus = cpus
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._tail: collections.deque[str] = collections.deque(maxlen=20)

    @property
    def url(self) -> str:
        """The address of the running server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def shown_command(self) -> str:
        """The command as a user would type it."""
        return shlex.join(["python", *self.command[1:]])

    def __enter__(self) -> Self:
        # A session of its own: Ctrl+C reaches this process only, which then ends the server, whatever that is doing.
        self._process = subprocess.Popen(
            [*self._prefix, *self.command],
            cwd=SOURCES.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._reader = threading.Thread(target=self._read_log, daemon=True)
            self._reader.start()
            if self._cpus:
                os.sched_setaffinity(self._process.pid, self._cpus)
            self.port = self._wait_for_port()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except ServerError:
            if error is None:
                raise

    def stop(self) -> None:
        """Ends the server as a service manager would, with SIGTERM; raises ServerError when it does not follow."""
        try:
            # To the whole session: strace does not pass the signal on to what it runs.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServerError(f"the server on {self.loop} did not end within {STOP_SECONDS} s of SIGTERM") from None
        finally:
            self._kill()

    def cpu_seconds(self) -> float:
        """Returns the processor time the server has used since its start, user and system, all threads (Linux)."""
        total = 0
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
        return total / 1e9

    def _read_log(self) -> None:
        for line in self._process.stderr:
            self._tail.append(line.rstrip())
            self._lines.put(line)
        self._lines.put(None)

    def _wait_for_port(self) -> int:
        while True:
            try:
                line = self._lines.get(timeout=START_SECONDS)
            except queue.Empty:
                raise ServerError(f"the server on {self.loop} did not start within {START_SECONDS} s") from None
            if line is None:
                last = next((text for text in reversed(self._tail) if text.strip()), "no output")
                raise ServerError(f"the server on {self.loop} ended before it listened: {last}")
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                return int(found[1])

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._reader.ident is not None:
            self._reader.join()
        self._process.stderr.close()

"""What the interoperability tests share: optional packages, programs in processes of their own, a blocking client."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest
from support import LOCALHOST

FOLDER = Path(__file__).resolve().parent
# loopfast itself and what the programs import from here, installed or not.
SEARCH_PATH = [str(FOLDER.parents[1]), str(FOLDER)]

# What uvicorn's --loop is told.
UVICORN_LOOPS = {"loopfast": "loopfast:new_event_loop", "asyncio": "asyncio"}

# Seconds that a program may take to say what is expected of it, or to end.
PATIENCE = 30


def package(name: str) -> Any:
    """Return the module *name*, or None where it is not installed: the mark `interop` then skips the tests."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def missing(what: str, name: str) -> NoReturn:
    """Skip for want of *what*, which the package *name* brings. Continuous integration has everything."""
    reason = f"no {what} here: install the package {name}"
    if os.environ.get("LOOPFAST_CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def command_of(name: str, package_name: str, folders: Sequence[Path] = ()) -> str:
    """Return the path of the command *name*, looked for in *folders* first; skip the test where there is none."""
    found = shutil.which(name, path=os.pathsep.join(map(str, folders))) or shutil.which(name)
    return found or missing(f"command {name}", package_name)


def free_port() -> int:
    """Return a port that is free now, for servers that cannot choose one themselves."""
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        return sock.getsockname()[1]


def group_of(user: str) -> int:
    """Return the number of the primary group of *user*."""
    import pwd  # not on Windows, where this file is imported too

    return pwd.getpwnam(user).pw_gid


class Program:
    """A program in a session of its own, its output read line by line. Leaving the context, nothing of it is left."""

    def __init__(
        self,
        *command: str | os.PathLike[str],
        cwd: Path | None = None,
        user: str | None = None,
        pass_fds: Sequence[int] = (),
        **environment: str,
    ) -> None:
        self.command = [str(word) for word in command]
        self.lines: list[str] = []
        self._seen = 0
        self._ended = False
        self._more = threading.Condition()
        path = os.pathsep.join([*SEARCH_PATH, *filter(None, [os.environ.get("PYTHONPATH")])])
        account: dict[str, Any] = {}
        if user is not None:
            account = {"user": user, "group": group_of(user), "extra_groups": []}
        self.process = subprocess.Popen(
            self.command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=pass_fds,
            **account,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.kill()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    @property
    def said(self) -> str:
        """All of the output so far."""
        return "\n".join(self.lines)

    @property
    def output(self) -> str:
        """The same with the command in front, for messages."""
        return f"{' '.join(self.command)}\n{self.said}"

    def expect(self, pattern: str, patience: float = PATIENCE) -> re.Match[str]:
        """Wait for a line that has *pattern* in it, behind the line that was expected last."""
        deadline = time.monotonic() + patience
        with self._more:
            while True:
                while self._seen < len(self.lines):
                    self._seen += 1
                    if found := re.search(pattern, self.lines[self._seen - 1]):
                        return found
                assert not self._ended, f"ended without {pattern!r}:\n{self.output}"
                assert self._more.wait(deadline - time.monotonic()), f"no {pattern!r} yet:\n{self.output}"

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end of the program and of all it started; return the exit status."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"does not end:\n{self.output}")
        deadline = time.monotonic() + PATIENCE
        while self._is_alive():
            assert time.monotonic() < deadline, f"left processes behind:\n{self.output}"
            time.sleep(0.01)
        self._reader.join()
        return status

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the program by a signal to its first process; return the exit status."""
        self.send_signal(number)
        return self.ended()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _is_alive(self) -> bool:
        """Whether a process of the group is left."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


def expect_workers(server: Program, count: int = 2) -> list[int]:
    """Wait until *count* more workers of *server* have started their application; return their process numbers.

    A worker that is told to end before, while it still imports, has nothing to end.
    """
    return [int(server.expect(r"application started in (\d+)")[1]) for _ in range(count)]


COMPLAINTS = ("Traceback", "ResourceWarning", "RuntimeWarning", "never retrieved", "Unhandled", "ERROR")


def check_no_complaints(program: Program, *known: str) -> None:
    """The program told of no error and of nothing left open; *known* are those COMPLAINTS for which it is to blame."""
    assert [word for word in COMPLAINTS if word in program.said and word not in known] == [], program.output


def python(*words: str | os.PathLike[str], **options: Any) -> Program:
    """Start this interpreter with the arguments *words*; it tells of resources that are not closed."""
    return Program(sys.executable, "-W", "always::ResourceWarning", *words, **options)


@contextlib.contextmanager
def short_folder(user: str | None = None) -> Iterator[Path]:
    """A temporary folder whose name leaves room for that of a UNIX socket, owned by *user*."""
    with tempfile.TemporaryDirectory(prefix="lf-") as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user, group_of(user))
        yield folder


# -------------------------------------------------------------------------------------------------------------- client


class UnixConnection(http.client.HTTPConnection):
    """http.client over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connection(
    port: int = 0, *, unix: str | None = None, context: ssl.SSLContext | None = None
) -> http.client.HTTPConnection:
    """Return a blocking connection to the server at *port*, or at the socket *unix*; with TLS if there is a context."""
    if unix is not None:
        return UnixConnection(unix)
    if context is not None:
        return http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)
    return http.client.HTTPConnection(LOCALHOST, port, timeout=PATIENCE)


def ask(link: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> Any:
    """Send a request and return the answer: JSON decoded, anything else as bytes."""
    link.request(method, path, body, encode_chunked=body is not None and not isinstance(body, bytes))
    response = link.getresponse()
    content = response.read()
    assert response.status == 200, (response.status, content)
    return json.loads(content) if response.headers.get_content_type() == "application/json" else content


def once(connect: Callable[[], http.client.HTTPConnection], path: str) -> Any:
    """Ask one question on a connection of its own."""
    with contextlib.closing(connect()) as link:
        return ask(link, "GET", path)


def once_up(connect: Callable[[], http.client.HTTPConnection], path: str) -> Any:
    """The same of a server whose workers say that they are up before they listen."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return once(connect, path)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.01)


def wait_until_closed(port: int) -> None:
    """Wait until nobody listens at *port* any more, without connecting: a server that is ending need not answer that.

    The port can then be bound to again, beside the connections that are left, as servers mark it SO_REUSEADDR.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((LOCALHOST, port))
            return
        assert time.monotonic() < deadline, "still listens"
        time.sleep(0.005)

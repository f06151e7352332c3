"""The endpoint that `loopfast top` asks: a UNIX socket of a loop, which answers a line with a line of JSON.

Opt-in (``LOOPFAST_TOP``, ``loop.open_statistics_endpoint()``), for the user of the process and root only, and served by
the loop itself with descriptors that do not count as something to poll for. A peer can make it do little: one answer at
a time and a few each second, no more memory than the kernel's buffers, and whoever does anything else is dropped.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import json
import os
import re
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
import warnings
import weakref
from typing import Any

from loopfast._statistics import frames_below, show_frames
from loopfast._version import __version__

__all__ = ["Endpoint", "default_folders", "file_name", "wanted_folder"]

#: The one request.
REQUEST = b"statistics\n"
#: Clients at a time; one more takes the place of the one that has been silent longest.
CLIENTS = 8
#: Seconds between two answers to one client.
PAUSE = 0.02
#: Seconds for which no connection is accepted after accept() has failed.
ACCEPT_PAUSE = 1.0
#: Bytes of an answer that the kernel shall take at once.
SEND_BUFFER = 256 * 1024

NAME = re.compile(r"loopfast-(\d+)-(\d+)\.sock")

_numbers = itertools.count(1)
_open_ones: weakref.WeakSet[Endpoint] = weakref.WeakSet()


# -------------------------------------------------------------------------------------------------------------- folders


def wanted_folder(value: str | None) -> str | bool:
    """Return what the variable ``LOOPFAST_TOP`` asks for: False for none, True for the default folder, or a folder."""
    text = (value or "").strip()
    if text.lower() in ("", "0", "no", "off", "false"):
        return False
    if text.lower() in ("1", "yes", "on", "true"):
        return True
    if os.sep in text:
        return os.path.abspath(text)
    warnings.warn(
        f"LOOPFAST_TOP is {text!r}, neither 1 nor 0 nor a path: no endpoint is opened", RuntimeWarning, stacklevel=2
    )
    return False


def default_folders(uid: int | None = None) -> list[str]:
    """Return the folders of the endpoints of the user *uid* (None: this process's), in the order of preference."""
    own = os.geteuid()
    uid = own if uid is None else uid
    runtime = os.environ.get("XDG_RUNTIME_DIR") if uid == own else None
    if runtime is None or not os.path.isabs(runtime):
        runtime = f"/run/user/{uid}"
    return [os.path.join(runtime, "loopfast"), os.path.join(tempfile.gettempdir(), f"loopfast-{uid}")]


def file_name(pid: int, number: int) -> str:
    """Return the name of the socket of loop *number* of the process *pid*."""
    return f"loopfast-{pid}-{number}.sock"


def exists(pid: int) -> bool:
    """Return True if there is a process *pid*."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return pid < 2**31
    return True


def remove_left_over(path: str) -> None:
    """Remove the socket at *path* if its process did not end well: it is no more, and nobody listens."""
    match = NAME.fullmatch(os.path.basename(path))
    if match is None or exists(int(match[1])):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        found = os.lstat(path)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            return
        sock.setblocking(False)
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            # Else it may be a process of another container, whose numbers are not ours.
            os.unlink(path)


def prepare_folder(folder: str, *, private: bool) -> None:
    """Make *folder* if it is not there, and see that nobody else can put something in the place of our socket.

    Args:
        private: nobody else may even look into it.

    Raises:
        OSError: it cannot be made, is no folder, belongs to somebody else, or others may write in it.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if private and stat.S_ISLNK(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "a link, not a folder", folder)
    found = os.stat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
    if found.st_uid not in ((os.geteuid(),) if private else (os.geteuid(), 0)):
        raise PermissionError(errno.EPERM, f"the folder belongs to another user (uid {found.st_uid})", folder)
    if private and found.st_mode & 0o077:
        os.chmod(folder, 0o700)
    elif found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, "other users may write in the folder", folder)


def choose_folder() -> str:
    """Return the first default folder that can be had, having made it."""
    problems: list[str] = []
    for folder in default_folders():
        try:
            prepare_folder(folder, private=True)
        except OSError as exc:
            problems.append(f"{folder}: {exc.strerror}")
        else:
            return folder
    raise PermissionError(errno.EPERM, "no folder for the statistics endpoint: " + "; ".join(problems))


# ------------------------------------------------------------------------------------------------------------- endpoint


class Endpoint:
    """The endpoint of one loop, which owns it. Its methods are called on the loop's thread, or while it rests."""

    def __init__(self, loop: Any, folder: str | None) -> None:
        """Remember what to open; *folder* is None for the default one."""
        self.folder = folder
        self.path: str | None = None
        self._loop = weakref.ref(loop)
        self._pid = 0
        self._number = next(_numbers)
        self._socket: socket.socket | None = None
        self._accepting = False
        self._clients: list[_Client] = []
        self._sampler: _Sampler | None = None
        self._failed_in = 0

    def open(self) -> str:
        """Open the endpoint and return the path of its socket. Does nothing if it is open in this process.

        Raises:
            OSError: the folder or the socket cannot be made, or is not safe.
        """
        if self._socket is not None and self._pid == os.getpid() and self.path is not None:
            return self.path
        # What is left of a parent's is the parent's.
        self.close()
        if self.folder is None:
            folder = choose_folder()
        else:
            folder = self.folder
            prepare_folder(folder, private=False)
        for name in os.listdir(folder)[:1000]:
            remove_left_over(os.path.join(folder, name))
        path = os.path.join(folder, file_name(os.getpid(), self._number))
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            bind(listening, path)
            self.path = path
            self._pid = os.getpid()
            # Before listen() nobody can connect, so nobody has while others could have.
            os.chmod(path, 0o600)
            listening.listen(CLIENTS)
            self._socket = listening
            self._watch()
        except BaseException:
            self._socket = None
            listening.close()
            self.close()
            raise
        _open_ones.add(self)
        self._tell_loop(True)
        return path

    def open_or_warn(self) -> None:
        """`open`, where a failure must not stop the program: it becomes a warning, once."""
        if self._failed_in == os.getpid():
            return
        try:
            self.open()
        except OSError as exc:
            self._failed_in = os.getpid()
            warnings.warn(f"the statistics endpoint cannot be opened: {exc}", RuntimeWarning, stacklevel=3)

    def close(self) -> None:
        """Close the endpoint and remove its socket. Idempotent."""
        _open_ones.discard(self)
        for client in self._clients.copy():
            self.drop(client)
        self._clients.clear()
        listening, self._socket = self._socket, None
        if listening is not None:
            self._unwatch(listening)
            listening.close()
            self._tell_loop(False)
        path, self.path = self.path, None
        if path is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(path)

    def part_from_parent(self) -> None:
        """In a forked child: give up the parent's descriptors, whose numbers the loop may still know."""
        sockets = [client.socket for client in self._clients]
        if self._socket is not None:
            sockets.append(self._socket)
        self._sampler = None
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_RDWR)
            for sock in sockets:
                if sock.fileno() >= 0:
                    os.dup2(null, sock.fileno(), inheritable=False)
            os.close(null)

    def remove_file(self) -> None:
        """At exit of a process that has not closed its loop."""
        if self.path is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def _tell_loop(self, is_open: bool) -> None:
        loop = self._loop()
        if loop is not None:
            loop._set_timing(is_open)

    # ------------------------------------------------------------------------------------------------- connections

    def _watch(self) -> None:
        loop = self._loop()
        if loop is not None and self._socket is not None and not loop.is_closed() and not self._accepting:
            loop._add_internal_reader(self._socket.fileno(), self._accept)
            self._accepting = True

    def _unwatch(self, sock: socket.socket) -> None:
        loop = self._loop()
        if loop is not None and sock.fileno() >= 0:
            loop._remove_reader(sock.fileno())
        self._accepting = False

    def _accept(self) -> None:
        for _ in range(CLIENTS):
            listening, loop = self._socket, self._loop()
            if listening is None or loop is None:
                return
            try:
                connection, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of descriptors, say. The socket stays readable, so look away for a while.
                self._unwatch(listening)
                loop.call_later(ACCEPT_PAUSE, self._watch)
                return
            connection.setblocking(False)
            if not may_ask(connection):
                connection.close()
                continue
            if len(self._clients) >= CLIENTS:
                self.drop(min(self._clients, key=lambda client: client.heard))
            try:
                self._clients.append(_Client(self, connection))
            except OSError:
                connection.close()
                continue
            if self._sampler is None:
                self._sampler = _Sampler(loop)
                self._sampler.start()

    def drop(self, client: _Client) -> None:
        """Close the connection of *client*."""
        loop = self._loop()
        if client in self._clients:
            self._clients.remove(client)
        if loop is not None and client.socket.fileno() >= 0:
            loop._remove_reader(client.socket.fileno())
        client.socket.close()
        if not self._clients and self._sampler is not None:
            self._sampler.ended.set()
            self._sampler = None

    def watch_client(self, client: _Client) -> None:
        """Wait for the next request of *client*, unless it was dropped meanwhile."""
        loop = self._loop()
        if loop is not None and client.socket.fileno() >= 0 and not loop.is_closed():
            loop._add_internal_reader(client.socket.fileno(), client.read)

    def unwatch_client_for(self, client: _Client, seconds: float) -> None:
        """Let *client* wait."""
        loop = self._loop()
        if loop is not None:
            loop._remove_reader(client.socket.fileno())
            loop.call_later(seconds, self.watch_client, client)

    def answer(self) -> bytes:
        """Return the line that answers a request."""
        loop = self._loop()
        facts = {
            "loopfast": __version__,
            "pid": os.getpid(),
            "loop": self._number,
            "thread": threading.current_thread().name,
            "statistics": None if loop is None else loop.statistics().as_dict(),
        }
        return json.dumps(facts).encode("ascii") + b"\n"


class _Client:
    """One who asks."""

    def __init__(self, endpoint: Endpoint, connection: socket.socket) -> None:
        self.socket = connection
        self.heard = time.monotonic()
        self._endpoint = endpoint
        self._request = b""
        self._answered = 0.0
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        endpoint.watch_client(self)

    def read(self) -> None:
        now = time.monotonic()
        if now - self._answered < PAUSE:
            self._endpoint.unwatch_client_for(self, PAUSE)
            return
        try:
            data = self.socket.recv(len(REQUEST) + 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._request += data
        # A peer that asks anything else, or before it was answered, is none of ours.
        if not data or not REQUEST.startswith(self._request):
            self._endpoint.drop(self)
            return
        self.heard = now
        if self._request != REQUEST:
            return
        self._request = b""
        self._answered = now
        answer = self._endpoint.answer()
        try:
            sent = self.socket.send(answer)
        except OSError:
            sent = -1
        if sent != len(answer):
            # It does not read what it asks for.
            self._endpoint.drop(self)


class _Sampler(threading.Thread):
    """Looks from outside at a callback that takes long, so that its record has the stack that it was in.

    Runs while there is a client.
    """

    def __init__(self, loop: Any) -> None:
        super().__init__(name="loopfast-top", daemon=True)
        self.ended = threading.Event()
        self._loop = weakref.ref(loop)

    def run(self) -> None:
        last, due = 0.0, 0.0
        interval = 0.05
        while not self.ended.wait(interval):
            loop = self._loop()
            if loop is None:
                return
            with contextlib.suppress(TypeError, ValueError):
                interval = min(1.0, max(0.01, float(loop.slow_callback_duration) / 3))
            started = loop._timed_call()
            elapsed = time.monotonic() - started
            if not started or elapsed < (due if started == last else interval):
                continue
            frame = sys._current_frames().get(loop._thread_id or 0)
            stack = show_frames(frames_below(frame))
            del frame
            # Else it is over, and what was seen is something else.
            if loop._timed_call() == started:
                loop._slow_sample = (started, stack)
                last, due = started, 2 * elapsed
            del loop


def bind(sock: socket.socket, path: str) -> None:
    """Bind *sock* to *path*; what a process of the same number has left there goes."""
    try:
        sock.bind(path)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise type(exc)(exc.errno, exc.strerror or str(exc), path) from None
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.unlink(path)
        sock.bind(path)


def may_ask(connection: socket.socket) -> bool:
    """Return True if the peer is of the same user, or root; where the system does not tell, the socket's mode has
    decided."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return False
    _pid, uid, _gid = struct.unpack("3i", found)
    return uid in (0, os.geteuid())


def _after_fork() -> None:
    for endpoint in list(_open_ones):
        endpoint.part_from_parent()
    _open_ones.clear()


def _at_exit() -> None:
    for endpoint in list(_open_ones):
        endpoint.remove_file()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

atexit.register(_at_exit)

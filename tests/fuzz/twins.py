"""Two loops that are told the same things, loopfast's and asyncio's own, and the comparison of what a user sees of it.

Every step is done on both loops, which then run until they are at rest. What happened is compared per subject (a
connection, a server, a handle ...): the order between two subjects is often the kernel's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine
from support import new_event_loop, open_descriptors

KINDS = ("loopfast", "asyncio")
# Turns without anything new after which a loop is at rest, and after which it never will be.
QUIET = 3
ENDLESS = 5000
# Seconds in which the two must have come to the same: what TCP does on a busy machine may come a moment later. The
# second value is for the attempts to make a failing example smaller.
PATIENCE = [2.0, 0.05]

EXAMPLES = {"quick": 1, "long": 10, "smaller": 10}


def examples(quick: int, steps: int = 30) -> settings:
    """Settings of a test with so many examples in `make test`, and ten times as many in a round of `make fuzz`."""
    factor = EXAMPLES[os.environ.get("HYPOTHESIS_PROFILE", "quick")]
    return settings(max_examples=quick * factor, stateful_step_count=steps)


def shown(value: Any) -> Any:
    """What of a result or an exception has to be the same on both loops."""
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case bytearray() | memoryview():
            return bytes(value)
        case tuple() | list():
            return tuple(shown(item) for item in value)
        case ssl.SSLError():
            return (type(value).__name__, value.reason)
        case OSError():
            return (type(value).__name__, value.errno)
        case BaseException():
            return type(value).__name__
    return f"<{type(value).__name__}>" if type(value).__module__ == "builtins" else "<object>"


class Bang(BaseException):
    """What no code expects."""


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Call *function* and return what it returned or raised, as it is to be compared."""
    try:
        return shown(function(*args))
    except (Exception, Bang) as exc:
        return ("raised", shown(exc))


class World:
    """One loop, with a log for each subject."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.loop = new_event_loop(kind)
        self.loop.set_exception_handler(self.report)
        self.logs: defaultdict[str, list[Any]] = defaultdict(list)
        #: What happened so far: grows also where log entries are joined.
        self.activity = 0
        #: Called before each turn: what the other ends of connections do.
        self.pumps: dict[str, Callable[[], None]] = {}
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        #: Whatever the machine names.
        self.things: dict[str, Any] = {}
        #: Subjects that ended with a part of what they had to send.
        self.cut: set[str] = set()

    def note(self, subject: str, *what: Any) -> None:
        """Add an entry to the log of *subject*. Pieces of data that follow each other are one."""
        self.activity += 1
        log = self.logs[subject]
        if what[0] == "data" and log and log[-1][0] == "data":
            log[-1] = ("data", log[-1][1] + what[1])
        else:
            log.append(what)

    def report(self, loop: Any, context: dict[str, Any]) -> None:
        """The loop's exception handler."""
        # Callbacks have names of their own in each implementation, and asyncio's do not say whose they are.
        message, callback, _ = context.get("message", "").partition(" in callback")
        subject = "loop" if callback else getattr(context.get("protocol"), "subject", "loop")
        self.note(subject, "report", message, shown(context.get("exception")))

    def gather(self, gathers: bool) -> None:
        """Say whether the writes of one turn are sent together, where the loop does that."""
        if self.kind == "loopfast":
            self.loop.set_write_gathering(gathers)

    # ------------------------------------------------------------------------------------------------- running

    def turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        try:
            self.loop.run_forever()
        except (KeyboardInterrupt, SystemExit) as exc:
            self.note("loop", "ended by", shown(exc))

    def drain(self) -> None:
        """Run until nothing happens any more."""
        quiet = 0
        for _ in range(ENDLESS):
            before = self.activity
            for pump in list(self.pumps.values()):
                pump()
            self.turn()
            quiet = 0 if self.activity != before else quiet + 1
            if quiet == QUIET:
                return
        raise AssertionError(f"{self.kind} does not come to rest: {dict(self.logs)}")

    def inside(self, function: Callable[[], None]) -> None:
        """Call *function* in a callback of the running loop."""
        self.loop.call_soon(function)

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run *coroutine* to its end, and return its result."""
        return self.loop.run_until_complete(coroutine)

    def start(self, subject: str, name: str, make: Callable[[], Any]) -> None:
        """Start the task called *name*, which awaits what *make* returns; its end is noted."""

        async def run() -> None:
            try:
                result = shown(await make())
            except asyncio.CancelledError:
                self.note(subject, name, "cancelled")
            except Exception as exc:
                self.note(subject, name, "raised", shown(exc))
            else:
                self.note(subject, name, result)

        self.tasks[name] = self.loop.create_task(run())

    def is_pending(self, name: str) -> bool:
        return name in self.tasks and not self.tasks[name].done()

    # ------------------------------------------------------------------------------------------------- the end

    def end(self) -> None:
        """End what is left."""
        for task in self.tasks.values():
            task.cancel()
        self.drain()

    def close(self) -> None:
        for thing in self.things.values():
            if isinstance(thing, socket.socket):
                thing.close()
        left = asyncio.all_tasks(self.loop)
        assert not left, left
        self.wait(self.loop.shutdown_asyncgens())
        self.wait(self.loop.shutdown_default_executor())
        self.loop.close()


class Twins(RuleBasedStateMachine):
    """A state machine whose rules act on both loops, through `both`."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors = open_descriptors()
        self.worlds = [World(kind) for kind in KINDS]
        self.failed = False
        self.count = 0

    def name(self, prefix: str) -> str:
        """Return a new name."""
        self.count += 1
        return f"{prefix}{self.count}"

    def both(self, function: Callable[[World], Any], *, subject: str = "step", inside: bool = False) -> None:
        """Do *function* on both loops, in a callback if *inside*, and compare what came of it."""

        def act(world: World) -> None:
            world.note(subject, "step", outcome(function, world))

        for world in self.worlds:
            if inside:
                world.inside(lambda world=world: act(world))  # type: ignore[misc]
            else:
                act(world)
        self.settle()

    def settle(self) -> None:
        """Let both loops come to rest and compare their logs."""
        # Until the comparison has succeeded.
        failed, self.failed = self.failed, True
        deadline = time.monotonic() + PATIENCE[0]
        while True:
            for world in self.worlds:
                world.drain()
            if failed or not self.different():
                break
            if time.monotonic() > deadline:
                self.complain()
            time.sleep(0.001)
        for world in self.worlds:
            world.logs.clear()
        self.failed = failed

    def sender_to(self, subject: str) -> str | None:
        """Return the subject whose data *subject* receives, where that may be cut."""
        return None

    def different(self) -> list[str]:
        """Return the subjects of which the logs differ."""
        first, second = self.worlds
        if first.logs == second.logs:
            return []
        return [
            subject
            for subject in sorted({*first.logs, *second.logs})
            if first.logs[subject] != second.logs[subject]
            and not (
                self.sender_to(subject) in first.cut & second.cut
                and is_cut_differently(first.logs[subject], second.logs[subject])
            )
        ]

    def complain(self) -> None:
        PATIENCE[:] = PATIENCE[-1:]
        lines = [
            f"{subject}:" + "".join(f"\n    {world.kind}: {brief(world.logs[subject])}" for world in self.worlds)
            for subject in self.different()
        ]
        raise AssertionError("not the same:\n  " + "\n  ".join(lines))

    def teardown(self) -> None:
        for world in self.worlds:
            with contextlib.suppress(AssertionError) if self.failed else contextlib.nullcontext():
                world.end()
        if not self.failed:
            self.settle()
        for world in self.worlds:
            world.close()
        left = open_descriptors() - self.descriptors
        assert self.failed or not left, f"descriptors left open: {left}"


def is_cut_differently(one: list[Any], other: list[Any]) -> bool:
    """Do the logs differ only in how much of a large amount came before its sender was aborted?

    The kernel takes more or less of it, by the sizes of the pieces that it is offered.
    """
    if len(one) != len(other):
        return False
    for mine, yours in zip(one, other, strict=True):
        if mine != yours:
            if (mine[0], yours[0]) != ("data", "data") or max(len(mine[1]), len(yours[1])) < 100_000:
                return False
            if not mine[1].startswith(yours[1]) and not yours[1].startswith(mine[1]):
                return False
    return True


def brief(value: Any) -> Any:
    """The same without what makes it long."""
    if isinstance(value, bytes) and len(value) > 40:
        return f"{len(value)} bytes {value[:12]!r}..{value[-12:]!r}"
    if isinstance(value, (list, tuple)):
        return [brief(item) for item in value]
    return value


# ------------------------------------------------------------------------------------------------------------- the peer


class Peer:
    """The other end of a connection: a plain socket, which reads only while it is told to."""

    def __init__(self, world: World, subject: str, sock: socket.socket) -> None:
        self.world, self.subject, self.sock = world, subject, sock
        sock.setblocking(False)
        self.ended = False

    def send(self, data: bytes) -> None:
        sent = self.sock.send(data)
        assert sent == len(data), "the socket is full"

    def listen(self) -> None:
        """Read from now on."""
        self.world.pumps[self.subject] = self.pump

    def rest(self) -> None:
        """Read no more."""
        self.world.pumps.pop(self.subject, None)

    def pump(self) -> None:
        while not self.ended and self.sock.fileno() >= 0:
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                return
            except OSError as exc:
                self.ended = True
                self.world.note(self.subject, "error", shown(exc))
            else:
                self.ended = not data
                self.world.note(self.subject, *(("data", data) if data else ("eof",)))

    def shutdown(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            # The connection is over. Whether it is for the kernel depends on what was under way when this end was lost.
            if exc.errno != errno.ENOTCONN:
                raise

    def close(self) -> None:
        self.rest()
        self.sock.close()


def content(number: int, size: int) -> bytes:
    """Return *size* bytes that differ from those of other numbers, and in which a lost or exchanged piece shows."""
    words = b"".join((number % 65536 * 65536 + at).to_bytes(4, "big") for at in range(size // 4 + 1))
    return words[:size]


def stream_pair(kind: str) -> tuple[socket.socket, socket.socket]:
    """Return two connected non-blocking sockets; together they hold less than a megabyte."""
    if kind == "unix":
        one, other = socket.socketpair()
    else:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
            one.connect(listener.getsockname())
            other, _ = listener.accept()
        for sock in (one, other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for sock in (one, other):
        sock.setblocking(False)
    return one, other

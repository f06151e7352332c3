"""What ``loop.statistics()`` returns, and how a slow callback is described.

Named tuples, because dataclasses of so many fields would take a third of the time of ``import loopfast``. Annotations
are evaluated for the same reason: as strings they would have to be compiled.
"""

import asyncio
import linecache
import time
from asyncio import base_events
from collections.abc import Iterable, Mapping
from types import CodeType, FrameType
from typing import Any, Literal, NamedTuple

__all__ = ["LoopStatistics", "SlowCallback"]

#: Slow callbacks that a loop remembers.
REMEMBERED = 16
#: Frames of a stack that are kept, the innermost; and characters of a line, or of what names a callback.
DEEPEST = 24
LONGEST = 300


class SlowCallback(NamedTuple):
    """A callback that took ``loop.slow_callback_duration`` seconds or longer, or a stall where none was timed."""

    #: When it ended, in seconds since the epoch, as ``time.time()``.
    when: float
    #: How long it took, in seconds.
    duration: float
    #: What was called, as asyncio's debug log shows it; for a stall, what is known of it.
    callback: str
    #: The name of the task whose step it was, or None.
    task: str | None
    #: The stack, outermost first, each frame as ``file:line in function: source``. See `taken`.
    stack: tuple[str, ...]
    #: When the stack was taken: ``"during"`` the callback (only while somebody watches through the endpoint);
    #: ``"after"`` it, where the task's coroutines are suspended; ``"start"``: the task has ended, so this is where its
    #: function or the callback begins; ``""``: there is none.
    taken: Literal["during", "after", "start", ""]


class LoopStatistics(NamedTuple):
    """What a loop is doing and has done: a snapshot. Times are in seconds, sizes in bytes; counts never go back.

    Counts cover the whole life of the loop and stay readable after `close`. Rates come of two snapshots.
    """

    #: When it was taken, by the monotonic clock (``time.monotonic()``).
    time: float
    #: The loop runs.
    running: bool
    #: The loop is closed.
    closed: bool
    #: Debug mode is on.
    debug: bool
    #: Each callback is timed just now: in debug mode, while the endpoint is open, and for a minute after stalls.
    timing: bool
    #: Time spent in ``run_forever()`` and its relatives.
    run_time: float
    #: Time of that spent asleep, waiting for events with nothing to do: libuv's idle time.
    idle_time: float
    #: Turns of the loop.
    iterations: int
    #: Callbacks, timers, readers and writers run. Reads of transports are no callbacks here.
    callbacks: int
    #: Events that the kernel has reported to libuv, such as a socket that became readable.
    events: int
    #: Length of the ready queue: callbacks that wait for their turn.
    ready: int
    #: Timers that are set.
    timers: int
    #: Open libuv handles by libuv's name of their kind, without the loop's own; only kinds of which there are any.
    handles: Mapping[str, int]
    #: Open transports by kind: ``tcp``, ``tls``, ``unix``, ``udp``, ``pipe``, and ``other`` for those that asyncio's
    #: own code serves.
    transports: Mapping[str, int]
    #: Listening sockets that accept connections.
    listeners: int
    #: Descriptors watched with ``add_reader()`` and ``add_writer()``, pipes and waiting children among them.
    descriptors: int
    #: ``sock_recv()`` and its native kin that wait.
    socket_calls: int
    #: Bytes that the kernel gave to and took from transports, pipes and native ``sock_*()`` calls; TLS records as sent.
    bytes_received: int
    bytes_sent: int
    #: Connections accepted by servers.
    accepted: int
    #: Times that accepting failed, such as for lack of descriptors.
    accept_errors: int
    #: Callbacks that took ``slow_callback_duration`` or longer; where callbacks were not timed, stalls instead.
    slow_callbacks: int
    #: Stretches of at most eight turns without sleep that took ``slow_callback_duration`` or longer.
    stalls: int
    #: The longest of them.
    longest_stall: float
    #: The last slow callbacks, the latest last.
    slow: tuple[SlowCallback, ...]

    @property
    def utilisation(self) -> float:
        """The part of its run time that the loop was busy rather than asleep, from 0 to 1; 0 if it never ran."""
        return _busy(self.run_time, self.idle_time)

    def utilisation_since(self, earlier: "LoopStatistics") -> float:
        """Return `utilisation` of the time between *earlier*, another snapshot of the same loop, and this one."""
        return _busy(self.run_time - earlier.run_time, self.idle_time - earlier.idle_time)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and `utilisation` as a dict that JSON can hold."""
        slow = tuple(each._asdict() for each in self.slow)
        return {**self._asdict(), "slow": slow, "utilisation": self.utilisation}


def _busy(run_time: float, idle_time: float) -> float:
    return min(1.0, max(0.0, 1.0 - idle_time / run_time)) if run_time > 0 else 0.0


# ------------------------------------------------------------------------------------------------------- slow callbacks


def describe_slow(subject: Any, method: str | None, duration: float, sample: tuple[str, ...] | None) -> SlowCallback:
    """Return the record of a slow callback. Calls repr() of what users made; raises nothing but BaseExceptions.

    Args:
        subject: the handle; or the protocol, of which *method* was called; or None if no callback was timed.
        duration: in seconds.
        sample: the stack taken while it ran, if there is one.
    """
    task = task_of(subject)
    stack, taken = sample or (), "during"
    if not stack:
        try:
            stack, taken = stack_of(subject, method, task)
        except Exception:
            stack, taken = (), ""
    return SlowCallback(
        when=time.time(),
        duration=duration,
        callback=shorten(name_call(subject, method)),
        task=None if task is None else shorten(str(task.get_name())),
        stack=stack,
        taken=taken,  # type: ignore[arg-type]
    )


def name_call(subject: Any, method: str | None) -> str:
    """Return what was called as text, for a handle that of asyncio's debug log."""
    try:
        if subject is None:
            return "not timed: one or several callbacks of a turn"
        if method is not None:
            return f"{type(subject).__qualname__}.{method}() of {subject!r}"
        return str(base_events._format_handle(subject))  # type: ignore[attr-defined]
    except Exception as exc:
        return f"<{type(subject).__name__} whose repr() raised {type(exc).__name__}>"


def task_of(handle: Any) -> asyncio.Task[Any] | None:
    """Return the task whose step *handle* is, or None."""
    task = getattr(getattr(handle, "_callback", None), "__self__", None)
    return task if isinstance(task, asyncio.Task) else None


def stack_of(subject: Any, method: str | None, task: asyncio.Task[Any] | None) -> tuple[tuple[str, ...], str]:
    """Return the stack to be had after the call, and how it was taken (`SlowCallback.taken`)."""
    if task is not None:
        frames = suspended_frames(task)
        if frames:
            return show_frames(frames), "after"
        code = getattr(task.get_coro(), "cr_code", None) or getattr(task.get_coro(), "gi_code", None)
    else:
        call = subject._callback if method is None and subject is not None else getattr(subject, method or "", None)
        code = getattr(getattr(call, "func", call), "__code__", None)
    if isinstance(code, CodeType):
        return (show_line(code.co_filename, code.co_firstlineno, code.co_qualname),), "start"
    return (), ""


def suspended_frames(task: asyncio.Task[Any]) -> list[tuple[FrameType, int]]:
    """Return the frames of a task's coroutines with their lines, outermost first; unlike ``Task.get_stack()`` all of
    those that wait for each other."""
    found: list[tuple[FrameType, int]] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(found) < 1000:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        frame = frame or getattr(awaited, "ag_frame", None)
        if isinstance(frame, FrameType):
            found.append((frame, frame.f_lineno))
        following = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
        awaited = following or getattr(awaited, "ag_await", None)
    return found


def frames_below(frame: FrameType | None) -> list[tuple[FrameType, int]]:
    """Return the frames that a thread runs, given the innermost, without those of the loop and its callers."""
    found: list[tuple[FrameType, int]] = []
    while frame is not None and not is_loop(frame):
        found.append((frame, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def is_loop(frame: FrameType) -> bool:
    """Return True for the frame that runs a loop of ours."""
    return frame.f_code.co_name == "run_forever" and frame.f_globals.get("__name__") == "loopfast._loop"


def show_frames(frames: Iterable[tuple[FrameType, int]]) -> tuple[str, ...]:
    """Return the innermost of *frames*, with their lines, as text."""
    lines = [show_line(frame.f_code.co_filename, line, frame.f_code.co_qualname) for frame, line in frames]
    return tuple(lines[-DEEPEST:])


def show_line(file: str, line: int, name: str) -> str:
    """Return a line of a stack, as `SlowCallback.stack` has it."""
    source = linecache.getline(file, line).strip()
    return shorten(f"{file}:{line} in {name}" + (f": {source}" if source else ""))


def shorten(text: str) -> str:
    """Return *text*, or its beginning where it is long."""
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."

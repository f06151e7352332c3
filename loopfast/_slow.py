"""What is kept of a slow callback: what was called, and the stack to be had. Needs no import when one is found, as the
process may have no descriptor left then."""

from __future__ import annotations

import asyncio
import linecache
import time
from asyncio import base_events
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import Any, TypeAlias

#: Slow callbacks that a loop remembers.
REMEMBERED = 16
#: Frames of a stack that are kept, the innermost; and characters of a line, or of what names a callback.
DEEPEST = 24
LONGEST = 300

#: The fields of ``loopfast.SlowCallback``, in their order.
SlowRecord: TypeAlias = tuple[float, float, str, str | None, tuple[str, ...], str]


def describe_slow(subject: Any, method: str | None, duration: float, sample: tuple[str, ...] | None) -> SlowRecord:
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
    name = None if task is None else shorten(str(task.get_name()))
    return time.time(), duration, shorten(name_call(subject, method)), name, stack, taken


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

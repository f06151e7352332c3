"""The handles that are no streams: timers, hooks, wake-ups, descriptors, signals, processes; and the life of all."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import loopfast
from loopfast import uv

ROOT = Path(loopfast.__file__).parents[1]
PYTHON = sys.executable
NAN_ARGUMENTS = [("soon", TypeError), (1.5, TypeError), (None, TypeError), (-1, ValueError), (1 << 64, ValueError)]


@pytest.fixture
def loop() -> Iterator[uv.Loop]:
    with uv.Loop() as loop:
        yield loop


KINDS = [uv.Timer, uv.Prepare, uv.Check, uv.Idle, uv.Async, uv.Signal, uv.TCP, uv.UDP, uv.Pipe, uv.FSEvent, uv.FSPoll]


# -------------------------------------------------------------------------------------------------------------- life


@pytest.mark.parametrize("kind", KINDS)
def test_the_life_of_a_handle(loop: uv.Loop, kind: Any) -> None:
    handle = kind(loop)
    assert handle.loop is loop and not handle.closing and not handle.closed
    assert uv.handle_type_name(handle.type) == {"FSEvent": "fs_event", "FSPoll": "fs_poll"}.get(
        kind.__name__, kind.__name__.lower()
    )
    assert handle.active is (kind is uv.Async)
    assert handle.has_ref
    handle.unref()
    handle.unref()
    assert not handle.has_ref
    handle.ref()
    closed: list[Any] = []
    handle.close(closed.append)
    assert handle.closing and not handle.closed and not handle.active and "closing" in repr(handle)
    handle.close()
    with pytest.raises(RuntimeError, match="closing already"):
        handle.close(print)
    with pytest.raises(RuntimeError, match="after close"):
        handle.ref()
    loop.run()
    assert closed == [handle] and handle.closed and "closed" in repr(handle)
    handle.close()


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_at_once(loop: uv.Loop, kind: Any) -> None:
    gone = weakref.ref(kind(loop))
    gc.collect()
    assert (gone() is None) is (kind is not uv.Async), "only what is active is kept"
    loop.close_handles()
    gc.collect()
    assert gone() is None and loop.walk() == []


def test_an_active_handle_needs_nobody(loop: uv.Loop) -> None:
    fired: list[Any] = []
    uv.Timer(loop).start(lambda timer: fired.append(weakref.ref(timer)), 1)
    gc.collect()
    loop.run()
    gc.collect()
    assert len(fired) == 1 and fired[0]() is None
    loop.run()
    assert loop.walk() == []


def test_data_of_ones_own(loop: uv.Loop) -> None:
    class Session(uv.Timer):
        def __init__(self, loop: uv.BaseLoop, name: str) -> None:
            super().__init__(loop)
            self.name = name

    seen: list[str] = []
    Session(loop, "mine").start(lambda session: seen.append(session.name), 0)
    loop.run()
    assert seen == ["mine"]


def test_a_subclass_that_forgets_to_initialise(loop: uv.Loop) -> None:
    class Forgetful(uv.Timer):
        def __init__(self) -> None:
            pass

    timer = Forgetful()
    assert "not initialised" in repr(timer) and timer.closing
    for call in (lambda: timer.start(print, 1), timer.close, timer.ref, lambda: timer.loop, lambda: timer.type):
        with pytest.raises(RuntimeError, match=r"__init__\(\) was not called"):
            call()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [None, 7, "loop", object()])
def test_something_else_for_a_loop(kind: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"Loop is needed, got"):
        kind(wrong)


def test_callbacks_must_be_callable(loop: uv.Loop) -> None:
    for call in (
        lambda: uv.Timer(loop).start(7, 1),  # type: ignore[arg-type]
        lambda: uv.Idle(loop).start(None),  # type: ignore[arg-type]
        lambda: uv.Async(loop, 7),  # type: ignore[arg-type]
        lambda: uv.Timer(loop).close(7),  # type: ignore[arg-type]
        lambda: uv.Signal(loop).start("x", 10),  # type: ignore[arg-type]
        lambda: uv.TCP(loop).read_start(None),  # type: ignore[arg-type]
        lambda: uv.TCP(loop).connect(("127.0.0.1", 1), 7),  # type: ignore[arg-type]
        lambda: uv.queue_work(loop, 7),  # type: ignore[arg-type]
        lambda: uv.Process(loop, [PYTHON], on_exit=7),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="callable"):
            call()
    assert loop.run() is False


def test_closing_in_the_own_callback(loop: uv.Loop) -> None:
    order: list[str] = []

    def on_timer(timer: uv.Timer) -> None:
        timer.close(lambda _: order.append("closed"))
        order.append("fired")

    uv.Timer(loop).start(on_timer, 0, 1)
    uv.Idle(loop).start(uv.Idle.close)
    uv.Check(loop).start(uv.Check.close)
    uv.Prepare(loop).start(uv.Prepare.close)
    loop.run()
    assert order == ["fired", "closed"]


def test_nothing_can_be_copied(loop: uv.Loop, tmp_path: Path) -> None:
    request = uv.queue_work(loop, lambda: None)
    with uv.fs.opendir(tmp_path) as directory:
        for thing in (loop, uv.Timer(loop), request, directory):
            for way in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot copy or pickle"):
                    way(thing)


# ------------------------------------------------------------------------------------------------------------ timers


def test_timers(loop: uv.Loop) -> None:
    order: list[str] = []
    timer = uv.Timer(loop)
    timer.start(lambda _: order.append("late"), 20)
    assert timer.active and 0 < timer.due_in <= 20
    uv.Timer(loop).start(lambda _: order.append("early"), 1)
    loop.run()
    assert order == ["early", "late"] and timer.due_in == 0 and not timer.active


def test_repeating_timers(loop: uv.Loop) -> None:
    ticks: list[int] = []

    def on_timer(timer: uv.Timer) -> None:
        ticks.append(timer.repeat)
        timer.repeat = 2
        if len(ticks) >= 3:
            timer.stop()

    timer = uv.Timer(loop)
    with pytest.raises(OSError) as caught:
        timer.again()
    assert caught.value.errno == errno.EINVAL
    timer.start(on_timer, 0, 1)
    loop.run()
    assert ticks == [1, 2, 2]
    timer.again()
    assert timer.active and timer.due_in <= 2
    loop.run()
    assert len(ticks) == 4


@pytest.mark.parametrize(("value", "kind"), NAN_ARGUMENTS)
def test_times_that_are_none(loop: uv.Loop, value: Any, kind: Any) -> None:
    timer = uv.Timer(loop)
    with pytest.raises(kind, match="timeout_ms"):
        timer.start(print, value)
    with pytest.raises(kind, match="repeat_ms"):
        timer.start(print, 0, value)
    with pytest.raises(kind, match="repeat"):
        timer.repeat = value


def test_starting_anew_has_the_new_callback(loop: uv.Loop) -> None:
    fired: list[str] = []
    timer = uv.Timer(loop)
    timer.start(lambda _: fired.append("old"), 0)
    timer.start(lambda _: fired.append("new"), 0)
    loop.run()
    assert fired == ["new"]
    timer.stop()
    timer.stop()


# ------------------------------------------------------------------------------------------------- hooks and wake-ups


def test_the_order_of_a_turn(loop: uv.Loop) -> None:
    order: list[str] = []

    def note(handle: Any) -> None:
        order.append(type(handle).__name__)
        if len(order) >= 3:
            handle.stop()

    for kind in (uv.Check, uv.Idle, uv.Prepare):
        kind(loop).start(note)
    loop.run(uv.RunMode.NOWAIT)
    assert order == ["Idle", "Prepare", "Check"]


def test_async(loop: uv.Loop) -> None:
    woken: list[int] = []

    def on_wake(wake: uv.Async) -> None:
        woken.append(threading.get_ident())
        if len(woken) == 2:
            wake.close()

    wake = uv.Async(loop, on_wake)
    wake.send()
    wake.send()
    loop.run(uv.RunMode.NOWAIT)
    assert len(woken) == 1, "several sends are one call"
    thread = threading.Thread(target=wake.send)
    thread.start()
    loop.run()
    thread.join()
    assert woken == [threading.get_ident()] * 2
    with pytest.raises(RuntimeError, match="after close"):
        wake.send()


# ------------------------------------------------------------------------------------------------------- descriptors


def test_poll(loop: uv.Loop) -> None:
    one, other = socket.socketpair()
    seen: list[Any] = []

    def on_poll(poll: uv.Poll, events: uv.PollEvent, error: Exception | None) -> None:
        seen.append((events, error))
        if events & uv.PollEvent.READABLE:
            seen.append(one.recv(10))
            poll.start(on_poll, uv.PollEvent.DISCONNECT)
            other.close()
        else:
            poll.close()

    poll = uv.Poll(loop, one)
    assert poll.fileno() == one.fileno()
    poll.start(on_poll, uv.PollEvent.READABLE | uv.PollEvent.PRIORITIZED)
    other.send(b"data")
    loop.run()
    assert seen[:2] == [(uv.PollEvent.READABLE, None), b"data"]
    assert seen[2][0] & uv.PollEvent.DISCONNECT and len(seen) == 3
    one.close()


def test_poll_refuses(loop: uv.Loop, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
        uv.Poll(loop, file)
    one, other = socket.socketpair()
    with one, other:
        first, second = uv.Poll(loop, one), uv.Poll(loop, one)
        for events in (0, 16, -1):
            with pytest.raises(ValueError, match="events"):
                first.start(print, events)
        first.start(lambda *_: None, 1)
        with pytest.raises(FileExistsError):
            second.start(print, 1)
        with pytest.raises(FileExistsError):
            uv.Poll(loop, one)
        first.stop()
        second.start(print, 1)
        second.close()
        first.close()
    with pytest.raises(OSError) as caught:
        uv.Poll(loop, other.detach() if other.fileno() >= 0 else 9999)
    assert caught.value.errno in (errno.EBADF, errno.ENOENT)
    for wrong, kind in (("x", TypeError), (-1, ValueError), (1 << 40, ValueError)):
        with pytest.raises(kind):
            uv.Poll(loop, wrong)


def test_a_descriptor_closed_behind_its_back(loop: uv.Loop) -> None:
    one, other = socket.socketpair()
    errors: list[Any] = []
    poll = uv.Poll(loop, one)
    poll.start(lambda poll, events, error: (errors.append(error), poll.close()), uv.PollEvent.READABLE)
    number = one.detach()
    os.close(number)
    other.close()
    timer = uv.Timer(loop)
    timer.start(lambda _: poll.close(), 50)
    loop.run()
    assert poll.closed


# ----------------------------------------------------------------------------------------------------------- signals


def test_signals(loop: uv.Loop) -> None:
    seen: list[Any] = []

    def on_signal(handle: uv.Signal, signum: int) -> None:
        seen.append((handle.signum, signum))
        handle.close()

    handle = uv.Signal(loop)
    handle.start(on_signal, signal.SIGUSR1)
    once = uv.Signal(loop)
    once.start_oneshot(lambda handle, signum: seen.append("once"), signal.SIGUSR1)
    assert handle.signum == signal.SIGUSR1
    uv.kill(os.getpid(), signal.SIGUSR1)
    loop.run()
    with pytest.raises(RuntimeError, match="one arrival"):
        once.start(print, signal.SIGUSR1)
    assert sorted(map(str, seen)) == ["(10, 10)", "once"] and once.signum is None and not once.active


def test_pythons_handler_is_in_force_again(loop: uv.Loop) -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: calls.append(number))
    try:
        one, other = uv.Signal(loop), uv.Signal(loop)
        for handle in (one, other):
            handle.start(lambda handle, number: handle.stop(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
        loop.run()
        assert calls == [], "libuv had the signal"
        os.kill(os.getpid(), signal.SIGUSR2)
        assert calls == [signal.SIGUSR2]
        one.start(print, signal.SIGUSR2)
        one.close()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert len(calls) == 2
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("number", [0, 9, 19, 1000])
def test_signals_that_cannot_be_handled(loop: uv.Loop, number: int) -> None:
    handle = uv.Signal(loop)
    with pytest.raises(OSError) as caught:
        handle.start(print, number)
    assert caught.value.errno == errno.EINVAL
    for wrong, kind in (("x", TypeError), (-1, ValueError)):
        with pytest.raises(kind, match="signum"):
            handle.start(print, wrong)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------- processes


def test_a_process(loop: uv.Loop, tmp_path: Path) -> None:
    ended: list[Any] = []
    out: list[bytes] = []
    output, errors, given = uv.Pipe(loop), uv.Pipe(loop), uv.Pipe(loop)
    program = (
        "import os, sys; print(sys.stdin.read(), os.getcwd(), os.environ['NAME'], sorted(os.environ)[0]); "
        "sys.stderr.write('warn'); sys.exit(7)"
    )
    pipe = uv.StdioFlag.CREATE_PIPE
    process = uv.Process(
        loop,
        [PYTHON, "-c", program],
        on_exit=lambda *args: ended.append(args),
        cwd=tmp_path,
        env={"NAME": "välue", "A": "1", "LC_ALL": "C.UTF-8"},
        stdio=[
            (given, pipe | uv.StdioFlag.READABLE_PIPE),
            (output, pipe | uv.StdioFlag.WRITABLE_PIPE),
            (errors, pipe | uv.StdioFlag.WRITABLE_PIPE),
        ],
    )
    assert process.pid > 0 and process.active and not process.exited

    def on_read(stream: uv.Pipe, data: bytes, error: Exception | None) -> None:
        if error is None:
            out.append(data)
        else:
            stream.close()

    output.read_start(on_read)
    errors.read_start(on_read)
    given.write(b"input")
    given.shutdown(lambda stream, error: stream.close())
    loop.run()
    assert ended == [(process, 7, 0)] and process.exited
    text = b"".join(out).decode()
    assert f"input {tmp_path} välue A\n" in text and "warn" in text
    with pytest.raises(ProcessLookupError):
        process.kill()
    process.close()
    with pytest.raises(RuntimeError):
        process.kill()


def test_killing_a_process(loop: uv.Loop) -> None:
    ended: list[Any] = []
    process = uv.Process(loop, [PYTHON, "-c", "import time; time.sleep(100)"], on_exit=lambda *args: ended.append(args))
    process.kill(signal.SIGKILL)
    loop.run()
    assert ended == [(process, 0, signal.SIGKILL)]
    with pytest.raises(ProcessLookupError):
        uv.kill(process.pid, 0)


def test_inherited_descriptors(loop: uv.Loop, tmp_path: Path) -> None:
    one, other = socket.socketpair()
    path = tmp_path / "out"
    with path.open("wb") as file, one, other:
        uv.Process(loop, [PYTHON, "-c", "print('to a file', flush=True)"], stdio=[None, file])
        uv.Process(loop, ["sh", "-c", "echo to a socket >&3"], stdio=[None, None, None, other])
        stream = uv.Pipe(loop)
        stream.open(os.dup(other.fileno()))
        uv.Process(loop, ["sh", "-c", "echo to a stream"], stdio=[None, stream])
        loop.run()
        stream.close()
        assert path.read_bytes() == b"to a file\n"
        assert sorted(one.recv(100).splitlines()) == [b"to a socket", b"to a stream"]


def test_processes_that_cannot_start(loop: uv.Loop, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        uv.Process(loop, ["no-such-program"])
    with pytest.raises(PermissionError):
        uv.Process(loop, [str(tmp_path)])
    with pytest.raises(FileNotFoundError):
        uv.Process(loop, [PYTHON], cwd=tmp_path / "none")
    pipe = uv.Pipe(loop)
    with pytest.raises(FileNotFoundError):
        uv.Process(loop, ["no-such-program"], stdio=[(pipe, uv.StdioFlag.CREATE_PIPE | uv.StdioFlag.READABLE_PIPE)])
    assert loop.run() is False


def test_wrong_arguments_of_processes(loop: uv.Loop) -> None:
    other = uv.Loop()
    foreign, bound = uv.Pipe(other), uv.Pipe(loop)
    ends = uv.pipe()
    bound.open(ends[0])
    create = uv.StdioFlag.CREATE_PIPE
    cases: list[tuple[Any, dict[str, Any]]] = [
        (TypeError, {"args": PYTHON}),
        (TypeError, {"args": []}),
        (TypeError, {"args": [7]}),
        (ValueError, {"args": ["a\0b"]}),
        (ValueError, {"args": [PYTHON], "env": {"A=B": "x"}}),
        (ValueError, {"args": [PYTHON], "env": {"A": "x\0"}}),
        (ValueError, {"args": [PYTHON], "flags": 1 << 20}),
        (TypeError, {"args": [PYTHON], "stdio": [object()]}),
        (ValueError, {"args": [PYTHON], "stdio": [-5]}),
        (TypeError, {"args": [PYTHON], "stdio": [(uv.Pipe(loop), 0)]}),
        (TypeError, {"args": [PYTHON], "stdio": [(uv.TCP(loop), create)]}),
        (ValueError, {"args": [PYTHON], "stdio": [(foreign, create)]}),
        (ValueError, {"args": [PYTHON], "stdio": [(bound, create)]}),
        (OSError, {"args": [PYTHON], "stdio": [uv.TCP(loop)]}),
    ]
    for kind, arguments in cases:
        with pytest.raises(kind):
            uv.Process(loop, **arguments)
    foreign.close()
    other.close()
    bound.close()
    os.close(ends[1])
    assert loop.run() is False


def test_a_child_that_outlives_its_handle(loop: uv.Loop) -> None:
    process = uv.Process(loop, ["sleep", "0.2"], flags=uv.ProcessFlag.DETACHED)
    pid = process.pid
    process.unref()
    assert loop.run() is False
    process.close()
    loop.run()
    os.waitpid(pid, 0)


def test_sigchld_is_pythons_again() -> None:
    program = """
import os, signal
from loopfast import uv
calls = []
signal.signal(signal.SIGCHLD, lambda *args: calls.append(args))
with uv.Loop() as loop:
    uv.Process(loop, ["true"])
    loop.run()
assert calls == []
import subprocess
subprocess.run(["true"])
print(len(calls))
"""
    done = subprocess.run(
        [PYTHON, "-c", program], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_a_type_whose_name_cannot_be_encoded_is_refused(loop: uv.Loop) -> None:
    # cffi ends the process where it is asked for such a name.
    class Odd(uv.Timer):
        _c_type = "\ud800"

    with pytest.raises(ValueError, match="ud800"):
        Odd(loop)

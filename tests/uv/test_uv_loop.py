"""uv.Loop: running, closing, what callbacks raise, wrong threads, forks, and loops that are just dropped."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import loopfast
from loopfast import uv
from loopfast.uv.loop import _Interrupts

ROOT = Path(loopfast.__file__).parents[1]


@pytest.fixture
def loop() -> Iterator[uv.Loop]:
    with uv.Loop() as loop:
        yield loop


def soon(loop: uv.Loop, callback: Any) -> uv.Timer:
    timer = uv.Timer(loop)
    timer.start(callback, 0)
    return timer


def python(program: str, *arguments: str, code: int = 0) -> str:
    """Run a program in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------------- running


def test_modes(loop: uv.Loop) -> None:
    assert loop.run() is False
    fired: list[int] = []
    timer = uv.Timer(loop)
    timer.start(lambda _: fired.append(1), 1, 1)
    assert loop.alive
    assert loop.run(uv.RunMode.NOWAIT) is True
    while not fired:
        assert loop.run(uv.RunMode.ONCE) is True
    timer.stop()
    assert loop.run(uv.RunMode.ONCE) is False and not loop.alive
    with pytest.raises(ValueError, match="17"):
        loop.run(17)


def test_stop_ends_the_run_and_the_next_goes_on(loop: uv.Loop) -> None:
    fired: list[str] = []

    def on_timer(timer: uv.Timer) -> None:
        fired.append("stop")
        loop.stop()

    timer = uv.Timer(loop)
    timer.start(on_timer, 0, 1)
    assert loop.run() is True and fired == ["stop"]
    assert loop.run() is True and fired == ["stop", "stop"]


def test_run_is_not_reentrant(loop: uv.Loop) -> None:
    refused: list[BaseException] = []

    def on_timer(timer: uv.Timer) -> None:
        assert loop.running
        for call in (loop.run, loop.close, loop.close_handles, loop.fork):
            with pytest.raises(RuntimeError, match="run") as caught:
                call()
            refused.append(caught.value)

    soon(loop, on_timer)
    loop.run()
    assert len(refused) == 4 and not loop.running


def test_time(loop: uv.Loop) -> None:
    before = loop.now()
    uv.sleep(5)
    assert loop.now() == before
    loop.update_time()
    assert loop.now() >= before + 5


def test_backend(loop: uv.Loop) -> None:
    assert loop.backend_timeout() == 0
    timer = uv.Timer(loop)
    timer.start(print, 10_000)
    loop.run(uv.RunMode.NOWAIT)  # with changes that the kernel does not know yet, libuv says 0
    assert 0 < loop.backend_timeout() <= 10_000
    assert os.fstat(loop.backend_fd())
    assert loop.pointer == timer._cell.typed.loop  # type: ignore[union-attr]


def test_options() -> None:
    loop = uv.Loop()
    loop.configure(uv.LoopOption.METRICS_IDLE_TIME)
    loop.configure(uv.LoopOption.BLOCK_SIGNAL, signal.SIGPROF)
    with pytest.raises(OSError, match=r"\[Errno 22\]"):
        loop.configure(uv.LoopOption.BLOCK_SIGNAL, signal.SIGINT)
    with pytest.raises(TypeError, match="needs the signal"):
        loop.configure(uv.LoopOption.BLOCK_SIGNAL)
    for _ in range(100):
        # On a busy machine the timer may be due before the loop has slept for it.
        timer = uv.Timer(loop)
        timer.start(uv.Timer.close, 5)
        loop.run()
        if uv.metrics_idle_time(loop):
            break
    assert uv.metrics_idle_time(loop) > 0
    metrics = uv.metrics_info(loop)
    assert metrics.loop_count >= 1 and metrics.events >= 0 and metrics.events_waiting >= 0
    loop.close()


def test_walk(loop: uv.Loop) -> None:
    assert loop.walk() == []
    timer, tcp = uv.Timer(loop), uv.TCP(loop)
    assert set(loop.walk()) == {timer, tcp}
    many = [uv.Idle(loop) for _ in range(200)]
    assert set(loop.walk()) == {timer, tcp, *many}
    timer.close()
    loop.run()
    assert timer not in loop.walk()


# ----------------------------------------------------------------------------------------------------------- errors


def test_what_a_callback_raises_leaves_run(loop: uv.Loop) -> None:
    def on_timer(timer: uv.Timer) -> None:
        raise ZeroDivisionError("from a timer")

    later: list[str] = []
    soon(loop, on_timer)
    timer = uv.Timer(loop)
    timer.start(lambda _: later.append("later"), 5)
    with pytest.raises(ZeroDivisionError, match="from a timer"):
        loop.run()
    # The loop is as it was: what is left goes on.
    loop.run()
    assert later == ["later"]


def test_several_exceptions_of_one_turn_come_together(loop: uv.Loop) -> None:
    def fail(exc: BaseException) -> Any:
        def on_timer(timer: uv.Timer) -> None:
            raise exc

        return on_timer

    for exc in (ValueError("one"), KeyError("two"), OSError("three")):
        soon(loop, fail(exc))
    with pytest.raises(ExceptionGroup) as caught:
        loop.run()
    assert [type(exc) for exc in caught.value.exceptions] == [ValueError, KeyError, OSError]
    assert loop.run() is False

    for one in (ValueError("one"), KeyboardInterrupt(), SystemExit(3)):
        soon(loop, fail(one))
    with pytest.raises(KeyboardInterrupt) as interrupt:
        loop.run()
    group = interrupt.value.__cause__
    assert isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 3


def test_a_close_callback_that_raises(loop: uv.Loop) -> None:
    def on_close(timer: uv.Timer) -> None:
        assert timer.closed
        raise ValueError("from close")

    uv.Timer(loop).close(on_close)
    with pytest.raises(ValueError, match="from close"):
        loop.run()
    uv.Timer(loop).close(on_close)
    with pytest.raises(ValueError, match="from close"):
        loop.close()
    assert loop.closed


def test_ctrl_c_while_the_loop_waits() -> None:
    """Python's handler runs although libuv sleeps."""
    text = python(
        """
import os, signal, threading
from loopfast import uv
loop = uv.Loop()
waker = uv.Async(loop)
prepare = uv.Prepare(loop)
def about_to_wait(prepare):
    prepare.stop()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
prepare.start(about_to_wait)
try:
    loop.run()
except KeyboardInterrupt:
    print("interrupted")
calls = []
signal.signal(signal.SIGUSR1, lambda *args: (calls.append(1), waker.close()))
prepare.start(lambda p: (p.stop(), threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()))
loop.run()
prepare.close()
loop.close()
print(calls, signal.set_wakeup_fd(-1))
"""
    )
    assert text == "interrupted\n[1] -1\n"


def test_interrupts_at_any_moment() -> None:
    """A signal handler may raise in the middle of the binding's own code: nothing crashes, nothing is lost."""
    text = python(
        """
import random, signal
from loopfast import uv
seen = raised = 0
class Tick(Exception): pass
def handler(*args):
    global raised
    raised += 1
    raise Tick
signal.signal(signal.SIGALRM, handler)
loop = uv.Loop()
idle = uv.Idle(loop)
idle.start(lambda _: None)
timer = uv.Timer(loop)
timer.start(lambda _: None, 0, 1)
while raised < 300:
    try:
        # The next one comes when this one was seen.
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.002))
        while True:
            loop.run()
    except Tick:
        seen += 1
print(raised == seen or (raised, seen))
idle.close(); timer.close(); loop.close()
"""
    )
    assert text == "True\n"


class NotALoop:
    """A weak reference can be made of it."""


def test_what_listens_for_interrupts_is_not_to_be_crashed_either() -> None:
    """Private, but found by the hostile calls."""
    unmade = object.__new__(_Interrupts)
    with pytest.raises(AttributeError):
        _Interrupts.__init__(unmade, NotALoop())
    with pytest.raises(AttributeError):
        unmade.close()
    loop = uv.Loop()
    made = _Interrupts(loop)
    made.start()
    made.stop()
    made.close()
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        made.start()
    del made
    gc.collect()
    loop.run()
    loop.close()


class Tick(Exception):
    """What a signal handler raises."""


def interrupted(at: int, function: Callable[[], object]) -> bool:
    """Call *function* and raise at one line of what listens for interrupts; return whether it came so far."""
    lines = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal lines
        if not frame.f_code.co_qualname.startswith(("_Interrupts.", "Loop._listen_for_interrupts")):
            return None
        if event == "line":
            lines += 1
            if lines == at:
                raise Tick
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Tick:
        return True
    finally:
        sys.settrace(previous)
    return lines >= at


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_an_interrupt_at_each_line_of_the_first_run_and_of_the_end() -> None:
    """A handle of the loop's own that nobody knew kept it from being closed, in memory that was freed."""
    listened = signal.set_wakeup_fd(-1)
    try:
        for part in ("run", "close"):
            at = 0
            while True:
                at += 1
                loop = uv.Loop()
                timer = uv.Timer(loop)
                if part == "close":
                    loop.run()
                    timer.close()
                came = interrupted(at, getattr(loop, part))
                gc.collect()
                if not loop.closed:
                    if part == "run":
                        timer.close()
                    loop.run()
                    loop.close()
                signal.set_wakeup_fd(-1)
                if not came:
                    break
            assert at > 3
    finally:
        signal.set_wakeup_fd(listened)


# ---------------------------------------------------------------------------------------------------------- closing


def test_close_with_live_handles_is_refused() -> None:
    loop = uv.Loop()
    timer, tcp = uv.Timer(loop), uv.TCP(loop)
    with pytest.raises(OSError, match="Timer idle.*TCP idle") as caught:
        loop.close()
    assert caught.value.errno == errno.EBUSY
    timer.close()
    tcp.close()
    loop.close()
    assert loop.closed and timer.closed and tcp.closed
    loop.close()


def test_close_with_a_pending_request_is_refused() -> None:
    loop = uv.Loop()
    begin, done = threading.Event(), []
    uv.queue_work(loop, begin.wait, lambda result, error: done.append((result, error)))
    with pytest.raises(OSError, match="WorkRequest pending"):
        loop.close()
    begin.set()
    loop.run()
    loop.close()
    assert done == [(True, None)]


def test_close_with_a_raw_handle_is_refused() -> None:
    loop = uv.Loop()
    raw = uv.ffi.new("uv_timer_t *")
    assert uv.lib.uv_timer_init(loop.pointer, raw) == 0
    with pytest.raises(OSError, match="1 made with lib"):
        loop.close()
    assert loop.walk() == []
    uv.lib.uv_close(uv.ffi.cast("uv_handle_t *", raw), uv.ffi.NULL)
    loop.run()
    loop.close()


def test_everything_is_refused_after_close() -> None:
    loop = uv.Loop()
    timer = uv.Timer(loop)
    timer.close()
    loop.close()
    for call in (
        loop.run,
        loop.stop,
        loop.now,
        loop.update_time,
        loop.backend_fd,
        loop.backend_timeout,
        loop.walk,
        loop.fork,
        loop.close_handles,
        lambda: loop.alive,
        lambda: loop.pointer,
        lambda: uv.Timer(loop),
        lambda: uv.Async(loop),
        lambda: uv.queue_work(loop, print),
        lambda: uv.random(8, loop=loop, callback=print),
        lambda: uv.fs.stat("/", loop=loop, callback=print),
        lambda: uv.getaddrinfo("localhost", loop=loop, callback=print),
        lambda: uv.metrics_info(loop),
        lambda: loop.configure(uv.LoopOption.METRICS_IDLE_TIME),
        lambda: loop.__enter__(),
    ):
        with pytest.raises(RuntimeError, match=r"Loop closed.* is closed"):
            call()
    assert "closed" in repr(timer) and "closed" in repr(loop)
    with pytest.raises(RuntimeError, match="used after close"):
        timer.start(print, 1)
    timer.close()
    assert not timer.active


def test_a_with_block_closes_everything() -> None:
    closed: list[uv.Handle] = []
    with uv.Loop() as loop:
        server = uv.TCP(loop)
        server.bind(("127.0.0.1", 0))
        server.listen(print)
        uv.Async(loop)
        soon(loop, lambda timer: uv.Timer(loop).close(closed.append))
        uv.queue_work(loop, lambda: None)
        results: list[Any] = []
        uv.fs.stat("/", loop=loop, callback=lambda *args: results.append(args))
    assert loop.closed and server.closed and len(results) == 1


def test_a_with_block_keeps_the_exception() -> None:
    with pytest.raises(ZeroDivisionError), uv.Loop() as loop:
        uv.Async(loop)
        raise ZeroDivisionError


def test_a_close_callback_makes_another_handle() -> None:
    made: list[uv.Timer] = []
    with uv.Loop() as loop:

        def on_close(timer: uv.Timer) -> None:
            if len(made) < 10:
                made.append(uv.Timer(loop))
                made[-1].close(on_close)
                made[-1].ref  # noqa: B018

        uv.Timer(loop).close(on_close)
    assert len(made) == 10 and all(timer.closed for timer in made)


def test_a_dropped_loop_warns_and_closes() -> None:
    loop = uv.Loop()
    timer = uv.Timer(loop)
    timer.start(print, 10_000)
    server = uv.TCP(loop)
    server.bind(("127.0.0.1", 0))
    server.listen(print)
    fd, backend = server.fileno(), loop.backend_fd()
    gone = weakref.ref(loop)
    with pytest.warns(ResourceWarning, match="unclosed <loopfast.uv.loop.Loop"):
        del loop, timer, server
        gc.collect()
    assert gone() is None
    for number in (fd, backend):
        with pytest.raises(OSError):
            os.fstat(number)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_dropped_loop_with_work_in_the_pool_stays_in_memory() -> None:
    begun, go = threading.Event(), threading.Event()
    loop = uv.Loop()
    room: list[bool] = []

    def work() -> None:
        begun.set()
        room.append(go.wait(30))

    uv.queue_work(loop, work)
    # Work that no thread has begun is cancelled.
    assert begun.wait(30)
    del loop
    gc.collect()
    go.set()
    while not room:
        uv.sleep(1)
    assert room == [True]


def test_a_loop_that_was_never_initialised() -> None:
    class Forgetful(uv.Loop):
        def __init__(self) -> None:
            pass

    loop = Forgetful()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run()
    with pytest.raises(RuntimeError, match="closed"):
        uv.Timer(loop)
    loop.close()


def test_initialising_twice(loop: uv.Loop) -> None:
    with pytest.raises(RuntimeError, match="already"):
        loop.__init__()  # type: ignore[misc]
    timer = uv.Timer(loop)
    with pytest.raises(RuntimeError, match="already"):
        timer.__init__(loop)  # type: ignore[misc]


# ---------------------------------------------------------------------------------------------------------- threads


def in_thread(function: Any) -> BaseException | None:
    failure: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return failure[0] if failure else None


def test_other_threads_are_refused_while_it_runs(loop: uv.Loop) -> None:
    errors: list[Any] = []
    timer = uv.Timer(loop)
    tcp = uv.TCP(loop)

    def on_timer(_: uv.Timer) -> None:
        calls = (
            lambda: timer.start(print, 1),
            timer.stop,
            timer.close,
            tcp.close,
            lambda: tcp.bind(("127.0.0.1", 0)),
            lambda: uv.Timer(loop),
            loop.stop,
            loop.run,
            loop.close,
            loop.walk,
            loop.now,
            lambda: uv.queue_work(loop, print),
        )
        errors.extend(in_thread(call) for call in calls)

    timer.start(on_timer, 0)
    loop.run()
    assert [type(exc) for exc in errors] == [RuntimeError] * 12
    assert all("thread" in str(exc) for exc in errors)
    assert not timer.closing and not tcp.closing


def test_a_loop_that_does_not_run_may_be_used_by_any_one_thread(loop: uv.Loop) -> None:
    fired: list[int] = []

    def work() -> None:
        soon(loop, lambda timer: fired.append(threading.get_ident()))
        loop.run()
        fired.append(threading.get_ident())

    assert in_thread(work) is None
    assert len(fired) == 2 and fired[0] == fired[1] != threading.get_ident()


def test_a_handle_dropped_in_another_thread(loop: uv.Loop) -> None:
    handles = [uv.Timer(loop) for _ in range(10)]

    def on_timer(timer: uv.Timer) -> None:
        def drop() -> None:
            handles.clear()
            gc.collect()

        assert in_thread(drop) is None

    soon(loop, on_timer)
    loop.run()
    loop.run()
    assert loop.walk() == [] or all(type(handle) is uv.Timer for handle in loop.walk())
    loop.close()


def test_many_threads_send_while_the_loop_closes() -> None:
    for _ in range(50):
        loop = uv.Loop()
        wake = uv.Async(loop)
        begin = threading.Event()

        def send(wake: uv.Async = wake, begin: threading.Event = begin) -> None:
            begin.set()
            try:
                while True:
                    wake.send()
            except RuntimeError:
                pass

        thread = threading.Thread(target=send)
        thread.start()
        begin.wait()
        loop.run(uv.RunMode.NOWAIT)
        wake.close()
        loop.close()
        thread.join(30)
        assert not thread.is_alive()


# ------------------------------------------------------------------------------------------------------------- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork() is POSIX's")
def test_fork() -> None:
    text = python(
        """
import os, sys, warnings
from loopfast import uv
loop = uv.Loop()
fired = []
timer = uv.Timer(loop)
timer.start(lambda t: (fired.append(os.getpid()), t.close()), 20)
server = uv.TCP(loop)
server.bind(("127.0.0.1", 0))
server.listen(lambda s, e: (s.accept().close(), s.close()))
address = server.getsockname()
child = os.fork()
if child == 0:
    for call in (loop.run, timer.stop, lambda: uv.Timer(loop), timer.close, loop.close, server.close):
        try:
            call()
        except RuntimeError as exc:
            assert "fork" in str(exc), exc
        else:
            os._exit(3)
    loop.fork()
    server.close()
    loop.run()
    assert fired == [os.getpid()]
    uv.queue_work(loop, lambda: 5, lambda r, e: fired.append(r))
    loop.run()
    loop.close()
    os._exit(0 if fired[1:] == [5] else 4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
# The child has closed its copy: the parent's goes on.
client = uv.TCP(loop)
client.connect(address, lambda c, e: c.close())
loop.run()
assert fired == [os.getpid()]
loop.close()
# A child that never touches it, and one that leaves with work pending.
loop = uv.Loop()
uv.queue_work(loop, lambda: uv.sleep(200))
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
loop.run()
loop.close()
print("fine")
""",
    )
    assert "fine\n" in text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork() is POSIX's")
def test_fork_in_a_callback() -> None:
    text = python(
        """
import os
from loopfast import uv
loop = uv.Loop()
def on_timer(timer):
    child = os.fork()
    if child == 0:
        try:
            uv.Timer(loop)
        except RuntimeError as exc:
            os._exit(0 if "fork" in str(exc) else 5)
        os._exit(6)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
timer = uv.Timer(loop)
timer.start(on_timer, 0)
loop.run()
timer.close()
loop.close()
"""
    )
    assert text == "0\n"


# ------------------------------------------------------------------------------------------------------------- exit


@pytest.mark.parametrize("where", ["module", "function"])
def test_the_interpreter_ends_with_work_in_the_pool(where: str) -> None:
    """libuv joins its threads at the end: a function that runs is waited for, others do not begin."""
    text = python(
        f"""
import threading, time
from loopfast import uv
def main():
    global loop
    loop = uv.Loop()
    began = threading.Event()
    def work():
        began.set()
        time.sleep(0.3)
        print("done", flush=True)
    for _ in range(20):
        uv.queue_work(loop, work)
    uv.fs.stat("/", loop=loop, callback=print)
    began.wait()
main()
if {where!r} == "function":
    del loop
"""
    )
    assert 1 <= text.count("done") <= 20 and "Error" not in text, text


def test_the_interpreter_ends_with_live_handles() -> None:
    assert (
        python(
            """
from loopfast import uv
loop = uv.Loop()
timer = uv.Timer(loop)
timer.start(lambda t: loop.stop(), 1, 1)
tcp = uv.TCP(loop)
tcp.bind(("127.0.0.1", 0))
tcp.listen(print)
wake = uv.Async(loop)
loop.run()
"""
        )
        == ""
    )


def test_no_descriptors_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that cannot be made raises, and nothing is lost."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    uv.Loop().close()
    low = socket.socket()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low.fileno() + 1, hard))
        with pytest.raises(OSError) as caught:
            uv.Loop()
        assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        low.close()
    uv.Loop().close()

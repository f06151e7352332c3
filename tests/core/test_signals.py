"""Signals: handlers in the loop, Ctrl+C idle and busy, and that everything is put back afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from unittest import mock

import pytest
from support import kill_when_asleep, open_descriptors, program, run_program, until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Unix signals")


@pytest.fixture(autouse=True)
def undisturbed():
    """Every test leaves the handlers and the wake-up descriptor as they were."""
    numbers = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1


def kill(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)


async def test_a_handler_is_called_in_the_loop(loop):
    seen = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, lambda *args: seen.set_result((args, asyncio.get_running_loop())), 1, 2)
    kill()
    assert await seen == ((1, 2), loop)
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


async def test_a_handler_is_replaced(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "old")
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "new")
    kill()
    await until(lambda: seen)
    assert seen == ["new"]
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_several_signals(loop):
    seen = []
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD):
        loop.add_signal_handler(number, seen.append, number)
        kill(number)
    await until(lambda: len(seen) == 4)
    assert sorted(seen) == sorted((signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD))
    for number in seen:
        loop.remove_signal_handler(number)


@pytest.mark.loopfast_only("asyncio's pair of sockets is full after some hundred signals, and the others are lost")
async def test_thousands_of_signals_in_one_callback(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    for _ in range(5_000):
        kill()
    await until(lambda: len(seen) >= 5_000)
    assert len(seen) == 5_000
    loop.remove_signal_handler(signal.SIGUSR1)


def test_signals_while_the_functions_of_os_are_replaced(loop_factory):
    """As a file system in memory replaces them, for tests."""
    seen = []
    with mock.patch("os.read", return_value=b"data"), mock.patch("os.close"), mock.patch("os.pipe2"):
        loop = loop_factory()
        loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
        loop.call_soon(kill)
        loop.run_until_complete(until(lambda: seen))
        numbers = {loop._ssock.fileno(), loop._csock.fileno()}
        loop.close()
    assert seen == [1]
    assert len(numbers) == 2
    assert not numbers & open_descriptors()


async def test_waking_the_loop_with_its_private_socket(loop):
    """Programs are known to do so."""
    thread = threading.Thread(target=lambda: loop._csock.send(b"\0"))
    woken = asyncio.Event()
    process = loop._process_self_data
    loop._process_self_data = lambda data: (process(data), woken.set())
    thread.start()
    await woken.wait()
    thread.join()
    with pytest.raises(BlockingIOError):
        loop._ssock.recv(1)


@pytest.mark.loopfast_only("asyncio's loop is woken by no signal in a forked child")
def test_signals_of_a_forked_child_are_its_own(loop):
    """Both run the same loop, and each signal waits for the child's answer to the one before."""
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.run_until_complete(asyncio.sleep(0))
    answers, answer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):

            async def respond():
                for number in range(20):
                    os.write(answer, b"x")
                    await until(lambda number=number: len(seen) > number)

            loop.run_until_complete(asyncio.wait_for(respond(), 10))
            os._exit(0)
        os._exit(1)
    os.close(answer)

    async def send():
        answered = asyncio.Queue()
        loop.add_reader(answers, lambda: answered.put_nowait(os.read(answers, 1)))
        while await answered.get():
            os.kill(child, signal.SIGUSR1)
        loop.remove_reader(answers)

    loop.run_until_complete(send())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert seen == []
    os.close(answers)
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_a_signal_wakes_a_sleeping_loop(loop):
    seen = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, seen.set_result, "woke")
    thread = threading.Timer(0.02, kill)
    thread.start()
    assert await seen == "woke"
    thread.join()
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_signal_while_the_loop_rests_is_delivered_later(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (seen.append(1), loop.stop()))
    loop.run_until_complete(asyncio.sleep(0))
    kill()
    assert seen == []
    loop.run_forever()
    assert seen == [1]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_signal_before_the_first_run(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (seen.append(1), loop.stop()))
    kill()
    loop.run_forever()
    assert seen == [1]
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_an_exception_in_a_handler_is_reported(loop, reports):
    def fail():
        raise LookupError

    loop.add_signal_handler(signal.SIGUSR1, fail)
    kill()
    await until(lambda: reports)
    assert isinstance(reports.take()["exception"], LookupError)
    loop.remove_signal_handler(signal.SIGUSR1)


def test_close_removes_the_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


async def test_sigint_handler_replaces_the_interrupt(loop):
    seen = []
    loop.add_signal_handler(signal.SIGINT, seen.append, 1)
    kill(signal.SIGINT)
    await until(lambda: seen)
    loop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [0, -1, 1000, "SIGUSR1", None, 1.5])
def test_not_a_signal(loop, number):
    with pytest.raises((ValueError, TypeError)):
        loop.add_signal_handler(number, print)
    with pytest.raises((ValueError, TypeError)):
        loop.remove_signal_handler(number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_signals_that_cannot_be_caught(loop, number):
    with pytest.raises(RuntimeError, match="cannot be caught"):
        loop.add_signal_handler(number, print)


def test_not_a_callback(loop):
    coroutine = asyncio.sleep(0)
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, coroutine)
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, asyncio.sleep)
    coroutine.close()


def test_outside_the_main_thread(loop):
    failures = []

    def add():
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except (RuntimeError, ValueError) as exc:
            failures.append(exc)

    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    assert len(failures) == 1


def test_a_closed_loop(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_signal_handler(signal.SIGUSR1, print)


def test_plain_python_handlers_run_while_the_loop_sleeps(loop):
    previous = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(loop.stop))
    thread = threading.Timer(0.02, kill)
    thread.start()
    loop.run_forever()
    thread.join()
    signal.signal(signal.SIGUSR1, previous)


def test_an_exception_of_a_plain_handler_leaves_the_run(loop):
    class Alarm(Exception):
        pass

    def handler(number, frame):
        raise Alarm

    previous = signal.signal(signal.SIGUSR1, handler)
    thread = kill_when_asleep(loop, signal.SIGUSR1)
    with pytest.raises(Alarm):
        loop.run_forever()
    thread.join()
    signal.signal(signal.SIGUSR1, previous)
    assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1


def test_the_wakeup_descriptor_of_others_is_restored(loop):
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    try:
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        restored = signal.set_wakeup_fd(-1)
    finally:
        signal.set_wakeup_fd(-1)
        os.close(read)
        os.close(write)
    if type(loop).__module__.startswith("asyncio"):
        # asyncio touches it only with add_signal_handler().
        assert restored == write
    assert restored == write


# --------------------------------------------------------------------------------------------------------------- Ctrl+C


def test_ctrl_c_on_an_idle_loop_is_prompt(loop):
    thread = threading.Timer(0.02, kill, [signal.SIGINT])
    # While the loop runs: on a busy machine the signal may come before that otherwise.
    loop.call_soon(thread.start)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    thread.join()
    assert loop.run_until_complete(asyncio.sleep(0, "again")) == "again"


def test_ctrl_c_on_a_loop_that_waits_for_a_timer_and_a_socket(loop):
    import socket

    one, other = socket.socketpair()
    loop.add_reader(one, print)
    timer = loop.call_later(1000, print)
    thread = threading.Timer(0.02, kill, [signal.SIGINT])
    # While the loop runs: on a busy machine the signal may come before that otherwise.
    loop.call_soon(thread.start)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert time.monotonic() - start < 1
    thread.join()
    timer.cancel()
    loop.remove_reader(one)
    one.close()
    other.close()


def test_ctrl_c_on_a_busy_loop_is_prompt(loop):
    def spin():
        loop.call_soon(spin)

    spin()
    thread = threading.Timer(0.02, kill, [signal.SIGINT])
    # While the loop runs: on a busy machine the signal may come before that otherwise.
    loop.call_soon(thread.start)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert time.monotonic() - start < 1
    thread.join()
    calls = []
    loop.call_soon(calls.append, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert calls == [1]


def test_ctrl_c_in_a_runner_cancels_the_main_task(loop_factory):
    events = []

    async def main():
        thread.start()
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    thread = threading.Timer(0.05, kill, [signal.SIGINT])
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(main())
        thread.join()
        assert events == ["cancelled"]
        assert runner.run(asyncio.sleep(0, "again")) == "again"


def test_ctrl_c_ends_a_program(loop_kind):
    with program(
        loop_kind,
        """
        async def main():
            print("ready", flush=True)
            await asyncio.sleep(1000)
        try:
            run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=5)
    assert (process.returncode, out, err) == (0, "interrupted\n", "")


def test_a_flood_of_signals(loop_kind):
    out = run_program(
        loop_kind,
        """
        async def main():
            loop = asyncio.get_running_loop()
            seen = 0
            def count():
                nonlocal seen
                seen += 1
            loop.add_signal_handler(signal.SIGUSR1, count)
            # Python says there that the wake-up pipe is full.
            sys.stderr = open(os.devnull, "w")
            for _ in range(20000):
                os.kill(os.getpid(), signal.SIGUSR1)
            while not seen:
                await asyncio.sleep(0)
            # Still alive and listening.
            before = seen
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
            print(seen > before)
        run(main())
        """,
    )
    assert out == "True\n"


def test_the_wakeup_descriptor_of_another_loop_closed_meanwhile(loop, loop_factory):
    # Test suites leave such a loop to the garbage collector, which may close it while the next one runs.
    other = loop_factory()
    other.add_signal_handler(signal.SIGUSR1, lambda: None)
    other.run_until_complete(asyncio.sleep(0))

    async def close_and_ask():
        other.close()
        return sys.get_asyncgen_hooks().firstiter is not None

    assert loop.run_until_complete(close_and_ask())
    assert sys.get_asyncgen_hooks().firstiter is None


def test_the_wakeup_descriptor_of_others_closed_meanwhile(loop):
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)

    async def close_it():
        os.close(write)
        return "closed"

    try:
        assert loop.run_until_complete(close_it()) == "closed"
    finally:
        signal.set_wakeup_fd(-1)
        os.close(read)


class Alarm(Exception):
    pass


def raise_alarm(number, frame):
    raise Alarm


def fail_to_install(loop):
    with pytest.raises((RuntimeError, OSError, ValueError)):
        loop.add_signal_handler(signal.SIGKILL, lambda: None)


MEANWHILE = {
    "another loop is closed": lambda loop, other: other.close(),
    "another loop installs a handler": lambda loop, other: other.add_signal_handler(signal.SIGTERM, lambda: None),
    "another loop cannot install one": lambda loop, other: fail_to_install(other),
    "the loop cannot install one": lambda loop, other: fail_to_install(loop),
}


@pytest.mark.parametrize("event", MEANWHILE)
def test_a_plain_handler_that_raises_ends_the_wait_after(loop, loop_factory, event):
    other = loop_factory()
    if event == "another loop is closed":
        other.add_signal_handler(signal.SIGUSR2, lambda: None)
    loop.call_soon(MEANWHILE[event], loop, other)
    previous = signal.signal(signal.SIGUSR1, raise_alarm)
    thread = kill_when_asleep(loop, signal.SIGUSR1)
    try:
        with pytest.raises(Alarm):
            loop.run_forever()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, previous)
        other.close()


@pytest.mark.parametrize("own", [False, True])
def test_a_handler_installed_by_a_loop_at_rest_is_called_in_its_next_run(loop, loop_factory, own):
    seen = []
    other = loop_factory()

    async def install():
        if own:
            loop.add_signal_handler(signal.SIGUSR2, seen.append, "of the running loop")
        other.add_signal_handler(signal.SIGUSR1, seen.append, "of the other")
        kill()
        await asyncio.sleep(0.01)
        assert seen == []

    try:
        loop.run_until_complete(install())
        kill()
        loop.run_until_complete(asyncio.sleep(0.01))
        assert seen == []
        other.run_until_complete(asyncio.sleep(0.01))
        assert seen == ["of the other"] * 2
    finally:
        other.close()
        loop.close()

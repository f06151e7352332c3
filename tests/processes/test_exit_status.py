"""How children end and who is told: wait(), signals, exit status, SIGCHLD, other threads, loops that are closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest
from support import new_event_loop, open_descriptors, program, run_program, settle, until

PIPE = asyncio.subprocess.PIPE


def waits_in_a_thread(loop_kind):
    """Up to 3.11 asyncio waits for a child in a thread, which may be the first to reap it."""
    return sys.version_info < (3, 12) and loop_kind == "asyncio"


create = asyncio.create_subprocess_exec


@pytest.mark.parametrize("status", [0, 1, 127, 255])
async def test_exit_status(loop, status):
    process = await create("/bin/sh", "-c", f"exit {status}")
    assert process.pid > 0
    assert await process.wait() == status == process.returncode
    assert await process.wait() == status


@pytest.mark.parametrize(
    ("send", "number"),
    [
        (lambda process: process.kill(), signal.SIGKILL),
        (lambda process: process.terminate(), signal.SIGTERM),
        (lambda process: process.send_signal(signal.SIGINT), signal.SIGINT),
        (lambda process: process.send_signal(signal.SIGUSR1), signal.SIGUSR1),
        (lambda process: process.send_signal(int(signal.SIGABRT)), signal.SIGABRT),
        (lambda process: os.kill(process.pid, signal.SIGTERM), signal.SIGTERM),
    ],
    ids=["kill", "terminate", "SIGINT", "SIGUSR1", "SIGABRT", "os.kill"],
)
async def test_signals(loop, send, number):
    process = await create("/bin/sleep", "1000")
    assert process.returncode is None
    send(process)
    # The number appears with the loop's turn, not inside the call.
    assert process.returncode is None
    assert await process.wait() == -number == process.returncode


async def test_a_stopped_child_has_not_ended(loop):
    process = await create("/bin/cat", stdin=PIPE, stdout=PIPE)
    process.send_signal(signal.SIGSTOP)
    # The kernel has told of it: SIGCHLD has come.
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    await settle()
    assert process.returncode is None
    process.send_signal(signal.SIGCONT)
    assert await process.communicate(b"x") == (b"x", None)
    assert process.returncode == 0


async def test_a_child_that_handles_a_signal(loop):
    process = await create("/bin/sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done", stdout=PIPE)
    assert await process.stdout.readline() == b"ready\n"
    process.terminate()
    assert await process.wait() == 7


@pytest.mark.parametrize("method", ["kill", "terminate", "send_signal"])
async def test_signals_after_the_end(loop, method):
    arguments = [signal.SIGUSR1] if method == "send_signal" else []
    process = await create("true")
    await process.wait()
    await settle()
    with pytest.raises(ProcessLookupError):
        getattr(process, method)(*arguments)
    assert process.returncode == 0


@contextlib.asynccontextmanager
async def ended_unnoticed(status):
    """A child that has ended since the loop ran last."""
    reader, writer = os.pipe()
    process = await create("/bin/sh", "-c", f"read line; exit {status}", stdin=reader)
    os.close(reader)
    os.close(writer)
    # Up to 3.11 a thread may have reaped it.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process.returncode is None
    yield process
    await process.communicate()


async def test_signals_between_the_end_and_the_loops_knowing(loop):
    async with ended_unnoticed(3) as process:
        process.kill()
        process.terminate()
        process.send_signal(signal.SIGUSR1)
        # Up to 3.12 asyncio sends signals through Popen, which may reap the child behind its back.
        assert await process.wait() in ((3, 255) if sys.version_info < (3, 13) else (3,))


async def test_wrong_signals(loop):
    process = await create("/bin/cat", stdin=PIPE)
    for bad, error in ((10_000, OSError), ("TERM", TypeError), (None, TypeError)):
        with pytest.raises(error):
            process.send_signal(bad)
    process.send_signal(0)
    await process.communicate(b"")
    assert process.returncode == 0


@pytest.mark.loopfast_only("asyncio 3.11 waits in a thread for each child", when=sys.version_info < (3, 12))
async def test_no_thread_waits(loop):
    before = threading.active_count()
    process = await create("/bin/cat", stdin=PIPE)
    assert threading.active_count() == before
    await process.communicate(b"")


async def test_many_wait(loop):
    process = await create("/bin/cat", stdin=PIPE)
    tasks = [loop.create_task(process.wait()) for _ in range(10)]
    await settle()
    assert not any(task.done() for task in tasks)
    tasks[3].cancel()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(process.wait(), 0.01)
    with pytest.raises(asyncio.CancelledError):
        await tasks.pop(3)
    process.stdin.close()
    assert await asyncio.gather(*tasks, process.wait()) == [0] * 10


def test_wait_for_a_child_whose_output_lives_on_is_as_in_asyncio(loop_kind, loop_factory):
    """Versions differ in whether who waits already is woken by the exit or by the end of the pipes."""

    async def main():
        # A background process keeps stdout open until its own input ends.
        reader, writer = os.pipe()
        process = await create("/bin/sh", "-c", "exec 3<&0; cat <&3 & echo; exec sleep 1000", stdin=reader, stdout=PIPE)
        os.close(reader)
        assert await process.stdout.readline() == b"\n"
        waiting = asyncio.ensure_future(process.wait())
        await settle()
        process.kill()
        await until(lambda: process.returncode is not None)
        await settle()
        found = [waiting.done(), process.returncode]
        # Who comes later does not wait at all.
        found.append(await process.wait())
        os.write(writer, b"late")
        os.close(writer)
        found.append(await process.stdout.read())
        found.append(await waiting)
        await settle()
        return found

    def run(factory):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main())

    found = run(loop_factory)
    assert found == run(lambda: new_event_loop("asyncio"))
    assert found[1:] == [-9, -9, b"late", -9]


async def test_exit_status_of_many(loop):
    async def run(number):
        process = await create("/bin/sh", "-c", f"exit {number}")
        return await process.wait()

    assert await asyncio.gather(*(run(number) for number in range(50))) == list(range(50))


async def test_descriptors(loop):
    for _ in range(3):
        process = await create("/bin/sh", "-c", "exit 0", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        await process.communicate()
        await settle()
        before = open_descriptors()
    for _ in range(20):
        process = await create("/bin/sh", "-c", "exit 0", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        await process.communicate()
    await settle()
    assert open_descriptors() - before == set()


# ---------------------------------------------------------------------------------------------- reaped by somebody else


async def test_a_child_that_somebody_else_reaped(loop, loop_kind, caplog):
    async with ended_unnoticed(3) as process:
        try:
            os.waitpid(process.pid, 0)
        except ChildProcessError:
            # A thread was faster.
            assert waits_in_a_thread(loop_kind)
            assert await process.wait() == 3
            return
        assert await process.wait() == 255
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "255" in record.getMessage() and str(process.pid) in record.getMessage()


async def test_children_that_are_ignored(loop, caplog):
    """With SIGCHLD ignored the kernel reaps; nobody knows the status."""
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with ended_unnoticed(3) as process:
            assert await process.wait() == 255
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_children_of_others_are_left_alone(loop):
    other = subprocess.Popen(["/bin/sh", "-c", "exit 9"])
    process = await create("/bin/sh", "-c", "exit 3")
    assert await process.wait() == 3
    assert await loop.run_in_executor(None, other.wait) == 9
    await loop.shutdown_default_executor()


# -------------------------------------------------------------------------------------------------------------- SIGCHLD


async def test_sigchld_of_the_application(loop):
    got = []
    loop.add_signal_handler(signal.SIGCHLD, got.append, "got")
    process = await create("/bin/sh", "-c", "exit 3")
    assert await process.wait() == 3
    await until(lambda: got)
    assert loop.remove_signal_handler(signal.SIGCHLD)


async def test_sigchld_is_not_taken(loop):
    got = []

    def handler(*arguments):
        got.append(arguments[0])

    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    process = await create("true")
    await process.wait()
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    previous = signal.signal(signal.SIGCHLD, handler)
    try:
        process = await create("/bin/sh", "-c", "exit 4")
        assert await process.wait() == 4
        await until(lambda: got)
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, previous)


# ------------------------------------------------------------------------------------------------------- threads, loops


def test_a_loop_in_another_thread(loop_factory):
    results = []

    async def main():
        process = await create("/bin/cat", stdin=PIPE, stdout=PIPE)
        results.append(await process.communicate(b"from a thread"))
        killed = await create("/bin/sleep", "1000")
        killed.kill()
        results.append(await killed.wait())

    def run():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=repr) == [(b"from a thread", None)] * 3 + [-9] * 3


def test_several_loops_in_turn(loop_factory):
    async def main():
        process = await create("/bin/sh", "-c", "exit 6")
        return await process.wait()

    for _ in range(3):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(main()) == 6
            assert runner.run(main()) == 6


def printed(kind, code):
    """Return what a program printed; a thread that waits for children may log that the loop is closed."""
    if not waits_in_a_thread(kind):
        return run_program(kind, code)
    with program(kind, code) as process:
        out, _ = process.communicate(timeout=25)
    assert process.returncode == 0
    return out


def test_closing_the_loop_with_a_child_running(loop_kind):
    """That alone does not end the child."""
    out = printed(
        loop_kind,
        """
        async def main():
            return await asyncio.create_subprocess_exec("/bin/sleep", "1000")
        loop = new_event_loop()
        process = loop.run_until_complete(main())
        loop.close()
        os.kill(process.pid, 0)
        print(process.returncode, flush=True)
        os.kill(process.pid, signal.SIGTERM)
        try:
            print(os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1]), flush=True)
        except ChildProcessError:
            print(-15, flush=True)
        os._exit(0)
        """,
    )
    assert out == "None\n-15\n"


@pytest.mark.loopfast_only("asyncio 3.11 waits in a thread, which holds the transport", when=sys.version_info < (3, 12))
def test_a_child_that_nobody_waited_for(loop_kind):
    """It is killed when its transport is collected."""
    out = printed(
        loop_kind,
        """
        async def main():
            process = await asyncio.create_subprocess_exec("/bin/sleep", "1000")
            return process.pid
        pid = run(main())
        gc.collect()
        try:
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        except ChildProcessError:
            print(-9)
        """,
    )
    assert out == "-9\n"

"""uv.Loop.of(): handles of one's own on a loop that asyncio runs."""

from __future__ import annotations

import asyncio
import gc
import os
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


def run(main: Any) -> Any:
    with asyncio.Runner(loop_factory=loopfast.new_event_loop) as runner:
        return runner.run(main())


@pytest.fixture
def aloop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = loopfast.new_event_loop()
    yield loop
    if not loop.is_closed():
        loop.close()


def test_it_is_always_the_same_loop(aloop: Any) -> None:
    loop = uv.Loop.of(aloop)
    assert uv.Loop.of(aloop) is loop and isinstance(loop, uv.Loop)
    assert loop.pointer == uv.loop_pointer(aloop)

    async def main() -> None:
        assert uv.Loop.of() is loop and loop.running

    aloop.run_until_complete(main())
    assert not loop.running


def test_what_it_refuses(aloop: Any) -> None:
    loop = uv.Loop.of(aloop)
    for call in (loop.run, loop.stop, loop.close, loop.fork, loop.__enter__):
        with pytest.raises(RuntimeError, match="asyncio|loop"):
            call()
    with pytest.raises(RuntimeError, match="options"):
        loop.configure(uv.LoopOption.METRICS_IDLE_TIME)
    with pytest.raises(RuntimeError, match="no running event loop"):
        uv.Loop.of()
    other = asyncio.SelectorEventLoop()
    with pytest.raises(TypeError, match="SelectorEventLoop"):
        uv.Loop.of(other)
    other.close()
    with pytest.raises(TypeError, match=r"Loop\.of"):
        uv.Timer(aloop)
    aloop.close()
    with pytest.raises(RuntimeError, match="closed"):
        uv.Loop.of(aloop)
    loop.close()


def test_an_echo_server_beside_asyncio() -> None:
    async def main() -> None:
        def on_read(client: uv.TCP, data: bytes, error: Exception | None) -> None:
            if error is None:
                client.write(data)
            else:
                client.close()

        server = uv.TCP(uv.Loop.of())
        server.bind(("127.0.0.1", 0))
        server.listen(lambda server, error: server.accept().read_start(on_read))
        reader, writer = await asyncio.open_connection(*server.getsockname())
        for size in (1, 1000, 1_000_000):
            writer.write(b"x" * size)
            assert await reader.readexactly(size) == b"x" * size
        writer.close()
        await writer.wait_closed()
        server.close()

    run(main)


def test_callbacks_may_use_the_asyncio_loop_although_it_was_waiting() -> None:
    """The poll has let go of the GIL: a callback must not be taken for another thread."""

    async def main() -> None:
        aloop = asyncio.get_running_loop()
        done = aloop.create_future()
        ours, theirs = uv.pipe(uv.PipeFlag.NONBLOCK, uv.PipeFlag.NONBLOCK)
        other_ours, other_theirs = uv.pipe(uv.PipeFlag.NONBLOCK, uv.PipeFlag.NONBLOCK)

        class Receiver(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                done.set_result(data)

        receiver = await aloop.create_server(Receiver, "127.0.0.1", 0)
        transport, _ = await aloop.create_connection(asyncio.Protocol, *receiver.sockets[0].getsockname())

        def on_poll(poll: uv.Poll, events: uv.PollEvent, error: Exception | None) -> None:
            assert os.read(ours, 10) == b"!"
            poll.close()
            aloop.add_reader(other_ours, lambda: None)
            aloop.remove_reader(other_ours)
            assert asyncio.get_running_loop() is aloop
            transport.write(b"from a libuv callback")

        uv.Poll(uv.Loop.of(), ours).start(on_poll, uv.PollEvent.READABLE)
        aloop.set_debug(True)
        threading.Timer(0.05, os.write, (theirs, b"!")).start()
        async with asyncio.timeout(10):
            assert await done == b"from a libuv callback"
        transport.close()
        receiver.close()
        for fd in (ours, theirs, other_ours, other_theirs):
            os.close(fd)

    run(main)


def test_exceptions_go_to_the_exception_handler() -> None:
    async def main() -> list[dict[str, Any]]:
        aloop, reports = asyncio.get_running_loop(), []
        aloop.set_exception_handler(lambda _, context: reports.append(context))
        loop = uv.Loop.of()

        def fail(*_: Any) -> None:
            raise ZeroDivisionError("in a callback")

        timer = uv.Timer(loop)
        timer.start(fail, 0)
        uv.Idle(loop).close(fail)
        uv.queue_work(loop, lambda: 1 // 0)
        uv.queue_work(loop, lambda: 1, fail)
        async with asyncio.timeout(10):
            while len(reports) < 4:
                await asyncio.sleep(0.001)
        return reports

    reports = run(main)
    assert {type(report["exception"]) for report in reports} == {ZeroDivisionError}
    assert sum("fail" in report["message"] for report in reports) == 3


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_leave_run_forever(aloop: Any, kind: Any) -> None:
    def fail(timer: uv.Timer) -> None:
        raise kind("out")

    uv.Timer(uv.Loop.of(aloop)).start(fail, 0)
    with pytest.raises(kind, match="out"):
        aloop.run_forever()

    def worse(loop: Any, context: dict[str, Any]) -> None:
        raise kind("worse")

    def harmless(timer: uv.Timer) -> None:
        raise ValueError

    aloop.set_exception_handler(worse)
    uv.Timer(uv.Loop.of(aloop)).start(harmless, 0)
    with pytest.raises(kind, match="worse"):
        aloop.run_forever()


def test_other_threads_are_refused() -> None:
    async def main() -> None:
        loop = uv.Loop.of()
        timer = uv.Timer(loop)

        def use() -> None:
            for call in (timer.stop, timer.close, lambda: uv.TCP(loop), loop.walk):
                with pytest.raises(RuntimeError, match="thread"):
                    call()

        await asyncio.to_thread(use)
        woken = asyncio.get_running_loop().create_future()
        wake = uv.Async(loop, lambda _: woken.done() or woken.set_result(threading.get_ident()))
        await asyncio.to_thread(wake.send)
        async with asyncio.timeout(10):
            assert await woken == threading.get_ident()

    run(main)


def test_a_loop_that_runs_in_another_thread_than_it_was_made_in(aloop: Any) -> None:
    loop = uv.Loop.of(aloop)
    timer = uv.Timer(loop)
    fired: list[int] = []

    async def main() -> None:
        timer.start(lambda _: fired.append(threading.get_ident()), 0)
        while not fired:
            await asyncio.sleep(0.001)

    thread = threading.Thread(target=aloop.run_until_complete, args=(main(),))
    thread.start()
    thread.join(30)
    assert fired == [thread.ident]
    timer.close()


def test_handles_that_are_left_close_with_the_loop() -> None:
    """All kinds at once, active ones, with requests pending, some of them in the thread pool."""
    closed: list[Any] = []
    results: list[Any] = []

    async def main() -> list[uv.Handle]:
        loop = uv.Loop.of()
        timer, wake, prepare, check, idle = (
            uv.Timer(loop),
            uv.Async(loop, print),
            uv.Prepare(loop),
            uv.Check(loop),
            uv.Idle(loop),
        )
        timer.start(print, 100_000)
        prepare.start(lambda _: None)
        check.start(lambda _: None)
        idle.start(lambda _: None)
        server = uv.TCP(loop)
        server.bind(("127.0.0.1", 0))
        server.listen(lambda server, error: server.accept())
        client = uv.TCP(loop)
        client.connect(server.getsockname(), lambda client, error: results.append(error))
        client.write(b"x" * 10_000_000, lambda client, error: results.append(error))
        udp = uv.UDP(loop)
        udp.bind(("127.0.0.1", 0))
        udp.recv_start(print)
        ends = uv.socketpair()
        pipe = uv.Pipe(loop)
        pipe.open(ends[0])
        pipe.read_start(print)
        poll = uv.Poll(loop, ends[1])
        poll.start(print, uv.PollEvent.READABLE)
        signal = uv.Signal(loop)
        signal.start(print, 10)
        fs_event, fs_poll = uv.FSEvent(loop), uv.FSPoll(loop)
        fs_event.start(print, "/")
        fs_poll.start(print, "/", 1000)
        process = uv.Process(loop, [sys.executable, "-c", "import time; time.sleep(0.2)"])
        uv.queue_work(loop, lambda: 1, lambda *args: results.append(args))
        uv.fs.stat("/", loop=loop, callback=lambda *args: results.append(args))
        uv.getaddrinfo("127.0.0.1", loop=loop, callback=lambda *args: results.append(args))
        asyncio.get_running_loop().call_soon(lambda: timer.close(closed.append))
        await asyncio.sleep(0)
        handles = [timer, wake, prepare, check, idle, server, client, udp, pipe, poll, signal]
        os.close(ends[1])
        return [*handles, fs_event, fs_poll, process]

    aloop = loopfast.new_event_loop()
    handles = aloop.run_until_complete(main())
    loop = uv.Loop.of(aloop)
    aloop.close()
    assert loop.closed and all(handle.closing for handle in handles)
    assert closed == [handles[0]]
    assert any(isinstance(result, OSError) for result in results), "writes are cancelled"
    for handle in handles:
        handle.close()
        with pytest.raises(RuntimeError):
            handle.ref()
        assert "clos" in repr(handle)
    with pytest.raises(RuntimeError, match="closed"):
        handles[1].send()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="closed"):
        uv.Timer(loop)


def test_a_function_in_the_pool_outlives_the_loop() -> None:
    began, go, results = threading.Event(), threading.Event(), []
    aloop = loopfast.new_event_loop()

    def work() -> None:
        began.set()
        results.append(go.wait(30))

    uv.queue_work(uv.Loop.of(aloop), work, lambda result, error: results.append(error))
    began.wait()
    aloop.close()
    gc.collect()
    go.set()
    while not results:
        uv.sleep(1)
    assert results == [True]


def test_close_callbacks_of_a_closing_loop_may_do_anything() -> None:
    seen: list[Any] = []
    aloop = loopfast.new_event_loop()
    loop = uv.Loop.of(aloop)

    def on_close(timer: uv.Timer) -> None:
        for call in (lambda: uv.Timer(loop), lambda: aloop.call_soon(print), lambda: uv.Loop.of(aloop)):
            with pytest.raises(RuntimeError, match="closed"):
                call()
        seen.append(timer)
        raise ZeroDivisionError("reported all the same")

    reports: list[Any] = []
    aloop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
    timer = uv.Timer(loop)
    timer.close(on_close)
    aloop.close()
    assert seen == [timer] and [type(report) for report in reports] == [ZeroDivisionError]


def test_dropped_loops_are_collected() -> None:
    aloop = loopfast.new_event_loop()
    loop = uv.Loop.of(aloop)
    timer = uv.Timer(loop)
    timer.start(lambda _, holds=aloop: holds, 1000)
    aloop.close()
    gone = weakref.ref(aloop), weakref.ref(loop), weakref.ref(timer)
    del aloop, loop, timer
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]

    aloop = loopfast.new_event_loop()
    timer = uv.Timer(uv.Loop.of(aloop))
    timer.start(print, 1000)
    gone = weakref.ref(aloop), weakref.ref(timer), weakref.ref(uv.Loop.of(aloop))
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del aloop
        gc.collect()
    assert gone[0]() is None
    with pytest.raises(RuntimeError):
        timer.start(print, 1)
    del timer
    gc.collect()
    assert gone[1]() is None and gone[2]() is None


def test_handles_dropped_at_once() -> None:
    async def main() -> None:
        loop = uv.Loop.of()
        fired = [asyncio.get_running_loop().create_future()]
        for kind in (uv.Timer, uv.TCP, uv.UDP, uv.Pipe, uv.Idle, uv.Check, uv.Prepare, uv.Signal, uv.FSEvent):
            kind(loop)
        uv.Timer(loop).start(lambda timer: fired[0].set_result(timer), 1)
        gc.collect()
        timer = await fired[0]
        assert isinstance(timer, uv.Timer) and not timer.active
        del timer
        fired.clear()
        await asyncio.sleep(0.01)
        assert loop.walk() == []

    run(main)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork() is POSIX's")
def test_a_forked_child_must_make_a_loop_of_its_own() -> None:
    program = """
import asyncio, os
import loopfast
from loopfast import uv
aloop = loopfast.new_event_loop()
loop = uv.Loop.of(aloop)
timer = uv.Timer(loop)
server = uv.TCP(loop)
server.bind(("127.0.0.1", 0))
accepted = aloop.create_future()
server.listen(lambda server, error: accepted.set_result(server.accept()))
child = os.fork()
if child == 0:
    for call in (timer.close, server.close, lambda: uv.Timer(loop), loop.walk):
        try:
            call()
        except RuntimeError as exc:
            assert "make a new asyncio loop" in str(exc)
        else:
            os._exit(3)
    aloop.close()
    del timer, server
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
async def main():
    reader, writer = await asyncio.open_connection(*server.getsockname())
    await accepted
    writer.close()
aloop.run_until_complete(main())
aloop.close()
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stdout + done.stderr


def test_another_thread_drops_transports_while_this_one_is_in_libuv() -> None:
    """cffi lets go of the GIL around each call: the calls into a loop take it back, or the two would meet in libuv."""

    async def main() -> None:
        aloop, loop = asyncio.get_running_loop(), uv.Loop.of()
        end = threading.Event()
        transports: list[Any] = []

        def drop() -> None:
            while not end.is_set():
                if transports:
                    transports.pop()

        server = await aloop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        thread = threading.Thread(target=drop)
        thread.start()
        timers = [uv.Timer(loop) for _ in range(100)]
        for _ in range(100):
            transport, _ = await aloop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
            transport.pause_reading()
            transports.append(transport)
            del transport
            for timer in timers:
                timer.start(lambda _: None, 50)
                timer.stop()
        end.set()
        thread.join()
        server.close()

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main)
        gc.collect()

"""Loops in several threads that call into each other: with the GIL and, on the free-threaded build, without it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import LOCALHOST

THREADS = 4
pytestmark = pytest.mark.timeout(60)
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
free_threaded_only = pytest.mark.skipif(not FREE_THREADED, reason="the build has a GIL")


def run_threads(targets: list[Callable[[], Any]]) -> None:
    """Run each in a thread, started together; raise what one of them raised."""
    barrier = threading.Barrier(len(targets))
    failures: list[BaseException] = []

    def run(target: Callable[[], Any]) -> None:
        try:
            barrier.wait()
            target()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def many_loops(make: Callable[[], asyncio.AbstractEventLoop], count: int = THREADS):
    """Yield loops that run, each in a thread of its own."""
    loops = [make() for _ in range(count)]
    running = threading.Semaphore(0)

    def run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.call_soon(running.release)
        loop.run_forever()

    threads = [threading.Thread(target=run, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for _ in loops:
        running.acquire()
    try:
        yield loops
    finally:
        for loop in loops:
            loop.call_soon_threadsafe(loop.stop)
        for thread in threads:
            thread.join()
        for loop in loops:
            loop.close()


def in_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], Any]) -> Any:
    """Call *function* in the thread of *loop*; return what it returns."""

    async def call() -> Any:
        return function()

    return asyncio.run_coroutine_threadsafe(call(), loop).result()


def test_loops_that_call_into_each_other(loop_factory):
    """Every call arrives exactly once, and those of one thread in their order."""
    calls = 500
    with many_loops(loop_factory) as loops:
        received: dict[tuple[int, int], list[int]] = {(i, j): [] for i in range(THREADS) for j in range(THREADS)}
        done = threading.Semaphore(0)

        def send(sender: int, number: int) -> None:
            for receiver, other in enumerate(loops):
                other.call_soon_threadsafe(received[sender, receiver].append, number)
            if number + 1 < calls:
                loops[sender].call_soon(send, sender, number + 1)
            else:
                for other in loops:
                    other.call_soon_threadsafe(done.release)

        for i, loop in enumerate(loops):
            loop.call_soon_threadsafe(send, i, 0)
        for _ in range(THREADS * THREADS):
            done.acquire()
    assert all(numbers == list(range(calls)) for numbers in received.values())


def test_a_coroutine_that_hops_from_loop_to_loop(loop_factory):
    with many_loops(loop_factory) as loops:

        async def hop(left: int) -> int:
            if left == 0:
                return 0
            other = loops[left % THREADS]
            if other is asyncio.get_running_loop():
                return 1 + await hop(left - 1)
            return 1 + await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hop(left - 1), other))

        futures = [asyncio.run_coroutine_threadsafe(hop(60), loop) for loop in loops for _ in range(5)]
        assert [future.result() for future in futures] == [60] * len(futures)


def test_each_thread_serves_and_connects(loop_factory):
    """Servers and clients of every loop at once, over real sockets, each client with a server of another thread."""
    rounds = 100
    ports: list[int] = [0] * THREADS
    barrier = threading.Barrier(THREADS)

    async def main(index: int) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, LOCALHOST, 0)
        ports[index] = server.sockets[0].getsockname()[1]
        await asyncio.to_thread(barrier.wait)

        async def client(port: int) -> None:
            reader, writer = await asyncio.open_connection(LOCALHOST, port)
            for number in range(rounds):
                line = b"%d %s\n" % (number, b"x" * (number * 37 % 5000))
                writer.write(line)
                assert await reader.readline() == line
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(client(ports[(index + shift) % THREADS]) for shift in range(THREADS)))
        await asyncio.to_thread(barrier.wait)
        server.close()
        await server.wait_closed()

    def run(index: int) -> None:
        loop = loop_factory()
        try:
            loop.run_until_complete(main(index))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    run_threads([lambda index=index: run(index) for index in range(THREADS)])


def test_loops_made_and_closed_in_many_threads(loop_factory):
    def work() -> None:
        for _ in range(20):
            loop = loop_factory()
            timer = loop.call_later(3600, print)
            loop.call_later(0.0001, loop.stop)
            loop.run_forever()
            timer.cancel()
            loop.close()

    run_threads([work] * THREADS)


def test_calls_that_race_with_the_end_of_a_loop(loop_factory):
    """They run, are dropped, or raise that the loop is closed."""
    for _ in range(10):
        loop = loop_factory()
        ran: list[int] = []

        def call(loop=loop, ran=ran) -> None:
            with contextlib.suppress(RuntimeError):
                for number in range(1_000_000):
                    loop.call_soon_threadsafe(ran.append, number)

        def run(loop=loop) -> None:
            loop.call_later(0.001, loop.stop)
            loop.run_forever()
            loop.close()

        run_threads([run, call, call])
        assert loop.is_closed()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.call_soon_threadsafe(print)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="handles are safe to cancel from other threads from 3.14 on")
def test_a_call_cancelled_by_another_thread_does_not_run_afterwards(loop_factory):
    with many_loops(loop_factory, 1) as [loop]:

        class Call:
            def __init__(self) -> None:
                self.cancelled = False
                self.ran = False

            def __call__(self) -> None:
                assert not self.cancelled
                self.ran = True

        wrong: list[Any] = []
        loop.call_soon_threadsafe(loop.set_exception_handler, lambda loop, context: wrong.append(context))

        def work() -> None:
            for number in range(1000):
                call = Call()
                handle = loop.call_soon_threadsafe(call)
                for _ in range(number % 7):
                    pass
                handle.cancel()
                call.cancelled = True
                assert handle.cancelled()

        run_threads([work] * THREADS)
        in_loop(loop, lambda: None)
        assert wrong == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_transports_dropped_by_another_thread(loop_factory):
    """The last reference goes where the loop does not run, or the cyclic collector runs there."""
    connections = 12
    with many_loops(loop_factory, 2) as loops, socket.create_server((LOCALHOST, 0), backlog=connections) as listener:

        async def connect() -> asyncio.BaseTransport:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, *listener.getsockname())
            # A transport that reads is held by its loop.
            transport.pause_reading()
            return transport

        def work(loop: asyncio.AbstractEventLoop) -> None:
            for number in range(connections // 2):
                transport = asyncio.run_coroutine_threadsafe(connect(), loop).result()
                peer = listener.accept()[0]
                with peer:
                    if number % 2:
                        cycle = [transport]
                        cycle.append(cycle)
                        del cycle
                    del transport
                    gc.collect()
                    in_loop(loop, lambda: None)
                    if not loop_is_native(loop):
                        continue
                    peer.settimeout(0.1)
                    while True:
                        # The task that made it may have been there at the first look.
                        gc.collect()
                        with contextlib.suppress(TimeoutError):
                            assert peer.recv(1) == b""
                            break

        for loop in loops:
            work(loop)


def loop_is_native(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).__module__.partition(".")[0] == "loopfast"


def test_timers_of_another_thread_can_be_cancelled(loop_factory):
    """As asyncio's can, which only marks them."""
    with many_loops(loop_factory, 1) as [loop]:
        ran: list[int] = []
        rng = random.Random(7)

        def make() -> list[asyncio.TimerHandle]:
            # Some are due before they are cancelled, some never.
            return [loop.call_later(rng.random() * (0.01, 3600)[n % 2] + n % 2, ran.append, n) for n in range(200)]

        for _ in range(5):
            for timer in in_loop(loop, make):
                timer.cancel()
                assert timer.cancelled()
        late = threading.Event()
        loop.call_soon_threadsafe(loop.call_later, 0.02, late.set)
        late.wait()
        assert [number for number in ran if number % 2] == []


@free_threaded_only
@pytest.mark.loopfast_only("asyncio looks at the thread in debug mode only")
@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at", "add_reader"])
def test_what_is_not_thread_safe_is_refused_while_the_loop_runs_elsewhere(loop_factory, method):
    arguments: dict[str, tuple[Any, ...]] = {
        "call_soon": (print,),
        "call_later": (1, print),
        "call_at": (1, print),
        "add_reader": (0, print),
    }
    with many_loops(loop_factory, 1) as [loop], pytest.raises(RuntimeError, match="Non-thread-safe operation"):
        getattr(loop, method)(*arguments[method])


@pytest.mark.loopfast_only("a transport of asyncio's is not safe to use from another thread")
def test_writes_of_other_threads_arrive_whole(loop_factory):
    calls = 200
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with many_loops(loop_factory, 1) as [loop], theirs:
        lost = threading.Event()

        class Protocol(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                lost.set()

        async def connect() -> Any:
            return (await asyncio.get_running_loop().create_connection(Protocol, sock=ours))[0]

        transport = asyncio.run_coroutine_threadsafe(connect(), loop).result()

        def work(name: bytes) -> None:
            for _ in range(calls):
                transport.write(name * 10 + b"\n")

        received = bytearray()

        def receive() -> None:
            while received.count(b"\n") < 3 * calls and (data := theirs.recv(65536)):
                received.extend(data)

        run_threads([receive, *(lambda name=name: work(name) for name in (b"a", b"b", b"c"))])
        lines = bytes(received).split()
        assert sorted(lines) == sorted([name * 10 for name in (b"a", b"b", b"c")] * calls)
        transport.close()
        lost.wait()


@free_threaded_only
@pytest.mark.loopfast_only("asyncio is part of the interpreter")
def test_no_module_turns_the_gil_on(loop_kind):
    code = "import sys, loopfast, loopfast.uv, loopfast.fs; print(sys._is_gil_enabled())"
    without = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=without, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("False\n", "")

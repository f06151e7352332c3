"""Loops in several threads that call each other: the program that `make tsan` runs, and `make test` a little of.

    python tests/sanitize/threads.py --threads 4 --rounds 20 [scenario ...]

Each scenario checks what it can count. What the sanitizer sees is its own business.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import contextvars
import faulthandler
import gc
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import loopfast
import loopfast.fs

# Seconds, of one scenario.
HANG = 300
LOCALHOST = "127.0.0.1"
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)
SCENARIOS: dict[str, Callable[[int, int], None]] = {}


def scenario(function: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """A scenario takes the number of threads and of rounds."""
    SCENARIOS[function.__name__] = function
    return function


class LoopThread(threading.Thread):
    """A thread that runs a loop until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = threading.Event()
        self.loop: Any = None

    def run(self) -> None:
        self.loop = loopfast.new_event_loop()
        self.loop.call_soon(self.ready.set)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)


@contextlib.contextmanager
def loops(count: int) -> Iterator[list[LoopThread]]:
    """So many running loops."""
    threads = [LoopThread() for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        assert thread.ready.wait(HANG)
    yield threads
    for thread in threads:
        thread.loop.call_soon_threadsafe(thread.loop.stop)
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive(), "a loop did not stop"


def in_threads(count: int, function: Callable[[int], Any]) -> None:
    """Call *function* with the number of each thread, in all of them at once; raise what one of them raised."""
    start = threading.Barrier(count)

    def work(number: int) -> Any:
        start.wait()
        return function(number)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, number) for number in range(count)]:
            future.result(HANG)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=loopfast.new_event_loop) as runner:
        return runner.run(main)


# --------------------------------------------------------------------------------------------------- loops of their own


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Pinging(asyncio.Protocol):
    """Sends, waits for the echo, sends again."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds
        self.size = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"x" * 1000)

    def data_received(self, data: bytes) -> None:
        self.size += len(data)
        if self.size == 1000:
            self.size = 0
            self.left -= 1
            if self.left:
                self.transport.write(b"x" * 1000)
            else:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(self.left)


async def echoes(rounds: int, **options: Any) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, LOCALHOST, 0, **({"ssl": options["server"]} if options else {}))
    address = server.sockets[0].getsockname()
    client: Any = {"ssl": options["client"], "server_hostname": "localhost"} if options else {}
    ends = await asyncio.gather(
        *(loop.create_connection(lambda: Pinging(rounds), *address, **client) for _ in range(5))
    )
    for _, protocol in ends:
        assert await protocol.done == 0
    server.close()


@scenario
def tcp(threads: int, rounds: int) -> None:
    """A server and clients on each loop."""
    in_threads(threads, lambda number: run(echoes(rounds)))


@scenario
def tls(threads: int, rounds: int) -> None:
    """The same, with contexts that the threads share."""
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("cert.pem", "key.pem")]
        subprocess.run(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
            f"-addext subjectAltName=DNS:localhost -out {files[0]} -keyout {files[1]}".split(),
            check=True,
            capture_output=True,
        )
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*files)
        client = ssl.create_default_context(cafile=files[0])
        in_threads(threads, lambda number: run(echoes(rounds, server=server, client=client)))


@scenario
def timers(threads: int, rounds: int) -> None:
    """Timers and callbacks, cancelled and run."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(rounds * 5):
            calls: list[int] = []
            handles = [loop.call_later(0.0001 * n, calls.append, n) for n in range(20)]
            for handle in handles[::2]:
                handle.cancel()
            await asyncio.gather(*(asyncio.sleep(0.0001 * n) for n in range(10)))
            await asyncio.sleep(0.003)
            assert calls == list(range(1, 20, 2))

    in_threads(threads, lambda number: run(main()))


@scenario
def datagrams(threads: int, rounds: int) -> None:
    class Answering(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    class Asking(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.answers: asyncio.Queue[bytes] = asyncio.Queue()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.answers.put_nowait(data)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, _ = await loop.create_datagram_endpoint(Answering, local_addr=(LOCALHOST, 0))
        address = one.get_extra_info("sockname")
        other, asking = await loop.create_datagram_endpoint(Asking, remote_addr=address)
        for number in range(rounds * 5):
            other.sendto(b"%d" % number)
            assert await asking.answers.get() == b"%d" % number
        one.close()
        other.close()
        await asyncio.sleep(0)

    in_threads(threads, lambda number: run(main()))


@scenario
def sockets(threads: int, rounds: int) -> None:
    """sock_* calls, streams, readers and writers."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        with one, other:
            for sock in (one, other):
                sock.setblocking(False)
            for _ in range(rounds):
                waiting = asyncio.ensure_future(loop.sock_recv(one, 100))
                await asyncio.sleep(0)
                await loop.sock_sendall(other, b"data")
                assert await waiting == b"data"
                event = asyncio.Event()
                loop.add_reader(one, event.set)
                loop.add_writer(other, event.set)
                await event.wait()
                assert loop.remove_writer(other)
                assert loop.remove_reader(one)
        one, other = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=one)
        far_reader, far_writer = await asyncio.open_connection(sock=other)
        for _ in range(rounds):
            writer.write(b"line\n" * 100)
            await writer.drain()
            for _ in range(100):
                assert await far_reader.readline() == b"line\n"
            far_writer.write(b"x" * 50)
            assert await reader.readexactly(50) == b"x" * 50
        for end in (writer, far_writer):
            end.close()
            await end.wait_closed()

    in_threads(threads, lambda number: run(main()))


@scenario
def made_and_closed(threads: int, rounds: int) -> None:
    """Loops made, run once and closed at the same time, with the collector at work."""

    def work(number: int) -> None:
        for turn in range(rounds):
            loop = loopfast.new_event_loop()
            loop.call_soon(loop.stop)
            loop.run_forever()
            if turn % 2:
                loop.close()
            else:
                # Dropped as it is, after its descriptors.
                loop.close()
                del loop
                gc.collect()

    in_threads(threads, work)


@scenario
def names(threads: int, rounds: int) -> None:
    """The default executor, and the resolver in it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(rounds):
            found = await asyncio.gather(
                loop.getaddrinfo("localhost", 80), loop.run_in_executor(None, int, "5"), loop.getaddrinfo(LOCALHOST, 80)
            )
            assert found[1] == 5

    in_threads(threads, lambda number: run(main()))


@scenario
def files(threads: int, rounds: int) -> None:
    """Files of every loop, requests that other threads give up, and files that they drop."""
    with tempfile.TemporaryDirectory() as folder, loops(threads) as others:

        async def write_and_read(name: str) -> None:
            for n in range(rounds):
                async with loopfast.fs.open(name, "w+b") as file:
                    await file.write(b"%d" % n * 1000)
                    await file.seek(0)
                    assert await file.read() == b"%d" % n * 1000
                    # More than one turn may do at once.
                    found = await asyncio.gather(*(file.pread(10, n) for n in range(40)))
                    assert len(set(map(len, found))) == 1
                await loopfast.fs.stat(name)
                assert os.path.basename(name) in await loopfast.fs.listdir(folder)

        async def begin(name: str) -> Any:
            """A request that goes on, a file with one in flight, and a file at rest."""
            request = loopfast.fs.stat(name)
            request.send(None)
            busy = await loopfast.fs.open(name, "rb", buffering=0)
            reading = asyncio.ensure_future(busy.read())
            await asyncio.sleep(0)
            reading.cancel()
            rest = await loopfast.fs.open(name, "rb")
            return request, busy, rest

        def work(number: int) -> None:
            name = os.path.join(folder, str(number))
            own, other = others[number], others[(number + 1) % threads]
            written = own.do(write_and_read(name))
            for _ in range(rounds):
                request, busy, rest = other.do(begin(__file__)).result(HANG)
                request.close()
                del busy, rest
            written.result(HANG)

        warnings.simplefilter("ignore", ResourceWarning)
        in_threads(threads, work)


@scenario
def statistics(threads: int, rounds: int) -> None:
    """What there is on a loop, asked by others while connections come and go, and while it is closed."""

    async def main() -> None:
        for _ in range(max(1, rounds // 5)):
            await echoes(2)

    def work(number: int) -> None:
        if number:
            while not ended.is_set():
                for other in others:
                    assert other.statistics().time > 0
        else:
            try:
                for loop in others:
                    loop.run_until_complete(main())
                    loop.close()
            finally:
                ended.set()

    others = [loopfast.new_event_loop() for _ in range(2)]
    ended = threading.Event()
    in_threads(max(2, threads), work)
    for loop in others:
        assert loop.statistics().accepted == 5 * max(1, rounds // 5)


@scenario
def children(threads: int, rounds: int) -> None:
    """Subprocesses of every loop."""

    async def main() -> None:
        for _ in range(max(1, rounds // 5)):
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec("/bin/cat", stdin=pipe, stdout=pipe)
            out, _ = await process.communicate(b"data")
            assert out == b"data" and process.returncode == 0

    in_threads(threads, lambda number: run(main()))


# ------------------------------------------------------------------------------------------------ calls between threads


@scenario
def calls(threads: int, rounds: int) -> None:
    """Every call from every thread runs exactly once, and those of one thread in order."""
    with loops(threads) as others:
        found: list[list[tuple[int, int]]] = [[] for _ in others]
        count = rounds * 50

        def work(number: int) -> None:
            for n in range(count):
                for log, other in zip(found, others, strict=True):
                    other.loop.call_soon_threadsafe(log.append, (number, n))

        in_threads(threads, work)
        for other in others:
            other.do(asyncio.sleep(0)).result(HANG)
        for log in found:
            for number in range(threads):
                assert [n for who, n in log if who == number] == list(range(count))


@scenario
def calls_in_contexts(threads: int, rounds: int) -> None:
    """One context shared by the calls of all threads; handles cancelled by whoever made them."""
    with loops(2) as others:
        ran: list[int] = []

        def work(number: int) -> None:
            VARIABLE.set(number)
            context = contextvars.copy_context()
            for n in range(rounds * 20):
                other = others[n % 2].loop
                handle = other.call_soon_threadsafe(lambda: ran.append(VARIABLE.get()), context=context.copy())
                if n % 3 == 0:
                    handle.cancel()
                    assert handle.cancelled()
                repr(handle)

        in_threads(threads, work)
        for other in others:
            other.do(asyncio.sleep(0)).result(HANG)
        assert threads * rounds * 20 // 2 <= len(ran) <= threads * rounds * 20


@scenario
def coroutines(threads: int, rounds: int) -> None:
    """run_coroutine_threadsafe() in all directions, with results, exceptions and cancellation."""
    with loops(threads) as others:

        async def answer(n: int) -> int:
            await asyncio.sleep(0.0001 * (n % 3))
            if n % 7 == 0:
                raise LookupError(n)
            return n

        def work(number: int) -> None:
            for n in range(rounds * 5):
                other = others[(number + n) % threads]
                future = other.do(answer(n))
                if n % 5 == 0:
                    future.cancel()
                try:
                    assert future.result(HANG) == n
                except LookupError:
                    assert n % 7 == 0
                except concurrent.futures.CancelledError:
                    assert n % 5 == 0

        in_threads(threads, work)

        async def ask_all(n: int) -> int:
            """From loop to loop."""
            asked = [asyncio.wrap_future(other.do(asyncio.sleep(0, n))) for other in others]
            return sum(await asyncio.gather(*asked))

        for _ in range(rounds):
            asked = [other.do(ask_all(1)) for other in others]
            assert [future.result(HANG) for future in asked] == [threads] * threads


@scenario
def ping_pong(threads: int, rounds: int) -> None:
    """Two loops that wake each other out of their sleep."""
    with loops(2) as (one, other):
        done = threading.Event()
        left = [rounds * 50]

        def ping(here: Any, there: Any) -> None:
            left[0] -= 1
            if left[0] > 0:
                there.call_soon_threadsafe(ping, there, here)
            else:
                done.set()

        one.loop.call_soon_threadsafe(ping, one.loop, other.loop)
        assert done.wait(HANG)


@scenario
def closing(threads: int, rounds: int) -> None:
    """A loop is closed while the others call it: each call runs once, or raises, or is dropped with the loop."""
    for _ in range(rounds):
        loop = loopfast.new_event_loop()
        ran: list[int] = []
        accepted = [0] * threads
        stopped = threading.Event()

        def work(
            number: int, loop: Any = loop, ran: Any = ran, accepted: Any = accepted, stopped: Any = stopped
        ) -> None:
            if number == 0:
                loop.call_later(0.002, loop.stop)
                loop.run_forever()
                loop.close()
                stopped.set()
                return
            with contextlib.suppress(RuntimeError):
                while not stopped.is_set():
                    loop.call_soon_threadsafe(ran.append, number)
                    accepted[number] += 1

        in_threads(threads, work)
        assert len(ran) <= sum(accepted)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ran.append, 0)
            raise AssertionError("a closed loop took a call")


@scenario
def stopping(threads: int, rounds: int) -> None:
    """A loop stopped by others, again and again."""
    loop = loopfast.new_event_loop()
    turns = rounds * 10

    def work(number: int) -> None:
        if number == 0:
            for _ in range(turns):
                loop.run_forever()
            finished.set()
            return
        while not finished.is_set():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(loop.stop)
            loop.is_running()
            loop.time()
            repr(loop)
            time.sleep(0.0001)

    finished = threading.Event()
    in_threads(max(2, threads), work)
    loop.close()


@scenario
def foreign_hands(threads: int, rounds: int) -> None:
    """Transports and handles that another thread uses and drops: nothing is lost of what is written."""
    for _ in range(max(1, rounds // 5)):
        with loops(1) as (owner,):
            one, other = socket.socketpair()
            one.setblocking(False)

            async def connect(one: Any = one) -> Any:
                transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=one)
                return transport

            transport = owner.do(connect()).result(HANG)

            def work(number: int, transport: Any = transport, owner: Any = owner) -> None:
                for n in range(50):
                    transport.write(b"%d" % number)
                    transport.get_write_buffer_size()
                    transport.is_closing()
                    transport.get_extra_info("peername")
                    handle = owner.loop.call_soon_threadsafe(int)
                    del handle
                    if n % 10 == 0:
                        gc.collect()

            in_threads(threads, work)
            owner.loop.call_soon_threadsafe(transport.close)
            received = b""
            while data := other.recv(1 << 16):
                received += data
            other.close()
            assert sorted(received) == sorted(b"".join(b"%d" % number * 50 for number in range(threads)))


@scenario
def signals(threads: int, rounds: int) -> None:
    """Signals that threads send, handled by the main thread's loop, beside loops of the threads."""
    count = rounds * 5

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen = 0
        event = asyncio.Event()

        def handle() -> None:
            nonlocal seen
            seen += 1
            event.set()

        loop.add_signal_handler(signal.SIGUSR1, handle)

        def send() -> None:
            for _ in range(count):
                os.kill(os.getpid(), signal.SIGUSR1)
                run(asyncio.sleep(0.0002))

        await asyncio.gather(*(asyncio.to_thread(send) for _ in range(threads)))
        await event.wait()
        assert 0 < seen <= count * threads
        loop.remove_signal_handler(signal.SIGUSR1)

    run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; all by default")
    options = parser.parse_args()
    # Threads change over as often as they can, also with a GIL.
    sys.setswitchinterval(1e-5)
    unknown = set(options.scenarios) - SCENARIOS.keys()
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"{sys.version.split()[0]}, the GIL is {'on' if gil else 'off'}")
    for name in options.scenarios or SCENARIOS:
        faulthandler.dump_traceback_later(HANG, exit=True)
        started = time.monotonic()
        SCENARIOS[name](options.threads, options.rounds)
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()

"""anyio with its asyncio backend told which loop to make: streams, processes, signals, threads, cancel scopes."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from programs import package, short_folder
from support import LOCALHOST, open_descriptors, pattern

anyio = package("anyio")

tls_streams = package("anyio.streams.tls")

pytestmark = pytest.mark.interop("anyio")

BODY = pattern(2_000_000)


@pytest.fixture
def run(loop_factory, loop_kind, balanced):
    """anyio.run() on the loop under test; nothing may be left open."""

    def run(main):
        async def checked():
            loop = asyncio.get_running_loop()
            assert type(loop).__module__.partition(".")[0] == loop_kind
            loop.set_exception_handler(lambda _, context: reported.append(context))
            return await main()

        reported = []
        before = open_descriptors()
        result = anyio.run(checked, backend_options={"loop_factory": loop_factory})
        gc.collect()
        assert reported == []
        assert open_descriptors() - before == set()
        return result

    return run


async def digesting(stream):
    """Answer the digest of all that came."""
    async with stream:
        seen = hashlib.sha256()
        async for piece in stream:
            seen.update(piece)
        await stream.send(seen.digest())


async def exchange(stream, body):
    async with stream:
        await stream.send(body)
        await stream.send_eof()
        received = b"".join([piece async for piece in stream])
    assert received == hashlib.sha256(body).digest()


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_streams(run, family):
    async def main():
        with short_folder() as folder:
            if family == "tcp":
                listener = await anyio.create_tcp_listener(local_host=LOCALHOST)
                address = (LOCALHOST, listener.extra(anyio.abc.SocketAttribute.local_port))
                connect = anyio.connect_tcp
            else:
                address = (str(folder / "s"),)
                listener = await anyio.create_unix_listener(*address)
                connect = anyio.connect_unix
            async with listener, anyio.create_task_group() as group:
                group.start_soon(listener.serve, digesting)
                async with anyio.create_task_group() as clients:
                    for number in range(20):
                        clients.start_soon(exchange, await connect(*address), BODY[: number * 100_000])
                # A reader that is cancelled does not harm its connection.
                async with await connect(*address) as stream:
                    with anyio.move_on_after(0.02) as scope:
                        await stream.receive()
                    assert scope.cancelled_caught
                    await stream.send(b"after")
                    await stream.send_eof()
                    assert await stream.receive() == hashlib.sha256(b"after").digest()
                group.cancel_scope.cancel()

    run(main)


def test_tls(run, certificate):
    async def shout(stream):
        async with stream:
            async for piece in stream:
                await stream.send(piece.upper())

    async def main():
        plain = await anyio.create_tcp_listener(local_host=LOCALHOST)
        listener = tls_streams.TLSListener(plain, certificate.server())
        port = plain.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, shout)
            async with await anyio.connect_tcp("localhost", port, ssl_context=certificate.client()) as stream:
                received = b""
                await stream.send(b"a" * 500_000)
                while len(received) < 500_000:
                    received += await stream.receive()
                assert received == b"A" * 500_000
            group.cancel_scope.cancel()

    run(main)


def test_udp_and_watching_a_socket(run):
    async def main():
        async with (
            await anyio.create_udp_socket(local_host=LOCALHOST) as server,
            await anyio.create_connected_udp_socket(
                LOCALHOST, server.extra(anyio.abc.SocketAttribute.local_port)
            ) as client,
        ):
            for number in range(20):
                await client.send(b"%d" % number)
                packet, address = await server.receive()
                await server.sendto(packet * 2, *address)
                assert await client.receive() == b"%d" % number * 2
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            await anyio.wait_writable(one)
            with anyio.move_on_after(0.02) as scope:
                await anyio.wait_readable(one)
            assert scope.cancelled_caught
            other.send(b"x")
            await anyio.wait_readable(one)
            assert one.recv(10) == b"x"

    run(main)


def test_processes(run):
    async def main():
        async with (
            await anyio.open_process(["gzip", "-1"]) as first,
            await anyio.open_process(["gzip", "-d"]) as second,
        ):

            async def feed():
                await first.stdin.send(BODY)
                await first.stdin.aclose()

            async def copy():
                async for piece in first.stdout:
                    await second.stdin.send(piece)
                await second.stdin.aclose()

            async with anyio.create_task_group() as group:
                group.start_soon(feed)
                group.start_soon(copy)
                received = b"".join([piece async for piece in second.stdout])
            assert received == BODY
            assert (await first.wait(), await second.wait()) == (0, 0)
        done = await anyio.run_process(
            [sys.executable, "-c", "import sys; print(sys.stdin.read()[::-1])"], input=b"abc"
        )
        assert done.stdout == b"cba\n"
        with pytest.raises(subprocess.CalledProcessError) as caught:
            await anyio.run_process("echo no >&2; exit 9")
        assert (caught.value.returncode, caught.value.stderr) == (9, b"no\n")
        with anyio.move_on_after(0.05) as scope:
            await anyio.run_process(["sleep", "1000"])
        assert scope.cancelled_caught

    run(main)


def test_signals(run):
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}

    async def main():
        with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGTERM) as signals:
            seen = []
            os.kill(os.getpid(), signal.SIGUSR1)
            async for number in signals:
                seen.append(number)
                if len(seen) == 3:
                    break
                # From another thread: the loop may be asleep.
                await anyio.to_thread.run_sync(os.kill, os.getpid(), signal.SIGTERM)
            return seen

    assert run(main) == [signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in before} == before


def test_threads(run):
    async def main():
        limiter = anyio.CapacityLimiter(10)
        barrier = threading.Barrier(10, timeout=20)

        def blocking(number):
            barrier.wait()
            anyio.from_thread.check_cancelled()
            return anyio.from_thread.run(double, number)

        async def double(number):
            await anyio.sleep(0)
            return number * 2

        results = {}

        async def one(number):
            results[number] = await anyio.to_thread.run_sync(blocking, number, limiter=limiter)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, number)
        assert results == {number: number * 2 for number in range(10)}
        release = threading.Event()
        with anyio.move_on_after(0.02) as scope:
            await anyio.to_thread.run_sync(release.wait, abandon_on_cancel=True)
        assert scope.cancelled_caught
        release.set()

    run(main)


def test_blocking_portal(loop_factory, loop_kind):
    """A loop in a thread of its own, as test clients and synchronous bridges use it."""

    async def kind():
        await anyio.sleep(0)
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    with anyio.from_thread.start_blocking_portal(backend_options={"loop_factory": loop_factory}) as portal:
        assert {portal.call(kind) for _ in range(100)} == {loop_kind}
        future = portal.start_task_soon(anyio.sleep, 1000)
        future.cancel()


def test_failing_task_groups(run):
    async def fail(number):
        await anyio.sleep(0.001 * number)
        raise ValueError(number)

    async def main():
        listener = await anyio.create_tcp_listener(local_host=LOCALHOST)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, digesting)
            group.start_soon(fail, 3)
            stream = await anyio.connect_tcp(LOCALHOST, listener.extra(anyio.abc.SocketAttribute.local_port))
            async with stream:
                await stream.receive()

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [str(error) for error in caught.value.exceptions] == ["3"]

"""loop.statistics(): that each count counts what it says, from any thread and in any state of the loop."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pickle
import resource
import socket
import ssl
import threading
import time
from typing import Any

import pytest
from support import (
    DatagramRecorder,
    Echo,
    Recorder,
    datagram_endpoint,
    run_program,
    serving,
    settle,
    tcp_pair,
    transport_and_peer,
    udp_pair,
    unbuffered,
    until,
)

import loopfast

pytestmark = pytest.mark.loopfast_only("asyncio's loops have no statistics")


def after(loop: Any, call: Any) -> tuple[loopfast.LoopStatistics, loopfast.LoopStatistics]:
    """Return the snapshots before and after *call* has run on *loop*."""
    before = loop.statistics()
    loop.run_until_complete(call())
    return before, loop.statistics()


# ------------------------------------------------------------------------------------------------------------- snapshot


def test_a_new_loop(loop):
    statistics = loop.statistics()
    assert isinstance(statistics, loopfast.LoopStatistics)
    assert not (statistics.running or statistics.closed or statistics.debug or statistics.timing)
    for field, value in statistics._asdict().items():
        if field in ("time", "running", "closed", "debug", "timing"):
            continue
        if field == "transports":
            assert value == dict.fromkeys(("tcp", "tls", "unix", "udp", "pipe", "other"), 0)
        elif field == "handles":
            assert value == {}
        else:
            assert value == type(value)(), field
    assert statistics.utilisation == 0.0


def test_the_first_call_needs_no_descriptor(loop_kind):
    """As somebody asks when there are none left."""
    output = run_program(
        loop_kind,
        """
        import os, resource
        import loopfast

        loop = loopfast.new_event_loop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            while True:
                os.dup(0)
        except OSError:
            print(loop.statistics().listeners, loopfast.SlowCallback.__name__)
        """,
    )
    assert output == "0 SlowCallback\n"


def test_it_cannot_be_changed_and_is_a_value(loop):
    statistics = loop.statistics()
    with pytest.raises(AttributeError):
        statistics.timers = 5
    assert not hasattr(statistics, "__dict__")
    assert pickle.loads(pickle.dumps(statistics)) == statistics
    facts = json.loads(json.dumps(statistics.as_dict()))
    assert facts["utilisation"] == statistics.utilisation
    assert set(facts) == set(statistics._fields) | {"utilisation"}


def test_every_field_says_what_it_is():
    """The comments above the fields are what help and editors show."""
    import inspect

    source = inspect.getsource(loopfast.LoopStatistics).splitlines()
    for number, line in enumerate(source):
        if line.startswith("    ") and ":" in line and line.strip().split(":")[0].isidentifier():
            described = "#:" in source[number - 1] or line.strip().startswith("bytes_sent")
            assert described or '"""' in line, line


def test_time_is_the_monotonic_clock(loop):
    before = time.monotonic()
    taken = loop.statistics().time
    assert before <= taken <= time.monotonic()


# ------------------------------------------------------------------------------------------------------- time and turns


async def test_while_running(loop):
    statistics = loop.statistics()
    assert statistics.running and not statistics.closed
    assert statistics.run_time > 0


def test_idle_time_is_that_of_sleep(loop):
    """With the sleep ten times as long as anything else the order is certain, whatever the machine does."""
    slept = []

    async def rest():
        begin = time.monotonic()
        await asyncio.sleep(0.2)
        slept.append(time.monotonic() - begin)

    before, now = after(loop, rest)
    idle = now.idle_time - before.idle_time
    assert 0.1 < idle <= slept[0]
    assert idle <= now.run_time - before.run_time
    assert now.utilisation_since(before) == pytest.approx(1 - idle / (now.run_time - before.run_time))


def test_busy_time_is_not_idle(loop):
    async def work():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            await asyncio.sleep(0)

    before, now = after(loop, work)
    # Nothing to wait for, so no sleep at all.
    assert now.idle_time == before.idle_time
    assert now.utilisation_since(before) == 1.0
    assert now.run_time - before.run_time >= 0.05


def test_short_sleeps_count(loop):
    """Those below a millisecond, which libuv's timers cannot do."""

    async def nap():
        for _ in range(20):
            await asyncio.sleep(0.0005)

    before, now = after(loop, nap)
    assert 0 < now.idle_time - before.idle_time <= now.run_time - before.run_time


def test_time_between_runs_counts_nothing(loop):
    before, now = after(loop, lambda: asyncio.sleep(0))
    time.sleep(0.15)
    later = loop.statistics()
    assert (later.run_time, later.idle_time, later.stalls) == (now.run_time, now.idle_time, 0)
    loop.run_until_complete(asyncio.sleep(0))
    assert loop.statistics().run_time < now.run_time + 0.1
    assert loop.statistics().stalls == 0


def test_utilisation_since_the_same_snapshot(loop):
    now = loop.statistics()
    assert now.utilisation_since(now) == 0.0


def test_iterations_and_callbacks(loop):
    async def main():
        for _ in range(10):
            await asyncio.sleep(0)

    before, now = after(loop, main)
    # The first step, ten more, and what ends the run.
    assert 11 <= now.iterations - before.iterations <= 14
    assert 11 <= now.callbacks - before.callbacks <= 14


def test_a_batch_is_one_turn(loop):
    def many():
        for _ in range(1000):
            loop.call_soon(int)

    async def main():
        many()
        await settle(2)

    before, now = after(loop, main)
    assert 1000 <= now.callbacks - before.callbacks <= 1010
    assert now.iterations - before.iterations <= 6


def test_queues(loop):
    seen = []
    loop.call_soon(lambda: seen.append(loop.statistics()))
    for _ in range(7):
        loop.call_soon(int)
    timers = [loop.call_later(1000, int) for _ in range(5)]
    assert (loop.statistics().ready, loop.statistics().timers) == (8, 5)
    timers.pop().cancel()
    assert loop.statistics().timers == 4
    loop.call_soon(loop.stop)
    loop.run_forever()
    # Seven and the stop were still to come.
    assert (seen[0].ready, seen[0].timers) == (8, 4)
    assert loop.statistics().ready == 0


def test_events(loop):
    async def main():
        async with transport_and_peer() as (_, protocol, peer):
            for number in range(5):
                peer.send(b"x")
                await protocol.received(number + 1)

    before, now = after(loop, main)
    assert 5 <= now.events - before.events <= 20


# ------------------------------------------------------------------------------------------------- transports and bytes


async def test_tcp(loop):
    before = loop.statistics()
    async with transport_and_peer() as (transport, protocol, peer):
        assert loop.statistics().transports["tcp"] == 1
        assert loop.statistics().handles["tcp"] == 1
        peer.send(b"x" * 1000)
        await protocol.received(1000)
        transport.write(b"y" * 300)
        transport.writelines([b"z" * 50, bytearray(50)])
        await until(lambda: loop.statistics().bytes_sent == before.bytes_sent + 400)
        assert loop.statistics().bytes_received == before.bytes_received + 1000
        transport.close()
        await protocol.lost
    assert loop.statistics().transports["tcp"] == 0
    assert "tcp" not in loop.statistics().handles


@pytest.mark.parametrize("make", [bytes, bytearray], ids=["bytes", "bytearray"])
async def test_bytes_sent_are_those_the_kernel_took(loop, make):
    """More than fits: counted as they go, however they go."""
    size = 3_000_000
    async with transport_and_peer(send_buffer=65536) as (transport, _, peer):
        transport.write(make(size))
        await settle()
        sent = loop.statistics().bytes_sent
        assert 0 < sent < size
        assert sent <= size - transport.get_write_buffer_size() + size // 2
        received = 0
        while received < size:
            try:
                received += len(peer.recv(1 << 20))
            except BlockingIOError:
                await asyncio.sleep(0.0005)
        await until(lambda: transport.get_write_buffer_size() == 0)
        assert loop.statistics().bytes_sent == size


async def test_buffered_protocol(loop):
    from support import BufferedRecorder

    async with transport_and_peer(BufferedRecorder) as (_, protocol, peer):
        peer.send(b"x" * 500)
        await protocol.received(500)
        assert loop.statistics().bytes_received == 500


async def test_unix_streams(loop, tmp_path):
    server = await loop.create_unix_server(Echo, tmp_path / "s")
    _, protocol = await loop.create_unix_connection(Recorder, tmp_path / "s")
    protocol.transport.write(b"x" * 10)
    await protocol.received(10)
    statistics = loop.statistics()
    assert (statistics.transports["unix"], statistics.transports["tcp"]) == (2, 0)
    assert (statistics.listeners, statistics.accepted) == (1, 1)
    assert (statistics.bytes_sent, statistics.bytes_received) == (20, 20)
    server.close()
    protocol.transport.close()
    await protocol.lost
    await until(lambda: loop.statistics().transports["unix"] == 0)
    assert loop.statistics().listeners == 0


async def test_udp(loop):
    async with datagram_endpoint() as (one, _), datagram_endpoint(DatagramRecorder) as (other, receiver):
        assert loop.statistics().transports["udp"] == loop.statistics().handles["udp"] == 2
        for size in (1, 100, 0, 1000):
            one.sendto(b"x" * size, other.get_extra_info("sockname"))
        await until(lambda: sum(map(len, dict(enumerate(data for data, _ in receiver.datagrams)).values())) == 1101)
        statistics = loop.statistics()
        assert (statistics.bytes_sent, statistics.bytes_received) == (1101, 1101)
    assert loop.statistics().transports["udp"] == 0


async def test_a_failed_datagram_is_not_sent(loop):
    async with datagram_endpoint() as (transport, protocol):
        transport.sendto(bytes(70000), transport.get_extra_info("sockname"))
        [error] = await protocol.failed()
        assert error.errno == errno.EMSGSIZE
        assert loop.statistics().bytes_sent == 0


async def test_tls(loop, certificate):
    server_side, client_side = certificate
    before = loop.statistics()
    async with serving(Echo, ssl=server_side) as (_, address):
        _, protocol = await loop.create_connection(Recorder, *address[:2], ssl=client_side, server_hostname="localhost")
        protocol.transport.write(b"x" * 1000)
        await protocol.received(1000)
        statistics = loop.statistics()
        assert (statistics.transports["tls"], statistics.transports["tcp"]) == (2, 0)
        assert statistics.accepted == before.accepted + 1
        # Handshake and records are more than the text; what one end sends the other gets.
        assert statistics.bytes_sent - before.bytes_sent > 2500
        assert statistics.bytes_received - before.bytes_received <= statistics.bytes_sent - before.bytes_sent
        protocol.transport.close()
        await protocol.lost
        await until(lambda: loop.statistics().transports["tls"] == 0)


async def test_pipes(loop):
    reading, writing = os.pipe()
    _, reader = await loop.connect_read_pipe(Recorder, unbuffered(reading, "rb"))
    transport, writer = await loop.connect_write_pipe(Recorder, unbuffered(writing, "wb"))
    assert loop.statistics().transports["pipe"] == 2
    assert loop.statistics().descriptors >= 1
    transport.write(b"x" * 100)
    transport.write(bytearray(100))
    # More than a pipe holds, so that some waits.
    transport.write(bytes(500_000))
    await reader.received(500_200)
    await until(lambda: transport.get_write_buffer_size() == 0)
    statistics = loop.statistics()
    assert (statistics.bytes_sent, statistics.bytes_received) == (500_200, 500_200)
    transport.close()
    await reader.lost
    await writer.lost
    assert loop.statistics().transports["pipe"] == 0


async def test_a_transport_of_asyncio(loop):
    class Special(socket.socket):
        def recv(self, *args):
            return super().recv(*args)

    mine, peer = tcp_pair()
    special = Special(fileno=mine.detach())
    special.setblocking(False)
    transport, protocol = await loop.create_connection(Recorder, sock=special)
    assert loop.statistics().transports["other"] == 1
    transport.abort()
    await protocol.lost
    await settle()
    assert loop.statistics().transports["other"] == 0
    peer.close()


async def test_sock_calls(loop):
    one, other = tcp_pair()
    waiting = asyncio.ensure_future(loop.sock_recv(one, 100))
    await settle()
    assert loop.statistics().socket_calls == 1
    await loop.sock_sendall(other, b"x" * 60)
    assert await waiting == b"x" * 60
    buffer = bytearray(100)
    await loop.sock_sendall(other, bytearray(40))
    assert await loop.sock_recv_into(one, buffer) == 40
    statistics = loop.statistics()
    assert (statistics.bytes_sent, statistics.bytes_received, statistics.socket_calls) == (100, 100, 0)
    one.close()
    other.close()


async def test_sendfile(loop, tmp_path):
    (tmp_path / "file").write_bytes(bytes(5000))
    async with transport_and_peer() as (transport, _, peer):
        with open(tmp_path / "file", "rb") as file:
            assert await loop.sendfile(transport, file) == 5000
        assert loop.statistics().bytes_sent == 5000


async def test_descriptors(loop):
    one, other = udp_pair()
    before = loop.statistics().descriptors
    loop.add_reader(one, int)
    loop.add_writer(one, int)
    loop.add_reader(other, int)
    assert loop.statistics().descriptors == before + 2
    loop.remove_reader(one)
    assert loop.statistics().descriptors == before + 2
    loop.remove_writer(one)
    loop.remove_reader(other)
    assert loop.statistics().descriptors == before
    one.close()
    other.close()


async def test_many_connections(loop):
    async with serving(Echo) as (_, address):
        protocols = [(await loop.create_connection(Recorder, *address))[1] for _ in range(50)]
        await until(lambda: loop.statistics().accepted == 50)
        assert loop.statistics().transports["tcp"] == 100
        assert loop.statistics().listeners == 1
        for protocol in protocols:
            protocol.transport.abort()
        await until(lambda: loop.statistics().transports["tcp"] == 0)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_accept_errors(loop, reports, certificate, kind):
    """No descriptor left: each failure counts."""
    options: dict[str, ssl.SSLContext] = {"ssl": certificate[0]} if kind == "tls" else {}
    async with serving(Echo, **options) as (_, address):
        client = socket.socket()
        client.setblocking(False)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        filling = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(filling, default=client.fileno()) + 8, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    filling.append(os.dup(client.fileno()))
            await loop.sock_connect(client, address)
            await until(lambda: loop.statistics().accept_errors)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in filling:
                os.close(fd)
        assert loop.statistics().accepted == 0
        assert reports.take()["exception"].errno == errno.EMFILE
        await until(lambda: loop.statistics().accepted == 1)
        client.close()
        if kind == "tls":
            await until(lambda: not loop.statistics().transports["tls"])
        reports.clear()


# --------------------------------------------------------------------------------------------- states and other threads


def test_a_closed_loop_tells_of_its_life(loop_factory):
    loop = loop_factory()

    async def main():
        async with transport_and_peer() as (_, protocol, peer):
            peer.send(b"x" * 10)
            await protocol.received(10)

    loop.run_until_complete(main())
    loop.call_later(100, int)
    loop.call_soon(int)
    before = loop.statistics()
    loop.close()
    now = loop.statistics()
    assert now.closed and not now.running
    assert (now.ready, now.timers, now.handles, now.listeners, now.descriptors) == (0, 0, {}, 0, 0)
    assert set(now.transports.values()) == {0}
    for field in ("iterations", "callbacks", "events", "bytes_received", "run_time", "idle_time"):
        assert getattr(now, field) == getattr(before, field) > 0, field


def test_a_loop_that_was_never_set_up():
    loop = loopfast.Loop.__new__(loopfast.Loop)
    assert loop.statistics().iterations == 0
    loop.close()
    assert loop.statistics().closed


def test_from_a_subclass_with_its_own_clock():
    class Slow(loopfast.Loop):
        def time(self) -> float:
            return super().time() / 1000

    loop = Slow()
    assert abs(loop.statistics().time - time.monotonic()) < 10
    loop.run_until_complete(asyncio.sleep(0))
    assert 0 < loop.statistics().run_time < 60
    loop.close()


async def test_from_another_thread_while_the_loop_sleeps(loop):
    found = []

    def look():
        first = loop.statistics()
        # The sleep that goes on counts, although it is not over.
        while loop.statistics().idle_time <= first.idle_time:
            pass
        found.append(loop.statistics())

    await loop.run_in_executor(None, look)
    assert found[0].running and found[0].idle_time <= found[0].run_time


async def test_from_other_threads_under_load(loop):
    """Snapshots while connections come and go: consistent, and nothing breaks."""
    done = threading.Event()
    problems: list[BaseException] = []

    def look():
        last = loop.statistics()
        try:
            while not done.is_set():
                now = loop.statistics()
                assert now.callbacks >= last.callbacks and now.bytes_received >= last.bytes_received
                assert now.idle_time <= now.run_time + 0.01
                assert 0 <= now.transports["tcp"] <= 20
                last = now
        except BaseException as exc:
            problems.append(exc)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        async with serving(Echo) as (_, address):

            async def visit():
                for _ in range(15):
                    reader, writer = await asyncio.open_connection(*address)
                    writer.write(b"hello")
                    assert await reader.readexactly(5) == b"hello"
                    writer.close()
                    await writer.wait_closed()

            await asyncio.gather(*(visit() for _ in range(5)))
            await until(lambda: loop.statistics().transports["tcp"] == 0)
    finally:
        done.set()
        for thread in threads:
            await loop.run_in_executor(None, thread.join)
    assert problems == []
    assert loop.statistics().accepted == 75


def test_in_a_forked_child(loop):
    """The child's copy of the parent's loop still answers, and counts on for itself."""
    loop.run_until_complete(asyncio.sleep(0.001))
    before = loop.statistics()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            assert loop.statistics().callbacks == before.callbacks
            loop.run_until_complete(asyncio.sleep(0.001))
            assert loop.statistics().callbacks > before.callbacks
            os.write(writing, b"good")
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        assert file.read() == b"good"
    os.waitpid(child, 0)
    assert loop.statistics().callbacks == before.callbacks


def test_it_keeps_nothing_alive(loop):
    import gc
    import weakref

    class Protocol(asyncio.Protocol):
        pass

    references = []

    async def main():
        mine, peer = tcp_pair()
        transport, protocol = await loop.create_connection(Protocol, sock=mine)
        references.append(weakref.ref(protocol))
        loop.statistics()
        transport.close()
        await settle()
        peer.close()

    loop.run_until_complete(main())
    statistics = loop.statistics()
    gc.collect()
    assert references[0]() is None
    assert statistics.transports["tcp"] == 0

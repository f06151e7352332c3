"""add_reader and add_writer on every kind of descriptor, and the sock_* calls on top."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import gc
import os
import re
import resource
import socket
import sys
import tempfile
import tty
import weakref
from pathlib import Path

import pytest
from support import LOCALHOST, Recorder, open_descriptors, pattern, settle, transport_and_peer, until

from loopfast import uv
from loopfast.handles.poll import share_set

own = pytest.param(False, marks=pytest.mark.loopfast_only("asyncio has one kernel set"))


@pytest.fixture(autouse=True, params=[True, own], ids=["shared", "own"])
def in_libuvs_set(request):
    """Whether descriptors are watched in libuv's kernel set, or in one of their own as without our patch of libuv."""
    share_set(request.param)
    yield request.param
    share_set(True)


def entries(fd):
    """The data of the entries that *fd* has in the kernel sets of this process."""
    found = []
    for number in os.listdir("/proc/self/fdinfo"):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/self/fdinfo/{number}").read_text()
            found += re.findall(rf"^tfd: +{fd} events: +\w+ data: +(\w+)", text, re.MULTILINE)
    return [int(data, 16) for data in found]


@pytest.fixture
def pair(loop):
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    yield one, other
    if not loop.is_closed() and one.fileno() >= 0:
        loop.remove_reader(one)
        loop.remove_writer(one)
    one.close()
    other.close()


async def test_reader(loop, pair):
    seen = []
    loop.add_reader(pair[0], lambda *args: seen.append((args, pair[0].recv(10))), 1, "two")
    assert seen == []
    pair[1].send(b"x")
    await until(lambda: seen)
    assert seen == [((1, "two"), b"x")]


async def test_reader_fires_as_long_as_there_is_something(loop, pair):
    calls = []
    loop.add_reader(pair[0], calls.append, 1)
    pair[1].send(b"x")
    await until(lambda: len(calls) >= 3)


async def test_writer(loop, pair):
    seen = []

    def writable():
        seen.append(1)
        loop.remove_writer(pair[0])

    loop.add_writer(pair[0], writable)
    await until(lambda: seen)
    await settle()
    assert seen == [1]


async def test_reader_and_writer_of_one_descriptor(loop, pair):
    seen = set()
    loop.add_reader(pair[0], seen.add, "reader")
    loop.add_writer(pair[0], seen.add, "writer")
    await until(lambda: "writer" in seen)
    assert "reader" not in seen
    pair[1].send(b"x")
    await until(lambda: "reader" in seen)
    assert loop.remove_writer(pair[0])
    seen.clear()
    await until(lambda: "reader" in seen)
    assert "writer" not in seen


async def test_by_number_and_by_object(loop, pair):
    seen = []
    loop.add_reader(pair[0].fileno(), seen.append, 1)
    pair[1].send(b"x")
    await until(lambda: seen)
    assert loop.remove_reader(pair[0]) is True


async def test_registering_again_replaces(loop, pair):
    seen = []
    loop.add_reader(pair[0], seen.append, "old")
    loop.add_reader(pair[0], seen.append, "new")
    pair[1].send(b"x")
    await until(lambda: seen)
    assert "old" not in seen
    assert loop.remove_reader(pair[0]) is True
    assert loop.remove_reader(pair[0]) is False


async def test_replacing_inside_the_callback(loop, pair):
    seen = []
    loop.add_reader(pair[0], lambda: (seen.append("old"), loop.add_reader(pair[0], seen.append, "new")))
    pair[1].send(b"x")
    await until(lambda: "new" in seen)
    assert seen.count("old") == 1


async def test_removing_what_was_never_added(loop, pair):
    assert loop.remove_reader(pair[0]) is False
    assert loop.remove_writer(pair[0]) is False


async def test_after_remove_reader_it_never_fires(loop, pair):
    fired = []
    loop.add_reader(pair[0], fired.append, 1)
    pair[1].send(b"x")

    def remove():
        loop.remove_reader(pair[0])
        fired.clear()

    # Whether or not the event was seen already in this turn.
    loop.call_soon(remove)
    await settle()
    await asyncio.sleep(0.005)
    assert fired == []


async def test_one_callback_removes_the_other(loop):
    pairs = [socket.socketpair() for _ in range(2)]
    fired = []

    def fire(number):
        fired.append(number)
        for one, _ in pairs:
            loop.remove_reader(one)

    for number, (one, other) in enumerate(pairs):
        loop.add_reader(one, fire, number)
        other.send(b"x")
    await until(lambda: fired)
    await settle()
    assert len(fired) == 1
    for sockets in pairs:
        for sock in sockets:
            sock.close()


async def test_an_exception_in_a_reader_is_reported(loop, pair, reports):
    def fail():
        pair[0].recv(10)
        raise LookupError("in the reader")

    loop.add_reader(pair[0], fail)
    pair[1].send(b"x")
    await until(lambda: reports)
    assert isinstance(reports.take()["exception"], LookupError)
    pair[1].send(b"x")
    await until(lambda: reports)
    reports.take()


async def test_hang_up_wakes_reader_and_writer(loop, pair):
    seen = set()
    loop.add_reader(pair[0], seen.add, "reader")
    pair[1].close()
    await until(lambda: "reader" in seen)


async def test_pipes(loop):
    read, write = os.pipe()
    got = loop.create_future()
    loop.add_reader(read, lambda: got.done() or got.set_result(os.read(read, 10)))
    loop.add_writer(write, lambda: (loop.remove_writer(write), os.write(write, b"through")))
    assert await got == b"through"
    loop.remove_reader(read)
    os.close(read)
    os.close(write)


async def test_a_pipe_whose_reader_went_away_is_writable(loop):
    read, write = os.pipe()
    os.set_blocking(write, False)
    while True:
        try:
            os.write(write, b"x" * 65536)
        except BlockingIOError:
            break
    fired = loop.create_future()
    loop.add_writer(write, lambda: fired.done() or fired.set_result(None))
    os.close(read)
    await fired
    loop.remove_writer(write)
    os.close(write)


async def test_a_pseudo_terminal(loop):
    master, slave = os.openpty()
    fired = loop.create_future()
    loop.add_reader(master, lambda: fired.done() or fired.set_result(os.read(master, 10)))
    os.write(slave, b"hi")
    assert await fired == b"hi"
    loop.remove_reader(master)
    os.close(master)
    os.close(slave)


# ------------------------------------------------------------------------------------------------------------- bad ones


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_a_closed_descriptor(loop, method):
    # Not the lowest free number: the loop may open a descriptor of its own on first use.
    with socket.socket() as sock:
        closed = fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 500)
    os.close(closed)
    with pytest.raises(OSError) as caught:
        getattr(loop, method)(closed, print)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_a_regular_file(loop, method):
    with tempfile.TemporaryFile() as file, pytest.raises(PermissionError):
        getattr(loop, method)(file, print)


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_a_directory(loop, method):
    fd = os.open("/", os.O_RDONLY)
    with pytest.raises(PermissionError):
        getattr(loop, method)(fd, print)
    os.close(fd)


@pytest.mark.parametrize("fd", [-1, -100, "0", 1.5, None, object(), b"1"])
@pytest.mark.parametrize("method", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
def test_not_a_descriptor(loop, method, fd):
    arguments = (print,) if method.startswith("add") else ()
    with pytest.raises((ValueError, TypeError)):
        getattr(loop, method)(fd, *arguments)


@pytest.mark.parametrize("fd", [100_000, 2**31 - 1, 2**31, 2**63, 2**200])
@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_a_huge_descriptor(loop, method, fd):
    with pytest.raises((OSError, ValueError, OverflowError)):
        getattr(loop, method)(fd, print)


def test_a_closed_socket_object(loop):
    sock = socket.socket()
    sock.close()
    with pytest.raises(ValueError):
        loop.add_reader(sock, print)


@pytest.mark.loopfast_only("asyncio forgets one of the two, or raises OSError")
async def test_a_descriptor_closed_while_watched(loop, pair, reports):
    fired = []
    fd = pair[0].fileno()
    loop.add_reader(fd, fired.append, 1)
    loop.add_writer(fd, fired.append, 1)
    pair[0].close()
    await asyncio.sleep(0.005)
    fired.clear()
    await asyncio.sleep(0.005)
    assert fired == []
    assert loop.remove_reader(fd) is True
    assert loop.remove_writer(fd) is True


@pytest.mark.loopfast_only("asyncio raises FileNotFoundError, or never calls the new one")
async def test_a_number_reused_while_watched(loop, reports):
    one, other = socket.socketpair()
    fd = one.fileno()
    stale = []
    loop.add_reader(fd, stale.append, 1)
    one.close()
    # The lowest free number is taken: the same.
    new, peer = socket.socketpair()
    assert new.fileno() == fd
    seen = []
    loop.add_reader(fd, seen.append, 1)
    peer.send(b"x")
    await until(lambda: seen)
    assert stale == []
    assert loop.remove_reader(fd) is True
    for sock in (new, peer, other):
        sock.close()


async def test_a_number_reused_after_removal(loop):
    for _ in range(50):
        one, other = socket.socketpair()
        seen = []
        loop.add_reader(one, seen.append, 1)
        other.send(b"x")
        await until(lambda seen=seen: seen)
        loop.remove_reader(one)
        one.close()
        other.close()


async def test_many_descriptors(loop):
    pairs = [socket.socketpair() for _ in range(100)]
    fired = set()

    def readable(number):
        pairs[number][0].recv(1)
        fired.add(number)

    for number, (one, other) in enumerate(pairs):
        loop.add_reader(one, readable, number)
        other.send(b"x")
    await until(lambda: len(fired) == 100)
    for one, other in pairs:
        assert loop.remove_reader(one)
        one.close()
        other.close()


@pytest.mark.parametrize("method", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
async def test_a_transports_descriptor_is_refused(loop, method):
    async with transport_and_peer() as (transport, _, _):
        fd = transport.get_extra_info("socket").fileno()
        arguments = (print,) if method.startswith("add") else ()
        with pytest.raises(RuntimeError, match=f"File descriptor {fd} is used by transport"):
            getattr(loop, method)(fd, *arguments)


def test_registrations_survive_between_runs(loop, pair):
    seen = []
    loop.add_reader(pair[0], lambda: (seen.append(pair[0].recv(1)), loop.stop()))
    for _ in range(3):
        pair[1].send(b"x")
        loop.run_forever()
    assert seen == [b"x"] * 3


def test_closing_the_loop_with_watched_descriptors(loop, pair):
    loop.add_reader(pair[0], print)
    loop.add_writer(pair[1], print)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    # They are the user's: still open.
    pair[0].send(b"x")
    assert pair[1].recv(1) == b"x"


# ------------------------------------------------------------------------------------------------------ whose set it is


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only on Linux can libuv's set be shared")
@pytest.mark.loopfast_only("asyncio has one kernel set")
def test_whose_kernel_set_a_descriptor_is_in(loop, pair, in_libuvs_set):
    fd = pair[0].fileno()
    loop.add_reader(fd, lambda: (pair[0].recv(1), loop.stop()))
    assert entries(fd) == [1 << 32 | fd if in_libuvs_set else fd]
    for _ in range(3):
        pair[1].send(b"x")
        loop.run_forever()
    loop.add_writer(fd, print)
    loop.remove_writer(fd)
    assert entries(fd) == [1 << 32 | fd if in_libuvs_set else fd]
    loop.remove_reader(fd)
    assert entries(fd) == []


async def test_a_transport_takes_the_place_of_a_reader(loop, pair):
    """And of nobody else's; a writer stays until the transport has to wait."""
    seen = []
    loop.add_reader(pair[0], seen.append, "reader")
    loop.add_writer(pair[0], seen.append, "writer")
    await until(lambda: "writer" in seen)
    transport, protocol = await loop.create_connection(Recorder, sock=pair[0])
    seen.clear()
    pair[1].send(b"for the transport")
    await until(lambda: protocol.data)
    assert bytes(protocol.data) == b"for the transport"
    await until(lambda: "writer" in seen)
    assert "reader" not in seen
    transport.close()
    await protocol.lost
    pair[1].close()


@pytest.mark.loopfast_only("asyncio raises FileNotFoundError in the transport's first turn")
async def test_a_number_that_a_transport_has_after_a_watched_one(loop):
    """Closed without remove_reader(), as another name of the file lives on."""
    stale = []
    one, other = socket.socketpair()
    duplicate = one.dup()
    fd = one.fileno()
    loop.add_reader(fd, stale.append, 1)
    one.close()
    new, peer = socket.socketpair()
    assert new.fileno() == fd
    transport, protocol = await loop.create_connection(Recorder, sock=new)
    other.send(b"for nobody")
    await settle()
    peer.sendall(b"for the transport")
    await until(lambda: protocol.data)
    assert bytes(protocol.data) == b"for the transport"
    assert stale == []
    transport.close()
    await protocol.lost
    for sock in (duplicate, other, peer):
        sock.close()


async def test_a_transport_that_reads_again_while_it_sends_a_file(loop, tmp_path):
    data = pattern(3_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    async with transport_and_peer(send_buffer=4096) as (transport, protocol, peer):
        with open(path, "rb") as file:
            sending = loop.create_task(loop.sendfile(transport, file))
            received = await loop.sock_recv(peer, 1000)
            await settle()
            transport.resume_reading()
            peer.send(b"meanwhile")
            await until(lambda: protocol.data)
            while len(received) < len(data):
                received += await loop.sock_recv(peer, 1 << 20)
            assert await sending == len(data)
        assert received == data
        assert bytes(protocol.data) == b"meanwhile"
        transport.write(b"after")
        assert await loop.sock_recv(peer, 100) == b"after"


@pytest.mark.loopfast_only("loopfast.uv runs on loopfast's loops")
@pytest.mark.parametrize("first", ["add_reader", "Poll"])
async def test_a_handle_of_the_binding_beside_a_reader(loop, pair, first):
    seen = []

    def add_reader():
        loop.add_reader(pair[0], seen.append, "reader")

    def make_poll():
        poll = uv.Poll(uv.Loop.of(loop), pair[0])
        poll.start(lambda poll, events, error: seen.append("poll"), uv.PollEvent.READABLE)
        return poll

    if first == "Poll":
        poll = make_poll()
        add_reader()
    else:
        add_reader()
        poll = make_poll()
    pair[1].send(b"x")
    await until(lambda: {"reader", "poll"} <= set(seen))
    poll.close()
    await settle()
    seen.clear()
    await until(lambda: "reader" in seen)
    assert "poll" not in seen
    assert loop.remove_reader(pair[0])
    loop.add_reader(pair[0], seen.append, "again")
    await until(lambda: "again" in seen)
    loop.remove_reader(pair[0])


@pytest.mark.loopfast_only("loopfast.uv runs on loopfast's loops")
@pytest.mark.parametrize("kind", ["accepted", "terminal"])
async def test_a_handle_that_reads_now_and_then_beside_a_reader(loop, kind):
    """Of a descriptor that libuv made itself, and of one that it was given."""
    base = uv.Loop.of(loop)
    seen, handles = [], []
    if kind == "accepted":
        server = uv.TCP(base)
        server.bind((LOCALHOST, 0))
        server.listen(lambda server, error: handles.append(server.accept()))
        peer = socket.create_connection(server.getsockname()[:2])
        await until(lambda: handles)
        server.close()
        send = peer.send
    else:
        terminal, peer = os.openpty()
        tty.setraw(peer)
        handles.append(uv.TTY(base, terminal))
        send = functools.partial(os.write, peer)
    (handle,) = handles
    loop.add_reader(handle.fileno(), seen.append, "reader")
    handle.read_start(lambda *arguments: seen.append("handle"))
    await settle()
    handle.read_stop()
    await settle()
    send(b"x")
    await until(lambda: "reader" in seen)
    assert "handle" not in seen
    loop.remove_reader(handle.fileno())
    handle.close()
    await settle()
    if kind == "terminal":
        os.close(peer)
    else:
        peer.close()


@pytest.mark.loopfast_only("loopfast.uv runs on loopfast's loops")
async def test_closing_an_idle_handle_of_a_watched_descriptor(loop, pair):
    seen = []
    poll = uv.Poll(uv.Loop.of(loop), pair[0])
    loop.add_reader(pair[0], seen.append, "reader")
    again = uv.Poll(uv.Loop.of(loop), pair[0])
    poll.close()
    again.close()
    await settle()
    pair[1].send(b"x")
    await until(lambda: seen)


@pytest.mark.loopfast_only("loopfast.uv runs on loopfast's loops")
async def test_a_number_reused_while_watched_given_to_a_handle(loop):
    stale, seen = [], []
    one, other = socket.socketpair()
    number = one.fileno()
    loop.add_reader(number, stale.append, 1)
    one.close()
    new, peer = socket.socketpair()
    assert new.fileno() == number
    poll = uv.Poll(uv.Loop.of(loop), number)
    poll.start(lambda poll, events, error: seen.append(new.recv(10)), uv.PollEvent.READABLE)
    await settle()
    loop.add_reader(number, stale.append, 2)
    loop.remove_reader(number)
    peer.send(b"x")
    await until(lambda: seen)
    before = loop.statistics().events
    await settle(50)
    # Nothing spins.
    assert loop.statistics().events - before < 10
    poll.close()
    await settle()
    for sock in (new, peer, other):
        sock.close()


@pytest.mark.parametrize("how", ["again", "other file"])
async def test_an_event_is_for_whoever_waited_when_it_came(loop, pair, how):
    """data_received() runs before the readers of the same poll, where the reader of another descriptor is replaced."""
    one, other = socket.socketpair()
    one.setblocking(False)
    number = one.fileno()
    files = [one]
    seen = []

    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            loop.remove_reader(number)
            if how == "again":
                files[0].recv(10)
            else:
                files.pop().close()
                files.extend(socket.socketpair())
                assert files[0].fileno() == number
            loop.add_reader(number, seen.append, "new")

    transport, protocol = await loop.create_connection(Protocol, sock=pair[0])
    loop.add_reader(number, seen.append, "old")
    await settle()
    # The first one in the kernel's list is the first to be told.
    pair[1].send(b"x")
    other.send(b"y")
    await until(lambda: protocol.data)
    await settle()
    assert "new" not in seen
    loop.remove_reader(number)
    transport.close()
    await protocol.lost
    for sock in (*files, other, pair[1]):
        sock.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_a_file_sent_on_a_connection_that_has_data_in_the_same_poll(loop, pair, tmp_path):
    """Data of the first connection starts a transfer on the second, which pauses that in the middle of the poll."""
    data = pattern(3_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    tasks = []
    loop.set_task_factory(asyncio.eager_task_factory)
    async with transport_and_peer(send_buffer=4096) as (transport, protocol, peer):
        with open(path, "rb") as file:

            class Starter(Recorder):
                def data_received(self, data):
                    super().data_received(data)
                    tasks.append(asyncio.create_task(loop.sendfile(transport, file)))

            starting, starter = await loop.create_connection(Starter, sock=pair[0])
            await settle()
            pair[1].send(b"x")
            peer.send(b"y")
            await until(lambda: tasks)
            received = b""
            while len(received) < len(data):
                received += await loop.sock_recv(peer, 1 << 20)
            assert await tasks[0] == len(data)
        assert received == data
        await until(lambda: bytes(protocol.data) == b"y")
        starting.close()
        await starter.lost
    pair[1].close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.loopfast_only("asyncio's loop shares its epoll set with the child")
def test_watched_descriptors_in_a_forked_child(loop, pair):
    seen = []
    loop.add_reader(pair[0], lambda: (seen.append(pair[0].recv(1)), loop.stop()))
    loop.run_until_complete(asyncio.sleep(0))
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            pair[1].send(b"c")
            loop.run_forever()
            loop.remove_reader(pair[0])
            status = 0 if seen == [b"c"] else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # The child has changed its own set only.
    pair[1].send(b"p")
    loop.run_forever()
    assert seen == [b"p"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("event", ["reader", "writer"])
@pytest.mark.loopfast_only("asyncio's loop shares its epoll set with the child")
def test_a_handle_made_in_a_forked_child(loop, pair, event):
    """The child takes nothing from the parent's set, whatever it does first."""
    seen = []
    getattr(loop, f"add_{event}")(pair[0], lambda: (seen.append(event), loop.stop()))
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            poll = uv.Poll(uv.Loop.of(loop), pair[0])
            poll.start(print, uv.PollEvent.READABLE)
            status = 0
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pair[1].send(b"x")
    loop.run_forever()
    assert seen == [event]


@pytest.mark.loopfast_only("asyncio has one kernel set")
async def test_watching_takes_no_descriptor(loop, pair):
    before = open_descriptors()
    loop.add_reader(pair[0], print)
    poll = uv.Poll(uv.Loop.of(loop), pair[0])
    poll.start(print, uv.PollEvent.WRITABLE)
    loop.add_writer(pair[1], print)
    assert open_descriptors() == before
    loop.remove_reader(pair[0])
    loop.remove_writer(pair[1])
    poll.close()
    await settle()
    assert open_descriptors() == before


@contextlib.contextmanager
def no_descriptor_left():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_the_first_reader_with_no_descriptor_left(loop, pair):
    seen = []
    with no_descriptor_left():
        loop.add_reader(pair[0], seen.append, "reader")
    pair[1].send(b"x")
    await until(lambda: seen)
    loop.remove_reader(pair[0])


@pytest.mark.loopfast_only("loopfast.uv runs on loopfast's loops")
@pytest.mark.parametrize("first", ["add_reader", "Poll"])
async def test_the_first_descriptor_watched_twice_with_no_descriptor_left(loop, pair, first):
    seen = []
    poll = uv.Poll(uv.Loop.of(loop), pair[0])
    with no_descriptor_left():
        if first == "add_reader":
            loop.add_reader(pair[0], seen.append, "reader")
        poll.start(lambda *arguments: seen.append("poll"), uv.PollEvent.READABLE)
        if first == "Poll":
            loop.add_reader(pair[0], seen.append, "reader")
        pair[1].send(b"x")
        await until(lambda: {"reader", "poll"} <= set(seen))
    loop.remove_reader(pair[0])
    poll.close()
    await settle()


@pytest.mark.loopfast_only("loopfast.uv runs on loopfast's loops")
async def test_no_descriptor_is_left_for_what_libuv_watches_too(loop, pair):
    base = uv.Loop.of(loop)
    seen = []
    loop.add_reader(pair[0], seen.append, "reader")
    other = uv.Poll(base, pair[1])
    with no_descriptor_left():
        poll = uv.Poll(base, pair[0])
        poll.start(lambda *arguments: seen.append("poll"), uv.PollEvent.READABLE)
        other.start(lambda *arguments: None, uv.PollEvent.WRITABLE)
        loop.add_reader(pair[1], seen.append, "other")
        pair[1].send(b"x")
        await until(lambda: {"reader", "poll"} <= set(seen))
    loop.remove_reader(pair[1])
    poll.close()
    other.close()
    await settle()


# --------------------------------------------------------------------------------------------------------------- sock_*


async def test_sock_calls(loop, pair):
    data = pattern(300_000)
    received = bytearray()

    async def receive():
        while len(received) < len(data):
            received.extend(await loop.sock_recv(pair[1], 65536))

    await asyncio.gather(loop.sock_sendall(pair[0], data), receive())
    assert received == data


async def test_sock_recv_into(loop, pair):
    buffer = bytearray(10)
    pair[1].send(b"abc")
    assert await loop.sock_recv_into(pair[0], buffer) == 3
    assert buffer[:3] == b"abc"


async def test_sock_connect_and_accept(loop):
    with socket.socket() as listener, socket.socket() as client:
        listener.bind((LOCALHOST, 0))
        listener.listen()
        listener.setblocking(False)
        client.setblocking(False)
        (accepted, address), _ = await asyncio.gather(
            loop.sock_accept(listener), loop.sock_connect(client, listener.getsockname())
        )
        with accepted:
            assert address == client.getsockname()
            await loop.sock_sendall(client, b"hello")
            assert await loop.sock_recv(accepted, 10) == b"hello"


async def test_sock_connect_refused(loop):
    with socket.socket() as taken:
        taken.bind((LOCALHOST, 0))
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(client, taken.getsockname())


async def test_sock_recv_cancelled(loop, pair):
    task = loop.create_task(loop.sock_recv(pair[0], 10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert loop.remove_reader(pair[0]) is False
    pair[1].send(b"x")
    assert await loop.sock_recv(pair[0], 10) == b"x"


async def test_datagram_sock_calls(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as other:
        for sock in (one, other):
            sock.bind((LOCALHOST, 0))
            sock.setblocking(False)
        assert await loop.sock_sendto(one, b"datagram", other.getsockname()) == 8
        assert await loop.sock_recvfrom(other, 100) == (b"datagram", one.getsockname())
        await loop.sock_sendto(one, b"", other.getsockname())
        buffer = bytearray(10)
        assert await loop.sock_recvfrom_into(other, buffer) == (0, one.getsockname())


async def test_sock_calls_refuse_a_transports_socket(loop):
    async with transport_and_peer() as (transport, _, _):
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(transport.get_extra_info("socket")._sock, 1)


def test_a_closed_object_is_found_by_identity(loop):
    one, other = socket.socketpair()
    with other:
        loop.add_reader(one, print)
        one.close()
        assert loop.remove_writer(one) is False
        assert loop.remove_reader(one) is True
        for remove in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(ValueError):
                remove(one)


def test_a_watched_object_is_kept_until_it_is_removed(loop, pair):
    class Wrapped:
        def fileno(self):
            return number

    number = pair[0].fileno()
    wrapped = Wrapped()
    watched = weakref.ref(wrapped)
    loop.add_reader(wrapped, print)
    del wrapped
    gc.collect()
    assert watched() is not None
    assert loop.remove_reader(number) is True
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("number", [1_000_000, 2**31, 2**40, 2**70])
async def test_a_number_that_no_descriptor_has_is_not_watched(loop, number):
    assert loop.remove_reader(number) is False
    assert loop.remove_writer(number) is False
    with pytest.raises((OSError, OverflowError)):
        loop.add_reader(number, print)

"""connect_read_pipe(): what can be read from, the end of it, pausing, exceptions, descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import gc
import logging
import os
import pty
import socket
import sys
import tty
import warnings

import pytest
from support import Recorder, open_descriptors, pattern, settle, unbuffered, until

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a feature of Linux")


@contextlib.asynccontextmanager
async def reading(protocol=Recorder):
    """A read transport, its protocol, and the unbuffered file to write to."""
    reader, writer = os.pipe()
    transport, proto = await asyncio.get_running_loop().connect_read_pipe(protocol, unbuffered(reader, "rb"))
    with unbuffered(writer, "wb") as file:
        try:
            yield transport, proto, file
        finally:
            transport.close()
            await settle()


def through_pipe(tmp_path):
    reader, writer = os.pipe()
    return unbuffered(reader, "rb"), unbuffered(writer, "wb")


def through_fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    reader = unbuffered(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK), "rb")
    return reader, unbuffered(tmp_path / "fifo", "wb")


def through_socket(tmp_path):
    reader, writer = socket.socketpair()
    return reader, unbuffered(writer.detach(), "wb")


def through_socket_file(tmp_path):
    reader, writer = socket.socketpair()
    file = unbuffered(reader.detach(), "rb")
    return file, unbuffered(writer.detach(), "wb")


def through_text_file(tmp_path):
    reader, writer = os.pipe()
    return open(reader), unbuffered(writer, "wb")


@pytest.mark.parametrize(
    "connected", [through_pipe, through_fifo, through_socket, through_socket_file, through_text_file]
)
async def test_what_can_be_read(loop, tmp_path, connected):
    pipe, writer = connected(tmp_path)
    transport, protocol = await loop.connect_read_pipe(Recorder, pipe)
    assert isinstance(transport, asyncio.ReadTransport) and not isinstance(transport, asyncio.WriteTransport)
    assert transport.get_extra_info("pipe") is pipe
    assert transport.get_extra_info("nothing", 5) == 5
    assert transport.get_protocol() is protocol
    assert not os.get_blocking(pipe.fileno())
    assert transport.is_reading() and not transport.is_closing()
    for text in (b"first", b"second"):
        writer.write(text)
        await until(lambda text=text: protocol.data.endswith(text))
    writer.write(b"last")
    writer.close()
    assert await protocol.lost is None
    assert protocol.events == ["made", "data", "eof", "lost"]
    assert protocol.data == b"firstsecondlast"
    await settle()
    assert pipe.closed if hasattr(pipe, "closed") else pipe.fileno() == -1
    assert transport.is_closing() and not transport.is_reading()
    repr(transport)


# In these cases asyncio's transports are half made and break in their __del__().
half_made = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@half_made
@pytest.mark.parametrize(
    ("pipe", "error"),
    [(0, AttributeError), (None, AttributeError), ("text", AttributeError)],
    ids=["number", "None", "text"],
)
@pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
async def test_what_is_no_file(loop, method, pipe, error):
    with pytest.raises(error):
        await getattr(loop, method)(Recorder, pipe)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("connect_read_pipe", "Pipe transport is for pipes/sockets only."),
        ("connect_write_pipe", "Pipe transport is only for pipes, sockets and character devices"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_regular_files_and_directories(loop, tmp_path, method, message, kind):
    (tmp_path / "file").write_bytes(b"content")
    number = os.open(tmp_path / "file" if kind == "file" else tmp_path, os.O_RDONLY)

    class Pipe:
        def fileno(self):
            return number

    with pytest.raises(ValueError) as info:
        await getattr(loop, method)(Recorder, Pipe())
    assert str(info.value) == message
    # It still belongs to the caller, as it was.
    assert os.get_blocking(number)
    os.close(number)


@half_made
@pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
async def test_closed_files(loop, method):
    reader, writer = os.pipe()
    os.close(writer)
    with unbuffered(reader, "rb") as file:
        pass
    with pytest.raises(ValueError, match="closed file"):
        await getattr(loop, method)(Recorder, file)

    class Pipe:
        def fileno(self):
            return reader

        def close(self):
            pass

    with pytest.raises(OSError) as info:
        await getattr(loop, method)(Recorder, Pipe())
    assert info.value.errno == errno.EBADF


@needs_linux
async def test_dev_null_cannot_be_watched(loop, reports):
    """There is a transport all the same; it reads nothing."""
    file = unbuffered("/dev/null", "rb")
    transport, protocol = await loop.connect_read_pipe(Recorder, file)
    assert isinstance(reports.take()["exception"], PermissionError)
    assert protocol.events == ["made"]
    transport.close()
    assert await protocol.lost is None
    await settle()
    assert file.closed


async def test_large_data(loop):
    data = pattern(3_000_000)
    async with reading() as (_, protocol, file):

        def write():
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

        await loop.run_in_executor(None, write)
        assert await protocol.received(len(data)) == data
        file.close()
        assert await protocol.lost is None
    await loop.shutdown_default_executor()


# ----------------------------------------------------------------------------------------------------- pausing, closing


async def test_pausing(loop):
    async with reading() as (transport, protocol, file):
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        file.write(b"waits")
        await settle()
        assert protocol.data == b""
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        assert await protocol.received(5) == b"waits"


async def test_pausing_in_connection_made(loop):
    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    reader, writer = os.pipe()
    os.write(writer, b"waits")
    os.close(writer)
    transport, protocol = await loop.connect_read_pipe(Protocol, unbuffered(reader, "rb"))
    await settle()
    assert protocol.events == ["made"]
    transport.resume_reading()
    await protocol.lost
    assert protocol.events == ["made", "data", "eof", "lost"]


async def test_pausing_in_data_received(loop):
    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async with reading(Protocol) as (transport, protocol, file):
        file.write(b"one")
        await protocol.received(3)
        file.write(b"two")
        file.close()
        await settle()
        assert protocol.data == b"one"
        transport.resume_reading()
        assert await protocol.received(6) == b"onetwo"
        # Paused again: the end of the file is not seen.
        await settle()
        assert not protocol.eof.done()
        transport.resume_reading()
        assert await protocol.lost is None


async def test_closing(loop):
    async with reading() as (transport, protocol, file):
        pipe = transport.get_extra_info("pipe")
        file.write(b"not read")
        transport.close()
        assert transport.is_closing() and not transport.is_reading()
        assert protocol.events == ["made"] and not pipe.closed
        transport.close()
        transport.pause_reading()
        transport.resume_reading()
        assert await protocol.lost is None
        await settle()
        assert pipe.closed
        with pytest.raises(BrokenPipeError):
            file.write(b"x")
        transport.close()
        transport.pause_reading()
        transport.resume_reading()
        await settle()
        assert protocol.events == ["made", "lost"]


async def test_the_pipe_is_open_inside_connection_lost(loop):
    seen = []

    class Protocol(Recorder):
        def connection_lost(self, exc):
            seen.append(self.transport.get_extra_info("pipe").closed)
            super().connection_lost(exc)

    async with reading(Protocol) as (_, protocol, file):
        file.close()
        await protocol.lost
        assert seen == [False]


@pytest.mark.parametrize("place", ["connection_made", "data_received", "eof_received"])
async def test_closing_inside_callbacks(loop, place):
    def method(self, *arguments):
        result = getattr(Recorder, place)(self, *arguments)
        self.transport.close()
        return result

    reader, writer = os.pipe()
    os.write(writer, b"data")
    os.close(writer)
    protocol = type("Protocol", (Recorder,), {place: method})
    transport, protocol = await loop.connect_read_pipe(protocol, unbuffered(reader, "rb"))
    assert await protocol.lost is None
    await settle()
    expected = {"connection_made": ["made", "lost"], "data_received": ["made", "data", "lost"]}
    assert protocol.events == expected.get(place, ["made", "data", "eof", "lost"])
    assert transport.get_extra_info("pipe").closed


async def test_what_eof_received_returns_does_not_matter(loop):
    class Protocol(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    async with reading(Protocol) as (_, protocol, file):
        file.close()
        assert await protocol.lost is None


async def test_set_protocol(loop):
    async with reading() as (transport, protocol, file):
        later = Recorder()
        later.events.append("made")
        transport.set_protocol(later)
        assert transport.get_protocol() is later
        file.write(b"data")
        await later.received(4)
        file.close()
        await later.lost
        assert protocol.events == ["made"]


async def test_a_cancelled_connect_closes_the_pipe(loop):
    reader, writer = os.pipe()
    pipe = unbuffered(reader, "rb")
    task = loop.create_task(loop.connect_read_pipe(Recorder, pipe))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert pipe.closed
    os.close(writer)


@pytest.mark.parametrize("place", ["connection_made", "data_received", "eof_received", "connection_lost"])
async def test_exceptions_in_callbacks_are_reported(loop, reports, place):
    def method(self, *arguments):
        getattr(Recorder, place)(self, *arguments)
        raise ZeroDivisionError(place)

    async with reading(type("Protocol", (Recorder,), {place: method})) as (transport, protocol, file):
        file.write(b"one")
        await protocol.received(3)
        file.write(b"two")
        assert await protocol.received(6) == b"onetwo"
        assert not transport.is_closing()
        file.close()
        assert await protocol.lost is None
        await settle()
        assert transport.get_extra_info("pipe").closed
        for _ in range(2 if place == "data_received" else 1):
            context = reports.take()
            assert context["message"].startswith("Exception in callback")
            assert str(context["exception"]) == place


async def test_an_error_of_reading_is_reported(loop, reports):
    """The end to write to is given: it becomes ready when the other one is closed, and cannot be read."""
    reader, writer = os.pipe()
    transport, protocol = await loop.connect_read_pipe(Recorder, unbuffered(writer, "wb"))
    os.close(reader)
    error = await protocol.lost
    assert error.errno == errno.EBADF
    context = reports.take()
    assert context["message"] == "Fatal read error on pipe transport"
    assert context["exception"] is error
    assert context["transport"] is transport and context["protocol"] is protocol
    assert protocol.events == ["made", "lost"]


async def test_contexts_of_callbacks(loop):
    variable = contextvars.ContextVar("variable")
    seen = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(("made", variable.get()))
            variable.set("connection_made")

        def data_received(self, data):
            seen.append(("data", variable.get()))
            variable.set("data_received")
            super().data_received(data)

        def eof_received(self):
            seen.append(("eof", variable.get()))

        def connection_lost(self, exc):
            seen.append(("lost", variable.get()))
            super().connection_lost(exc)

    variable.set("creator")
    async with reading(Protocol) as (_, protocol, file):
        variable.set("later")
        file.write(b"one")
        await protocol.received(3)
        file.write(b"two")
        await protocol.received(6)
        file.close()
        await protocol.lost
    last = "data_received"
    assert seen == [("made", "creator"), ("data", "creator"), ("data", last), ("eof", last), ("lost", last)]


# ------------------------------------------------------------------------------------------------------------ terminals


@contextlib.contextmanager
def terminal():
    master, slave = pty.openpty()
    tty.setraw(slave)
    with unbuffered(master, "rb+") as one, unbuffered(slave, "rb+") as other:
        yield one, other


async def test_the_master_of_a_terminal(loop):
    with terminal() as (master, slave):
        transport, protocol = await loop.connect_read_pipe(Recorder, master)
        slave.write(b"from the slave")
        assert await protocol.received(14) == b"from the slave"
        slave.close()
        error = await protocol.lost
        if sys.platform.startswith("linux"):
            # EIO is how a terminal says that it ended; it is not reported.
            assert error.errno == errno.EIO and "eof" not in protocol.events
        await settle()
        assert transport.is_closing() and master.closed


async def test_the_slave_of_a_terminal(loop):
    with terminal() as (master, slave):
        transport, protocol = await loop.connect_read_pipe(Recorder, slave)
        master.write(b"typed")
        assert await protocol.received(5) == b"typed"
        transport.close()
        assert await protocol.lost is None


async def test_reading_and_writing_one_terminal(loop):
    with terminal() as (master, slave):
        os.set_blocking(slave.fileno(), False)
        reader, received = await loop.connect_read_pipe(Recorder, master)
        writer, sent = await loop.connect_write_pipe(Recorder, master)
        for number in range(5):
            writer.write(b"to%d" % number)
            assert slave.read(100) == b"to%d" % number
            slave.write(b"back%d" % number)
            await received.received(5 * number + 5)
        assert received.data == b"back0back1back2back3back4"
        writer.close()
        reader.close()
        assert await sent.lost is None
        assert await received.lost is None


async def test_the_same_socket_for_reading_and_writing(loop):
    one, other = socket.socketpair()
    with other:
        other.setblocking(False)
        reader, received = await loop.connect_read_pipe(Recorder, one)
        # A duplicate: each transport closes its own.
        writer, sent = await loop.connect_write_pipe(Recorder, unbuffered(os.dup(one.fileno()), "wb"))
        writer.write(b"out")
        assert other.recv(10) == b"out"
        other.send(b"in")
        assert await received.received(2) == b"in"
        reader.close()
        await received.lost
        if not writer.is_closing():
            writer.close()
        await sent.lost


async def test_two_readers_of_one_descriptor(loop):
    """The later one gets what comes; both can be closed."""
    reader, writer = os.pipe()
    pipe = unbuffered(reader, "rb")
    first, one = await loop.connect_read_pipe(Recorder, pipe)
    second, two = await loop.connect_read_pipe(Recorder, pipe)
    os.write(writer, b"data")
    await two.received(4)
    assert one.data == b""
    second.close()
    first.close()
    assert await one.lost is None and await two.lost is None
    await settle()
    assert pipe.closed
    os.close(writer)


# ---------------------------------------------------------------------------------------------------------- descriptors


class CountingPipe:
    """A file that counts how often it is closed."""

    def __init__(self, fd):
        self.fd = fd
        self.closes = 0

    def fileno(self):
        return self.fd

    def close(self):
        self.closes += 1
        if self.closes == 1:
            os.close(self.fd)


@pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
async def test_a_descriptor_is_closed_once(loop, method):
    ends = os.pipe()
    mine, other = ends if method == "connect_read_pipe" else ends[::-1]
    pipe = CountingPipe(mine)
    transport, protocol = await getattr(loop, method)(Recorder, pipe)
    transport.close()
    await protocol.lost
    await settle()
    assert pipe.closes == 1
    # The number is somebody else's now.
    os.dup2(other, mine)
    transport.close()
    del transport
    protocol.transport = None
    gc.collect()
    await settle()
    assert pipe.closes == 1
    os.fstat(mine)
    os.close(mine)
    os.close(other)


async def test_a_new_pipe_with_the_number_of_a_closed_one(loop):
    """Closing and opening in one turn, so that the numbers come again, loses no event."""
    for _ in range(50):
        async with reading() as (_, protocol, file):
            file.write(b"data")
            file.close()
            await protocol.lost
            assert protocol.data == b"data"


async def test_descriptors_of_many_pipes(loop):
    before = open_descriptors()
    pairs = [os.pipe() for _ in range(100)]
    connected = [await loop.connect_read_pipe(Recorder, unbuffered(reader, "rb")) for reader, _ in pairs]
    for number, (_, writer) in enumerate(pairs):
        os.write(writer, b"%d" % number)
        os.close(writer)
    for number, (_, protocol) in enumerate(connected):
        assert await protocol.lost is None
        assert protocol.data == b"%d" % number
    await settle()
    assert open_descriptors() == before


@pytest.mark.filterwarnings("default::ResourceWarning")
@pytest.mark.parametrize("loop_closed", [False, True])
@pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
def test_a_transport_nobody_closed(loop_factory, method, loop_closed):
    gc.collect()
    before = open_descriptors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = loop_factory()
        ends = os.pipe()
        mine, other = ends if method == "connect_read_pipe" else ends[::-1]
        pipe = CountingPipe(mine)
        transport, protocol = loop.run_until_complete(
            getattr(loop, method)(lambda loop=loop: asyncio.BaseProtocol(), pipe)
        )
        if loop_closed:
            loop.close()
        del transport, protocol, loop
        gc.collect()
    messages = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    assert any("unclosed transport" in message and f"fd={mine}" in message for message in messages), messages
    assert pipe.closes == 1
    os.close(other)
    assert open_descriptors() == before


def test_a_closed_loop(loop):
    reader, writer = os.pipe()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with unbuffered(reader, "rb") as pipe:
        coroutine = loop.connect_read_pipe(asyncio.Protocol, pipe)
        with warnings.catch_warnings(), pytest.raises(RuntimeError, match="Event loop is closed"):
            warnings.simplefilter("ignore", ResourceWarning)
            coroutine.send(None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del coroutine
            gc.collect()
    os.close(writer)


async def test_debug_mode_logs(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 100
    reader, writer = os.pipe()
    with caplog.at_level(logging.DEBUG, "asyncio"):
        incoming, received = await loop.connect_read_pipe(Recorder, unbuffered(reader, "rb"))
        outgoing, _ = await loop.connect_write_pipe(Recorder, unbuffered(writer, "wb"))
        incoming.pause_reading()
        incoming.resume_reading()
        outgoing.close()
        await received.lost
    loop.set_debug(False)
    messages = [record.getMessage() for record in caplog.records]
    for start, end in (
        (f"Read pipe {reader} connected: (", ")"),
        (f"Write pipe {writer} connected: (", ")"),
        ("", "pauses reading"),
        ("", "resumes reading"),
        ("", "was closed by peer"),
    ):
        assert any(message.startswith(start) and message.endswith(end) for message in messages), (start, messages)


async def test_streams_on_pipes(loop):
    read_end, write_end = os.pipe()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), unbuffered(read_end, "rb"))
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop), unbuffered(write_end, "wb")
    )
    transport.write(b"line one\nline two\nrest")
    assert await reader.readline() == b"line one\n"
    assert await reader.readline() == b"line two\n"
    transport.close()
    assert await reader.read() == b"rest"
    assert reader.at_eof() and transport.get_protocol() in (protocol, None)
    await settle()

"""connect_write_pipe(): data, the queue and its limits, the end from either side, exceptions."""

from __future__ import annotations

import array
import asyncio
import contextlib
import contextvars
import errno
import gc
import os
import pty
import socket
import sys
import tty
import weakref

import pytest
from support import Recorder, pattern, settle, unbuffered, until


@contextlib.asynccontextmanager
async def writing(protocol=Recorder):
    """A write transport, its protocol, and the non-blocking descriptor to read from."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    transport, proto = await asyncio.get_running_loop().connect_write_pipe(protocol, unbuffered(writer, "wb"))
    with unbuffered(reader, "rb") as file:
        try:
            yield transport, proto, file
        finally:
            if not transport.is_closing():
                transport.abort()
            await settle()


async def read(file, size):
    data = bytearray()
    while len(data) < size:
        piece = file.read(min(size - len(data), 1 << 20))
        if piece is None:
            await asyncio.sleep(0.0005)
            continue
        assert piece, f"end of file after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


async def read_all(file):
    data = bytearray()
    while (piece := file.read(1 << 20)) != b"":
        if piece is None:
            await asyncio.sleep(0.0005)
        else:
            data += piece
    return bytes(data)


def fill(transport):
    """Write until bytes are queued; return how many bytes were written."""
    size = 0
    while not transport.get_write_buffer_size():
        transport.write(bytes(100_000))
        size += 100_000
    return size


# -------------------------------------------------------------------------------------------------------------- writing


async def test_writing(loop):
    async with writing() as (transport, protocol, file):
        pipe = transport.get_extra_info("pipe")
        assert isinstance(transport, asyncio.WriteTransport)
        assert not os.get_blocking(pipe.fileno())
        assert transport.get_protocol() is protocol
        assert transport.can_write_eof() and not transport.is_closing()
        assert transport.write(b"at once") is None
        assert file.read(100) == b"at once"
        assert transport.write(bytearray()) is None
        transport.writelines([b"several", bytearray(b" "), memoryview(b"pieces")])
        assert await read(file, 14) == b"several pieces"
        transport.writelines(iter([b"x", b"y"]))
        assert await read(file, 2) == b"xy"
        transport.close()
        assert await protocol.lost is None
        assert protocol.events == ["made", "lost"]
        assert await read_all(file) == b""
        await settle()
        assert pipe.closed


@pytest.mark.parametrize(
    "data", [b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), memoryview(bytearray(b"xabcdx"))[1:5]]
)
@pytest.mark.parametrize("queued", [False, True])
async def test_data_of_every_type(loop, data, queued):
    async with writing() as (transport, _, file):
        before = fill(transport) if queued else 0
        size = transport.get_write_buffer_size()
        transport.write(data)
        if queued:
            assert transport.get_write_buffer_size() == size + 4
        assert (await read(file, before + 4))[before:] == b"abcd"


@pytest.mark.parametrize(
    "data", ["text", None, 5, [b"x"], array.array("b", b"x")], ids=lambda data: type(data).__name__
)
async def test_data_of_a_wrong_type(loop, data):
    async with writing() as (transport, _, file):
        with pytest.raises((AssertionError, TypeError)):
            transport.write(data)
        assert not transport.is_closing()
        transport.write(b"still usable")
        assert await read(file, 12) == b"still usable"


async def test_empty_data(loop):
    async with writing() as (transport, _, file):
        for empty in (b"", bytearray(), memoryview(b"")):
            transport.write(empty)
        transport.writelines([])
        assert transport.get_write_buffer_size() == 0
        assert file.read(1) is None


@pytest.mark.parametrize("queued", [False, True])
async def test_data_changed_after_write(loop, queued):
    async with writing() as (transport, _, file):
        before = fill(transport) if queued else 0
        data = bytearray(pattern(200_000))
        transport.write(data)
        transport.write(memoryview(data)[:1000])
        data[:] = b"\xff" * len(data)
        data.clear()
        content = pattern(200_000)
        assert (await read(file, before + 201_000))[before:] == content + content[:1000]


async def test_large_data_in_order(loop):
    data = pattern(3_000_000)
    async with writing() as (transport, protocol, file):
        for start in range(0, len(data), 70_001):
            transport.write(data[start : start + 70_001])
        transport.close()
        assert await read_all(file) == data
        assert await protocol.lost is None


# --------------------------------------------------------------------------------------------------------- flow control


async def test_flow_control(loop):
    async with writing() as (transport, protocol, file):
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        size = 0
        while "pause" not in protocol.events:
            assert transport.get_write_buffer_size() <= 64 * 1024
            transport.write(bytes(1000))
            size += 1000
        assert 64 * 1024 < transport.get_write_buffer_size() <= 64 * 1024 + 1000
        transport.write(bytes(1000))
        assert protocol.events == ["made", "pause"]
        await read(file, size + 1000)
        await until(lambda: "resume" in protocol.events)
        assert transport.get_write_buffer_size() == 0
        assert protocol.events == ["made", "pause", "resume"]


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ({}, (16 * 1024, 64 * 1024)),
        ({"high": 5000}, (1250, 5000)),
        ({"low": 100}, (100, 400)),
        ({"high": 0}, (0, 0)),
        ({"high": 3000, "low": 2000}, (2000, 3000)),
    ],
)
async def test_limits(loop, arguments, limits):
    async with writing() as (transport, protocol, file):
        transport.set_write_buffer_limits(**arguments)
        assert transport.get_write_buffer_limits() == limits
        size = 0
        while transport.get_write_buffer_size() <= limits[1]:
            assert "pause" not in protocol.events
            transport.write(bytes(500))
            size += 500
        assert protocol.events == ["made", "pause"]
        for bad in ({"high": 10, "low": 20}, {"high": -1}, {"low": -1}):
            with pytest.raises(ValueError, match="must be >= low"):
                transport.set_write_buffer_limits(**bad)
        await read(file, size)
        await until(lambda: "resume" in protocol.events)


async def test_resume_comes_when_all_is_written(loop):
    """asyncio looks at the limit only when nothing is left, so that a protocol that goes on finds it empty."""
    sizes = []

    class Protocol(Recorder):
        def resume_writing(self):
            super().resume_writing()
            sizes.append(self.transport.get_write_buffer_size())

    async with writing(Protocol) as (transport, _, file):
        size = fill(transport)
        transport.write(bytes(500_000))
        await read(file, size + 500_000)
        await until(lambda: sizes)
        assert sizes == [0]


async def test_writing_inside_resume_writing(loop):
    class Protocol(Recorder):
        def resume_writing(self):
            super().resume_writing()
            if self.events.count("resume") < 3:
                self.transport.write(bytes(300_000))

    async with writing(Protocol) as (transport, protocol, file):
        transport.write(bytes(300_000))
        await read(file, 900_000)
        await until(lambda: protocol.events.count("resume") == 3)
        assert protocol.events == ["made", *["pause", "resume"] * 3]


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
async def test_an_exception_in_flow_control_is_reported(loop, reports, name):
    def method(self):
        raise ZeroDivisionError(name)

    async with writing(type("Protocol", (Recorder,), {name: method})) as (transport, protocol, file):
        transport.write(bytes(300_000))
        await read(file, 300_000)
        await until(lambda: reports)
        context = reports.take()
        assert context["message"] == f"protocol.{name}() failed"
        assert str(context["exception"]) == name
        assert context["transport"] is transport and context["protocol"] is protocol
        transport.write(b"still usable")
        assert await read(file, 12) == b"still usable"


@pytest.mark.parametrize("name", ["connection_made", "connection_lost"])
async def test_an_exception_in_a_callback_is_reported(loop, reports, name):
    def method(self, *arguments):
        getattr(Recorder, name)(self, *arguments)
        raise ZeroDivisionError(name)

    async with writing(type("Protocol", (Recorder,), {name: method})) as (transport, protocol, file):
        transport.write(b"data")
        assert await read(file, 4) == b"data"
        transport.close()
        assert await protocol.lost is None
        await settle()
        assert str(reports.take()["exception"]) == name
        assert transport.get_extra_info("pipe").closed


# -------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("method", ["close", "write_eof"])
async def test_the_end_comes_after_what_is_queued(loop, method):
    async with writing() as (transport, protocol, file):
        transport.write(pattern(500_000))
        getattr(transport, method)()
        assert transport.is_closing()
        transport.write(b"too late")
        transport.close()
        transport.write_eof()
        await settle()
        assert not protocol.lost.done()
        assert await read_all(file) == pattern(500_000)
        assert await protocol.lost is None
        assert protocol.events == ["made", "pause", "resume", "lost"]


@pytest.mark.parametrize("closed_before", [False, True])
async def test_abort_drops_what_is_queued(loop, closed_before):
    async with writing() as (transport, protocol, file):
        transport.write(bytes(500_000))
        written = 500_000 - transport.get_write_buffer_size()
        if closed_before:
            transport.close()
        transport.abort()
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        assert len(await read_all(file)) == written
        assert protocol.events.count("lost") == 1


async def test_queued_memory_is_released(loop):
    class Data(bytearray):
        pass

    async with writing() as (transport, protocol, _):
        fill(transport)
        data = Data(100_000)
        reference = weakref.ref(data)
        transport.write(data)
        transport.writelines([data])
        transport.abort()
        await protocol.lost
        del data
        gc.collect()
        assert reference() is None


@pytest.mark.parametrize("idle", [True, False])
async def test_the_reader_goes_away(loop, idle):
    """Nothing is reported: connection_lost() tells."""
    async with writing() as (transport, protocol, file):
        if not idle:
            transport.write(bytes(500_000))
        file.close()
        error = await protocol.lost
        assert error is None if idle else isinstance(error, BrokenPipeError)
        assert transport.is_closing() and transport.get_write_buffer_size() == 0
        assert protocol.events == ["made", "lost"] if idle else ["made", "pause", "lost"]
        await settle()
        assert transport.get_extra_info("pipe").closed


async def test_the_reader_goes_away_while_closing_with_data_queued(loop):
    async with writing() as (transport, protocol, file):
        transport.write(bytes(500_000))
        transport.close()
        file.close()
        assert isinstance(await protocol.lost, BrokenPipeError)
        await settle()
        assert protocol.events.count("lost") == 1


async def test_writing_before_the_loop_knows_that_the_reader_is_gone(loop, caplog):
    async with writing() as (transport, protocol, file):
        file.close()
        transport.write(b"x")
        assert transport.is_closing()
        for _ in range(6):
            transport.write(b"x")
        error = await protocol.lost
        assert isinstance(error, BrokenPipeError) and error.errno == errno.EPIPE
        message = "pipe closed by peer or os.write(pipe, data) raised exception."
        assert [record.getMessage() for record in caplog.records] == [message] * 2
        transport.write(b"x")
        await settle()
        assert protocol.events == ["made", "lost"]


async def test_an_error_of_writing(loop):
    """The end to read from is given."""
    reader, writer = os.pipe()
    transport, protocol = await loop.connect_write_pipe(Recorder, unbuffered(reader, "rb"))
    transport.write(b"x")
    error = await protocol.lost
    assert error.errno == errno.EBADF
    os.close(writer)


async def test_methods_after_the_end(loop):
    async with writing() as (transport, protocol, _):
        transport.close()
        await protocol.lost
        await settle()
        transport.close()
        transport.write_eof()
        transport.write(b"x")
        transport.writelines([b"x"])
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert transport.get_extra_info("pipe").closed
        repr(transport)
        await settle()
        assert protocol.events == ["made", "lost"]


async def test_set_protocol(loop):
    async with writing() as (transport, protocol, _):
        later = Recorder()
        transport.set_protocol(later)
        assert transport.get_protocol() is later
        transport.write(bytes(500_000))
        assert later.events == ["pause"]
        transport.abort()
        await later.lost
        assert protocol.events == ["made"]


async def test_a_cancelled_connect_closes_the_pipe(loop):
    reader, writer = os.pipe()
    pipe = unbuffered(writer, "wb")
    task = loop.create_task(loop.connect_write_pipe(Recorder, pipe))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert pipe.closed
    os.close(reader)


async def test_contexts_of_callbacks(loop):
    variable = contextvars.ContextVar("variable")
    seen = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(("made", variable.get()))

        def pause_writing(self):
            seen.append(("pause", variable.get()))

        def resume_writing(self):
            seen.append(("resume", variable.get()))

        def connection_lost(self, exc):
            seen.append(("lost", variable.get()))
            super().connection_lost(exc)

    variable.set("creator")
    async with writing(Protocol) as (transport, protocol, file):
        variable.set("writer")
        transport.write(bytes(500_000))
        variable.set("closer")
        await read(file, 500_000)
        await until(lambda: len(seen) == 3)
        transport.close()
        await protocol.lost
    assert seen == [("made", "creator"), ("pause", "writer"), ("resume", "writer"), ("lost", "closer")]


# ---------------------------------------------------------------------------------------------------- other descriptors


async def test_a_fifo(loop, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with unbuffered(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        transport, protocol = await loop.connect_write_pipe(Recorder, unbuffered(tmp_path / "fifo", "wb"))
        transport.write(pattern(300_000))
        transport.close()
        assert await read_all(reader) == pattern(300_000)
        assert await protocol.lost is None


async def test_dev_null(loop):
    file = unbuffered("/dev/null", "wb")
    transport, protocol = await loop.connect_write_pipe(Recorder, file)
    transport.write(bytes(1_000_000))
    assert transport.get_write_buffer_size() == 0
    transport.close()
    assert await protocol.lost is None
    await settle()
    assert file.closed and protocol.events == ["made", "lost"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
async def test_a_device_that_is_full(loop):
    transport, protocol = await loop.connect_write_pipe(Recorder, unbuffered("/dev/full", "wb"))
    transport.write(b"x")
    assert (await protocol.lost).errno == errno.ENOSPC
    assert transport.is_closing()


async def test_a_socket(loop):
    one, other = socket.socketpair()
    with other, other.makefile("rb", 0) as file:
        other.setblocking(False)
        transport, protocol = await loop.connect_write_pipe(Recorder, one)
        assert transport.get_extra_info("pipe") is one
        transport.write(pattern(500_000))
        transport.write_eof()
        assert await read_all(file) == pattern(500_000)
        assert await protocol.lost is None
        await settle()
        assert one.fileno() == -1


@pytest.mark.parametrize("what", ["closes", "sends"])
async def test_the_other_end_of_a_socket(loop, what):
    """Whatever can be read from a socket that is only written to counts as its end."""
    one, other = socket.socketpair()
    transport, protocol = await loop.connect_write_pipe(Recorder, one)
    other.close() if what == "closes" else other.send(b"unexpected")
    assert await protocol.lost is None
    assert protocol.events == ["made", "lost"] and transport.is_closing()
    other.close()


async def test_a_text_file(loop):
    reader, writer = os.pipe()
    file = os.fdopen(writer, "w")
    transport, protocol = await loop.connect_write_pipe(Recorder, file)
    transport.write(b"bytes")
    assert os.read(reader, 10) == b"bytes"
    transport.close()
    await protocol.lost
    await settle()
    assert file.closed
    os.close(reader)


async def test_a_terminal(loop):
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    with unbuffered(master, "rb") as file:
        transport, protocol = await loop.connect_write_pipe(Recorder, unbuffered(slave, "wb"))
        transport.write(pattern(20_000))
        # A terminal holds some thousand bytes.
        assert transport.get_write_buffer_size() > 0
        assert await read(file, 20_000) == pattern(20_000)
        transport.close()
        assert await protocol.lost is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a feature of Linux")
async def test_hundreds_of_pipes(loop):
    pairs = [os.pipe() for _ in range(200)]
    connected = [await loop.connect_write_pipe(Recorder, unbuffered(writer, "wb")) for _, writer in pairs]
    for number, (transport, _) in enumerate(connected):
        transport.write(b"%03d" % number * 30_000)
        transport.close()
    for number, (reader, _) in enumerate(pairs):
        os.set_blocking(reader, False)
        with unbuffered(reader, "rb") as file:
            assert await read_all(file) == b"%03d" % number * 30_000
    for _, protocol in connected:
        assert await protocol.lost is None

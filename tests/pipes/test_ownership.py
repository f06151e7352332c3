"""Pipes stay their users': closed, watched or made blocking elsewhere. What the compiled reads and writes must keep."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from support import Recorder, pattern, settle, unbuffered, until


class Chunks(Recorder):
    """A Recorder that keeps, or at once forgets, every object it gets, and all their contents as they were."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep
        self.kept = []
        self.contents = []

    def data_received(self, data):
        assert type(data) is bytes
        self.contents.append(bytes(bytearray(data)))
        if self.keep:
            self.kept.append(data)
        super().data_received(data)


# ------------------------------------------------------------------------------------------------ somebody else's hand


async def test_a_writing_end_closed_behind_the_transport(loop):
    """The reader sees the end at once: the transport holds no duplicate."""
    reader, writer = os.pipe()
    pipe = unbuffered(writer, "wb")
    transport, protocol = await loop.connect_write_pipe(Recorder, pipe)
    transport.write(b"last words")
    pipe.close()
    assert os.read(reader, 100) == b"last words"
    os.set_blocking(reader, False)
    assert os.read(reader, 100) == b""
    transport.close()
    assert await protocol.lost is None
    os.close(reader)


async def test_a_reading_end_closed_behind_the_transport(loop):
    reader, writer = os.pipe()
    pipe = unbuffered(reader, "rb")
    transport, protocol = await loop.connect_read_pipe(Recorder, pipe)
    os.write(writer, b"data")
    await protocol.received(4)
    pipe.close()
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"more")
    await settle()
    assert "lost" not in protocol.events
    transport.close()
    assert await protocol.lost is None
    assert protocol.data == b"data"
    os.close(writer)


async def test_a_number_that_became_another_pipe(loop):
    """With its number given to another pipe, the transport writes to that one, as it wrote to the number before."""
    reader, writer = os.pipe()
    other_reader, other_writer = os.pipe()
    transport, protocol = await loop.connect_write_pipe(Recorder, unbuffered(writer, "wb"))
    os.dup2(other_writer, writer)
    transport.write(b"data")
    assert os.read(other_reader, 100) == b"data"
    transport.close()
    assert await protocol.lost is None
    for fd in (reader, other_reader, other_writer):
        os.close(fd)


async def test_a_reader_of_the_user_takes_the_place_of_the_transport(loop):
    reader, writer = os.pipe()
    transport, protocol = await loop.connect_read_pipe(Recorder, unbuffered(reader, "rb"))
    read = []
    loop.add_reader(reader, lambda: read.append(os.read(reader, 100)))
    os.write(writer, b"for the reader")
    await until(lambda: read)
    assert read == [b"for the reader"] and protocol.data == b""
    # Pausing and resuming brings it back.
    transport.pause_reading()
    transport.resume_reading()
    os.write(writer, b"for the transport")
    assert await protocol.received(17) == b"for the transport"
    transport.close()
    await protocol.lost
    os.close(writer)


async def test_no_descriptor_beside_the_users(loop):
    reader, writer = os.pipe()
    used = set(os.listdir("/dev/fd"))
    incoming, received = await loop.connect_read_pipe(Recorder, unbuffered(reader, "rb"))
    outgoing, sent = await loop.connect_write_pipe(Recorder, unbuffered(writer, "wb"))
    await settle()
    with_pipes = set(os.listdir("/dev/fd"))
    more = [os.pipe() for _ in range(5)]
    pipes = [unbuffered(end, "rb") for end, _ in more]
    before = len(os.listdir("/dev/fd"))
    connected = [await loop.connect_read_pipe(Recorder, pipe) for pipe in pipes]
    await settle()
    assert len(os.listdir("/dev/fd")) == before
    # The first pipe may have cost the loop a set to watch descriptors in.
    assert len(with_pipes - used) <= 1
    for transport, protocol in (*connected, (incoming, received), (outgoing, sent)):
        transport.close()
        await protocol.lost
    for _, end in more:
        os.close(end)


async def test_a_pipe_that_somebody_made_blocking(loop):
    """The flag belongs to all who share the pipe. A write that blocks lets the other threads of the process run."""
    reader, writer = os.pipe()
    size = 1_000_000
    read = []

    def drain():
        data = bytearray()
        while piece := os.read(reader, 50_000):
            data += piece
        read.append(bytes(data))

    transport, protocol = await loop.connect_write_pipe(Recorder, unbuffered(writer, "wb"))
    os.set_blocking(writer, True)
    thread = threading.Thread(target=drain)
    thread.start()
    transport.write(pattern(size))
    transport.close()
    assert await protocol.lost is None
    await asyncio.to_thread(thread.join)
    os.close(reader)
    assert read == [pattern(size)]


# ------------------------------------------------------------------------------------------------ what must not change


@pytest.mark.parametrize("keep", [True, False])
async def test_received_objects_are_the_protocols(loop, keep):
    """What it keeps never changes, however many reads follow; sizes go up and down."""
    reader, writer = os.pipe()
    transport, protocol = await loop.connect_read_pipe(lambda: Chunks(keep), unbuffered(reader, "rb"))
    sizes = [1, 2, 1000, 10, 999, 1000, 4096, 4097, 3, 4095, 1, 2, 60_000, 5]
    sent = bytearray()
    for number, size in enumerate(sizes):
        piece = bytes([number + 1]) * size
        os.write(writer, piece)
        sent += piece
        await protocol.received(len(sent))
    assert b"".join(protocol.contents) == sent
    if keep:
        assert protocol.kept == protocol.contents
    transport.close()
    await protocol.lost
    os.close(writer)


async def test_the_size_of_one_read(loop):
    reader, writer = os.pipe()
    os.write(writer, pattern(50_000))
    transport, protocol = await loop.connect_read_pipe(lambda: Chunks(True), unbuffered(reader, "rb"))
    transport.max_size = 12_000
    assert await protocol.received(50_000) == pattern(50_000)
    assert [len(piece) for piece in protocol.kept] == [12_000] * 4 + [2_000]
    transport.max_size = 1 << 20
    os.write(writer, pattern(60_000))
    os.close(writer)
    assert await protocol.lost is None
    assert protocol.data == pattern(50_000) + pattern(60_000)


async def test_the_rest_of_a_write_that_the_pipe_took_in_part(loop):
    """Data of every kind, beside the buffer's edge: nothing is lost or sent twice."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    transport, _ = await loop.connect_write_pipe(Recorder, unbuffered(writer, "wb"))
    room = 0
    while not transport.get_write_buffer_size():
        transport.write(bytes(4096))
        room += 4096
    room -= transport.get_write_buffer_size()
    with unbuffered(reader, "rb") as file:

        async def read(size):
            data = bytearray()
            while len(data) < size:
                data += file.read(size - len(data)) or b""
                await asyncio.sleep(0)
            return bytes(data)

        await read(room + transport.get_write_buffer_size())
        await until(lambda: not transport.get_write_buffer_size())
        for size in (room - 1, room, room + 1, 2 * room, 3 * room + 5):
            for kind in (bytes, bytearray, memoryview):
                transport.write(kind(pattern(size)))
                assert transport.get_write_buffer_size() == max(0, size - room)
                transport.write(b"next")
                assert await read(size + 4) == pattern(size) + b"next"
                await until(lambda: not transport.get_write_buffer_size())
        transport.abort()
        await settle()

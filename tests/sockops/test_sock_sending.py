"""sock_sendall, sock_sendto and sock_sendfile: at once and in parts, cancelled, kinds of bytes, files."""

from __future__ import annotations

import array
import asyncio
import contextlib
import io
import os
import socket
import struct
import tempfile

import pytest
from sockops import cancelled, fill, first_step, pair, udp_pair, waiting
from support import LOCALHOST, pattern, read_exactly, settle

MIB = 1 << 20


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# --------------------------------------------------------------------------------------------------------- sock_sendall


async def test_what_fits_is_sent_without_waiting(loop):
    with pair() as (mine, peer):
        assert first_step(loop.sock_sendall(mine, b"hello")) is None
        assert peer.recv(100) == b"hello"
        assert loop.remove_writer(mine) is False


async def test_the_first_part_is_sent_at_once(loop):
    with pair(send_buffer=131072) as (mine, peer):
        coroutine = loop.sock_sendall(mine, bytes(8 * MIB))
        waits_for = coroutine.send(None)
        assert asyncio.isfuture(waits_for) and waits_for.get_loop() is loop
        # Nothing of the loop has run since.
        assert len(peer.recv(1 << 20)) > 0
        waits_for.cancel()
        with pytest.raises(asyncio.CancelledError):
            coroutine.throw(asyncio.CancelledError())
        await settle()
        assert loop.remove_writer(mine) is False


@pytest.mark.parametrize("size", [1, 100_000, 8 * MIB])
async def test_everything_arrives(loop, size):
    data = pattern(size)
    with pair(send_buffer=131072) as (mine, peer):
        reading = asyncio.ensure_future(read_exactly(peer, size))
        assert await loop.sock_sendall(mine, data) is None
        assert await reading == data
        await settle()
        assert loop.remove_writer(mine) is False


async def test_a_socket_that_is_full_at_first(loop):
    with pair(send_buffer=131072) as (mine, peer):
        before = fill(mine)
        task = await waiting(loop.sock_sendall(mine, b"after"))
        assert await read_exactly(peer, before + 5) == bytes(before) + b"after"
        await task


@pytest.mark.parametrize(
    "make",
    [bytes, bytearray, memoryview, lambda data: array.array("B", data), lambda data: memoryview(bytearray(data))],
    ids=["bytes", "bytearray", "memoryview", "array", "memoryview of a bytearray"],
)
@pytest.mark.parametrize("size", [10, 4 * MIB])
async def test_kinds_of_bytes(loop, make, size):
    data = pattern(size)
    with pair(send_buffer=131072) as (mine, peer):
        reading = asyncio.ensure_future(read_exactly(peer, size))
        await loop.sock_sendall(mine, make(data))
        assert await reading == data


@pytest.mark.parametrize("data", [b"", bytearray(), memoryview(b"")], ids=["bytes", "bytearray", "memoryview"])
async def test_nothing(loop, data):
    with pair() as (mine, peer):
        assert await loop.sock_sendall(mine, data) is None
        await loop.sock_sendall(mine, b"x")
        assert peer.recv(10) == b"x"


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"], object], ids=repr)
async def test_what_is_no_bytes(loop, data):
    with pair() as (mine, peer):
        with pytest.raises(TypeError):
            await loop.sock_sendall(mine, data)
        with pytest.raises(TypeError):
            await loop.sock_sendto(mine, data, peer.getsockname())
        await loop.sock_sendall(mine, b"x")
        assert peer.recv(10) == b"x"


async def test_a_bytearray_is_free_after_the_call(loop):
    data = bytearray(pattern(4 * MIB))
    with pair(send_buffer=131072) as (mine, peer):
        reading = asyncio.ensure_future(read_exactly(peer, len(data)))
        await loop.sock_sendall(mine, data)
        await reading
        await settle()
        data.clear()
        data.extend(bytes(4 * MIB))
        task = await waiting(loop.sock_sendall(mine, data))
        await cancelled(task)
        await settle()
        data.clear()


@pytest.mark.parametrize("when", ["full", "in the middle"])
async def test_a_cancelled_call_sends_no_more(loop, when):
    with pair(send_buffer=131072) as (mine, peer):
        size = fill(mine) if when == "full" else 0
        task = await waiting(loop.sock_sendall(mine, b"x" * 8 * MIB))
        if when == "in the middle":
            size += len(await read_exactly(peer, 300_000))
            await settle()
        await cancelled(task)
        await settle()
        assert loop.remove_writer(mine) is False
        mine.shutdown(socket.SHUT_WR)
        received = bytearray()
        while piece := await loop.sock_recv(peer, MIB):
            received += piece
        assert size + len(received) < 8 * MIB
        if when == "full":
            assert received == bytes(size)


async def test_cancelled_before_it_began(loop):
    with pair() as (mine, peer):
        task = asyncio.ensure_future(loop.sock_sendall(mine, b"x"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        mine.close()
        assert await loop.sock_recv(peer, 10) == b""


async def test_the_peer_resets_meanwhile(loop):
    with pair(send_buffer=131072) as (mine, peer):
        task = await waiting(loop.sock_sendall(mine, bytes(8 * MIB)))
        reset(peer)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await task
        await settle()
        assert loop.remove_writer(mine) is False
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await loop.sock_sendall(mine, b"x")


async def test_after_shutdown(loop):
    with pair() as (mine, _):
        mine.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            await loop.sock_sendall(mine, b"x")


async def test_of_two_waiting_calls_the_later_goes_on(loop):
    with pair(send_buffer=131072) as (mine, peer):
        before = fill(mine)
        first = await waiting(loop.sock_sendall(mine, b"first"))
        second = await waiting(loop.sock_sendall(mine, b"second"))
        assert await read_exactly(peer, before + 6) == bytes(before) + b"second"
        await second
        await settle()
        assert not first.done()
        await cancelled(first)


async def test_a_writer_callback_replaces_a_waiting_call(loop):
    with pair(send_buffer=131072) as (mine, peer):
        before = fill(mine)
        task = await waiting(loop.sock_sendall(mine, b"never"))
        writable = asyncio.Event()
        loop.add_writer(mine, writable.set)
        await read_exactly(peer, before)
        await writable.wait()
        assert not task.done()
        await cancelled(task)
        await settle()
        writable.clear()
        await writable.wait()
        assert loop.remove_writer(mine) is True


async def test_sending_while_receiving_waits(loop):
    with pair() as (mine, peer):
        receiving = await waiting(loop.sock_recv(mine, 100))
        await loop.sock_sendall(mine, b"question")
        assert not receiving.done()
        assert peer.recv(100) == b"question"
        peer.send(b"answer")
        assert await receiving == b"answer"


async def test_receiving_goes_on_when_sending_is_cancelled(loop):
    with pair(send_buffer=131072) as (mine, peer):
        fill(mine)
        receiving = await waiting(loop.sock_recv(mine, 100))
        await cancelled(await waiting(loop.sock_sendall(mine, b"x")))
        peer.send(b"answer")
        assert await receiving == b"answer"


# ---------------------------------------------------------------------------------------------------------- sock_sendto


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
async def test_sendto(loop, make):
    with udp_pair() as (mine, peer):
        address = peer.getsockname()
        assert first_step(loop.sock_sendto(mine, make(b"hello"), address)) == 5
        assert await loop.sock_sendto(mine, make(b""), address) == 0
        assert peer.recvfrom(100) == (b"hello", mine.getsockname())
        assert peer.recvfrom(100) == (b"", mine.getsockname())


async def test_sendto_of_what_is_too_long(loop):
    with udp_pair() as (mine, peer):
        with pytest.raises(OSError) as info:
            await loop.sock_sendto(mine, bytes(70_000), peer.getsockname())
        assert info.value.errno is not None
        assert await loop.sock_sendto(mine, b"x", peer.getsockname()) == 1


@pytest.mark.parametrize(
    "address", ["text", 5, None, (LOCALHOST,), (LOCALHOST, "9"), (LOCALHOST, 9, 0, 0, 0)], ids=repr
)
async def test_addresses_that_are_none(loop, address):
    with udp_pair() as (mine, _):
        with pytest.raises(TypeError) as theirs:
            mine.sendto(b"x", address)
        with pytest.raises(TypeError) as info:
            await loop.sock_sendto(mine, b"x", address)
        assert str(info.value) == str(theirs.value)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the platform has no UNIX sockets")
async def test_sendto_waits_for_room(loop, tmp_path):
    """A UNIX datagram socket is full when the receiver's queue is."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer,
    ):
        address = str(tmp_path / "peer")
        peer.bind(address)
        # Connected too: only then the kernel says when there is room.
        mine.connect(address)
        for sock in (mine, peer):
            sock.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                mine.sendto(b"%d" % sent, address)
                sent += 1
        task = await waiting(loop.sock_sendto(mine, b"last", address))
        received = [peer.recv(100) for _ in range(sent)]
        assert await task == 4
        assert [*received, peer.recv(100)] == [*(b"%d" % number for number in range(sent)), b"last"]
        await settle()
        assert loop.remove_writer(mine) is False

        for _ in range(sent):
            mine.sendto(b"again", address)
        await cancelled(await waiting(loop.sock_sendto(mine, b"never", address)))
        await settle()
        assert loop.remove_writer(mine) is False
        assert {peer.recv(100) for _ in range(sent)} == {b"again"}
        with pytest.raises(BlockingIOError):
            peer.recv(100)


# -------------------------------------------------------------------------------------------------------- sock_sendfile


@contextlib.contextmanager
def file_of(data, kind):
    """A file with *data*: one of the file system, which the kernel sends itself, or one in memory."""
    with tempfile.TemporaryFile() if kind == "file" else io.BytesIO() as file:
        file.write(data)
        file.flush()
        file.seek(0)
        yield file


kinds = pytest.mark.parametrize("kind", ["file", "memory"])


@kinds
async def test_sendfile(loop, kind):
    data = pattern(3 * MIB)
    with pair(send_buffer=131072) as (mine, peer), file_of(data, kind) as file:
        reading = asyncio.ensure_future(read_exactly(peer, len(data)))
        assert await loop.sock_sendfile(mine, file) == len(data)
        assert file.tell() == len(data)
        assert await reading == data
        await settle()
        assert loop.remove_writer(mine) is False


@kinds
@pytest.mark.parametrize(
    "offset, count, expected", [(0, 10, 10), (100, None, 900), (100, 10, 10), (990, 100, 10), (1000, None, 0)]
)
async def test_sendfile_of_a_part(loop, kind, offset, count, expected):
    data = pattern(1000)
    with pair() as (mine, peer), file_of(data, kind) as file:
        assert await loop.sock_sendfile(mine, file, offset, count) == expected
        await loop.sock_sendall(mine, b"end")
        assert await read_exactly(peer, expected + 3) == data[offset : offset + expected] + b"end"
        if expected:
            assert file.tell() == offset + expected


@kinds
async def test_sendfile_of_an_empty_file(loop, kind):
    with pair() as (mine, peer), file_of(b"", kind) as file:
        assert await loop.sock_sendfile(mine, file) == 0
        await loop.sock_sendall(mine, b"x")
        assert peer.recv(10) == b"x"


async def test_sendfile_without_the_fallback(loop):
    with pair() as (mine, _), file_of(b"data", "memory") as file:
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sock_sendfile(mine, file, fallback=False)
        assert file.tell() == 0


@pytest.mark.skipif(not hasattr(os, "sendfile"), reason="the platform has no sendfile()")
async def test_sendfile_of_a_pipe(loop):
    read_end, write_end = os.pipe()
    os.write(write_end, b"of a pipe")
    os.close(write_end)
    with pair() as (mine, peer), open(read_end, "rb") as file:
        # A pipe has no size: as far as the system call goes there is nothing to send.
        assert await loop.sock_sendfile(mine, file) == 0
        # With a count it is tried, and the file has no position to set afterwards.
        with pytest.raises(OSError):
            await loop.sock_sendfile(mine, file, 0, 4)
        await loop.sock_sendall(mine, b"end")
        assert (await loop.sock_recv(peer, 100))[-3:] == b"end"


@pytest.mark.skipif(not hasattr(os, "sendfile"), reason="the platform has no sendfile()")
async def test_sendfile_uses_the_system_call(loop):
    data = pattern(3 * MIB)
    with pair(send_buffer=131072) as (mine, peer), file_of(data, "file") as file:
        reading = asyncio.ensure_future(read_exactly(peer, len(data)))
        assert await loop.sock_sendfile(mine, file, fallback=False) == len(data)
        assert await reading == data


@kinds
async def test_a_cancelled_sendfile(loop, kind):
    data = pattern(20 * MIB)
    with pair(send_buffer=131072) as (mine, peer), file_of(data, kind) as file:
        task = await waiting(loop.sock_sendfile(mine, file))
        await read_exactly(peer, 500_000)
        await cancelled(task)
        await settle()
        assert loop.remove_writer(mine) is False
        mine.shutdown(socket.SHUT_WR)
        received = 500_000
        while piece := await loop.sock_recv(peer, MIB):
            received += len(piece)
        assert received < len(data)
        if kind == "file":
            # The position tells what was sent, if anything moved it.
            assert file.tell() in (0, received)


@kinds
async def test_the_peer_resets_during_sendfile(loop, kind):
    with pair(send_buffer=131072) as (mine, peer), file_of(bytes(20 * MIB), kind) as file:
        task = await waiting(loop.sock_sendfile(mine, file))
        await read_exactly(peer, 500_000)
        reset(peer)
        with pytest.raises(ConnectionError):
            await task
        await settle()
        assert loop.remove_writer(mine) is False


@pytest.mark.parametrize(
    "offset, count, error, words",
    [
        (-1, None, ValueError, "offset must be a non-negative integer"),
        ("1", None, TypeError, "offset must be a non-negative integer"),
        (1.5, None, TypeError, "offset must be a non-negative integer"),
        (0, 0, ValueError, "count must be a positive integer"),
        (0, -1, ValueError, "count must be a positive integer"),
        (0, "1", TypeError, "count must be a positive integer"),
    ],
)
async def test_arguments_that_sendfile_refuses(loop, offset, count, error, words):
    with pair() as (mine, _), file_of(b"data", "file") as file, pytest.raises(error, match=words):
        await loop.sock_sendfile(mine, file, offset, count)


async def test_files_and_sockets_that_sendfile_refuses(loop):
    with pair() as (mine, _), tempfile.TemporaryFile("w+") as text:
        with pytest.raises(ValueError, match="file should be opened in binary mode"):
            await loop.sock_sendfile(mine, text)
        with pytest.raises(AttributeError):
            await loop.sock_sendfile(mine, object())
    words = "only SOCK_STREAM type sockets are supported"
    with udp_pair() as (mine, _), file_of(b"data", "file") as file, pytest.raises(ValueError, match=words):
        await loop.sock_sendfile(mine, file)


async def test_sendfile_over_a_pair_of_unix_sockets(loop):
    data = pattern(MIB)
    one, other = socket.socketpair()
    with one, other, file_of(data, "file") as file:
        one.setblocking(False)
        other.setblocking(False)
        reading = asyncio.ensure_future(read_exactly(other, len(data)))
        assert await loop.sock_sendfile(one, file) == len(data)
        assert await reading == data

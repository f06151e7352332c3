"""Data to and from children through the streams interface: communicate(), ends of file, limits, cancellation."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import sys

import pytest
from support import open_descriptors, pattern, settle, until

import loopfast

PIPE, STDOUT = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
#: Linux tells how much a pipe holds, and lets it be changed.
SIZED_PIPES = hasattr(fcntl, "F_GETPIPE_SZ")
PYTHON = (sys.executable, "-I", "-S", "-c")

create = asyncio.create_subprocess_exec


async def shell(command, **options):
    return await create("/bin/sh", "-c", command, **options)


async def end(process):
    process.kill()
    await process.communicate()


async def test_large_input_and_output(loop):
    data = pattern(5_000_000)
    process = await create("/bin/cat", stdin=PIPE, stdout=PIPE)
    out, err = await process.communicate(data)
    assert out == data and err is None
    assert process.returncode == 0


def pipe_size(process, fd):
    """The bytes that the pipe of a child's *fd* holds; None if that is fixed, or it is a socket, as the input is before
    Python 3.12."""
    pipe = process._transport.get_pipe_transport(fd).get_extra_info("pipe")
    if not SIZED_PIPES or stat.S_ISSOCK(os.fstat(pipe.fileno()).st_mode):
        return None
    return fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ)


async def ended(process):
    process.stdin.close()
    await process.wait()


async def through(process, data):
    process.stdin.write(data)
    assert await process.stdout.readexactly(len(data)) == data


@pytest.mark.parametrize("chosen", [-1, 65536, 65536 * 2, 4096], ids=["none", "usual", "larger", "smaller"])
@pytest.mark.parametrize("fd", [0, 1])
async def test_pipes_found_full(loop, fd, chosen):
    """loopfast gives them more room, so that the two processes need not wait for each other at every 64 KiB."""
    process = await create("/bin/cat", stdin=PIPE, stdout=PIPE, pipesize=chosen)
    size = pipe_size(process, fd)
    for _ in range(3):
        # Now and then much: that is not enough.
        await through(process, pattern(50_000))
    assert pipe_size(process, fd) == size
    await through(process, pattern(3_000_000))
    grows = isinstance(loop, loopfast.Loop) and chosen == -1 and size is not None
    assert pipe_size(process, fd) == (262_144 if grows else size)
    await ended(process)


async def test_few_pipes_get_more_room_at_a_time(loop):
    """The kernel lets the pipes of an unprivileged user have 64 MiB together."""
    counts = []
    for _ in range(2):
        children = [await create("/bin/cat", stdin=PIPE, stdout=PIPE) for _ in range(40)]
        for child in children:
            await through(child, pattern(1_000_000))
        counts.append([pipe_size(child, fd) for child in children for fd in (0, 1)].count(262_144))
        await asyncio.gather(*map(ended, children))
    # The second time, as those of the first are gone.
    assert counts == ([32, 32] if isinstance(loop, loopfast.Loop) and SIZED_PIPES else [0, 0])


async def test_large_output_on_both_streams(loop):
    code = "import os; [(os.write(1, b'o' * 50_000), os.write(2, b'e' * 50_000)) for _ in range(40)]"
    process = await create(*PYTHON, code, stdout=PIPE, stderr=PIPE)
    assert await process.communicate() == (b"o" * 2_000_000, b"e" * 2_000_000)


@pytest.mark.parametrize(
    "data", [b"data", bytearray(b"data"), memoryview(b"data")], ids=lambda data: type(data).__name__
)
async def test_kinds_of_input(loop, data):
    process = await create("/bin/cat", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(data) == (b"data", None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pytest.param(
            None,
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="before Python 3.12 the pipe stayed open"),
        ),
    ],
)
async def test_no_input_ends_the_input(loop, data):
    process = await create("/bin/cat", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(data) == (b"", None)


async def test_streams_that_are_no_pipes(loop):
    process = await create("true")
    assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
    assert await process.communicate() == (None, None)
    assert process.returncode == 0


async def test_lines(loop):
    process = await create("/bin/cat", stdin=PIPE, stdout=PIPE)
    for number in range(50):
        process.stdin.write(b"%d\n" % number)
        await process.stdin.drain()
        assert await process.stdout.readline() == b"%d\n" % number
    process.stdin.write_eof()
    assert await process.stdout.read() == b""
    assert await process.wait() == 0


async def test_limit(loop):
    process = await create("/bin/sh", "-c", "echo " + "x" * 1000, stdout=PIPE, limit=100)
    with pytest.raises(ValueError, match="chunk is longer than limit"):
        await process.stdout.readline()
    await process.communicate()


async def test_a_child_that_closes_its_output_early(loop):
    """The end of the file is seen at once, not when the child exits."""
    process = await shell("echo last; exec >&- 2>&-; exec cat >/dev/null", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert await process.stdout.read() == b"last\n"
    assert await process.stderr.read() == b""
    assert process.returncode is None
    process.stdin.close()
    assert await process.wait() == 0


async def test_output_that_outlives_the_child(loop):
    """A background process has the pipe: communicate() waits for its end."""
    reader, writer = os.pipe()
    process = await shell("exec 3<&0; cat <&3 & echo first", stdin=reader, stdout=PIPE)
    os.close(reader)
    task = loop.create_task(process.communicate())
    await until(lambda: process.returncode is not None)
    assert not task.done()
    os.write(writer, b"second\n")
    os.close(writer)
    assert await task == (b"first\nsecond\n", None)
    assert process.returncode == 0


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
async def test_communicate_with_a_child_that_exited(loop, size):
    process = await shell("echo done", stdin=PIPE, stdout=PIPE)
    await until(lambda: process.returncode is not None)
    assert await process.communicate(bytes(size)) == (b"done\n", None)
    assert process.returncode == 0


async def test_communicate_with_a_child_that_does_not_read(loop):
    process = await shell("exec <&-; echo done", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(bytes(3_000_000)) == (b"done\n", None)


async def test_communicate_twice(loop):
    process = await create("/bin/cat", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(b"data") == (b"data", None)
    await settle()
    assert await process.communicate() == (b"", None)


async def test_writing_to_a_child_that_exited(loop):
    process = await create("true", stdin=PIPE)
    await process.wait()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(100):
            process.stdin.write(b"x" * 100_000)
            await process.stdin.drain()
    assert process.stdin.is_closing()


async def test_drain_waits_for_the_child(loop):
    process = await shell("read line; exec cat", stdin=PIPE, stdout=PIPE)
    process.stdin.write(bytes(1_000_000))
    task = loop.create_task(process.stdin.drain())
    await settle()
    assert not task.done()
    process.stdin.write(b"\n")
    process.stdin.write_eof()
    while await process.stdout.read(100_000):
        pass
    await task
    assert await process.wait() == 0


async def test_a_reader_that_does_not_read_stops_the_child(loop):
    """The pipes and the reader's buffer are bounded; nothing is lost."""
    code = "import os; [os.write(1, b'%06d\\n' % n) for n in range(200_000)]; os.write(2, b'done')"
    process = await create(*PYTHON, code, stdout=PIPE, stderr=PIPE, limit=10_000)
    transport = process._transport.get_pipe_transport(1)
    await until(lambda: not transport.is_reading())
    assert process.returncode is None
    out, err = await process.communicate()
    assert err == b"done"
    assert out == b"".join(b"%06d\n" % number for number in range(200_000))


async def test_communicate_is_cancelled(loop):
    process = await create("/bin/cat", stdin=PIPE, stdout=PIPE)
    task = loop.create_task(process.communicate(b"data"))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await process.communicate() == (b"data", None)
    assert process.returncode == 0


async def test_communicate_with_a_timeout(loop):
    process = await create("/bin/sleep", "1000", stdin=PIPE, stdout=PIPE)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(process.communicate(), 0.02)
    assert process.returncode is None
    await end(process)
    assert process.returncode == -9


async def test_stdin_wait_closed(loop):
    process = await create("/bin/cat", stdin=PIPE)
    process.stdin.close()
    await process.stdin.wait_closed()
    assert process.stdin.is_closing()
    assert await process.wait() == 0


async def test_wait_without_reading(loop):
    """Output that fits is kept for later."""
    process = await shell("echo text", stdout=PIPE)
    assert await process.wait() == 0
    assert await process.stdout.read() == b"text\n"


async def test_fifty_children_at_once(loop):
    before = open_descriptors()

    async def run(number):
        process = await create("/bin/cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"%d" % number * 10_000)
        assert out == b"%d" % number * 10_000
        return process.returncode

    assert await asyncio.gather(*(run(number) for number in range(50))) == [0] * 50
    await settle()
    assert open_descriptors() - before == set()


async def test_a_cancelled_creation_leaves_nothing(loop):
    before = open_descriptors()
    for turns in range(6):
        task = loop.create_task(create("/bin/sleep", "1000", stdin=PIPE, stdout=PIPE, stderr=PIPE))
        await settle(turns)
        task.cancel()
        try:
            process = await task
        except asyncio.CancelledError:
            pass
        else:
            await end(process)
    # The pipes of a child that was killed end by themselves.
    await until(lambda: open_descriptors() - before == set())

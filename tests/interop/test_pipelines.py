"""Pipelines of real commands through asyncio.subprocess: joined by the kernel, by the loop; long, cut short, killed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT

import pytest
from support import pattern

pytestmark = pytest.mark.interop

BODY = pattern(5_000_000)


async def start(*command, **options):
    return await asyncio.create_subprocess_exec(*command, **options)


async def copy(reader, writer):
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def feed(writer, data):
    for begin in range(0, len(data), 100_000):
        writer.write(data[begin : begin + 100_000])
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_stages_joined_by_the_loop(loop):
    """Each stage's output goes through Python into the next one's input, all at once."""
    stages = [await start(*words, stdin=PIPE, stdout=PIPE) for words in (["gzip", "-1"], ["cat"], ["gzip", "-d"])]
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(stages[0].stdin, BODY))
        for stage, after in zip(stages, stages[1:], strict=False):
            group.create_task(copy(stage.stdout, after.stdin))
        result = group.create_task(stages[-1].stdout.read())
    assert result.result() == BODY
    assert [await stage.wait() for stage in stages] == [0, 0, 0]


async def test_stages_joined_by_pipes_of_the_kernel(loop):
    words = [f"{number * 7919 % 1000}\n" for number in range(30_000)]
    one_in, one_out = os.pipe()
    two_in, two_out = os.pipe()
    source = await start("sort", "-n", stdin=PIPE, stdout=one_out)
    os.close(one_out)
    middle = await start("uniq", "-c", stdin=one_in, stdout=two_out)
    os.close(one_in)
    os.close(two_out)
    last = await start("tail", "-n", "2", stdin=two_in, stdout=PIPE)
    os.close(two_in)
    await feed(source.stdin, "".join(words).encode())
    out, _ = await last.communicate()
    assert [line.split() for line in out.decode().splitlines()] == [["30", "998"], ["30", "999"]]
    assert [await process.wait() for process in (source, middle, last)] == [0, 0, 0]


async def test_a_reader_that_stops_early(loop):
    """head ends early: going on to feed it is an error that is raised and not only reported."""
    producer = await start("yes", stdout=PIPE)
    consumer = await start("head", "-c", "100000", stdin=PIPE, stdout=PIPE)
    reading = asyncio.ensure_future(consumer.stdout.read())
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await copy(producer.stdout, consumer.stdin)
        pytest.fail("the broken pipe was not noticed")
    assert await reading == b"y\n" * 50_000
    assert await consumer.wait() == 0
    producer.kill()
    # Until the end of the stream: a paused pipe is not closed by the end of the process.
    while await producer.stdout.read(1 << 16):
        pass
    assert await producer.wait() == -signal.SIGKILL
    # asyncio has given up the pipe's writing end already.
    consumer.stdin.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await consumer.stdin.wait_closed()


async def test_shell_pipeline_and_both_outputs(loop):
    process = await asyncio.create_subprocess_shell(
        "gzip -c | gzip -dc | tee /dev/stderr | wc -c; exit 7", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate(BODY)
    assert (int(out), hashlib.sha256(err).digest(), process.returncode) == (len(BODY), hashlib.sha256(BODY).digest(), 7)


async def test_many_at_once(loop):
    async def one(number):
        process = await start(
            "sh", "-c", f"cat; echo {number} >&2; exit {number}", stdin=PIPE, stdout=PIPE, stderr=STDOUT
        )
        out, err = await process.communicate(BODY[: number * 10_000])
        assert err is None
        assert out == BODY[: number * 10_000] + f"{number}\n".encode()
        return process.returncode

    assert await asyncio.gather(*map(one, range(40))) == list(range(40))


async def test_lines_as_they_come_and_a_signal(loop):
    """A conversation with an interactive program, then terminated with its handler running."""
    code = """if True:
        import os, signal, sys
        def stop(*_):
            # Not print(): the signal may come while that is at work.
            os.write(1, b"stopping\\n")
            raise SystemExit(3)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        for line in sys.stdin:
            print(line.strip()[::-1], flush=True)
    """
    process = await start(sys.executable, "-c", code, stdin=PIPE, stdout=PIPE)
    assert await process.stdout.readline() == b"ready\n"
    for word in ("abc", "xyz" * 1000):
        process.stdin.write(f"{word}\n".encode())
        await process.stdin.drain()
        assert await process.stdout.readline() == f"{word[::-1]}\n".encode()
    process.terminate()
    out, _ = await process.communicate()
    assert (out, process.returncode) == (b"stopping\n", 3)


async def test_a_timeout_kills_the_pipeline(loop):
    process = await start("sh", "-c", "echo begun; exec sleep 1000", stdout=PIPE, stderr=DEVNULL)
    assert await process.stdout.readline() == b"begun\n"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.communicate(), 0.05)
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert await process.stdout.read() == b""


async def test_files_as_ends(loop, tmp_path):
    (tmp_path / "in").write_bytes(BODY)
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out.gz", "wb") as sink:
        process = await start("gzip", "-c", stdin=source, stdout=sink, cwd=tmp_path, env={"PATH": os.environ["PATH"]})
        assert await process.wait() == 0
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == BODY

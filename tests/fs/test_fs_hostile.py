"""Files in the hands of those who cancel, close twice, drop, mix threads and loops, and close the loop meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import random
import resource
import threading
import warnings
import weakref

import pytest
from support import new_event_loop, open_descriptors, pattern, run_program, settle, until

import loopfast
from loopfast import fs, fsops

pytestmark = pytest.mark.loopfast_only("asyncio has no files")


@pytest.fixture
def busy_pool(tmp_path):
    """Occupies every thread of libuv's pool while entered: nothing that is asked for then is begun before."""
    if os.environ.get("UV_USE_IO_URING"):
        pytest.skip("with the kernel's ring, requests do not wait for threads")
    path = tmp_path / "pipe that nobody writes to"
    os.mkfifo(path)

    @contextlib.asynccontextmanager
    async def occupied():
        # Opening a pipe for reading waits for a writer.
        readers = [
            asyncio.ensure_future(fs.read_bytes(path)) for _ in range(int(os.environ.get("UV_THREADPOOL_SIZE", 4)))
        ]
        await settle()
        try:
            yield
        finally:
            while not all(reader.done() for reader in readers):
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                except OSError as exc:
                    assert exc.errno == errno.ENXIO
                await asyncio.sleep(0.001)
            assert [reader.result() for reader in readers] == [b""] * len(readers)

    return occupied


async def cancelled(awaitable, turns):
    """Await *awaitable* in a task that is cancelled after some turns; return its result, or None."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    # To await the task would leave its CancelledError somewhere in asyncio, and with it the frames.
    await asyncio.wait([task])
    return None if task.cancelled() else task.result()


async def no_requests(loop, before):
    """Wait until the descriptors are those of before."""
    await until(lambda: open_descriptors() <= before)


# --- cancellation -------------------------------------------------------------------------------------------------


async def test_a_cancelled_open_leaves_no_descriptor(loop, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    before = open_descriptors()
    for turns in range(40):
        file = await cancelled(fs.open(path), turns % 4)
        if file is not None:
            await file.close()
        await cancelled(fs.read_bytes(path), turns % 4)
    await no_requests(loop, before)


async def test_an_open_cancelled_in_the_queue_is_not_made(loop, tmp_path, busy_pool):
    async with busy_pool():
        tasks = [asyncio.ensure_future(fs.write_bytes(tmp_path / f"new{n}", b"x")) for n in range(10)]
        tasks += [asyncio.ensure_future(fs.open(tmp_path / f"opened{n}", "w")) for n in range(10)]
        await settle()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
    await fs.stat(tmp_path)
    assert os.listdir(tmp_path) == ["pipe that nobody writes to"]


@pytest.mark.parametrize("seed", range(10))
async def test_cancelled_reads_lose_nothing(loop, tmp_path, seed):
    source = random.Random(seed)
    content = pattern(3_000_000)
    (tmp_path / "file").write_bytes(content)
    async with fs.open(tmp_path / "file", "rb", source.choice([-1, 5000])) as file:
        got = bytearray()
        while True:
            size = source.choice([10, 1000, 200_000, 700_000])
            if source.random() < 0.7:
                data = await cancelled(file.read(size), source.randrange(4))
            else:
                data = await file.read(size)
                if not data:
                    break
            got += data or b""
            assert await file.tell() == len(got)
    assert got == content


@pytest.mark.parametrize("seed", range(10))
async def test_cancelled_writes_happen_wholly_or_not(loop, tmp_path, seed):
    source = random.Random(seed)
    path = tmp_path / "file"
    expected = bytearray()
    async with fs.open(path, "wb", source.choice([-1, 0, 5000])) as file:
        for number in range(60):
            data = bytearray([number]) * source.choice([1, 100, 4999, 5000, 70_000, 300_000])
            piece = bytes(data)
            start = await file.tell()
            await cancelled(file.write(data), source.randrange(4))
            # Whatever still runs has a copy.
            data[:] = b"?" * len(data)
            end = await file.tell()
            assert end in (start, start + len(piece))
            if end != start:
                expected += piece
    assert path.read_bytes() == expected


async def test_a_cancelled_pwrite_happens_wholly_or_not(loop, tmp_path):
    path = tmp_path / "file"
    async with fs.open(path, "w+b") as file:
        for number in range(60):
            size = 500_000
            await file.truncate(0)
            await cancelled(file.pwrite(bytes([number + 1]) * size, 10), number % 4)
            while file._fd.in_flight:
                await file._fd.idle()
            data = path.read_bytes()
            assert data in (b"", bytes(10) + bytes([number + 1]) * size)


async def test_a_cancelled_readinto_leaves_the_buffer_alone(loop, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2_000_000)
    async with fs.open(path, "rb") as file:
        buffer = bytearray(2_000_000)
        assert await cancelled(file.readinto(buffer), 1) is None
        # It can be resized: nothing holds it.
        buffer += b"more"
        while file._pending is not None and not file._pending.done:
            await asyncio.sleep(0)
        assert not any(buffer[:-4])
        assert await file.readinto(buffer) == 2_000_000


async def test_a_cancelled_read_of_a_pipe_loses_nothing(loop):
    reader, writer = os.pipe()
    file = await fs.open(reader, "rb")
    assert not file.seekable()
    assert await cancelled(file.read(3), 3) is None
    os.write(writer, b"abcdef")
    assert await file.read(3) == b"abc"
    task = asyncio.ensure_future(file.read())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.write(writer, b"ghi")
    os.close(writer)
    assert await file.read() == b"defghi"
    assert await file.read() == b""
    await file.close()


async def test_a_cancelled_close_closes(loop, tmp_path):
    before = open_descriptors()
    for turns in range(3):
        path = tmp_path / f"{turns}"
        file = await fs.open(path, "wb")
        await file.write(b"x" * 10)
        await cancelled(file.close(), turns)
        if turns == 0:
            # It was not begun.
            assert not file.closed
            await file.close()
        assert file.closed
        await no_requests(loop, before)
        assert path.read_bytes() == b"x" * 10


async def test_a_close_waits_for_what_runs(loop, tmp_path):
    path = tmp_path / "file"
    for kind in ("pwrite", "write"):
        file = await fs.open(path, "wb")
        data = bytes([65]) * 5_000_000
        await cancelled(file.pwrite(data, 0) if kind == "pwrite" else file.write(data), 1)
        # The number must not be free while a thread writes to it.
        await file.close()
        assert path.read_bytes() in (b"", data)
        other = await fs.open(tmp_path / "other", "wb")
        await other.close()
        assert (tmp_path / "other").read_bytes() == b""


async def test_timeouts(loop, tmp_path, busy_pool):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    file = await fs.open(path, "r+b")
    async with busy_pool():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await file.pread(1_000_000, 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await file.pwrite(b"xyz", 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await fs.remove(path)
    assert await file.pread(10, 0) == b"abc"
    await file.close()
    assert await fs.exists(path)


# --- one file, many tasks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffering", [-1, 0, 100])
async def test_writes_of_many_tasks_stay_whole(loop, tmp_path, buffering):
    path = tmp_path / "file"
    lines = [f"{number:05} {'x' * (number * 7919 % 3000)}\n".encode() for number in range(500)]
    async with fs.open(path, "wb", buffering) as file:
        await asyncio.gather(*(file.write(line) for line in lines))
    assert path.read_bytes() == b"".join(lines)


async def test_reads_of_many_tasks(loop, tmp_path):
    content = pattern(1_000_000)
    (tmp_path / "file").write_bytes(content)
    async with fs.open(tmp_path / "file", "rb") as file:
        pieces = await asyncio.gather(*(file.read(10_000) for _ in range(100)))
        assert b"".join(pieces) == content
        pieces = await asyncio.gather(*(file.pread(10_000, start) for start in range(0, 1_000_000, 10_000)))
        assert b"".join(pieces) == content


async def test_pread_and_pwrite_see_what_the_buffer_holds(loop, tmp_path):
    async with fs.open(tmp_path / "file", "w+b") as file:
        await file.write(b"hello world")
        assert await file.pread(5, 6) == b"world"
        assert await file.pwrite(b"HELLO", 0) == 5
        assert await file.tell() == 11
        await file.seek(0)
        assert await file.read(3) == b"HEL"
        assert await file.pwrite(b"lo", 3) == 2
        assert await file.read(3) == b"lo "
        assert await file.pread(0, 0) == b""
        assert await file.pread(10, 100) == b""
        for arguments in ((-1, 0), (1, -1)):
            with pytest.raises(OSError):
                await file.pread(*arguments)
        with pytest.raises(OSError):
            await file.pwrite(b"x", -1)
    reader, writer = os.pipe()
    os.close(writer)
    async with fs.open(reader, "rb") as pipe:
        with pytest.raises(OSError):
            await pipe.pread(1, 0)


async def test_two_waiters_of_a_turn_are_cancelled(loop, tmp_path):
    (tmp_path / "file").write_bytes(pattern(5_000_000))
    async with fs.open(tmp_path / "file", "rb") as file:
        tasks = [asyncio.ensure_future(file.read(1_000_000)) for _ in range(5)]
        await settle(1)
        for number in (0, 2, 3):
            tasks[number].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) is bytes for result in results] == [False, True, False, False, True]
        rest = await file.read()
        # What a cancelled read had begun to read comes to the next one.
        assert results[1] + results[4] + rest == pattern(5_000_000)


# --- the end ------------------------------------------------------------------------------------------------------


async def test_closing_twice_and_everything_after(loop, tmp_path):
    path = tmp_path / "file"
    for mode in ("w+b", "w+"):
        file = await fs.open(path, mode)
        await asyncio.gather(file.close(), file.close(), file.aclose())
        await file.close()
        assert file.closed and "closed" in repr(file)
        data = b"x" if "b" in mode else "x"
        for call in (
            file.read,
            file.readline,
            file.readlines,
            file.flush,
            file.tell,
            file.truncate,
            file.fsync,
            file.fdatasync,
            file.__aenter__,
            file.__anext__,
            lambda file=file: file.seek(0),
            lambda file=file, data=data: file.write(data),
        ):
            with pytest.raises(ValueError, match="closed file"):
                await call()
        for call in (file.fileno, file.isatty, file.readable, file.writable, file.seekable):
            with pytest.raises(ValueError, match="closed file"):
                call()
        for name in ("name", "mode"):
            getattr(file, name)
        with pytest.raises(ValueError):
            await fs.fsync(file)


async def test_those_who_wait_when_the_file_is_closed(loop, tmp_path):
    (tmp_path / "file").write_bytes(pattern(5_000_000))
    file = await fs.open(tmp_path / "file", "rb")
    reads = [asyncio.ensure_future(file.read(2_000_000)) for _ in range(4)]
    await settle(1)
    await file.close()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert results[0] == pattern(5_000_000)[:2_000_000]
    assert {type(result) for result in results[1:]} == {ValueError}


@pytest.mark.parametrize("mode", ["rb", "wb", "r", "a"])
async def test_a_dropped_file_warns_and_closes(loop, tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    before = open_descriptors()
    file = await fs.open(path, mode)
    if "r" not in mode:
        await file.write(b"written" if "b" in mode else "written")
    else:
        await file.read(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del file
        gc.collect()
    assert [item.category for item in caught] == [ResourceWarning]
    assert open_descriptors() == before
    assert path.read_bytes() == {"r": b"before", "w": b"written", "a": b"beforewritten"}[mode[0]]


async def test_a_file_dropped_while_it_is_written(loop, tmp_path):
    path = tmp_path / "file"
    # Where requests go through the kernel's ring, this makes it.
    await fs.stat(tmp_path)
    before = open_descriptors()
    file = await fs.open(path, "wb")
    number = file.fileno()
    data = b"x" * 20_000_000
    await cancelled(file.write(data), 1)
    with pytest.warns(ResourceWarning):
        del file
        gc.collect()
    await until(lambda: open_descriptors() == before)
    assert number not in open_descriptors()
    assert path.read_bytes() == data


async def test_dropped_files_are_no_cycles(loop, tmp_path):
    (tmp_path / "file").write_bytes(b"a\nb\n")
    gc.collect()
    gc.disable()
    try:
        for mode in ("rb", "r"):
            async with fs.open(tmp_path / "file", mode) as file:
                async for _ in file:
                    pass
            reference = weakref.ref(file)
            del file
            assert reference() is None
    finally:
        gc.enable()


async def test_a_descriptor_that_is_not_ours_to_close(loop, tmp_path):
    number = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    async with fs.open(number, "wb", closefd=False) as file:
        assert file.name == number == file.fileno()
        await file.write(b"abc")
    assert os.lseek(number, 0, os.SEEK_CUR) == 3
    os.write(number, b"def")
    os.lseek(number, 1, os.SEEK_SET)
    async with fs.open(number, "r", closefd=False) as file:
        assert await file.read(2) == "bc"
    file = await fs.open(number, "rb", closefd=False)
    with pytest.warns(ResourceWarning):
        del file
        gc.collect()
    async with fs.open(number, "rb"):
        pass
    with pytest.raises(OSError):
        os.fstat(number)
    with pytest.raises(OSError):
        await fs.open(number)


# --- errors of the system -----------------------------------------------------------------------------------------


async def test_no_room(loop):
    async with fs.open("/dev/full", "wb", 0) as file:
        with pytest.raises(OSError) as error:
            await file.write(b"x")
        assert error.value.errno == errno.ENOSPC
    file = await fs.open("/dev/full", "w")
    await file.write("x")
    for call in (file.flush, file.flush, file.close):
        with pytest.raises(OSError) as error:
            await call()
        assert error.value.errno == errno.ENOSPC
    assert file.closed
    await file.close()
    with pytest.raises(OSError) as error:
        await fs.write_bytes("/dev/full", b"x")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, "/dev/full")


async def test_a_limit_within_a_write(loop, tmp_path):
    code = """
        import errno, resource, signal
        from loopfast import fs
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        async def main():
            file = await fs.open(PATH, "wb", 0)
            try:
                await file.write(b"x" * 150_000)
            except OSError as exc:
                assert exc.errno == errno.EFBIG, exc
            else:
                raise AssertionError("written")
            print(await file.tell())
            await file.close()
            file = await fs.open(PATH, "wb", 50_000)
            written = 0
            try:
                while True:
                    written += await file.write(b"y" * 30_000)
            except OSError:
                pass
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await file.close()
            print(written)
        run(main())
    """
    path = tmp_path / "file"
    out = await asyncio.to_thread(run_program, "loopfast", code.replace("PATH", repr(str(path))))
    reached, written = map(int, out.split())
    assert reached == 100_000
    # What write() had said to have taken is there.
    assert path.read_bytes() == b"y" * written


async def test_no_descriptor_left(loop, tmp_path):
    (tmp_path / "file").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    await fs.stat(tmp_path)
    lowest = os.open(tmp_path / "file", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        for call in (lambda: fs.open(tmp_path / "file").__aenter__(), lambda: fs.read_bytes(tmp_path / "file")):
            with pytest.raises(OSError) as error:
                await call()
            assert (error.value.errno, error.value.filename) == (errno.EMFILE, str(tmp_path / "file"))
        for call in (lambda: fs.listdir(tmp_path), lambda: fs.copyfile(tmp_path / "file", tmp_path / "copy")):
            with pytest.raises(OSError) as error:
                await call()
            assert error.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await fs.read_bytes(tmp_path / "file") == b""


# --- threads and loops --------------------------------------------------------------------------------------------


async def test_another_thread(loop, tmp_path):
    file = await fs.open(tmp_path / "file", "w+b")
    request = fs.stat(tmp_path)
    errors = []

    def step(coroutine):
        try:
            coroutine.send(None)
        except BaseException as exc:
            errors.append(exc)
        coroutine.close()

    def use():
        # Without a loop, ...
        for call in (file.read, file.flush, file.close, lambda: file.write(b"x")):
            step(call())
        step(request)
        # ... on asyncio's, and on another one of ours.
        for kind in ("asyncio", "loopfast"):
            other = new_event_loop(kind)

            async def main():
                for call in (file.read, file.flush, file.close, lambda: file.write(b"x"), lambda: fs.fsync(file)):
                    try:
                        await call()
                    except BaseException as exc:
                        errors.append(exc)

            other.run_until_complete(main())
            other.close()

    await asyncio.to_thread(use)
    assert len(errors) == 5 + 5 + 5
    assert {type(error) for error in errors} == {RuntimeError}
    assert not file.closed
    await file.close()


def test_asyncios_own_loop():
    async def main():
        with pytest.raises(
            RuntimeError, match=r"needs a loopfast event loop; the running one is a .*SelectorEventLoop"
        ):
            await fs.stat(".")
        with pytest.raises(RuntimeError, match="needs a loopfast event loop"):
            await fs.open("/dev/null")
        with pytest.raises(RuntimeError, match="needs a loopfast event loop"):
            await fs.open(0, closefd=False)

    other = new_event_loop("asyncio")
    other.run_until_complete(main())
    other.close()


def test_without_a_loop(tmp_path):
    coroutine = fs.stat(tmp_path)
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)


def test_many_loops_in_many_threads(tmp_path):
    content = pattern(300_000)
    failures = []

    def work(number):
        async def main():
            path = tmp_path / f"{number}"
            for _ in range(20):
                await fs.write_bytes(path, content)
                async with fs.open(path, "rb") as file:
                    assert b"".join([line async for line in file]) == content

        try:
            other = new_event_loop("loopfast")
            other.run_until_complete(main())
            other.close()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- the loop ends ------------------------------------------------------------------------------------------------


def test_a_loop_closed_with_requests_in_flight(tmp_path, loop_factory, balanced):
    (tmp_path / "file").write_bytes(pattern(10_000_000))
    before = open_descriptors()
    for turns in range(6):
        loop = loop_factory()

        async def main(turns=turns):
            tasks = [
                asyncio.ensure_future(awaitable)
                for _ in range(30)
                for awaitable in (
                    fs.read_bytes(tmp_path / "file"),
                    fs.open(tmp_path / "file"),
                    fs.write_bytes(tmp_path / "written", b"x" * 100_000),
                    fs.listdir(tmp_path),
                )
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            return tasks

        tasks = loop.run_until_complete(main())
        loop.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task in tasks:
                task._log_destroy_pending = False
            del tasks, task
            gc.collect()
        assert open_descriptors() <= before


def test_what_was_written_is_there_when_the_loop_is_closed(tmp_path, loop_factory):
    loop = loop_factory()
    data = b"x" * 10_000_000

    async def main():
        file = await fs.open(tmp_path / "file", "wb")
        task = asyncio.ensure_future(file.write(data))
        await asyncio.sleep(0)
        return file, task

    file, task = loop.run_until_complete(main())
    loop.close()
    assert (tmp_path / "file").read_bytes() == data
    task._log_destroy_pending = False
    with pytest.warns(ResourceWarning):
        del task, file
        gc.collect()


def test_a_close_goes_on_where_the_program_ends(tmp_path):
    """What ends a program cancels every task: also the one that closes the file, which has something to write still."""
    path = tmp_path / "file"

    async def main():
        file = await fs.open(path, "wb")
        writing = asyncio.create_task(file.pwrite(b"x" * 10_000_000, 100))
        await asyncio.sleep(0)
        await file.write(b"head")
        closing = asyncio.create_task(file.close())
        while not file.closed:
            await asyncio.sleep(0)
        return writing, closing

    before = open_descriptors()
    with asyncio.Runner(loop_factory=loopfast.new_event_loop) as runner:
        runner.run(main())
    assert path.read_bytes()[:4] == b"head"
    assert open_descriptors() <= before


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("name", ["mkstemp", "mkdtemp", "NamedTemporaryFile"])
def test_a_temporary_file_that_nobody_got_is_not_left_by_a_program_that_ends(tmp_path, name, turns):
    async def main():
        async def make():
            made = await getattr(fs, name)(dir=tmp_path)
            got.append(made)

        task = asyncio.create_task(make())
        for _ in range(turns):
            await asyncio.sleep(0)
        return task

    got = []
    before = open_descriptors()
    with asyncio.Runner(loop_factory=loopfast.new_event_loop) as runner:
        runner.run(main())
        for made in got:
            if name == "mkstemp":
                os.close(made[0])
            elif name == "NamedTemporaryFile":
                runner.run(made.close())
    paths = [made[1] if name == "mkstemp" else made for made in got if name != "NamedTemporaryFile"]
    assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, paths))
    assert open_descriptors() <= before


async def test_a_temporary_file_that_cannot_be_removed_is_told_of(loop, tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(errno.EPERM, "not this one", path)

    file = await fs.NamedTemporaryFile(dir=tmp_path)
    second = await fs.NamedTemporaryFile(dir=tmp_path)
    before = open_descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        with pytest.raises(PermissionError, match="not this one"):
            await file.close()
        with pytest.raises(PermissionError, match="not this one"):
            # While something else is under way.
            await asyncio.gather(second.fsync(), second.close())
        with pytest.raises(PermissionError, match="not this one"):
            await fs.TemporaryFile(dir=tmp_path)
    await file.close()
    assert file.closed
    assert second.closed
    assert len(open_descriptors()) == len(before) - 2
    assert set(os.listdir(tmp_path)) >= {os.path.basename(file.name), os.path.basename(second.name)}


async def test_a_temporary_directory_whose_removal_is_cancelled_goes_with_its_object(loop, tmp_path):
    for turns in range(1, 4):
        directory = await fs.TemporaryDirectory(dir=tmp_path)
        (tmp_path / directory.name / "file").touch()
        await cancelled(directory.cleanup(), turns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del directory
            gc.collect()
        assert os.listdir(tmp_path) == []


def test_a_loop_closed_while_a_pipe_is_read(tmp_path):
    code = """
        from loopfast import fs
        import loopfast
        reader, writer = os.pipe()
        def close_one():
            loop = loopfast.new_event_loop()
            async def main():
                file = await fs.open(reader, "rb", closefd=False)
                task = asyncio.ensure_future(file.read(3))
                await asyncio.sleep(0.01)
                return file, task
            file, task = loop.run_until_complete(main())
            started = time.monotonic()
            loop.close()
            assert time.monotonic() - started < 20
            task._log_destroy_pending = False
            warnings.simplefilter("ignore")
        close_one()
        gc.collect()
        os.write(writer, b"abc")
        # The thread is done with it, and the next loop frees what is left.
        loopfast.run(asyncio.sleep(0.1))
        os.close(writer)
        print("over")
    """
    assert run_program("loopfast", code) == "over\n"


def test_a_dropped_loop(tmp_path):
    code = """
        from loopfast import fs
        import loopfast
        warnings.simplefilter("ignore")
        def drop():
            loop = loopfast.new_event_loop()
            async def main():
                for _ in range(50):
                    asyncio.ensure_future(fs.read_bytes(sys.executable))._log_destroy_pending = False
                await asyncio.sleep(0)
            loop.run_until_complete(main())
        for _ in range(5):
            drop()
            gc.collect()
        print("over")
    """
    assert run_program("loopfast", code) == "over\n"


def test_a_fork(tmp_path):
    code = """
        from loopfast import fs
        async def main():
            await fs.stat(".")
            async def in_child():
                # The threads of the parent are not here; libuv makes new ones.
                assert (await fs.stat(".")).st_ino == os.stat(".").st_ino
                assert b"" != await fs.read_bytes(sys.executable)
            if os.fork() == 0:
                try:
                    child = new_event_loop()
                    child.run_until_complete(in_child())
                    child.close()
                except BaseException as exc:
                    print(repr(exc), flush=True)
                    os._exit(1)
                os._exit(0)
            assert os.wait()[1] == 0
            await fs.stat(".")
            print("over")
        run(main())
    """
    assert run_program("loopfast", code, "-W", "ignore") == "over\n"


# --- what users replace -------------------------------------------------------------------------------------------


class BadFuture(asyncio.Future):
    def set_result(self, result):
        super().set_result(result)
        raise ValueError("set_result of a user's")


def test_a_future_that_raises(tmp_path, loop_factory):
    import loopfast

    class BadLoop(loopfast.Loop):
        def create_future(self):
            return BadFuture(loop=self)

    loop = BadLoop()
    with pytest.raises(ValueError, match="set_result of a user's"):
        loop.run_until_complete(fs.stat(tmp_path))
    loop.close()


async def test_names_that_lie(loop, tmp_path):
    class Path:
        def __fspath__(self):
            raise ZeroDivisionError

    class Number:
        def fileno(self):
            raise ZeroDivisionError

    for call in (
        lambda: fs.stat(Path()),
        lambda: fs.open(Path()),
        lambda: fs.rename(tmp_path, Path()),
        lambda: fs.scandir(Path()),
        lambda: fs.fsync(Number()),
    ):
        with pytest.raises(ZeroDivisionError):
            call()


async def test_requests_misused(loop, tmp_path):
    request = fsops.on_path(fsops.STAT, tmp_path)
    with pytest.raises(RuntimeError):
        request.wait()
    with pytest.raises(RuntimeError):
        request.outcome()
    request.start()
    with pytest.raises(RuntimeError):
        request.start()
    with pytest.raises(RuntimeError):
        await request
    with pytest.raises(RuntimeError):
        request.outcome()
    other = fsops.on_path(fsops.STAT, tmp_path)
    one = asyncio.ensure_future(other)
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await other
    await one
    with pytest.raises(RuntimeError):
        fsops.Request().outcome()
    descriptor, *_ = await fsops.on_path(fsops.OPEN, tmp_path / "new", 0o600, os.O_RDWR | os.O_CREAT)
    number = descriptor.number
    del descriptor
    with pytest.raises(OSError):
        os.fstat(number)


async def test_other_tasks_have_their_turn(loop, tmp_path):
    """A loop over a file that the kernel has in memory does not keep the others waiting."""
    (tmp_path / "file").write_bytes(b"x" * 20_000_000)
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    async with fs.open(tmp_path / "file", "rb") as file:
        while await file.read(100_000):
            pass
    task.cancel()
    assert turns > 5

"""The life of a watch(): files as targets, beginning and end, cancellation, errors and misuse."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import pytest
from support import open_descriptors, settle, until
from watching import PATIENCE, changes_of

import loopfast
from loopfast import Change, ChangeKind
from loopfast.handles.fsevent import FSEventQueue, UVFSEvent

pytestmark = pytest.mark.loopfast_only("asyncio watches no files")


def kernel_watches() -> int:
    """The inotify watches of this process."""
    count = 0
    for number in open_descriptors():
        try:
            text = Path(f"/proc/self/fdinfo/{number}").read_text()
        except OSError:
            continue
        count += text.count("inotify wd:")
    return count


# --- files --------------------------------------------------------------------------------------------------------


async def test_a_file(loop, tmp_path):
    file = tmp_path / "file"
    file.write_text("1")
    async with loopfast.watch(file) as watch:
        file.write_text("22")
        assert await anext(watch) == [Change(ChangeKind.MODIFIED, file)]
        (tmp_path / "new").write_text("333")
        (tmp_path / "new").replace(file)
        assert await anext(watch) == [Change(ChangeKind.MODIFIED, file)]
        file.unlink()
        assert await anext(watch) == [Change(ChangeKind.DELETED, file)]
        file.touch()
        assert await anext(watch) == [Change(ChangeKind.CREATED, file)]
        file.rename(tmp_path / "elsewhere")
        assert await anext(watch) == [Change(ChangeKind.DELETED, file)]


async def test_other_files_do_not_disturb(loop, tmp_path):
    file = tmp_path / "file"
    file.write_text("1")
    async with loopfast.watch(file, debounce=3600, max_delay=3600) as watch:
        step = asyncio.ensure_future(anext(watch))
        (tmp_path / "other").touch()
        await until(lambda: watch._inbox.count)
        await settle()
        assert not step.done()
        assert watch._inbox.waiter is not None, "no reason to wait for more of it"
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await step


async def test_every_write_to_a_file_is_seen(loop, tmp_path):
    file = tmp_path / "file"
    file.write_text("0")
    async with loopfast.watch(file, debounce=0) as watch:
        for number in range(50):
            with open(file, "r+") as opened:
                opened.write(str(number % 10))
            assert await changes_of(watch) == [("modified", "file")]


async def test_a_file_behind_links(loop, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text(folder)
    # As in a volume of Kubernetes: the link in the middle is what changes.
    (tmp_path / "current").symlink_to("one")
    (tmp_path / "file").symlink_to("current/file")
    async with loopfast.watch(tmp_path / "file") as watch:
        (tmp_path / "one/file").write_text("more")
        assert await changes_of(watch) == [("modified", "file")]
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(tmp_path / "current")
        assert await changes_of(watch) == [("modified", "file")]
        (tmp_path / "two/file").write_text("written where the link leads now")
        assert await changes_of(watch) == [("modified", "file")]
        (tmp_path / "two/file").unlink()
        assert await changes_of(watch) == [("deleted", "file")]


async def test_the_directory_of_a_file_goes(loop, tmp_path):
    file = tmp_path / "folder/file"
    file.parent.mkdir()
    file.touch()
    async with loopfast.watch(file) as watch:
        file.unlink()
        file.parent.rmdir()
        async with asyncio.timeout(PATIENCE):
            assert [changes async for changes in watch] == [[Change(ChangeKind.DELETED, file)]]


# --- the end ------------------------------------------------------------------------------------------------------


async def test_breaking_out_of_the_loop_closes(loop, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    writing = asyncio.create_task(asyncio.to_thread((tmp_path / "early").touch))

    async def first() -> list[Change]:
        async for changes in loopfast.watch(tmp_path):
            assert kernel_watches() == 3
            return changes
        raise AssertionError

    reading = asyncio.create_task(first())
    await writing
    while not reading.done():
        # Until it has begun to watch there is nothing to see.
        (tmp_path / "file").write_text("x")
        await asyncio.sleep(0.01)
    assert reading.result()
    assert kernel_watches() == 0


async def test_cancelling_the_task_closes(loop, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)

    async def read() -> None:
        async for _ in loopfast.watch(tmp_path):
            pass

    task = asyncio.create_task(read())
    await until(lambda: kernel_watches() == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as kept:
        await task
    assert kept.value.__traceback__ is not None
    assert kernel_watches() == 0


async def test_a_cancelled_step_loses_nothing(loop, tmp_path):
    async with loopfast.watch(tmp_path, debounce=0) as watch:
        for turns in range(12):
            for number in range(100):
                (tmp_path / f"{turns}/{number}").mkdir(parents=True)
            step = asyncio.ensure_future(anext(watch))
            await settle(turns)
            step.cancel()
            found: list[Change] = []
            with contextlib.suppress(asyncio.CancelledError):
                found += await step
            async with asyncio.timeout(PATIENCE):
                while len(found) < 101:
                    found += await anext(watch)
            assert {change.kind for change in found} == {ChangeKind.CREATED}
            assert len({change.path for change in found}) == 101


async def test_a_step_with_a_time_limit(loop, tmp_path):
    async with loopfast.watch(tmp_path) as watch:
        for name in "abc":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watch), 0.001)
            (tmp_path / name).touch()
            assert await changes_of(watch) == [("created", name)]


async def test_closing(loop, tmp_path):
    watch = loopfast.watch(tmp_path)
    assert "not started" in repr(watch)
    async with watch:
        assert "watching" in repr(watch)
        step = asyncio.ensure_future(anext(watch))
        await settle()
        await watch.aclose()
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await step
    assert "closed" in repr(watch)
    assert kernel_watches() == 0
    assert [changes async for changes in watch] == []
    with pytest.raises(RuntimeError, match="closed"):
        await watch.__aenter__()


async def test_closing_before_the_start(loop, tmp_path):
    watch = loopfast.watch(tmp_path)
    watch.close()
    assert [changes async for changes in watch] == []


@pytest.mark.parametrize("turns", range(10))
async def test_closing_while_it_looks(loop, tmp_path, turns):
    watch = loopfast.watch(tmp_path, debounce=0)
    async with watch:
        for number in range(300):
            (tmp_path / f"{number}/a").mkdir(parents=True)
        step = asyncio.ensure_future(anext(watch, None))
        await settle(turns)
        watch.close()
        await step
        assert kernel_watches() == 0


async def test_a_dropped_watch_is_freed_at_once(loop, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    gc.collect()
    gc.disable()
    try:
        watch = loopfast.watch(tmp_path)
        await watch.__aenter__()
        (tmp_path / "file").touch()
        await anext(watch)
        (tmp_path / "a/file").touch()
        reference = weakref.ref(watch)
        assert kernel_watches() == 3
        del watch
        assert reference() is None
        assert kernel_watches() == 0
    finally:
        gc.enable()


def test_the_loop_is_closed_before_the_watch(tmp_path):
    loop = loopfast.new_event_loop()
    watch = loopfast.watch(tmp_path)
    loop.run_until_complete(watch.__aenter__())
    (tmp_path / "file").touch()
    loop.close()
    assert kernel_watches() == 0
    watch.close()
    other = loopfast.new_event_loop()
    try:
        with pytest.raises(RuntimeError, match="another event loop"):
            other.run_until_complete(anext(watch))
    finally:
        other.close()


def test_loops_are_not_kept_alive(tmp_path):
    async def main() -> weakref.ref[object]:
        async with loopfast.watch(tmp_path) as watch:
            (tmp_path / "file").write_text("x")
            await anext(watch)
        return weakref.ref(asyncio.get_running_loop())

    reference = loopfast.run(main())
    gc.collect()
    assert reference() is None


async def test_dropped_by_another_thread(loop, tmp_path):
    """While the loop is asleep in the kernel."""
    watches = []
    for _ in range(20):
        watches.append(loopfast.watch(tmp_path))
        await watches[-1].__aenter__()

    def drop() -> None:
        while watches:
            watches.pop()

    await asyncio.to_thread(drop)
    await until(lambda: kernel_watches() == 0)


# --- errors -------------------------------------------------------------------------------------------------------


def test_another_loop(tmp_path):
    async def main() -> None:
        with pytest.raises(TypeError, match=r"needs a loopfast event loop; the running one is a asyncio\.unix_events"):
            async for _ in loopfast.watch(tmp_path):
                pass
        with pytest.raises(TypeError, match="needs a loopfast event loop"):
            async with loopfast.watch(tmp_path):
                pass

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    ("path", "options", "kind"),
    [
        (3, {}, TypeError),
        (None, {}, TypeError),
        (".", {"debounce": -1}, ValueError),
        (".", {"max_delay": float("nan")}, ValueError),
        (".", {"debounce": "1"}, TypeError),
    ],
)
def test_wrong_arguments(path, options, kind):
    with pytest.raises(kind):
        loopfast.watch(path, **options)


async def test_a_name_that_cannot_be(loop):
    with pytest.raises(ValueError, match="null"):
        async with loopfast.watch("a\0b"):
            pass
    with pytest.raises(OSError, match="File name too long"):
        async with loopfast.watch("x" * 5000):
            pass


@pytest.mark.parametrize("name", ["missing", "missing/file", "file/inside", ""])
async def test_a_path_that_is_not_there(loop, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    watch = loopfast.watch(name)
    with pytest.raises((FileNotFoundError, NotADirectoryError)) as caught:
        await anext(watch)
    assert caught.value.filename == name
    assert [changes async for changes in watch] == [], "it is closed"


async def test_two_tasks_for_one_watch(loop, tmp_path):
    async with loopfast.watch(tmp_path) as watch:
        step = asyncio.ensure_future(anext(watch))
        await settle()
        with pytest.raises(RuntimeError, match="another task"):
            await anext(watch)
        (tmp_path / "file").touch()
        assert len(await step) == 1


async def test_the_native_handle_itself(loop, tmp_path):
    calls: list[int] = []
    queue = FSEventQueue(100, lambda: calls.append(-1))
    with pytest.raises(FileNotFoundError) as caught:
        UVFSEvent(loop, queue, str(tmp_path / "missing"), calls.append, 1)
    assert caught.value.filename == str(tmp_path / "missing")
    with pytest.raises(ValueError, match="null"):
        UVFSEvent(loop, queue, "a\0b", calls.append, 1)
    for wrong in ((None, queue), (loop, None), (asyncio, queue)):
        with pytest.raises(TypeError):
            UVFSEvent(*wrong, str(tmp_path), calls.append, 1)
    event = UVFSEvent(loop, queue, str(tmp_path), calls.append, 7)
    with pytest.raises(RuntimeError, match="once"):
        event.__init__(loop, queue, str(tmp_path), calls.append, 7)
    (tmp_path / "file").touch()
    await until(lambda: calls)
    assert set(calls) == {7}
    assert list(event.take()[0]) == ["file"]
    assert event.take() == ({}, False)
    event.close()
    event.close()
    (tmp_path / "file").unlink()
    await settle()
    assert event.take() == ({}, False)
    # Never initialised.
    empty = UVFSEvent.__new__(UVFSEvent)
    empty.close()


def test_a_callback_that_raises(tmp_path):
    """It ends the run, as what a callback of libuv's raises always does: nobody of ours does that."""
    loop = loopfast.new_event_loop()
    try:
        event = UVFSEvent(loop, FSEventQueue(100, print), str(tmp_path), lambda token: 1 // 0, 7)
        (tmp_path / "file").touch()
        with pytest.raises(ZeroDivisionError):
            loop.run_forever()
        event.close()
    finally:
        loop.close()


async def test_a_handle_on_a_closed_or_foreign_loop(loop, tmp_path):
    other = loopfast.new_event_loop()
    other.close()
    with pytest.raises(RuntimeError, match="closed"):
        UVFSEvent(other, FSEventQueue(1, print), str(tmp_path), print, 1)
    failures: list[BaseException] = []

    def from_a_thread() -> None:
        try:
            UVFSEvent(loop, FSEventQueue(1, print), str(tmp_path), print, 1)
        except RuntimeError as exc:
            failures.append(exc)
        loop.call_soon_threadsafe(ended.set)

    ended = asyncio.Event()
    thread = threading.Thread(target=from_a_thread)
    thread.start()
    await ended.wait()
    thread.join()
    assert [str(failure)[:10] for failure in failures] in ([], ["Non-thread"])


# --- what the system refuses --------------------------------------------------------------------------------------


def run_program(body: str, *prefix: str, path: Path) -> subprocess.CompletedProcess[str]:
    program = "import asyncio, errno, os, sys\nimport loopfast\n" + textwrap.dedent(body)
    environment = {**os.environ, "PYTHONPATH": str(Path(loopfast.__file__).parents[1])}
    command = [*prefix, sys.executable, "-c", program, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def limited(name: str, value: int) -> list[str]:
    """A command prefix for a process with a limit of its own, in a user namespace."""
    return ["unshare", "-U", "-r", "sh", "-c", f'echo {value} > /proc/sys/user/{name} && exec "$@"', "sh"]


def can_limit() -> bool:
    try:
        command = [*limited("max_inotify_watches", 3), "true"]
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except OSError:
        return False


needs_namespaces = pytest.mark.skipif(not can_limit(), reason="no user namespaces here")


#: What a process of root's must be in so that permissions mean something to it.
POWERLESS = ["unshare", "-U"] if os.getuid() == 0 else []


@pytest.mark.skipif(bool(POWERLESS) and not can_limit(), reason="no user namespaces here")
def test_what_may_not_be_read(tmp_path):
    (tmp_path / "secret/inner").mkdir(parents=True)
    (tmp_path / "open").mkdir()
    (tmp_path / "secret").chmod(0)
    done = run_program(
        """
    async def main():
        root = sys.argv[1]
        for path in (root, root + "/secret", root + "/secret/inner"):
            try:
                async with loopfast.watch(path):
                    pass
            except PermissionError as exc:
                print(exc.filename[len(root):], exc.errno == errno.EACCES)
        async with loopfast.watch(root, ignore_permission_denied=True) as watch:
            open(root + "/open/file", "w").close()
            print([str(change.path)[len(root):] for change in await anext(watch)])
        async with loopfast.watch(root + "/open") as watch:
            os.mkdir(root + "/open/new", 0)
            try:
                await anext(watch)
            except PermissionError as exc:
                print(exc.filename[len(root):])
            print([changes async for changes in watch])
    loopfast.run(main())
    """,
        *POWERLESS,
        path=tmp_path,
    )
    (tmp_path / "secret").chmod(0o700)
    assert done.stdout.splitlines() == [
        "/secret True",
        "/secret True",
        "/secret/inner True",
        "['/open/file']",
        "/open/new",
        "[]",
    ], done.stderr


@pytest.mark.skipif(bool(POWERLESS) and not can_limit(), reason="no user namespaces here")
@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_cannot_be_looked_at_is_not_taken_for_deleted(tmp_path, what):
    """The error ends the watch; nothing is said of a change that nobody has seen."""
    (tmp_path / "outer/root").mkdir(parents=True)
    (tmp_path / "outer/root/file").touch()
    done = run_program(
        f"""
        async def main():
            root = sys.argv[1] + "/outer/root"
            inside = os.open(root, os.O_RDONLY)
            path = root if {what!r} == "directory" else root + "/file"
            async with loopfast.watch(path) as watch:
                os.chmod(sys.argv[1] + "/outer", 0)
                os.rename("file", "other", src_dir_fd=inside, dst_dir_fd=inside)
                try:
                    print(await anext(watch))
                except PermissionError as exc:
                    print(exc.filename == path or exc.filename == root)
                print([changes async for changes in watch])
        loopfast.run(main())
        """,
        *POWERLESS,
        path=tmp_path,
    )
    (tmp_path / "outer").chmod(0o700)
    assert done.stdout.splitlines() == ["True", "[]"], done.stderr


@needs_namespaces
def test_no_watches_left(tmp_path):
    (tmp_path / "a").mkdir()
    done = run_program(
        """
        async def main():
            root = sys.argv[1]
            async with loopfast.watch(root) as watch:
                for name in "bcd":
                    os.mkdir(root + "/" + name)
                try:
                    await anext(watch)
                except OSError as exc:
                    print(exc.errno == errno.ENOSPC, exc.filename.startswith(root + "/"), exc.strerror)
            try:
                async with loopfast.watch(root):
                    pass
            except OSError as exc:
                print(exc.errno == errno.ENOSPC)
            for name in "bcd":
                os.rmdir(root + "/" + name)
            async with loopfast.watch(root) as watch:
                os.rmdir(root + "/a")
                print(len(await anext(watch)))
        loopfast.run(main())
        """,
        *limited("max_inotify_watches", 3),
        path=tmp_path,
    )
    assert done.stdout.splitlines() == [
        "True True no inotify watch left for this user (fs.inotify.max_user_watches)",
        "True",
        "1",
    ], done.stderr


@needs_namespaces
def test_no_instances_left(tmp_path):
    done = run_program(
        """
        async def main():
            try:
                async with loopfast.watch(sys.argv[1]):
                    pass
            except OSError as exc:
                print(exc.errno == errno.EMFILE, exc.filename == sys.argv[1], "max_user_instances" in exc.strerror)
        loopfast.run(main())
        """,
        *limited("max_inotify_instances", 0),
        path=tmp_path,
    )
    assert done.stdout == "True True True\n", done.stderr


# --- fork ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deleted", [False, True])
def test_a_forked_child(tmp_path, deleted):
    """It can end the parent's watch and its loop, use one of its own, and the parent goes on."""
    done = run_program(
        f"""
        async def once(root):
            async with loopfast.watch(root) as watch:
                open(root + "/new", "w").close()
                return len(await anext(watch))
        root = sys.argv[1] + "/root"
        other = sys.argv[1] + "/other"
        os.mkdir(root)
        os.mkdir(other)
        loop = loopfast.new_event_loop()
        watch = loopfast.watch(root)
        loop.run_until_complete(watch.__aenter__())
        if {deleted}:
            os.rmdir(root)
        pid = os.fork()
        if pid == 0:
            watch.close()
            loop.close()
            os._exit(loopfast.run(once(other)))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        if not {deleted}:
            open(root + "/file", "w").close()
        print([change.kind.value for change in loop.run_until_complete(anext(watch))])
        watch.close()
        loop.close()
        """,
        path=tmp_path,
    )
    expected = "deleted" if deleted else "created"
    assert done.stdout.splitlines() == ["1", f"['{expected}']"], done.stderr
    assert done.returncode == 0


def test_errors_have_the_kinds_that_python_gives_them():
    from loopfast._watch import _explained

    assert isinstance(_explained(OSError(errno.EACCES, "x"), "p"), PermissionError)
    assert isinstance(_explained(OSError(errno.ENOENT, "x"), "p"), FileNotFoundError)

"""loopfast.uv: the cffi binding works on the very libuv, and on the very loop, that the compiled modules drive."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import os
import select
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import preloaded

import loopfast
from loopfast import uv
from loopfast.uv import ffi, lib

ROOT = Path(loopfast.__file__).parents[1]


def handles_of(loop: Any) -> list[Any]:
    """Every uv_handle_t* of `loop`, as uv_walk lists them."""
    found: list[Any] = []

    @ffi.callback("uv_walk_cb")
    def visit(handle: Any, arg: Any) -> None:
        found.append(handle)

    lib.uv_walk(uv.loop_pointer(loop), visit, ffi.NULL)
    return found


def types_of(handles: list[Any]) -> Counter[str]:
    return Counter(ffi.string(lib.uv_handle_type_name(handle.type)).decode() for handle in handles)


def fileno_of(handle: Any) -> int | None:
    fd = ffi.new("uv_os_fd_t *")
    return int(fd[0]) if lib.uv_fileno(handle, fd) == 0 else None


def run(coroutine: Any) -> Any:
    with asyncio.Runner(loop_factory=loopfast.new_event_loop) as runner:
        return runner.run(coroutine)


async def closed(handle: Any) -> None:
    """Close a handle and wait for libuv's close callback, until which its memory must live."""
    done = asyncio.get_running_loop().create_future()

    @ffi.callback("uv_close_cb")
    def on_close(_: Any) -> None:
        done.set_result(None)

    lib.uv_close(ffi.cast("uv_handle_t *", handle), on_close)
    await done


def test_one_libuv_for_both_worlds() -> None:
    assert uv.version() == loopfast.libuv_version()
    assert uv.version() == ffi.string(lib.LOOPFAST_UV_HEADER_VERSION_STRING).decode()


def test_walk_lists_the_handles_cython_made() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = handles_of(loop)
        assert {handle.loop for handle in before} == {uv.loop_pointer(loop)}

        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        listener = server.sockets[0]
        with_server = handles_of(loop)
        assert listener.fileno() in {fileno_of(handle) for handle in with_server}
        assert listener.fileno() not in {fileno_of(handle) for handle in before}

        accepted = loop.create_future()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.set_result(transport)

        other = await loop.create_server(Accepted, "127.0.0.1", 0)
        count = types_of(handles_of(loop))["tcp"]
        client, _ = await loop.create_connection(asyncio.Protocol, *other.sockets[0].getsockname())
        peer = await accepted
        by_number = {fileno_of(handle): handle for handle in handles_of(loop)}
        for transport in (client, peer):
            handle = by_number[transport.get_extra_info("socket").fileno()]
            assert handle.type == lib.UV_TCP
            assert not lib.uv_is_closing(handle)
        assert types_of(handles_of(loop))["tcp"] == count + 2

        client.abort()
        peer.abort()
        server.close()
        other.close()
        await server.wait_closed()
        await other.wait_closed()
        # Closing takes a turn of the loop; how many is libuv's business.
        async with asyncio.timeout(10):
            while types_of(handles_of(loop)) != types_of(before):
                await asyncio.sleep(0)

    run(main())


def kernel_sets() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if "[eventpoll]" in os.readlink(f"/proc/self/fd/{name}"):
                found.add(int(name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for epoll sets")
def test_a_kernel_set_that_cannot_be_watched(tmp_path: Path) -> None:
    """What the kernel refuses, say for want of memory, it may refuse for long: all else works meanwhile."""
    others = kernel_sets()
    loop = loopfast.new_event_loop()
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    one, other = socket.socketpair()
    loop.add_reader(one, print)

    def called() -> None:
        pass

    gone = weakref.ref(called)
    loop.add_reader(other, called)
    base = uv.Loop.of(loop)
    # The loop's own set, for what libuv watches, too. libuv cannot watch a file.
    (own,) = kernel_sets() - others - {base.backend_fd()}
    with open(tmp_path / "file", "wb") as file:
        os.dup2(file.fileno(), own, inheritable=False)
    poll = uv.Poll(base, one)
    poll.start(lambda *_: None, uv.PollEvent.READABLE)
    with pytest.raises(PermissionError):
        loop.add_writer(one, print)
    assert loop.remove_writer(one) is False
    del called
    assert loop.remove_reader(other) is True
    gc.collect()
    assert gone() is None
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert [type(context["exception"]) for context in reports] == [PermissionError]
    with pytest.raises(PermissionError):
        loop.add_reader(one, print)
    with select.epoll() as made:
        os.dup2(made.fileno(), own, inheritable=False)
    loop.add_reader(one, loop.stop)
    other.send(b"x")
    loop.run_forever()
    assert loop.remove_reader(one) is True
    poll.close()
    loop.close()
    assert loop.is_closed()
    one.close()
    other.close()


def test_a_timer_made_here_fires_inside_the_asyncio_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired = loop.create_future()
        timer = ffi.new("uv_timer_t *")

        @ffi.callback("uv_timer_cb")
        def on_timer(handle: Any) -> None:
            assert handle == timer
            fired.set_result((asyncio.get_running_loop(), threading.get_ident()))

        assert lib.uv_timer_init(uv.loop_pointer(), timer) == 0
        # libuv counts from the time it has noted, which may be that of the start of the turn.
        lib.uv_update_time(uv.loop_pointer())
        started = loop.time()
        assert lib.uv_timer_start(timer, on_timer, 30, 0) == 0
        assert ffi.cast("uv_handle_t *", timer) in handles_of(loop)
        # Nothing else is due: the loop sleeps in its poll, and the timer alone must wake it.
        async with asyncio.timeout(10):
            assert await fired == (loop, threading.get_ident())
        # libuv counts whole milliseconds.
        assert loop.time() - started >= 0.028
        await closed(timer)
        assert ffi.cast("uv_handle_t *", timer) not in handles_of(loop)

    run(main())


def test_a_repeating_timer_beside_a_busy_loop() -> None:
    """With callbacks always ready the loop polls rarely; a foreign timer must get its turn all the same."""

    async def main() -> None:
        ticks = 0
        timer = ffi.new("uv_timer_t *")

        @ffi.callback("uv_timer_cb")
        def on_timer(handle: Any) -> None:
            nonlocal ticks
            ticks += 1

        assert lib.uv_timer_init(uv.loop_pointer(), timer) == 0
        assert lib.uv_timer_start(timer, on_timer, 1, 1) == 0
        async with asyncio.timeout(10):
            while ticks < 5:
                await asyncio.sleep(0)
        await closed(timer)

    run(main())


def test_an_async_handle_made_here_wakes_the_loop_from_another_thread() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        wake = ffi.new("uv_async_t *")

        @ffi.callback("uv_async_cb")
        def on_wake(handle: Any) -> None:
            if not woken.done():
                woken.set_result(threading.get_ident())

        assert lib.uv_async_init(uv.loop_pointer(), wake, on_wake) == 0
        thread = threading.Thread(target=lib.uv_async_send, args=(wake,))
        thread.start()
        async with asyncio.timeout(10):
            assert await woken == threading.get_ident()
        thread.join()
        await closed(wake)

    run(main())


def test_an_exception_in_a_callback_does_not_stop_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: unraisable.append(str(report.exc_value)))

    async def main() -> None:
        fired = asyncio.get_running_loop().create_future()
        timer = ffi.new("uv_timer_t *")

        @ffi.callback("uv_timer_cb")
        def on_timer(handle: Any) -> None:
            fired.set_result(None)
            raise ZeroDivisionError("from a cffi callback")

        assert lib.uv_timer_init(uv.loop_pointer(), timer) == 0
        assert lib.uv_timer_start(timer, on_timer, 0, 0) == 0
        await fired
        await closed(timer)

    run(main())
    assert unraisable == ["from a cffi callback"]


def test_a_loop_of_ones_own() -> None:
    """The same library also runs loops that asyncio knows nothing of."""
    loop, timer = ffi.new("uv_loop_t *"), ffi.new("uv_timer_t *")
    fired: list[int] = []

    @ffi.callback("uv_timer_cb")
    def on_timer(handle: Any) -> None:
        fired.append(handle.type)
        lib.uv_close(ffi.cast("uv_handle_t *", handle), ffi.NULL)

    assert lib.uv_loop_init(loop) == 0
    assert lib.uv_timer_init(loop, timer) == 0
    assert lib.uv_timer_start(timer, on_timer, 1, 0) == 0
    assert lib.uv_loop_close(loop) == lib.UV_EBUSY
    assert lib.uv_run(loop, lib.UV_RUN_DEFAULT) == 0
    assert fired == [lib.UV_TIMER]
    assert lib.uv_loop_close(loop) == 0


def test_errors_have_names_and_texts() -> None:
    assert ffi.string(lib.uv_err_name(lib.UV_EBADF)) == b"EBADF"
    assert ffi.string(lib.uv_strerror(lib.UV_EINVAL)) == b"invalid argument"
    assert lib.uv_translate_sys_error(errno.EAGAIN) == lib.UV_EAGAIN


def test_pointer_of_a_given_loop() -> None:
    loop = loopfast.new_event_loop()
    try:
        pointer = uv.loop_pointer(loop)
        assert ffi.typeof(pointer) is ffi.typeof("uv_loop_t *")
        assert pointer == uv.loop_pointer(loop) != ffi.NULL
        assert lib.uv_backend_fd(pointer) >= 0
    finally:
        loop.close()


def test_pointer_of_the_running_loop() -> None:
    async def main() -> None:
        assert uv.loop_pointer() == uv.loop_pointer(asyncio.get_running_loop())

    run(main())


def test_pointer_without_a_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        uv.loop_pointer()


def test_pointer_of_a_closed_loop() -> None:
    loop = loopfast.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        uv.loop_pointer(loop)


class Foreign:
    """A loop of another library: it offers a pointer, but into another libuv."""

    def libuv_get_loop_t_ptr(self) -> Any:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(1, None, None)


@pytest.mark.parametrize("make", [Foreign, object, asyncio.SelectorEventLoop])
def test_pointer_of_something_else(make: Any) -> None:
    other = make()
    with pytest.raises(TypeError, match="loopfast event loop, got .*" + type(other).__name__):
        uv.loop_pointer(other)
    if isinstance(other, asyncio.AbstractEventLoop):
        other.close()


@pytest.mark.parametrize("capsule", [None, object(), 7])
def test_pointer_when_the_method_was_replaced(capsule: Any) -> None:
    class Broken(loopfast.Loop):
        def libuv_get_loop_t_ptr(self) -> Any:
            return capsule

    loop = Broken()
    try:
        with pytest.raises(TypeError, match="not a loop's capsule"):
            uv.loop_pointer(loop)
    finally:
        loop.close()


def test_loopfast_itself_does_not_load_cffi() -> None:
    program = """
import asyncio, sys, loopfast
async def main(): await asyncio.sleep(0)
loopfast.run(main())
found = sorted({"cffi", "_cffi_backend", "loopfast.uv"} & sys.modules.keys())
sys.exit(f"loaded: {found}" if found else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD is Linux's")
@pytest.mark.parametrize("module", ["loopfast.core", "loopfast.uv"])
def test_another_libuv_in_front_is_refused(module: str, tmp_path: Path) -> None:
    """A libuv loaded globally comes before ours in the search for symbols: importing must say so instead of
    crashing."""
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which("cc")
    assert compiler, "the tests run where the extensions were built"
    source, library = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text(
        'unsigned int uv_version(void) { return 0x012c02; }\nconst char *uv_version_string(void) { return "1.44.2"; }\n'
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    if module == "loopfast.core":
        program = "import loopfast"
    else:
        # The package would already have refused: import the binding on its own, below a package that is only a name.
        program = (
            "import sys, types; package = types.ModuleType('loopfast'); "
            f"package.__path__ = [{str(ROOT / 'loopfast')!r}]; sys.modules['loopfast'] = package; "
            "import loopfast.uv"
        )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT), "LD_PRELOAD": preloaded(library)},
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "1.44.2" in last and uv.version() in last


def test_handles_left_open_do_not_outlive_the_loop() -> None:
    """Closing a loop also closes what was made on it here and forgotten, instead of failing or leaking the loop."""
    timer = ffi.new("uv_timer_t *")
    loop = loopfast.new_event_loop()
    assert lib.uv_timer_init(uv.loop_pointer(loop), timer) == 0
    loop.close()
    assert loop.is_closed()
    assert lib.uv_is_closing(ffi.cast("uv_handle_t *", timer))


def test_descriptors_are_the_kernels() -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        numbers = {fileno_of(handle) for handle in handles_of(asyncio.get_running_loop())} - {None}
        own = server.sockets[0]
        with socket.socket(fileno=os.dup(own.fileno())) as copy:
            assert copy.getsockname() == own.getsockname()
        assert own.fileno() in numbers
        server.close()
        await server.wait_closed()

    run(main())

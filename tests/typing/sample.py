"""A program that uses every public name of loopfast as its users do: accepted by a strict type checker as it is."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

import loopfast
import loopfast.opentelemetry
import loopfast.prometheus
import loopfast.uv
from loopfast import Loop, fs, install, libuv_version, new_event_loop, run, uninstall
from loopfast.callbacks import Handle, TimerHandle
from loopfast.errors import uv_exception
from loopfast.transports.tcp import TCPTransport


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    print(context["message"])


def add(left: int, right: int) -> int:
    return left + right


async def handles(loop: Loop) -> None:
    assert_type(loop.call_soon(add, 1, 2), asyncio.Handle)
    assert_type(loop.call_soon_threadsafe(add, 1, 2), asyncio.Handle)
    timer = loop.call_later(0.5, add, 1, 2)
    assert_type(timer, asyncio.TimerHandle)
    assert_type(loop.call_at(loop.time() + 1, print).when(), float)
    timer.cancel()
    if isinstance(timer, TimerHandle):
        print(timer.when() < 1.0, timer.cancelled(), timer.get_context())
    handle = loop.call_soon(print)
    if isinstance(handle, Handle):
        handle.cancel()


def insight(loop: Loop) -> None:
    statistics = loop.statistics()
    assert_type(statistics, loopfast.LoopStatistics)
    assert_type(statistics.utilisation_since(loop.statistics()), float)
    assert_type(statistics.transports["tcp"], int)
    for slow in statistics.slow:
        assert_type(slow, loopfast.SlowCallback)
        assert_type(slow.stack, tuple[str, ...])
    loop.slow_callback_duration = 0.05
    assert_type(loop.open_statistics_endpoint(Path("folder")), str)
    loop.close_statistics_endpoint()
    assert_type(loopfast.prometheus.export(loop, "main"), loopfast.prometheus.LoopCollector)
    loopfast.opentelemetry.export(loop).remove("main")


async def files() -> None:
    async for changes in loopfast.watch("folder", recursive=True, debounce=0.05):
        assert_type(changes, list[loopfast.Change])
        for kind, path, old_path in changes:
            assert_type(kind, loopfast.ChangeKind)
            assert_type(path, Path)
            assert_type(old_path, Path | None)
    async with loopfast.watch(b"file", max_delay=1, ignore_permission_denied=True) as watch:
        assert_type(watch, loopfast.Watch)
        assert_type(await anext(watch), list[loopfast.Change])
        await watch.aclose()


async def opened_files() -> None:
    async with fs.open("text", "w", encoding="utf-8") as text:
        assert_type(text, fs.TextFile)
        assert_type(await text.write("line\n"), int)
    file = await fs.open(b"text", "rb")
    assert_type(file, fs.BinaryFile)
    async for line in file:
        assert_type(line, bytes)
    await file.close()
    assert_type(await fs.read_text(Path("text")), str)
    assert_type(await fs.write_bytes("bytes", bytearray(b"x")), int)
    assert_type(await fs.stat("text"), os.stat_result)
    assert_type(await fs.listdir(b"."), list[bytes])
    async with fs.scandir(".") as entries:
        async for entry in entries:
            assert_type(entry.name, str)
            assert_type((await entry.stat()).st_size, int)
    async with fs.TemporaryDirectory() as folder:
        await asyncio.gather(fs.mkdir(f"{folder}/new"), fs.exists(folder))


async def connections(loop: Loop) -> None:
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    assert_type(server, asyncio.Server)
    transport, protocol = await loop.create_connection(Echo, *server.sockets[0].getsockname())
    assert_type(transport, asyncio.Transport)
    assert_type(protocol, Echo)
    if isinstance(transport, TCPTransport):
        transport.set_write_gathering(False)
        transport.set_write_buffer_limits(high=1 << 20, low=0)
        transport.writelines([b"one", bytearray(b"two"), memoryview(b"three")])
    transport.close()
    server.close()
    loop.set_write_gathering(True)
    loop.add_reader(0, print, "readable")
    assert_type(loop.remove_reader(0), bool)


async def main() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.set_exception_handler(report)
    assert_type(loop.create_future(), asyncio.Future[Any])
    task = loop.create_task(asyncio.sleep(0, "result"), name="sleeper")
    assert_type(await task, str)
    await handles(loop)
    with contextlib.suppress(OSError):
        await connections(loop)
    pointer = loopfast.uv.loop_pointer(loop)
    print(loopfast.uv.lib.uv_loop_alive(pointer), loopfast.uv.version(), loop.libuv_get_loop_t_ptr())
    return 0


factory: Callable[[], asyncio.AbstractEventLoop] = loopfast.new_event_loop

if __name__ == "__main__":
    assert_type(run(main()), int)
    assert_type(run(main(), debug=True, loop_factory=factory), int)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert_type(runner.run(main()), int)
    install()
    asyncio.run(main())
    uninstall()
    policy: asyncio.AbstractEventLoopPolicy = loopfast.EventLoopPolicy()
    assert_type(libuv_version(), str)
    assert_type(loopfast.__version__, str)
    assert_type(uv_exception(-2), BaseException)
    loop: asyncio.AbstractEventLoop = Loop()
    loop.close()

"""Tasks and what they wait for: sleep(0), futures, queues, locks, gather, the executor, names, processes."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

from ..registry import Loop, WrongWork, check, micro


@micro("task.sleep0", "await sleep(0), one task", batch=100, quick=True)
async def sleep0(_loop: Loop, repeats: int) -> None:
    for _ in range(repeats * 100):
        await asyncio.sleep(0)


@micro("task.sleep0_100", "await sleep(0), 100 tasks", batch=100)
async def sleep0_100(_loop: Loop, repeats: int) -> None:
    async def sleeper() -> int:
        for _ in range(repeats):
            await asyncio.sleep(0)
        return repeats

    check(sum(await asyncio.gather(*[sleeper() for _ in range(100)])), repeats * 100)


@micro("task.gather", "create_task and gather, 100 at once", batch=100, quick=True)
async def gather(loop: Loop, repeats: int) -> None:
    async def one() -> int:
        return 1

    done = 0
    for _ in range(repeats):
        done += sum(await asyncio.gather(*[loop.create_task(one()) for _ in range(100)]))
    check(done, repeats * 100)


@micro("task.timeout", "async with timeout(10) around sleep(0)", batch=100)
async def timeout(_loop: Loop, repeats: int) -> None:
    for _ in range(repeats * 100):
        async with asyncio.timeout(10):
            await asyncio.sleep(0)


@micro("future.set_result", "create_future, set_result in call_soon, await", batch=100, quick=True)
async def set_result(loop: Loop, repeats: int) -> None:
    done = 0
    for _ in range(repeats * 100):
        future = loop.create_future()
        loop.call_soon(future.set_result, 1)
        done += await future
    check(done, repeats * 100)


@micro("sync.queue", "asyncio.Queue(1), put and get between two tasks", batch=100)
async def queue(loop: Loop, repeats: int) -> None:
    items: asyncio.Queue[int] = asyncio.Queue(1)

    async def produce() -> None:
        for _ in range(repeats * 100):
            await items.put(1)

    task = loop.create_task(produce())
    done = 0
    for _ in range(repeats * 100):
        done += await items.get()
    await task
    check(done, repeats * 100)


@micro("sync.lock", "asyncio.Lock wanted by two tasks, sleep(0) while held", batch=100)
async def lock(_loop: Loop, repeats: int) -> None:
    shared = asyncio.Lock()
    holders = 0
    done = 0

    async def contend() -> None:
        nonlocal holders, done
        for _ in range(repeats * 50):
            async with shared:
                holders += 1
                if holders != 1:
                    raise WrongWork("two tasks held the lock")
                await asyncio.sleep(0)
                holders -= 1
                done += 1

    await asyncio.gather(contend(), contend())
    check(done, repeats * 100)


@micro("executor.run", "run_in_executor(None, f), one after the other", batch=10)
async def executor(loop: Loop, repeats: int) -> None:
    done = 0
    for _ in range(repeats * 10):
        done += await loop.run_in_executor(None, int, "1")
    check(done, repeats * 10)


@micro("executor.getaddrinfo", "getaddrinfo of a numeric address")
async def getaddrinfo(loop: Loop, repeats: int) -> None:
    for _ in range(repeats):
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        if found[0][4] != ("127.0.0.1", 80):
            raise WrongWork(f"getaddrinfo answered {found}")


@micro("executor.getaddrinfo_name", "getaddrinfo of localhost, looked up by the system")
async def getaddrinfo_name(loop: Loop, repeats: int) -> None:
    for _ in range(repeats):
        found = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        if not {each[4][0] for each in found} & {"127.0.0.1", "::1"}:
            raise WrongWork(f"getaddrinfo answered {found}")


@micro("process.spawn", "create_subprocess_exec of an empty program, waited for")
async def spawn(_loop: Loop, repeats: int) -> None:
    for _ in range(repeats):
        process = await asyncio.create_subprocess_exec("true" if sys.platform != "win32" else "hostname")
        check(await process.wait(), 0)


class Counter(asyncio.Protocol):
    """Counts what it receives and tells when that is enough."""

    def __init__(self, wanted: int, enough: asyncio.Future[None]) -> None:
        self.left, self.enough = wanted, enough

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left <= 0 and not self.enough.done():
            self.enough.set_result(None)


@micro("pipe.transfer", "64 KiB through a pipe, connect_write_pipe and connect_read_pipe")
async def pipe_transfer(loop: Loop, repeats: int) -> None:
    data = bytes(64 * 1024)
    enough = loop.create_future()
    ends = os.pipe()
    with open(ends[0], "rb", 0) as source, open(ends[1], "wb", 0) as sink:
        reading, counter = await loop.connect_read_pipe(lambda: Counter(0, enough), source)
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sink)
        for _ in range(repeats):
            counter.left, counter.enough = len(data), loop.create_future()
            writing.write(data)
            await counter.enough
            check(counter.left, 0)
        writing.close()
        reading.close()
        await asyncio.sleep(0)  # the transports close their ends in callbacks of their own


@micro("process.pipes", "the same with 64 KiB in and out through cat")
async def pipes(_loop: Loop, repeats: int) -> None:
    data = bytes(range(256)) * 256
    for _ in range(repeats):
        process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        output, _ = await process.communicate(data)
        if output != data:
            raise WrongWork("cat answered something else")
        check(process.returncode, 0)


BULK = 16 * 1024 * 1024
# It reads and writes 64 KiB at a time.
DD = ("dd", "bs=64k", "status=none")


@micro("process.output", "16 MiB read from a subprocess")
async def process_output(_loop: Loop, repeats: int) -> None:
    for _ in range(repeats):
        command = (*DD, "if=/dev/zero", f"count={BULK // 65536}")
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        left = BULK
        while data := await process.stdout.read(65536):
            left -= len(data)
        check(left, 0)
        check(await process.wait(), 0)


@micro("process.input", "16 MiB written to a subprocess, 1 MiB at a time")
async def process_input(_loop: Loop, repeats: int) -> None:
    data = bytes(1024 * 1024)
    for _ in range(repeats):
        process = await asyncio.create_subprocess_exec(*DD, "of=/dev/null", stdin=subprocess.PIPE)
        for _ in range(BULK // len(data)):
            process.stdin.write(data)
            await process.stdin.drain()
        process.stdin.close()
        check(await process.wait(), 0)

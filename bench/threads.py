"""``python -m bench.threads``: one process with several loops, each in a thread of its own, against as many processes.

Meant for the free-threaded build, where the threads run at the same time. Each worker runs two workloads for a while:
a chain of ``call_soon`` and a 1 KiB ping-pong between two protocols over a pair of sockets. Printed are the operations
per second of all workers together, and per second of processor time, which other programs do not change much.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

MESSAGE = b"x" * 1024


class Player(asyncio.Protocol):
    """Sends back what arrives, and counts it."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.size += len(data)
        if self.size >= len(MESSAGE):
            self.size = 0
            self.count += 1
            self.transport.write(MESSAGE)


async def ping_pong(seconds: float) -> int:
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    transport, player = await loop.create_connection(Player, sock=one)
    opposite, _ = await loop.create_connection(Player, sock=other)
    transport.write(MESSAGE)
    await asyncio.sleep(seconds)
    transport.close()
    opposite.close()
    return player.count


async def chain(seconds: float) -> int:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    deadline = loop.time() + seconds
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count % 256 or loop.time() < deadline:
            loop.call_soon(step)
        else:
            done.set_result(count)

    loop.call_soon(step)
    return await done


WORKLOADS: dict[str, Callable[[float], Any]] = {"call_soon": chain, "ping-pong 1 KiB": ping_pong}


def work(workload: str, seconds: float, barrier: Any, results: Any) -> None:
    """One worker: puts (operations, wall seconds, processor seconds)."""
    import loopfast

    loop = loopfast.new_event_loop()
    barrier.wait()
    started, used = time.perf_counter(), time.thread_time()
    count = loop.run_until_complete(WORKLOADS[workload](seconds))
    results.put((count, time.perf_counter() - started, time.thread_time() - used))
    loop.close()


def measure(kind: str, workers: int, workload: str, seconds: float) -> tuple[float, float]:
    """Operations per second of all workers, and per second of processor time."""
    context: Any = threading if kind == "threads" else multiprocessing.get_context("spawn")
    start = context.Thread if kind == "threads" else context.Process
    if kind == "threads":
        import queue

        results: Any = queue.SimpleQueue()
    else:
        results = context.SimpleQueue()
    barrier = context.Barrier(workers)
    started = [start(target=work, args=(workload, seconds, barrier, results)) for _ in range(workers)]
    for worker in started:
        worker.start()
    got = [results.get() for _ in range(workers)]
    for worker in started:
        worker.join()
    return sum(count / wall for count, wall, _ in got), sum(g[0] for g in got) / sum(g[2] for g in got)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.threads", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, GIL {'on' if gil else 'off'}, {options.workers} workers, medians of")
    print(f"{options.rounds} rounds of {options.seconds:g} s, one after the other")
    for workload in WORKLOADS:
        got: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for _ in range(options.rounds):
            for case in (("threads", 1), ("threads", options.workers), ("processes", options.workers)):
                got.setdefault(case, []).append(measure(*case, workload, options.seconds))
        medians = {case: tuple(map(statistics.median, zip(*rounds, strict=True))) for case, rounds in got.items()}
        print(f"\n{workload:18} {'per second':>14} {'per cpu second':>16}")
        for (kind, workers), (wall, cpu) in medians.items():
            print(f"{workers} {kind:16} {wall:14,.0f} {cpu:16,.0f}")
        threads, processes = medians["threads", options.workers], medians["processes", options.workers]
        print(f"threads/processes  {threads[0] / processes[0]:14.2f} {threads[1] / processes[1]:16.2f}")


if __name__ == "__main__":
    main()

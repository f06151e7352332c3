"""The same application on every loop that is installed, side by side: requests per second, latency, processor time."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import loops, native
from bench.demo.server import Server
from bench.load import Generator, Load
from bench.text import table

ORDER = ("asyncio", "loopfast", "uvloop")
SENDS = ("write", "writev", "sendto", "sendmsg", "sendmmsg")


def available(say: Callable[[str], None]) -> list[str]:
    """Returns the loops of ORDER that can be made here; tells the others and why with `say`."""
    found = []
    for name in ORDER:
        reason = loops.missing(name)
        if reason is None:
            found.append(name)
        else:
            say(f"  {name}: left out: {reason}")
    return found


def processors() -> tuple[set[int] | None, set[int] | None]:
    """Returns disjoint processors for servers and client, so that neither runs at the other's cost; None for one."""
    usable = sorted(os.sched_getaffinity(0))
    return (None, None) if len(usable) < 2 else ({usable[0]}, set(usable[1:]))


def throughput(rounds: int, seconds: float, connections: int, say: Callable[[str], None]) -> str:
    """Returns a table of GET /json over `connections` kept-alive connections: `rounds` of `seconds`, loops in turn.

    Each figure is the median of the rounds. Raises native.Unavailable where the generator cannot be compiled,
    ServerError and LoadError where a server or an answer fails.
    """
    for_servers, for_client = processors()
    load = Load("http", connections=connections, path="/json")
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(Server(name, cpus=for_servers)) for name in available(say)}
        clients = {
            name: stack.enter_context(Generator(load, "127.0.0.1", server.port, for_client))
            for name, server in servers.items()
        }
        for client in clients.values():
            client.run(seconds=seconds / 2)
        samples: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in servers}
        for number in range(rounds):
            for name, server in servers.items():
                before = server.cpu_seconds()
                got = clients[name].run(seconds=seconds)
                spent = (server.cpu_seconds() - before) / got.messages * 1e6
                samples[name].append((got.messages / got.seconds, got.p50_us / 1e3, got.p99_us / 1e3, spent))
            each = ", ".join(f"{name} {samples[name][-1][0]:,.0f}" for name in servers)
            say(f"  round {number + 1} of {rounds}: {each} requests/s")
    middle = {name: list(map(statistics.median, zip(*values, strict=True))) for name, values in samples.items()}
    rows = []
    for name, (rate, p50, p99, cpu) in middle.items():
        rates = [sample[0] for sample in samples[name]]
        rows.append(
            [
                name,
                f"{rate:,.0f}",
                f"{min(rates):,.0f} - {max(rates):,.0f}",
                f"{rate / middle['asyncio'][0]:.2f}",
                f"{p50:.2f}",
                f"{p99:.2f}",
                f"{cpu:.0f}",
            ]
        )
    return table(["loop", "requests/s", "range", "to asyncio", "p50 ms", "p99 ms", "CPU µs/request"], rows)


def sends(count: int, connections: int, say: Callable[[str], None]) -> str:
    """Returns a table of the system calls that send to the client, per request: strace's count of `count` requests.

    Raises native.Unavailable where strace or the generator is absent, ServerError and LoadError as `throughput`.
    """
    strace = [native.tool("strace", "strace"), "-f", "-qq", "-yy", "--signal=none", f"--trace={','.join(SENDS)}"]
    load = Load("http", connections=connections, path="/json")
    rows = []
    for name in available(say):
        say(f"  {name} under strace: {count:,} requests over {connections} connections")
        with tempfile.TemporaryDirectory(prefix="loopfast-demo-") as folder:
            log = Path(folder, "log")
            with (
                Server(name, prefix=[*strace, "-o", str(log)]) as server,
                Generator(load, "127.0.0.1", server.port) as client,
            ):
                client.run(count=count)
            calls = count_sends(log.read_text(errors="replace").splitlines())
        kinds = ", ".join(f"{kind} {number / count:.2f}" for kind, number in sorted(calls.items()))
        rows.append([name, f"{calls.total() / count:.2f}", kinds])
    return table(["loop", "sends/request", "by call"], rows, left=(0, 2))


def count_sends(log: Sequence[str]) -> Counter[str]:
    """Counts the calls in the lines of an strace log (-f -yy) that send on a TCP connection, by name."""
    pattern = re.compile(rf"\d+\s+({'|'.join(SENDS)})\(\d+<TCP(?:v6)?:")
    return Counter(found[1] for line in log if (found := pattern.match(line)))

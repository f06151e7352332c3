"""Names looked up by loop.getaddrinfo(): answers, errors, who is asked, and lookups that nobody waits for any more."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import shutil
import socket
import subprocess
import types
from functools import partial
from pathlib import Path

import pytest
from support import preloaded, run_program

OPTIONS = [
    {},
    {"type": socket.SOCK_STREAM},
    {"type": socket.SOCK_DGRAM, "family": socket.AF_INET},
    {"family": socket.AF_INET6},
    {"family": int(socket.AF_INET), "proto": socket.IPPROTO_TCP},
    {"flags": socket.AI_CANONNAME},
    {"flags": socket.AI_NUMERICHOST},
    {"flags": socket.AI_PASSIVE | socket.AI_ADDRCONFIG, "type": socket.SOCK_STREAM},
    {"flags": 1 << 20},
    {"family": 77},
    {"type": 77},
    {"proto": 1 << 40},
    {"family": "inet"},
    {"type": 1.5},
    {"flags": -1},
]
#: Known without asking anybody.
HOSTS = ["localhost", "LocalHost", b"localhost", "127.1", "::1%lo", None, 17]
#: Looked at as numbers only, so that no name server is asked for them.
OTHER_HOSTS = [
    "localhost",
    "localhost.",
    "name.invalid",
    "a..b",
    ".",
    "",
    "-",
    "a" * 63 + ".invalid",
    "a" * 64 + ".invalid",
    ".".join(["a" * 63] * 4) + ".invalid",
    "with\0nul",
    "with space",
    "bücher.invalid",
    "a_b.invalid",
]
PORTS = [
    80,
    0,
    65535,
    65536,
    -1,
    1 << 70,
    "http",
    "80",
    "no such service",
    b"http",
    b"80",
    "",
    "80\0",
    "ü",
    None,
    True,
    1.5,
]


async def answer(function):
    """What a call answers or raises, with the classes of the numbers."""
    try:
        found = function()
        if asyncio.iscoroutine(found):
            found = await found
    except Exception as exc:
        return type(exc), exc.args
    return found, [[type(item) for item in entry] for entry in found]


async def check_answers(loop, host, cases):
    for port, options in cases:
        ours = await answer(partial(loop.getaddrinfo, host, port, **options))
        assert ours == await answer(partial(socket.getaddrinfo, host, port, **options)), (host, port, options)


@pytest.mark.parametrize("host", HOSTS)
async def test_answers_and_errors_are_the_socket_modules(loop, host):
    cases = [(80, options) for options in OPTIONS] + [(port, {"type": socket.SOCK_STREAM}) for port in PORTS]
    await check_answers(loop, host, cases)


@pytest.mark.parametrize("host", OTHER_HOSTS)
async def test_other_hosts(loop, host):
    numeric = {"flags": socket.AI_NUMERICHOST}
    await check_answers(loop, host, [(80, numeric), (80, {**numeric, "type": socket.SOCK_STREAM}), ("http", numeric)])


async def test_many_at_once(loop):
    expected = socket.getaddrinfo("localhost", 80)
    assert await asyncio.gather(*(loop.getaddrinfo("localhost", 80) for _ in range(200))) == [expected] * 200


async def test_in_debug_mode(loop):
    loop.set_debug(True)
    assert await loop.getaddrinfo("localhost", 80) == socket.getaddrinfo("localhost", 80)


def test_a_replaced_executor_is_asked(loop):
    class Executor(concurrent.futures.ThreadPoolExecutor):
        asked = 0

        def submit(self, *args):
            self.asked += 1
            return super().submit(*args)

    executor = Executor(1)
    loop.set_default_executor(executor)
    loop.run_until_complete(loop.getaddrinfo("localhost", 80))
    assert executor.asked == 1


async def test_a_replaced_getaddrinfo_is_asked(loop, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [args])
    assert await loop.getaddrinfo("localhost", 80, proto=6) == [("localhost", 80, 0, 0, 6, 0)]


async def test_a_replaced_module_of_asyncios_is_asked(loop, monkeypatch):
    """As CPython's own tests do it."""
    module = types.SimpleNamespace(getaddrinfo=lambda *args: [args])
    monkeypatch.setattr(asyncio.base_events, "socket", module)
    assert await loop.getaddrinfo("localhost", 80) == [("localhost", 80, 0, 0, 0, 0)]


def test_after_the_executors_shutdown(loop):
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match="shutdown"):
        loop.run_until_complete(loop.getaddrinfo("localhost", 80))


def test_hooks_see_the_lookup(loop_kind):
    code = """
        def hook(event, args):
            if event == "socket.getaddrinfo":
                print(args)
        sys.addaudithook(hook)
        async def main():
            await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        run(main())
    """
    assert run_program(loop_kind, code) == "('localhost', 80, 0, 1, 0)\n"


def test_a_hook_that_refuses(loop_kind):
    code = """
        def hook(event, args):
            if event == "socket.getaddrinfo":
                raise PermissionError("no names here")
        sys.addaudithook(hook)
        async def main():
            try:
                await asyncio.get_running_loop().getaddrinfo("localhost", 80)
            except PermissionError as exc:
                print(exc)
        run(main())
    """
    assert run_program(loop_kind, code) == "no names here\n"


# ----------------------------------------------------------------------------------------- lookups that take their time

GATE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Lookups of "slow..." begin by reading a byte from the descriptor LF_GATE. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    char byte;
    if (node && strncmp(node, "slow", 4) == 0) {
        if (read(atoi(getenv("LF_GATE")), &byte, 1) < 0) abort();
        node = "localhost";
    }
    real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(node, service, hints, found);
}
"""

PRELUDE = """
from pathlib import Path
read_end, write_end = os.pipe()
os.environ["LF_GATE"] = str(read_end)
def descriptors():
    return len(os.listdir("/proc/self/fd"))
def let_go(count):
    os.write(write_end, b"x" * count)
"""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes lookups wait."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("gate")
    (folder / "gate.c").write_text(GATE)
    library = folder / "gate.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "gate.c", "-ldl"], check=True)
    return library


linux_only = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's dynamic linker and /proc")


def run_gated(loop_kind: str, gate: Path, code: str) -> str:
    return run_program(loop_kind, PRELUDE + code, LD_PRELOAD=preloaded(gate))


@linux_only
def test_the_loop_goes_on_during_a_lookup(loop_kind, gate):
    code = """
async def main():
    loop = asyncio.get_running_loop()
    lookups = [asyncio.ensure_future(loop.getaddrinfo("slow", 80 + number)) for number in range(4)]
    await asyncio.sleep(0.01)
    fast = await loop.getaddrinfo("localhost", 1)
    print(fast == socket.getaddrinfo("localhost", 1), [lookup.done() for lookup in lookups])
    let_go(4)
    print([(await lookup)[0][4][1] for lookup in lookups])
run(main())
"""
    assert run_gated(loop_kind, gate, code) == "True [False, False, False, False]\n[80, 81, 82, 83]\n"


@linux_only
def test_a_lookup_that_is_cancelled(loop_kind, gate):
    code = """
async def main():
    loop = asyncio.get_running_loop()
    for timeout in (0, 0.01, 0.01):
        try:
            await asyncio.wait_for(loop.getaddrinfo("slow", 80), timeout)
        except TimeoutError:
            print("timeout")
    let_go(3)
    print((await loop.getaddrinfo("localhost", 80))[0][4][1])
run(main())
"""
    assert run_gated(loop_kind, gate, code) == "timeout\n" * 3 + "80\n"


@linux_only
def test_loops_closed_during_lookups(loop_kind, gate):
    """Nothing happens to the process, and what the lookups held is given back with a later loop."""
    code = """
new_event_loop().close()
before = descriptors()
loops = []
for _ in range(3):
    loop = new_event_loop()
    task = loop.create_task(loop.getaddrinfo("slow", 80))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    task._log_destroy_pending = False
    loop.close()
    loops.append(loop)
del loop, task, loops
gc.collect()
let_go(3)
while True:
    loop = new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    if descriptors() == before:
        break
print("clean")
"""
    assert run_gated(loop_kind, gate, code) == "clean\n"


@linux_only
def test_a_child_forked_during_a_lookup(loop_kind, gate):
    code = """
# The codec of names is found here: a thread that just imports it would leave the child without.
"name".encode("idna")
loop = new_event_loop()
task = loop.create_task(loop.getaddrinfo("slow", 80))
loop.call_later(0.01, loop.stop)
loop.run_forever()
pid = os.fork()
if pid == 0:
    loop = new_event_loop()
    os._exit(0 if loop.run_until_complete(loop.getaddrinfo("localhost", 80)) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
let_go(1)
print(loop.run_until_complete(task)[0][4][1])
loop.close()
"""
    assert run_program(loop_kind, PRELUDE + code, "-Wignore", LD_PRELOAD=preloaded(gate)) == "0\n80\n"

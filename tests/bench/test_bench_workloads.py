"""Every workload of the benchmark does its work on loopfast and on asyncio, and notices a loop that does not."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import load, loops, native
from bench.suite import network
from bench.suite.micro import Failed, Micro
from bench.suite.registry import LOOP_VARIABLE, Workload, WrongWork, load_all, matrix, micro, select

LOOPS = ("loopfast", "asyncio")
MICRO = [workload for workload in load_all().values() if workload.load is None]
MATRIX = ("tcp.protocol", "tcp.buffered", "tcp.streams", "tcp.sock", "tls.protocol")


def is_tested(workload: Workload) -> bool:
    """Tells whether to run it here: of the same server under many loads the smallest load and the largest message."""
    return workload.family not in MATRIX or workload.name.endswith((".64B.c1", ".1MiB.c1"))


SERVERS = [w for w in load_all().values() if w.load is not None and not w.idle and is_tested(w)]
IDLE = [workload for workload in load_all().values() if workload.idle]
needs_generator = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="the load generator needs Linux and a C compiler"
)


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("workload", MICRO, ids=lambda w: w.name)
def test_a_micro_workload_is_done(workload: Workload, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOOP_VARIABLE, kind)
    loop = loops.factory(kind)()
    asyncio.set_event_loop(loop)
    try:
        workload.run(loop, 2)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class Forgetful(asyncio.SelectorEventLoop):
    """Forgets every seventh call_soon_threadsafe."""

    calls = 0

    def call_soon_threadsafe(self, callback, *arguments, context=None):
        self.calls += 1
        if self.calls % 7 == 0:
            return None
        return super().call_soon_threadsafe(callback, *arguments, context=context)


def test_work_left_undone_is_noticed() -> None:
    loop = Forgetful()
    try:
        with pytest.raises(WrongWork, match=r"\d+ of 100 operations"):
            load_all()["threadsafe.same_thread"].run(loop, 1)
    finally:
        loop.close()


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match=r"task\.sleep0"):
        micro("task.sleep0", "again")(lambda loop, repeats: None)


def skip_without(workload: Workload) -> None:
    """Skips where a package or tool of the workload is absent."""
    for package in workload.requires:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if workload.load.protocol == "tls":
        try:
            load.program(tls=True)
            native.tool("openssl", "openssl")
        except native.Unavailable as error:
            pytest.skip(str(error))


@needs_generator
@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("workload", SERVERS, ids=lambda w: w.name)
def test_a_server_answers_what_the_generator_verifies(workload: Workload, kind: str) -> None:
    skip_without(workload)
    assert network.missing(workload) is None
    got = network.Network(workload, kind, 0.02, (None, None)).measure()
    assert len(got.values) == 1 and got.values[0] > 0
    assert 0 < got.latency["p50"] <= got.latency["p99"] <= got.latency["p99.9"] <= got.latency["max"]
    assert got.cpu > 0 and got.client > 0 and got.bytes_per_second > 0


@needs_generator
@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("workload", IDLE, ids=lambda w: w.name)
def test_the_memory_of_a_connection(workload: Workload, kind: str) -> None:
    skip_without(workload)
    # Enough that what was free in the process before is no large part of it.
    many = 300 if workload.load.protocol == "tls" else 1500
    fewer = dataclasses.replace(workload, load=dataclasses.replace(workload.load, connections=many))
    [each] = network.Network(fewer, kind, 0.02, (None, None)).measure().values
    # A transport, its protocol and the list of transports need some hundred bytes at least; no loop needs a megabyte.
    assert 200 < each < 2**20


@needs_generator
def test_a_server_whose_memory_does_not_grow_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "memory", lambda _pid: 1000)
    small = dataclasses.replace(select(["idle.tcp"])[0], load=load.Load(connections=20))
    with pytest.raises(Failed, match="did not grow"):
        network.Network(small, "asyncio", 0.02, (None, None)).measure()


def test_the_matrix_is_whole() -> None:
    table = load_all()
    for family in MATRIX:
        names = {name.removeprefix(f"{family}.") for name in table if name.startswith(f"{family}.")}
        wanted = {f"{size}.c{n}" for size in ("64B", "1KiB", "16KiB", "64KiB", "1MiB") for n in (1, 10, 100, 1000)}
        assert names == wanted - {"1MiB.c1000"}
        assert table[f"{family}.16KiB.c100"].load.size == 16 * 1024
    with pytest.raises(ValueError, match="no 3B"):
        matrix("other", "x", default=["3B.c1"])(lambda loop, listener: None)


def test_no_measured_process_holds_another_loop(tmp_path: Path) -> None:
    # What is measured must not depend on what is installed beside it, loopfast included.
    program = tmp_path / "spy.py"
    program.write_text(
        "import asyncio, sys\n"
        "def make():\n"
        "    found = sorted({'loopfast', 'uvloop'} & set(sys.modules))\n"
        "    raise OSError(f'holds {found}')\n"
    )
    done = subprocess.run(
        [*native.command("suite.serve"), "udp.1KiB.c10", "spy:make", "-"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "OSError: holds []" in done.stderr


@needs_generator
def test_a_wrong_echo_is_a_failure() -> None:
    # This server puts a header before what it sends back.
    workload = select(["tcp.two_writes.*"])[0]
    strict = dataclasses.replace(workload, load=dataclasses.replace(workload.load, reply=0))
    with pytest.raises(Failed, match="differs"):
        network.Network(strict, "asyncio", 0.02, (None, None)).measure()


@needs_generator
def test_another_http_answer_is_a_failure() -> None:
    workload = dataclasses.replace(load_all()["http.uvicorn.h11"], expect='{"message": "bye"}')
    skip_without(workload)
    with pytest.raises(Failed, match="answered 200 .*hello.* instead of"):
        network.Network(workload, "asyncio", 0.02, (None, None)).measure()


@needs_generator
def test_a_loop_that_cannot_serve_has_its_reason() -> None:
    with pytest.raises(Failed, match="^ImportError: asyncio has no NoSuchLoop"):
        network.Network(load_all()["udp.1KiB.c10"], "asyncio:NoSuchLoop", 0.02, (None, None)).measure()


@needs_generator
def test_a_server_that_does_not_start_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "START_SECONDS", 0.2)
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as silent:
        try:
            with pytest.raises(Failed, match="did not start"):
                network.first_line(silent)
        finally:
            silent.kill()


OWN_LOOP = "import asyncio\nmake = asyncio.new_event_loop\n"


@needs_generator
@pytest.mark.parametrize("name", ["call_soon.single", "startup.import", "udp.1KiB.c10"])
def test_the_current_folder_has_loops_and_hides_no_modules(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hidden in ("selectors", "typing", "pyperf"):
        (tmp_path / f"{hidden}.py").write_text("import no_such_module")
    (tmp_path / "own_loop.py").write_text(OWN_LOOP)
    monkeypatch.chdir(tmp_path)
    workload = load_all()[name]
    measured = (
        Micro(name, "own_loop:make", 0.001, 1)
        if workload.load is None
        else network.Network(workload, "own_loop:make", 0.02, (None, None))
    )
    assert measured.measure().values


@needs_generator
def test_a_server_that_says_something_else_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_loop.py").write_text(f"{OWN_LOOP}print('greetings')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failed, match="said 'greetings' instead of its port"):
        network.Network(load_all()["udp.1KiB.c10"], "own_loop:make", 0.02, (None, None)).measure()


def test_what_a_workload_needs_is_named() -> None:
    workload = dataclasses.replace(load_all()["http.aiohttp.json"], requires=("no_such_package",))
    if sys.platform == "linux":
        assert network.missing(workload) == "needs no_such_package"
    else:
        assert "Linux" in network.missing(workload)


@needs_generator
def test_tcp_sockets_are_not_delayed_by_nagles_algorithm() -> None:
    # Two small answers to one message: with the algorithm on, the second waits 40 ms for the client's acknowledgement.
    got = network.Network(select(["tcp.two_writes.*"])[0], "asyncio", 0.3, (None, None)).measure()
    assert got.latency["p50"] < 30_000

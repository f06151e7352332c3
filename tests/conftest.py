"""Fixtures of the behaviour tests: the same test runs on loopfast and on the interpreter's own asyncio.

A difference between the two is a bug, or a deviation that the test names with ``@pytest.mark.loopfast_only(reason)``.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import inspect
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import SLOWNESS, Reports, new_event_loop, open_descriptors

KINDS = ("loopfast", "asyncio")
BEHAVIOUR_TESTS = tuple(
    Path(__file__).parent / name
    for name in "core tcp streams udp unix pipes processes tls sockops watch fs insight leaks".split()
)
# Seconds. A behaviour test waits for events, never for time; one that takes longer than this hangs.
HANG = 15


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loops",
        default=",".join(KINDS),
        metavar="KINDS",
        help="the event loops to run the behaviour tests on, out of: %(default)s",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "loopfast_only(reason, when=True): what loopfast promises beyond asyncio, or does otherwise on purpose; "
        "`when` names the versions of asyncio this is true of",
    )
    config.addinivalue_line("markers", "asyncio_only(reason, when=True): what only the interpreter's own loop does")
    unknown = set(config.getoption("--loops").split(",")) - set(KINDS)
    if unknown:
        raise pytest.UsageError(f"--loops: unknown kind of loop {sorted(unknown)}; known are {', '.join(KINDS)}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loop_kind" in metafunc.fixturenames:
        metafunc.parametrize("loop_kind", metafunc.config.getoption("--loops").split(","), scope="session")


def is_for_this_loop(item: pytest.Item) -> bool:
    """Return False if a ``*_only`` mark of the test, or of one of its parameters, names the other loop."""
    kind = item.callspec.params.get("loop_kind") if hasattr(item, "callspec") else None
    return kind is None or not any(
        marker.kwargs.get("when", True)
        for other in KINDS
        if other != kind
        for marker in item.iter_markers(f"{other}_only")
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selected = []
    for item in items:
        if not is_for_this_loop(item):
            # Not deselected: it does not exist for this loop.
            continue
        if any(folder in item.path.parents for folder in BEHAVIOUR_TESTS):
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(HANG))
            # The last one added wins; a test's own filter must win over these.
            for category in ("pytest.PytestUnraisableExceptionWarning", "ResourceWarning", "RuntimeWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"error::{category}"), append=False)
        if SLOWNESS != 1:
            marker = item.get_closest_marker("timeout")
            limit = marker.args[0] if marker and marker.args else float(config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(limit * SLOWNESS), append=False)
        selected.append(item)
    items[:] = selected


def pytest_collection_finish(session: pytest.Session) -> None:
    # Every test collects garbage, several times: not all that the modules and the tests hold as well, which was most of
    # the time.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Behind pytest-timeout's signal, which cannot interrupt a C call: dump all stacks and end the process."""
    marker = item.get_closest_marker("timeout")
    if marker is None or not marker.args or not marker.args[0]:
        return (yield)
    faulthandler.dump_traceback_later(marker.args[0] * 2, exit=True, file=sys.__stderr__)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function in its ``loop``."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    loop = pyfuncitem.funcargs["loop"]
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.set_event_loop(None)
    loop.run_until_complete(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture
def loop_factory(loop_kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes loops of the kind under test; the caller closes them."""
    return lambda: new_event_loop(loop_kind)


@pytest.fixture(scope="session", autouse=True)
def process_wide_descriptors(request: pytest.FixtureRequest) -> None:
    """libuv opens a pipe for signals with the first loop of a process and keeps it: open it before anything counts."""
    for kind in request.config.getoption("--loops").split(","):
        loop = new_event_loop(kind)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.fixture
def reports() -> Reports:
    """What reached the exception handler of `loop`. A test takes what it expects; the rest fails it."""
    return Reports()


@pytest.fixture
def loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], reports: Reports, balanced: None
) -> Iterator[asyncio.AbstractEventLoop]:
    """A strict loop: unexpected reports, descriptors left and, on a debug build, native objects fail the test."""
    # Not an extra variable below: its value would hold the loop's descriptors.
    before = open_descriptors()
    loop = loop_factory()
    loop.set_exception_handler(reports)
    yield loop
    if not loop.is_closed():
        drain(loop)
        loop.close()
    gc.collect()
    reports.assert_none()
    assert open_descriptors() - before == set(), "descriptors left open"


@pytest.fixture(scope="session")
def certificate_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two self-signed certificates: of localhost in cert.pem, of other.example in other.pem."""
    folder = tmp_path_factory.mktemp("tls")
    for name, key, certificate, host, alternatives in (
        ("localhost", "key.pem", "cert.pem", "localhost", "DNS:localhost,IP:127.0.0.1"),
        ("other", "other-key.pem", "other.pem", "other.example", "DNS:other.example"),
    ):
        subprocess.run(
            [
                *f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /O={name}/CN={host}".split(),
                *f"-addext subjectAltName={alternatives}".split(),
                *("-keyout", folder / key, "-out", folder / certificate),
            ],
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture(scope="session")
def certificate(certificate_files: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server on localhost and of a client that trusts it. Shared: not to be changed."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate_files / "cert.pem", certificate_files / "key.pem")
    return server, ssl.create_default_context(cafile=certificate_files / "cert.pem")


def drain(loop: asyncio.AbstractEventLoop) -> None:
    """End what the test left in *loop*, as asyncio.Runner does."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())


@pytest.fixture
def balanced() -> Iterator[None]:
    """On a debug build of loopfast: whatever native code made during the test, it has freed at the end."""
    counters = debug_counters()
    if counters is None:
        yield
        return
    gc.collect()
    before = counters()
    yield
    gc.collect()
    left = {
        name: (made - before[name][0]) - (freed - before[name][1])
        for name, (made, freed) in counters().items()
        if made - before[name][0] != freed - before[name][1]
    }
    assert left == {}, "native objects made, but not freed"


def debug_counters() -> Callable[[], dict[str, tuple[int, int]]] | None:
    build = sys.modules.get("loopfast.buildinfo")
    return build.debug_counters if build is not None and build.build_info()["debug"] else None

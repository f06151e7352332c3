"""The C load generator: it compiles, measures real servers, and refuses servers that answer wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from bench import load, native
from bench.load import Generator, Load, LoadError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the load generator uses epoll"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Garbler(Echo):
    """Sends back as many bytes, but others."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(bytes(len(data)))


class Closer(Echo):
    """Closes at the first byte."""

    def data_received(self, data: bytes) -> None:
        self.transport.close()


class Http(Echo):
    """Answers each request with the next of `answers`."""

    answers: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.count = 0

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            # In two pieces, cut inside whatever it is: the client must not depend on segments.
            answer = self.answers[self.count % len(self.answers)]
            self.count += 1
            middle = len(answer) // 2
            self.transport.write(answer[:middle])
            self.transport.write(answer[middle:])


@contextlib.contextmanager
def serving(protocol: Callable[[], asyncio.Protocol]) -> Iterator[int]:
    """Runs an asyncio server with `protocol` in a thread; yields its port."""
    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        server = loop.run_until_complete(loop.create_server(protocol, sock=listener))
        loop.run_forever()
        server.close()
        # Transports of clients that have gone end in their own callbacks; let those run.
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.mark.parametrize(
    "wanted",
    [
        Load(connections=1),
        Load(connections=7, size=100_000),
        Load(connections=3, size=64, pipeline=8),
        Load(connections=3, fresh=True),
    ],
    ids=["one", "large", "pipelined", "fresh"],
)
def test_measures_an_echo_server(wanted: Load) -> None:
    with serving(Echo) as port, Generator(wanted, "127.0.0.1", port) as client:
        for count in (50, 200):
            got = client.run(count=count)
            assert got.messages == count
            assert got.bytes == count * wanted.size
            assert 0 < got.p50_us <= got.p99_us <= got.max_us
            assert got.max_us / 1e6 <= got.seconds


def test_a_phase_in_seconds_lasts_that_long() -> None:
    with serving(Echo) as port, Generator(Load(connections=2), "127.0.0.1", port) as client:
        got = client.run(seconds=0.2)
    assert got.messages > 0
    assert 0.2 <= got.seconds < 5


def test_http_answers_with_length_with_chunks_and_empty() -> None:
    Http.answers = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n10;x=y\r\n0123456789abcdef\r\n0\r\nT: 1\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    ]
    with serving(Http) as port, Generator(Load("http", connections=1, pipeline=4), "127.0.0.1", port) as client:
        got = client.run(count=300)
    assert got.messages == 300
    assert got.bytes == 100 * sum(map(len, Http.answers))


def test_an_http_error_is_no_answer() -> None:
    Http.answers = [b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"]
    with (
        serving(Http) as port,
        Generator(Load("http", connections=1), "127.0.0.1", port) as client,
        pytest.raises(LoadError, match="500 Oops"),
    ):
        client.run(count=1)


@pytest.mark.parametrize(("protocol", "words"), [(Garbler, "differs"), (Closer, "closed the connection")])
def test_a_wrong_server_is_refused(protocol: type[asyncio.Protocol], words: str) -> None:
    with (
        serving(protocol) as port,
        Generator(Load(connections=1), "127.0.0.1", port) as client,
        pytest.raises(LoadError, match=words),
    ):
        client.run(count=10)


def test_no_server_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = Generator(Load(connections=1), "127.0.0.1", unused.getsockname()[1])
        with client, pytest.raises(LoadError, match="Connection refused"):
            client.run(count=1)


def test_bad_options_are_named() -> None:
    for words in (["--port", "1", "--connections", "0"], ["--port", "1", "--protocol", "smtp"], []):
        done = subprocess.run([str(load.program()), *words], input="", capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("load: ")


def test_exactly_one_limit() -> None:
    with (
        serving(Echo) as port,
        Generator(Load(connections=1), "127.0.0.1", port) as client,
        pytest.raises(ValueError, match="either"),
    ):
        client.run()


def test_a_source_that_does_not_compile_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.c").write_text("int main(void) { return nothing; }\n")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    monkeypatch.setattr(native, "CACHE", tmp_path / "cache")
    with pytest.raises(native.Unavailable, match=r"broken\.c does not compile: .*nothing"):
        native.build("broken.c", [], "broken")
    assert not list((tmp_path / "cache").rglob("broken*"))

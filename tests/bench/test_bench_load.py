"""The C load generator: it compiles, measures real servers, and refuses servers that answer wrongly."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
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
    runs = threading.Event()

    def run() -> None:
        server = loop.run_until_complete(loop.create_server(protocol, sock=listener))
        loop.call_soon(runs.set)
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
        runs.wait()
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


class WebSocket(Echo):
    """Echoes the frames of a WebSocket, as one frame or, where `cut`, as two with a ping between them."""

    cut = False
    masks = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.input = b""
        self.is_open = False

    def data_received(self, data: bytes) -> None:
        self.input += data
        if not self.is_open:
            head, end, self.input = self.input.partition(b"\r\n\r\n")
            assert end and b"\r\nsec-websocket-version: 13" in head.lower()
            key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)[1]
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self.is_open = True
        while (payload := self.next_frame()) is not None:
            if self.cut:
                half = len(payload) // 2
                self.send(0x02, payload[:half])
                self.send(0x89, b"ping")
                self.send(0x80, payload[half:])
            else:
                self.send(0x82, payload)

    def next_frame(self) -> bytes | None:
        """Returns the payload of the next complete frame, which must be a masked binary one."""
        data = self.input
        if len(data) < 2:
            return None
        assert data[0] == 0x82 and data[1] & 0x80
        extra = {126: 2, 127: 8}.get(data[1] & 0x7F, 0)
        size = int.from_bytes(data[2 : 2 + extra]) if extra else data[1] & 0x7F
        start = 6 + extra
        if len(data) < start + size:
            return None
        mask = data[start - 4 : start] * (size // 4 + 1)
        self.input = data[start + size :]
        return (int.from_bytes(data[start : start + size]) ^ int.from_bytes(mask[:size])).to_bytes(size)

    def send(self, first: int, payload: bytes) -> None:
        """Writes a frame, in the shortest form of its length."""
        size = len(payload)
        kind = size if size < 126 else 126 if size < 65536 else 127
        length = size.to_bytes({126: 2, 127: 8}[kind]) if kind >= 126 else b""
        self.transport.write(bytes([first, kind | (0x80 if self.masks else 0)]) + length + payload)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("size", [1, 125, 126, 65535, 65536])
def test_websocket_frames_of_every_form_of_length(monkeypatch: pytest.MonkeyPatch, size: int, cut: bool) -> None:
    monkeypatch.setattr(WebSocket, "cut", cut)
    wanted = Load("ws", connections=3, size=size, pipeline=2)
    with serving(WebSocket) as port, Generator(wanted, "127.0.0.1", port) as client:
        got = client.run(count=60)
    assert got.messages == 60
    assert got.bytes >= 60 * size


def test_a_wrong_websocket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebSocket, "masks", True)
    with (
        serving(WebSocket) as port,
        Generator(Load("ws", connections=1), "127.0.0.1", port) as client,
        pytest.raises(LoadError, match="masks its frames"),
    ):
        client.run(count=1)
    Http.answers = [b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"]
    with (
        serving(Http) as port,
        Generator(Load("ws", connections=1), "127.0.0.1", port) as client,
        pytest.raises(LoadError, match="403 Forbidden"),
    ):
        client.run(count=1)


def test_pipelined_messages_are_sent_by_one_call() -> None:
    # Sixteen messages in one segment or few: the generator must not cost a call for each.
    sizes: list[int] = []

    class Recorder(Echo):
        def data_received(self, data: bytes) -> None:
            sizes.append(len(data))
            super().data_received(data)

    with (
        serving(Recorder) as port,
        Generator(Load(connections=1, size=64, pipeline=16), "127.0.0.1", port) as client,
    ):
        client.run(count=16)
    assert sizes == [16 * 64]


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

"""TCP, pipes, terminals and UDP: what arrives, in which order, with which errors; and what is refused."""

from __future__ import annotations

import errno
import os
import pty
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopfast import uv

LOCAL = ("127.0.0.1", 0)


@pytest.fixture
def loop() -> Iterator[uv.Loop]:
    with uv.Loop() as loop:
        yield loop


def pair(loop: uv.Loop) -> tuple[uv.TCP, uv.TCP]:
    """Two ends of one connection."""
    found: list[uv.TCP] = []
    server, client = uv.TCP(loop), uv.TCP(loop)
    server.bind(LOCAL)

    def on_connection(server: uv.TCP, error: Exception | None) -> None:
        found.append(server.accept())
        server.close()

    server.listen(on_connection)
    client.connect(server.getsockname())
    loop.run()
    return client, found[0]


# --------------------------------------------------------------------------------------------------------------- TCP


def test_much_data_both_ways(loop: uv.Loop) -> None:
    one, other = pair(loop)
    data = os.urandom(3_000_000)
    received: dict[Any, bytearray] = {one: bytearray(), other: bytearray()}
    written: list[Any] = []

    def on_read(stream: uv.TCP, chunk: bytes, error: Exception | None) -> None:
        if error is None:
            received[stream] += chunk
        else:
            assert isinstance(error, EOFError) and chunk == b""
            stream.close()

    for stream in (one, other):
        assert stream.readable and stream.writable
        stream.read_start(on_read)
        stream.write([data[:1000], memoryview(data)[1000:2_000_000], bytearray(data[2_000_000:])])
        stream.shutdown(lambda stream, error: written.append(error))
    assert 0 <= one.write_queue_size <= len(data)
    loop.run()
    assert received[one] == received[other] == data and written == [None, None]


def test_names_and_options(loop: uv.Loop) -> None:
    one, other = pair(loop)
    assert one.getsockname() == other.getpeername() and one.getpeername() == other.getsockname()
    one.nodelay(True)
    one.keepalive(True, 30)
    one.simultaneous_accepts(True)
    sock = socket.socket(fileno=os.dup(one.fileno()))
    with sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        if uv.version_number() >= 0x013400:
            one.keepalive(True, 20, interval=5, count=3)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert one.send_buffer_size(50_000) == 50_000
        assert one.send_buffer_size() == sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert one.recv_buffer_size() == sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    one.keepalive(False)
    one.set_blocking(True)
    assert one.try_write(b"abc") == 3


def test_ipv6(loop: uv.Loop) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 on this machine")
    server = uv.TCP(loop, socket.AF_INET6)
    server.bind(("::1", 0), uv.TCPFlag.IPV6ONLY)
    host, port, flowinfo, scope_id = server.getsockname()
    assert (host, flowinfo, scope_id) == ("::1", 0, 0) and port
    server.listen(lambda server, error: (server.accept().close(), server.close()))
    client = uv.TCP(loop)
    client.connect(("::1", port), lambda client, error: client.close())
    loop.run()


def test_failing_to_connect(loop: uv.Loop) -> None:
    errors: list[Any] = []
    free = socket.create_server(LOCAL)
    address = free.getsockname()
    free.close()
    client = uv.TCP(loop)
    request = client.connect(address, lambda client, error: errors.append(error))
    assert request.handle is client and not request.done and request.type == uv.RequestType.CONNECT
    with pytest.raises(OSError) as caught:
        client.connect(address)
    assert caught.value.errno == errno.EALREADY
    with pytest.raises(OSError) as caught:
        request.cancel()
    assert caught.value.errno == errno.EINVAL
    loop.run()
    assert [type(error) for error in errors] == [ConnectionRefusedError] and request.done
    with pytest.raises(OSError) as caught:
        request.cancel()
    assert caught.value.errno == errno.EBUSY
    client.close()


def test_closing_while_connecting_and_writing(loop: uv.Loop) -> None:
    results: list[Any] = []
    server = uv.TCP(loop)
    server.bind(LOCAL)
    server.listen(lambda *_: None)
    client = uv.TCP(loop)
    client.connect(server.getsockname(), lambda client, error: results.append(("connect", error)))
    client.write(b"x", lambda client, error: results.append(("write", error)))
    client.close(lambda client: results.append(("close", None)))
    server.close()
    loop.run()
    assert [name for name, _ in results] == ["connect", "write", "close"]
    assert [error.errno for _, error in results[:2]] == [errno.ECANCELED] * 2


def test_a_reset(loop: uv.Loop) -> None:
    one, other = pair(loop)
    seen: list[Any] = []
    other.read_start(lambda stream, data, error: (seen.append(error), stream.close()))
    one.close_reset(lambda stream: seen.append(stream))
    with pytest.raises(RuntimeError, match="after close"):
        one.write(b"x")
    loop.run()
    assert {type(thing) for thing in seen} == {ConnectionResetError, uv.TCP}

    one, other = pair(loop)
    one.shutdown()
    with pytest.raises(OSError) as caught:
        one.close_reset()
    assert caught.value.errno == errno.EINVAL and not one.closing


def test_reading_again(loop: uv.Loop) -> None:
    one, other = pair(loop)
    got: list[bytes] = []

    def on_read(stream: uv.TCP, data: bytes, error: Exception | None) -> None:
        got.append(data)
        stream.read_stop()

    other.read_start(on_read)
    with pytest.raises(OSError) as caught:
        other.read_start(on_read)
    assert caught.value.errno == errno.EALREADY
    one.write(b"one")
    loop.run()
    one.write(b"two")
    loop.run()
    assert got == [b"one"] and not other.active
    other.read_start(on_read)
    loop.run()
    assert got == [b"one", b"two"]
    other.read_stop()


def test_use_before_there_is_a_connection(loop: uv.Loop) -> None:
    tcp = uv.TCP(loop)
    for call, number in (
        (lambda: tcp.read_start(print), errno.ENOTCONN),
        (lambda: tcp.write(b"x"), errno.EBADF),
        (lambda: tcp.try_write(b"x"), errno.EBADF),
        (tcp.shutdown, errno.ENOTCONN),
        (tcp.getsockname, errno.EBADF),
        (tcp.getpeername, errno.EBADF),
        (tcp.fileno, errno.EBADF),
        (tcp.accept, errno.EAGAIN),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == number, call
    assert not tcp.readable and not tcp.writable
    tcp.read_stop()
    assert loop.run() is False


def test_the_exception_of_a_callback_while_streams_go_on(loop: uv.Loop) -> None:
    one, other = pair(loop)
    got: list[bytes] = []

    def on_read(stream: uv.TCP, data: bytes, error: Exception | None) -> None:
        got.append(data)
        if len(got) == 1:
            raise ZeroDivisionError
        stream.close()
        one.close()

    other.read_start(on_read)
    one.write(b"first")
    with pytest.raises(ZeroDivisionError):
        loop.run()
    one.write(b"second")
    loop.run()
    assert got == [b"first", b"second"]


def test_buffers_during_a_write(loop: uv.Loop) -> None:
    one, other = pair(loop)
    data = bytearray(b"x" * 8_000_000)
    total: list[int] = []
    done: list[Any] = []
    other.read_start(lambda stream, chunk, error: total.append(len(chunk)) if not error else stream.close())
    one.write(data, lambda stream, error: (done.append(error), stream.close()))
    with pytest.raises(BufferError):
        data.extend(b"more")
    with pytest.raises(BufferError):
        data.clear()
    loop.run()
    assert sum(total) == 8_000_000 and done == [None]
    data.extend(b"more")


@pytest.mark.parametrize("wrong", ["text", None, 7, [b"a", "b"], object(), ["a"]])
def test_what_is_no_data(loop: uv.Loop, wrong: Any) -> None:
    one, _other = pair(loop)
    for call in (one.write, one.try_write):
        with pytest.raises(TypeError, match="bytes-like"):
            call(wrong)
    udp = uv.UDP(loop)
    with pytest.raises(TypeError, match="bytes-like"):
        udp.send(wrong, ("127.0.0.1", 9))


def test_empty_writes(loop: uv.Loop) -> None:
    one, _other = pair(loop)
    done: list[Any] = []
    for nothing in (b"", [], [b""], ()):
        one.write(nothing, lambda stream, error: done.append(error))
        assert one.try_write(nothing) == 0 or not done
    loop.run()
    assert done == [None] * 4
    with pytest.raises((BufferError, TypeError, ValueError)):
        one.write(memoryview(b"abcdef")[::2])


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (("localhost", 80), ValueError),
        (("127.0.0.1", -1), OverflowError),
        (("127.0.0.1", 65536), OverflowError),
        (("127.0.0.1", "80"), TypeError),
        (("127.0.0.1",), TypeError),
        ("127.0.0.1", TypeError),
        (None, TypeError),
        (("1\0", 80), ValueError),
        (("", 80), ValueError),
        (("::1", 80, -1, 0), OverflowError),
    ],
)
def test_what_is_no_address(loop: uv.Loop, address: Any, kind: Any) -> None:
    for call in (uv.TCP(loop).bind, uv.TCP(loop).connect, uv.UDP(loop).bind):
        with pytest.raises(kind):
            call(address)
    if address is not None:
        with pytest.raises(kind):
            uv.UDP(loop).send(b"x", address)


def test_an_address_in_use(loop: uv.Loop) -> None:
    with socket.create_server(LOCAL) as taken:
        server = uv.TCP(loop)
        server.bind(taken.getsockname())
        with pytest.raises(OSError) as caught:
            server.listen(print)
        assert caught.value.errno == errno.EADDRINUSE
        udp, other = uv.UDP(loop), uv.UDP(loop)
        udp.bind(LOCAL)
        with pytest.raises(OSError) as caught:
            other.bind(udp.getsockname())
        assert caught.value.errno == errno.EADDRINUSE


def test_handles_of_another_loop(loop: uv.Loop) -> None:
    with uv.Loop() as other:
        seen: list[Any] = []
        server = uv.TCP(loop)
        server.bind(LOCAL)

        def on_connection(server: uv.TCP, error: Exception | None) -> None:
            for wrong, kind in (
                (uv.TCP(other), ValueError),
                (uv.Timer(loop), TypeError),
                (7, TypeError),
                (server, ValueError),
            ):
                with pytest.raises(kind) as caught:
                    server.accept(wrong)  # type: ignore[arg-type]
                seen.append(caught.value)
            server.accept(uv.TCP(loop)).close()
            with pytest.raises(BlockingIOError):
                server.accept()
            server.close()

        server.listen(on_connection)
        uv.TCP(loop).connect(server.getsockname(), lambda client, error: client.close())
        loop.run()
        assert len(seen) == 4 and "another loop" in str(seen[0])
        pipe = uv.Pipe(loop, ipc=True)
        ends = uv.socketpair()
        pipe.open(ends[0])
        with pytest.raises(ValueError, match="another loop"):
            pipe.write(b"x", send_handle=uv.TCP(other))
        pipe.close()
        os.close(ends[1])


def test_taking_over_sockets(loop: uv.Loop, tmp_path: Path) -> None:
    listener = socket.create_server(LOCAL)
    address = listener.getsockname()
    server = uv.TCP(loop)
    server.open(listener)
    assert listener.fileno() == -1 and server.getsockname() == address
    again = uv.TCP(loop)
    with pytest.raises(OSError) as caught:
        again.open(server.fileno())
    assert caught.value.errno == errno.EEXIST
    with (tmp_path / "file").open("w") as file:
        for kind in (uv.TCP, uv.UDP):
            with pytest.raises(OSError) as caught:
                kind(loop).open(file.fileno())
            assert caught.value.errno == errno.ENOTSOCK
    with pytest.raises(OSError):
        uv.TCP(loop).open(9999)


# ------------------------------------------------------------------------------------------------------------- pipes


def test_unix_sockets(loop: uv.Loop, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    got: list[bytes] = []
    server = uv.Pipe(loop)
    server.bind(path)
    assert server.getsockname() == str(path)
    server.chmod(True, True)

    def on_connection(server: uv.Pipe, error: Exception | None) -> None:
        client = server.accept()
        assert isinstance(client, uv.Pipe)
        client.read_start(lambda client, data, error: got.append(data) if not error else client.close())
        server.close()

    server.listen(on_connection)
    client = uv.Pipe(loop)

    def on_connect(client: uv.Pipe, error: Exception | None) -> None:
        assert error is None and client.getpeername() == str(path)
        client.write(b"hello", lambda client, error: client.close())

    client.connect(path, on_connect)
    loop.run()
    assert got == [b"hello"]
    missing = uv.Pipe(loop)
    errors: list[Any] = []
    missing.connect(tmp_path / "none", lambda pipe, error: errors.append(error))
    with pytest.raises(OSError) as caught:
        missing.connect(tmp_path / "none")
    assert caught.value.errno == errno.EALREADY
    loop.run()
    assert [type(error) for error in errors] == [FileNotFoundError]


def test_names_of_pipes(loop: uv.Loop, tmp_path: Path) -> None:
    for call in (uv.Pipe(loop).bind, uv.Pipe(loop).connect):
        with pytest.raises(OSError) as caught:
            call("x" * 200)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        uv.Pipe(loop).connect("")
    assert caught.value.errno == errno.EINVAL
    for name, kind in (("a\0b", ValueError), (7, TypeError)):
        with pytest.raises(kind):
            uv.Pipe(loop).bind(name)
    with pytest.raises(ValueError, match="flags"):
        uv.Pipe(loop).bind(tmp_path / "a", 64)
    abstract = uv.Pipe(loop)
    abstract.bind(f"\0loopfast-{os.getpid()}")
    assert abstract.getsockname().startswith("\0loopfast-")
    with pytest.raises(OSError):
        uv.Pipe(loop).getpeername()


def test_sending_handles(loop: uv.Loop) -> None:
    ends = uv.socketpair()
    one, other = uv.Pipe(loop, ipc=True), uv.Pipe(loop, ipc=True)
    one.open(ends[0])
    other.open(ends[1])
    server = uv.TCP(loop)
    server.bind(LOCAL)
    address = server.getsockname()
    received: list[Any] = []

    def on_read(pipe: uv.Pipe, data: bytes, error: Exception | None) -> None:
        assert pipe.pending_count == 1 and pipe.pending_type == uv.HandleType.TCP
        with pytest.raises(TypeError, match="TCP"):
            pipe.accept()
        received.append(pipe.accept(uv.TCP(loop)))
        one.close()
        other.close()

    other.read_start(on_read)
    one.write(b"!", send_handle=server)
    loop.run()
    server.close()
    assert received[0].getsockname() == address
    plain = uv.Pipe(loop)
    ends = uv.socketpair()
    plain.open(ends[0])
    with pytest.raises(OSError) as caught:
        plain.write(b"!", send_handle=received[0])
    assert caught.value.errno == errno.EINVAL
    os.close(ends[1])


def test_the_ends_of_a_pipe(loop: uv.Loop, tmp_path: Path) -> None:
    reading, writing = uv.pipe(uv.PipeFlag.NONBLOCK, uv.PipeFlag.NONBLOCK)
    source, target = uv.Pipe(loop), uv.Pipe(loop)
    source.open(reading)
    target.open(writing)
    assert source.readable and not source.writable and target.writable and not target.readable
    got: list[bytes] = []
    source.read_start(lambda pipe, data, error: got.append(data) if not error else pipe.close())
    target.write(b"through", lambda pipe, error: pipe.close())
    loop.run()
    assert got == [b"through"]
    with pytest.raises(OSError):
        uv.Pipe(loop).open(9999)


def test_a_regular_file_as_a_pipe(loop: uv.Loop, tmp_path: Path) -> None:
    """libuv takes any descriptor; the kernel then refuses to watch this one, which must not end the process."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    fd = os.open(path, os.O_RDWR)
    pipe = uv.Pipe(loop)
    seen: list[Any] = []
    try:
        pipe.open(fd)
    except OSError:
        os.close(fd)
        return
    pipe.read_start(lambda pipe, data, error: (seen.append((data, error)), pipe.close()))
    timer = uv.Timer(loop)
    timer.start(lambda _: pipe.close(), 200)
    loop.run()
    assert seen


# --------------------------------------------------------------------------------------------------------- terminals


def test_terminals(loop: uv.Loop, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    import fcntl
    import termios

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    assert uv.guess_handle(slave) == uv.HandleType.TTY
    tty = uv.TTY(loop, slave)
    assert tty.get_winsize() == (80, 24)
    got: list[bytes] = []
    tty.read_start(lambda tty, data, error: (got.append(data), tty.close()))
    os.write(master, b"line\n")
    loop.run()
    assert got == [b"line\n"]
    raw = uv.TTY(loop, slave)
    raw.set_mode(uv.TTYMode.RAW)
    uv.tty_reset_mode()
    with pytest.raises(ValueError, match="99"):
        raw.set_mode(99)
    raw.write(b"out")
    loop.run()
    shown = b""
    while b"out" not in shown:
        shown += os.read(master, 100)
    raw.close()
    loop.run()
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError) as caught:
        uv.TTY(loop, file)
    assert caught.value.errno == errno.EINVAL
    uv.tty_set_vterm_state(uv.VTermState.SUPPORTED)
    with pytest.raises(OSError):
        uv.tty_get_vterm_state()
    os.close(master)
    os.close(slave)


# --------------------------------------------------------------------------------------------------------------- UDP


@pytest.mark.parametrize("recvmmsg", [False, True])
def test_datagrams(loop: uv.Loop, recvmmsg: bool) -> None:
    one, other = uv.UDP(loop), uv.UDP(loop, recvmmsg=recvmmsg)
    assert other.using_recvmmsg is (recvmmsg and os.uname().sysname == "Linux")
    one.bind(LOCAL)
    other.bind(LOCAL)
    messages = [b"", b"one", b"x" * 60_000, b"two parts", *(b"%d" % number for number in range(30))]
    got: list[Any] = []
    sent: list[Any] = []

    def on_recv(udp: uv.UDP, data: bytes, address: Any, flags: uv.UDPFlag, error: Exception | None) -> None:
        assert error is None and not flags & uv.UDPFlag.PARTIAL
        got.append((data, address))
        if len(got) == len(messages):
            udp.close()
            one.close()

    other.recv_start(on_recv)
    for message in messages:
        data = [message[:3], message[3:]] if message == b"two parts" else message
        one.send(data, other.getsockname(), lambda udp, error: sent.append(error))
    assert one.send_queue_count >= 0 and one.send_queue_size >= 0
    name = one.getsockname()
    loop.run()
    assert got == [(message, name) for message in messages] and sent == [None] * len(messages)


def test_stopping_in_the_middle_of_many_datagrams(loop: uv.Loop) -> None:
    one, other = uv.UDP(loop), uv.UDP(loop, recvmmsg=True)
    one.bind(LOCAL)
    other.bind(LOCAL)
    for number in range(10):
        assert one.try_send(b"%d" % number, other.getsockname()) == 1
    got: list[bytes] = []

    def on_recv(udp: uv.UDP, data: bytes, *_: Any) -> None:
        got.append(data)
        if len(got) == 3:
            udp.recv_stop()

    other.recv_start(on_recv)
    loop.run()
    assert len(got) == 3 and not other.active
    other.recv_start(lambda udp, *_: udp.close())
    with pytest.raises(OSError):
        other.recv_start(on_recv)
    one.send(b"last", other.getsockname())
    loop.run()


def test_connected_datagrams(loop: uv.Loop) -> None:
    one, other = uv.UDP(loop), uv.UDP(loop)
    other.bind(LOCAL)
    with pytest.raises(OSError) as caught:
        one.send(b"x")
    assert caught.value.errno == errno.EDESTADDRREQ
    one.connect(other.getsockname())
    assert one.getpeername() == other.getsockname()
    with pytest.raises(OSError) as caught:
        one.send(b"x", other.getsockname())
    assert caught.value.errno == errno.EISCONN
    got: list[bytes] = []
    other.recv_start(lambda udp, data, *_: (got.append(data), len(got) == 3 and udp.close()))
    assert one.try_send(b"first") == 5
    if uv.version_number() >= 0x013200:
        assert one.try_send2([(b"second", None), ([b"thi", b"rd"], None)]) == 2
        assert one.try_send2([]) == 0
    loop.run()
    assert got == [b"first", b"second", b"third"]
    one.connect(None)
    with pytest.raises(OSError):
        one.getpeername()


def test_udp_options(loop: uv.Loop) -> None:
    udp = uv.UDP(loop, socket.AF_INET)
    udp.bind(LOCAL, uv.UDPFlag.REUSEADDR)
    udp.set_broadcast(True)
    udp.set_ttl(9)
    udp.set_multicast_ttl(3)
    udp.set_multicast_loop(False)
    udp.set_multicast_interface("127.0.0.1")
    with socket.socket(fileno=os.dup(udp.fileno())) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 9
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 3
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP) == 0
    udp.set_membership("239.255.0.1", "127.0.0.1", uv.Membership.JOIN_GROUP)
    udp.set_membership("239.255.0.1", "127.0.0.1", uv.Membership.LEAVE_GROUP)
    udp.set_membership("232.1.1.1", "127.0.0.1", uv.Membership.JOIN_GROUP, "127.0.0.1")
    for call in (
        lambda: udp.set_ttl(0),
        lambda: udp.set_ttl(256),
        lambda: udp.set_membership("nonsense", None, uv.Membership.JOIN_GROUP),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="5"):
        udp.set_membership("239.255.0.1", None, 5)
    with pytest.raises(TypeError, match="7"):
        udp.set_membership(7, None, uv.Membership.JOIN_GROUP)  # type: ignore[arg-type]


def test_errors_of_the_network_come_back(loop: uv.Loop) -> None:
    if os.uname().sysname != "Linux":
        pytest.skip("IP_RECVERR is Linux's")
    udp = uv.UDP(loop)
    udp.bind(LOCAL, uv.UDPFlag.LINUX_RECVERR)
    # Nobody else gets this address meanwhile, and what is connected takes nothing from strangers.
    deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    deaf.bind(LOCAL)
    address = deaf.getsockname()
    deaf.connect(("127.0.0.1", 9))
    errors: list[Any] = []

    def on_recv(udp: uv.UDP, data: bytes, address: Any, flags: Any, error: Exception | None) -> None:
        errors.append(error)
        udp.close()

    udp.recv_start(on_recv)
    udp.send(b"to nobody", address)
    loop.run()
    deaf.close()
    assert [type(error) for error in errors] == [ConnectionRefusedError]


def test_taking_over_a_datagram_socket(loop: uv.Loop) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(LOCAL)
    name = sock.getsockname()
    udp = uv.UDP(loop)
    udp.open(sock)
    assert udp.getsockname() == name and sock.fileno() == -1
    if uv.version_number() >= 0x013400:
        other = uv.UDP(loop)
        other.open(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), uv.UDPFlag.REUSEADDR)

"""The sock_* coroutines with sockets that are closed, blocking, wrapped by TLS, used by a transport, or none."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import ssl
import warnings

import pytest
from sockops import CALLS, RECEIVERS, cancelled, fill, first_step, listening, pair, waiting
from support import run_program, settle, tcp_pair, transport_and_peer

calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
receivers = pytest.mark.parametrize("receive", RECEIVERS.values(), ids=RECEIVERS)


@calls
async def test_each_is_a_coroutine_that_begins_when_it_is_awaited(loop, call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coroutine = call(loop, None)
        assert asyncio.iscoroutine(coroutine)
        coroutine.close()
        del coroutine
        gc.collect()
    assert caught == []
    # So it can be made a task, whose name tells what it does.
    with pytest.raises(AttributeError):
        await loop.create_task(call(loop, None))


@calls
async def test_a_closed_socket(loop, call):
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()
    with pytest.raises(OSError) as info:
        await call(loop, sock)
    assert info.value.errno == errno.EBADF


@calls
async def test_a_blocking_socket_in_debug_mode(loop, call):
    loop.set_debug(True)
    mine, peer = tcp_pair(nonblocking=False)
    with mine, peer:
        for timeout in (None, 5):
            mine.settimeout(timeout)
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                await call(loop, mine)
        with open(os.devnull, "rb") as file, pytest.raises(ValueError, match="the socket must be non-blocking"):
            await loop.sock_sendfile(mine, file)


@calls
async def test_a_tls_socket(loop, call, certificate):
    mine, peer = tcp_pair()
    wrapped = certificate[1].wrap_socket(mine, server_hostname="localhost", do_handshake_on_connect=False)
    with wrapped, peer:
        with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
            await call(loop, wrapped)
        with open(os.devnull, "rb") as file, pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
            await loop.sock_sendfile(wrapped, file)
        assert isinstance(wrapped, ssl.SSLSocket)


@calls
@pytest.mark.parametrize("wrong", [None, 0, "text", object()], ids=["None", "int", "str", "object"])
async def test_what_is_no_socket(loop, call, wrong):
    with pytest.raises(AttributeError):
        await call(loop, wrong)


class Wrapped:
    """Behaves like a socket and is none."""

    def __init__(self, sock):
        self.sock = sock
        self.called = []

    def __getattr__(self, name):
        self.called.append(name)
        return getattr(self.sock, name)


class Special(socket.socket):
    """A socket whose own methods must be called."""

    def __init__(self, sock):
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.setblocking(False)
        self.called = []

    def recv(self, size, *flags):
        self.called.append("recv")
        return super().recv(size, *flags)

    def send(self, data, *flags):
        self.called.append("send")
        return super().send(data, *flags)


@pytest.mark.parametrize("kind", [Wrapped, Special])
async def test_an_object_that_behaves_like_a_socket(loop, kind):
    mine, peer = tcp_pair()
    wrapped = kind(mine)
    with peer:
        await loop.sock_sendall(wrapped, b"question")
        assert peer.recv(100) == b"question"
        task = await waiting(loop.sock_recv(wrapped, 100))
        peer.send(b"answer")
        assert await task == b"answer"
        assert {"recv", "send"} <= set(wrapped.called)
        wrapped.close()


@receivers
async def test_a_socket_that_a_transport_uses(loop, receive):
    async with transport_and_peer() as (transport, protocol, peer):
        sock = socket.socket(fileno=transport.get_extra_info("socket").fileno())
        try:
            with pytest.raises(RuntimeError, match="is used by transport"):
                await receive(loop, sock)
        finally:
            sock.detach()
        peer.send(b"x")
        assert await protocol.received(1) == b"x"


async def test_other_calls_on_a_socket_that_a_transport_uses(loop):
    async with transport_and_peer(send_buffer=131072) as (transport, _, peer):
        sock = socket.socket(fileno=transport.get_extra_info("socket").fileno())
        try:
            fill(sock)
            with pytest.raises(RuntimeError, match="is used by transport"):
                await loop.sock_sendall(sock, b"x")
        finally:
            sock.detach()
        transport.abort()


@receivers
async def test_the_socket_is_closed_under_a_waiting_call(loop, receive):
    """Nothing else is disturbed: not another socket, not the loop, and the task can be cancelled."""
    with pair() as (other, other_peer):
        mine, peer = tcp_pair()
        undisturbed = await waiting(receive(loop, other))
        task = asyncio.ensure_future(receive(loop, mine))
        await settle()
        mine.close()
        peer.close()
        await settle(10)
        other_peer.send(b"fine")
        assert await undisturbed == b"fine"
        task.cancel()
        with pytest.raises((asyncio.CancelledError, OSError)):
            await task
        await settle()


@pytest.mark.loopfast_only("asyncio does not notice that a watched number has become another file")
@receivers
async def test_the_number_of_a_closed_socket_is_used_again(loop, receive):
    mine, peer = tcp_pair()
    task = asyncio.ensure_future(receive(loop, mine))
    await settle()
    number = mine.fileno()
    mine.close()
    peer.close()
    one, other = tcp_pair()
    with one, other:
        if one.fileno() != number:
            os.dup2(one.fileno(), number)
            one.close()
            one = socket.socket(fileno=number)
        again = asyncio.ensure_future(receive(loop, one))
        await settle()
        other.send(b"new")
        assert await again == b"new"
        task.cancel()
        with pytest.raises((asyncio.CancelledError, OSError)):
            await task
        await settle()
        again = asyncio.ensure_future(receive(loop, one))
        await settle()
        other.send(b"newer")
        assert await again == b"newer"
        one.close()


@receivers
async def test_another_file_under_the_number(loop, receive):
    with pair() as (mine, peer), pair() as (other, other_peer):
        task = await waiting(receive(loop, mine))
        peer.send(b"x")
        assert await task == b"x"
        os.dup2(other.fileno(), mine.fileno())
        for word in (b"one", b"two"):
            task = await waiting(receive(loop, mine))
            other_peer.send(word)
            assert await asyncio.wait_for(task, 10) == word


@pytest.mark.loopfast_only("asyncio waits for ever, also in the calls that are its own here")
@pytest.mark.parametrize("receive", [RECEIVERS["sock_recv"], RECEIVERS["sock_recv_into"]])
async def test_a_call_on_a_closed_socket_ends(loop, receive):
    mine, peer = tcp_pair()
    task = await waiting(receive(loop, mine))
    mine.close()
    with pytest.raises(OSError) as caught:
        await asyncio.wait_for(task, 10)
    assert caught.value.errno == errno.EBADF
    peer.close()


@receivers
async def test_the_number_is_used_again_after_a_cancelled_call(loop, receive):
    for _ in range(5):
        with pair() as (mine, peer):
            await cancelled(await waiting(receive(loop, mine)))
            await settle()
        with pair() as (mine, peer):
            task = await waiting(receive(loop, mine))
            peer.send(b"x")
            assert await task == b"x"


@receivers
async def test_closed_right_after_the_call(loop, receive):
    for _ in range(20):
        mine, peer = tcp_pair()
        task = await waiting(receive(loop, mine))
        peer.send(b"x")
        assert await task == b"x"
        # In the same turn: the call must have left nothing behind for this number.
        mine.close()
        peer.close()


@receivers
def test_a_closed_loop(loop_factory, receive):
    loop = loop_factory()
    loop.close()
    mine, peer = tcp_pair()
    with mine, peer:
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            receive(loop, mine).send(None)
        # What need not wait needs no loop.
        peer.send(b"x")
        assert first_step(receive(loop, mine)) == b"x"
        first_step(loop.sock_sendall(mine, b"y"))
        assert peer.recv(10) == b"y"


@receivers
async def test_exceptions_of_a_socket_that_is_no_oserror(loop, receive):
    class Failing(socket.socket):
        def recv(self, *args):
            raise ZeroDivisionError

        recv_into = recvfrom = recvfrom_into = recv

    mine, peer = tcp_pair()
    failing = Failing(mine.family, mine.type, mine.proto, mine.detach())
    with failing, peer, pytest.raises(ZeroDivisionError):
        await receive(loop, failing)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_it_waits_leaves_the_loop(loop, error):
    class Failing(socket.socket):
        armed = False

        def recv(self, *args):
            if self.armed:
                raise error
            return super().recv(*args)

    mine, peer = tcp_pair()
    with Failing(mine.family, mine.type, mine.proto, mine.detach()) as failing, peer:
        failing.setblocking(False)

        async def main():
            task = await waiting(loop.sock_recv(failing, 10))
            failing.armed = True
            peer.send(b"x")
            await task

        with pytest.raises(error):
            loop.run_until_complete(main())
        failing.armed = False
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                loop.run_until_complete(task)


def test_calls_from_coroutines_of_another_loop_are_independent(loop_kind):
    out = run_program(
        loop_kind,
        """
        def work(results):
            async def main():
                loop = asyncio.get_running_loop()
                one, other = socket.socketpair()
                with one, other:
                    one.setblocking(False)
                    other.setblocking(False)
                    for _ in range(300):
                        task = asyncio.ensure_future(loop.sock_recv(one, 10))
                        await asyncio.sleep(0)
                        await loop.sock_sendall(other, b"x")
                        results.append(await task)
            run(main())
        results = []
        threads = [threading.Thread(target=work, args=(results,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(len(results), set(results))
        """,
    )
    assert out.strip() == "1200 {b'x'}"


async def test_two_directions_of_a_duplicate(loop):
    """Two numbers of one socket are watched independently."""
    with pair() as (mine, peer), socket.socket(fileno=os.dup(mine.fileno())) as duplicate:
        duplicate.setblocking(False)
        first = await waiting(loop.sock_recv(mine, 1))
        second = await waiting(loop.sock_recv(duplicate, 1))
        peer.send(b"ab")
        assert {await first, await second} == {b"a", b"b"}


async def test_a_waiting_accept_whose_listener_is_closed(loop):
    with listening() as server, pair() as (mine, peer):
        task = await waiting(loop.sock_accept(server))
        server.close()
        receiving = await waiting(loop.sock_recv(mine, 10))
        peer.send(b"fine")
        assert await receiving == b"fine"
        task.cancel()
        with pytest.raises((asyncio.CancelledError, OSError)):
            await task
        await settle()

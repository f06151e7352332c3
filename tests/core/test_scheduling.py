"""call_soon: order, batches, arguments, cancellation, exceptions."""

from __future__ import annotations

import asyncio
import select
import signal
import socket

import pytest
from support import tcp_pair, udp_pair


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


@pytest.mark.loopfast_only("asyncio's loops keep all they have in their dict")
def test_a_loop_has_nothing_in_its_dict(loop):
    """Or CPython would look up call_soon and its kin anew at each call, 260 instructions."""
    loop.add_signal_handler(signal.SIGUSR1, print)
    with socket.socket() as sock:
        loop.add_reader(sock, print)
        loop.remove_reader(sock)
    loop.set_debug(True)
    loop.slow_callback_duration = 1
    run_once(loop)
    loop.set_debug(False)
    assert vars(loop) == {}
    loop.remove_signal_handler(signal.SIGUSR1)


def test_callbacks_run_in_the_order_of_scheduling(loop):
    calls = []
    for number in range(1000):
        loop.call_soon(calls.append, number)
    run_once(loop)
    assert calls == list(range(1000))


@pytest.mark.parametrize("count", range(8))
def test_any_number_of_arguments(loop, count):
    calls = []
    loop.call_soon(lambda *args: calls.append(args), *range(count))
    run_once(loop)
    assert calls == [tuple(range(count))]


def test_what_a_callback_schedules_runs_in_the_next_batch(loop):
    calls = []

    def outer():
        calls.append("outer")
        loop.call_soon(calls.append, "inner")

    loop.call_soon(outer)
    loop.call_soon(calls.append, "sibling")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert calls == ["outer", "sibling"]
    run_once(loop)
    assert calls == ["outer", "sibling", "inner"]


def test_a_callback_that_reschedules_itself_does_not_starve_timers(loop):
    turns = 0

    def again():
        nonlocal turns
        turns += 1
        loop.call_soon(again)

    loop.call_soon(again)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert turns > 1


def test_a_cancelled_callback_does_not_run(loop):
    calls = []
    first = loop.call_soon(calls.append, 1)
    loop.call_soon(calls.append, 2)
    first.cancel()
    run_once(loop)
    assert calls == [2]


def test_a_callback_can_cancel_its_successor_in_the_same_batch(loop):
    calls = []
    loop.call_soon(lambda: second.cancel())
    second = loop.call_soon(calls.append, "second")
    run_once(loop)
    assert calls == []


def test_a_callback_can_cancel_itself(loop):
    calls = []

    def callback():
        handle.cancel()
        calls.append(handle.cancelled())

    handle = loop.call_soon(callback)
    run_once(loop)
    assert calls == [True]


def test_an_exception_is_reported_and_the_batch_goes_on(loop, reports):
    calls = []
    handle = loop.call_soon(lambda: 1 / 0)
    loop.call_soon(calls.append, "after")
    run_once(loop)
    assert calls == ["after"]
    report = reports.take()
    assert isinstance(report["exception"], ZeroDivisionError)
    assert report["handle"] is handle
    assert "Exception in callback" in report["message"]


def test_base_exceptions_other_than_interrupts_are_reported(loop, reports):
    class Odd(BaseException):
        pass

    def raise_it():
        raise Odd("odd")

    loop.call_soon(raise_it)
    run_once(loop)
    assert isinstance(reports.take()["exception"], Odd)


def test_cancelled_error_in_a_callback_is_reported(loop, reports):
    def raise_it():
        raise asyncio.CancelledError

    loop.call_soon(raise_it)
    run_once(loop)
    assert isinstance(reports.take()["exception"], asyncio.CancelledError)


def test_a_callback_whose_repr_raises_is_still_reported(loop, reports):
    class Rude:
        def __call__(self):
            raise LookupError("first")

        def __repr__(self):
            raise RuntimeError("no name")

    loop.call_soon(Rude())
    try:
        run_once(loop)
    except RuntimeError as exc:
        # asyncio formats the callback unguarded; the error may end the run, but not the process.
        assert str(exc) == "no name"
        run_once(loop)
    reports.clear()


@pytest.mark.parametrize("callback", [print, dict, [].append, len, str.upper])
def test_builtin_callables(loop, callback, capsys):
    loop.call_soon(callback, *([""] if callback in (len, str.upper) else [{}] if callback is dict else [""]))
    run_once(loop)


def test_callback_is_required(loop):
    with pytest.raises(TypeError):
        loop.call_soon()
    with pytest.raises(TypeError):
        loop.call_soon(print, nonsense=1)


def test_arguments_are_not_copied_or_changed(loop):
    argument = []
    seen = []
    loop.call_soon(seen.append, argument)
    run_once(loop)
    assert seen[0] is argument


def test_deep_recursion_in_a_callback_is_reported(loop, reports):
    def recurse():
        recurse()

    loop.call_soon(recurse)
    run_once(loop)
    assert isinstance(reports.take()["exception"], RecursionError)


async def test_one_turn_with_an_open_socket_is_one_poll(loop):
    import socket

    one, other = socket.socketpair()
    one.setblocking(False)
    seen = []
    loop.add_reader(one, seen.append, 1)
    other.send(b"x")
    # Readiness is seen within two turns: at the latest by the poll after the first.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen
    loop.remove_reader(one)
    one.close()
    other.close()


def test_io_comes_before_due_timers_of_the_same_turn(loop):
    import socket
    import time

    one, other = socket.socketpair()
    one.setblocking(False)
    order = []

    def readable():
        one.recv(10)
        order.append("io")

    def start():
        loop.call_later(0.001, order.append, "timer")
        loop.call_later(0.002, loop.stop)
        other.send(b"x")
        while loop.time() < deadline:
            time.sleep(0.0005)

    deadline = loop.time() + 0.02
    loop.add_reader(one, readable)
    loop.call_soon(start)
    loop.run_forever()
    assert order == ["io", "timer"]
    loop.remove_reader(one)
    one.close()
    other.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_data_that_is_there_comes_after_what_was_ready(loop, kind):
    """One order for all: what was ready, what the poll brought, timers that are due; then what these scheduled."""
    calls = []

    class Protocol(asyncio.Protocol, asyncio.DatagramProtocol):
        def data_received(self, data):
            calls.append("data")
            loop.call_soon(calls.append, "scheduled by data")

        def datagram_received(self, data, address):
            self.data_received(data)

    def ready():
        calls.append("ready")
        loop.call_soon(calls.append, "scheduled by ready")
        loop.call_later(0, calls.append, "timer of ready")

    mine, peer = tcp_pair() if kind == socket.SOCK_STREAM else udp_pair()
    if kind == socket.SOCK_STREAM:
        transport, _ = loop.run_until_complete(loop.create_connection(Protocol, sock=mine))
    else:
        transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(Protocol, sock=mine))
    for _ in range(3):
        run_once(loop)
    peer.send(b"x")
    assert select.select([mine.fileno()], [], [], 5)[0]
    loop.call_soon(ready)
    loop.call_at(loop.time() - 1, calls.append, "timer")
    for _ in range(3):
        run_once(loop)
    assert calls == ["ready", "data", "timer", "scheduled by ready", "scheduled by data", "timer of ready"]
    transport.abort()
    peer.close()
    run_once(loop)


def test_events_left_by_an_interrupt_are_not_lost(loop):
    calls = []

    def interrupt():
        calls.append("interrupt")
        raise KeyboardInterrupt

    now = loop.time()
    for number, callback in enumerate([lambda: calls.append("first"), interrupt, lambda: calls.append("last")]):
        loop.call_at(now - 1 + number / 10, callback)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert calls == ["first", "interrupt"]
    loop.call_soon(calls.append, "scheduled since")
    run_once(loop)
    assert calls == ["first", "interrupt", "last", "scheduled since"]


def test_a_long_queue(loop):
    count = 0

    def tick():
        nonlocal count
        count += 1

    for _ in range(200_000):
        loop.call_soon(tick)
    run_once(loop)
    assert count == 200_000

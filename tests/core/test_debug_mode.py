"""Debug mode: wrong threads, wrong callbacks, slow callbacks, where things were made."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest
from support import run_program

#: Seconds that a callback is slow from here: more than a shared machine stops for.
SLOW = 0.2


@pytest.fixture
def debugging(loop):
    loop.set_debug(True)
    return loop


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_off_by_default(loop):
    assert loop.get_debug() is False
    loop.set_debug(True)
    assert loop.get_debug() is True
    loop.set_debug(False)
    assert loop.get_debug() is False


@pytest.mark.parametrize(("options", "environment"), [((), {"PYTHONASYNCIODEBUG": "1"}), (("-X", "dev"), {})])
def test_switched_on_from_outside(loop_kind, options, environment):
    code = "loop = new_event_loop(); print(loop.get_debug()); loop.close()"
    out = run_program(loop_kind, code, *options, **environment)
    assert out == "True\n"


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
def test_scheduling_from_another_thread(debugging, method):
    failures = []
    before = () if method == "call_soon" else (1,)

    def other():
        try:
            getattr(debugging, method)(*before, print)
        except RuntimeError as exc:
            failures.append(str(exc))
        debugging.call_soon_threadsafe(debugging.stop)

    thread = threading.Thread(target=other)
    debugging.call_soon(thread.start)
    debugging.run_forever()
    thread.join()
    assert len(failures) == 1
    assert "Non-thread-safe operation invoked on an event loop other than the current one" in failures[0]


def test_scheduling_from_another_thread_is_allowed_while_the_loop_rests(debugging):
    thread = threading.Thread(target=debugging.call_soon, args=(int,))
    thread.start()
    thread.join()
    run_once(debugging)


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_wrong_callbacks(debugging, method):
    schedule = getattr(debugging, method)
    before = (0,) if method in ("call_later", "call_at") else ()
    coroutine = asyncio.sleep(0)
    name = "call_at" if method == "call_later" else method
    with pytest.raises(TypeError, match=rf"coroutines cannot be used with {name}\(\)"):
        schedule(*before, coroutine)
    with pytest.raises(TypeError, match=rf"coroutines cannot be used with {name}\(\)"):
        schedule(*before, asyncio.sleep)
    with pytest.raises(TypeError, match=rf"a callable object was expected by {name}\(\), got 'text'"):
        schedule(*before, "text")
    coroutine.close()


def test_slow_callbacks_are_logged(debugging, caplog):
    debugging.slow_callback_duration = SLOW

    def slow():
        time.sleep(1.05 * SLOW)

    debugging.call_soon(slow)
    debugging.call_later(0, slow)
    debugging.call_later(0.001, debugging.stop)
    debugging.run_forever()
    messages = [record.getMessage() for record in caplog.records if "seconds" in record.getMessage()]
    assert len(messages) == 2
    assert all("Executing" in message and "slow" in message for message in messages)


def test_slow_tasks_are_logged(debugging, caplog):
    debugging.slow_callback_duration = SLOW

    async def dawdle():
        time.sleep(1.05 * SLOW)

    debugging.run_until_complete(dawdle())
    assert "dawdle" in caplog.text


def test_accepted_connections_are_logged(debugging, caplog):
    caplog.set_level("DEBUG", "asyncio")

    async def main():
        server = await debugging.create_server(asyncio.Protocol, "127.0.0.1", 0)
        transport, _ = await debugging.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        name = transport.get_extra_info("sockname")
        while f"got a new connection from {name}" not in caplog.text:
            await asyncio.sleep(0.001)
        transport.close()
        server.close()

    debugging.run_until_complete(main())


def test_slow_callbacks_are_not_logged_otherwise(loop, caplog):
    loop.slow_callback_duration = 0
    loop.call_soon(time.sleep, 0.001)
    run_once(loop)
    assert caplog.text == ""


def test_slow_callback_duration(loop):
    assert loop.slow_callback_duration == 0.1
    loop.slow_callback_duration = 0.5
    assert loop.slow_callback_duration == 0.5


def test_reports_carry_the_source_traceback(debugging, reports):
    handle = debugging.call_soon(lambda: 1 / 0)
    run_once(debugging)
    report = reports.take()
    assert report["handle"] is handle
    frame = report["source_traceback"][-1]
    assert frame.filename == __file__


def test_timers_carry_the_source_traceback(debugging, reports):
    debugging.call_later(0, lambda: 1 / 0)
    debugging.call_later(0.001, debugging.stop)
    debugging.run_forever()
    assert reports.take()["source_traceback"][-1].filename == __file__


def test_no_source_traceback_otherwise(loop, reports):
    loop.call_soon(lambda: 1 / 0)
    run_once(loop)
    assert "source_traceback" not in reports.take()


def test_no_source_traceback_of_a_handle_made_before(loop, reports):
    def fail():
        loop.set_debug(True)
        handle.cancel()
        raise ZeroDivisionError

    handle = loop.call_soon(fail)
    run_once(loop)
    assert "source_traceback" not in reports.take()
    assert handle._source_traceback is None
    assert "fail() at" in handle._repr


def test_coroutine_origin_tracking_only_while_running(debugging):
    depth = []
    debugging.call_soon(lambda: depth.append(sys.get_coroutine_origin_tracking_depth()))
    run_once(debugging)
    assert depth[0] > 0
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_debug_mode_switched_while_running(loop):
    depth = []

    async def main():
        loop.set_debug(True)
        await asyncio.sleep(0.001)
        depth.append(sys.get_coroutine_origin_tracking_depth())
        loop.set_debug(False)
        await asyncio.sleep(0.001)
        depth.append(sys.get_coroutine_origin_tracking_depth())

    loop.run_until_complete(main())
    assert depth[0] > 0 and depth[1] == 0


async def test_blocking_sockets_are_refused(loop):
    import socket

    loop.set_debug(True)
    one, other = socket.socketpair()
    for call in (loop.sock_recv(one, 1), loop.sock_sendall(one, b"x"), loop.sock_accept(one)):
        with pytest.raises(ValueError, match="the socket must be non-blocking"):
            await call
    one.close()
    other.close()


def test_the_running_handle_is_known(debugging):
    seen = []
    handle = debugging.call_soon(lambda: seen.append(debugging._current_handle))
    run_once(debugging)
    assert seen == [handle]
    assert debugging._current_handle is None

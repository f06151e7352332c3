"""Context variables: which context each callback runs in, and that nothing leaks between them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import sysconfig
import threading
import weakref

import pytest
from support import LOCALHOST, Recorder, serving, settle, tcp_pair, until

from loopfast.callbacks import knows_contexts, set_contexts

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")

portable = pytest.param("portable", marks=pytest.mark.loopfast_only("asyncio always makes the context at the call"))


@pytest.fixture(autouse=True, params=["auto", portable])
def contexts(request):
    """What the handles of loopfast keep of the current context: its variables, or a Context made at the call."""
    set_contexts(request.param)
    yield
    set_contexts("auto")


class Value:
    """Something that can be referenced weakly."""


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def run_timers(loop):
    loop.call_later(0.001, loop.stop)
    loop.run_forever()


def schedule_with(schedule, loop, callback, *args):
    """Schedule it in the given way, as soon as that can be."""
    before = {"call_later": [0], "call_at": [loop.time()]}.get(schedule, [])
    return getattr(loop, schedule)(*before, callback, *args)


has_get_context = pytest.mark.loopfast_only(
    "asyncio's handles have get_context() from Python 3.12 on", when=sys.version_info < (3, 12)
)
ways = pytest.mark.parametrize("schedule", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])


@pytest.mark.parametrize("schedule", ["call_soon", "call_soon_threadsafe"])
def test_the_context_is_copied_at_the_call(loop, schedule):
    seen = []
    token = VARIABLE.set("at the call")
    getattr(loop, schedule)(lambda: seen.append(VARIABLE.get()))
    VARIABLE.set("later")
    run_once(loop)
    VARIABLE.reset(token)
    assert seen == ["at the call"]


def test_timers_copy_the_context_too(loop):
    seen = []
    token = VARIABLE.set("at the call")
    loop.call_later(0, lambda: seen.append(VARIABLE.get()))
    VARIABLE.reset(token)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert seen == ["at the call"]


def test_a_given_context_is_used_and_kept(loop):
    context = contextvars.Context()
    loop.call_soon(VARIABLE.set, "inside", context=context)
    run_once(loop)
    assert context[VARIABLE] == "inside"
    assert VARIABLE.get() == "unset"


def test_what_a_callback_sets_is_not_seen_by_the_next(loop):
    seen = []
    loop.call_soon(VARIABLE.set, "leaked")
    loop.call_soon(lambda: seen.append(VARIABLE.get()))
    run_once(loop)
    assert seen == ["unset"]
    assert VARIABLE.get() == "unset"


def test_one_context_for_several_callbacks(loop):
    context = contextvars.Context()
    seen = []
    loop.call_soon(VARIABLE.set, 1, context=context)
    loop.call_soon(lambda: seen.append(VARIABLE.get()), context=context)
    loop.call_soon(lambda: seen.append(VARIABLE.get()))
    loop.call_soon(lambda: seen.append(VARIABLE.get()), context=context)
    run_once(loop)
    assert seen == [1, "unset", 1]


def test_a_context_can_be_entered_elsewhere_between_callbacks(loop):
    context = contextvars.Context()
    seen = []
    loop.call_soon(VARIABLE.set, 1, context=context)
    loop.call_soon(lambda: context.run(lambda: seen.append(VARIABLE.get())))
    run_once(loop)
    context.run(lambda: seen.append(VARIABLE.get()))
    assert seen == [1, 1]


def test_another_thread_can_enter_the_context_while_the_loop_sleeps(loop):
    context = contextvars.Context()
    failures = []
    callback_is_over = threading.Event()

    def enter():
        callback_is_over.wait()
        try:
            context.run(lambda: None)
        except RuntimeError as exc:
            failures.append(exc)
        loop.call_soon_threadsafe(loop.stop)

    def start():
        loop.call_later(0.02, lambda: None)
        threading.Thread(target=enter).start()

    loop.call_soon(start, context=context)
    loop.call_soon(callback_is_over.set)
    loop.run_forever()
    assert failures == []


def test_a_context_entered_elsewhere_is_reported_not_fatal(loop, caplog):
    context = contextvars.Context()
    calls = []

    def main():
        loop.call_soon(calls.append, "inside", context=context)
        loop.call_soon(calls.append, "after")
        run_once(loop)

    # The context is entered already: the first callback cannot run in it, nor, from 3.12 on, its exception handler.
    loop.set_exception_handler(None)
    context.run(main)
    assert "already entered" in caplog.text
    assert calls == ["after"]


def test_the_exception_handler_runs_in_the_handle_context(loop):
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(VARIABLE.get()))
    context = contextvars.Context()
    context.run(VARIABLE.set, "of the handle")
    loop.call_soon(lambda: 1 / 0, context=context)
    run_once(loop)
    # From 3.12 on asyncio runs it in the context of what failed (gh-105288).
    assert seen == ["of the handle" if sys.version_info >= (3, 12) else "unset"]


@has_get_context
@ways
def test_get_context_is_the_context_of_the_callback(loop, schedule):
    seen = []
    token = VARIABLE.set("at the call")

    def callback():
        seen.append(VARIABLE.get())
        VARIABLE.set("by the callback")
        context = handle.get_context()
        seen.append(context[VARIABLE])
        seen.append(context is before)
        with pytest.raises(RuntimeError, match="already entered"):
            context.run(print)

    handle = schedule_with(schedule, loop, callback)
    VARIABLE.reset(token)
    before = handle.get_context()
    assert before[VARIABLE] == "at the call"
    assert handle.get_context() is before
    before.run(VARIABLE.set, "through the handle")
    run_timers(loop)
    assert seen == ["through the handle", "by the callback", True]
    assert before[VARIABLE] == "by the callback"
    assert VARIABLE.get() == "unset"


@has_get_context
def test_get_context_asked_by_the_callback_only(loop):
    seen = []

    def callback(number):
        VARIABLE.set(number)
        seen.append(handles[number].get_context())

    handles = [loop.call_soon(callback, number) for number in range(3)]
    run_once(loop)
    assert [context[VARIABLE] for context in seen] == [0, 1, 2]
    assert seen[0] is not seen[1] is not seen[2] is not seen[0]


@ways
def test_handles_have_contexts_of_their_own(loop, schedule):
    """Those of callbacks that have run live on for whoever keeps them, here through the tokens."""
    tokens = []
    failures = []

    def callback(number):
        failures.extend(token for token in tokens if can_be_reset(token))
        assert VARIABLE.get() == "unset"
        tokens.append(VARIABLE.set(number))

    def can_be_reset(token):
        try:
            VARIABLE.reset(token)
        except ValueError:
            return False
        return True

    for number in range(5):
        schedule_with(schedule, loop, callback, number)
    run_timers(loop)
    for number in range(5):
        schedule_with(schedule, loop, callback, number)
    run_timers(loop)
    assert failures == []
    assert len(tokens) == 10
    assert VARIABLE.get() == "unset"


@ways
def test_the_variables_of_a_callback_end_with_it(loop, schedule):
    references = []
    own = contextvars.Context()

    def callback():
        value = Value()
        references.append(weakref.ref(value))
        VARIABLE.set(value)

    gc.disable()
    try:
        schedule_with(schedule, loop, callback)
        loop.call_later(0.001, loop.stop, context=own)
        loop.run_forever()
        assert [reference() for reference in references] == [None]
    finally:
        gc.enable()


@pytest.mark.loopfast_only("asyncio's handles keep their context as long as somebody holds them")
@ways
def test_a_cancelled_handle_lets_go_of_its_variables(loop, schedule):
    value = Value()
    token = VARIABLE.set(value)
    handle = schedule_with(schedule, loop, pytest.fail)
    VARIABLE.reset(token)
    reference = weakref.ref(value)
    del value, token
    gc.disable()
    try:
        assert reference() is not None
        handle.cancel()
        assert reference() is None
    finally:
        gc.enable()
    run_timers(loop)


@has_get_context
def test_a_weak_reference_to_the_context_ends_with_the_callback(loop):
    references = []
    handles = []

    def callback():
        references.append(weakref.ref(handles.pop().get_context()))

    for _ in range(2):
        handles.append(loop.call_soon(callback))
        run_once(loop)
        gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_nested_runs_have_contexts_of_their_own(loop):
    """Task.__del__ and others run what was scheduled at once."""
    seen = []

    def inner():
        seen.append(VARIABLE.get())
        VARIABLE.set("inner")

    def outer():
        handle = loop.call_soon(inner)
        VARIABLE.set("outer")
        handle._run()
        handle.cancel()
        loop.call_soon(lambda: seen.append(VARIABLE.get()))

    token = VARIABLE.set("at the call")
    loop.call_soon(outer)
    VARIABLE.reset(token)
    run_once(loop)
    run_once(loop)
    assert seen[0] == "at the call"
    assert "inner" not in seen
    assert VARIABLE.get() == "unset"


@ways
def test_a_thread_that_never_had_a_context(loop, schedule):
    seen = []
    if schedule != "call_soon_threadsafe":
        thread = threading.Thread(target=lambda: schedule_with(schedule, loop, lambda: seen.append(VARIABLE.get())))
    else:
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(lambda: seen.append(VARIABLE.get()),))
    thread.start()
    thread.join()
    run_timers(loop)
    assert seen == ["unset"]


async def test_what_a_reader_sets_is_there_when_it_is_called_again(loop):
    one, other = tcp_pair()
    seen = []

    def on_readable():
        one.recv(1)
        seen.append(VARIABLE.get())
        VARIABLE.set(len(seen))
        if len(seen) < 3:
            other.send(b"x")

    loop.add_reader(one, on_readable)
    other.send(b"x")
    await until(lambda: len(seen) == 3)
    loop.remove_reader(one)
    one.close()
    other.close()
    assert seen == ["unset", 1, 2]


def test_the_exception_handler_sees_what_the_callback_set(loop):
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(VARIABLE.get()))

    def fail():
        VARIABLE.set("by the callback")
        raise ZeroDivisionError

    loop.call_soon(fail)
    loop.call_soon(fail)
    run_once(loop)
    assert seen == ["by the callback" if sys.version_info >= (3, 12) else "unset"] * 2
    assert VARIABLE.get() == "unset"


@pytest.mark.parametrize("debug", [False, True])
def test_variables_in_debug_mode(loop, debug):
    loop.set_debug(debug)
    seen = []

    def callback():
        seen.append(VARIABLE.get())
        VARIABLE.set("by the callback")

    token = VARIABLE.set("at the call")
    for _ in range(2):
        loop.call_soon(callback)
        loop.call_later(0, callback)
        loop.call_soon_threadsafe(callback)
    VARIABLE.reset(token)
    run_timers(loop)
    assert seen == ["at the call"] * 6


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
@ways
def test_a_loop_that_a_waiting_callbacks_variable_refers_to_is_collected(loop_factory, schedule):
    loop = loop_factory()
    reference = weakref.ref(loop)
    token = VARIABLE.set(loop)
    if schedule.startswith("call_soon"):
        getattr(loop, schedule)(pytest.fail)
    else:
        getattr(loop, schedule)(loop.time() + 1000, pytest.fail)
    VARIABLE.reset(token)
    del loop, token
    gc.collect()
    gc.collect()
    assert reference() is None


def test_contexts_that_a_debugger_holds(loop):
    """The collector knows every Context, also those that nobody else can see just now."""
    seen = []

    def callback():
        seen.append(VARIABLE.get())
        VARIABLE.set("of the callback")

    for _ in range(3):
        loop.call_soon(callback)
        run_once(loop)
        held = [found for found in gc.get_objects() if isinstance(found, contextvars.Context) and VARIABLE not in found]
        for context in held:
            context.run(VARIABLE.set, "of the debugger")
        for _ in range(3):
            loop.call_soon(callback)
        run_once(loop)
        assert all(context[VARIABLE] == "of the debugger" for context in held)
        context = None
        references = [weakref.ref(context) for context in held]
        del held
        loop.call_soon(callback)
        run_once(loop)
        assert seen == ["unset"] * 5
        seen.clear()
        del references
    assert VARIABLE.get() == "unset"


def test_the_inside_of_a_context_is_known():
    """To versions that were looked at, with the GIL."""
    has_gil = not sysconfig.get_config_var("Py_GIL_DISABLED")
    assert knows_contexts() == (has_gil and sys.version_info < (3, 16))


def test_a_choice_that_is_none():
    with pytest.raises(ValueError, match="'nonsense'"):
        set_contexts("nonsense")
    result = subprocess.run(
        [sys.executable, "-c", "import loopfast"],
        env={**os.environ, "LOOPFAST_CONTEXTS": "nonsense"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "LOOPFAST_CONTEXTS can be auto or portable, not 'nonsense'" in result.stderr


def test_a_context_of_a_wrong_type(loop, reports):
    try:
        loop.call_soon(print, context="nonsense")
        run_once(loop)
    except (TypeError, AttributeError):
        return
    assert isinstance(reports.take()["exception"], (TypeError, AttributeError))


async def test_tasks_keep_their_context(loop):
    async def work(value):
        VARIABLE.set(value)
        for _ in range(5):
            await asyncio.sleep(0)
            assert VARIABLE.get() == value
        return VARIABLE.get()

    assert await asyncio.gather(*(work(number) for number in range(20))) == list(range(20))
    assert VARIABLE.get() == "unset"


async def test_create_task_with_a_context(loop):
    context = contextvars.Context()

    async def work():
        VARIABLE.set("in the task")

    await loop.create_task(work(), context=context)
    assert context[VARIABLE] == "in the task"


async def test_each_accepted_connection_has_a_context_of_its_own(loop):
    seen = []
    VARIABLE.set("server")

    class Protocol(Recorder):
        def connection_made(self, transport):
            seen.append(VARIABLE.get())
            VARIABLE.set(f"connection {len(seen)}")
            super().connection_made(transport)

        def data_received(self, data):
            seen.append(VARIABLE.get())
            super().data_received(data)
            self.transport.close()

    protocols = []

    def factory():
        protocols.append(Protocol())
        return protocols[-1]

    async with serving(factory) as (_, address):
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"x")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        await until(lambda: len(protocols) == 3 and all(protocol.lost.done() for protocol in protocols))
    if sys.version_info >= (3, 15):
        # From there on all callbacks of a connection share its context.
        assert seen == ["server", "connection 1", "server", "connection 3", "server", "connection 5"]
    else:
        assert seen == ["server"] * 6


async def test_a_client_connection_runs_in_the_callers_context(loop):
    seen = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            seen.append(VARIABLE.get())
            super().connection_made(transport)

        def data_received(self, data):
            seen.append(VARIABLE.get())
            super().data_received(data)

        def connection_lost(self, exc):
            seen.append(VARIABLE.get())
            super().connection_lost(exc)

    class Greeter(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"hello")
            transport.close()

    async with serving(Greeter) as (_, address):
        VARIABLE.set("client")
        _, protocol = await loop.create_connection(Protocol, *address[:2])
        VARIABLE.set("changed later")
        await protocol.lost
    assert seen == ["client"] * 3


async def test_readers_run_in_the_context_of_their_registration(loop):
    one, other = tcp_pair()
    seen = loop.create_future()
    VARIABLE.set("registered")
    loop.add_reader(one, lambda: seen.done() or seen.set_result(VARIABLE.get()))
    VARIABLE.set("changed")
    other.send(b"x")
    assert await seen == "registered"
    loop.remove_reader(one)
    one.close()
    other.close()


async def test_the_context_of_resume_writing(loop):
    from support import read_exactly, transport_and_peer

    seen = []

    class Protocol(Recorder):
        def resume_writing(self):
            seen.append(VARIABLE.get())

    VARIABLE.set("connection")
    async with transport_and_peer(Protocol, send_buffer=4096) as (transport, _, peer):
        VARIABLE.set("writer")
        transport.write(b"x" * 1_000_000)
        await read_exactly(peer, 1_000_000)
        await until(lambda: seen)
    # asyncio's transports have a context of their own since 3.15; before, the callback is registered by the writer.
    assert seen == ["connection" if sys.version_info >= (3, 15) else "writer"]


async def test_server_start_serving_later(loop):
    server = await loop.create_server(Recorder, LOCALHOST, 0, start_serving=False)
    await server.start_serving()
    server.close()
    await settle()

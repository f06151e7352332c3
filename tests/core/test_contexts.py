"""Context variables: which context each callback runs in, and that nothing leaks between them."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading

import pytest
from support import LOCALHOST, Recorder, serving, settle, until

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


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

    def enter():
        try:
            context.run(lambda: None)
        except RuntimeError as exc:
            failures.append(exc)
        loop.call_soon_threadsafe(loop.stop)

    def start():
        loop.call_later(0.02, lambda: None)
        threading.Timer(0.005, enter).start()

    loop.call_soon(start, context=context)
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
    import sys

    assert seen == ["of the handle" if sys.version_info >= (3, 12) else "unset"]


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
    from support import tcp_pair

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

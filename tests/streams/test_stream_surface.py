"""What users see of streams beside the data: classes, signatures, coroutines, warnings, patches, memory, the ends."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import contextvars
import copy
import gc
import inspect
import os
import random
import socket
import struct
import sys
import tempfile
import warnings
import weakref
from unittest import mock

import pytest
from support import LOCALHOST, gc_disabled, run_program, settle, until

METHODS = {"read": (1,), "readexactly": (1,), "readuntil": (b"\n",), "readline": ()}


@contextlib.asynccontextmanager
async def stream(*, served=True, limit=2**16):
    """A reader, a writer and the blocking socket at the other end, which delivers before send() returns."""
    mine, peer = socket.socketpair()
    loop = asyncio.get_running_loop()
    if served:
        both = loop.create_future()
        protocol = asyncio.StreamReaderProtocol(
            asyncio.StreamReader(limit=limit), lambda reader, writer: both.set_result((reader, writer)) or None
        )
        await loop.create_connection(lambda: protocol, sock=mine)
        reader, writer = await both
    else:
        reader, writer = await asyncio.open_connection(sock=mine, limit=limit)
    try:
        with peer:
            yield reader, writer, peer
    finally:
        writer.transport.abort()
        await settle()


@contextlib.asynccontextmanager
async def listening(kind="tcp"):
    """A function that connects to a server of streams and returns its reader and writer and the blocking socket."""
    served = asyncio.Queue()
    done = asyncio.Event()

    async def serve(reader, writer):
        served.put_nowait((reader, writer))
        del reader, writer
        await done.wait()

    with contextlib.ExitStack() as stack:
        if kind == "unix":
            path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "socket")
            server = await asyncio.start_unix_server(serve, path)
        else:
            server = await asyncio.start_server(serve, LOCALHOST, 0)

        async def connect():
            address = server.sockets[0].getsockname()
            peer = stack.enter_context(socket.socket(server.sockets[0].family))
            peer.connect(address)
            reader, writer = await served.get()
            stack.callback(lambda: writer.transport.abort())  # not before: a writer that nobody holds warns
            return reader, writer, peer

        try:
            yield connect
        finally:
            server.close()
            done.set()
            stack.close()
            await settle()


# ------------------------------------------------------------------------------------------------------------- classes

CLASSES = {name: getattr(asyncio, name) for name in ("StreamReader", "StreamReaderProtocol", "StreamWriter")}


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_servers_streams_have_their_class_from_the_beginning(loop, loop_kind, monkeypatch, kind):
    """Another one later makes a second copy of the attributes, a fifth of an idle connection."""
    made = []
    for each in CLASSES.values():
        original = each.__init__
        monkeypatch.setattr(
            each,
            "__init__",
            lambda self, *args, _o=original, **more: made.append(type(self)) or _o(self, *args, **more),
        )
    async with listening(kind) as connect:
        reader, writer, _ = await connect()
        assert made == [type(reader), type(writer.transport.get_protocol()), type(writer)]
        assert (made == [*CLASSES.values()]) == (loop_kind == "asyncio")


async def test_a_factory_whose_code_has_no_hash(loop):
    def factory():
        return asyncio.Protocol()

    factory.__code__ = factory.__code__.replace(co_consts=(*factory.__code__.co_consts, []))
    server = await loop.create_server(factory, LOCALHOST, 0)
    server.close()
    await server.wait_closed()


async def test_patched_instances_with_attributes_gone_or_added(loop):
    async with stream() as (reader, writer, peer):
        protocol = writer.transport.get_protocol()
        del protocol._strong_reader
        with mock.patch.object(protocol, "data_received") as received:
            peer.send(b"a")
            await until(lambda: received.called)
        protocol.tag = 1
    async with stream() as (reader, writer, peer):
        protocol = writer.transport.get_protocol()
        with mock.patch.object(protocol, "_drain_helper", mock.AsyncMock()) as helper:
            await writer.drain()
            assert helper.await_count == 1


@pytest.mark.parametrize("name", CLASSES)
async def test_classes_that_are_replaced_while_a_server_runs(loop, name):
    async with listening() as connect:
        for replacement in (CLASSES[name], type("Replacement", (CLASSES[name],), {})):
            with mock.patch.object(asyncio.streams, name, replacement):
                reader, writer, peer = await connect()
                thing = {"StreamReader": reader, "StreamWriter": writer}.get(name, writer.transport.get_protocol())
                assert isinstance(thing, replacement)
                peer.send(b"ab\n")
                assert await reader.readline() == b"ab\n"
                writer.write(b"c")
                await writer.drain()
                await settle()
                assert peer.recv(1) == b"c"
        reader, writer, _ = await connect()
        assert not {type(reader), type(writer), type(writer.transport.get_protocol())} & {replacement}


async def test_a_connection_made_that_is_replaced_while_a_server_runs(loop):
    original = asyncio.StreamReaderProtocol.connection_made
    seen = []

    def connection_made(self, transport):
        seen.append(transport)
        original(self, transport)

    async with listening() as connect:
        await connect()
        with mock.patch.object(asyncio.StreamReaderProtocol, "connection_made", connection_made):
            _, writer, _ = await connect()
            assert seen == [writer.transport]


PATCHES_BEFORE_THE_IMPORT = {
    "wrapped": "lambda self, *args: told(self, *args)",
    "partialmethod": "functools.partialmethod(told)",
    "in its module": "in_module()",
    "an object": "Method()",
}


@pytest.mark.parametrize("patch", PATCHES_BEFORE_THE_IMPORT)
@pytest.mark.parametrize(
    "name",
    [
        "StreamReader.readline",
        "StreamReader.feed_data",
        "StreamWriter.drain",
        "StreamReaderProtocol.connection_made",
        "StreamReaderProtocol.data_received",
        "StreamReaderProtocol.connection_lost",
        "streams.FlowControlMixin.connection_lost",
    ],
)
def test_asyncio_was_patched_before_the_import(loop_kind, name, patch):
    method = name.rpartition(".")[2]
    inside = name.removeprefix("streams.")
    program = f"""
    import functools
    assert "loopfast" not in sys.modules
    plain = asyncio.{name}

    def told(self, *args):
        print("called")
        return plain(self, *args)

    class Method:
        def __get__(self, instance, owner=None):
            return self if instance is None else functools.partial(told, instance)

        def __call__(self, *args):
            return told(*args)

    def in_module():
        # A default and a name of asyncio.streams, where it seems to belong.
        names = vars(asyncio.streams)
        exec("def {method}(self, *args, say=print, plain={inside}): return say('called') or plain(self, *args)", names)
        return names.pop("{method}")

    asyncio.{name} = {PATCHES_BEFORE_THE_IMPORT[patch]}

    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def main():
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"line\\n")
            print(await reader.read())
            writer.close()

    run(main())
    """
    said = run_program(loop_kind, program).splitlines()
    assert "b'line\\n'" in said and "called" in said


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # asyncio leaves the accepted socket to the collector
async def test_a_factory_that_raises(loop, reports):
    async with listening() as connect:
        with mock.patch.object(asyncio.StreamReader, "__init__", side_effect=ZeroDivisionError):
            waiting = loop.create_task(connect())
            loop.set_debug(True)
            await until(lambda: reports)
            loop.set_debug(False)
        assert isinstance(reports.pop()["exception"], ZeroDivisionError)
        waiting.cancel()
        await settle()
        await connect()


@pytest.mark.parametrize("served", [True, False])
async def test_the_classes_are_asyncios(loop, served):
    async with stream(served=served) as (reader, writer, _):
        for thing, kind in (
            (reader, asyncio.StreamReader),
            (writer, asyncio.StreamWriter),
            (writer.transport.get_protocol(), asyncio.StreamReaderProtocol),
        ):
            assert isinstance(thing, kind)
            assert repr(type(thing)) == repr(kind) and type(thing).__doc__ == kind.__doc__
            assert type(thing).__name__ == kind.__name__ and type(thing).__module__ == kind.__module__
        assert repr(reader).startswith("<StreamReader transport=<")
        assert repr(writer).startswith("<StreamWriter transport=<")
        assert set(vars(reader)) == set(vars(asyncio.StreamReader()))


@pytest.mark.parametrize("name", [*METHODS, "drain"])
async def test_methods_look_like_coroutine_functions(loop, name):
    async with stream() as (reader, writer, _):
        owner, kind = (writer, asyncio.StreamWriter) if name == "drain" else (reader, asyncio.StreamReader)
        method, expected = getattr(owner, name), getattr(kind, name)
        assert inspect.iscoroutinefunction(method) and inspect.iscoroutinefunction(getattr(type(owner), name))
        assert inspect.ismethod(method) and method.__self__ is owner
        assert inspect.signature(method) == inspect.signature(expected.__get__(owner))
        assert inspect.signature(getattr(type(owner), name)) == inspect.signature(expected)
        assert (method.__name__, method.__qualname__, method.__doc__) == (
            expected.__name__,
            expected.__qualname__,
            expected.__doc__,
        )
        assert repr(method).startswith(f"<bound method {kind.__name__}.{name} of <{kind.__name__} ")
        assert method == getattr(owner, name) and hash(method) == hash(getattr(owner, name))
        with pytest.raises(TypeError, match=name):
            method(1, 2, 3)
        with pytest.raises(TypeError, match=name):
            method(nonsense=1)


async def test_keywords(loop):
    async with stream() as (reader, _, peer):
        peer.send(b"abcdefg;hi\nend")
        await until(lambda: len(reader._buffer) == 14)
        assert await reader.read(n=2) == b"ab"
        assert await reader.readexactly(n=3) == b"cde"
        assert await reader.readuntil(separator=b";") == b"fg;"
        assert await type(reader).readline(reader) == b"hi\n"
        peer.shutdown(socket.SHUT_WR)
        assert await reader.read() == b"end"


async def test_autospec(loop):
    async with stream() as (reader, writer, _):
        double = mock.create_autospec(reader)
        double.read.return_value = b"x"
        assert await double.read(1) == b"x"
        assert isinstance(mock.create_autospec(writer).drain, mock.AsyncMock)


# ---------------------------------------------------------------------------------------------------------- coroutines


@pytest.mark.parametrize("name", METHODS)
async def test_a_call_is_a_coroutine(loop, name):
    async with stream() as (reader, _, peer):
        call = getattr(reader, name)(*METHODS[name])
        assert asyncio.iscoroutine(call) and inspect.isawaitable(call)
        assert isinstance(call, collections.abc.Coroutine)
        assert call.__qualname__ == f"StreamReader.{name}" and call.__name__ == name
        assert f"StreamReader.{name}" in repr(call)
        task = loop.create_task(call)
        await settle()
        assert f"StreamReader.{name}" in repr(task)
        peer.send(b"\n")
        assert await task == b"\n"
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await call


async def test_nothing_happens_before_the_await(loop):
    async with stream() as (reader, writer, peer):
        peer.send(b"abc")
        await until(lambda: reader._buffer)
        first, second = reader.read(1), reader.read(1)
        assert await second == b"a" and await first == b"b"
        call = reader.readexactly(-1)
        with pytest.raises(ValueError, match="less than zero"):
            await call
        drain = writer.drain()
        reader.set_exception(LookupError("set meanwhile"))
        with pytest.raises(LookupError):
            await drain


@pytest.mark.parametrize("name", [*METHODS, "drain"])
async def test_a_call_that_is_never_awaited_warns(loop, name):
    async with stream() as (reader, writer, _):
        kind = "StreamWriter" if name == "drain" else "StreamReader"
        with pytest.warns(RuntimeWarning, match=f"coroutine '{kind}.{name}' was never awaited"):
            getattr(writer if name == "drain" else reader, name)(*METHODS.get(name, ()))
            gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call = getattr(writer if name == "drain" else reader, name)(*METHODS.get(name, ()))
            call.close()
            del call
            gc.collect()


async def test_driven_by_hand(loop):
    async with stream() as (reader, writer, peer):
        call = reader.read(5)
        waiter = call.send(None)
        assert waiter is reader._waiter and asyncio.isfuture(waiter)
        with pytest.raises(KeyError):
            call.throw(KeyError("thrown"))
        assert reader._waiter is None
        call = reader.read(5)
        call.send(None)
        call.close()
        assert reader._waiter is None
        call = reader.read(5)
        with pytest.raises(KeyError):
            call.throw(KeyError("before it began"))
        peer.send(b"abc")
        await until(lambda: reader._buffer)
        with pytest.raises(StopIteration) as stop:
            reader.read(2).send(None)
        assert stop.value.value == b"ab" and stop.value.args == (b"ab",)
        with pytest.raises(StopIteration) as stop:
            writer.drain().send(None)
        assert stop.value.value is None


async def test_a_call_cannot_be_awaited_twice_at_once(loop):
    async with stream() as (reader, _, peer):
        call = reader.read(5)

        async def wait():
            return await call

        first = loop.create_task(wait())
        await settle()
        with pytest.raises(RuntimeError, match="being awaited already"):
            await wait()
        peer.send(b"abc")
        assert await first == b"abc"


async def test_what_takes_coroutines_takes_calls(loop):
    async with stream() as (reader, writer, peer):
        peer.send(b"abcdefgh")
        assert await asyncio.wait_for(reader.read(1), 5) == b"a"
        assert await asyncio.gather(reader.readexactly(2), writer.drain()) == [b"bc", None]
        assert await asyncio.shield(reader.read(1)) == b"d"
        done, _ = await asyncio.wait([loop.create_task(reader.read(1))])
        assert [task.result() for task in done] == [b"e"]
        assert await asyncio.ensure_future(reader.read(1)) == b"f"
        thread = asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(reader.read(1), loop).result())
        assert await thread == b"g"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.readexactly(5), 0.01)
        assert bytes(reader._buffer) == b"h"


async def test_stack_of_a_waiting_task(loop):
    async with stream() as (reader, _, peer):

        async def wait_here():
            return await reader.read(1)

        task = loop.create_task(wait_here())
        await settle()
        assert [frame.f_code.co_name for frame in task.get_stack()] == ["wait_here"]
        assert task.get_coro().cr_await is not None
        peer.send(b"x")
        await task


async def test_debug_mode_has_real_coroutines(loop):
    loop.set_debug(True)
    async with stream() as (reader, writer, peer):
        peer.send(b"ab")
        for call in (reader.read(1), reader.readexactly(1), writer.drain()):
            assert inspect.iscoroutine(call) and call.cr_code.co_filename.endswith("streams.py")
            await call


async def test_debug_mode_while_a_server_runs(loop):
    async with listening() as connect:
        loop.set_debug(True)
        reader, writer, peer = await connect()
        peer.send(b"ab")
        for call in (reader.read(1), reader.readexactly(1), writer.drain()):
            assert inspect.iscoroutine(call) and call.cr_code.co_filename.endswith("streams.py")
            await call


if hasattr(asyncio, "capture_call_graph"):

    async def test_call_graph_in_debug_mode(loop):
        loop.set_debug(True)
        async with stream() as (reader, _, peer):
            task = loop.create_task(reader.read(1))
            await settle()
            graph = asyncio.capture_call_graph(task)
            names = [entry.frame.f_code.co_name for entry in graph.call_stack]
            assert names == ["_wait_for_data", "read"]
            peer.send(b"x")
            await task


# -------------------------------------------------------------------------------------------------------------- patches


class ShoutingReader(asyncio.StreamReader):
    def feed_data(self, data):
        super().feed_data(data.upper())

    async def readline(self):
        return b"line: " + await super().readline()


class ShoutingProtocol(asyncio.StreamReaderProtocol):
    def data_received(self, data):
        super().data_received(data.upper())


@pytest.mark.parametrize("part", ["reader", "protocol"])
async def test_subclasses_are_asked(loop, part):
    mine, peer = socket.socketpair()
    reader = ShoutingReader() if part == "reader" else asyncio.StreamReader()
    kind = ShoutingProtocol if part == "protocol" else asyncio.StreamReaderProtocol
    transport, protocol = await loop.create_connection(lambda: kind(reader), sock=mine)
    with peer:
        peer.send(b"one\ntwo")
        assert await reader.readline() == (b"line: ONE\n" if part == "reader" else b"ONE\n")
        assert await reader.read(10) == b"TWO"
        assert type(protocol) is kind and (part == "protocol" or type(reader) is ShoutingReader)
    transport.abort()
    await settle()


PATCHES = {
    "feed_data": ("reader", lambda self, data: self._buffer.extend(data.upper()) or self._wakeup_waiter()),
    "_wakeup_waiter": ("reader", lambda self: self._waiter and self._waiter.done() or self._waiter.set_result(None)),
    "data_received": ("protocol", lambda self, data: self._stream_reader.feed_data(data.upper())),
}


@pytest.mark.parametrize("when", ["before", "after", "and back"])
@pytest.mark.parametrize("name", ["feed_data", "data_received"])
async def test_patched_classes_are_asked(loop, name, when):
    owner, replacement = PATCHES[name]
    kind = asyncio.StreamReader if owner == "reader" else asyncio.StreamReaderProtocol
    with mock.patch.object(kind, name, replacement) if when == "before" else contextlib.nullcontext():
        async with stream() as (reader, _, peer):
            with mock.patch.object(kind, name, replacement) if when != "before" else contextlib.nullcontext():
                peer.send(b"abc")
                assert await reader.read(10) == b"ABC"
            if when == "and back":
                peer.send(b"abc")
                assert await reader.read(10) == b"abc"


@pytest.mark.parametrize("name", ["feed_data", "data_received"])
async def test_patched_instances_are_asked(loop, name):
    owner, replacement = PATCHES[name]
    async with stream() as (reader, writer, peer):
        thing = reader if owner == "reader" else writer.transport.get_protocol()
        setattr(thing, name, replacement.__get__(thing))
        peer.send(b"abc")
        assert await reader.read(10) == b"ABC"
        delattr(thing, name)
        peer.send(b"abc")
        assert await reader.read(10) == b"abc"


@pytest.mark.parametrize("place", ["class", "instance"])
@pytest.mark.parametrize("name", [*METHODS, "drain"])
async def test_patched_methods_are_called(loop, name, place):
    async with stream() as (reader, writer, _):
        owner = writer if name == "drain" else reader
        kind = asyncio.StreamWriter if name == "drain" else asyncio.StreamReader
        double = mock.AsyncMock(return_value=b"patched")
        with mock.patch.object(owner if place == "instance" else kind, name, double):
            assert await getattr(owner, name)(*METHODS.get(name, ())) == b"patched"
        double.assert_awaited_once()
    with warnings.catch_warnings():
        # Before Python 3.12 a double for coroutine functions makes one that nobody awaits.
        warnings.simplefilter("ignore")
        gc.collect()


async def test_patched_wait_is_called(loop):
    async with stream() as (reader, _, peer):
        inherited = reader._wait_for_data
        waits = []

        async def wait(name):
            waits.append(name)
            await inherited(name)

        reader._wait_for_data = wait
        task = loop.create_task(reader.read(3))
        await settle()
        peer.send(b"abc")
        assert await task == b"abc" and waits == ["read"]


async def test_asyncios_own_attributes_can_be_set(loop):
    async with stream() as (reader, writer, peer):
        reader._buffer = bytearray(b"given")
        assert await reader.read(3) == b"giv"
        reader._limit = 2
        with pytest.raises(asyncio.LimitOverrunError):
            peer.send(b"more\n")
            await reader.readuntil()
        reader._buffer.clear()
        writer._protocol._paused = True
        task = loop.create_task(writer.drain())
        await settle()
        assert not task.done()
        writer._protocol.resume_writing()
        await task
        writer._reader = None
        await writer.drain()


async def test_who_waits_keeps_no_memory(loop):
    """What a stream's buffer took serves the next one; more streams than memories that may lie aside."""
    least = sys.getsizeof(bytearray()) + 1  # asyncio's own buffer keeps one byte
    chance = random.Random(5)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(stream()) for _ in range(150)]
        readers, _, peers = zip(*streams, strict=True)
        for size in (1000, 1, 1500, 5000):
            sent = [chance.randbytes(chance.randint(1, size)) for _ in streams]
            tasks = [loop.create_task(readers[k].readexactly(len(sent[k]) + 1)) for k in range(len(streams))]
            await settle()
            assert max(sys.getsizeof(reader._buffer) for reader in readers) <= least
            for peer, data in zip(peers, sent, strict=True):
                peer.send(data)
            await until(lambda sent=sent: [reader._buffer for reader in readers] == sent)
            for peer in peers:
                peer.send(b"!!")
            assert await asyncio.gather(*tasks) == [data + b"!" for data in sent]
            tasks = [loop.create_task(reader.readexactly(2)) for reader in readers]
            for peer in peers:
                peer.send(b"?")
            assert await asyncio.gather(*tasks) == [b"!?"] * len(streams)


def test_a_wait_that_gets_no_memory_adds_no_byte(loop_kind):
    """More streams wait than memories may lie aside; each of the next meets a failing allocation of its own."""
    program = """
    import _testcapi, asyncio, socket

    async def main():
        streams = []
        for _ in range(150):
            mine, peer = socket.socketpair()
            streams.append((*await asyncio.open_connection(sock=mine), peer))
            peer.send(b"z" * 60)
        for reader, _, _ in streams:
            await reader.readexactly(60)
        waiting = [asyncio.create_task(reader.read(100)) for reader, _, _ in streams[:130]]
        await asyncio.sleep(0)
        got, calls = set(), []
        for starved, (reader, _, peer) in enumerate(streams[130:]):
            call = reader.read(100)
            try:
                _testcapi.set_nomemory(starved, starved + 1)
                try:
                    call.send(None)
                finally:
                    _testcapi.remove_mem_hooks()
            except MemoryError:
                got.add("MemoryError")
            else:
                calls.append((call, reader, peer))
        for call, reader, peer in calls:
            peer.send(b"hello")
            while not reader._buffer.endswith(b"hello"):
                await asyncio.sleep(0)
            try:
                call.send(None)
            except StopIteration as stop:
                got.add(stop.value.decode())
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        print(*sorted(got))

    run(main())
    """
    assert run_program(loop_kind, program).split() in (["MemoryError", "hello"], ["hello"])


async def test_memory_goes_to_no_buffer_that_is_held(loop):
    async with stream() as (reader, _, peer), stream() as (other, _, other_peer):
        for each, end in ((reader, peer), (other, other_peer)):
            task = loop.create_task(each.read(100))
            end.send(b"x" * 90)
            assert await task == b"x" * 90
        task = loop.create_task(reader.read(10))
        await settle()
        with memoryview(reader._buffer) as view:
            assert bytes(view) == b""
            other_peer.send(b"y" * 80)
            assert await other.read(100) == b"y" * 80
        peer.send(b"abc")
        assert await task == b"abc"


async def test_somebody_holds_the_buffer(loop):
    async with stream() as (reader, _, peer):
        peer.send(b"abc")
        await until(lambda: reader._buffer)
        with memoryview(reader._buffer), pytest.raises(BufferError):
            await reader.read(10)
        assert await reader.read(10) == b"abc"


# --------------------------------------------------------------------------------------------------- memory, references


async def test_weak_references_and_the_end_of_a_reader(loop):
    mine, peer = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=mine)
    reference = weakref.ref(reader)
    writer._reader = None
    assert copy.copy(reference) is reference
    del reader
    gc.collect()
    assert reference() is None
    with peer:
        peer.send(b"for nobody")
        await settle()
        writer.write(b"still there")
        await writer.drain()
        await settle()
        assert peer.recv(100) == b"still there"
        writer.close()
        await writer.wait_closed()


async def test_a_lost_transport_keeps_nothing(loop):
    mine, peer = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=mine)
    transport = writer.transport
    references = [weakref.ref(thing) for thing in (reader, writer, transport.get_protocol())]
    writer.close()
    await writer.wait_closed()
    peer.close()
    del reader, writer
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert transport.is_closing()


async def test_nothing_keeps_what_was_read(loop):
    class Data(bytes):
        pass

    async with stream() as (reader, _, peer):
        for size in (10, 1000, 100_000):
            before = sys.getrefcount(reader)
            task = loop.create_task(asyncio.wait_for(reader.readexactly(size), 5))
            await settle()
            await loop.run_in_executor(None, peer.sendall, bytes(size))
            data = await task
            del task
            await settle()
            assert sys.getrefcount(data) <= sys.getrefcount(Data(b"x")) + 2
            assert sys.getrefcount(reader) == before


async def test_cycles_through_a_waiting_call_are_collected(loop):
    async with stream() as (reader, _, _):
        with gc_disabled():
            call = reader.read(1)
            waiter = call.send(None)
            waiter.add_done_callback(lambda _, call=call: call)
            del call
            reference = weakref.ref(waiter)
            reader._waiter = None
            del waiter
            gc.collect()
            assert reference() is None


async def test_context_of_a_waiting_task(loop):
    variable = contextvars.ContextVar("variable")
    async with stream() as (reader, _, peer):

        async def wait():
            variable.set("mine")
            await reader.read(1)
            return variable.get()

        task = loop.create_task(wait())
        await settle()
        peer.send(b"x")
        assert await task == "mine" and variable.get(None) is None


# ------------------------------------------------------------------------------------------------- limits and the end


async def test_the_limit_pauses_and_reading_resumes(loop):
    async with stream(limit=100) as (reader, writer, peer):
        peer.send(bytes(200))
        await until(lambda: len(reader._buffer) == 200)
        assert writer.transport.is_reading() and not reader._paused
        peer.send(b"x")
        await until(lambda: reader._paused)
        assert not writer.transport.is_reading()
        await reader.readexactly(100)
        assert reader._paused
        await reader.readexactly(1)
        assert not reader._paused and writer.transport.is_reading()
        await loop.run_in_executor(None, peer.sendall, bytes(1000))
        assert await reader.readexactly(1100) == bytes(100)[:99] + b"x" + bytes(1000)


async def test_cancelling_a_read_loses_nothing(loop):
    async with stream() as (reader, _, peer):
        for _ in range(20):
            task = loop.create_task(reader.read(10))
            await settle()
            peer.send(b"abc")
            # It may have come, and woken the task, or not.
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert await task == b"abc"
                continue
            assert await reader.readexactly(3) == b"abc"


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ending", ["eof", "reset"])
async def test_a_waiting_read_sees_the_end(loop, name, ending):
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        peer, _ = listener.accept()
    arguments = (5,) if name == "readexactly" else METHODS[name]
    peer.send(b"ab" if name != "read" else b"")
    task = loop.create_task(getattr(reader, name)(*arguments))
    await until(lambda: name == "read" or len(reader._buffer) == 2)
    await settle()
    if ending == "reset":
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    if ending == "reset":
        with pytest.raises(ConnectionResetError):
            await task
        with pytest.raises(ConnectionResetError):
            await getattr(reader, name)(*arguments)
        with pytest.raises(ConnectionResetError):
            await writer.drain()
    elif name in ("read", "readline"):
        assert await task == (b"" if name == "read" else b"ab")
        assert reader.at_eof() and await reader.read(10) == b""
    else:
        with pytest.raises(asyncio.IncompleteReadError) as incomplete:
            await task
        assert incomplete.value.partial == b"ab"
        assert incomplete.value.expected == (5 if name == "readexactly" else None)
        assert reader.at_eof()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_drain_after_close_and_while_paused(loop):
    async with stream() as (reader, writer, peer):
        writer.write(bytes(10_000_000))
        task = loop.create_task(writer.drain())
        await settle()
        assert not task.done()
        received = 0
        while received < 10_000_000:
            received += len(await loop.run_in_executor(None, peer.recv, 1 << 20))
        await task
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ConnectionResetError, match="Connection lost"):
            await writer.drain()


async def test_start_tls_in_a_stream(loop, certificate):
    server_context, client_context = certificate
    done = loop.create_future()

    async def serve(reader, writer):
        writer.write(b"plain " + await reader.readline())
        await writer.start_tls(server_context)
        writer.write(b"secret " + await reader.readline())
        await writer.drain()
        done.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"one\n")
        assert await reader.readline() == b"plain one\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        writer.write(b"two\n")
        await writer.drain()
        assert await reader.readexactly(11) == b"secret two\n"
        writer.write(b"end")
        writer.close()
        assert await done == b"end"
        await writer.wait_closed()


async def test_a_callback_that_raises_and_one_that_is_a_coroutine(loop, reports):
    lines = []

    async def serve(reader, writer):
        async for line in reader:
            lines.append(line)
        writer.close()
        raise LookupError("at the end")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.writelines([b"a\nb", b"c\nd"])
        writer.close()
        await writer.wait_closed()
        await until(lambda: reports)
    assert lines == [b"a\n", b"bc\n", b"d"]
    context = reports.take()
    assert isinstance(context["exception"], LookupError)
    assert context["message"] == "Unhandled exception in client_connected_cb"


@pytest.mark.parametrize("size", [1, 1000, 100_000])
async def test_streams_over_tls(loop, certificate, size):
    server_context, client_context = certificate

    async def serve(reader, writer):
        assert isinstance(reader, asyncio.StreamReader) and isinstance(writer, asyncio.StreamWriter)
        while data := await reader.read(5000):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context, limit=3000)
    async with server:
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost", limit=1000
        )
        for byte in b"abc":
            writer.write(bytes([byte]) * size + b"\n")
            await writer.drain()
            assert await reader.readexactly(size) == bytes([byte]) * size
            assert await reader.readline() == b"\n"
        task = loop.create_task(reader.read(1))
        await settle()
        task.cancel()
        await asyncio.wait([task])
        writer.write(b"last\n")
        assert await reader.readuntil() == b"last\n"
        writer.close()
        await writer.wait_closed()
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(1)


async def test_patches_over_tls(loop, certificate):
    server_context, client_context = certificate

    async def serve(reader, writer):
        reader.feed_data = lambda data: type(reader).feed_data(reader, data.upper())
        writer.write(b"now\n")
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    async with server:
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
        )
        assert await reader.readline() == b"now\n"
        writer.write(b"abc\n")
        assert await reader.read() == b"ABC\n"
        writer.close()
        await writer.wait_closed()

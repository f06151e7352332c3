"""Calls everything that the compiled modules show to Python, with hostile arguments, in one process.

    python tests/crash/enumeration.py --mode live --seed 1 --calls 10

The test runs this file once per mode. What is being called is written to a shared file before the call, so that the
parent can name it when this process dies; the seed makes the same calls again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import enum
import faulthandler
import functools
import gc
import importlib
import json
import logging
import mmap
import os
import pickle
import random
import signal
import socket
import ssl
import sys
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile

# For itself, and for whoever repeats one of its runs.
sys.path.append(str(Path(__file__).parents[1]))
from support import SLOWNESS, importable_modules

import loopfast
from loopfast.core import LoopCore

JOURNAL_SIZE = 4096
# Standard output, where no hostile call closes it: those close the numbers that they are called with.
REPORT = 200
# Seconds. A call that waits is interrupted after the first; the process ends with all stacks after the second.
PATIENCE = 0.2
HANG = 120.0 * SLOWNESS

#: Never called, with the reason.
NOT_CALLED = {
    "__mul__": "of named tuples, not ours: a product may take all the memory of the machine",
    "__rmul__": "of named tuples, not ours: a product may take all the memory of the machine",
    "__class_getitem__": "of typing, not ours",
    "__init_subclass__": "makes nothing of ours",
    "__subclasshook__": "makes nothing of ours",
}

#: Words in the names of methods that end an object's life: called last, so that the others find it alive.
ENDING = ("close", "abort", "cancel", "_del_", "lost", "error", "init", "shutdown", "stop", "eof", "_run")


#: Files of a certificate and its key, where there are any.
CERTIFICATE = [path for path in os.environ.get("ENUMERATION_CERTIFICATE", "").split(os.pathsep) if path]


class Interrupted(BaseException):
    """Ends a call that waits."""


class Journal:
    """The call in progress, in memory that the parent process can read after a crash."""

    def __init__(self, path: str | None) -> None:
        self.memory: Any = bytearray(JOURNAL_SIZE)
        if path is not None:
            with open(path, "r+b") as file:
                self.memory = mmap.mmap(file.fileno(), JOURNAL_SIZE)
        self.calls = 0
        self.since = time.monotonic()

    def note(self, text: str) -> None:
        data = f"{self.calls}: {text}".encode("ascii", "backslashreplace")[: JOURNAL_SIZE - 1] + b"\0"
        self.memory[: len(data)] = data
        self.calls += 1
        self.since = time.monotonic()


@functools.cache
def compiled_classes() -> list[type]:
    """Every class that the modules of the package define, found by looking."""
    found: dict[type, None] = {}
    for name in importable_modules():
        if name == "loopfast._policy":
            continue
        module = importlib.import_module(name)
        for value in list(vars(module).values()):
            # The methods of an enumeration are those of int, some of which never end.
            if (
                isinstance(value, type)
                and value.__module__.partition(".")[0] == "loopfast"
                and (not issubclass(value, enum.Enum))
            ):
                found[value] = None
    return sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__))


def module_functions() -> list[tuple[str, Any]]:
    """The functions of the compiled modules."""
    found = []
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] == "loopfast" and getattr(module, "__file__", "").endswith((".so", ".pyd")):
            found += [(f"{name}.{key}", value) for key, value in vars(module).items() if callable(value)]
    return found


def instances(cls: type) -> list[Any]:
    """The living instances of exactly *cls*, also those that no public name leads to."""
    return [obj for obj in gc.get_objects() if type(obj) is cls]


# -------------------------------------------------------------------------------------------------------------- worlds


class Talker(asyncio.Protocol):
    """Keeps its transport and what was called; `on_data` runs inside data_received()."""

    on_data: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        action, self.on_data = self.on_data, None
        if action is not None:
            action()


async def waited(awaitable: Any) -> Any:
    return await awaitable


class BufferedTalker(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.buffer = bytearray(100)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> Any:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        pass


class World:
    """A loop with one of everything on it."""

    def __init__(self) -> None:
        # The last world may have been left with a closed socket there.
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        asyncio._set_running_loop(None)
        self.loop: Any = loopfast.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: None)
        self.servers: list[Any] = []
        self.transports: list[Any] = []
        self.handles: list[Any] = []
        self.protocols: list[Any] = []
        self.others: list[Any] = []
        self.pair = socket.socketpair()
        opening = self.loop.create_task(self.open())
        # Not run_until_complete(): on a busy machine watch() finds that this takes long, and stops the loop.
        while not opening.done():
            self.loop.run_forever()
        opening.result()

    async def open(self) -> None:
        loop = self.loop

        def accepted() -> Any:
            self.protocols.append(Talker())
            return self.protocols[-1]

        server = await loop.create_server(accepted, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        self.client, self.client_protocol = await loop.create_connection(Talker, *address)
        buffered, _ = await loop.create_connection(BufferedTalker, *address)
        while len(self.protocols) < 2 or not all(hasattr(p, "transport") for p in self.protocols):
            await asyncio.sleep(0.001)
        self.servers.append(server)
        self.transports += [self.client, buffered, *(p.transport for p in self.protocols)]
        await self.open_others()
        # One with a write request in flight.
        self.protocols[1].transport.pause_reading()
        buffered.write(b"x" * 8_000_000)
        for end in self.pair:
            end.setblocking(False)
        self.handles += [
            loop.call_soon(hostile.RaisingRepr()),
            loop.call_soon(hostile.raising, *range(6)),
            loop.call_soon_threadsafe(hostile.raising, 1),
            loop.call_later(1000, hostile.raising),
            loop.call_at(float("inf"), hostile.raising, *range(6)),
            loop._add_reader(self.pair[0], hostile.raising),
            loop._add_writer(self.pair[1], hostile.raising),
        ]
        loop.stop()

    async def open_others(self) -> None:
        """What is neither a TCP connection nor a handle."""
        loop = self.loop
        endpoint, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        connected, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=endpoint.get_extra_info("sockname")
        )
        ends = [os.fdopen(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)]
        reading, _ = await loop.connect_read_pipe(asyncio.Protocol, ends[0])
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, ends[1])
        self.transports += [endpoint, connected, reading, writing]
        # Streams over a unix socket, and calls that nobody awaits.
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=near)
        far_reader, far_writer = await asyncio.open_connection(sock=far)
        self.transports += [writer.transport, far_writer.transport]
        self.others = [reader, writer, writer.transport.get_protocol(), reader.read(5), far_reader.readline()]
        self.more = socket.socketpair()
        for end in self.more:
            end.setblocking(False)
        self.others += [loop.sock_recv(self.more[0], 5), loop.sock_sendall(self.more[1], b"data")]
        waiting = loop.sock_recv(self.more[1], 5)
        self.task = loop.create_task(waited(waiting))
        self.others.append(waiting)
        if CERTIFICATE:
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.load_cert_chain(*CERTIFICATE)
            client = ssl.create_default_context(cafile=CERTIFICATE[0])
            near, far = socket.socketpair()
            (one, _), (other, _) = await asyncio.gather(
                loop.create_connection(Talker, sock=near, ssl=client, server_hostname="localhost"),
                loop.connect_accepted_socket(Talker, far, ssl=server),
            )
            self.transports += [one, other]
            self.others += [one._ssl_protocol, one.get_extra_info("ssl_object")]

    def everything(self, cls: type) -> list[Any]:
        """The instances of exactly *cls* in this world."""
        mine = [self.loop, *self.servers, *self.transports, *self.handles, *self.others]
        found = [obj for obj in mine if type(obj) is cls]
        for obj in instances(cls):
            if not any(obj is other for other in found):
                found.append(obj)
        return found[:4]

    def close_objects(self) -> None:
        for handle in self.handles:
            with contextlib.suppress(Exception):
                handle.cancel()
        for transport in self.transports:
            with contextlib.suppress(Exception):
                transport.abort()
        for server in self.servers:
            with contextlib.suppress(Exception):
                server.close()
        self.turn()

    def turn(self, count: int = 5) -> None:
        """Let the loop run, whatever the calls have left it in."""
        for _ in range(count):
            with contextlib.suppress(BaseException):
                self.loop.call_soon(lambda: None)
                self.loop.stop()
                self.loop.run_forever()

    def close(self) -> None:
        self.close_objects()
        with contextlib.suppress(BaseException):
            self.task.cancel()
        for end in (*self.pair, *self.more):
            # Its number may be that of a standard stream, which a hostile call has closed.
            with contextlib.suppress(OSError):
                end.close()
        # Attributes may have been replaced by anything.
        for _ in range(2):
            with contextlib.suppress(BaseException):
                self.loop.close()
        with contextlib.suppress(BaseException):
            loopfast.Loop._close_core(self.loop)
        with contextlib.suppress(BaseException):
            asyncio._set_running_loop(None)


# --------------------------------------------------------------------------------------------------------------- calls


class Enumerator:
    def __init__(self, journal: Journal, seed: int, calls: int, only: str) -> None:
        self.journal, self.seed, self.calls, self.only = journal, seed, calls, only
        self.rng = random.Random(seed)
        self.exercised = 0
        # Classes of which living instances were found.
        self.covered: set[str] = set()
        self.in_main_thread = True

    def guarded(self, text: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call *function*; whatever it raises is an answer."""
        self.journal.note(text)
        try:
            if self.in_main_thread:
                signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
            try:
                return function(*args, **kwargs)
            finally:
                if self.in_main_thread:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as exc:
            # The alarm may ring once more on the way out.
            return exc

    def call(self, label: str, function: Any, pool: list[Callable[[], Any]], count: int) -> None:
        blocked = 0
        for args, kwargs in hostile.argument_lists(function, pool, count, self.rng):
            shown = [hostile.shown(arg) for arg in args] + [f"{k}={hostile.shown(v)}" for k, v in kwargs.items()]
            started = time.monotonic()
            result = self.guarded(f"{label}({', '.join(shown)})", function, *args, **kwargs)
            if time.monotonic() - started >= PATIENCE:
                blocked += 1
            if isinstance(result, types.CoroutineType):
                self.drive(label, result)
            if blocked > 1:
                break

    def drive(self, label: str, coro: Any) -> None:
        """Start what a coroutine function returned, and drop it where it waits."""
        try:
            self.journal.note(f"await {label}(...)")
            coro.send(None)
        except BaseException:
            pass
        finally:
            with contextlib.suppress(BaseException):
                coro.close()

    def attributes(self, obj: Any) -> list[str]:
        return [name for name in dir(type(obj)) if name not in NOT_CALLED and self.only in name]

    def methods(self, obj: Any, label: str, pool: list[Callable[[], Any]]) -> None:
        names = self.attributes(obj)
        self.rng.shuffle(names)
        names.sort(key=lambda name: any(word in name for word in ENDING))
        for name in names:
            value = self.guarded(f"{label}.{name}", getattr, obj, name)
            if callable(value) and not isinstance(value, BaseException):
                self.call(f"{label}.{name}", value, pool, self.calls)

    def setting(self, obj: Any, label: str, pool: list[Callable[[], Any]]) -> None:
        """Set and delete every attribute, then use the object again."""
        names = self.attributes(obj)
        self.rng.shuffle(names)
        for name in names:
            for _ in range(2):
                value = self.rng.choice(pool)()
                self.guarded(f"{label}.{name} = {hostile.shown(value)}", setattr, obj, name, value)
            self.guarded(f"del {label}.{name}", delattr, obj, name)

    def protocols(self, obj: Any, label: str) -> None:
        """What the interpreter and the standard library do with any object."""
        for function in (
            repr, str, hash, bool, len, iter, dir, vars, copy.copy, copy.deepcopy, pickle.dumps, weakref.ref,
            weakref.proxy, gc.get_referents, gc.get_referrers, gc.is_tracked, sys.getsizeof, sys.getrefcount,
        ):  # fmt: skip
            self.guarded(f"{function.__name__}({label})", function, obj)
        for version in range(-1, 6):
            self.guarded(f"{label}.__reduce_ex__({version})", lambda version=version: obj.__reduce_ex__(version))
        cls = type(obj)
        for other in (object, int, asyncio.Handle, asyncio.SelectorEventLoop, asyncio.Transport, cls, hostile.Lying):
            self.guarded(f"{label}.__class__ = {other}", setattr, obj, "__class__", other)
            set_class = object.__dict__["__class__"].__set__
            self.guarded(f"object.__class__ of {label} = {other}", set_class, obj, other)
        for other in (obj, None, 1, 1.0, hostile.Raising()):
            for operator in ("__eq__", "__lt__", "__ge__", "__add__", "__contains__", "__getitem__"):
                bound = getattr(obj, operator, None)
                if bound is not None:
                    self.guarded(f"{label}.{operator}({hostile.shown(other)})", bound, other)

    def exercise(self, obj: Any, label: str, pool: list[Callable[[], Any]]) -> None:
        self.protocols(obj, label)
        self.methods(obj, label, pool)
        self.setting(obj, label, pool)
        self.methods(obj, f"{label} with attributes set", pool)
        self.exercised += 1

    # ------------------------------------------------------------------------------------------------- modes

    def pool(self, world: World | None) -> list[Callable[[], Any]]:
        own: list[Any] = []
        for cls in compiled_classes():
            with contextlib.suppress(Exception):
                own.append(cls.__new__(cls))
        if world is not None:
            own += [world.loop, *world.servers, *world.transports, *world.handles, *world.others, *world.pair]
        return hostile.values(*own)

    def mode_bare(self) -> None:
        """Instances that only __new__() has made, and the constructors."""
        pool = self.pool(None)
        for cls in compiled_classes():
            name = f"{cls.__module__}.{cls.__qualname__}"
            self.call(name, cls, pool, self.calls * 2)
            self.call(f"{name}.__new__", lambda *args, cls=cls: cls.__new__(cls, *args), pool, self.calls)
            for _ in range(2):
                obj = self.guarded(f"{name}.__new__({name})", cls.__new__, cls)
                if isinstance(obj, BaseException):
                    continue
                self.exercise(obj, f"<bare {name}>", pool)
                del obj
                gc.collect()
            subclass = self.guarded(f"class X({name})", type, "X", (cls,), {})
            if isinstance(subclass, type):
                obj = self.guarded(f"X({name}).__new__", subclass.__new__, subclass)
                self.exercise(obj, f"<bare subclass of {name}>", pool)

    def mode_functions(self) -> None:
        """The functions of the compiled modules, and methods with a wrong `self`."""
        world = World()
        pool = self.pool(world)
        for label, function in module_functions():
            self.call(label, function, pool, self.calls * 2)
        for cls in compiled_classes():
            for name, value in list(vars(cls).items()):
                if name in NOT_CALLED or self.only not in name:
                    continue
                label = f"{cls.__qualname__}.{name}"
                if callable(value):
                    self.call(label, value, pool, self.calls)
                for own in (None, object(), hostile.Lying()):
                    if hasattr(type(value), "__get__"):
                        self.guarded(f"{label}.__get__", type(value).__get__, value, own, type(own))
                    if hasattr(type(value), "__set__"):
                        self.guarded(f"{label}.__set__", type(value).__set__, value, own, 1)
        world.close()

    def each(self, prepare: Callable[[World], None], run: Callable[[World, Any, str], None]) -> None:
        """A world of its own for every class that has instances in one."""
        for cls in [*compiled_classes(), asyncio.base_events.Server]:
            index = 0
            while True:
                world = World()
                prepare(world)
                found = world.everything(cls)
                if index < len(found):
                    self.exercised = 0
                    run(world, found[index], f"<{cls.__module__}.{cls.__qualname__} {index}>")
                    self.covered.add(f"{cls.__module__}.{cls.__qualname__}")
                    assert self.exercised == 1, f"the calls on {cls} did not come to their end"
                    world.turn()
                count = len(found)
                del found
                world.close()
                del world
                gc.collect()
                index += 1
                if index >= count:
                    break

    def mode_live(self) -> None:
        """Everything open, the loop at rest."""
        self.each(lambda world: None, lambda w, obj, label: self.exercise(obj, f"live {label}", self.pool(w)))

    def mode_closed(self) -> None:
        """Transports, servers and handles closed, the loop open."""
        self.each(World.close_objects, lambda w, obj, label: self.exercise(obj, f"closed {label}", self.pool(w)))

    def mode_loop_closed(self) -> None:
        """The loop closed under them."""
        self.each(
            lambda world: world.loop.close(),
            lambda w, obj, label: self.exercise(obj, f"on a closed loop {label}", self.pool(w)),
        )

    def mode_running(self) -> None:
        """From a callback of the running loop."""

        def run(world: World, obj: Any, label: str) -> None:
            world.loop.call_soon(lambda: self.exercise(obj, f"in a callback {label}", self.pool(world)))
            world.turn()

        self.each(lambda world: None, run)

    def mode_receiving(self) -> None:
        """From inside data_received(), so from inside libuv."""

        def run(world: World, obj: Any, label: str) -> None:
            world.client_protocol.on_data = lambda: self.exercise(obj, f"in data_received() {label}", self.pool(world))
            world.protocols[0].transport.write(b"x")
            for _ in range(50):
                world.turn(1)
                if world.client_protocol.on_data is None:
                    return
            raise AssertionError("data_received() was not called")

        self.each(lambda world: None, run)

    def mode_mixed(self) -> None:
        """All objects of a world in turns, while it runs now and then."""
        for _ in range(self.calls):
            world = World()
            pool = self.pool(world)
            objects = [world.loop, *world.servers, *world.transports * 2, *world.handles, *world.others]
            objects += [obj for obj in gc.get_objects() if type(obj).__name__ in ("Listener", "DescriptorSet")]
            for step in range(300):
                obj = self.rng.choice(objects)
                name = self.rng.choice(self.attributes(obj))
                label = f"mixed <{type(obj).__name__} {objects.index(obj)}>"
                value = self.guarded(f"{label}.{name}", getattr, obj, name)
                if callable(value) and not isinstance(value, BaseException):
                    self.call(f"{label}.{name}", value, pool, 2)
                if step % 10 == 0:
                    world.turn(1)
                    self.guarded("recv", world.pair[0].recv, 100)
            world.close()
            del objects, obj, pool, value, world
            gc.collect()

    def mode_thread(self) -> None:
        """From another thread, while the loop runs and data flows."""

        def run(world: World, obj: Any, label: str) -> None:
            def work() -> None:
                try:
                    self.exercise(obj, f"from a thread {label}", self.pool(world))
                finally:
                    done.append(True)
                    with contextlib.suppress(BaseException):
                        world.loop.call_soon_threadsafe(world.loop.stop)

            done: list[bool] = []
            thread = threading.Thread(target=work)
            thread.start()
            while not done:
                # What the thread does may end the run at any time.
                with contextlib.suppress(BaseException):
                    world.loop.call_later(0.001, world.loop.stop)
                    world.protocols[0].transport.write(b"x")
                    world.loop.run_forever()
                # A loop that a hostile callback keeps busy leaves the thread little of the interpreter.
                time.sleep(0.001)
            thread.join()

        self.in_main_thread = False
        self.each(lambda world: None, run)


def watch(enumerator: Enumerator) -> None:
    """Wake a loop that sleeps in a call, where the alarm cannot (the handler runs once the poll is over)."""
    while True:
        time.sleep(PATIENCE / 2)
        if time.monotonic() - enumerator.journal.since < PATIENCE:
            continue
        for loop in gc.get_objects():
            if issubclass(type(loop), LoopCore):
                with contextlib.suppress(BaseException):
                    LoopCore.stop(loop)
                    LoopCore.call_soon_threadsafe(loop, int)


MODES = [name.removeprefix("mode_").replace("_", "-") for name in vars(Enumerator) if name.startswith("mode_")]


def interrupt(signum: int, frame: Any) -> None:
    raise Interrupted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", type=int, default=10, help="argument lists for each callable")
    parser.add_argument("--only", default="", help="only attributes whose name contains this")
    parser.add_argument("--gc", type=int, default=0, help="gc.set_threshold() of this")
    parser.add_argument("--journal", help="file of at least a page for the call in progress")
    options = parser.parse_args()
    os.dup2(1, REPORT, inheritable=False)
    faulthandler.enable()
    faulthandler.dump_traceback_later(HANG, exit=True)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.unraisablehook = threading.excepthook = lambda args: None
    signal.signal(signal.SIGALRM, interrupt)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import loopfast.uv  # noqa: F401

    enumerator = Enumerator(Journal(options.journal), options.seed, options.calls, options.only)
    threading.Thread(target=watch, args=(enumerator,), daemon=True).start()
    if options.gc:
        gc.set_threshold(options.gc)
    getattr(enumerator, f"mode_{options.mode.replace('-', '_')}")()
    enumerator.journal.note("the end")
    gc.collect()
    os.write(REPORT, json.dumps({"calls": enumerator.journal.calls, "classes": sorted(enumerator.covered)}).encode())


if __name__ == "__main__":
    main()

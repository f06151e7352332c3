"""run_in_executor, the default executor and its shutdown, getaddrinfo and getnameinfo."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
import socket
import threading
import time
import weakref
from functools import partial

import pytest
from support import gc_disabled


async def test_runs_in_another_thread(loop):
    thread = await loop.run_in_executor(None, threading.get_ident)
    assert thread != threading.get_ident()


async def test_arguments_results_and_exceptions(loop):
    assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(None, divmod, 7, 0)


async def test_a_given_executor(loop):
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        thread = await loop.run_in_executor(pool, threading.current_thread)
    assert thread.name.startswith("mine")


async def test_many_at_once(loop):
    numbers = await asyncio.gather(*(loop.run_in_executor(None, lambda n=n: n * n) for n in range(200)))
    assert numbers == [number * number for number in range(200)]


async def test_to_thread_keeps_the_context(loop):
    import contextvars

    variable = contextvars.ContextVar("variable")
    variable.set("seen")
    assert await asyncio.to_thread(variable.get) == "seen"


class ByHand(concurrent.futures.Executor):
    """Hands out futures made by *make*, which the test ends."""

    def __init__(self, make=concurrent.futures.Future):
        self.make = make
        self.futures = []

    def submit(self, function, *args, **kwargs):
        self.futures.append(self.make())
        return self.futures[-1]


class OwnFuture(concurrent.futures.Future):
    """May do anything in its methods: it is asked for what it has."""


@pytest.mark.parametrize("make", [concurrent.futures.Future, OwnFuture])
async def test_futures_of_any_executor(loop, make):
    executor = ByHand(make)
    first, second, third = (loop.run_in_executor(executor, int) for _ in range(3))
    assert [type(future) for future in (first, second, third)] == [asyncio.Future] * 3
    ended, cancelled_there, cancelled_here = executor.futures
    threading.Thread(target=ended.set_result, args=("done",)).start()
    assert await first == "done"
    assert cancelled_there.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert second.cancelled()
    third.cancel()
    await asyncio.sleep(0)
    assert cancelled_here.cancelled()


async def test_work_that_ends_in_the_thread_of_the_loop(loop):
    """Newer versions of asyncio have its result at once."""
    executor = ByHand()
    future, wrapped = loop.run_in_executor(executor, int), asyncio.wrap_future(work := concurrent.futures.Future())
    executor.futures[0].set_result("here")
    work.set_result("here")
    assert future.done() == wrapped.done()
    assert await future == await wrapped == "here"


async def test_a_future_of_the_loop_is_handed_on(loop):
    future = loop.create_future()
    assert loop.run_in_executor(ByHand(lambda: future), int) is future


async def test_what_is_no_future_is_refused(loop):
    with pytest.raises(AssertionError, match="concurrent.futures.Future is expected"):
        loop.run_in_executor(ByHand(lambda: "nothing"), int)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (concurrent.futures.InvalidStateError("x", 1), asyncio.InvalidStateError),
        (concurrent.futures.CancelledError("x", 1), asyncio.CancelledError),
        (KeyError("x", 1), KeyError),
    ],
)
async def test_exceptions_of_the_work(loop, raised, seen):
    executor = ByHand()
    future = loop.run_in_executor(executor, int)
    (work,) = executor.futures
    work.set_exception(raised)
    with pytest.raises(seen) as caught:
        await future
    assert type(caught.value) is seen
    assert caught.value.args == ("x", 1)


async def test_a_future_that_somebody_else_has_set(loop, reports):
    executor = ByHand()
    future = loop.run_in_executor(executor, int)
    future.set_result("first")
    threading.Thread(target=executor.futures[0].set_result, args=("second",)).start()
    while not reports:
        await asyncio.sleep(0)
    assert isinstance(reports.take()["exception"], AssertionError)
    assert await future == "first"


def test_work_that_ends_when_the_loop_is_closed(loop_factory):
    loop = loop_factory()
    executor = ByHand()
    future = loop.run_in_executor(executor, int)
    loop.close()
    executor.futures[0].set_result("too late")
    assert not future.done()


async def test_nothing_of_it_stays(loop):
    """Without the garbage collector: what the work keeps does not refer to the work."""

    class Answer:
        pass

    answer = Answer()
    gone = weakref.ref(answer)
    executor = ByHand()
    with gc_disabled():
        future = loop.run_in_executor(executor, int)
        executor.futures.pop().set_result(answer)
        assert await future is answer
        del future, answer
        await asyncio.sleep(0)
        assert gone() is None


async def test_cancelling_the_future(loop):
    release = threading.Event()
    future = loop.run_in_executor(None, release.wait)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    release.set()


def test_set_default_executor(loop):
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="default")
    loop.set_default_executor(pool)
    assert loop.run_until_complete(loop.run_in_executor(None, threading.current_thread)).name.startswith("default")


@pytest.mark.parametrize("executor", [None, object(), concurrent.futures.Executor()])
def test_the_default_executor_must_be_a_thread_pool(loop, executor):
    with pytest.raises(TypeError, match="executor must be ThreadPoolExecutor instance"):
        loop.set_default_executor(executor)


def test_shutdown_default_executor(loop):
    loop.run_until_complete(loop.run_in_executor(None, int))
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        loop.run_in_executor(None, int)


def test_shutdown_waits_for_running_work(loop):
    done = []

    def work():
        time.sleep(0.02)
        done.append(1)

    async def main():
        loop.run_in_executor(None, work)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    assert done == [1]


@pytest.mark.skipif(
    "timeouts" not in inspect.getsource(asyncio.BaseEventLoop.shutdown_default_executor),
    reason="shutdown_default_executor(timeout=) is new in Python 3.12, and waited without end in its first releases",
)
def test_shutdown_timeout(loop):
    release = threading.Event()

    async def main():
        loop.run_in_executor(None, release.wait)
        await loop.shutdown_default_executor(0.02)

    try:
        with pytest.warns(RuntimeWarning, match="The executor did not finishing joining|did not finish"):
            loop.run_until_complete(main())
    finally:
        release.set()


async def test_a_coroutine_function_is_refused_in_debug_mode(loop):
    loop.set_debug(True)
    with pytest.raises(TypeError, match="[Cc]oroutine"):
        loop.run_in_executor(None, asyncio.sleep)


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("127.0.0.1", {}),
        ("127.0.0.1", {"type": socket.SOCK_STREAM}),
        ("::1", {"family": socket.AF_INET6, "type": socket.SOCK_STREAM}),
        ("localhost", {"type": socket.SOCK_STREAM}),
        (None, {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}),
        (b"127.0.0.1", {"proto": socket.IPPROTO_TCP}),
    ],
)
async def test_getaddrinfo_equals_the_socket_modules(loop, host, options):
    assert await loop.getaddrinfo(host, 80, **options) == socket.getaddrinfo(host, 80, **options)


NUMERIC_HOSTS = ["127.0.0.1", "0.0.0.0", "255.255.255.255", "1.2.3", "0x7f.1", "010.0.0.1", " 1.2.3.4", "::1", "0::01"]
FLAGS = [0, socket.AI_PASSIVE, socket.AI_NUMERICHOST, socket.AI_CANONNAME, socket.AI_ADDRCONFIG]


@pytest.mark.parametrize("host", NUMERIC_HOSTS)
async def test_numeric_hosts(loop, host):
    """Every combination is answered, or refused, as the socket module does, down to the classes of the numbers."""

    async def answer(function):
        try:
            found = function()
            if asyncio.iscoroutine(found):
                found = await found
        except Exception as exc:
            return type(exc), exc.args
        return found, [[type(item) for item in entry] for entry in found]

    ports = (80, True, None, 0, 65535, 65536, 70000, -1)
    kinds = (0, socket.SOCK_STREAM, int(socket.SOCK_STREAM), socket.SOCK_DGRAM, socket.SOCK_RAW, 77)
    options = itertools.product(
        (0, socket.AF_INET, int(socket.AF_INET), socket.AF_INET6, socket.AF_UNIX),
        kinds,
        (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP),
    )
    cases = [(port, family, kind, proto, 0) for family, kind, proto in options for port in ports]
    cases += [(80, 0, kind, 0, flags) for flags in FLAGS for kind in kinds]
    for port, family, kind, proto, flags in cases:
        keywords = {"family": family, "type": kind, "proto": proto, "flags": flags}
        ours = await answer(partial(loop.getaddrinfo, host, port, **keywords))
        assert ours == await answer(partial(socket.getaddrinfo, host, port, **keywords)), (host, port, keywords)


@pytest.mark.loopfast_only("asyncio asks a thread for every address")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "255.255.255.255"])
async def test_a_numeric_host_needs_no_thread(loop, host):
    await loop.getaddrinfo(host, 80)
    assert loop._default_executor is None
    await loop.getnameinfo((host, 80), socket.NI_NUMERICHOST)
    assert loop._default_executor is not None


async def test_getaddrinfo_of_an_invalid_name(loop):
    with pytest.raises(socket.gaierror):
        await loop.getaddrinfo("no.such.host.invalid", 80)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "with\0nul"])
async def test_impossible_names_are_refused_not_cut(loop, host):
    with pytest.raises((OSError, ValueError, UnicodeError)):
        await loop.getaddrinfo(host, 80)


async def test_getnameinfo(loop):
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await loop.getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")

"""Programs that do what no program should: to the descriptors, callbacks, threads and signals that a loop lives from.

Each says the same on both loops, and ends normally.
"""

from __future__ import annotations

import sys

import pytest
from support import run_program

posix = pytest.mark.skipif(sys.platform == "win32", reason="no fork(), no resource limits")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")

QUIET = """
import contextlib, logging
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
sys.unraisablehook = lambda what: None
def attempt(function, *args):
    try:
        return function(*args)
    except BaseException as exc:
        return type(exc).__name__
"""


@posix
@pytest.mark.parametrize("deed", ["close", "abort", "close_abort_close", "stop"])
def test_closing_in_every_callback(loop_kind, deed):
    code = f"""{QUIET}
from support import tcp_pair, until
def do(protocol):
    transport = protocol.transport
    if {deed!r} == "stop":
        asyncio.get_running_loop().stop()
    else:
        for name in {deed!r}.split("_"):
            getattr(transport, name)()
async def one(method):
    loop = asyncio.get_running_loop()
    done, lost = [], loop.create_future()
    class Base:
        def note(self, name):
            if name == method and not done:
                done.append(True)
                do(self)
        def connection_made(self, transport):
            self.transport = transport
            transport.set_write_buffer_limits(high=10)
            self.note("connection_made")
            if "writing" in method:
                transport.write(b"z" * 10_000_000)
        def eof_received(self):
            self.note("eof_received")
            return True
        def pause_writing(self):
            self.note("pause_writing")
        def resume_writing(self):
            self.note("resume_writing")
        def connection_lost(self, exc):
            self.note("connection_lost")
            lost.set_result(None)
    class Plain(Base, asyncio.Protocol):
        def data_received(self, data):
            self.note("data_received")
    class Buffered(Base, asyncio.BufferedProtocol):
        def get_buffer(self, sizehint):
            self.note("get_buffer")
            return bytearray(10)
        def buffer_updated(self, size):
            self.note("buffer_updated")
    mine, peer = tcp_pair()
    mine.setblocking(False)
    peer.setblocking(False)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    transport, _ = await loop.create_connection(Buffered if "buffer" in method else Plain, sock=mine)
    with contextlib.suppress(OSError):
        peer.send(b"hello" * 20)
    if method in ("eof_received", "connection_lost"):
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_WR)
    while not done:
        if method == "connection_lost":
            transport.abort()
        with contextlib.suppress(OSError):
            peer.recv(1 << 20)
        await asyncio.sleep(0.0005)
    transport.abort()
    await lost
    peer.close()
for method in ("connection_made", "data_received", "eof_received", "pause_writing", "resume_writing", "get_buffer",
               "buffer_updated", "connection_lost"):
    loop = new_event_loop()
    # A stop() ends the first run; the second goes on.
    task = loop.create_task(asyncio.wait_for(one(method), 10))
    while not task.done():
        attempt(loop.run_until_complete, task)
    assert task.exception() is None, (method, task.exception())
    loop.close()
    print(method)
"""
    assert len(run_program(loop_kind, code).splitlines()) == 8


@linux
@pytest.mark.parametrize("other", ["/dev/null", "a pipe", "a file"])
def test_another_file_in_the_place_of_each_of_a_loops_descriptors(loop_kind, other):
    """What the loop does then is no matter, but it comes back, can be closed, and the next one works."""
    code = f"""{QUIET}
OTHER = {other!r}
def descriptors():
    return {{int(name) for name in os.listdir("/proc/self/fd")}}
async def use_all(loop):
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        loop.add_reader(one, int)
        loop.remove_reader(one)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(loop.sock_recv(one, 1), 0.001)
        loop.add_signal_handler(signal.SIGUSR1, int)
        await loop.getaddrinfo("localhost", 80)
async def work(loop, victim, file):
    os.dup2(file, victim)
    threading.Timer(0.001, attempt, (loop.call_soon_threadsafe, int)).start()
    await asyncio.sleep(0.005)
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        with contextlib.suppress(OSError, TimeoutError):
            loop.add_reader(one, int)
            two.send(b"x")
            await asyncio.sleep(0)
            loop.remove_reader(one)
            await asyncio.wait_for(loop.sock_recv(one, 10), 0.01)
number = 0
while True:
    before = descriptors()
    loop = new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(use_all(loop))
    own = sorted(descriptors() - before)
    if number == len(own):
        loop.close()
        break
    ends = os.pipe() if OTHER == "a pipe" else [os.open(sys.executable if OTHER == "a file" else OTHER, os.O_RDONLY)]
    attempt(loop.run_until_complete, asyncio.wait_for(work(loop, own[number], ends[0]), 2))
    attempt(loop.close)
    for end in ends:
        os.close(end)
    number += 1
run(asyncio.sleep(0.001))
print("alive", number > 1)
"""
    assert run_program(loop_kind, code) == "alive True\n"


@posix
def test_all_descriptors_closed_under_a_loop(loop_kind):
    code = f"""{QUIET}
from support import Echo
async def main(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await loop.getaddrinfo("localhost", 1)
    loop.add_signal_handler(signal.SIGUSR1, int)
    os.closerange(3, 400)
    writer.write(b"x" * 100)
    threading.Timer(0.01, attempt, (loop.call_soon_threadsafe, int)).start()
    loop.call_later(0.03, loop.stop)
    await asyncio.sleep(5)
def one():
    loop = new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    attempt(loop.run_until_complete, main(loop))
    attempt(loop.run_until_complete, asyncio.sleep(0.001))
    attempt(loop.close)
one()
gc.collect()
run(asyncio.sleep(0.001))
print("alive")
"""
    assert run_program(loop_kind, code) == "alive\n"


@posix
def test_a_descriptor_closed_under_a_transport(loop_kind):
    """Whatever has its number then: nothing crashes or hangs, and the transport ends."""
    code = f"""{QUIET}
from support import Recorder, tcp_pair
async def one(deed, reuse):
    loop = asyncio.get_running_loop()
    mine, peer = tcp_pair()
    mine.setblocking(False)
    transport, protocol = await loop.create_connection(Recorder, sock=mine)
    if deed == "pending":
        transport.write(b"x" * 5_000_000)
    os.close(mine.fileno())
    others = []
    if reuse == "pipe":
        others = [*os.pipe()]
    elif reuse == "file":
        others = [os.open(os.devnull, os.O_RDONLY)]
    elif reuse == "socket":
        pair = socket.socketpair()
        for sock in pair:
            # A blocking one could block whoever writes to the number.
            sock.setblocking(False)
        others = [sock.detach() for sock in pair]
    peer.send(b"data")
    if deed == "write":
        transport.write(b"abc")
    elif deed == "eof":
        attempt(transport.write_eof)
    elif deed == "resume":
        transport.pause_reading()
        attempt(transport.resume_reading)
    for _ in range(5):
        await asyncio.sleep(0.0005)
    attempt(transport.close)
    await asyncio.sleep(0.001)
    attempt(transport.abort)
    await asyncio.sleep(0.001)
    peer.close()
    for number in others:
        attempt(os.close, number)
    return transport.is_closing()
for deed in ("idle", "pending", "write", "eof", "resume"):
    for reuse in (None, "pipe", "file", "socket"):
        loop = new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        assert loop.run_until_complete(asyncio.wait_for(one(deed, reuse), 5)), (deed, reuse)
        attempt(loop.close)
run(asyncio.sleep(0.001))
print("alive")
"""
    assert run_program(loop_kind, code) == "alive\n"


@pytest.mark.parametrize(
    "place", ["ran", "cancelled", "closed", "timer", "reader", "reader closed", "future", "raised", "protocol"]
)
def test_an_object_that_calls_the_loop_as_it_goes(loop_kind, place):
    code = f"""{QUIET}
from support import tcp_pair
PLACE = {place!r}
count = 0
class Last:
    def __call__(self, *args):
        if PLACE == "raised":
            raise ValueError
    def __del__(self):
        global count
        for function, *args in (
            (loop.call_soon, int), (loop.call_later, 0.001, int), (loop.call_at, 0, int),
            (loop.call_soon_threadsafe, int), (loop.create_future,), (loop.add_reader, one, int),
            (loop.remove_reader, one), (loop.time,), (loop.is_closed,), (gc.collect,),
        ):
            attempt(function, *args)
            count += 1
        if "closed" in PLACE:
            attempt(loop.close)
loop = new_event_loop()
one, other = socket.socketpair()
last = Last()
if PLACE in ("ran", "closed", "raised"):
    loop.call_soon(last)
elif PLACE == "cancelled":
    loop.call_soon(last).cancel()
elif PLACE == "timer":
    loop.call_later(100, last).cancel()
elif PLACE.startswith("reader"):
    loop.add_reader(one, last)
elif PLACE == "future":
    future = loop.create_future()
    future.add_done_callback(last)
    future.cancel()
    del future
else:
    mine, peer = tcp_pair()
    mine.setblocking(False)
    class Protocol(asyncio.Protocol):
        pass
    protocol = Protocol()
    protocol.last = last
    loop.run_until_complete(loop.create_connection(lambda: protocol, sock=mine))[0].abort()
    del protocol
del last
if PLACE == "reader":
    loop.remove_reader(one)
if "closed" not in PLACE:
    loop.call_later(0.005, loop.stop)
    loop.run_forever()
attempt(loop.close)
one.close()
other.close()
gc.collect()
print(loop.is_closed(), count)
"""
    assert run_program(loop_kind, code) == "True 10\n"


@pytest.mark.loopfast_only("asyncio's own loop may stall when its code is interrupted in the middle")
@pytest.mark.parametrize("setter", ["settrace", "setprofile"])
def test_a_trace_function_that_raises(loop_kind, setter):
    code = f"""{QUIET}
import random
from support import Echo
for seed in range(20):
    chooser = random.Random(seed)
    def trace(frame, event, argument):
        if chooser.random() < 0.01:
            raise ValueError
        return trace
    loop = new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        sys.{setter}(trace)
        for _ in range(5):
            writer.write(b"x" * 10)
            await asyncio.wait_for(reader.readexactly(10), 0.05)
        writer.close()
        server.close()
    attempt(loop.run_until_complete, asyncio.wait_for(main(), 1))
    sys.{setter}(None)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    for _ in range(2):
        attempt(loop.run_until_complete, asyncio.sleep(0.001))
    loop.close()
gc.collect()
print("alive")
"""
    assert run_program(loop_kind, code) == "alive\n"


@posix
@pytest.mark.parametrize("child", ["exits", "closes and runs", "collects"])
def test_forking_in_every_callback(loop_kind, child):
    code = f"""{QUIET}
from support import transport_and_peer, until
pids = []
def fork():
    pid = os.fork()
    if pid:
        pids.append(pid)
        return
    try:
        if {child!r} == "closes and runs":
            asyncio._set_running_loop(None)
            own = new_event_loop()
            own.run_until_complete(asyncio.sleep(0.001))
            own.close()
        elif {child!r} == "collects":
            gc.collect()
        os._exit(7)
    finally:
        os._exit(9)
async def main():
    loop = asyncio.get_running_loop()
    class Forking(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            fork()
        def data_received(self, data):
            fork()
            self.transport.write(data)
        def eof_received(self):
            fork()
        def connection_lost(self, exc):
            fork()
    async with transport_and_peer(Forking) as (_, _, peer):
        peer.setblocking(False)
        peer.send(b"hello")
        assert await loop.sock_recv(peer, 10) == b"hello"
        loop.call_soon(fork)
        loop.call_later(0.001, fork)
        loop.call_soon_threadsafe(fork)
        loop.add_signal_handler(signal.SIGUSR1, fork)
        os.kill(os.getpid(), signal.SIGUSR1)
        await loop.run_in_executor(None, fork)
        await until(lambda: len(pids) == 7)
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: len(pids) == 9)
    print({{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}})
run(main())
"""
    assert run_program(loop_kind, code) == "{7}\n"


@posix
def test_a_forked_child_goes_on_with_the_running_loop(loop_kind):
    code = f"""{QUIET}
async def main():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.001)
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            # Python forgets it in a child.
            asyncio._set_running_loop(loop)
            await asyncio.sleep(0.001)
            assert await loop.run_in_executor(None, sum, [2, 3]) == 5
            one, other = socket.socketpair()
            one.setblocking(False)
            other.send(b"k")
            assert await loop.sock_recv(one, 1) == b"k"
            os.write(sink, b"fine")
        finally:
            os._exit(0)
    os.close(sink)
    print(await loop.run_in_executor(None, os.read, source, 10))
    os.waitpid(pid, 0)
run(main())
"""
    assert run_program(loop_kind, code) == "b'fine'\n"


@posix
@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        ("loop.close()", "RuntimeError"),
        ("loop.run_forever()", "RuntimeError"),
        ("raise KeyError", "KeyError"),
        ("sys.exit()", "SystemExit"),
        ("loop.stop()", "None"),
    ],
)
def test_a_signal_handler_of_python_that_misuses_the_loop(loop_kind, deed, expected):
    """It is called where the loop waits; what it raises ends the run, and the loop can run again."""
    code = f"""{QUIET}
from support import kill_when_asleep
loop = new_event_loop()
def handler(number, frame):
    {deed}
signal.signal(signal.SIGUSR2, handler)
kill_when_asleep(loop, signal.SIGUSR2)
# stop() wakes nobody.
loop.call_later(0.2, loop.stop)
print(attempt(loop.run_forever))
print(attempt(loop.run_until_complete, asyncio.sleep(0.001, "again")))
loop.close()
"""
    assert run_program(loop_kind, code).split() == [expected, "again"]


@pytest.mark.loopfast_only("asyncio's loop is not safe against this")
def test_threads_that_call_everything(loop_kind):
    code = f"""{QUIET}
import random
from support import Echo, Recorder, transport_and_peer
sys.setswitchinterval(1e-6)
threading.excepthook = lambda what: None
# Without the GIL each is a whole one, and stops all threads.
def collect():
    if random.random() < 0.01:
        gc.collect(0)
async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    async with transport_and_peer(Recorder) as (transport, _, peer):
        peer.setblocking(False)
        endpoint, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        one, other = socket.socketpair()
        one.setblocking(False)
        timer = loop.call_later(50, int)
        calls = [
            (transport.write, b"x" * 100), (transport.writelines, [b"a", b"b"]), (transport.pause_reading,),
            (transport.resume_reading,), (repr, transport), (transport.get_extra_info, "socket"),
            (transport.get_write_buffer_size,), (transport.set_write_buffer_limits, 10),
            (endpoint.sendto, b"x", ("127.0.0.1", 9)), (loop.call_soon, int), (loop.call_later, 0.0001, int),
            (timer.cancel,), (repr, loop), (loop.statistics,), (loop.add_reader, one, int), (loop.remove_reader, one),
            (loop.create_future,), (loop.call_soon_threadsafe, int), (loop.time,), (collect,),
            (lambda: loop.sock_recv(one, 1).close(),), (lambda: loop.call_at(0, int).cancel(),),
            (lambda: loop.set_debug(random.random() < 0.5),), (lambda: server.sockets,),
        ]
        over = threading.Event()
        def work(seed):
            chooser = random.Random(seed)
            while not over.is_set():
                attempt(*chooser.choice(calls))
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            with contextlib.suppress(OSError):
                peer.recv(1 << 16)
                peer.send(b"y" * 100)
            await asyncio.sleep(0.001)
        over.set()
        for thread in threads:
            thread.join()
        loop.set_debug(False)
        endpoint.abort()
        server.close()
        one.close()
        other.close()
run(main())
print("alive")
"""
    assert run_program(loop_kind, code) == "alive\n"


def test_every_call_near_the_limit_of_recursion(loop_kind):
    code = f"""{QUIET}
from support import Recorder, transport_and_peer
def deep(depth, function):
    return deep(depth - 1, function) if depth else function()
async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    seen = set()
    async with transport_and_peer(Recorder) as (transport, _, peer):
        calls = [
            lambda: transport.write(b"x"), lambda: transport.writelines([b"x"]), lambda: loop.call_soon(int),
            lambda: loop.call_later(1, int).cancel(), lambda: loop.create_task(asyncio.sleep(0)),
            lambda: loop.call_exception_handler({{"message": "x"}}), lambda: repr(transport),
            lambda: transport.pause_reading() or transport.resume_reading(), lambda: loop.add_reader(peer, int),
            lambda: loop.remove_reader(peer), lambda: loop.call_soon_threadsafe(int),
        ]
        for depth in range(100, sys.getrecursionlimit()):
            for call in calls:
                seen.add(attempt(deep, depth, call) == "RecursionError")
        await asyncio.sleep(0.001)
        loop.remove_reader(peer)
    print(seen)
sys.setrecursionlimit(220)
run(main())
"""
    assert run_program(loop_kind, code) == "{False, True}\n"

"""A loop in a process that is short of something, forks, ends, or whose callbacks raise what they can."""

from __future__ import annotations

import sys

import pytest
from support import run_program

posix = pytest.mark.skipif(sys.platform == "win32", reason="no fork(), no resource limits")

ECHO = """
from support import Echo
async def echo_once(size=1000):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x" * size)
    assert await reader.readexactly(size) == b"x" * size
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
"""


# ---------------------------------------------------------------------------------------------------------- descriptors


@posix
def test_standard_descriptors_closed_at_the_start(loop_kind):
    """0, 1 and 2 are then numbers like any other, also of the loop's own descriptors."""
    code = f"""{ECHO}
out = os.dup(1)
for number in range(3):
    os.close(number)
import subprocess
async def main():
    await echo_once()
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    ready = loop.create_future()
    loop.add_reader(one, lambda: ready.done() or ready.set_result(None))
    other.send(b"x")
    await ready
    loop.remove_reader(one)
    loop.add_signal_handler(signal.SIGUSR1, lambda: os.write(out, b"signal "))
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.01)
run(main())
run(main())
os.write(out, b"done")
"""
    assert run_program(loop_kind, code) == "signal signal done"


EXHAUSTED = """
import resource, subprocess, contextlib
resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = []
def exhaust():
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
def release(count=None):
    for fd in held[:count]:
        os.close(fd)
    del held[:count]
def count():
    return len(os.listdir("/dev/fd"))
"""


@posix
@pytest.mark.loopfast_only("asyncio's loop complains when it is dropped half made")
def test_no_descriptor_left_for_a_loop(loop_kind):
    """However many are free, short of what a loop needs: OSError, and nothing is kept."""
    code = f"""{ECHO}{EXHAUSTED}
run(echo_once())
failed = 0
for spare in range(12):
    exhaust()
    release(spare)
    loop = None
    try:
        loop = new_event_loop()
        loop.call_soon(loop.stop)
        loop.run_forever()
        one, other = socket.socketpair()
        loop.add_reader(one, int)
    except OSError:
        failed += 1
    if loop is not None:
        loop.close()
    with contextlib.suppress(NameError):
        one.close(); other.close()
        del one, other
    del loop
    gc.collect()
    free = len(held) + spare
    release()
    exhaust()
    assert len(held) == free, (spare, len(held), free)
    release()
run(echo_once())
print(failed > 0)
"""
    assert run_program(loop_kind, code) == "True\n"


@posix
@pytest.mark.parametrize(
    "call",
    [
        "loop.create_server(asyncio.Protocol, '127.0.0.1', 0)",
        "loop.create_connection(asyncio.Protocol, *address)",
        "loop.create_datagram_endpoint(asyncio.DatagramProtocol, ('127.0.0.1', 0))",
        "asyncio.create_subprocess_exec(sys.executable, '-c', '', stdin=-1, stdout=-1)",
    ],
)
def test_no_descriptor_left_for_a_call(loop_kind, call):
    code = f"""{ECHO}{EXHAUSTED}
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.sleep(0)
    exhaust()
    try:
        result = await {call}
    except OSError:
        print("OSError")
    else:
        # asyncio of 3.11 and 3.12 takes any error of socket() for a family that does not exist here.
        print("OSError" if getattr(result, "sockets", None) == () else result)
    release()
    await echo_once()
    server.close()
run(main())
"""
    assert run_program(loop_kind, code) == "OSError\n"


@posix
@pytest.mark.loopfast_only("asyncio reports once for every connection of the backlog, and spins")
def test_no_descriptor_left_to_accept(loop_kind):
    """The server rests for a while instead of spinning; who is connected is served; accepting resumes by itself."""
    code = f"""{ECHO}{EXHAUSTED}
from asyncio import constants
constants.ACCEPT_RETRY_DELAY = 0.1
async def main():
    loop = asyncio.get_running_loop()
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context["exception"].errno))
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    old_reader, old_writer = await asyncio.open_connection(*address)
    old_writer.write(b"1")
    assert await old_reader.readexactly(1) == b"1"
    waiting = [socket.socket() for _ in range(5)]
    exhaust()
    for sock in waiting:
        sock.connect(address)
        sock.send(b"hello")
    used = time.process_time()
    started = loop.time()
    while loop.time() < started + 0.45:
        old_writer.write(b"2")
        assert await old_reader.readexactly(1) == b"2"
        await asyncio.sleep(0.02)
    used = time.process_time() - used
    import errno
    assert set(reports) == {{errno.EMFILE}} and 2 <= len(reports) <= 6, reports
    assert used < 0.2, used
    release()
    for sock in waiting:
        sock.setblocking(False)
        assert await asyncio.wait_for(loop.sock_recv(sock, 5), 5) == b"hello"
        sock.close()
    old_writer.close()
    server.close()
    print("served")
run(main())
"""
    assert run_program(loop_kind, code) == "served\n"


# ----------------------------------------------------------------------------------------------------------------- fork

FORK = """
warnings.simplefilter("ignore", DeprecationWarning)
async def open_all(loop):
    global server, reader, writer, one, other, readable
    from support import Echo
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    one, other = socket.socketpair()
    readable = asyncio.Event()
    loop.add_reader(one, lambda: (one.recv(1), readable.set()))
    loop.add_signal_handler(signal.SIGUSR1, signals.append, 1)
    await use_all(loop)
async def use_all(loop):
    writer.write(b"x" * 100)
    assert await asyncio.wait_for(reader.readexactly(100), 5) == b"x" * 100
    readable.clear()
    other.send(b"x")
    await asyncio.wait_for(readable.wait(), 5)
    before = len(signals)
    os.kill(os.getpid(), signal.SIGUSR1)
    while len(signals) == before:
        await asyncio.sleep(0.001)
    reader2, writer2 = await asyncio.wait_for(asyncio.open_connection(*server.sockets[0].getsockname()), 5)
    writer2.write(b"y")
    assert await asyncio.wait_for(reader2.readexactly(1), 5) == b"y"
    writer2.close()
signals = []
def wait_for_child(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print("child", status, flush=True)
"""


@posix
@pytest.mark.loopfast_only("asyncio takes the parent's descriptors out of the shared epoll set")
@pytest.mark.parametrize("child", ["loop.close()", "del loop", "pass", "drop_transports()", "use_it()"])
def test_a_forked_child_leaves_the_loop_of_its_parent_alone(loop_kind, child):
    """The loop is at rest. The child closes or drops what it inherited, runs a loop of its own and ends normally."""
    code = f"""{ECHO}{FORK}
def drop_transports():
    global writer, reader
    writer.transport.abort()
    loop.remove_reader(one)
    loop.remove_signal_handler(signal.SIGUSR1)
    writer = reader = None
    gc.collect()
def use_it():
    # Its own part of what both have: no data that the parent waits for.
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.run_until_complete(echo_once())
    loop.close()
loop = new_event_loop()
loop.run_until_complete(open_all(loop))
# Something that the kernel has not been told yet.
a, b = socket.socketpair()
a.setblocking(False)
waiting, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=a))
waiting.write(b"x" * 5_000_000)
assert waiting.get_write_buffer_size()
pid = os.fork()
if pid == 0:
    warnings.simplefilter("ignore")
    {child}
    gc.collect()
    run(echo_once())
    sys.exit(3)
wait_for_child(pid)
loop.run_until_complete(use_all(loop))
waiting.abort()
writer.close()
server.close()
loop.remove_reader(one)
loop.close()
print("parent done")
"""
    assert run_program(loop_kind, code).splitlines() == ["child 3", "parent done"]


@posix
def test_fork_from_a_callback(loop_kind):
    code = f"""{ECHO}{FORK}
async def main():
    loop = asyncio.get_running_loop()
    await open_all(loop)
    pid = os.fork()
    if pid == 0:
        try:
            asyncio._set_running_loop(None)
            asyncio.run(echo_once(), loop_factory=new_event_loop) if sys.version_info >= (3, 12) else run(echo_once())
            os._exit(3)
        finally:
            os._exit(4)
    await loop.run_in_executor(None, wait_for_child, pid)
    await use_all(loop)
    writer.close()
    server.close()
    loop.remove_reader(one)
run(main())
print("parent done")
"""
    assert run_program(loop_kind, code).splitlines() == ["child 3", "parent done"]


# ------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("place", ["main", "daemon"])
@pytest.mark.parametrize("state", ["idle", "timers", "traffic", "callbacks"])
def test_live_loops_at_interpreter_exit(loop_kind, place, state):
    code = f"""
from support import Echo
warnings.simplefilter("ignore")
STATE = {state!r}
started = threading.Event()
async def main():
    loop = asyncio.get_running_loop()
    if STATE == "timers":
        def tick():
            loop.call_later(0.0001, tick)
        tick()
    elif STATE == "callbacks":
        def tick():
            loop.call_soon(tick)
        tick()
    elif STATE == "traffic":
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        class PingPong(Echo):
            def connection_made(self, transport):
                self.transport = transport
                transport.write(b"x" * 10_000)
        transport, _ = await loop.create_connection(PingPong, *server.sockets[0].getsockname())
        loop.keep = server, transport
    loop.call_later(0.05, started.set)
def work():
    global loop
    loop = new_event_loop()
    if STATE != "idle":
        loop.run_until_complete(main())
    else:
        loop.call_soon(started.set)
    loop.run_forever()
if {place!r} == "daemon":
    threading.Thread(target=work, daemon=True).start()
    started.wait()
else:
    loop = new_event_loop()
    loop.run_until_complete(main())
    print(loop)
"""
    run_program(loop_kind, code)


# ------------------------------------------------------------------------------------------------- what callbacks raise


@pytest.mark.parametrize("handler", ["raising", "interrupting", "exiting", "odd"])
def test_exception_handler_that_raises(loop_kind, handler):
    """What raises SystemExit or KeyboardInterrupt ends the run, anything else goes to the log; the loop runs again."""
    code = f"""
import logging
logging.disable(logging.CRITICAL)
class Odd(BaseException):
    pass
failure = dict(raising=ValueError, interrupting=KeyboardInterrupt, exiting=SystemExit, odd=Odd)[{handler!r}]
def handler(loop, context):
    raise failure("from the handler")
def bad():
    raise ZeroDivisionError
loop = new_event_loop()
loop.set_exception_handler(handler)
for _ in range(2):
    loop.call_soon(bad)
    loop.call_soon(print, "next")
    loop.call_later(0.01, loop.stop)
    try:
        loop.run_forever()
    except BaseException as exc:
        print(type(exc).__name__)
        loop.run_forever()
loop.close()
"""
    ends = {"interrupting": "KeyboardInterrupt\n", "exiting": "SystemExit\n"}.get(handler, "")
    assert run_program(loop_kind, code) == (ends + "next\n") * 2


METHODS = (
    "factory",
    "connection_made",
    "data_received",
    "eof_received",
    "connection_lost",
    "pause_writing",
    "resume_writing",
    "get_buffer",
    "buffer_updated",
)


FAILURES = ("ValueError", "Odd", "SystemExit", "KeyboardInterrupt", "RecursionError", "asyncio.CancelledError")


@pytest.mark.parametrize("method", METHODS)
def test_protocol_method_that_raises(loop_kind, method):
    """The run ends for SystemExit and KeyboardInterrupt only, and the loop works afterwards in any case."""
    code = f"""{ECHO}
class Odd(BaseException):
    pass
METHOD = {method!r}
raised = []
def fail(name):
    if name == METHOD and not raised:
        raised.append(1)
        raise FAILURE("from " + name)
class Base:
    def __init__(self):
        fail("factory")
    def connection_made(self, transport):
        transport.set_write_buffer_limits(high=10)
        self.transport = transport
        fail("connection_made")
        if METHOD in ("pause_writing", "resume_writing"):
            transport.write(b"x" * 8_000_000)
    def eof_received(self):
        fail("eof_received")
    def connection_lost(self, exc):
        fail("connection_lost")
    def pause_writing(self):
        fail("pause_writing")
    def resume_writing(self):
        fail("resume_writing")
class Plain(Base, asyncio.Protocol):
    def data_received(self, data):
        fail("data_received")
class Buffered(Base, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        fail("get_buffer")
        return bytearray(100)
    def buffer_updated(self, nbytes):
        fail("buffer_updated")
async def main(loop):
    server = await loop.create_server(Buffered if "buffer" in METHOD else Plain, "127.0.0.1", 0)
    loop.server = server
    client = socket.create_connection(server.sockets[0].getsockname())
    client.send(b"hello")
    client.setblocking(False)
    deadline = loop.time() + 5
    while not raised and loop.time() < deadline:
        await asyncio.sleep(0.001)
        try:
            if not client.recv(1_000_000):
                break
        except BlockingIOError:
            pass
        except ConnectionResetError:
            break
        if METHOD in ("eof_received", "connection_lost"):
            client.shutdown(socket.SHUT_WR)
    for _ in range(5):
        await asyncio.sleep(0)
    client.close()
warnings.simplefilter("ignore")
for FAILURE in ({", ".join(FAILURES)}):
    raised.clear()
    loop = new_event_loop()
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(type(context.get("exception"))))
    try:
        loop.run_until_complete(main(loop))
        ended = "normally"
    except (SystemExit, KeyboardInterrupt) as exc:
        ended = type(exc).__name__
    assert raised
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.server.close()
    loop.run_until_complete(echo_once())
    loop.close()
    # Of what happens while a connection is made, asyncio tells in debug mode only.
    if ended == "normally" and METHOD != "factory":
        assert reports[:1] == [FAILURE], reports
    print(FAILURE.__name__, ended)
"""
    ends = {"SystemExit": "SystemExit", "KeyboardInterrupt": "KeyboardInterrupt"}
    expected = [f"{name.rpartition('.')[2]} {ends.get(name, 'normally')}" for name in FAILURES]
    assert run_program(loop_kind, code).splitlines() == expected


@posix
@pytest.mark.parametrize("load", ["idle", "busy", "traffic"])
@pytest.mark.parametrize("runner", ["run", "run_forever"])
def test_keyboard_interrupt(loop_kind, load, runner):
    """Within a second, and the loop can run again."""
    code = f"""{ECHO}
import _thread
LOAD = {load!r}
def interrupt():
    time.sleep(0.1)
    global sent
    sent = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
async def main():
    loop = asyncio.get_running_loop()
    threading.Thread(target=interrupt).start()
    if LOAD == "busy":
        def tick():
            loop.call_soon(tick)
        tick()
    elif LOAD == "traffic":
        class PingPong(Echo):
            def connection_made(self, transport):
                self.transport = transport
                transport.write(b"x" * 10_000)
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        loop.keep = server, (await loop.create_connection(PingPong, *server.sockets[0].getsockname()))
    await asyncio.sleep(30)
if {runner!r} == "run":
    try:
        run(main())
    except KeyboardInterrupt:
        print(time.monotonic() - sent < 1)
    run(echo_once())
else:
    loop = new_event_loop()
    task = loop.create_task(main())
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        print(time.monotonic() - sent < 1)
    loop.run_until_complete(echo_once())
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    warnings.simplefilter("ignore")
    loop.close()
    del loop
    gc.collect()
"""
    assert run_program(loop_kind, code) == "True\n"


@pytest.mark.loopfast_only(
    "CPython 3.12 crashes at its end after asyncio in a subinterpreter", sys.version_info < (3, 13)
)
def test_subinterpreter(loop_kind):
    """Beside the main interpreter, which came first, the import works or is refused with ImportError."""
    code = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = '''
import sys
sys.path[:] = PATHS
try:
    if KIND == "loopfast":
        import loopfast
        new_event_loop = loopfast.new_event_loop
    else:
        import asyncio
        new_event_loop = asyncio.SelectorEventLoop
except ImportError:
    pass
else:
    import asyncio
    loop = new_event_loop()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
'''.replace("PATHS", repr(sys.path)).replace("KIND", repr(KIND))
run(asyncio.sleep(0))
for order in range(2):
    one = interpreters.create()
    failure = (getattr(interpreters, "exec", None) or interpreters.run_string)(one, code)
    assert failure is None, failure
    interpreters.destroy(one)
    run(asyncio.sleep(0))
print("alive")
"""
    assert run_program(loop_kind, f"KIND = {loop_kind!r}{code}") == "alive\n"

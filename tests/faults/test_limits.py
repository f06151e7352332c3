"""What a loop does at the limits of its process: no descriptor, no thread, little stack, a path it cannot write to."""

from __future__ import annotations

import sys

import pytest
from faults import Faults
from support import run_program

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, and the shim, are Linux's")

EXHAUST = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (120, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = []
def exhaust():
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
def release():
    while held:
        os.close(held.pop())
def count():
    return len(os.listdir("/proc/self/fd"))
"""


@pytest.mark.loopfast_only("asyncio's loop complains when it is dropped half made")
def test_no_descriptor_left_for_the_first_loop_of_a_process(loop_kind):
    """libuv opens a pipe for all loops, and once aborted where it could not."""
    code = f"""{EXHAUST}
import loopfast
failed = 0
for spare in range(8):
    exhaust()
    for _ in range(spare):
        os.close(held.pop())
    try:
        loop = new_event_loop()
    except OSError:
        failed += 1
    else:
        loop.close()
    release()
run(asyncio.sleep(0.001))
print(failed > 0)
"""
    assert run_program(loop_kind, code, "-W", "ignore") == "True\n"


@pytest.mark.parametrize(
    "call",
    [
        "loop.create_unix_server(asyncio.Protocol, path + '-2')",
        "loop.create_unix_connection(asyncio.Protocol, path)",
        "loop.create_datagram_endpoint(asyncio.DatagramProtocol, family=socket.AF_INET)",
        "loop.sock_accept(listener)",
        "asyncio.create_subprocess_shell('exit', stdin=-1, stdout=-1)",
    ],
)
def test_no_descriptor_left_for_a_call(loop_kind, call, tmp_path):
    """OSError, nothing is kept, and the same call works once descriptors have come back."""
    code = f"""{EXHAUST}
import logging
from asyncio import constants
if {loop_kind!r} == "asyncio":
    # Up to 3.12 it may lose a child that it has no descriptor for, and says so.
    logging.disable(logging.WARNING)
constants.ACCEPT_RETRY_DELAY = 0.01
path = {str(tmp_path / "socket")!r}
from support import Echo
async def main():
    loop = asyncio.get_running_loop()
    # The server tells that it cannot accept.
    loop.set_exception_handler(lambda loop, context: None)
    server = await loop.create_unix_server(Echo, path)
    transport, _ = await loop.create_unix_connection(asyncio.Protocol, path)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    client = socket.create_connection(listener.getsockname())
    file = open(sys.executable, "rb")
    await asyncio.sleep(0.01)
    before = count()
    exhaust()
    try:
        result = await {call}
    except OSError as exc:
        print("OSError")
    else:
        print(result)
    release()
    gc.collect()
    assert count() == before, (count(), before)
    made = await {call}
    # Nothing that is left may complain.
    for thing in made if isinstance(made, tuple) else [made]:
        for end in ("close", "kill"):
            try:
                getattr(thing, end)()
                break
            except (AttributeError, ProcessLookupError):
                pass
    if hasattr(made, "wait"):
        await made.wait()
    transport.abort()
    listener.close()
    client.close()
    file.close()
    # Whoever waited to be accepted was before this one.
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()
    server.close()
    await server.wait_closed()
    for _ in range(5):
        await asyncio.sleep(0)
run(main())
"""
    assert run_program(loop_kind, code, "-W", "ignore") == "OSError\n"


@pytest.mark.parametrize("place", ["main thread", "thread"])
def test_what_needs_no_descriptor(loop_kind, place, tmp_path):
    """sendfile() of more than the kernel takes at once, and the watching of descriptors, work with none left."""
    code = f"""{EXHAUST}
path = {str(tmp_path / "file")!r}
data = bytes(range(256)) * 20_000
with open(path, "wb") as file:
    file.write(data)
from support import tcp_pair
async def main():
    loop = asyncio.get_running_loop()
    mine, peer = tcp_pair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=mine)
    with open(path, "rb") as file:
        exhaust()
        readable = asyncio.Event()
        loop.add_reader(peer, readable.set)
        sending = asyncio.create_task(loop.sendfile(transport, file))
        got = b""
        while len(got) < len(data):
            await readable.wait()
            readable.clear()
            got += peer.recv(1 << 16)
        print(await sending == len(data), got == data)
        loop.remove_reader(peer)
        release()
    transport.abort()
    peer.close()
    for _ in range(5):
        await asyncio.sleep(0)
if {place!r} == "thread":
    thread = threading.Thread(target=run, args=[main()])
    thread.start()
    thread.join()
else:
    run(main())
"""
    assert run_program(loop_kind, code) == "True True\n"


def test_a_small_stack(loop_kind, certificate_files):
    """A loop in a thread with one MiB of stack, with TLS and a long chain of callbacks."""
    code = f"""
import ssl
from support import Echo
folder = {str(certificate_files)!r}
async def main():
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder + "/cert.pem", folder + "/key.pem")
    client = ssl.create_default_context(cafile=folder + "/cert.pem")
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=context)
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=client, server_hostname="localhost")
    data = bytes(range(256)) * 20_000
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    writer.close()
    server.close()
    future = loop.create_future()
    for _ in range(5000):
        future, inner = loop.create_future(), future
        inner.add_done_callback(lambda done, future=future: future.set_result(None))
        first = inner if _ == 0 else first
    first.set_result(None)
    await future
    print("done")
threading.stack_size(1 << 20)
thread = threading.Thread(target=lambda: run(main()))
thread.start()
thread.join()
"""
    assert run_program(loop_kind, code) == "done\n"


def test_a_path_that_cannot_be_written(loop_kind):
    """The file system of the kernel's own settings takes no sockets, whoever asks."""
    code = """
async def main():
    loop = asyncio.get_running_loop()
    before = len(os.listdir("/proc/self/fd"))
    for path in ("/sys/socket", "/proc/socket", "/proc/none/socket", "/sys/" + "x" * 200):
        try:
            await loop.create_unix_server(asyncio.Protocol, path)
        except OSError:
            print("OSError")
    assert len(os.listdir("/proc/self/fd")) == before
run(main())
"""
    assert run_program(loop_kind, code) == "OSError\n" * 4


@pytest.mark.loopfast_only("asyncio only logs that nobody was woken")
def test_the_wake_up_descriptor_is_closed_by_somebody(loop_kind):
    """call_soon_threadsafe() says that it could not wake the loop; libuv aborts."""
    code = """
async def main():
    loop = asyncio.get_running_loop()
    wakes = []
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is closed by now.
        if os.path.lexists("/proc/self/fd/" + name) and "eventfd" in os.readlink("/proc/self/fd/" + name):
            wakes.append(int(name))
    assert len(wakes) == 1, wakes
    os.close(wakes[0])
    came = []
    def work():
        try:
            while True:
                loop.call_soon_threadsafe(came.append, 1)
        except OSError as exc:
            print(exc.strerror)
    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.01)
    assert came
    # So that what the loop closes at its end is its own.
    assert os.dup2(0, wakes[0]) == wakes[0]
run(main())
"""
    assert run_program(loop_kind, code) == "Bad file descriptor\n"


SHIM = """
import calls
from program import Shim
shim = Shim()
def arm(call, error, times=1):
    shim.find_code()
    shim.arm(call, 1, times, calls.number(error), True)
"""


def test_no_memory_for_a_datagram(loop_kind, faults: Faults):
    """An OSError for error_received(), as on asyncio, after which the endpoint goes on."""
    code = f"""{SHIM}
from support import DatagramRecorder
async def main():
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(DatagramRecorder, ("127.0.0.1", 0))
    address = transport.get_extra_info("sockname")
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for name in ("recvmmsg", "recvmsg", "recvfrom"):
        shim.library.faults_disarm()
        before = len(protocol.errors)
        arm(name, "ENOMEM") if {loop_kind!r} == "loopfast" else shim.arm(name, 1, 1, calls.number("ENOMEM"))
        sender.sendto(b"first", address)
        await protocol.received(len(protocol.datagrams) + 1)
    shim.library.faults_disarm()
    print(*{{repr(exc) for exc in protocol.errors}})
    transport.abort()
    sender.close()
    await asyncio.sleep(0)
run(main())
"""
    out = run_program(loop_kind, code, LD_PRELOAD=faults.preloaded)
    assert out == "OSError(12, 'Cannot allocate memory')\n"


@pytest.mark.loopfast_only("libuv's thread pool")
def test_no_thread_for_the_pool(loop_kind, faults: Faults):
    """Work is done all the same; libuv aborts. Nobody but users of libuv's own functions needs the pool."""
    code = f"""{SHIM}
import ctypes, loopfast, pathlib
library = next(pathlib.Path(loopfast.__file__).parent.glob("_lib/*uv*"), None)
assert library is not None, "no bundled library"
uv = ctypes.CDLL(str(library))
callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
done = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
uv.uv_queue_work.argtypes = [ctypes.c_void_p, ctypes.c_void_p, callback, done]
loop = new_event_loop()
came = []
work = callback(lambda request: came.append("work"))
after = done(lambda request, status: (came.append(status), loop.stop()))
request = ctypes.create_string_buffer(4096)
arm("pthread_create", "EAGAIN", 100)
assert uv.uv_queue_work(pointer(loop.libuv_get_loop_t_ptr(), None), request, work, after) == 0
loop.call_later(5, loop.stop)
loop.run_forever()
shim.library.faults_disarm()
loop.close()
print(came, shim.library.faults_fired() > 0)
"""
    assert run_program(loop_kind, code, LD_PRELOAD=faults.preloaded) == "['work', 0] True\n"

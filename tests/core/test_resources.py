"""What loops leave behind: nothing; and the warnings when somebody forgot to close."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref

import pytest
from support import gc_disabled, open_descriptors, program, run_program


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_an_unclosed_loop_warns_and_gives_its_descriptors_back(loop_factory):
    gc.collect()
    before = open_descriptors()
    loop = loop_factory()
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    assert open_descriptors() == before


WAITS = {
    "sleep": "await asyncio.sleep(100)",
    "timeout": "async with asyncio.timeout(100): await loop.create_future()",
    "group": "async with asyncio.TaskGroup() as group: group.create_task(asyncio.sleep(100))",
    "reader": "loop.add_reader(mine, print, loop); await loop.create_future()",
    "sock_recv": "await loop.sock_recv(mine, 1)",
    "stream": "reader, _ = await asyncio.open_connection(sock=mine); await reader.read()",
    "server": "await (await asyncio.start_server(print, '127.0.0.1', 0)).serve_forever()",
}


@pytest.mark.parametrize("waits", WAITS)
def test_a_task_that_waits_on_a_dropped_loop_is_told_of(loop_kind, waits):
    """The loop is collected whatever the task holds of it, and warns."""
    code = f"""
    from support import tcp_pair
    import weakref
    mine, peer = tcp_pair()
    async def waits():
        loop = asyncio.get_running_loop()
        {WAITS[waits]}
    async def start():
        task = asyncio.create_task(waits(), name="forgotten")
        asyncio.get_running_loop().call_later(0.02, asyncio.get_running_loop().stop)
        await asyncio.get_running_loop().create_future()
    def drop():
        loop = new_event_loop()
        try:
            loop.run_until_complete(start())
        except RuntimeError:
            pass
        return weakref.ref(loop)
    dropped = drop()
    gc.collect()
    print(dropped() is None)
    """
    with program(loop_kind, code, "-W", "always::ResourceWarning") as process:
        out, err = process.communicate(timeout=25)
    assert out == "True\n", err
    assert "ResourceWarning: unclosed event loop" in err
    assert "Task was destroyed but it is pending!" in err
    assert "name='forgotten'" in err


@pytest.mark.parametrize("waits", ["sleep", "timeout"])
def test_a_task_that_waits_when_the_program_ends_is_told_of(loop_kind, waits):
    code = f"""
    async def waits():
        loop = asyncio.get_running_loop()
        {WAITS[waits]}
    async def start():
        global task
        task = asyncio.create_task(waits(), name="forgotten")
        await asyncio.sleep(0)
    loop = new_event_loop()
    loop.run_until_complete(start())
    """
    with program(loop_kind, code) as process:
        err = process.communicate(timeout=25)[1]
    assert "Task was destroyed but it is pending!" in err
    assert "name='forgotten'" in err


def test_a_closed_loop_does_not_warn(loop_factory, recwarn):
    loop = loop_factory()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop
    gc.collect()
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]


def test_a_closed_loop_is_collected(loop_factory):
    loop = loop_factory()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    assert reference() is None


def test_descriptors_of_many_loops(loop_factory):
    before = open_descriptors()
    for _ in range(50):
        loop = loop_factory()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert open_descriptors() == before


@pytest.mark.loopfast_only("asyncio keeps cancelled timers in its heap for a while")
def test_callbacks_leave_nothing_without_the_collector(loop):
    def run():
        for number in range(1000):
            loop.call_soon(int, number)
            loop.call_later(0, int, number)
            loop.call_later(1000, int, number).cancel()
            loop.call_soon_threadsafe(int, number)
        loop.call_later(0.001, loop.stop)
        loop.run_forever()

    run()
    with gc_disabled():
        before = len(gc.get_objects()), sys.getallocatedblocks()
        for _ in range(5):
            run()
        objects, blocks = len(gc.get_objects()), sys.getallocatedblocks()
    assert objects - before[0] < 50
    assert blocks - before[1] < 1500


def test_cancelled_timers_take_no_memory(loop):
    def run():
        for number in range(5000):
            loop.call_later(1000 + number, int).cancel()

    run()
    before = sys.getallocatedblocks()
    for _ in range(5):
        run()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert sys.getallocatedblocks() - before < 1000


def test_tasks_leave_nothing_without_the_collector(loop):
    async def main():
        for _ in range(1000):
            await asyncio.create_task(asyncio.sleep(0))

    loop.run_until_complete(main())
    with gc_disabled():
        before = len(gc.get_objects())
        loop.run_until_complete(main())
        assert len(gc.get_objects()) - before < 50


def test_reference_counts_of_common_objects(loop):
    def callback(*args):
        pass

    argument = object()

    def run():
        for _ in range(100):
            loop.call_soon(callback, argument, None, 1, argument)
            loop.call_soon(callback, argument)
            loop.call_later(0, callback, argument, argument)
            loop.call_later(0, callback, argument).cancel()
        loop.call_later(0.001, loop.stop)
        loop.run_forever()

    run()
    before = sys.getrefcount(callback), sys.getrefcount(argument)
    run()
    assert (sys.getrefcount(callback), sys.getrefcount(argument)) == before


def test_gc_at_every_allocation(loop_kind):
    out = run_program(
        loop_kind,
        """
        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for number in range(20):
                writer.write(b"x" * 100)
                assert await reader.readexactly(100)
                loop.call_later(0.001, int)
                loop.call_later(100, int).cancel()
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
            print("fine")
        gc.set_threshold(1)
        run(main())
        """,
    )
    assert out == "fine\n"


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit(0)",
        "pass",
        "loop.call_later(100, print)",
        "threading.Thread(target=loop.run_forever, daemon=True).start()",
    ],
)
def test_interpreter_exit_with_a_live_loop(loop_kind, ending):
    out = run_program(
        loop_kind,
        f"""
        warnings.simplefilter("ignore")
        loop = new_event_loop()
        a, b = socket.socketpair()
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=a))
        server = loop.run_until_complete(loop.create_server(asyncio.Protocol, "127.0.0.1", 0))
        print("fine", flush=True)
        {ending}
        """,
    )
    assert out == "fine\n"


def test_a_forked_child_closes_the_inherited_loop_and_runs_its_own(loop_kind):
    out = run_program(
        loop_kind,
        """
        warnings.simplefilter("ignore")
        async def main():
            loop = asyncio.get_running_loop()
            reader, writer = os.pipe()
            got = loop.create_future()
            loop.add_reader(reader, lambda: got.done() or got.set_result(os.read(reader, 100)))
            await asyncio.sleep(0.001)
            child = os.fork()
            if child == 0:
                try:
                    asyncio._set_running_loop(None)
                    own = new_event_loop()
                    assert own.run_until_complete(asyncio.sleep(0.001, "own")) == "own"
                    own.close()
                    os._exit(0)
                finally:
                    os._exit(1)
            _, status = os.waitpid(child, 0)
            os.write(writer, b"still watched")
            print(status, await got)
            loop.remove_reader(reader)
        run(main())
        """,
    )
    assert out == "0 b'still watched'\n"


def test_works_with_the_standard_streams_closed(loop_kind):
    out = run_program(
        loop_kind,
        """
        report = os.dup(1)
        for fd in (0, 1, 2):
            os.close(fd)
        async def main():
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
        run(main())
        os.write(report, b"fine")
        os._exit(0)
        """,
    )
    assert out == "fine"


@pytest.mark.loopfast_only("asyncio's loop complains in __del__ when it could not be made")
def test_no_descriptor_left_is_a_clean_error(loop_kind):
    out = run_program(
        loop_kind,
        """
        import resource
        warm = new_event_loop(); warm.close(); del warm
        limit = len(os.listdir("/proc/self/fd"))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        for spare in range(0, 8):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit + spare - 1, hard))
            before = set(os.listdir("/proc/self/fd")) if spare > 1 else None
            try:
                loop = new_event_loop()
                loop.run_until_complete(asyncio.sleep(0))
            except OSError as exc:
                assert exc.errno == 24, exc
            else:
                loop.close()
            loop = None
            warnings.simplefilter("ignore")
            gc.collect()
            if before:
                assert set(os.listdir("/proc/self/fd")) == before
        print("fine")
        """,
    )
    assert out == "fine\n"


@pytest.mark.loopfast_only("asyncio's three are others")
def test_what_a_loop_costs(loop_factory):
    """Two sets, a wake-up, libuv's pipe for signals and Python's pair; what gathers changes of a set comes later."""
    loop_factory().close()
    before = open_descriptors()
    loop = loop_factory()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert len(open_descriptors() - before) <= 7
    loop.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("low", ["", "0", "0, 1, 2"], ids=["open", "stdin closed", "all closed"])
def test_many_changes_at_once(loop_kind, low):
    """Sixty connections in one turn, all watched from the next poll on, with the standard streams closed too."""
    out = run_program(
        loop_kind,
        f"""
        kept = os.dup(1)
        for number in [{low}]:
            os.close(number)
        made = []
        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                made.append(transport)
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=100)
            clients = [socket.socket() for _ in range(60)]
            for client in clients:
                client.connect(server.sockets[0].getsockname())
            while len(made) < 60:
                await asyncio.sleep(0.001)
            for client in clients:
                client.sendall(b"x")
            for client in clients:
                client.setblocking(False)
                assert await loop.sock_recv(client, 10) == b"x"
                client.close()
            server.close()
        run(main())
        os.write(kept, b"served")
        """,
    )
    assert out == "served"


@pytest.mark.loopfast_only("asyncio's loop has three")
@pytest.mark.skipif(sys.platform != "linux", reason="counts what a loop has on Linux")
def test_a_loop_that_has_not_run_has_two_descriptors(loop_factory):
    """The kernel's set and the wake-up. libuv alone makes a pipe for signals and a ring with each loop."""
    loop_factory().close()
    before = open_descriptors()
    loop = loop_factory()
    made = open_descriptors() - before
    loop.close()
    assert len(made) == 2

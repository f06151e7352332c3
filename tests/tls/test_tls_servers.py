"""What a TLS server does with a connection until the handshake is over: its task, its context, its failures."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import logging
import socket
import ssl
import sys
import time

import pytest
from support import Echo, Recorder, open_descriptors, read_to_end, run_program, settle, until
from tlssupport import VERSIONS, connect, tls_peer, tls_server

from loopfast.transports.tcp import AcceptedSocket


@contextlib.contextmanager
def client(address):
    """A connected non-blocking socket that has said nothing yet."""
    with socket.create_connection(address) as sock:
        sock.setblocking(False)
        yield sock


def handshakes():
    """The tasks that serve connections until their handshakes are over."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_the_handshake_is_a_task(loop, contexts):
    async with tls_server(contexts, Recorder) as (_, address):
        with client(address) as sock:
            await until(handshakes)
            (task,) = handshakes()
            peer = tls_peer(contexts, sock, "server")
            await peer.handshake()
            await task
            assert not handshakes()


async def accepted_by_turns(loop, address, count, duration=0.0):
    """Let *count* clients connect that say nothing, the program taking *duration* seconds of each turn. Return how many
    connections each turn has accepted, and the seconds it took; the clients are gone then."""
    turns = []
    with contextlib.ExitStack() as stack:
        before, began = loop.statistics().accepted, loop.time()
        for _ in range(count):
            stack.enter_context(client(address))
        wanted = before + count
        while before < wanted:
            await asyncio.sleep(0)
            time.sleep(duration)
            accepted, now = loop.statistics().accepted, loop.time()
            turns.append((accepted - before, now - began))
            before, began = accepted, now
    await until(lambda: not handshakes())
    return turns


@pytest.mark.loopfast_only("asyncio accepts the whole backlog at once")
async def test_handshakes_of_a_burst_do_not_begin_all_at_once(loop, contexts):
    async with tls_server(contexts, Recorder) as (_, address):
        # Those of the first burst are over when the second comes.
        for _ in range(2):
            turns = await accepted_by_turns(loop, address, 90)
            counts = [accepted for accepted, _ in turns]
            # It may look for one at first, where one came last.
            assert 63 <= max(counts) <= 64
            # Then one, and one for each millisecond, by the kernel's coarse clock: it may be some ticks behind.
            done = 0
            for (_, before), (accepted, this) in itertools.pairwise([(0, 0), *turns]):
                if done >= 64:
                    assert accepted <= 1 + (before + this) // 0.001 + 10
                done += accepted


@pytest.mark.loopfast_only("asyncio accepts the whole backlog at once")
@pytest.mark.parametrize("duration", [0.002, 0.03])
async def test_a_burst_is_accepted_however_long_turns_take(loop, contexts, duration):
    async with tls_server(contexts, Recorder) as (_, address):
        turns = await accepted_by_turns(loop, address, 90, duration)
        accepting = [accepted for accepted, _ in turns if accepted]
        # One for each millisecond that the turn before took, at least, but the last; and 64 of them at once.
        assert len(accepting) <= 4 + (90 - 64) / (duration * 1000)


async def test_cancelling_the_task_closes_the_connection(loop, contexts):
    protocol = Recorder()
    async with tls_server(contexts, lambda: protocol) as (_, address):
        with client(address) as sock:
            await until(handshakes)
            await settle()
            (task,) = handshakes()
            task.cancel()
            await read_to_end(sock)
            await asyncio.wait([task])
            # asyncio takes even this for a failure like any other.
            assert not task.cancelled()
    assert protocol.events == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_cancelling_the_task_before_it_has_begun_closes_the_connection(loop, contexts):
    made = []

    def cancelled_task(loop, coro, **options):
        task = asyncio.Task(coro, loop=loop, **options)
        task.cancel()
        return task

    async with tls_server(contexts, lambda: made.append(Recorder())) as (_, address):
        loop.set_task_factory(cancelled_task)
        with client(address) as sock, contextlib.suppress(ConnectionResetError):
            assert await read_to_end(sock) == b""
        loop.set_task_factory(None)
        assert not made
        # Others are served.
        with client(address):
            await until(handshakes)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_task_factory_that_fails_costs_one_connection(loop, contexts, reports):
    failures = [ZeroDivisionError("no task")]

    def factory(loop, coro, **options):
        if failures:
            coro.close()
            raise failures.pop()
        return asyncio.Task(coro, loop=loop, **options)

    async with tls_server(contexts, Echo) as (_, address):
        loop.set_task_factory(factory)
        with client(address) as sock:
            await until(lambda: reports)
            assert isinstance(reports.take()["exception"], ZeroDivisionError)
            # asyncio's connection is in a cycle with the traceback.
            gc.collect()
            with contextlib.suppress(ConnectionResetError):
                assert await read_to_end(sock) == b""
        loop.set_task_factory(None)
        transport, _ = await connect(contexts, address)
        transport.abort()
        await settle()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_the_making_of_the_task(loop, loop_kind, contexts):
    def factory(loop, coro, **options):
        coro.close()
        raise KeyboardInterrupt

    server = loop.run_until_complete(loop.create_server(Recorder, "127.0.0.1", 0, ssl=contexts.server()))
    with client(server.sockets[0].getsockname()) as sock:
        loop.set_task_factory(factory)
        with pytest.raises(KeyboardInterrupt) as caught:
            loop.run_forever()
        loop.set_task_factory(None)
        if loop_kind == "asyncio":
            # Its connection stays for as long as the traceback does.
            del caught
            gc.collect()
        with contextlib.suppress(ConnectionResetError):
            assert loop.run_until_complete(read_to_end(sock)) == b""
    server.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_with_eager_tasks(loop, contexts, version):
    # None, as always, before 3.12.
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
    async with tls_server(contexts, Echo) as (_, address):
        transport, protocol = await connect(contexts, address, ssl=contexts.client(version=version))
        transport.write(b"question")
        await until(lambda: protocol.data)
        transport.abort()
        await settle()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("debug", [False, True])
async def test_a_protocol_factory_that_fails_costs_one_connection(loop, contexts, reports, debug):
    failures = [ZeroDivisionError("no protocol")]

    def factory():
        if failures:
            raise failures.pop()
        return Echo()

    loop.set_debug(debug)
    async with tls_server(contexts, factory) as (_, address):
        with client(address) as sock:
            if debug:
                await until(lambda: reports)
                context = reports.take()
                assert context["message"] == "Error on transport creation for incoming connection"
                assert isinstance(context["exception"], ZeroDivisionError)
                assert not context.keys() & {"protocol", "transport"}
                # Its traceback holds the connection; of asyncio's there is a cycle.
                del context
                gc.collect()
            with contextlib.suppress(ConnectionResetError):
                assert await read_to_end(sock) == b""
        transport, _ = await connect(contexts, address)
        transport.abort()
        await settle()


@pytest.mark.parametrize("debug", [True, False])
async def test_debug_mode_logs_connections_before_anything_else(loop, contexts, reports, caplog, debug):
    loop.set_debug(debug)
    caplog.set_level(logging.DEBUG, "asyncio")
    lines = []

    def factory():
        lines.extend(line for line in caplog.text.splitlines() if "got a new connection" in line)
        return Recorder()

    async with tls_server(contexts, factory) as (_, address):
        with client(address) as sock:
            await until(handshakes)
            await settle()
            assert len(lines) == debug
            for line in lines:
                connection = line.partition("got a new connection from ")[2]
                assert connection.startswith(f"{sock.getsockname()!r}: <socket.socket fd=")
                assert f"laddr={address!r}, raddr={sock.getsockname()!r}" in connection
        if debug:
            # The handshake that will not be.
            await until(lambda: reports)
            reports.take()


async def test_callbacks_run_in_a_copy_of_the_servers_context(loop, contexts):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            seen.append(variable.get())
            variable.set("of one connection")
            super().connection_made(transport)

    def factory():
        seen.append(variable.get())
        return Protocol()

    variable.set("of the server")
    async with tls_server(contexts, factory) as (_, address):
        variable.set("later")
        for _ in range(2):
            transport, _ = await connect(contexts, address)
            await until(lambda: len(seen) % 2 == 0)
            transport.abort()
    assert seen == ["of the server"] * 4
    assert variable.get() == "later"


async def test_names_of_both_ends(loop, contexts):
    made = []
    async with tls_server(contexts, lambda: made.append(Recorder()) or made[-1]) as (_, address):
        transport, _ = await connect(contexts, address)
        await until(lambda: made and made[0].transport)
        server_end = made[0].transport
        assert server_end.get_extra_info("sockname") == transport.get_extra_info("peername") == address
        assert server_end.get_extra_info("peername") == transport.get_extra_info("sockname")
        assert server_end.get_extra_info("socket").getpeername() == transport.get_extra_info("sockname")
        transport.abort()
        await made[0].lost


async def test_a_closed_server_waits_for_its_connections(loop, contexts):
    async with tls_server(contexts, Recorder) as (server, address):
        with client(address) as sock:
            await until(handshakes)
            await settle()
            server.close()
            waiting = asyncio.create_task(server.wait_closed())
            await settle()
            # Until 3.12.0 it did not wait.
            assert waiting.done() == (sys.version_info < (3, 12, 1))
            sock.close()
            await waiting


@pytest.mark.loopfast_only("asyncio has no such class")
async def test_what_was_never_accepted_is_not_served(loop):
    accepted = AcceptedSocket()
    with pytest.raises(RuntimeError, match="no connection"):
        loop._serve_accepted(accepted, Recorder())
    with pytest.raises(TypeError, match="None"):
        loop._serve_accepted(None, Recorder())
    before = open_descriptors()
    del accepted
    assert open_descriptors() == before


async def test_an_error_of_openssl_before_the_client_has_spoken(loop, contexts, reports):
    context = contexts.server()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    loop.set_debug(True)
    async with tls_server(contexts, Recorder, ssl=context) as (_, address):
        with client(address) as sock:
            assert await read_to_end(sock) == b""
            await until(lambda: reports)
            assert isinstance(reports.take()["exception"], ssl.SSLError)


async def test_a_connection_that_needs_no_handshake(loop, contexts):
    class Plain:
        """What wrap_bio() returns: says yes to everything, and encrypts nothing."""

        def __init__(self, incoming, outgoing):
            self.incoming = incoming
            self.outgoing = outgoing

        def do_handshake(self):
            pass

        def getpeercert(self):
            return None

        cipher = compression = getpeercert

        def read(self, *args):
            raise ssl.SSLWantReadError

        def write(self, data):
            return self.outgoing.write(data)

        def unwrap(self):
            pass

    class Context(ssl.SSLContext):
        def wrap_bio(self, incoming, outgoing, **options):
            return Plain(incoming, outgoing)

    class Greeting(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"220 hello")
            transport.close()

    async with tls_server(contexts, Greeting, ssl=Context(ssl.PROTOCOL_TLS_SERVER)) as (_, address):
        with client(address) as sock:
            assert await read_to_end(sock) == b"220 hello"


def test_a_closed_loop_holds_no_listening_socket(loop_kind):
    out = run_program(
        loop_kind,
        """
        loop = new_event_loop()
        server = loop.run_until_complete(loop.create_server(asyncio.Protocol, "127.0.0.1", 0))
        address = server.sockets[0].getsockname()
        loop.close()
        warnings.simplefilter("ignore")
        del server
        gc.collect()
        try:
            socket.create_connection(address)
        except ConnectionRefusedError:
            print("refused")
    """,
    )
    assert out == "refused\n"


def test_running_out_of_descriptors_pauses_accepting_and_recovers(loop_kind, certificate_files):
    out = run_program(
        loop_kind,
        f"""
        import ssl
        from support import take_all_descriptors
        from asyncio import constants
        constants.ACCEPT_RETRY_DELAY = 0.05
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain({str(certificate_files / "cert.pem")!r}, {str(certificate_files / "key.pem")!r})
        messages = []
        made = []
        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                made.append(transport)
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: messages.append(context["message"]))
            server = await loop.create_server(Protocol, "127.0.0.1", 0, ssl=context)
            address = server.sockets[0].getsockname()
            waiting = socket.socket()
            waiting.setblocking(False)
            taken = take_all_descriptors()
            waiting.connect_ex(address)
            while not messages:
                await asyncio.sleep(0.001)
            for fd in taken:
                os.close(fd)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
            tls = client.wrap_bio(incoming, outgoing)
            while not made:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                if outgoing.pending:
                    waiting.send(outgoing.read())
                await asyncio.sleep(0.001)
                try:
                    incoming.write(waiting.recv(100000))
                except BlockingIOError:
                    pass
            waiting.close()
            made[0].abort()
            server.close()
            await asyncio.sleep(0)
            print(messages[0])
        run(main())
    """,
    )
    assert out.strip() == "socket.accept() out of system resource"


def test_a_run_that_ends_during_a_handshake(loop_kind, certificate_files):
    out = run_program(
        loop_kind,
        f"""
        import ssl
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain({str(certificate_files / "cert.pem")!r}, {str(certificate_files / "key.pem")!r})
        async def main():
            server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
            client = socket.create_connection(server.sockets[0].getsockname())
            while len(asyncio.all_tasks()) < 2:
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            server.close()
            return client
        client = run(main())
        gc.collect()
        print(client.recv(10))
        client.close()
    """,
        "-Werror",
    )
    assert out == "b''\n"

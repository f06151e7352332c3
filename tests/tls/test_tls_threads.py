"""TLS transports called from threads that do not run their loop: moved to it, where asyncio crashes in OpenSSL."""

from __future__ import annotations

import asyncio
import ssl
import threading

import pytest
from support import run_program
from tlssupport import tls_and_peer

pytestmark = pytest.mark.loopfast_only("asyncio goes into OpenSSL in whatever thread it is called from")


class Watched(ssl.SSLObject):
    """Keeps the threads that have gone into OpenSSL through it."""

    threads: set[int] = set()

    def read(self, *args):
        Watched.threads.add(threading.get_ident())
        return super().read(*args)

    def write(self, data):
        Watched.threads.add(threading.get_ident())
        return super().write(data)

    def do_handshake(self):
        Watched.threads.add(threading.get_ident())
        super().do_handshake()

    def unwrap(self):
        Watched.threads.add(threading.get_ident())
        super().unwrap()


def last_words(transport, protocol):
    """What a thread may say: all of it arrives, in this order, and then the end."""
    changing = bytearray(b"one ")
    transport.write(changing)
    changing[:] = b"....."
    transport.writelines([b"two ", memoryview(b"three ")])
    transport.write(b"four ")
    protocol._do_read()
    protocol._do_write()
    protocol._process_outgoing()
    transport.write(b"z" * 2_000_000)
    transport.close()
    transport.write(b"too late")


@pytest.mark.parametrize("own_class", [True, False])
async def test_a_thread_that_writes_and_closes(loop, contexts, own_class):
    context = contexts.client()
    if own_class:
        context.sslobject_class = Watched
    Watched.threads = set()
    async with tls_and_peer(contexts, ssl=context) as (transport, protocol, peer):
        sending = loop.run_in_executor(None, last_words, transport, transport._ssl_protocol)
        data, ended = await peer.read_to_end()
        await sending
        assert data == b"one two three four " + b"z" * 2_000_000
        assert ended == "close_notify"
        assert Watched.threads == ({threading.get_ident()} if own_class else set())


@pytest.mark.parametrize("state", ["_do_handshake", "_do_flush", "_do_shutdown"])
async def test_a_step_of_another_state_is_not_taken(loop, contexts, state):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        await loop.run_in_executor(None, getattr(transport._ssl_protocol, state))
        await asyncio.sleep(0)
        await peer.write(b"still there")
        assert await protocol.received(11) == b"still there"


async def test_a_bad_argument_is_refused_at_once(loop, contexts):
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        with pytest.raises(TypeError, match="bytes-like"):
            await loop.run_in_executor(None, transport.write, "text")


async def test_data_for_a_connection_that_another_thread_is_in(loop, contexts):
    """Only where the loop did not run when that thread came in. The connection ends; OpenSSL is left alone."""
    context = contexts.client()
    context.sslobject_class = Watched
    entered, go = threading.Event(), threading.Event()

    class Slow(Watched):
        def write(self, data):
            entered.set()
            assert go.wait(20)
            return super().write(data)

    context.sslobject_class = Slow
    async with tls_and_peer(contexts, ssl=context) as (transport, protocol, peer):
        messages = []
        loop.set_exception_handler(lambda loop, context: messages.append(context["exception"]))
        engine = transport._ssl_protocol
        # As if the loop rested.
        thread_id, loop._thread_id = loop._thread_id, None
        writer = threading.Thread(target=transport.write, args=(b"x",))
        writer.start()
        assert entered.wait(20)
        loop._thread_id = thread_id
        try:
            await peer.write(b"y")
            assert isinstance(await protocol.lost, RuntimeError)
            assert "another thread" in str(messages[0])
        finally:
            go.set()
            writer.join()
        assert engine._conn_lost is not None


@pytest.mark.parametrize("engine_name", ["auto", "portable"])
def test_threads_that_write_and_close_during_traffic(loop_kind, certificate_files, engine_name):
    """Within a second or two, this crashed."""
    code = f"""
    import contextlib, logging, random, ssl, threading, time
    logging.disable(logging.CRITICAL)
    from tlssupport import Contexts
    from pathlib import Path
    contexts = Contexts(Path({str(certificate_files)!r}))
    live, over = [], threading.Event()
    class Side(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.lost = asyncio.get_running_loop().create_future()
            live.append(transport)
            transport.write(b"x" * 20_000)
        def data_received(self, data):
            self.transport.write(data)
        def connection_lost(self, exc):
            self.lost.set_result(None)
    def disturb(seed):
        some = random.Random(seed)
        while not over.wait(0.0001):
            for transport in live[-6:]:
                # What asyncio's class raises when it was closed twice.
                with contextlib.suppress(AttributeError):
                    if transport.get_write_buffer_size() < 500_000:
                        transport.write(b"y" * some.choice([10, 5_000, 100_000, 1_100_000]))
                    if some.random() < 0.1:
                        transport.close()
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Side, "127.0.0.1", 0, ssl=contexts.server())
        port = server.sockets[0].getsockname()[1]
        threads = [threading.Thread(target=disturb, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        async def connect():
            while time.monotonic() < end:
                try:
                    transport, side = await asyncio.wait_for(loop.create_connection(
                        Side, "127.0.0.1", port, ssl=contexts.client(), server_hostname="localhost"), 10)
                    await asyncio.wait({{side.lost}}, timeout=0.02)
                    transport.abort()
                    done.append(transport)
                except OSError:
                    # Closed during the handshake.
                    pass
        end, done = time.monotonic() + 2, []
        try:
            await asyncio.gather(*[connect() for _ in range(4)])
        finally:
            over.set()
        server.close()
        print("connections", len(done) > 10)
    run(main())
    """
    assert run_program(loop_kind, code, LOOPFAST_TLS_ENGINE=engine_name) == "connections True\n"

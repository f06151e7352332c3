"""The two engines of TLS connections: which is chosen, when the direct one stands back, what both do alike."""

from __future__ import annotations

import _ssl
import asyncio
import contextlib
import ctypes
import ssl
import sys
import sysconfig

import pytest
from support import BufferedRecorder, Recorder, pattern, run_program, tcp_pair, until
from tlssupport import SIDES, VERSIONS, TlsPeer, open_tls, tls_and_peer, tls_pair, write_until_paused

from loopfast.tls import can_go_direct, set_engine

pytestmark = pytest.mark.loopfast_only("asyncio has one way to reach OpenSSL")

NEEDS_DIRECT = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")) or sys.platform == "win32" or not hasattr(_ssl, "__file__"),
    reason="the direct engine is for _ssl in a library of its own, with the GIL",
)
ENGINES = (pytest.param("direct", marks=NEEDS_DIRECT), "portable")


def engine_of(transport):
    return transport._ssl_protocol._engine


@NEEDS_DIRECT
def test_this_python_has_the_direct_engine():
    """Fails on a version of Python whose objects somebody has to look at: see openssl.h and find_openssl()."""
    assert can_go_direct()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", [Recorder, lambda: BufferedRecorder(1000)], ids=["plain", "buffered"])
@pytest.mark.parametrize("name", ENGINES)
async def test_a_chosen_engine_is_used(loop, contexts, name, kind, side, version):
    set_engine(name)
    data = pattern(3 << 20)
    async with tls_and_peer(contexts, side, kind, version=version) as (transport, protocol, peer):
        assert engine_of(transport) == name
        for size in (1, 1000, 16384, 16385, 100_000, 300_000, len(data)):
            transport.write(data[:size])
            assert await peer.read_exactly(size) == data[:size]
            protocol.data.clear() if isinstance(protocol.data, bytearray) else setattr(protocol, "data", b"")
            await peer.write(data[:size])
            assert await protocol.received(size) == data[:size]
        await peer.unwrap()
        assert await protocol.lost is None


@pytest.mark.parametrize("other", ["auto", "portable"])
async def test_connections_with_different_engines(loop, contexts, other):
    set_engine("auto")
    async with tls_pair(contexts) as (client, server):
        set_engine(other)
        async with tls_pair(contexts) as (second_client, second_server):
            for end in (client, second_server):
                end.transport.write(b"x" * 1000)
            assert await server.received(1000) == await second_client.received(1000) == b"x" * 1000
            direct = "direct" if can_go_direct() else "portable"
            assert engine_of(client.transport) == engine_of(server.transport) == direct
            assert engine_of(second_client.transport) == ("portable" if other == "portable" else direct)


# ----------------------------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize("name", ["", "Direct", "fast", None, 1])
def test_there_is_no_such_engine(name):
    with pytest.raises(ValueError, match="no TLS engine is called"):
        set_engine(name)


@pytest.mark.parametrize("value", ["portable", "auto", ""])
def test_the_environment_chooses(loop_kind, value):
    program = """
        import asyncio, ssl
        from loopfast.tls import TLSProtocol

        loop = new_event_loop()
        tls = TLSProtocol(loop, asyncio.Protocol(), ssl.create_default_context(), None, False, "localhost")
        tls._app_transport._closed = True
        print(tls._engine)
        loop.close()
    """
    expected = "direct" if can_go_direct() and value != "portable" else "portable"
    assert run_program(loop_kind, program, LOOPFAST_TLS_ENGINE=value).strip() == expected


class OwnObject(ssl.SSLObject):
    """Counts what goes through it, as an instrumented class would."""

    read_calls = 0

    def read(self, *args):
        OwnObject.read_calls += 1
        return super().read(*args)


async def test_a_class_of_the_users_own_is_asked_for_everything(loop, contexts):
    context = contexts.client()
    context.sslobject_class = OwnObject
    OwnObject.read_calls = 0
    async with tls_and_peer(contexts, ssl=context) as (transport, protocol, peer):
        assert engine_of(transport) == "portable"
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"
        assert OwnObject.read_calls


async def test_a_callback_for_messages_gets_them(loop, contexts):
    """Undocumented, of the ssl module's own tests: what it raises comes out of _ssl's methods only."""
    context = contexts.client()
    seen = []
    context._msg_callback = lambda *args: seen.append(args)
    async with tls_and_peer(contexts, ssl=context) as (transport, protocol, peer):
        assert engine_of(transport) == "portable"
        seen.clear()
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"
        assert seen


@NEEDS_DIRECT
async def test_what_is_not_known_is_an_error_where_the_direct_engine_is_demanded(loop, contexts):
    set_engine("direct")
    context = contexts.client()
    context.sslobject_class = OwnObject
    one, other = tcp_pair()
    with one, other, pytest.raises(RuntimeError, match="the direct TLS engine does not know"):
        await open_tls(contexts, "client", one, Recorder, ssl=context)


# --------------------------------------------------------------------------------------------------- OpenSSL's own ways


def leave_an_error():
    """Put an error in OpenSSL's queue of this thread, as other users of the library do; return the library."""
    library = ctypes.CDLL(_ssl.__file__)
    if hasattr(library, "ERR_new"):
        library.ERR_new()
        library.ERR_set_error(1, 1, None)
    else:
        library.ERR_put_error(1, 1, 1, b"here", 1)
    assert library.ERR_peek_error()
    return library


@NEEDS_DIRECT
@pytest.mark.parametrize("kind", [Recorder, lambda: BufferedRecorder(1000)], ids=["plain", "buffered"])
async def test_errors_of_others_are_not_ours(loop, contexts, kind):
    """Asyncio takes them for its own, and loses the connection."""
    async with tls_and_peer(contexts, protocol=kind) as (transport, protocol, peer):
        peer.tls.write(b"in two pieces")
        record = peer.outgoing.read()
        leave_an_error()
        peer.sock.send(record[:10])
        await asyncio.sleep(0.01)
        leave_an_error()
        peer.sock.send(record[10:])
        assert await protocol.received(13) == b"in two pieces"
        library = leave_an_error()
        transport.write(b"answer")
        # The peer is as sensitive as asyncio.
        library.ERR_clear_error()
        assert await peer.read_exactly(6) == b"answer"
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.unwrap()
        leave_an_error()
        await peer.flush()
        await until(lambda: "eof" in protocol.events)
        library.ERR_clear_error()
        peer.close()
        assert await protocol.lost is None


@pytest.mark.parametrize("name", ENGINES)
async def test_the_sni_callback_may_change_the_context(loop, contexts, name):
    set_engine(name)
    other = contexts.server("other")
    first = contexts.server()

    def choose(tls, server_name, context):
        if server_name == "other.example":
            tls.context = other

    first.sni_callback = choose
    async with tls_and_peer(contexts, "server", ssl=first) as (transport, protocol, peer):
        assert engine_of(transport) == name
        await peer.write(b"x")
        assert await protocol.received(1) == b"x"


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("position", [0, 3, 10, -1])
async def test_a_damaged_record_is_the_error_that_asyncio_reports(loop, contexts, name, position):
    set_engine(name)
    async with tls_and_peer(contexts) as (_, protocol, peer):
        peer.tls.write(b"x" * 100)
        record = bytearray(peer.outgoing.read())
        record[position] ^= 0x55
        peer.sock.send(record)
        error = await protocol.lost
    assert isinstance(error, ssl.SSLError)
    assert error.library == "SSL" and error.reason
    assert str(error).startswith(f"[SSL: {error.reason}] ")


@pytest.mark.parametrize("name", ENGINES)
async def test_a_missing_record_is_the_error_that_asyncio_reports(loop, contexts, name):
    set_engine(name)
    async with tls_and_peer(contexts, "client", version="TLSv1.3") as (_, protocol, peer):
        peer.tls.write(b"x")
        peer.outgoing.read()
        # The number of the record is part of its checksum.
        peer.tls.write(b"y")
        await peer.flush()
        error = await protocol.lost
    assert isinstance(error, ssl.SSLError)
    # OpenSSL up to 3.1, and from 3.2 on.
    assert error.reason in ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")


@pytest.mark.parametrize("name", ENGINES)
async def test_an_alert_after_the_handshake_is_the_error_that_asyncio_reports(loop, contexts, name):
    """With TLS 1.3 a client hears of the certificate that it does not have when it believes to be done."""
    set_engine(name)
    one, sock = tcp_pair()
    context = contexts.server(version="TLSv1.3", clients="other")
    peer = TlsPeer(sock, context, server_side=True)
    shaking = asyncio.create_task(peer.handshake())
    _, protocol = await open_tls(contexts, "client", one, Recorder)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        await shaking
    await peer.flush()
    error = await protocol.lost
    assert isinstance(error, ssl.SSLError)
    assert "ALERT_CERTIFICATE_REQUIRED" in error.reason
    peer.close()


@pytest.mark.parametrize("name", ENGINES)
async def test_large_writes_leave_no_large_buffer(loop, contexts, name):
    """What OpenSSL has encrypted is handed on in pieces: beside the queue of the stream there is no second one."""
    set_engine(name)
    async with tls_and_peer(contexts) as (transport, protocol, peer):
        largest = 0
        below = transport._ssl_protocol._transport
        outgoing = transport._ssl_protocol._outgoing

        class Watching:
            def __getattr__(self, attribute):
                return getattr(below, attribute)

            def write(self, data):
                nonlocal largest
                largest = max(largest, len(data) + outgoing.pending)
                below.write(data)

        transport._ssl_protocol._transport = Watching()
        data = pattern(4 << 20)
        transport.write(data)
        transport._ssl_protocol._transport = below
        assert 0 < largest < 200_000
        assert await peer.read_exactly(len(data)) == data


@pytest.mark.parametrize("name", ENGINES)
async def test_flow_control_with_many_sizes(loop, contexts, name):
    set_engine(name)
    async with tls_and_peer(contexts, send_buffer=65536) as (transport, protocol, peer):
        sent = write_until_paused(transport, protocol)
        for size in (1, 100, 20_000, 200_000):
            transport.write(sent[:size])
        expected = sent + b"".join(sent[:size] for size in (1, 100, 20_000, 200_000))
        assert await peer.read_exactly(len(expected)) == expected
        await until(lambda: protocol.events[-1] == "resume")

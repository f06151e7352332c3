"""aiohttp's client and server on one loop: keep-alive, WebSockets, TLS, uploads, files, time-outs, proxies, the end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import signal
import socket

import pytest
from programs import PATIENCE, ask, check_no_complaints, connection, package, python, short_folder, wait_until_closed
from relay import proxying
from support import LOCALHOST, pattern, until

aiohttp = package("aiohttp")
web = package("aiohttp.web")

pytestmark = pytest.mark.interop("aiohttp")

BODY = pattern(3_000_000)


@contextlib.asynccontextmanager
async def serving(routes, *, context=None, unix=None, **options):
    """Run an application with these routes, (method, path, handler); the address of the server, without a path."""
    app = web.Application(client_max_size=1 << 24)
    app.router.add_routes([web.route(*route) for route in routes])
    runner = web.AppRunner(app, access_log=None, **options)
    await runner.setup()
    try:
        if unix is not None:
            await web.UnixSite(runner, unix, ssl_context=context).start()
            yield "http://localhost"
        else:
            await web.TCPSite(runner, LOCALHOST, 0, ssl_context=context).start()
            yield f"{'https' if context else 'http'}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def client(**options):
    """A session with limits of its own; aiohttp would otherwise wait five minutes."""
    options.setdefault("timeout", aiohttp.ClientTimeout(total=20))
    return aiohttp.ClientSession(**options)


async def digest(request):
    seen = hashlib.sha256()
    size = 0
    async for piece in request.content.iter_chunked(1 << 16):
        seen.update(piece)
        size += len(piece)
    return web.json_response({"size": size, "sha256": seen.hexdigest(), "chunked": request.content_length is None})


async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            if message.data == "close":
                await socket.close(code=4321, message=b"as asked")
            else:
                await socket.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def peer(request):
    return web.json_response(request.transport.get_extra_info("peername"))


def tls(certificate):
    return aiohttp.TCPConnector(ssl=certificate.client())


async def test_keep_alive(loop):
    """One connection for all requests in turn, as many as allowed for requests at once."""
    async with serving([("GET", "/peer", peer)]) as url, client() as session:
        seen = set()
        for _ in range(100):
            async with session.get(f"{url}/peer") as response:
                seen.add(tuple(await response.json()))
        assert len(seen) == 1

        async def one():
            async with session.get(f"{url}/peer") as response:
                return tuple(await response.json())

        async with client(connector=aiohttp.TCPConnector(limit=10)) as session:
            assert len(set(await asyncio.gather(*(one() for _ in range(300))))) == 10


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_uploads(loop, certificate, secure):
    async def pieces():
        for start in range(0, len(BODY), 77_777):
            yield BODY[start : start + 77_777]
            await asyncio.sleep(0)

    expected = {"size": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()}
    async with (
        serving([("POST", "/digest", digest)], context=certificate.server() if secure else None) as url,
        client(connector=tls(certificate) if secure else None) as session,
    ):
        for body, chunked in ((io.BytesIO(BODY), False), (pieces(), True)):
            async with session.post(f"{url}/digest", data=body) as response:
                assert await response.json() == {**expected, "chunked": chunked}


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_files(loop, certificate, tmp_path, secure):
    """FileResponse is loop.sendfile(), which TLS replaces by reading and writing; the upload is read in a thread."""
    (tmp_path / "file").write_bytes(BODY)

    async def file(request):
        return web.FileResponse(tmp_path / "file")

    async def form(request):
        field = await anext(aiter(await request.multipart()))
        return web.Response(text=hashlib.sha256(await field.read()).hexdigest())

    async with (
        serving(
            [("GET", "/file", file), ("POST", "/form", form)], context=certificate.server() if secure else None
        ) as url,
        client(connector=tls(certificate) if secure else None) as session,
    ):
        async with session.get(f"{url}/file") as response:
            assert await response.read() == BODY
        async with session.get(f"{url}/file", headers={"Range": "bytes=1000000-1999999"}) as response:
            assert response.status == 206
            assert await response.read() == BODY[1_000_000:2_000_000]
        with open(tmp_path / "file", "rb") as source:
            data = aiohttp.FormData()
            data.add_field("file", source, filename="file")
            async with session.post(f"{url}/form", data=data) as response:
                assert await response.text() == hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_websocket(loop, certificate, secure):
    async with (
        serving([("GET", "/echo", echo)], context=certificate.server() if secure else None) as url,
        client(connector=tls(certificate) if secure else None) as session,
    ):
        async with session.ws_connect(f"{url}/echo", heartbeat=0.5) as socket:
            await socket.send_str("text")
            assert await socket.receive_str() == "text"
            await socket.send_bytes(BODY)
            assert await socket.receive_bytes() == BODY
            for number in range(300):
                await socket.send_str(str(number))
            assert [await socket.receive_str() for _ in range(300)] == [str(number) for number in range(300)]
            await socket.send_str("close")
            message = await socket.receive()
            assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 4321, "as asked")
        async with session.ws_connect(f"{url}/echo") as socket:
            await socket.close(code=4000)
            assert socket.closed


async def test_streams_of_events_and_a_slow_reader(loop):
    async def events(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(50):
            await response.write(bytes([number]) * 200_000)
        await response.write_eof()
        return response

    async with (
        serving([("GET", "/events", events)]) as url,
        client() as session,
        session.get(f"{url}/events") as response,
    ):
        seen = hashlib.sha256()
        async for piece in response.content.iter_chunked(10_000):
            seen.update(piece)
            await asyncio.sleep(0)
        assert seen.hexdigest() == hashlib.sha256(b"".join(bytes([n]) * 200_000 for n in range(50))).hexdigest()


async def test_unix_socket(loop):
    with short_folder() as folder:
        path = str(folder / "s")
        async with (
            serving([("POST", "/digest", digest), ("GET", "/echo", echo)], unix=path) as url,
            client(connector=aiohttp.UnixConnector(path)) as session,
        ):
            async with session.post(f"{url}/digest", data=io.BytesIO(BODY)) as response:
                assert (await response.json())["size"] == len(BODY)
            async with session.ws_connect(f"{url}/echo") as socket:
                await socket.send_bytes(BODY)
                assert await socket.receive_bytes() == BODY


async def test_a_client_that_gives_up_cancels_the_handler(loop):
    events = []

    async def forever(request):
        events.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async with serving([("GET", "/forever", forever)], handler_cancellation=True) as url, client() as session:
        with pytest.raises(asyncio.TimeoutError):
            await session.get(f"{url}/forever", timeout=aiohttp.ClientTimeout(total=0.2))
        await until(lambda: events == ["begun", "cancelled"])
        task = asyncio.create_task(session.get(f"{url}/forever"))
        await until(lambda: len(events) == 3)
        task.cancel()
        await until(lambda: events == ["begun", "cancelled"] * 2)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_errors_of_the_connection(loop, certificate):
    async def vanish(request):
        request.transport.abort()
        return web.Response()

    async with serving([("GET", "/vanish", vanish)]) as url, client() as session:
        for _ in range(5):
            with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
                await session.get(f"{url}/vanish")
    async with client() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await session.get(f"{url}/vanish")
        assert isinstance(refused.value.os_error, OSError)
    async with serving([("GET", "/", peer)], context=certificate.server()) as url, client() as session:
        # The certificate is nobody's this client knows.
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(url)


@pytest.mark.parametrize("secure_proxy", [False, True], ids=["http proxy", "https proxy"])
async def test_tls_through_a_proxy(loop, certificate, secure_proxy):
    """TLS in a tunnel, and TLS in TLS: aiohttp asks the transport whether it can do that."""
    async with (
        serving([("GET", "/peer", peer), ("POST", "/digest", digest)], context=certificate.server()) as url,
        proxying(context=certificate.server() if secure_proxy else None) as proxy,
        client(connector=tls(certificate)) as session,
    ):
        scheme = "https" if secure_proxy else "http"
        for _ in range(3):
            async with session.post(
                f"{url.replace('localhost', LOCALHOST)}/digest",
                data=io.BytesIO(BODY),
                proxy=f"{scheme}://localhost:{proxy.port}",
            ) as response:
                assert (await response.json())["sha256"] == hashlib.sha256(BODY).hexdigest()
        assert proxy.served == 1, "the tunnel was not kept"
        await session.close()


RUN_APP = '''
import asyncio, os, sys
from aiohttp import web
from support import new_event_loop

async def loop(request):
    kind = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return web.json_response({"loop": kind, "pid": os.getpid()})

async def slow(request):
    """Answer when the test says so, over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    word = await reader.read()
    writer.close()
    return web.Response(body=word)

async def ended(app):
    print("application ended", flush=True)

app = web.Application(client_max_size=1 << 24)
app.router.add_get("/loop", loop)
app.router.add_get("/slow", slow)
app.on_cleanup.append(ended)
web.run_app(app, host="127.0.0.1", port=0, loop=new_event_loop(sys.argv[1]), access_log=None)
print("run_app() returned", flush=True)
'''


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_run_app_ends_on_a_signal_after_the_request_in_flight(loop_kind, tmp_path, number):
    """Its signal handlers raise a SystemExit out of the loop."""
    (tmp_path / "program.py").write_text(RUN_APP)
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join([os.path.dirname(tests), tests])
    with (
        socket.create_server((LOCALHOST, 0)) as release,
        python(tmp_path / "program.py", loop_kind, str(release.getsockname()[1]), PYTHONPATH=path) as server,
    ):
        release.settimeout(PATIENCE)
        port = int(server.expect(r"Running on http://127\.0\.0\.1:(\d+)")[1])
        with contextlib.closing(connection(port)) as link:
            assert ask(link, "GET", "/loop") == {"loop": loop_kind, "pid": server.process.pid}
            link.request("GET", "/slow")
            handler, _ = release.accept()
            server.send_signal(number)
            wait_until_closed(port)
            with handler:
                handler.sendall(b"done")
            assert link.getresponse().read() == b"done"
        assert server.ended() == 0, server.output
        assert server.lines[-2:] == ["application ended", "run_app() returned"], server.output
        check_no_complaints(server)

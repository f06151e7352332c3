"""httpx's AsyncClient against uvicorn and hypercorn on the same loop: pools, HTTP/2, streams, time-outs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib

import pytest
from programs import free_port, package
from support import LOCALHOST, pattern, until

httpx = package("httpx")
uvicorn = package("uvicorn")
hypercorn = package("hypercorn.asyncio")
hypercorn_config = package("hypercorn.config")

pytestmark = pytest.mark.interop("httpx", "h2", "uvicorn", "hypercorn", "fastapi")

BODY = pattern(2_000_000)


def application():
    from served_app import app

    return app


@contextlib.asynccontextmanager
async def on_uvicorn(**options):
    """The application on a uvicorn in the running loop; its address."""
    server = uvicorn.Server(uvicorn.Config(application(), port=0, log_config=None, **options))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started or serving.done())
    try:
        yield f"{LOCALHOST}:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def on_hypercorn(certificate):
    """The application on a hypercorn in the running loop, with TLS and HTTP/2; its address."""
    port = free_port()
    config = hypercorn_config.Config()
    config.bind = [f"{LOCALHOST}:{port}"]
    config.certfile, config.keyfile = map(str, certificate)
    stop = asyncio.Event()
    serving = asyncio.create_task(hypercorn.serve(application(), config, shutdown_trigger=stop.wait))
    while not serving.done():
        with contextlib.suppress(ConnectionRefusedError):
            _, writer = await asyncio.open_connection(LOCALHOST, port)
            writer.close()
            await writer.wait_closed()
            break
        await asyncio.sleep(0.01)
    try:
        yield f"localhost:{port}"
    finally:
        stop.set()
        await serving


async def pieces():
    for start in range(0, len(BODY), 50_000):
        yield BODY[start : start + 50_000]


async def check(client, loop_kind):
    assert (await client.get("/loop")).json()["loop"] == loop_kind
    for content in (BODY, pieces()):
        assert (await client.post("/digest", content=content)).json()["sha256"] == hashlib.sha256(BODY).hexdigest()
    answers = await asyncio.gather(*(client.get(f"/stream?pieces={number}&size=3000") for number in range(60)))
    for number, answer in enumerate(answers):
        assert answer.content == b"".join(bytes([piece]) * 3000 for piece in range(number))
    async with client.stream("GET", "/stream?pieces=500&size=20000") as response:
        # Leaves it in the middle.
        async for piece in response.aiter_raw():
            assert piece
            break
    assert (await client.get("/thread")).json() == {"main": False}


@pytest.mark.parametrize("parser", ["h11", "httptools"])
async def test_http1(loop, loop_kind, parser):
    async with (
        on_uvicorn(http=parser) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=20) as client,
    ):
        await check(client, loop_kind)


async def test_tls(loop, loop_kind, certificate):
    files = {"ssl_certfile": str(certificate.cert), "ssl_keyfile": str(certificate.key)}
    async with (
        on_uvicorn(**files) as address,
        httpx.AsyncClient(base_url=f"https://{address}", verify=certificate.client(), timeout=20) as client,
    ):
        await check(client, loop_kind)


async def test_http2(loop, loop_kind, certificate):
    async with (
        on_hypercorn(certificate) as address,
        httpx.AsyncClient(
            base_url=f"https://{address}", verify=certificate.client(), http2=True, http1=False, timeout=20
        ) as client,
    ):
        assert (await client.get("/loop")).http_version == "HTTP/2"
        await check(client, loop_kind)


async def test_timeouts_and_refusals(loop):
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, LOCALHOST, 0)
    url = f"http://{LOCALHOST}:{server.sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(url, timeout=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.get(url)
        server.close()
        await server.wait_closed()
        with pytest.raises(httpx.ConnectError):
            await client.get(url)

"""HTTP servers: uvicorn with FastAPI on each of its parsers, and aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

from ..registry import KIB, Loop, server

BACKLOG = 2048
GREETING = {"message": "hello", "numbers": [1, 2, 3]}
BODY = json.dumps({"text": "x" * (10 * 1024 - 12)})
"""A JSON object of 10 KiB."""


def application() -> Any:
    """Returns the FastAPI application: a small answer, and a body that is parsed and measured."""
    from fastapi import Body, FastAPI, WebSocket, WebSocketDisconnect

    app = FastAPI()

    @app.get("/json")
    async def read_json() -> dict[str, object]:
        return GREETING

    @app.post("/body")
    async def take_body(content: dict[str, str] = Body()) -> dict[str, int]:  # noqa: B008 (how FastAPI is told)
        return {"length": len(content["text"])}

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await socket.send_bytes(await socket.receive_bytes())

    # FastAPI looks annotations up by name among the module's own, where this one is not.
    echo.__annotations__ = {"socket": WebSocket}
    app.add_api_websocket_route("/echo", echo)

    return app


async def uvicorn_server(loop: Loop, listener: socket.socket, parser: str) -> Any:
    """Starts uvicorn with `parser` (and the package websockets) on `listener`; returns what keeps it running."""
    import uvicorn

    config = uvicorn.Config(
        application(),
        http=parser,
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=BACKLOG,
    )
    running = uvicorn.Server(config)
    task = loop.create_task(running.serve(sockets=[listener]))
    while not running.started:
        if task.done():
            raise RuntimeError(f"uvicorn ended at once: {task.exception()}")
        await asyncio.sleep(0.01)
    return running, task


@server(
    "http.uvicorn.httptools",
    "FastAPI on uvicorn (httptools), small JSON, 32 connections",
    quick=True,
    requires=("fastapi", "uvicorn", "httptools"),
    expect=json.dumps(GREETING),
    protocol="http",
    path="/json",
    connections=32,
)
@server(
    "http.uvicorn.body",
    "FastAPI on uvicorn (httptools), JSON body of 10 KiB, 32 connections",
    requires=("fastapi", "uvicorn", "httptools"),
    expect=json.dumps({"length": 10 * 1024 - 12}),
    protocol="http",
    method="POST",
    path="/body",
    body=BODY,
    connections=32,
)
@server(
    "ws.uvicorn.1KiB.c32",
    "WebSocket echo, FastAPI on uvicorn (websockets), 1 KiB, 32 connections",
    quick=True,
    requires=("fastapi", "uvicorn", "httptools", "websockets"),
    protocol="ws",
    path="/echo",
    connections=32,
)
@server(
    "ws.uvicorn.64KiB.c32",
    "WebSocket echo, FastAPI on uvicorn (websockets), 64 KiB, 32 connections",
    requires=("fastapi", "uvicorn", "httptools", "websockets"),
    protocol="ws",
    path="/echo",
    size=64 * KIB,
    connections=32,
)
async def uvicorn_httptools(loop: Loop, listener: socket.socket) -> Any:
    return await uvicorn_server(loop, listener, "httptools")


@server(
    "http.uvicorn.h11",
    "FastAPI on uvicorn (h11), small JSON, 32 connections",
    requires=("fastapi", "uvicorn", "h11"),
    expect=json.dumps(GREETING),
    protocol="http",
    path="/json",
    connections=32,
)
async def uvicorn_h11(loop: Loop, listener: socket.socket) -> Any:
    return await uvicorn_server(loop, listener, "h11")


@server(
    "http.aiohttp.body",
    "aiohttp, JSON body of 10 KiB, 32 connections",
    requires=("aiohttp",),
    expect=json.dumps({"length": 10 * 1024 - 12}),
    protocol="http",
    method="POST",
    path="/body",
    body=BODY,
    connections=32,
)
@server(
    "http.aiohttp.json",
    "aiohttp, small JSON, 32 connections",
    requires=("aiohttp",),
    expect=json.dumps(GREETING),
    protocol="http",
    path="/json",
    connections=32,
)
async def aiohttp_json(_loop: Loop, listener: socket.socket) -> Any:
    from aiohttp import web

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(GREETING)

    async def take_body(request: web.Request) -> web.Response:
        return web.json_response({"length": len((await request.json())["text"])})

    app = web.Application()
    app.router.add_post("/body", take_body)
    app.router.add_get("/json", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    return runner

"""The application that uvicorn, hypercorn and gunicorn serve in these tests. It says on stdout what happens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

if os.environ.get("INSTALL_LOOPFAST"):
    import loopfast

    loopfast.install()


def say(text: str) -> None:
    """Write a line in one piece: print() makes two of it, and workers share the output."""
    os.write(1, f"{text}\n".encode())


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    say(f"application started in {os.getpid()}")
    yield
    say(f"application ended in {os.getpid()}")


app = FastAPI(lifespan=lifespan)


@app.get("/loop")
async def loop() -> dict[str, Any]:
    """Which loop serves, in which process."""
    kind = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return {"loop": kind, "pid": os.getpid()}


@app.post("/digest")
async def digest(request: Request) -> dict[str, Any]:
    """Digest a body as it comes, telling about the first piece."""
    seen = hashlib.sha256()
    size = 0
    async for piece in request.stream():
        if piece and not size:
            say("upload begun")
        size += len(piece)
        seen.update(piece)
    return {"size": size, "sha256": seen.hexdigest()}


@app.get("/stream")
async def stream(pieces: int, size: int) -> StreamingResponse:
    """Pieces of a known content, made as fast as the client takes them."""

    async def content() -> AsyncIterator[bytes]:
        for number in range(pieces):
            yield bytes([number % 251]) * size

    return StreamingResponse(content(), media_type="application/octet-stream")


@app.get("/thread")
def thread() -> dict[str, bool]:
    """A blocking route: the framework runs it in a thread."""
    return {"main": threading.current_thread() is threading.main_thread()}


@app.get("/command")
async def command() -> dict[str, Any]:
    """A subprocess of the server's loop."""
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    out, _ = await process.communicate(b"through cat")
    return {"out": out.decode(), "status": process.returncode}


@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    """Send every message back; "close" ends the connection from this side."""
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                say(f"client left with {message['code']}")
                return
            if message.get("text") == "close":
                await socket.close(4321, "as asked")
                return
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
            else:
                await socket.send_text(message["text"])

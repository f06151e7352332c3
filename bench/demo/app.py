"""The application that is served: what web applications do most, and a route that tells what serves it.

It names no event loop: the same file runs on whichever loop uvicorn was told to use.
"""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import AsyncIterator

from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

app = FastAPI(title="loopfast demonstration")
jobs: dict[str, asyncio.Future[str]] = {}


class Order(BaseModel):
    """The body of POST /orders; a quantity that is no positive number is refused with status 422."""

    item: str = Field(min_length=1)
    quantity: int = Field(gt=0)
    price: float = Field(ge=0)


class Receipt(BaseModel):
    """The answer to POST /orders."""

    item: str
    total: float


@app.get("/json")
async def read_json() -> dict[str, object]:
    """A small JSON answer; the route that is measured."""
    return {"message": "hello", "numbers": [1, 2, 3]}


@app.post("/orders", status_code=201)
async def create_order(order: Order) -> Receipt:
    """A JSON body, validated and answered."""
    return Receipt(item=order.item, total=order.quantity * order.price)


@app.get("/stream")
async def stream(lines: int = 5) -> StreamingResponse:
    """A chunked answer whose parts are made one after the other, other work running between them."""

    async def parts() -> AsyncIterator[str]:
        for number in range(lines):
            yield f"line {number}\n"
            await asyncio.sleep(0.001)

    return StreamingResponse(parts(), media_type="text/plain")


@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    """Sends each text message back until the client leaves."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


@app.put("/jobs/{name}", status_code=202)
async def start_job(name: str, background: BackgroundTasks) -> dict[str, str]:
    """Answers at once and does the work after the answer has gone out."""
    jobs[name] = asyncio.get_running_loop().create_future()
    background.add_task(work, name)
    return {"job": name, "state": "accepted"}


async def work(name: str) -> None:
    """The work of a job: something slow on a thread of the default executor."""
    result = await asyncio.to_thread(lambda: f"{name}: {sum(range(100_000))}")
    jobs[name].set_result(result)


@app.get("/jobs/{name}")
async def job(name: str) -> dict[str, str]:
    """The result of a job, waited for."""
    if name not in jobs:
        raise HTTPException(404, f"no job is called {name!r}")
    return {"job": name, "result": await asyncio.wait_for(asyncio.shield(jobs[name]), 10)}


@app.get("/served-by")
async def served_by() -> dict[str, str]:
    """The event loop class, its libuv (where it has one) and the interpreter."""
    kind = type(asyncio.get_running_loop())
    return {
        "loop": f"{kind.__module__}.{kind.__qualname__}",
        "libuv": libuv_version(kind.__module__.partition(".")[0]),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def libuv_version(package: str) -> str:
    """Returns the version of the libuv that the loop of `package` runs on, "none" for a loop without one."""
    if package == "loopfast":
        return sys.modules[package].libuv_version()
    if package == "uvloop":
        number = sys.modules["uvloop.loop"].libuv_get_version()
        return f"{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return "none"

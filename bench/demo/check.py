"""Drives every route of the application with real HTTP and WebSocket clients and verifies the answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import websockets


class CheckFailed(Exception):
    """A route gave a wrong answer; the text says which and what."""


def expect(what: str, got: Any, wanted: Any) -> None:
    """Raises CheckFailed unless `got` equals `wanted`."""
    if got != wanted:
        raise CheckFailed(f"{what}: got {got!r}, wanted {wanted!r}")


async def check_all(url: str) -> AsyncIterator[tuple[str, str]]:
    """Yields (route, what was seen) for each route that answered right, the last being what served it.

    `url` is the server's address. Raises CheckFailed for a wrong answer, httpx and websockets errors for none at all.
    """
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        answer = await client.get("/json")
        expect("GET /json", (answer.status_code, answer.json()), (200, {"message": "hello", "numbers": [1, 2, 3]}))
        yield "GET  /json", answer.text

        answer = await client.post("/orders", json={"item": "lamp", "quantity": 3, "price": 9.5})
        expect("POST /orders", (answer.status_code, answer.json()), (201, {"item": "lamp", "total": 28.5}))
        refused = await client.post("/orders", json={"item": "lamp", "quantity": -1, "price": 9.5})
        expect("POST /orders with a negative quantity", refused.status_code, 422)
        yield "POST /orders", f"{answer.text}, and 422 for a bad order"

        parts = []
        async with client.stream("GET", "/stream", params={"lines": 5}) as answer:
            expect("GET /stream", answer.headers.get("transfer-encoding"), "chunked")
            async for part in answer.aiter_raw():
                parts.append(part.decode())
        expect("GET /stream", "".join(parts), "".join(f"line {number}\n" for number in range(5)))
        yield "GET  /stream", f"{len(parts)} parts, {sum(map(len, parts))} bytes, chunked"

        async with websockets.connect(url.replace("http", "ws", 1) + "/echo") as connection:
            texts = ["hello", "größer als ASCII", "x" * 100_000]
            for text in texts:
                await connection.send(text)
            for text in texts:
                expect("WebSocket /echo", await connection.recv(), text)
        yield "WS   /echo", f"{len(texts)} messages of up to {max(map(len, texts)):,} characters came back"

        answer = await client.put("/jobs/one")
        expect("PUT /jobs/one", (answer.status_code, answer.json()["state"]), (202, "accepted"))
        answer = await client.get("/jobs/one")
        expect("GET /jobs/one", (answer.status_code, answer.json().get("result")), (200, "one: 4999950000"))
        yield "PUT  /jobs/one", f"answered at once; the background task left {answer.json()['result']!r}"

        answer = await client.get("/served-by")
        expect("GET /served-by", answer.status_code, 200)
        served = answer.json()
        yield "GET  /served-by", f"{served['loop']}, libuv {served['libuv']}, {served['python']}"


async def served_by(url: str) -> dict[str, str]:
    """Returns what the server at `url` says it runs on."""
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        return (await client.get("/served-by")).json()

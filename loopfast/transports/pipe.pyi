# What Python code may know of the transports of pipes.

import asyncio
from typing import Any

class ReadPipeTransport(asyncio.ReadTransport):
    max_size: int

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None: ...

class WritePipeTransport(asyncio.WriteTransport):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None: ...
    def write(self, data: bytes | bytearray | memoryview[Any]) -> None: ...

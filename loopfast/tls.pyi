# What Python code may know of TLS; the Cython declarations are in tls.pxd.

import asyncio
from asyncio import sslproto
from typing import Any

from typing_extensions import disjoint_base

from loopfast.transports.base import FastProtocol

def set_engine(name: str) -> None: ...
def can_go_direct() -> bool: ...

@disjoint_base
class TLSEngine(FastProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...

class TLSProtocol(TLSEngine, sslproto.SSLProtocol):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

class _SSLProtocolTransport(sslproto._SSLProtocolTransport):
    def write(self, data: bytes | bytearray | memoryview[Any]) -> None: ...

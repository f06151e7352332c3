# What Python code may know of TLS; the Cython declarations are in tls.pxd.

from asyncio import sslproto
from typing import Any

from typing_extensions import disjoint_base

from loopfast.transports.base import FastProtocol

def set_engine(name: str) -> None: ...
def can_go_direct() -> bool: ...
@disjoint_base
class TLSEngine(FastProtocol): ...

class TLSProtocol(sslproto.SSLProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

class _SSLProtocolTransport(sslproto._SSLProtocolTransport):
    def write(self, data: bytes | bytearray | memoryview[Any]) -> None: ...

# What Python code may know of datagram endpoints; the Cython declarations are in udp.pxd.

import asyncio
from typing import Any

from typing_extensions import disjoint_base

from loopfast.transports.base import NativeTransport

@disjoint_base
class DatagramEndpoint(NativeTransport):
    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def close(self) -> None: ...

# A DatagramEndpoint, and to isinstance() an asyncio.DatagramTransport: see TCPTransport.
class UDPTransport(asyncio.DatagramTransport): ...

# What Python code may know of connected stream sockets; the Cython declarations are in tcp.pxd.

import asyncio
from typing import final

from typing_extensions import disjoint_base

from loopfast.transports.stream import StreamTransport

@final
class AcceptedSocket: ...

@disjoint_base
class SocketStream(StreamTransport): ...

# A SocketStream, and to isinstance() an asyncio.Transport, whose slots make a type checker allow only one of the two.
class TCPTransport(asyncio.Transport):
    def set_write_gathering(self, enabled: bool) -> None: ...

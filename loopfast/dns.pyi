# What Python code may know of lookups; the Cython declarations are in dns.pxd.

import asyncio
from typing import Any

from typing_extensions import disjoint_base

from loopfast.core import LoopCore, LoopObject

@disjoint_base
class Lookup(LoopObject):
    @property
    def future(self) -> asyncio.Future[list[tuple[int, int, int, str, tuple[Any, ...]]]]: ...
    def cancel(self) -> None: ...

def look_up(
    loop: LoopCore, host: object, port: object, family: int, kind: int, proto: int, flags: int
) -> Lookup | None: ...

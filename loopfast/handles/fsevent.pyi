# What Python code may know of file-system events; the Cython declarations are in fsevent.pxd.

from collections.abc import Callable
from typing import Final

from typing_extensions import disjoint_base

from loopfast.core import LoopCore
from loopfast.handles.base import UVHandle

RENAME: Final[int]
CHANGE: Final[int]

@disjoint_base
class FSEventQueue:
    def __init__(self, limit: int, on_full: Callable[[], object]) -> None: ...

@disjoint_base
class UVFSEvent(UVHandle):
    def __init__(
        self, loop: LoopCore, queue: FSEventQueue, path: str, callback: Callable[[int], object], token: int
    ) -> None: ...
    def take(self) -> tuple[dict[str, int], bool]: ...
    def close(self) -> None: ...

# What Python code may know of watched descriptors; the Cython declarations are in poll.pxd.

from typing_extensions import disjoint_base

from loopfast.core import LoopObject
from loopfast.handles.base import UVHandle

@disjoint_base
class UVPoll(UVHandle): ...

class KernelSet(UVPoll): ...
class OwnSet(KernelSet): ...

@disjoint_base
class DescriptorSet(LoopObject):
    def get_events(self, fd: int) -> int: ...

def share_set(enabled: bool) -> None: ...

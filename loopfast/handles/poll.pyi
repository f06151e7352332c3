# What Python code may know of watched descriptors; the Cython declarations are in poll.pxd.

from typing_extensions import disjoint_base

from loopfast.core import LoopCore
from loopfast.handles.base import UVHandle

@disjoint_base
class UVPoll(UVHandle): ...

class SignalWatch(UVPoll):
    def __init__(self, loop: LoopCore, fd: int) -> None: ...
    def close(self) -> None: ...

class KernelSet(UVPoll): ...

@disjoint_base
class DescriptorSet(KernelSet):
    def get_events(self, fd: int) -> int: ...

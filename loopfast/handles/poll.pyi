# What Python code may know of watched descriptors; the Cython declarations are in poll.pxd.

from typing_extensions import disjoint_base

from loopfast.handles.base import UVHandle

@disjoint_base
class UVPoll(UVHandle): ...

class KernelSet(UVPoll): ...

@disjoint_base
class DescriptorSet(KernelSet):
    def get_events(self, fd: int) -> int: ...

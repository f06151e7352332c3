# What Python code may know of a loop's buffers: nothing. The Cython declarations are in buffers.pxd.

from typing_extensions import disjoint_base

from loopfast.callbacks import CallbackQueues

@disjoint_base
class LoopBuffers(CallbackQueues): ...

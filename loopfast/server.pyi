# What Python code may know of the listening side; the Cython declarations are in server.pxd.

from typing_extensions import disjoint_base

from loopfast.handles.poll import UVPoll

@disjoint_base
class Listener(UVPoll):
    def resume(self) -> None: ...

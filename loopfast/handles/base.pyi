# What Python code may know of libuv handles; the Cython declarations are in base.pxd.

from typing_extensions import disjoint_base

from loopfast.core import LoopObject

@disjoint_base
class UVHandle(LoopObject): ...

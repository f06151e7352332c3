# What Python code may know of the counting of a loop's objects.

from typing import Any

from loopfast.core import LoopCore

def take_census(loop: LoopCore) -> dict[str, Any]: ...

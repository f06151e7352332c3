"""The loops that an exporter tells of, by name."""

from __future__ import annotations

import threading
import weakref

from loopfast._loop import Loop

__all__ = ["NamedLoops"]


class NamedLoops:
    """Loops by name, not kept alive, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: dict[str, weakref.ref[Loop]] = {}

    def add(self, loop: Loop, name: str) -> None:
        """Tell of *loop* from now on, under *name*.

        Raises:
            TypeError: *loop* is no loop of loopfast, or *name* is no string.
            ValueError: another loop, which is not closed, has the name.
        """
        if not isinstance(loop, Loop):
            raise TypeError(f"a loopfast.Loop was expected, got {loop!r}")
        if not isinstance(name, str):
            raise TypeError(f"a loop's name must be a string, got {name!r}")
        with self._lock:
            reference = self._loops.get(name)
            known = None if reference is None else reference()
            if known is not None and known is not loop and not known.is_closed():
                raise ValueError(f"another loop is exported under the name {name!r}")
            self._loops[name] = weakref.ref(loop)

    def remove(self, name: str) -> None:
        """Tell of the loop *name* no more. Does nothing if there is none."""
        with self._lock:
            self._loops.pop(name, None)

    def loops(self) -> list[tuple[str, Loop]]:
        """Return the names and loops that are not closed."""
        found = []
        with self._lock:
            for name, reference in list(self._loops.items()):
                loop = reference()
                if loop is None or loop.is_closed():
                    del self._loops[name]
                else:
                    found.append((name, loop))
        return found

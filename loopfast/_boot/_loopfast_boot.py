"""Makes loopfast the default event loop of a Python process below `loopfast run`, once it imports asyncio.

sitecustomize starts it in every such process; most never need a loop, so it imports nothing until then.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # without importing typing; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

# What loopfast.install() changes when it is imported. They import asyncio themselves, which would be too late.
SERVER_MODULES = ("gunicorn.workers.gasgi", "uvicorn.loops.asyncio", "uvicorn.loops.auto")

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Hook:
    """Stands first on ``sys.meta_path`` and answers for asyncio, and for uvloop where that is to be loopfast.

    Import machinery: https://docs.python.org/3/reference/import.html#the-meta-path.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.is_main = f"pid={os.getpid()}" in words  # the program that `loopfast run` was given
        self._waits = True
        self._wanted = False  # asyncio is there, loopfast not yet
        self._as_uvloop = "as-uvloop" in words

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find asyncio and loopfast with the other finders, to hear when their code has run; uvloop is the alias."""
        if fullname in ("asyncio", "loopfast") and self._waits:
            spec = self._find_elsewhere(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
            return spec
        if fullname in SERVER_MODULES and self._waits:
            import asyncio  # noqa: F401

            return self._find_elsewhere(fullname, path, target)
        if fullname == "uvloop" and self._as_uvloop:
            package = self._load()
            if package is not None:
                alias = package.uvloop_alias()
                self._as_uvloop = False  # from here on sys.modules has it; who undoes it wants uvloop itself
                return alias.module.__spec__  # type: ignore[no-any-return]
        return None

    def _find_elsewhere(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None

    def imported(self, name: str) -> None:
        """Once asyncio has been imported, import loopfast and call its ``install()``.

        A program may import loopfast itself, which imports asyncio in the midst of that: then it is for later.
        """
        if not self._waits:
            return
        try:
            if name == "asyncio":
                self._wanted = True
                if "loopfast" not in sys.modules:
                    self._load()
            elif self._wanted:
                self._waits = False
                sys.modules["loopfast"].install()
        except Exception as exc:
            self._waits = False
            tell(f"{exc!r}; {sys.executable} runs without loopfast")

    def _load(self) -> Any:
        """Return loopfast: this interpreter's own, or else the one this file belongs to; None where neither fits."""
        try:
            import loopfast

            return loopfast
        except ImportError as exc:
            problem = exc
        if not is_built_here():
            if self.is_main:
                tell(f"{problem}; {sys.executable} runs without loopfast")
            return None
        # It was started from a source tree, or this is another environment of the same Python.
        for name in [name for name in sys.modules if name.partition(".")[0] == "loopfast"]:
            del sys.modules[name]
        parent = os.path.dirname(PACKAGE)
        sys.path.append(parent)
        try:
            import loopfast

            return loopfast
        finally:
            sys.path.remove(parent)


class _Loader:
    """Loads a module with its own loader and then tells the hook; no trace of this object stays in the module."""

    def __init__(self, loader: Any, hook: Hook) -> None:
        self._loader, self._hook = loader, hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._hook.imported(module.__name__)


def is_built_here() -> bool:
    """Whether the compiled modules beside this file are for this interpreter."""
    from importlib.machinery import EXTENSION_SUFFIXES

    return any(os.path.exists(os.path.join(PACKAGE, f"core{suffix}")) for suffix in EXTENSION_SUFFIXES)


def tell(text: str) -> None:
    """Write a line to stderr, if there is one."""
    if sys.stderr is not None:
        sys.stderr.write(f"loopfast run: {text}\n")


def start(words: Sequence[str]) -> None:
    """Arrange for everything; ``words`` are those of LOOPFAST_RUN, see loopfast/_command.py."""
    if any(type(finder).__name__ == "Hook" and type(finder).__module__ == __name__ for finder in sys.meta_path):
        return  # `loopfast run` inside `loopfast run`, of another installation
    hook = Hook(words)
    sys.meta_path.insert(0, hook)
    if "asyncio" in sys.modules:  # by a .pth file
        hook.imported("asyncio")

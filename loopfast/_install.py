"""install() and uninstall(): make loopfast the loop that asyncio and its servers choose when nobody chose one.

Everything that install() changes in other modules is changed through the three small classes below, each of which
knows how to take its change back, and how to recognise that somebody else has changed the same thing since.
"""

from __future__ import annotations

import asyncio
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, cast

from loopfast._run import new_event_loop

__all__ = ["install", "uninstall"]

_Function = Callable[..., Any]


class _Policy:
    """The process-wide event loop policy, on the versions that have one (up to Python 3.15)."""

    def __init__(self, get_policy: _Function, set_policy: _Function, policy: Any) -> None:
        self._get_policy, self._set_policy = get_policy, set_policy
        self._ours = policy
        self._previous: Any = None

    def apply(self) -> None:
        current = self._get_policy()
        if current is not self._ours:
            self._previous = current
            self._set_policy(self._ours)

    def undo(self) -> None:
        """Put the previous policy back, unless somebody has replaced ours in the meantime: theirs stays."""
        if self._get_policy() is self._ours:
            self._set_policy(self._previous)


class _Attribute:
    """One function of one module or class, replaced by ours."""

    def __init__(self, owner: ModuleType | type, name: str, make: Callable[[_Function], _Function]) -> None:
        self.owner, self._name, self._make = owner, name, make
        self._ours: _Function | None = None
        self._previous: Any = None

    def apply(self) -> None:
        current = getattr(self.owner, self._name)
        if current is not self._ours:
            self._previous = current
            self._ours = self._make(current)
            setattr(self.owner, self._name, self._ours)

    def undo(self) -> None:
        """Put the previous function back, unless somebody has replaced ours in the meantime: theirs stays."""
        if self._ours is not None and getattr(self.owner, self._name, None) is self._ours:
            setattr(self.owner, self._name, self._previous)
        self._ours = None


class _AfterImport:
    """Functions of modules that may be imported already, may be imported later, or never.

    Servers are slow to import and often not installed, so install() must not import one. What is loaded is changed at
    once; for the rest this object stands first on sys.meta_path, lets the other finders find the module, and changes
    it when its code has run. Import machinery: https://docs.python.org/3/reference/import.html#the-meta-path.
    A function is named as in ``__qualname__``: that of a class has the class in front.
    """

    def __init__(self, replacements: dict[str, dict[str, Callable[[_Function], _Function]]]) -> None:
        self._replacements = replacements
        self._changed: dict[tuple[str, str], _Attribute] = {}

    def apply(self) -> None:
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        for module_name in self._replacements:
            # A module that another thread is importing right now is changed again by _Loader when its code has run.
            if (module := sys.modules.get(module_name)) is not None:
                self.change(module)

    def undo(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for attribute in self._changed.values():
            attribute.undo()
        self._changed.clear()

    def change(self, module: ModuleType) -> None:
        """Replace the functions of ``module`` that this version of it has."""
        for qualified, make in self._replacements[module.__name__].items():
            class_name, _, name = qualified.rpartition(".")
            owner = getattr(module, class_name, None) if class_name else module
            if hasattr(owner, name):
                key = module.__name__, qualified
                attribute = self._changed.get(key)
                if attribute is None or attribute.owner is not owner:
                    attribute = self._changed[key] = _Attribute(cast("ModuleType | type", owner), name, make)
                attribute.apply()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find one of our modules with the other finders and arrange that it is changed; leave any other to them."""
        if fullname not in self._replacements:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        spec.loader = cast(Any, _Loader(spec.loader, self))  # a loader by its methods
                    return spec
        return None


class _Loader:
    """Loads a module with its own loader, then lets _AfterImport change it; no trace of this object stays in it."""

    def __init__(self, loader: Any, hook: _AfterImport) -> None:
        self._loader, self._hook = loader, hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return cast("ModuleType | None", self._loader.create_module(spec))

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        with _lock:
            if self._hook in sys.meta_path:  # not uninstalled while the module was loading
                self._hook.change(module)


# --- what is replaced -------------------------------------------------------------------------------------------


def _always(replacement: _Function) -> Callable[[_Function], _Function]:
    return lambda previous: replacement


def _uvicorn_auto_loop_factory(previous: _Function) -> _Function:
    def auto_loop_factory(use_subprocess: bool = False) -> Callable[[], asyncio.AbstractEventLoop]:
        """uvicorn 0.36 and later: the loop factory for ``loop="auto"``."""
        # Code that imported this function by name keeps it after uninstall().
        return new_event_loop if _installed else previous(use_subprocess=use_subprocess)

    return auto_loop_factory


def _uvicorn_auto_loop_setup(previous: _Function) -> _Function:
    def auto_loop_setup(use_subprocess: bool = False) -> None:
        """uvicorn before 0.36: prepare the policy for ``loop="auto"``, which install() has done already."""
        if not _installed:
            previous(use_subprocess=use_subprocess)

    return auto_loop_setup


def _uvicorn_asyncio_setup(previous: _Function) -> _Function:
    def asyncio_setup(use_subprocess: bool = False) -> None:
        """uvicorn before 0.36: prepare the policy for an explicit ``loop="asyncio"``.

        That version has no other means than the policy, which stays as it was chosen after the server has ended; its
        ``loop="uvloop"`` works the same way.
        """
        for change in _changes:
            if isinstance(change, _Policy):
                change.undo()
        previous(use_subprocess=use_subprocess)

    return asyncio_setup


def _gunicorn_asgi_setup(previous: _Function) -> _Function:
    def _setup_event_loop(self: Any) -> None:
        """gunicorn's own ASGI worker, from 24 on: make its loop, for ``asgi_loop = "auto"``."""
        if _installed and getattr(self.cfg, "asgi_loop", "auto") == "auto":
            self.loop = new_event_loop()
            asyncio.set_event_loop(self.loop)
        else:
            previous(self)

    return _setup_event_loop


def _make_changes() -> list[_Policy | _Attribute | _AfterImport]:
    changes: list[_Policy | _Attribute | _AfterImport] = []
    from loopfast._policy import event_loop_policy_class, policy_function

    get_policy, set_policy = policy_function("get_event_loop_policy"), policy_function("set_event_loop_policy")
    if set_policy is not None:
        changes.append(_Policy(get_policy, set_policy, event_loop_policy_class()()))
    else:
        # From Python 3.16 asyncio.run() and asyncio.Runner call asyncio.events.new_event_loop, users asyncio's.
        changes.append(_Attribute(asyncio.events, "new_event_loop", _always(new_event_loop)))
        changes.append(_Attribute(asyncio, "new_event_loop", _always(new_event_loop)))
    changes.append(
        _AfterImport(
            {
                "uvicorn.loops.auto": {
                    "auto_loop_factory": _uvicorn_auto_loop_factory,
                    "auto_loop_setup": _uvicorn_auto_loop_setup,
                },
                "uvicorn.loops.asyncio": {"asyncio_setup": _uvicorn_asyncio_setup},
                "gunicorn.workers.gasgi": {"ASGIWorker._setup_event_loop": _gunicorn_asgi_setup},
            }
        )
    )
    return changes


_lock = threading.RLock()
_changes: list[_Policy | _Attribute | _AfterImport] = []
_installed = False


def install() -> None:
    """Make loopfast the default event loop of this process.

    Afterwards a loop that is created without naming its kind is loopfast's: by ``asyncio.run()``, ``asyncio.Runner()``,
    ``asyncio.new_event_loop()``, and by ``uvicorn.run(app)`` with its default ``loop="auto"`` (whether uvicorn was
    imported before or is imported later). Loops that exist already are not touched, and an explicit choice is
    respected: ``loop_factory=``, and uvicorn's ``loop="asyncio"``, ``"uvloop"`` or an import string. uvicorn's
    ``loop="none"`` means asyncio's default, so it gives loopfast.

    What it changes: the event loop policy (up to Python 3.15; from 3.16 ``asyncio.new_event_loop`` and
    ``asyncio.events.new_event_loop``), the functions in ``uvicorn.loops.auto`` and, before uvicorn 0.36,
    ``uvicorn.loops.asyncio`` that translate ``"auto"`` and ``"asyncio"``, and the method of gunicorn's own ASGI worker
    that translates ``asgi_loop = "auto"``. Nothing is imported for that. A process that is started with the "spawn"
    method, as uvicorn's workers and its reloader are, inherits none of it: pass ``loop="loopfast:new_event_loop"``
    there, or start the program with ``loopfast run``.

    Calling it again does nothing, except that it puts back what others replaced in the meantime.
    """
    global _changes, _installed
    with _lock:
        if not _installed:
            _changes = _make_changes()
        for change in _changes:
            change.apply()
        _installed = True


def uninstall() -> None:
    """Take back what install() changed.

    The policy that was set before (the very object), or the default, is the policy again, and uvicorn chooses as it
    did. What somebody else has replaced since install() is left as they set it. Loops that exist go on unchanged.
    Without a preceding install() it does nothing.
    """
    global _changes, _installed
    with _lock:
        _installed = False
        for change in reversed(_changes):
            change.undo()
        _changes = []

"""uvloop_alias(): loopfast under the name uvloop, for programs that know only that. Explicit, loud and reversible."""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, cast

from loopfast import _install, _run
from loopfast._loop import Loop
from loopfast._version import __version__
from loopfast.buildinfo import libuv_version

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LoopfastAliasWarning", "UvloopAlias", "uvloop_alias"]

# The release whose public names the alias has; the rest says who is behind it (a local version, PEP 440).
UVLOOP_VERSION = f"0.22.1+loopfast.{__version__}"

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class LoopfastAliasWarning(UserWarning):
    """``import uvloop`` gives loopfast in this process."""

    __module__ = "loopfast"


class UvloopAlias:
    """The alias that a call of `uvloop_alias()` put in place; also a context manager that takes it back at its end."""

    __module__ = "loopfast"

    def __init__(self, module: ModuleType) -> None:
        #: What ``import uvloop`` gives.
        self.module = module
        self._active = True

    def undo(self) -> None:
        """Take the alias back: ``import uvloop`` gives what it gave before. Doing it again does nothing.

        Where the alias was asked for several times, the last one to be undone does it. A module that somebody else has
        put in its place stays. Names that were imported from the alias go on being loopfast's.
        """
        with _lock:
            if self._active:
                self._active = False
                _release()

    def __enter__(self) -> UvloopAlias:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


class _Loader:
    """Hands the module out to an import that is under way."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


_lock = threading.RLock()
_users = 0  # handles that are active
_ours: dict[str, ModuleType] = {}
_previous: dict[str, ModuleType] = {}


def uvloop_alias(*, force: bool = False) -> UvloopAlias:
    """Let ``import uvloop`` give loopfast in this process, from now on.

    The alias has uvloop's public names: ``run``, ``new_event_loop``, ``install`` and ``EventLoopPolicy`` (where asyncio
    has policies), ``Loop``, ``__version__``, and the module ``uvloop.loop`` with ``libuv_get_version`` and
    ``libuv_get_loop_t_ptr``. Its ``__version__`` ends in ``+loopfast`` and our version. It does not make loopfast the
    default loop; ``uvloop.install()``, or ``loopfast.install()``, does. The distribution's metadata
    (``importlib.metadata.version("uvloop")``) is not touched, and names that a module imported from uvloop before stay
    uvloop's.

    Every call warns with `LoopfastAliasWarning`, so that nobody takes one loop for the other.

    Args:
        force: Go ahead even though uvloop itself is in use here.

    Returns:
        A handle whose ``undo()``, or whose end as a context manager, restores ``sys.modules``.

    Raises:
        RuntimeError: uvloop's own loops are open in this process, or its policy is set; see ``force``.
    """
    global _users
    with _lock:
        real = sys.modules.get("uvloop")
        if real is not None and real is not _ours.get("uvloop") and not force and (use := _use_of(real)):
            raise RuntimeError(f"uvloop_alias(): uvloop itself is in use here: {use}; force=True overrides that")
        _warn("uvloop is loopfast in this process: `import uvloop` gives loopfast's alias, as asked for")
        if not _users:
            _previous.update((name, sys.modules.pop(name)) for name in list(_names()))
            _ours.update(_make_modules())
            sys.modules.update(_ours)
        _users += 1
        return UvloopAlias(_ours["uvloop"])


def _release() -> None:
    global _users
    _users -= 1
    if not _users:
        if sys.modules.get("uvloop") is _ours["uvloop"]:
            for name in list(_names()):
                del sys.modules[name]
            sys.modules.update(_previous)
        _ours.clear()
        _previous.clear()


def _names() -> Iterator[str]:
    """What belongs to uvloop in ``sys.modules``, whosever it is."""
    return (name for name in sys.modules if name.partition(".")[0] == "uvloop")


def _use_of(real: ModuleType) -> str | None:
    """Say how uvloop itself is in use in this process, or return None."""
    loop_class = getattr(real, "Loop", None)
    if isinstance(loop_class, type):
        open_loops = sum(
            isinstance(thing, loop_class) and not cast(Any, thing).is_closed() for thing in gc.get_objects()
        )
        if open_loops:
            return f"{open_loops} open event loop{'s' if open_loops > 1 else ''}"
    from loopfast._policy import policy_function

    get_policy = policy_function("get_event_loop_policy")
    if get_policy is not None and type(get_policy()).__module__.partition(".")[0] == "uvloop":
        return "the event loop policy is its own"
    return None


def _warn(text: str) -> None:
    """Warn at the line outside loopfast and the import machinery that is behind the call, an import for example."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith((PACKAGE, "<frozen importlib")):
            break
        frame = frame.f_back
    if frame is None:
        warnings.warn_explicit(text, LoopfastAliasWarning, "loopfast", 0)
    else:
        names: dict[str, Any] = frame.f_globals
        warnings.warn_explicit(
            text,
            LoopfastAliasWarning,
            frame.f_code.co_filename,
            frame.f_lineno,
            module=names.get("__name__"),
            registry=names.setdefault("__warningregistry__", {}),
        )


def _make_modules() -> Mapping[str, ModuleType]:
    package = _module("uvloop", "loopfast under the name uvloop, see loopfast.uvloop_alias().")
    package.__path__ = []  # a package, none of whose other modules can be imported
    inner = _module("uvloop.loop", "What uvloop's compiled module offers beside the loop.")
    version = _module("uvloop._version", "The version of the alias.")

    def libuv_get_version() -> int:
        """Return the version of libuv as one number, ``0x13401`` for 1.52.1 (libuv: ``uv_version``)."""
        major, minor, patch = map(int, libuv_version().split("-")[0].split("."))
        return major << 16 | minor << 8 | patch

    def libuv_get_loop_t_ptr(loop: Loop) -> object:
        """Return a capsule with the ``uv_loop_t*`` of ``loop``."""
        return loop.libuv_get_loop_t_ptr()

    def module_attribute(name: str) -> Any:
        """EventLoopPolicy, which is not made before somebody asks for it."""
        if name == "EventLoopPolicy":
            from loopfast._policy import event_loop_policy_class

            return event_loop_policy_class()
        raise AttributeError(f"module 'uvloop' (loopfast's alias) has no attribute {name!r}")

    vars(version)["__version__"] = UVLOOP_VERSION
    vars(inner).update(Loop=Loop, libuv_get_version=libuv_get_version, libuv_get_loop_t_ptr=libuv_get_loop_t_ptr)
    vars(package).update(
        __all__=("new_event_loop", "run"),
        __version__=UVLOOP_VERSION,
        __getattr__=module_attribute,
        Loop=Loop,
        install=_install.install,
        loop=inner,
        _version=version,
        new_event_loop=_run.new_event_loop,
        run=_run.run,
    )
    return {module.__name__: module for module in (package, inner, version)}


def _module(name: str, text: str) -> ModuleType:
    module = ModuleType(name, text)
    loader: Any = _Loader(module)
    spec = ModuleSpec(name, loader, origin="loopfast's alias", is_package=name == "uvloop")
    module.__spec__, module.__loader__ = spec, loader
    module.__package__ = spec.parent
    return module

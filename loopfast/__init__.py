"""A drop-in replacement for asyncio's event loop: compiled extension modules over libuv.

This file owns the public names. Importing it loads the compiled core and asyncio, and nothing else of weight: neither
the cffi binding (``loopfast.uv``) nor any framework.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    # Where the extension modules find the bundled libuv; Windows has no rpath.
    os.add_dll_directory(os.path.join(__path__[0], "_lib"))

try:
    from loopfast._loop import Loop
    from loopfast.buildinfo import libuv_version
except ModuleNotFoundError as _missing:
    if _missing.name is None or not _missing.name.startswith("loopfast."):
        raise
    raise ImportError(
        f"loopfast is not built: its compiled module {_missing.name!r} is missing from {__path__[0]!r}. "
        "Install a wheel, or build the source tree with `pip install -e .`; when the current directory is a source "
        "tree that has not been built, run Python from another directory.",
        name=_missing.name,
    ) from _missing

from loopfast._install import install, uninstall
from loopfast._run import new_event_loop, run
from loopfast._statistics import LoopStatistics, SlowCallback
from loopfast._version import __version__

if TYPE_CHECKING:
    from loopfast import fs as fs
    from loopfast._alias import LoopfastAliasWarning, UvloopAlias, uvloop_alias
    from loopfast._policy import EventLoopPolicy as EventLoopPolicy
    from loopfast._watch import Change, ChangeKind, Watch, watch

# EventLoopPolicy is public but not listed: asyncio deprecated policies in 3.14 and drops them in 3.16, and a star
# import must neither create one nor fail where they are gone.
__all__ = [
    "Change",
    "ChangeKind",
    "Loop",
    "LoopStatistics",
    "LoopfastAliasWarning",
    "SlowCallback",
    "UvloopAlias",
    "Watch",
    "__version__",
    "install",
    "libuv_version",
    "new_event_loop",
    "run",
    "uninstall",
    "uvloop_alias",
    "watch",
]

#: Loaded on first use.
_FROM_ALIAS = ("LoopfastAliasWarning", "UvloopAlias", "uvloop_alias")
_FROM_WATCH = ("Change", "ChangeKind", "Watch", "watch")


if not TYPE_CHECKING:
    # A type checker would take it to mean that every name exists.

    def __getattr__(name: str) -> Any:
        """Define on first use ``EventLoopPolicy``, so that importing loopfast never touches asyncio's policies, the
        alias of uvloop, and what is about files."""
        if name == "fs":
            import loopfast.fs

            return loopfast.fs
        if name == "EventLoopPolicy":
            from loopfast._policy import event_loop_policy_class

            return event_loop_policy_class()
        if name in _FROM_WATCH:
            from loopfast import _watch

            globals().update({item: getattr(_watch, item) for item in _FROM_WATCH})
            return globals()[name]
        if name in _FROM_ALIAS:
            from loopfast import _alias

            globals().update({item: getattr(_alias, item) for item in _FROM_ALIAS})
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "EventLoopPolicy", "fs", *_FROM_ALIAS, *_FROM_WATCH})

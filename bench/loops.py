"""The event loops that are compared: how each is made, which version it is, or why it cannot be had here."""

from __future__ import annotations

import asyncio
import importlib
import platform
from collections.abc import Callable

NAMES = ("loopfast", "uvloop", "asyncio")


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Returns the zero-argument factory of the loop called `name` (one of NAMES, or an import string "module:name").

    Raises ImportError where the package is not installed or not built, ValueError for a name of another form.
    """
    module, _, attribute = name.partition(":")
    if attribute:
        return getattr(importlib.import_module(module), attribute)
    if name not in NAMES:
        raise ValueError(f"unknown loop {name!r}: one of {', '.join(NAMES)}, or module:factory")
    return importlib.import_module(name).new_event_loop


def version(name: str) -> str:
    """Returns one line that says which version of the loop called `name` is installed.

    Raises what `factory` raises.
    """
    factory(name)
    if name == "asyncio":
        return f"asyncio of {platform.python_implementation()} {platform.python_version()}"
    module = importlib.import_module(name.partition(":")[0])
    return f"{name} {getattr(module, '__version__', '(no version)')}"


def missing(name: str) -> str | None:
    """Returns None where a loop called `name` can be made here, otherwise the reason why not, on one line."""
    try:
        factory(name)().close()
    except Exception as error:  # a half-built extension may fail in any way; the reason is what the reader needs
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None

"""The event loops that are compared: how each is made, which version it is, or why it cannot be had here."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import platform
from collections.abc import Callable

NAMES = ("loopfast", "uvloop", "asyncio")
PEERS = ("zuvloop", "rloop", "rsloop", "winloop", "aiofastnet")
"""Other packages with an event loop. aiofastnet puts its transports on another loop: alone on asyncio's, otherwise
"aiofastnet+NAME"."""
ALIASES = {"selector": "asyncio:SelectorEventLoop", "proactor": "asyncio:ProactorEventLoop"}
"""asyncio's own loops by kind; "asyncio" is the interpreter's choice of them for the platform."""


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Returns the zero-argument factory of the loop called `name` (of NAMES, PEERS, ALIASES, or "module:factory").

    Raises ImportError where the package is not installed or not built, or has no such factory (proactor outside
    Windows), ValueError for a name of another form.
    """
    name = ALIASES.get(name, name)
    module, colon, attribute = name.partition(":")
    if colon:
        found = getattr(importlib.import_module(module), attribute, None)
        if not callable(found):
            raise ImportError(f"{module} has no {attribute} on this platform")
        return found
    package, plus, below = name.partition("+")
    if package == "aiofastnet":
        return importlib.import_module(package).loop_factory(factory(below if plus else "asyncio"))
    if plus or name not in (*NAMES, *PEERS):
        raise ValueError(f"unknown loop {name!r}: one of {', '.join((*NAMES, *ALIASES, *PEERS))}, or module:factory")
    return importlib.import_module(name).new_event_loop


def source(name: str) -> tuple[str, str]:
    """Returns what `factory` would do as Python text: an import statement and an expression.

    For programs whose start-up is measured, which import nothing else.
    """
    name = ALIASES.get(name, name)
    module, colon, attribute = name.partition(":")
    if colon:
        return f"import {module}", f"{module}.{attribute}"
    package, plus, below = name.partition("+")
    if package == "aiofastnet":
        imports, made = source(below if plus else "asyncio")
        return f"import {package}; {imports}", f"{package}.loop_factory({made})"
    return f"import {name}", f"{name}.new_event_loop"


def same(first: str, second: str) -> bool:
    """Tells whether both names mean the same class of loop here."""
    kinds = []
    for name in (first, second):
        try:
            loop = factory(name)()
        except ImportError:
            return False
        kinds.append(type(loop))
        loop.close()
    return kinds[0] is kinds[1]


def version(name: str) -> str:
    """Returns one line that says which version of the loop called `name` is installed.

    Raises what `factory` raises.
    """
    factory(name)
    parts = []
    for part in ALIASES.get(name, name).split("+"):
        package = part.partition(":")[0]
        if package == "asyncio":
            parts.append(f"{name} of {platform.python_implementation()} {platform.python_version()}")
        else:
            parts.append(f"{part} {package_version(package)}")
    return " on ".join(parts)


def package_version(package: str) -> str:
    """Returns the version that the imported `package` states, or that of its installation."""
    stated = getattr(importlib.import_module(package), "__version__", None)
    if isinstance(stated, str):
        return stated
    try:
        return importlib.metadata.version(package.partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return "(no version)"


def missing(name: str) -> str | None:
    """Returns None where a loop called `name` can be made here, otherwise the reason why not, on one line."""
    try:
        factory(name)().close()
    except Exception as error:  # a half-built extension may fail in any way; the reason is what the reader needs
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None

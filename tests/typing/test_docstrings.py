"""Every public function, class and method of loopfast says what it does, and help() shows its parameters."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

import pytest
from support import importable_modules

import loopfast


def modules() -> list[ModuleType]:
    return [loopfast, *map(importlib.import_module, importable_modules())]


def public_things() -> list[tuple[str, Any]]:
    """Functions, classes and their own methods, of all modules, whose names do not begin with an underscore."""
    found: dict[str, Any] = {}
    for module in modules():
        # Some public names are there on first use.
        listed = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
        for name, value in {**vars(module), **listed}.items():
            own = getattr(value, "__module__", None) == module.__name__ or module is loopfast
            if name.startswith("_") or not own or not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    if not method.startswith("_") and callable(function):
                        found[f"{module.__name__}.{name}.{method}"] = function
    return sorted(found.items())


THINGS = public_things()


def test_they_are_found():
    names = dict(THINGS)
    assert {"loopfast.run", "loopfast.Loop", "loopfast.uv.loop.loop_pointer"} <= set(names)
    assert {"loopfast.transports.stream.StreamTransport.write", "loopfast.callbacks.TimerHandle.when"} <= set(names)
    assert set(loopfast.__all__) - {"__version__"} <= {name.removeprefix("loopfast.") for name in names}


@pytest.mark.parametrize(("name", "thing"), THINGS, ids=[name for name, _ in THINGS])
def test_it_has_a_docstring(name, thing):
    text = inspect.getdoc(thing) or ""
    # Cython's own line with the signature is no description.
    words = [line for line in text.splitlines() if "(" not in line or " " in line.partition("(")[0]]
    assert any(word.strip() for word in words), f"{name} says nothing"
    if inspect.isroutine(thing):
        assert str(inspect.signature(thing)), name


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_a_module_says_what_it_owns(module):
    assert (module.__doc__ or "").strip() or is_generated_or_empty(module), f"{module.__name__} says nothing"


def is_generated_or_empty(module: ModuleType) -> bool:
    """True of cffi's module and of the empty __init__.py of a folder."""
    return module.__name__ == "loopfast.uv._uv" or hasattr(module, "__path__")

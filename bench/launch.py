"""Runs a module of this folder in a process of its own: ``python launch.py suite.worker ARGUMENTS``.

By its path and not as a part of a package: as a part of the installed loopfast it would import loopfast first, and a
process that measures another loop must not hold it.
"""

import importlib.machinery
import importlib.util
import os
import runpy
import sys

PACKAGE = "loopfast_bench"
"""What the folder is called in such a process, wherever it is installed."""


def register() -> None:
    """Makes this folder the package PACKAGE."""
    spec = importlib.machinery.ModuleSpec(PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules.setdefault(PACKAGE, importlib.util.module_from_spec(spec))


def main() -> None:
    """Runs the module that the first argument names as __main__."""
    # The folder of a script comes first on the path, where load.py and the like would hide other modules. The current
    # one, where a loop of the caller's own is, comes last: a random.py there is none of what is measured. A checkout
    # measures itself, whatever is installed.
    if not sys.flags.safe_path:
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        sys.path[:1] = [root] if os.path.exists(os.path.join(root, "setup.py")) else []
        sys.path.append(os.getcwd())
    register()
    module = sys.argv.pop(1)
    runpy.run_module(f"{PACKAGE}.{module}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

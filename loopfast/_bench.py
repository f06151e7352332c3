"""The entry of the benchmark command, ``loopfast-bench`` and ``python -m loopfast bench``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark command with ``argv`` (None: the process's own arguments) and return its exit status.

    Raises:
        SystemExit: ``--help`` with status 0, wrong usage with status 2.
    """
    if importlib.util.find_spec("pyperf") is None:
        print("loopfast-bench: pyperf is not installed: pip install 'loopfast[bench]'", file=sys.stderr)
        return 2
    status: int = importlib.import_module("loopfast.bench.__main__").main(argv)
    return status

"""`make torture`: fault injection, and then hostile calls; or only what a replay line names.

With --rounds or --mode, only the hostile calls: see tests/crash/hostile_calls.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FAULTS = HERE / "faults.py"
HOSTILE = HERE.parent / "crash" / "hostile_calls.py"


def main() -> int:
    arguments = sys.argv[1:]
    if {"--rounds", "--mode", "--calls"} & set(arguments):
        return subprocess.call([sys.executable, HOSTILE, *arguments])
    failed = subprocess.call([sys.executable, FAULTS, *arguments])
    if "--scenario" not in arguments:
        seed = arguments[arguments.index("--seed") :][:2] if "--seed" in arguments else []
        failed |= subprocess.call([sys.executable, HOSTILE, *seed])
    return failed


if __name__ == "__main__":
    sys.exit(main())

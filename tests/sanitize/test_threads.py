"""What `make tsan` runs, for a moment and without the sanitizer: loops in several threads that call each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from threads import SCENARIOS

PROGRAM = Path(__file__).with_name("threads.py")


@pytest.mark.parametrize("name", SCENARIOS)
def test_loops_in_threads(name):
    # asyncio switches this warning off for a moment, which threads disturb for each other.
    quiet = "ignore:'get_child_watcher' is deprecated"
    command = [sys.executable, "-W", quiet, PROGRAM, "--threads", "3", "--rounds", "4", name]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, f"exit status {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert ended.stderr == ""

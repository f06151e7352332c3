"""After each test no child is left, neither running nor a zombie; what is left is ended, so that others do not fail."""

from __future__ import annotations

import contextlib
import glob
import os
import signal

import pytest


def left_children():
    """Return the children of this process; of a zombie on a system that does not list them, its number alone."""
    found = set()
    for name in glob.glob("/proc/self/task/*/children"):
        with contextlib.suppress(OSError), open(name) as file:
            found.update(map(int, file.read().split()))
    if not found:
        with contextlib.suppress(ChildProcessError):
            found.add(os.waitpid(-1, os.WNOHANG)[0])
    return found


@pytest.fixture(autouse=True)
def no_children_left():
    yield
    left = left_children()
    for pid in left - {0}:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert left == set(), "children left"

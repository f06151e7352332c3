"""The soak program itself: a run of a few seconds passes, and what goes wrong in a run is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.timeout(240),
]


def soak(*options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent), "--seed", "1", "--every", "2", *options],
        capture_output=True,
        text=True,
        timeout=230,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout + done.stderr


def test_a_short_run_passes():
    status, out = soak("--minutes", "0.08")
    assert status == 0, out
    assert "soak: passed, seed 1" in out


@pytest.mark.parametrize(
    "sabotage, told",
    [
        ("byte", "different from byte"),
        ("report", "ZeroDivisionError"),
        pytest.param("descriptor", "a descriptor is left: ", marks=pytest.mark.slow),
        pytest.param("stall", "stalled: everything", marks=pytest.mark.slow),
        pytest.param("memory", "grew by more than 4096 KiB", marks=pytest.mark.slow),
    ],
)
def test_what_goes_wrong_is_noticed(sabotage, told):
    minutes = {"memory": "1.1", "stall": "1"}.get(sabotage, "0.1")
    status, out = soak("--minutes", minutes, "--sabotage", sabotage, "--stall", "8" if sabotage == "stall" else "60")
    assert status == 1, out
    assert told in out
    assert "soak: FAILED, seed 1" in out

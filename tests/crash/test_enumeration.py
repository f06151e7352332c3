"""No call from Python crashes the process: all that introspection finds, with hostile arguments, in every state."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_calls import LIMIT, MODES, run_mode

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the watchdog needs setitimer()"),
    pytest.mark.timeout(LIMIT + 10),
]

CLASSES = {
    "asyncio.base_events.Server",
    "loopfast._loop.Loop",
    "loopfast.callbacks.Handle",
    "loopfast.callbacks.TimerHandle",
    "loopfast.handles.poll.DescriptorSet",
    "loopfast.server.Listener",
    "loopfast.sockops.SocketCall",
    "loopfast.streams.StreamCall",
    "loopfast.tls.TLSProtocol",
    "loopfast.transports.pipe.ReadPipeTransport",
    "loopfast.transports.pipe.WritePipeTransport",
    "loopfast.transports.tcp.TCPTransport",
    "loopfast.transports.udp.UDPTransport",
}
if sys.version_info >= (3, 14):
    CLASSES.add("loopfast.callbacks.ThreadSafeHandle")


@pytest.mark.parametrize("mode", MODES)
def test_no_call_crashes(mode):
    report = run_mode(mode, seed=1, calls=5)
    assert report["calls"] > 1000
    if mode in ("live", "running", "receiving", "thread"):
        assert set(report["classes"]) >= CLASSES, "no living instance was found"


def test_the_command_runs_it():
    """As `make torture` does, without what pytest adds to the path."""
    torture = Path(__file__).parents[1] / "faults" / "torture.py"
    root = str(torture.parents[2])
    done = subprocess.run(
        [sys.executable, torture, "--mode", MODES[0], "--calls", "1", "--seed", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), root)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split(":")[0]) == (0, f"{MODES[0]} --seed 1"), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["live", "mixed"])
def test_no_call_crashes_while_the_collector_runs_all_the_time(mode):
    assert run_mode(mode, seed=2, calls=4, gc_threshold=1)["calls"] > 1000

"""Runs the enumeration of hostile calls in child processes: one mode for a test, or every mode with fresh seeds.

python tests/crash/hostile_calls.py --rounds 3
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from enumeration import HANG, JOURNAL_SIZE, MODES

PROGRAM = Path(__file__).with_name("enumeration.py")
# Seconds; the program ends itself, with all stacks, a little earlier.
LIMIT = HANG + 10


@functools.cache
def certificate() -> str:
    """Make a certificate of localhost for this process; return its file and that of its key as a search path."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files = [os.path.join(folder, name) for name in ("cert.pem", "key.pem")]
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return os.pathsep.join(files)


def run_mode(mode: str, seed: int, calls: int, gc_threshold: int = 0) -> dict[str, Any]:
    """Run one mode in a process of its own and return what it says of itself.

    Raises:
        AssertionError: it crashed or hung; the message names the last call and how to repeat it.
    """
    options = ["--mode", mode, "--seed", str(seed), "--calls", str(calls), "--gc", str(gc_threshold)]
    with tempfile.NamedTemporaryFile() as journal:
        journal.write(bytes(JOURNAL_SIZE))
        journal.flush()
        command = [sys.executable, str(PROGRAM), *options, "--journal", journal.name]
        # The order of sets and dicts of text is part of what the seed repeats.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment["ENUMERATION_CERTIFICATE"] = certificate()
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, env=environment, text=True
            )
            status: Any = ended.returncode
            out, err = ended.stdout, ended.stderr
        except subprocess.TimeoutExpired as exc:
            status, out, err = "hung", str(exc.stdout), str(exc.stderr)
        journal.seek(0)
        last = journal.read().split(b"\0")[0].decode("ascii")
    assert status == 0, (
        f"exit status {status} at call {last}\nrepeat: python tests/crash/enumeration.py {' '.join(options)}\n"
        f"{out[-500:]}\n{err[-4000:]}"
    )
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--calls", type=int, default=40, help="argument lists for each callable")
    parser.add_argument("--mode", choices=MODES, action="append")
    options = parser.parse_args()
    failures = 0
    for seed in range(options.seed, options.seed + options.rounds):
        for mode in options.mode or MODES:
            try:
                report = run_mode(mode, seed, options.calls, gc_threshold=seed % 2)
            except AssertionError as exc:
                failures += 1
                print(f"{mode} --seed {seed}: {exc}", flush=True)
            else:
                print(f"{mode} --seed {seed}: {report['calls']} calls survived", flush=True)
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())

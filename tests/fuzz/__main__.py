"""`make fuzz`: rounds of random examples, each with a seed of its own, until the time is over or something differs."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="no round is begun after these")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="of the first round")
    parser.add_argument("--rounds", type=int, default=10**9, help="at most so many")
    parser.add_argument("arguments", nargs="*", help="files or options for pytest (after --)")
    options = parser.parse_args()
    os.environ["HYPOTHESIS_PROFILE"] = "long"
    end = time.monotonic() + options.minutes * 60
    failed = 0
    has_place = any(Path(word.partition("::")[0]).exists() for word in options.arguments)
    places = options.arguments if has_place else [str(FOLDER), *options.arguments]
    for seed in range(options.seed, options.seed + options.rounds):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}", *places]
        print(f"seed {seed}", flush=True)
        if subprocess.call(command, cwd=FOLDER.parents[1]):
            failed += 1
            print(f"repeat: make fuzz ARGS='--seed {seed} --rounds 1'", flush=True)
        if time.monotonic() > end:
            break
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())

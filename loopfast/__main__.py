"""The command `loopfast`, also `python -m loopfast`: what is installed and on what machine, for bug reports.

`loopfast run`, `loopfast top` and `loopfast bench` are commands of their own, in the modules that main() names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

import loopfast
from loopfast import _bench, _command, _info, _top


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loopfast",
        description="Print the versions, the build, the machine and the features of this loopfast installation, for "
        "bug reports. Contains no host name and no user name.",
        epilog="`loopfast run --help`, `loopfast top --help` and `loopfast bench --help` tell about running a program "
        "on loopfast, watching one and the benchmarks.",
    )
    parser.add_argument(
        "--version", action="version", version=f"loopfast {loopfast.__version__} (libuv {loopfast.libuv_version()})"
    )
    parser.add_argument("command", nargs="?", choices=["info"], default="info", help="this report, the default")
    parser.add_argument("--json", action="store_true", help="print the same facts as one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with ``argv`` (None: the process's own arguments) and return the exit status.

    Raises:
        SystemExit: ``--help`` and ``--version`` with status 0, wrong usage with status 2.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["bench"]:
        return _bench.main(words[1:])
    if words[:1] == ["run"]:
        return _command.main(words[1:])
    if words[:1] == ["top"]:
        return _top.main(words[1:])
    arguments = _parser().parse_args(words)
    facts = _info.collect()
    try:
        print(json.dumps(facts, indent=2) if arguments.json else _info.render(facts), flush=True)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Spare the interpreter's own attempt to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`loopfast run`: a program whose Python processes, all of them, have loopfast as their default event loop.

The program takes the place of this process. Its environment carries the rest: PYTHONPATH leads every Python below it to
_boot/sitecustomize.py, and LOOPFAST_RUN tells that what to do.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import NoReturn

__all__ = ["command_line", "environment", "main"]

BOOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_boot")
PYTHON_SUFFIXES = (".py", ".pyw", ".pyz", ".pyc", ".zip")

# The statuses that env(1), nohup(1) and shells end with.
CANNOT_RUN, NOT_FOUND = 126, 127

USAGE = "%(prog)s [--as-uvloop] [python option ...] -m MODULE | -c CODE | FILE | COMMAND [argument ...]"
EPILOG = """\
examples:
  loopfast run -m uvicorn app:app --workers 4
  loopfast run gunicorn -k uvicorn_worker.UvicornWorker app:app
  loopfast run server.py --port 8000
  loopfast run -X dev -m pytest

What begins with a dash is given to Python; a name is looked for beside this Python, then in PATH. The processes that
the program starts are reached through the environment (PYTHONPATH, LOOPFAST_RUN): not those started with Python's
options -I, -E or -S, or with an environment of their own. LOOPFAST_RUN= (empty) before a command switches it off there.
"""


def main(words: Sequence[str]) -> int:
    """Run the command line behind ``loopfast run``. Where the system can, the program replaces this process.

    Returns:
        126 when the program cannot be executed, 127 when there is none; on Windows the status of the program.

    Raises:
        SystemExit: ``--help`` with status 0, wrong usage with status 2.
    """
    parser = argparse.ArgumentParser(
        prog="loopfast run",
        usage=USAGE,
        description="Run a program with loopfast as the event loop of all its Python processes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--as-uvloop", action="store_true", help="`import uvloop` gives loopfast, for programs that know only that name"
    )
    count = next((index for index, word in enumerate(words) if word not in ("--as-uvloop", "-h", "--help")), len(words))
    arguments = parser.parse_args(words[:count])
    if count == len(words):
        parser.error("no program given")
    try:
        line = command_line(words[count:])
        variables = environment(os.environ, as_uvloop=arguments.as_uvloop)
    except ValueError as exc:
        parser.error(str(exc))
    except FileNotFoundError as exc:
        print(f"loopfast run: {exc}", file=sys.stderr)
        return NOT_FOUND
    try:
        return _execute(line, variables)
    except OSError as exc:
        print(f"loopfast run: cannot run {line[0]!r}: {exc.strerror}", file=sys.stderr)
        return NOT_FOUND if isinstance(exc, FileNotFoundError) else CANNOT_RUN


def environment(variables: Mapping[str, str], *, as_uvloop: bool = False) -> dict[str, str]:
    """Return ``variables`` with what leads Python processes to loopfast.

    Args:
        variables: The environment to start from; not changed.
        as_uvloop: Whether ``import uvloop`` is to give loopfast's alias.

    Raises:
        ValueError: The folder of the package cannot be named in PYTHONPATH, as it contains the separator.
    """
    if os.pathsep in BOOT:
        raise ValueError(f"PYTHONPATH cannot name the folder {BOOT!r}")
    path = variables.get("PYTHONPATH", "")
    if BOOT not in path.split(os.pathsep):
        path = os.pathsep.join(filter(None, [BOOT, path]))
    # The process keeps its number when the program replaces it: that one complains if it cannot load loopfast.
    words = [f"pid={os.getpid()}", *(["as-uvloop"] if as_uvloop else [])]
    return {**variables, "PYTHONPATH": path, "LOOPFAST_RUN": " ".join(words)}


def command_line(words: Sequence[str]) -> list[str]:
    """Return the command line to execute, its first word a path, for what the user wrote after ``loopfast run``.

    Raises:
        ValueError: Python options that keep the interpreter from its environment or from ``sitecustomize``.
        FileNotFoundError: There is no file and no command of that name.
    """
    first = words[0]
    if first.startswith("-") or _is_for_python(first):
        return [*_interpreter(words), *words]
    if os.path.dirname(first):
        return [first, *words[1:]]
    # Beside this Python first: there is no use in a program of another environment, which may have no loopfast.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    if found := shutil.which(first, path=path):
        return [found, *words[1:]]
    if os.path.isfile(first):
        return [*_interpreter(words), *words]
    raise FileNotFoundError(f"no file and no command {first!r}")


def _is_for_python(name: str) -> bool:
    """Whether ``name`` is what Python runs itself: a script, or a folder or archive with a ``__main__``."""
    return name.endswith(PYTHON_SUFFIXES) or os.path.isfile(os.path.join(name, "__main__.py"))


def _interpreter(words: Sequence[str]) -> list[str]:
    """Return how to start this Python again, with the options it has been started with.

    ``words`` are what is to follow; see command_line() for the errors.
    """
    if not sys.executable:
        raise FileNotFoundError("this Python does not know the path of its interpreter")
    flags = sys.flags
    # -I implies -E.
    started_with = {"-I": flags.isolated, "-E": flags.ignore_environment, "-S": flags.no_site}
    refused = next((option for option, is_set in started_with.items() if is_set), None) or _refused_option(words)
    if refused:
        raise ValueError(
            f"Python's option {refused} switches off what `loopfast run` works by (PYTHONPATH, sitecustomize)"
        )
    options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    if getattr(sys.stdout, "write_through", False):
        options.append("-u")  # the only option of interest that sys.flags does not tell
    return [sys.executable, *options]


def _refused_option(words: Sequence[str]) -> str | None:
    """Return the first of the options -I, -E and -S in a Python command line, which may join short options."""
    rest = iter(words)
    for word in rest:
        if word == "--check-hash-based-pycs":
            next(rest, None)
        elif word == "-" or not word.startswith("-"):
            break
        elif not word.startswith("--"):
            for index, letter in enumerate(word[1:], 1):
                if letter in "IES":
                    return f"-{letter}"
                if letter in "cm":  # the program: what follows is its own
                    return None
                if letter in "WX":  # with a value, here or in the next word
                    if index == len(word) - 1:
                        next(rest, None)
                    break
    return None


def _execute(line: Sequence[str], variables: Mapping[str, str]) -> int:
    """Replace this process by the program; on Windows, which cannot, run it and return its status."""
    if sys.platform == "win32":
        with subprocess.Popen(line, env=variables) as process:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:  # Ctrl+C reaches the program, too, and it decides
                    continue
    return _replace(line, variables)


def _replace(line: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    # Python ignores these for itself, and exec would pass that on to programs that are not Python (execve(2)).
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.execve(line[0], list(line), dict(variables))

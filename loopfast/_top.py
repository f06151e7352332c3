"""The command `loopfast top`: what the event loops of a running process are doing, live in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import json
import os
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from loopfast import _endpoint
from loopfast._statistics import LoopStatistics
from loopfast._version import __version__

#: Seconds that a loop has for an answer when it is asked once. A blocked loop does not answer.
PATIENCE = 2.0
#: Bytes of an answer, at most.
LONGEST_ANSWER = 4 * 1024 * 1024
FIELDS = {*LoopStatistics._fields, "utilisation"}
HOW = "start it with LOOPFAST_TOP=1 in its environment, or call loop.open_statistics_endpoint() in it"


class Refused(Exception):
    """What keeps us from watching, as a line for the user."""


# -------------------------------------------------------------------------------------------------------------- finding


class Place(NamedTuple):
    """Where a loop can be asked."""

    pid: int
    number: int
    path: str


def find_places(folder: str | None, uids: Iterable[int] = ()) -> list[Place]:
    """Return the endpoints of this machine that can be seen, those of processes that are gone among them.

    Args:
        folder: where to look; None means the default folders, and what the kernel lists.
        uids: further users in whose folders to look.
    """
    if folder is not None:
        folders = [folder]
    else:
        wanted = os.environ.get("LOOPFAST_TOP", "")
        folders = [os.path.abspath(wanted)] if os.sep in wanted else []
        for uid in (None, *uids):
            folders += _endpoint.default_folders(uid)
    paths = []
    for each in folders:
        with contextlib.suppress(OSError):
            paths += [os.path.join(each, name) for name in os.listdir(each)]
    if folder is None:
        paths += bound_paths()
    found: dict[tuple[int, int], Place] = {}
    for path in paths:
        match = _endpoint.NAME.fullmatch(os.path.basename(path))
        if match:
            place = Place(int(match[1]), int(match[2]), path)
            found.setdefault((place.pid, place.number), place)
    return sorted(found.values())


def bound_paths() -> list[str]:
    """Return the paths of all UNIX sockets, as Linux lists them; also in folders that we do not know."""
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
            # https://man7.org/linux/man-pages/man5/proc_net.5.html: the path is the eighth field.
            fields = [line.rstrip("\n").split(None, 7) for line in file]
    except OSError:
        return []
    return [each[7] for each in fields if len(each) == 8 and each[7].startswith(os.sep)]


def parents() -> dict[int, int]:
    """Return the parent of each process (Linux; elsewhere nothing)."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                    # The name, in parentheses, may hold anything; the parent is the second field behind it.
                    found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    return found


def family(pid: int) -> set[int]:
    """Return *pid* and its descendants: the workers of a server."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found, waiting = set(), [pid]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += children.get(each, ())
    return found


def owner_of(pid: int) -> int | None:
    """Return the user of a process, None where that cannot be found out."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def command_of(pid: int) -> str:
    """Return the command line of a process, "" where it cannot be read."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(2000).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


# --------------------------------------------------------------------------------------------------------------- asking


class Watched:
    """A loop that is asked: its connection, and the last two answers."""

    def __init__(self, place: Place) -> None:
        """Connect.

        Raises:
            OSError: nobody listens there any more, or it is another user's.
        """
        self.place = place
        self.answer: dict[str, Any] | None = None
        self.before: dict[str, Any] | None = None
        #: Since when an answer is awaited, by the monotonic clock; None if none is.
        self.asked: float | None = None
        self.gone = False
        self._received = b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(PATIENCE)
            self.socket.connect(place.path)
            self.socket.setblocking(False)
            listener = peer_of(self.socket)
            if listener not in (None, place.pid):
                # Anybody may give a socket this name.
                raise PermissionError(errno.EPERM, f"the socket is one of process {listener}", place.path)
        except BaseException:
            self.socket.close()
            raise

    def ask(self) -> None:
        """Ask, unless an answer is awaited."""
        if self.asked is None and not self.gone:
            try:
                self.socket.send(_endpoint.REQUEST)
            except OSError:
                self.gone = True
            else:
                self.asked = time.monotonic()

    def read(self) -> None:
        """Take what has come of the answer."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        if not data or len(self._received) > LONGEST_ANSWER:
            self.gone = True
        elif self._received.endswith(b"\n"):
            answer, self._received = self._received, b""
            self.asked = None
            try:
                found = json.loads(answer)
                facts = found["statistics"]
                missing = FIELDS - facts.keys()
            except (ValueError, KeyError, TypeError, AttributeError):
                self.gone = True
                return
            if missing:
                raise Refused(
                    f"process {self.place.pid} runs loopfast {found.get('loopfast')}, which this one, {__version__}, "
                    "does not understand"
                )
            self.before, self.answer = self.answer, found

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def peer_of(connection: socket.socket) -> int | None:
    """Return the process that listens at the other end, where the system tells."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[0]) or None


def ask_all(loops: Sequence[Watched], seconds: float) -> None:
    """Ask each of *loops*, and wait for the answers, at most for *seconds*."""
    deadline = time.monotonic() + seconds
    for each in loops:
        each.ask()
    while waiting := [each for each in loops if each.asked is not None and not each.gone]:
        ready = select.select([each.socket for each in waiting], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            return
        for each in waiting:
            if each.socket in ready:
                each.read()


def connect(places: Iterable[Place]) -> tuple[list[Watched], list[OSError]]:
    """Connect to all *places*; return those that answer the call, and why others did not. Removes what dead processes
    of ours have left."""
    loops, problems = [], []
    for place in places:
        try:
            loops.append(Watched(place))
        except OSError as exc:
            problems.append(exc)
            _endpoint.remove_left_over(place.path)
    return loops, problems


def places_of(pid: int, folder: str | None) -> list[Place]:
    """Return where the loops of the process *pid* can be asked, or else those of its descendants."""
    uid = owner_of(pid)
    places = find_places(folder, () if uid is None else (uid,))
    own = [place for place in places if place.pid == pid]
    if not own:
        relatives = family(pid)
        own = [place for place in places if place.pid in relatives]
    # A service may have a folder for temporary files of its own.
    return [
        place if os.path.exists(place.path) else place._replace(path=f"/proc/{place.pid}/root{place.path}")
        for place in own
    ]


def watch_process(pid: int, folder: str | None) -> list[Watched]:
    """Connect to the loops of the process *pid*, or else to those of its descendants.

    Raises:
        Refused: there is none that we could watch.
    """
    if not _endpoint.exists(pid):
        raise Refused(f"there is no process {pid}")
    uid = owner_of(pid)
    loops, problems = connect(places_of(pid, folder))
    if loops:
        return loops
    if any(isinstance(each, PermissionError) for each in problems) or (
        uid not in (None, os.geteuid()) and os.geteuid() != 0
    ):
        raise Refused(f"permission denied: process {pid} belongs to uid {uid}; ask as that user or as root")
    if problems:
        raise Refused(f"process {pid} cannot be asked: {problems[0]}")
    raise Refused(f"process {pid} has no statistics endpoint: {HOW}")


# -------------------------------------------------------------------------------------------------------------- figures

#: Fields of which the change in a second is shown.
RATES = ("iterations", "callbacks", "events", "bytes_received", "bytes_sent", "accepted", "slow_callbacks", "stalls")


def rates_of(watched: Watched) -> dict[str, float] | None:
    """Return what happened in a second, and the utilisation, between the last two answers; None without two."""
    if watched.answer is None or watched.before is None:
        return None
    now, before = watched.answer["statistics"], watched.before["statistics"]
    seconds = now["time"] - before["time"]
    if not seconds > 0:
        return None
    found = {field: (now[field] - before[field]) / seconds for field in RATES}
    run_time = now["run_time"] - before["run_time"]
    idle_time = now["idle_time"] - before["idle_time"]
    found["utilisation"] = min(1.0, max(0.0, 1.0 - idle_time / run_time)) if run_time > 0 else 0.0
    return found


def as_json(loops: Sequence[Watched]) -> str:
    """Return one line: a list with an object for each loop."""
    facts = []
    for each in loops:
        answer = each.answer or {"pid": each.place.pid, "loop": each.place.number, "statistics": None}
        facts.append({**answer, "answers": each.asked is None and not each.gone, "rates": rates_of(each)})
    return json.dumps(facts)


def quantity(number: float) -> str:
    """Return a number with few digits: 950, 12.3k, 4.56M."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 1000:
            return f"{number:.0f}" if not unit else f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def plain(text: str) -> str:
    """Return *text*, which comes of another process, without what a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


#: Headings of the figures of a loop, and the width from which on they are side by side.
HEADINGS = tuple(
    "busy|turns/s|calls/s|events/s|ready|timers|handles|in B/s|out B/s|conn/s|errors|stalls|slow".split("|")
)
WIDE = 140


def screen(loops: Sequence[Watched], title: str, width: int) -> Any:
    """Return what is shown of *loops* in a terminal of *width* columns, for rich to print."""
    group = importlib.import_module("rich.console").Group
    table_of = importlib.import_module("rich.table").Table
    text_of = importlib.import_module("rich.text").Text

    def line(words: str, style: str = "") -> Any:
        return text_of(plain(words), style=style, no_wrap=True, overflow="ellipsis")

    rows = [[text_of("pid/loop"), text_of("thread"), *map(text_of, HEADINGS)]]
    details: list[Any] = []
    for each in loops:
        label = f"{each.place.pid}/{each.place.number}"
        if each.answer is None:
            rows.append([text_of(label), text_of("no answer", style="red"), *[text_of("-")] * len(HEADINGS)])
            continue
        facts = each.answer["statistics"]
        rows.append([text_of(label), line(str(each.answer["thread"])), *cells(each, facts, rates_of(each), text_of)])
        kinds = [f"{number} {name}" for name, number in facts["transports"].items() if number]
        kinds += [f"{facts['listeners']} listening"] if facts["listeners"] else []
        kinds += [f"{facts['descriptors']} watched"] if facts["descriptors"] else []
        handles = ", ".join(f"{number} {name}" for name, number in facts["handles"].items())
        details.append(line(f"{label}  transports: {', '.join(kinds) or 'none'}; handles: {handles or 'none'}"))
    is_wide = width >= WIDE
    if not is_wide:
        rows = [list(row) for row in zip(*rows, strict=True)]
    table = table_of(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, justify="left" if number < 1 + is_wide else "right", no_wrap=True, max_width=16)
    for row in rows[1:]:
        table.add_row(*row)
    slow = [(call["when"], each, call) for each in loops if each.answer for call in each.answer["statistics"]["slow"]]
    for when, each, call in sorted(slow, key=lambda entry: entry[0])[-4:][::-1]:
        task = f"task {call['task']}" if call["task"] else call["callback"]
        clock = time.strftime("%H:%M:%S", time.localtime(when))
        details.append(line(f"slow: {clock}  {call['duration']:.3f} s in {each.place.pid}  {task}", "yellow"))
        details += [line(f"  {near(frame)}", "dim") for frame in call["stack"][-6:]]
    return group(line(title), table, *details)


def near(frame: str) -> str:
    """Return a line of a stack with the end of its file's path only: what it says comes behind that."""
    return re.sub(r"^\S*/([^/\s]+/[^/\s]+:\d+ in )", r"\1", frame)


def cells(
    watched: Watched, facts: dict[str, Any], rates: dict[str, float] | None, text_of: Callable[..., Any]
) -> list[Any]:
    """Return the cells of a loop's row from its utilisation on."""
    if watched.asked is not None and time.monotonic() - watched.asked > 0.5:
        busy = text_of(f"blocked {time.monotonic() - watched.asked:.0f} s", style="bold red")
    elif not facts["running"]:
        busy = text_of("rests", style="dim")
    else:
        share = facts["utilisation"] if rates is None else rates["utilisation"]
        busy = text_of(f"{share:.0%}", style="red" if share > 0.9 else "yellow" if share > 0.6 else "green")
    rate = dict.fromkeys(RATES, "-") if rates is None else {name: quantity(rates[name]) for name in RATES}
    figures = [
        *(rate[name] for name in ("iterations", "callbacks", "events")),
        str(facts["ready"]),
        str(facts["timers"]),
        str(sum(facts["handles"].values())),
        *(rate[name] for name in ("bytes_received", "bytes_sent", "accepted")),
        str(facts["accept_errors"]),
        str(facts["stalls"]),
        str(facts["slow_callbacks"]),
    ]
    return [busy, *map(text_of, figures)]


# -------------------------------------------------------------------------------------------------------------- command


def parser_of() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="loopfast top",
        description="Show what the event loops of a running process are doing, or with no PID which processes can be "
        f"watched. To have a process watched, {HOW}.",
        epilog="busy: the part of the time that the loop was not asleep; stalls: times that a few turns without sleep "
        "took loop.slow_callback_duration (0.1 s) or longer; slow: callbacks that took so long. Ctrl+C ends it. Exit "
        "status: 0, or 1 if there was nothing to watch.",
    )
    parser.add_argument("pid", nargs="?", type=int, metavar="PID", help="the process, or the parent of the processes")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="time between two looks (1)")
    parser.add_argument("--once", action="store_true", help="look for one interval, print that and end")
    parser.add_argument("--json", action="store_true", help="print lines of JSON: a list with an object for each loop")
    parser.add_argument(
        "--folder", metavar="PATH", help="where the process has its socket, if not in the default place"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (None: the process's own arguments) and return the exit status.

    Raises:
        SystemExit: ``--help`` with status 0, wrong usage with status 2.
    """
    parser = parser_of()
    options = parser.parse_args(argv)
    if not 0.05 <= options.interval <= 3600:
        parser.error(f"--interval must be from 0.05 to 3600 seconds, not {options.interval:g}")
    if options.pid is not None and options.pid <= 0:
        parser.error(f"PID must be positive, not {options.pid}")
    if not hasattr(socket, "AF_UNIX"):
        print("loopfast top: there are no UNIX sockets on this system", file=sys.stderr)
        return 1
    if not options.json and importlib.util.find_spec("rich") is None:
        print("loopfast top: rich is not installed: pip install 'loopfast[top]', or use --json", file=sys.stderr)
        return 2
    try:
        return show_processes(options) if options.pid is None else show_process(options)
    except Refused as exc:
        print(f"loopfast top: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Spare the interpreter's own attempt to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def show_processes(options: argparse.Namespace) -> int:
    """Print the processes that can be watched."""
    loops, _problems = connect(find_places(options.folder))
    with contextlib.ExitStack() as stack:
        for each in loops:
            stack.callback(each.close)
        ask_all(loops, PATIENCE)
        loops = [each for each in loops if not each.gone]
        if options.json:
            print(as_json(loops), flush=True)
        elif loops:
            commands = {each.place.pid: command_of(each.place.pid) for each in loops}
            console = importlib.import_module("rich.console").Console()
            console.print(screen(loops, "processes with a statistics endpoint", console.width))
            for pid, command in commands.items():
                console.print(
                    plain(f"{pid}  {command}"), markup=False, highlight=False, no_wrap=True, overflow="ellipsis"
                )
        else:
            raise Refused(f"no process with a statistics endpoint; to have one watched, {HOW}")
    return 0


def show_process(options: argparse.Namespace) -> int:
    """Show the loops of a process until it ends, or once."""
    loops = watch_process(options.pid, options.folder)
    with contextlib.ExitStack() as stack:
        for each in loops:
            stack.callback(each.close)
        ask_all(loops, PATIENCE)
        title = f"{options.pid}  {command_of(options.pid)}"
        once = options.once or not (options.json or sys.stdout.isatty())
        if once:
            time.sleep(options.interval)
            ask_all(loops, PATIENCE)
            print_once(loops, title, options.json)
            return 0
        show: Callable[[], None]
        if options.json:

            def show() -> None:
                print(as_json(loops), flush=True)

        else:
            live_of = importlib.import_module("rich.live").Live
            live = stack.enter_context(live_of(auto_refresh=False, vertical_overflow="crop"))

            def show() -> None:
                live.update(screen(loops, title, live.console.width), refresh=True)

        while True:
            show()
            due = time.monotonic() + options.interval
            # The time of the answers is part of the interval: of a blocked loop we see that it is.
            time.sleep(max(0.0, options.interval - 0.02))
            ask_all(loops, max(0.02, min(0.5, options.interval / 2)))
            time.sleep(max(0.0, due - time.monotonic()))
            stay(loops, options)
            if not loops:
                break
    print(f"loopfast top: process {options.pid} has ended, or closed its loops", file=sys.stderr)
    return 0


def stay(loops: list[Watched], options: argparse.Namespace) -> None:
    """Take out of *loops* those that are gone, and put in what the process has opened since."""
    for each in [each for each in loops if each.gone]:
        each.close()
        loops.remove(each)
    known = {each.place for each in loops}
    found, _problems = connect(place for place in places_of(options.pid, options.folder) if place not in known)
    loops += found


def print_once(loops: Sequence[Watched], title: str, json_wanted: bool) -> None:
    """Print the last answers.

    Raises:
        Refused: there is none.
    """
    if all(each.answer is None for each in loops):
        raise Refused(f"no answer within {PATIENCE:g} seconds: the loop is blocked, or does not run")
    if json_wanted:
        print(as_json(loops), flush=True)
    else:
        console = importlib.import_module("rich.console").Console()
        console.print(screen(loops, title, console.width))

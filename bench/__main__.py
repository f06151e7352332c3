"""``loopfast-bench``, also ``python -m bench``: measures event loops side by side, shows and compares the results."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from . import loops
from .native import Unavailable
from .suite import compare, micro, page, plot, registry, run, show
from .suite.results import BadFile, Results

PROGRAM = "python -m bench" if __package__ == "bench" else "loopfast-bench"
"""What the command is called in its help, in a checkout or installed."""


def positive(kind: type) -> object:
    """Returns a converter of an argument to a number of `kind` above zero."""

    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    convert.__name__ = f"positive {'whole ' if kind is int else ''}number"
    return convert


class Parser(argparse.ArgumentParser):
    """Answers a wrong command line with one line."""

    def error(self, message: str) -> None:
        self.exit(2, f"bench: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    main = Parser(prog=PROGRAM, description=__doc__.partition(": ")[2].capitalize())
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    one = commands.add_parser("list", help="show the workloads and the loops")
    one.add_argument("patterns", nargs="*", metavar="WORKLOAD")

    one = commands.add_parser("run", help="measure and show the result")
    one.add_argument("patterns", nargs="*", metavar="WORKLOAD", help="names, groups or patterns such as 'tcp.*'")
    one.add_argument(
        "--loops",
        default=",".join(run.DEFAULT),
        metavar="NAMES",
        help='with commas; "all", or module:factory; asyncio is always measured (default: %(default)s)',
    )
    scope = one.add_mutually_exclusive_group()
    scope.add_argument("--quick", action="store_true", help="fewer workloads and short rounds, within three minutes")
    scope.add_argument("--full", action="store_true", help="every size with every number of connections, for hours")
    one.add_argument(
        "--counts", action="store_true", help="also instructions and system calls (valgrind, strace); takes longer"
    )
    one.add_argument("--rounds", type=positive(int), help="interleaved rounds per loop (default: 5, quick 3)")
    one.add_argument("--seconds", type=positive(float), help="of load in each round of a server (0.8, quick 0.25)")
    one.add_argument("-o", "--output", type=Path, metavar="FILE", help="save the result as JSON")

    one = commands.add_parser("report", help="show a saved result, or turn it into Markdown, a page or a picture")
    one.add_argument("file", type=Path)
    one.add_argument("--into", type=Path, metavar="FOLDER", help="write all of them there: page, Markdown and pictures")
    one.add_argument("--markdown", type=Path, metavar="FILE", help="write Markdown")
    one.add_argument("--html", type=Path, metavar="FILE", help="write a page with charts")
    one.add_argument("--plot", type=Path, metavar="FILE", help="draw a chart (.png, .svg or .pdf; needs matplotlib)")
    one.add_argument(
        "--chart", choices=sorted(plot.CHARTS), default="overview", help="which one (default: %(default)s)"
    )

    one = commands.add_parser("compare", help="set a later result beside an earlier one")
    one.add_argument("before", type=Path)
    one.add_argument("after", type=Path)
    one.add_argument("--loop", metavar="NAME", help="this loop only")
    one.add_argument(
        "--fail-above", type=positive(float), metavar="PERCENT", help="status 1 where a loop became slower by more"
    )

    one = commands.add_parser("export", help="write a result as pyperf files, one per loop, for pyperf's own tools")
    one.add_argument("file", type=Path)
    one.add_argument("folder", type=Path)
    return main


def list_all(patterns: Sequence[str]) -> None:
    """Prints the workloads that match, and every loop with its version or the reason why it cannot be had."""
    workloads = registry.select(patterns, registry.Tier.FULL)
    width = max(len(workload.name) for workload in workloads)
    for workload in workloads:
        tier = "" if workload.tier is registry.Tier.DEFAULT else workload.tier.name.lower()
        print(f"{workload.name:{width}}  {tier:5}  {workload.title}")
    print()
    for name in (*loops.NAMES, *loops.ALIASES, *loops.PEERS):
        reason = loops.missing(name)
        print(f"{name:{width}}  {loops.version(name) if reason is None else f'not here: {reason}'}")


def measure(arguments: argparse.Namespace) -> None:
    """Does the command run."""
    tier = registry.Tier.QUICK if arguments.quick else registry.Tier.FULL if arguments.full else registry.Tier.DEFAULT
    workloads = registry.select(arguments.patterns, tier)
    if any(workload.load is None for workload in workloads):
        micro.require_pyperf()
    if arguments.output is not None and not arguments.output.resolve().parent.is_dir():
        raise ValueError(f"there is no folder {arguments.output.resolve().parent} for the result")
    names, absent = run.choose([name for name in arguments.loops.split(",") if name])
    for name, reason in absent.items():
        print(f"bench: {name} is not measured: {reason}", file=sys.stderr)
    settings = run.QUICK if arguments.quick else run.Settings()
    given = {key: value for key in ("rounds", "seconds") if (value := getattr(arguments, key)) is not None}
    settings = dataclasses.replace(settings, **given, counts=arguments.counts)
    with show.watcher() as watcher:
        results = run.run(workloads, names, absent, settings, watcher, arguments.output)
    show.show(results)


def report(arguments: argparse.Namespace) -> None:
    """Does the command report."""
    results = Results.load(arguments.file)
    if arguments.markdown is not None:
        arguments.markdown.write_text(show.markdown(results), encoding="utf-8")
    if arguments.html is not None:
        arguments.html.write_text(page.html(results), encoding="utf-8")
    if arguments.plot is not None:
        plot.draw(results, arguments.plot, arguments.chart)
    if arguments.into is not None:
        write_all(results, arguments.into)
    if not (arguments.markdown or arguments.html or arguments.plot or arguments.into):
        show.show(results)


def write_all(results: Results, folder: Path) -> None:
    """Writes the page, the Markdown and every chart as PNG and SVG into `folder`, and prints their names."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "report.html": page.html(results),
        "report.md": show.markdown(results),
        "ratios.md": show.brief(results),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)
    for chart in plot.CHARTS:
        for kind in (".png", ".svg"):
            path = folder / f"{chart}{kind}"
            try:
                plot.draw(results, path, chart)
            except ValueError as nothing:
                print(f"bench: no {path.name}: {nothing}", file=sys.stderr)
                continue
            print(path)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    arguments = parser().parse_args(words)
    try:
        match arguments.command:
            case "list":
                list_all(arguments.patterns)
            case "run":
                measure(arguments)
            case "report":
                report(arguments)
            case "compare":
                changes = compare.changes(Results.load(arguments.before), Results.load(arguments.after), arguments.loop)
                print(compare.text(changes))
                limit = arguments.fail_above
                if limit is not None and any(change.slower_by > limit / 100 for change in changes):
                    return 1
            case "export":
                for path in Results.load(arguments.file).export(arguments.folder):
                    print(path)
    except (BadFile, ValueError, OSError, Unavailable) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; what was measured is in the output file, if one was named", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

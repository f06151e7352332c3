"""``python -m tests.compatibility``: docs/compatibility.md, made from what the tests have shown.

``run`` runs the behaviour tests on both loops and CPython's own asyncio tests on both, keeps the outcomes in
results.json, and writes the page; only what has changed since is run again. ``write`` writes the page alone.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# pytest knows this package by another name, and not the one beside it. Last: an installed loopfast comes first.
sys.path.append(str(ROOT))

from tests.compatibility.recorder import VARIABLE  # noqa: E402
from tests.parity import __main__ as parity  # noqa: E402

RESULTS = HERE / "results.json"
PAGE = ROOT / "docs" / "compatibility.md"

#: Folder of tests -> its heading on the page. In each, a test runs on loopfast and on the interpreter's own loop.
AREAS = {
    "core": "Scheduling, timers, tasks, signals, descriptors, executors",
    "tcp": "TCP",
    "unix": "UNIX sockets",
    "udp": "Datagrams",
    "tls": "TLS",
    "streams": "Streams",
    "sockops": "Socket calls: `sock_recv()` and its kin",
    "pipes": "Pipes",
    "processes": "Subprocesses",
    "watch": "Watching files (loopfast's own)",
    "files": "Files (loopfast's own)",
    "insight": "Statistics (loopfast's own)",
}
#: Real programs: a table of its own.
INTEROP = "interop"
COLUMNS = ("same", "ours", "theirs", "skipped", "failed")
HEADINGS = ("same on both", "loopfast or once", "asyncio alone", "left out", "failed")


def test_files(area: str) -> list[Path]:
    return sorted((ROOT / "tests" / area).glob("test_*.py"))


def key(path: Path) -> str:
    return path.relative_to(ROOT / "tests").as_posix()


def test_names(path: Path) -> list[str]:
    """Return the names of the tests in *path*, without importing it."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return sorted(node.name for node in ast.walk(tree) if isinstance(node, functions) and node.name.startswith("test_"))


def purpose(path: Path) -> str:
    """Return the first paragraph of the docstring of *path*."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def all_files() -> list[Path]:
    return [path for area in (*AREAS, INTEROP) for path in test_files(area)]


def stale(results: dict[str, Any]) -> list[Path]:
    """Return the files whose tests are others than when they were run, or failed; those that are gone are not among
    them."""
    recorded = results["files"]

    def is_stale(path: Path) -> bool:
        counts = recorded.get(key(path))
        return counts is None or counts["failed"] or counts["tests"] != test_names(path)

    return [path for path in all_files() if is_stale(path)]


# ------------------------------------------------------------------------------------------------------------ running


def run_files(paths: Sequence[Path], jobs: int) -> dict[str, Any]:
    """Run the tests in *paths* on both loops and return what the page needs of each file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.compatibility.recorder", "-p", "no:cacheprovider"]
        if jobs > 1:
            command += ["-n", str(jobs), "--dist", "loadfile"]
        environment = {**os.environ, VARIABLE: str(file), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
        subprocess.run([*command, *map(str, paths)], cwd=ROOT, env=environment, check=False)
        outcomes = json.loads(file.read_text())
    return {key(path): summary(path, outcomes) for path in paths}


def summary(path: Path, outcomes: dict[str, Any]) -> dict[str, Any]:
    """Count the cases of *path*: the same on both loops, of one loop alone, left out, failed."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for case, kinds in outcomes["cases"].items():
        if case.partition("::")[0] != f"tests/{key(path)}":
            continue
        ended = set(kinds.values())
        reason = outcomes["reasons"].get(case, "")
        if "failed" in ended:
            counts["failed"] += 1
        elif "skipped" in ended:
            counts["skipped"] += 1
            left_out[reason] += 1
        elif kinds.keys() == {"loopfast", "asyncio"}:
            counts["same"] += 1
        else:
            counts["theirs" if kinds.keys() == {"asyncio"} else "ours"] += 1
            reasons[reason] += 1
    return {
        **{name: counts[name] for name in COLUMNS},
        "reasons": dict(sorted(reasons.items())),
        "left out": dict(sorted(left_out.items())),
        "tests": test_names(path),
    }


def run_parity(known: dict[str, dict[str, int]], jobs: int, timeout: float) -> dict[str, dict[str, int]]:
    """Run CPython's own tests on both loops and count, module by module, the outcomes that are the same.

    Args:
        known: earlier counts. What was the same then is not run again.
    """
    available = parity.available(parity.MODULES)
    if not available:
        raise SystemExit("this interpreter ships no test.test_asyncio")
    kept = {module: known[module] for module in available if module in known}
    kept = {module: counts for module, counts in kept.items() if counts["same"] == counts["asyncio"]}
    modules = [module for module in available if module not in kept]

    def compare(module: str) -> dict[str, int]:
        theirs, _ = parity.run("asyncio", module, timeout)
        ours, output = parity.run("loopfast", module, timeout)
        if not ours or not theirs:
            raise SystemExit(f"{module}: no result\n{output[-2000:]}")
        passed = [test for test, outcome in theirs.items() if outcome == "passed"]
        print(f"{module}: {len(passed)} passed on asyncio", flush=True)
        return {
            "asyncio": len(passed),
            "same": sum(ours.get(test) == "passed" for test in passed),
            "skipped": sum(outcome == "skipped" for outcome in theirs.values()),
            "failed": sum(outcome == "failed" for outcome in theirs.values()),
        }

    with ThreadPoolExecutor(jobs) as pool:
        return kept | dict(zip(modules, pool.map(compare, modules), strict=True))


def machine() -> dict[str, str]:
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""
    return {
        "python": platform.python_version(),
        "system": f"{system or platform.system()}, {platform.machine()}, {platform.system()} {platform.release()}",
    }


# ------------------------------------------------------------------------------------------------------------ writing


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Return a Markdown table whose first *left* columns are text and whose others are numbers."""
    rule = ["---" if number < left else "---:" for number in range(len(headings))]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [headings, rule, *rows])


def section(title: str) -> str:
    """Return what the README says below the heading *title*."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"README.md has no section {title!r}")
    return found[1].strip()


def counted(files: dict[str, Any], area: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, counts) for name, counts in sorted(files.items()) if name.startswith(f"{area}/"))


def number(value: int) -> str:
    return f"{value:,}" if value else ""


def sums(entries: Iterable[tuple[str, dict[str, Any]]]) -> list[int]:
    listed = [counts for _, counts in entries]
    return [sum(counts[column] for counts in listed) for column in COLUMNS]


def render(results: dict[str, Any]) -> str:
    """Return the page for *results*."""
    files, machine_of_run = results["files"], results["machine"]
    parts = [
        "<!-- Generated by `make compatibility` from the tests' outcomes: do not change it by hand. -->",
        "# Compatibility",
        "The standard is asyncio, as it is in the very version of Python that runs. Every test of behaviour runs "
        "twice, on loopfast and on the interpreter's own loop, and must pass on both. CPython's own asyncio tests run "
        "on both, too. This page is generated from the outcomes.",
        f"The behaviour tests below ran on CPython {machine_of_run['python']}, {machine_of_run['system']}.",
    ]
    areas = [(area, title) for area, title in AREAS.items() if any(counted(files, area))]
    total = sums((name, counts) for name, counts in files.items())
    # What nobody needs to see is a column of nothing.
    shown = [column for column in range(len(COLUMNS)) if total[column]]

    def row(name: str, values: Sequence[int]) -> list[str]:
        return [name, *(number(values[column]) for column in shown)]

    rows = [row(f"[{title}](#{slug(title)})", sums(counted(files, area))) for area, title in areas]
    frameworks = "Frameworks, servers and drivers"
    rows.append(row(f"[{frameworks}](#{slug(frameworks)})", sums(counted(files, INTEROP))))
    rows.append([f"**{cell}**" for cell in row("together", total)])
    headings = ["area", *(HEADINGS[column] for column in shown)]
    parts += [
        table(headings, rows),
        "A row counts test cases. *Same on both*: the case passed on loopfast and on asyncio. *Loopfast or once*: the "
        "case is about what loopfast adds or does [otherwise](#where-one-loop-stands-alone), or compares both itself; "
        "it passed. *Left out*: something that the test needs is not there, or not in that version of Python.",
        "## What differs on purpose",
        section("Where it differs from asyncio"),
        "## CPython's own asyncio tests",
        parity_text(results["parity"]),
        "## Area by area",
    ]
    for area, title in areas:
        parts += [f"### {title}", files_table(counted(files, area))]
    parts += [
        "### Frameworks, servers and drivers",
        "Real programs of others, each talking to a real peer, on both loops.",
        files_table(counted(files, INTEROP)),
        "## Where one loop stands alone",
        "Cases for one loop, with the reason that the test gives. A reason that speaks of asyncio names a fault or a "
        "limit of asyncio's that loopfast does not share.",
        reasons_text(files, "reasons"),
        "## Left out in this run",
        reasons_text(files, "left out") or "Nothing.",
    ]
    return "\n\n".join(parts) + "\n"


def slug(title: str) -> str:
    """Return the anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def files_table(entries: Iterable[tuple[str, dict[str, Any]]]) -> str:
    rows = []
    for name, counts in entries:
        path = ROOT / "tests" / name
        text = purpose(path) if path.exists() else ""
        short = name.partition("/")[2].removeprefix("test_").removesuffix(".py").replace("_", " ")
        rows.append([f"**{short}**: {text}", counts["same"], counts["ours"] + counts["theirs"]])
    return table(("what is tested", "same on both", "others"), rows)


def parity_text(versions: dict[str, Any]) -> str:
    """The table of CPython's tests: for each version how many pass on asyncio, and of these on loopfast."""
    listed = sorted(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])
    modules = sorted({module for version in listed for module in versions[version]})
    rows = []
    for module in modules:
        cells = []
        for version in listed:
            counts = versions[version].get(module)
            cells.append("" if counts is None else f"{counts['same']:,} of {counts['asyncio']:,}")
        rows.append([f"`{module}`", *cells])
    whole = []
    for version in listed:
        counts = versions[version].values()
        whole.append(f"**{sum(c['same'] for c in counts):,} of {sum(c['asyncio'] for c in counts):,}**")
    rows.append(["**together**", *whole])
    different = sum(c["asyncio"] - c["same"] for version in listed for c in versions[version].values())
    exceptions = parity.HERE.joinpath("not_applicable.toml").read_text(encoding="utf-8")
    names = re.findall(r'^"?([\w.]+)"? *= *"(.+)"$', exceptions, re.MULTILINE)
    text = (
        "The modules of `test.test_asyncio` that make loops, as each version ships them, with loopfast in the place of "
        "every loop they make: how many tests pass on loopfast, of those that pass on asyncio on the same machine."
    )
    end = "Listed as not applicable to another loop: " + (
        "; ".join(f"`{name}` ({reason})" for name, reason in names) + "." if names else "none."
    )
    if different:
        end += f" Different: {different}."
    return "\n\n".join([text, table(("module", *listed), rows), end])


def reasons_text(files: dict[str, Any], which: str) -> str:
    found: dict[str, Counter[str]] = {}
    for name, counts in sorted(files.items()):
        for reason, count in counts[which].items():
            found.setdefault(reason or "one test for both loops, or for none", Counter())[name] += count
    lines = []
    for reason, places in sorted(found.items()):
        where = ", ".join(f"`{name}` {count}" for name, count in sorted(places.items()))
        lines.append(f"- {reason}: {where}")
    return "\n".join(lines)


def load() -> dict[str, Any]:
    if RESULTS.exists():
        results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
        return results
    return {"machine": machine(), "files": {}, "parity": {}}


def save(results: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help="write the page from the outcomes that are there")
    one = commands.add_parser("run", help="run what has changed, keep the outcomes, write the page")
    one.add_argument("--all", action="store_true", help="run everything, changed or not")
    one.add_argument("--only", choices=("behaviour", "parity"), help="run one half")
    one.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    one.add_argument("--timeout", type=float, default=300, help="seconds for one module of CPython (default: 300)")
    options = parser.parse_args(words)
    results = load()
    if options.command == "run":
        version = "{}.{}".format(*sys.version_info)
        is_other_python = results["machine"]["python"].rpartition(".")[0] != version
        if options.only != "parity":
            everything = options.all or is_other_python
            paths = all_files() if everything else stale(results)
            kept = {} if everything else results["files"]
            names = {key(path) for path in all_files()}
            results["files"] = {name: counts for name, counts in kept.items() if name in names}
            for area in (*AREAS, INTEROP):
                if of_area := [path for path in paths if path.parent.name == area]:
                    # Kept area by area: a run that is cut short goes on where it was.
                    results["files"] |= run_files(of_area, options.jobs)
                    results["machine"] = machine()
                    save(results)
        if options.only != "behaviour":
            known = {} if options.all else results["parity"].get(version, {})
            results["parity"][version] = run_parity(known, options.jobs, options.timeout)
            save(results)
    PAGE.write_text(render(results), encoding="utf-8")
    failed = sum(counts["failed"] for counts in results["files"].values())
    print(f"{PAGE.relative_to(ROOT)}: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The budget: differencing on a workload of known cost, the verdicts, the table and the command."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest

from bench import native
from bench.budget import measure, report
from bench.budget.measure import Cost
from bench.budget.report import State, Target, Tolerance
from bench.budget.rows import ROWS, Row

TOLERANCE = Tolerance(ir=0.03, syscalls=0.05)
TARGETS = {
    "fast": Target("fast", "a fast one", "core", ir=1000, syscalls=0, reference={}),
    "served": Target("served", "a server", "tcp", ir=2000, syscalls=2.1, reference={}),
}
tools = pytest.mark.skipif(
    not all(map(shutil.which, ("valgrind", "strace", "cc"))), reason="valgrind, strace or a C compiler is absent"
)


def cost(row: str = "fast", ir: float | None = 1000, calls: dict[str, float] | None = None, **more: object) -> Cost:
    """A measured row of loopfast's."""
    return Cost(row, "loopfast", ir=ir, syscalls={} if calls is None else calls, **more)


def test_every_row_has_a_target_and_every_target_a_row() -> None:
    targets, _ = report.read_targets()
    assert set(targets) == set(ROWS)
    assert all(target.ir > 0 and target.title and target.group for target in targets.values())


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        (cost(ir=1000), State.OK),
        (cost(ir=1000.5), State.OVER),
        (cost(calls={"epoll_wait": 0.01}), State.OK),
        (cost(calls={"epoll_wait": 0.06}), State.OVER),
        (cost("served", calls={"read": 1.0, "write": 1.0, "epoll_pwait": 0.1}), State.OK),
        (cost("served", calls={"read": 1.0, "write": 2.0}), State.OVER),
        (cost("served", faults=["mmap 10x"]), State.OVER),
        (Cost("fast", "loopfast", reason="not built"), State.NOT_MEASURED),
        (Cost("fast", "loopfast", ir=10.0, reason="strace is absent"), State.NOT_MEASURED),
    ],
)
def test_state(measured: Cost, wanted: State) -> None:
    assert report.state(measured, TARGETS[measured.row], TOLERANCE) is wanted


def test_the_gate_refuses_what_is_above_the_tolerance_and_what_is_missing() -> None:
    fine = [cost(ir=1030), cost("served", ir=2060, calls={"read": 2.21})]
    assert report.gate(fine, TARGETS, TOLERANCE) == []
    bad = [
        cost(ir=1031),
        cost("served", ir=1, calls={"read": 2.23}),
        cost("served", ir=1, faults=["mmap 10x"]),
        Cost("fast", "loopfast", reason="not built"),
    ]
    refused = report.gate(bad, TARGETS, TOLERANCE)
    assert [line.split(":")[1].split(",")[0].strip() for line in refused] == [
        "1031 instructions",
        "2.23 system calls",
        "mmap 10x",
        "not measured",
    ]


def test_the_gate_holds_a_missed_target_to_its_limit() -> None:
    targets = {"fast": dataclasses.replace(TARGETS["fast"], limit={"ir": 1200}, why="the interpreter takes 1100 of it")}
    assert report.gate([cost(ir=1236)], targets, TOLERANCE) == []
    assert report.gate([cost(ir=1237)], targets, TOLERANCE) == ["fast: 1237 instructions, allowed 1200"]
    assert report.gate([cost(ir=1, calls={"read": 0.06})], targets, TOLERANCE) == ["fast: 0.06 system calls, allowed 0"]
    assert report.state(cost(ir=1236), targets["fast"], TOLERANCE) is State.OVER


def test_a_limit_has_a_reason_and_is_above_the_target() -> None:
    targets, tolerance = report.read_targets()
    for target in targets.values():
        assert bool(target.limit) == bool(target.why), target.name
        for what, limit in target.limit.items():
            assert limit > getattr(target, what) * (1 + tolerance.ir), f"{target.name}: the tolerance is enough"


def test_selection_by_row_group_and_pattern() -> None:
    assert report.select(TARGETS, []) == ["fast", "served"]
    assert report.select(TARGETS, ["tcp", "f*"]) == ["fast", "served"]
    assert report.select(TARGETS, ["serv*"]) == ["served"]
    with pytest.raises(ValueError, match="'slow'"):
        report.select(TARGETS, ["fast", "slow"])


def test_the_table_shows_every_row_also_missing_ones() -> None:
    costs = {
        ("fast", "loopfast"): cost(ir=1500),
        ("served", "loopfast"): Cost("served", "loopfast", reason="the server fell over"),
        ("fast", "uvloop"): Cost("fast", "uvloop", reason="No module named 'uvloop'"),
        ("served", "uvloop"): Cost("served", "uvloop", ir=4900.0, syscalls={"read": 2.1}, faults=["ioctl 7x"]),
    }
    names, loops = ["fast", "served"], ["loopfast", "uvloop"]
    headings, _, fast, _, served = report.table(costs, names, loops, TARGETS, TOLERANCE).splitlines()
    assert headings.split()[-4:] == ["uvloop", "Ir", "uvloop", "sys"]
    assert "1.50" in fast and "over" in fast and fast.split()[-2:] == ["-", "-"]
    assert "not measured" in served and served.split()[-2:] == ["4,900", "2.10"]
    notes = report.notes([costs[name, loop] for loop in loops for name in names])
    assert [note.partition(":")[2] for note in notes][:2] == [" the server fell over", " No module named 'uvloop'"]
    assert "ioctl 7x" in notes[2]


def test_strace_log_is_cut_at_the_marks() -> None:
    mark = f'7 write(-1, "{measure.MARK}", 13) = -1 EBADF (Bad file descriptor)\n'
    log = (
        "7 read(3, ...) = 1\n"
        + mark
        + '7 read(3, "x", 1) = 1\n8 futex(0x1, FUTEX_WAIT <unfinished ...>\n'
        + mark
        + '7 read(3, "x", 1) = 1\n8 <... futex resumed>) = 0\n7 write(4, "loopfast-mark", 13) = 13\n'
        + mark
        + "7 close(3) = 0\n"
    )
    assert measure.sections_of(log) == [{"read": 1, "futex": 1}, {"read": 1, "write": 1}]


def test_rules_for_servers() -> None:
    row = ROWS["tcp_echo"]
    assert measure.faults(row, collections.Counter(read=100, write=100, epoll_ctl=10), 100) == []
    broken = measure.faults(row, collections.Counter(read=100, mmap=3, epoll_ctl=11), 100)
    assert broken == ["mmap 3x", "epoll_ctl 11x for 10 connections"]
    assert measure.faults(ROWS["accept"], collections.Counter(epoll_ctl=100), 100) == []


def test_shorter_runs_keep_whole_batches() -> None:
    for row in ROWS.values():
        warm_up, short, long = measure.scaled(row.counts, 5)
        assert short < long <= row.counts[2] and long % short == 0 and warm_up == row.counts[0]


def known(loop: object, count: int) -> None:
    """Exactly one system call an operation, and about the same instructions each time."""
    for _ in range(count):
        os.getppid()


@tools
def test_differencing_finds_the_known_cost(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker imports its rows, so the known workload comes as a replacement of that module."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(native.SOURCES)!r})\n"
        "import launch\n"
        "del sys.path[0]\n"
        "launch.register()\n"
        "from loopfast_bench.budget import rows\n"
        "def known(loop, count):\n"
        "    for _ in range(count):\n"
        "        os.getppid()\n"
        "def twice(loop, count):\n"
        "    known(loop, count)\n"
        "    known(loop, count)\n"
        "rows.ROWS['known'] = rows.Row('known', known, (100, 100, 2100))\n"
        "rows.ROWS['twice'] = rows.Row('twice', twice, (100, 100, 2100))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{native.checkout()}")
    counts = (100, 100, 2100)
    once, twice = (Row(name, known, counts) for name in ("known", "twice"))
    assert measure.syscalls(once, "asyncio", counts) == ({"getppid": 1.0}, [])
    assert measure.syscalls(twice, "asyncio", counts) == ({"getppid": 2.0}, [])
    profile = tmp_path / "profile.txt"
    single = measure.instructions(once, "asyncio", counts, profile)
    double = measure.instructions(twice, "asyncio", counts)
    assert single > 50
    assert double == pytest.approx(2 * single, rel=0.02)
    assert measure.instructions(once, "asyncio", counts) == pytest.approx(single, rel=0.02)
    assert "getppid" in profile.read_text()


@tools
def test_the_command_measures_gates_and_names_what_is_missing(tmp_path) -> None:
    result = tmp_path / "result.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.budget",
            "call_soon",
            "tcp_echo",
            "--quick",
            "--gate",
            "--json",
            str(result),
            "--loops",
            "asyncio,no_such_package:new_event_loop",
        ],
        cwd=native.SOURCES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "No module named 'no_such_package'" in done.stdout
    assert "asyncio: 0 ok, 2 over, 0 not measured" in done.stdout
    rows = {(row["row"], row["loop"]): row for row in json.loads(result.read_text())["rows"]}
    assert len(rows) == 4
    assert 3000 < rows["call_soon", "asyncio"]["ir"] < 30000
    echo = rows["tcp_echo", "asyncio"]
    # A read and a write, three calls more where a read maps memory, and from a tenth of a poll (all ten connections
    # ready at once) to a whole one (a busy machine).
    assert 2 < echo["syscalls"] < 6.2
    assert rows["call_soon", "no_such_package:new_event_loop"]["state"] == "not measured"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["no_such_row"], "'no_such_row'"), (["--loops", "trio"], "'trio'"), (["--jobs", "0"], "0")],
)
def test_bad_words_are_refused(words: list[str], complaint: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.budget", *words],
        cwd=native.SOURCES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert complaint in done.stderr

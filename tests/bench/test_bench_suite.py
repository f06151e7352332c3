"""The benchmark command: its arguments, its statistics, its files and tables, and how it answers what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyperf
import pytest

from bench import __main__ as command
from bench import loops, native
from bench.suite import compare, counting, machine, micro, page, plot, registry, run, show, stability, stats
from bench.suite.results import BadFile, Cell, Counts, Results, Row, Sample


def sample(seconds: float, cpu: float | None = None) -> Sample:
    """Returns what a process measured, of a server where `cpu` is given."""
    if cpu is None:
        return Sample([seconds])
    return Sample([seconds], {"p50": 10.0, "p99": 20.0, "p99.9": 30.0, "max": 40.0}, cpu, 0.5, 1e6)


def results(times: dict[str, list[float]], name: str = "tcp.echo", cpu: float | None = None) -> Results:
    """Returns a result of one workload with these times per round."""
    row = Row(name, "an | echo", "tcp", "micro" if cpu is None else "server")
    row.cells = {loop: Cell([sample(value, cpu) for value in values]) for loop, values in times.items()}
    settings = dataclasses.asdict(run.Settings())
    return Results({"date": "today"}, settings, {loop: f"{loop} 1.0" for loop in times}, {"rloop": "none"}, [row])


# Statistics


def test_a_ratio_is_paired_by_rounds() -> None:
    # The second round met a machine at half its speed: the ratio does not see it.
    ratio = stats.paired([2.0, 4.0, 2.0], [1.0, 2.0, 1.0])
    assert (ratio.middle, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert not ratio.tie
    assert stats.unpaired([2.0, 4.0, 2.0], [1.0, 2.0, 1.0]).tie


def test_an_interval_is_students() -> None:
    # Logarithms 1, 2 and 3: mean 2, standard error 1/sqrt(3), two degrees of freedom.
    ratio = stats.paired([math.exp(1), math.exp(2), math.exp(3)], [1.0, 1.0, 1.0])
    assert math.log(ratio.middle) == pytest.approx(2)
    assert math.log(ratio.high) - 2 == pytest.approx(4.303 / math.sqrt(3))
    assert 2 - math.log(ratio.low) == pytest.approx(4.303 / math.sqrt(3))
    assert ratio.tie


def test_one_round_says_nothing() -> None:
    ratio = stats.paired([2.0], [1.0])
    assert ratio.middle == pytest.approx(2)
    assert ratio.tie
    assert show.ratio_text(ratio) == "2.00x (1 round)"


def test_students_quantile_falls_towards_the_normal_one() -> None:
    quantiles = [stats.student(freedom) for freedom in range(200)]
    assert quantiles[0] == math.inf
    assert quantiles == sorted(quantiles, reverse=True)
    assert quantiles[30] == pytest.approx(2.042, abs=0.01)
    assert quantiles[-1] > stats.NORMAL


def test_series_of_different_length_are_no_pairs() -> None:
    with pytest.raises(ValueError):
        stats.paired([1.0, 2.0], [1.0])


def test_spread() -> None:
    assert stats.spread([1.0, 2.0, 4.0]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5e-9, "1.50 ns"), (123e-9, "123 ns"), (45.67e-6, "45.7 µs"), (0.002, "2.00 ms"), (12, "12.0 s"), (None, "-")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert show.duration(seconds) == text


# Tables


def test_a_tie_and_a_gain_are_told_apart() -> None:
    got = results({"asyncio": [2.0, 2.1, 2.0], "loopfast": [1.0, 1.0, 1.1], "uvloop": [2.1, 2.0, 2.0]}, cpu=0.5)
    row = got.rows[0]
    assert show.cells(row, "asyncio")[3] == "1"
    assert show.cells(row, "uvloop")[3].endswith(" tie")
    assert not show.cells(row, "loopfast")[3].endswith(" tie")
    assert show.cells(row, "loopfast")[5:9] == ["10.0 µs", "20.0 µs", "30.0 µs", "500 ms"]
    assert show.cells(row, "loopfast")[10] == "50%"
    assert len(show.cells(row, "loopfast")) == len(show.headings(got))
    assert show.summary(got) == [["loopfast", "1", "0", "0", "0", "1.97x"], ["uvloop", "0", "1", "0", "0", "1.00x"]]


def test_a_failed_loop_stays_in_the_table() -> None:
    got = results({"asyncio": [2.0, 2.0], "rloop": []})
    got.rows[0].cells["rloop"].error = "NotImplementedError: no such thing"
    for text in (show.plain(got), show.markdown(got)):
        assert "failed: NotImplementedError: no such thing" in text
        assert "rloop: not measured: none" in text
    assert show.summary(got) == [["rloop", "0", "0", "0", "1", "-"]]


def test_a_busy_generator_and_noise_are_remarked() -> None:
    noisy = Cell([Sample([1.0], client=0.99), Sample([2.0], client=0.97)])
    assert show.remarks(noisy) == "noisy, generator 98% busy"
    assert show.remarks(Cell([Sample([1.0], client=0.5), Sample([1.01], client=0.5)])) == ""


def test_markdown_is_a_table() -> None:
    lines = show.markdown(results({"asyncio": [2.0, 2.0], "loopfast": [1.0, 1.0]})).splitlines()
    grid = [line for line in lines if line.startswith("| `tcp.echo`")]
    assert len(grid) == 2
    assert len({line.count("|") for line in [*grid, next(x for x in lines if x.startswith("| workload"))]}) == 1


# Files


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    got = results({"asyncio": [2.0, 2.1], "loopfast": [1.0, 1.1]}, cpu=0.5)
    got.rows[0].cells["loopfast"].error = "broken later"
    got.rows[0].cells["asyncio"].counts = Counts(1234.5, {"read": 1.0}, "no valgrind")
    got.rows[0].cells["asyncio"].warnings = ["the shortest raw value is only 1 us"]
    got.save(tmp_path / "result.json")
    assert Results.load(tmp_path / "result.json") == got
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no JSON"),
        ("[]", "no result"),
        ('{"format": 99}', "no result"),
        ('{"format": 2}', "damaged"),
        ('{"format": 2, "rows": [{"cells": {"asyncio": {}}}]}', "damaged"),
        (None, "No such file"),
    ],
)
def test_another_file_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadFile, match=words) as caught:
        Results.load(path)
    assert "other.json" in str(caught.value)


def test_export_is_read_by_pyperf(tmp_path: Path) -> None:
    results({"asyncio": [2.0, 3.0, 4.0], "loopfast": [1.0, 1.0, 1.0]}).export(tmp_path / "new")
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "new" / "asyncio.json"))
    assert [(b.get_name(), b.get_values()) for b in suite] == [("tcp.echo", (2.0, 3.0, 4.0))]


def by_size() -> Results:
    """Returns a result with a server at two sizes, one of them failing on a loop, and the memory of a connection."""
    both = {"asyncio": [2.0, 2.1, 2.0], "loopfast": [1.0, 1.1, 1.0]}
    got = results(both, "tcp.protocol.64B.c10", cpu=0.5)
    large = results({**both, "rloop": []}, "tcp.protocol.1MiB.c10", cpu=0.5).rows[0]
    large.cells["rloop"].error = "it broke"
    memory = results({"asyncio": [3000.0, 3100.0, 3000.0], "loopfast": [1000.0, 1010.0, 1000.0]}, "idle.tcp").rows[0]
    memory.unit, memory.kind = "byte", "memory"
    got.rows += [large, memory]
    for row, size in zip(got.rows, (64, 2**20), strict=False):
        row.size, row.connections = size, 10
    got.loops["rloop"] = "rloop 0.5"
    return got


@pytest.mark.parametrize("chart", plot.CHARTS)
def test_a_picture_is_drawn(tmp_path: Path, chart: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    by_size().save(tmp_path / "result.json")
    words = ["report", str(tmp_path / "result.json"), "--plot", str(tmp_path / "out.svg"), "--chart", chart]
    assert command.main(words) == 0
    text = (tmp_path / "out.svg").read_text()
    assert "<svg" in text and "tcp.protocol" in text and "today" in text
    assert ("idle.tcp" in text) == (chart == "overview")


def test_all_reports_are_written_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    by_size().save(tmp_path / "result.json")
    assert command.main(["report", str(tmp_path / "result.json"), "--into", str(tmp_path / "new")]) == 0
    wanted = {
        "report.html",
        "report.md",
        "ratios.md",
        *(f"{chart}.{kind}" for chart in plot.CHARTS for kind in ("png", "svg")),
    }
    assert {path.name for path in (tmp_path / "new").iterdir()} == wanted
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == wanted
    # Where there is nothing for a chart, the others are written and the reason is told.
    results({"asyncio": [2.0, 2.1], "loopfast": [1.0, 1.1]}).save(tmp_path / "result.json")
    assert command.main(["report", str(tmp_path / "result.json"), "--into", str(tmp_path / "less")]) == 0
    assert {path.stem for path in (tmp_path / "less").iterdir()} == {"report", "ratios", "overview"}
    assert "no throughput.png: " in capsys.readouterr().err


def test_the_brief_table_marks_the_best_ties_and_failures() -> None:
    got = by_size()
    # The processor time is the same on both, whatever the client saw.
    assert show.brief(got).splitlines() == [
        "| workload | loopfast | rloop |",
        "| --- | ---: | ---: |",
        "| `tcp.protocol.64B.c10` | **~ 1.00** | - |",
        "| `tcp.protocol.1MiB.c10` | **~ 1.00** | failed |",
        "| `idle.tcp` | **3.02** | - |",
    ]


def test_memory_is_in_bytes_and_less_is_better() -> None:
    row = by_size().rows[2]
    assert show.cells(row, "loopfast")[1:3] == ["1000 B", "-"]
    assert show.cells(row, "asyncio")[1] == "2.93 KiB"
    assert show.verdict(row, "loopfast") == "faster"
    grown = by_size()
    grown.rows[2].cells["loopfast"].samples = [Sample([4000.0]), Sample([4010.0]), Sample([4000.0])]
    told = compare.text(compare.changes(by_size(), grown))
    assert "LARGER" in told and "3.91 KiB" in told


def test_counts_have_columns_of_their_own() -> None:
    got = results({"asyncio": [2.0, 2.1], "loopfast": [1.0, 1.1]})
    assert "instr/op" not in show.plain(got)
    got.settings["counts"] = True
    got.rows[0].cells["loopfast"].counts = Counts(12345.6, {"read": 1.0, "write": 1.1})
    got.rows[0].cells["asyncio"].counts = Counts(reason="valgrind is not installed")
    for text in (show.plain(got), show.markdown(got), page.html(got)):
        assert "instr/op" in text and "12,346" in text and "2.1" in text
        assert "tcp.echo on asyncio: valgrind is not installed" in text


def test_the_sections_of_a_count_are_whole_batches() -> None:
    workload = registry.load_all()["call_soon.batch"]
    for seconds in (1e-7, 1e-3, 10.0):
        warm_up, short, long = counting.sections(workload, seconds)
        assert 0 < short <= warm_up and short < long
        assert all(part % workload.batch == 0 for part in (warm_up, short, long))
    many = registry.load_all()["tcp.protocol.1KiB.c1000"]
    assert counting.sections(many, 1e-5)[0] >= 1000


def test_what_other_processes_do_is_not_counted() -> None:
    table = registry.load_all()
    for name in (*counting.LEFT_OUT, "idle.tcp"):
        told = counting.count(table[name], "asyncio", Cell([Sample([1.0])]))
        assert told.instructions is None and told.reason.startswith("not counted")
    assert "failed" in counting.count(table["task.sleep0"], "asyncio", Cell(error="broken")).reason


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("name", ["call_soon.single", "unix.protocol.1KiB.c10"])
def test_system_calls_are_counted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # Without valgrind, which takes long, the other half is there all the same, and the reason of the first.
    which = shutil.which
    monkeypatch.setattr(native.shutil, "which", lambda tool: None if tool == "valgrind" else which(tool))
    got = counting.count(registry.load_all()[name], "asyncio", Cell([Sample([1e-4])]))
    assert got.instructions is None and "valgrind is not installed" in got.reason
    wanted = {"call_soon.single": "epoll_wait", "unix.protocol.1KiB.c10": "recvfrom"}[name]
    assert got.syscalls[wanted] == pytest.approx(1, rel=0.2)


def test_pyperfs_warnings_are_kept_and_shown() -> None:
    got = results({"asyncio": [1.0, 3.0, 1.0, 9.0], "loopfast": [1.0] * 4})
    got.rows.append(results({"asyncio": [1.0, 1.0]}, "other").rows[0])
    stability.judge(got)
    told = got.rows[0].cells["asyncio"].warnings
    assert any("standard deviation" in each for each in told) and any("maximum" in each for each in told)
    assert not any("deviation" in each for each in got.rows[0].cells["loopfast"].warnings)
    assert "unstable" in show.remarks(got.rows[0].cells["asyncio"])
    for text in (show.plain(got), show.markdown(got), page.html(got)):
        assert told[0] in text


def test_warnings_are_read_by_benchmark() -> None:
    said = "a\n-\n\nWARNING: unstable\n* one\n* two\nTry\n\nb\n=\n\nfine\n"
    assert stability.warnings(said, ["a", "b"]) == {"a": ["one", "two"]}
    assert stability.warnings("WARNING\n* one\n", ["only"]) == {"only": ["one"]}


def test_every_form_of_report_names_the_machine_the_interval_and_the_tie() -> None:
    got = results({"asyncio": [2.0, 2.1, 2.0], "loopfast": [2.1, 2.0, 2.0]})
    got.machine |= {"governor": "performance", "kernel": "Linux 6", "python build": "--with-lto"}
    for text in (show.plain(got), show.markdown(got), page.html(got)):
        assert re.search(r"1\.00x \[0\.\d\d, 1\.\d\d\] tie", text)
        for fact in ("performance", "Linux 6", "--with-lto", "loopfast 1.0"):
            assert fact in text


def test_the_page_shows_a_failed_loop_in_its_charts() -> None:
    text = page.html(by_size())
    row = next(line for line in text.splitlines() if line.startswith('<div class="row"><b') and "1MiB" in line)
    assert "failed" in row
    assert "failed: it broke" in text and "rloop: not measured: none" in text


def test_a_page_needs_nothing_else(tmp_path: Path) -> None:
    got = results({"asyncio": [2.0, 2.1], "loopfast": [1.0, 1.1]}, name="tcp.<echo>", cpu=0.5)
    got.save(tmp_path / "result.json")
    assert command.main(["report", str(tmp_path / "result.json"), "--html", str(tmp_path / "out.html")]) == 0
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "tcp.&lt;echo&gt;" in text and "<echo>" not in text
    assert '<tr class="faster"><td>loopfast</td>' in text
    assert not re.search(r"(src|href)=\"(?!#)|url\(|@import|https?://", text)


def test_a_picture_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    results({"asyncio": [2.0, 2.1]}).save(tmp_path / "result.json")
    for name in ("out.svg", "out.txt"):
        assert command.main(["report", str(tmp_path / "result.json"), "--plot", str(tmp_path / name)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_compare_marks_what_became_slower() -> None:
    before = results({"asyncio": [1.0, 1.01, 0.99], "loopfast": [1.0, 1.01, 0.99]})
    after = results({"asyncio": [1.01, 1.0, 0.99], "loopfast": [1.2, 1.21, 1.19]})
    found = {change.loop: change for change in compare.changes(before, after)}
    assert found["asyncio"].word == "no difference seen"
    assert found["asyncio"].slower_by == 0
    assert found["loopfast"].word == "SLOWER"
    assert found["loopfast"].slower_by == pytest.approx(0.2, abs=0.01)
    assert [c.loop for c in compare.changes(before, after, "loopfast")] == ["loopfast"]
    assert "SLOWER" in compare.text(list(found.values()))
    with pytest.raises(ValueError, match="in common"):
        compare.changes(before, results({"asyncio": [1.0]}, "udp.echo"))


@pytest.mark.parametrize(("limit", "status"), [("10", 1), ("30", 0)])
def test_compare_can_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str, status: int) -> None:
    for name, times in (("a", [1.0, 1.01, 0.99]), ("b", [1.2, 1.21, 1.19])):
        results({"asyncio": times}).save(tmp_path / name)
    assert command.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--fail-above", limit]) == status
    assert "SLOWER" in capsys.readouterr().out


# Choosing


def test_selection_by_name_group_and_pattern() -> None:
    everything = registry.select([], registry.Tier.FULL)
    assert len(everything) == len(registry.WORKLOADS)
    assert [w.name for w in registry.select(["task.sleep0"])] == ["task.sleep0"]
    assert {w.group for w in registry.select(["tls", "unix.*"])} == {"tls", "unix"}
    quick, ordinary = (registry.select([], tier) for tier in (registry.Tier.QUICK, registry.Tier.DEFAULT))
    assert 0 < len(quick) < len(ordinary) < len(everything)
    assert {w.name for w in quick} < {w.name for w in ordinary} < {w.name for w in everything}
    # Loads of one server go from small to large.
    sizes = [w.load.size for w in everything if w.family == "tcp.protocol"]
    assert sizes == sorted(sizes)
    # A group stands for its part of the ordinary run, a pattern for everything it matches.
    assert {w.name for w in registry.select(["tcp"])} == {w.name for w in ordinary if w.group == "tcp"}
    assert len(registry.select(["tcp.*"])) > len(registry.select(["tcp"]))
    assert {w.name for w in registry.select(["tcp"], registry.Tier.FULL)} == {
        w.name for w in registry.select(["tcp.*"])
    }
    with pytest.raises(ValueError, match="'nothing'"):
        registry.select(["tls", "nothing"])


def test_asyncio_is_always_measured_and_first() -> None:
    assert run.choose(["asyncio:SelectorEventLoop"]) == (["asyncio", "asyncio:SelectorEventLoop"], {})
    assert run.choose([]) == (["asyncio"], {})


def test_a_loop_that_is_not_here_has_its_reason() -> None:
    names, absent = run.choose(["asyncio:NoSuchLoop", "no_such_package:make"])
    assert names == ["asyncio"]
    assert "NoSuchLoop" in absent["asyncio:NoSuchLoop"]
    assert "no_such_package" in absent["no_such_package:make"]
    every, missing = run.choose(["all"])
    assert {*every, *missing} == {*loops.NAMES, *loops.ALIASES, *loops.PEERS}
    # One of them is what asyncio chooses here, and would be measured twice.
    assert "the same as asyncio" in missing["proactor" if sys.platform == "win32" else "selector"]
    # Named, it is measured.
    assert run.choose(["selector"])[0] == ["asyncio", "selector"]


def test_aiofastnet_is_put_on_another_loop() -> None:
    pytest.importorskip("aiofastnet", reason="aiofastnet is not installed")
    assert " on " in loops.version("aiofastnet+asyncio")
    loops.factory("aiofastnet+asyncio")().close()


def test_rounds_take_turns_and_a_failed_loop_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Recorder:
        def __init__(self, workload: str, loop: str, min_time: float, values: int) -> None:
            self.loop = loop

        def measure(self) -> Sample:
            asked.append(self.loop)
            if self.loop == "b":
                raise micro.Failed("it broke")
            return Sample([1.0])

    monkeypatch.setattr(run.micro, "Micro", Recorder)
    steps: list[tuple[str, bool]] = []
    row = run.measure_row(
        registry.select(["task.sleep0"])[0],
        ["a", "b", "c"],
        run.Settings(rounds=3),
        (None, None),
        lambda _workload, loop, sample: steps.append((loop, sample is not None)),
    )
    assert asked == ["a", "b", "c", "c", "a", "c", "a"]
    assert [loop for loop, _ in steps] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert row.cells["b"].error == "it broke"
    assert len(row.cells["a"].samples) == len(row.cells["c"].samples) == 3


# The command line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "COMMAND"),
        (["walk"], "walk"),
        (["run", "no.such.workload"], "no workload matches 'no.such.workload'"),
        (["run", "task.sleep0", "--loops", "wrongloop"], "unknown loop 'wrongloop'"),
        (["run", "task.sleep0", "--loops", "uvloop+asyncio"], "unknown loop 'uvloop+asyncio'"),
        (["run", "--rounds", "0"], "positive whole number"),
        (["run", "--seconds", "nan"], "positive number"),
        (["run", "tcp.sock*", "-o", "no/such/folder/result.json"], "no folder"),
        (["list", "nope"], "'nope'"),
        (["report", "no-such-file.json"], "no-such-file.json: No such file"),
        (["compare", "no-such-file.json", "other.json"], "no-such-file.json"),
        (["export", "no-such-file.json", "folder"], "no-such-file.json"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    try:
        status = command.main(words)
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    assert status == 2
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("bench: ") and told in said.err


def test_list_shows_workloads_and_loops(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    said = capsys.readouterr().out
    for name in [*registry.WORKLOADS, *loops.NAMES, *loops.PEERS, *loops.ALIASES]:
        assert f"\n{name} " in f"\n{said}"


def test_the_machine_is_described_without_its_folders() -> None:
    told = machine.describe()
    assert {"date", "kernel", "python", "processors"} <= set(told)
    assert str(Path.home()) not in json.dumps(told)
    assert sys.prefix not in json.dumps(told)


def test_a_run_from_end_to_end(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    words = ["run", "--quick", "--rounds", "2", "call_soon.single", "future.*", "-o", str(file)]
    words += ["--loops", "loopfast,asyncio:NoSuchLoop"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=native.SOURCES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "bench: asyncio:NoSuchLoop is not measured: ImportError" in done.stderr
    assert "100%  future.set_result: asyncio" in done.stderr
    assert "asyncio:NoSuchLoop: not measured" in done.stdout
    got = Results.load(file)
    assert [row.name for row in got.rows] == ["call_soon.single", "future.set_result"]
    for row in got.rows:
        assert list(row.cells) == ["asyncio", "loopfast"]
        for cell in row.cells.values():
            assert cell.error is None
            assert [len(each.values) for each in cell.samples] == [run.QUICK.values] * 2
            # A callback takes tens of nanoseconds at least, and less than a millisecond on any machine.
            assert all(1e-8 < value < 1e-3 for value in cell.values)
    assert "asyncio:NoSuchLoop" in got.absent


def test_a_loop_that_breaks_is_a_row_with_the_reason() -> None:
    with pytest.raises(micro.Failed, match="TypeError"):
        micro.Micro("task.sleep0", "json:loads", 0.01, 1).measure()
    with pytest.raises(micro.Failed, match="AttributeError"):
        micro.Micro("task.sleep0", "builtins:object", 0.01, 1).measure()


def test_a_measured_process_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "TIMEOUT", 0.2)
    with pytest.raises(micro.Failed, match=r"within 0\.2 s"):
        micro.run_group([sys.executable, "-c", "import signal; signal.pause()"])


@pytest.mark.parametrize(
    ("complaint", "reason"),
    [
        ("Traceback\nbench-reason: OSError: no\nError: worker failed\n", "OSError: no"),
        ("Traceback\nValueError: why\n\n", "ValueError: why"),
        ("", "ended with status 7"),
    ],
)
def test_the_reason_of_a_failure_is_found(complaint: str, reason: str) -> None:
    assert micro.reason(complaint, 7) == reason

"""The compatibility page is what the recorded outcomes say, and these are of the tests that there are."""

from __future__ import annotations

from .__main__ import PAGE, ROOT, all_files, key, load, parity, render, stale, summary


def test_the_page_is_what_the_outcomes_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(load()), "run `python -m tests.compatibility write`"


def test_the_outcomes_are_of_these_tests() -> None:
    results = load()
    changed = [key(path) for path in stale(results)]
    gone = sorted(set(results["files"]) - {key(path) for path in all_files()})
    assert changed == gone == [], "run `make compatibility`"


def test_nothing_failed_or_differed() -> None:
    results = load()
    assert {name for name, counts in results["files"].items() if counts["failed"]} == set()
    assert {module for counts in results["parity"].values() for module in counts} <= set(parity.MODULES)
    assert [
        (version, module)
        for version, modules in results["parity"].items()
        for module, counts in modules.items()
        if counts["same"] != counts["asyncio"]
    ] == []


def test_cases_are_counted_by_how_they_ended_on_each_loop() -> None:
    path = ROOT / "tests" / "core" / "test_order.py"
    cases = {
        "one": {"loopfast": "passed", "asyncio": "passed"},
        "two": {"loopfast": "passed"},
        "three": {"asyncio": "passed"},
        "four": {"loopfast": "passed", "asyncio": "skipped"},
        "five": {"loopfast": "failed", "asyncio": "passed"},
    }
    outcomes = {
        "cases": {f"tests/core/test_order.py::{name}": kinds for name, kinds in cases.items()}
        | {"tests/core/test_timers.py::other": {"loopfast": "failed"}},
        "reasons": {"tests/core/test_order.py::two": "its own", "tests/core/test_order.py::four": "no such kernel"},
    }
    found = summary(path, outcomes)
    assert {name: found[name] for name in ("same", "ours", "theirs", "skipped", "failed")} == dict.fromkeys(
        ("same", "ours", "theirs", "skipped", "failed"), 1
    )
    assert (found["reasons"], found["left out"]) == ({"": 1, "its own": 1}, {"no such kernel": 1})

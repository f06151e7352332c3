"""A pytest plugin that writes down how each test case ended on which loop, and the reasons of its ``*_only`` marks.

``-p tests.compatibility.recorder`` with the file to write in COMPATIBILITY_OUTCOMES. Works below pytest-xdist too.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

VARIABLE = "COMPATIBILITY_OUTCOMES"
LOOP = re.compile(r"(?<=[\[-])(?:loopfast|asyncio)(?=[\]-])")

_cases: dict[str, dict[str, str]] = {}
_reasons: dict[str, str] = {}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = item.callspec.params.get("loop_kind", "") if hasattr(item, "callspec") else ""
        # A report carries these from a worker to the process that writes.
        item.user_properties.append(("loop_kind", kind))
        for name in ("loopfast_only", "asyncio_only"):
            for mark in item.iter_markers(name):
                if mark.kwargs.get("when", True):
                    item.user_properties.append(("only", mark.args[0]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    properties = dict(report.user_properties)
    case = LOOP.sub("*", report.nodeid, count=1)
    outcomes = _cases.setdefault(case, {})
    kind = str(properties.get("loop_kind", ""))
    if report.outcome != "passed" or report.when == "call":
        # A failure of the tear-down counts too, and none is taken back.
        if outcomes.get(kind) != "failed":
            outcomes[kind] = report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            _reasons[case] = str(report.longrepr[2]).removeprefix("Skipped: ")
    if "only" in properties:
        # Of a case that was skipped as well, that is the reason.
        _reasons.setdefault(case, str(properties["only"]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        Path(os.environ[VARIABLE]).write_text(json.dumps({"cases": _cases, "reasons": _reasons}))

"""Runs one module of the interpreter's ``test.test_asyncio`` in this process, on asyncio's own loop or on loopfast.

Usage: ``python child.py {asyncio|loopfast} MODULE RESULT.json``. The result maps each test's id to its outcome.
"""

from __future__ import annotations

import asyncio
import json
import sys
import unittest
import warnings
from pathlib import Path
from typing import Any


class Results(unittest.TextTestResult):
    """Notes the outcome of every test, subtests counted with the test they belong to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: dict[str, str] = {}

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.outcomes.setdefault(test.id(), "passed")

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self.outcomes[test.id()] = "failed"

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self.outcomes[test.id()] = "failed"

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.outcomes[test.id()] = "failed"

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self.outcomes[test.id()] = "skipped"


def inject() -> None:
    """Have everything in this process that makes a selector loop by its public name make a loopfast loop."""
    import loopfast

    class SelectorEventLoop(loopfast.Loop):
        """The tests pass a selector; there is none to choose here."""

        def __init__(self, selector: Any = None) -> None:
            super().__init__()
            if selector is not None:
                selector.close()

    from asyncio import unix_events

    for module in (asyncio, unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):
            if hasattr(module, name):
                setattr(module, name, SelectorEventLoop)
    for name in ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        policy = getattr(unix_events, name, None)
        if policy is not None:
            policy._loop_factory = SelectorEventLoop


def main() -> None:
    kind, module, result = sys.argv[1:]
    warnings.simplefilter("default")
    if kind == "loopfast":
        inject()
    suite = unittest.defaultTestLoader.loadTestsFromName(f"test.test_asyncio.{module}")
    outcome = unittest.TextTestRunner(resultclass=Results, verbosity=2).run(suite)
    assert isinstance(outcome, Results)
    Path(result).write_text(json.dumps(outcome.outcomes))


if __name__ == "__main__":
    main()

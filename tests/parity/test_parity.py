"""The quick part of the parity suite: what passes on asyncio's own loop passes on loopfast."""

from __future__ import annotations

import pytest

from .__main__ import QUICK, available, differences

MODULES = available(QUICK)


@pytest.mark.timeout(400)
@pytest.mark.skipif(not MODULES, reason="this interpreter ships no test package")
@pytest.mark.parametrize("module", MODULES or ["test_asyncio"])
def test_parity(module: str) -> None:
    found, passed = differences(module, timeout=180)
    assert not found, "\n".join(found)
    assert passed > 0

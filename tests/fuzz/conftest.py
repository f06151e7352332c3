"""Profiles of hypothesis: the same examples in every run of `make test`, others in each run of `make fuzz`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

# A slow machine is no defect: what waits for ever is pytest-timeout's business.
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True, "database": None}
# To make a failing example smaller takes many minutes.
AS_FOUND = {"phases": [Phase.explicit, Phase.generate]}

settings.register_profile("quick", derandomize=True, **AS_FOUND, **COMMON)
# `make fuzz` repeats this with one seed after the other.
settings.register_profile("long", **AS_FOUND, **COMMON)
# The same, and the smallest example that fails (HYPOTHESIS_PROFILE=smaller, with --hypothesis-seed).
settings.register_profile("smaller", **COMMON)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")
settings.load_profile(PROFILE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "fuzz" in item.path.parts and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300 if PROFILE == "quick" else 3600))


@pytest.fixture(autouse=True, scope="module")
def quiet_logs() -> Iterator[None]:
    """asyncio warns of what hostile programs do; thousands of such lines help nobody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)

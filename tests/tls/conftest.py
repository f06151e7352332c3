"""The fixtures of the TLS tests: certificates, and each way in which loopfast reaches OpenSSL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tlssupport import Contexts

from loopfast.tls import set_engine

# What does not touch the records has nothing to do with the engine.
BOTH = ("test_start_tls", "test_tls_closing", "test_tls_data", "test_tls_surface")


@pytest.fixture
def contexts(certificate_files: Path) -> Contexts:
    """Makes contexts from the session's certificates."""
    return Contexts(certificate_files)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__ in BOTH and "loop_kind" in metafunc.fixturenames:
        portable = pytest.param("portable", marks=pytest.mark.loopfast_only("asyncio has one way to reach OpenSSL"))
        metafunc.parametrize("engine", ["auto", portable], indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine of the connections that loopfast makes in this test."""
    name = getattr(request, "param", "auto")
    set_engine(name)
    yield name
    set_engine("auto")

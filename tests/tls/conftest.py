"""The fixture of the TLS tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tlssupport import Contexts


@pytest.fixture
def contexts(certificate_files: Path) -> Contexts:
    """Makes contexts from the session's certificates."""
    return Contexts(certificate_files)

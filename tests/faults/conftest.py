"""What the fault tests share: the compiled shim, once per session."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from faults import Faults


@pytest.fixture(scope="session")
def fault_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not sys.platform.startswith("linux"):
        pytest.skip("the shim is for Linux")
    if not shutil.which(os.environ.get("CC", "cc")):
        pytest.skip("no C compiler")
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def faults(fault_folder: Path) -> Faults:
    return Faults(fault_folder)

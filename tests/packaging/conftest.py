"""What the packaging tests share: the project's folder, importable, and a clean copy of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which any attempt to use a network fails at once."""
    nowhere = "http://127.0.0.1:9"
    return {**os.environ, "PIP_NO_INDEX": "1", "https_proxy": nowhere, "http_proxy": nowhere, "all_proxy": nowhere,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1", "HOME": str(tmp_path_factory.mktemp("home"))}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """The files that git knows, and libuv's source, without anything that was built."""
    folder = tmp_path_factory.mktemp("checkout") / "loopfast"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=project, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name and (project / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / name, folder / name)
    shutil.copytree(project / "vendor" / "libuv", folder / "vendor" / "libuv")
    return folder

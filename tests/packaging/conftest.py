"""What the packaging tests share: the project's folder, importable, a clean copy of it, and libuv's verified source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))  # vendor/ is a part of the checkout, not of the installed package

from vendor import fetch  # noqa: E402


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which any attempt to use a network fails at once."""
    nowhere = "http://127.0.0.1:9"
    return {
        **os.environ,
        "PIP_NO_INDEX": "1",
        "https_proxy": nowhere,
        "http_proxy": nowhere,
        "all_proxy": nowhere,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "HOME": str(tmp_path_factory.mktemp("home")),
    }


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


@pytest.fixture(scope="session")
def libuv_files() -> dict[str, bytes]:
    """The files of the pinned libuv this checkout was built from."""
    source = fetch.locate()
    assert source is not None, "run `python vendor/fetch.py` first; the build needed it too"
    return fetch.read_folder(source.path)


@pytest.fixture(scope="session")
def release(libuv_files: dict[str, bytes]) -> fetch.Release:
    """The release those files are."""
    return fetch.verify(libuv_files, "the checkout's libuv", fetch.Pin.load())

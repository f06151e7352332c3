"""Each way by which libuv's source reaches the tree, and that anything but the pinned source is refused."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vendor import build, fetch


@pytest.fixture
def source(project: Path) -> Path:
    return project / "vendor" / "libuv"


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No override, an empty cache, no network and no apt, unless the test brings one."""
    monkeypatch.delenv("LOOPFAST_LIBUV_SOURCE", raising=False)
    monkeypatch.setenv("LOOPFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()


@pytest.fixture
def pin() -> fetch.Pin:
    """The real digests, with upstream addresses that nobody answers."""
    real = fetch.Pin.load()
    return dataclasses.replace(real, releases=tuple(
        dataclasses.replace(release, upstream=("http://127.0.0.1:9/libuv.tar.gz",)) for release in real.releases))


@pytest.fixture
def archive(source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "libuv-anything.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(source, "libuv-of-any-name")
    return path


@pytest.fixture
def tampered(source: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tampered"
    shutil.copytree(source, folder)
    with (folder / "src" / "timer.c").open("a") as file:
        file.write("/* one line more */\n")
    return folder


def test_override_by_folder(monkeypatch: pytest.MonkeyPatch, pin: fetch.Pin, source: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOPFAST_LIBUV_SOURCE", str(source))
    found = fetch.fetch(pin, tree=tmp_path / "tree")
    assert found.release in pin.releases
    assert (tmp_path / "tree" / "include" / "uv.h").is_file()


def test_override_by_archive(monkeypatch: pytest.MonkeyPatch, pin: fetch.Pin, archive: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOPFAST_LIBUV_SOURCE", str(archive))
    fetch.fetch(pin, tree=tmp_path / "tree")
    assert fetch.digest_files(fetch.read_folder(tmp_path / "tree")) in {release.tree for release in pin.releases}


@pytest.mark.parametrize("value", ["/nowhere/libuv", ""])
def test_an_override_that_leads_nowhere_is_an_error(
    monkeypatch: pytest.MonkeyPatch, pin: fetch.Pin, tmp_path: Path, value: str
) -> None:
    monkeypatch.setenv("LOOPFAST_LIBUV_SOURCE", value)
    with pytest.raises(fetch.SupplyError, match="LOOPFAST_LIBUV_SOURCE"):
        fetch.fetch(pin, tree=tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_a_tampered_source_is_refused(
    monkeypatch: pytest.MonkeyPatch, pin: fetch.Pin, tampered: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOOPFAST_LIBUV_SOURCE", str(tampered))
    with pytest.raises(fetch.SupplyError, match=str(tampered)) as caught:
        fetch.fetch(pin, tree=tmp_path / "tree")
    assert pin.releases[0].tree[:12] in str(caught.value)
    assert not (tmp_path / "tree").exists()


def test_a_tampered_tree_is_refused(pin: fetch.Pin, tampered: Path) -> None:
    with pytest.raises(fetch.SupplyError, match=str(tampered)):
        fetch.fetch(pin, tree=tampered)


def test_the_tree_at_hand_needs_nothing_else(pin: fetch.Pin, source: Path) -> None:
    assert fetch.fetch(pin, tree=source).path == source


def test_the_cache_serves_once_fetched(pin: fetch.Pin, source: Path, tmp_path: Path) -> None:
    release = fetch.fetch(pin, tree=source).release
    fetch.write_tree(fetch.read_folder(source), fetch.cache_path(release))
    found = fetch.fetch(pin, tree=tmp_path / "tree")
    assert found.release == release and "cache" in found.origin


def test_a_damaged_cache_is_ignored_and_said(pin: fetch.Pin, tampered: Path, tmp_path: Path) -> None:
    shutil.copytree(tampered, fetch.cache_path(pin.releases[0]))
    said: list[str] = []
    with pytest.raises(fetch.SupplyError, match="LOOPFAST_LIBUV_SOURCE"):
        fetch.fetch(pin, tree=tmp_path / "tree", say=said.append)
    assert any("damaged" in line for line in said)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server for the files of tmp_path."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *args: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def upstream(pin: fetch.Pin, source: Path, *urls: str) -> fetch.Pin:
    """*pin* reduced to the release that *source* is, with these addresses."""
    release = fetch.verify(fetch.read_folder(source), str(source), pin)
    return dataclasses.replace(pin, releases=(dataclasses.replace(release, upstream=urls),))


def test_upstream(pin: fetch.Pin, source: Path, archive: Path, web: str, tmp_path: Path) -> None:
    pin = upstream(pin, source, f"{web}/missing.tar.gz", f"{web}/{archive.name}")
    assert fetch.fetch(pin, tree=tmp_path / "tree").origin == "upstream"
    # Fetched once, the cache serves without a network.
    offline = upstream(pin, source, "http://127.0.0.1:9/libuv.tar.gz")
    assert "cache" in fetch.fetch(offline, tree=tmp_path / "second").origin


def test_a_tampered_upstream_is_refused(pin: fetch.Pin, source: Path, tampered: Path, web: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        tar.add(tampered, "libuv")
    with pytest.raises(fetch.SupplyError, match=r"bad\.tar\.gz"):
        fetch.fetch(upstream(pin, source, f"{web}/bad.tar.gz"), tree=tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_debians_pool_through_apt(
    monkeypatch: pytest.MonkeyPatch, pin: fetch.Pin, source: Path, archive: Path, tmp_path: Path
) -> None:
    """An apt that answers as the real one does; the download is a copy."""
    commands = tmp_path / "bin"
    apt_get = commands / "apt-get"
    apt_get.write_text("#!/bin/sh\necho 'Debian|http://deb.example/debian/'\n")
    helper = commands / "apt-helper"
    helper.write_text(f"#!/bin/sh\n/bin/cp '{archive}' \"$3\"\n")
    for tool in (apt_get, helper):
        tool.chmod(0o755)
    reduced = upstream(pin, source, "http://127.0.0.1:9/libuv.tar.gz")
    found = fetch.fetch(reduced, tree=tmp_path / "tree")
    assert found.origin == "Debian's pool"


def test_all_routes_failing_names_the_override(pin: fetch.Pin, tmp_path: Path) -> None:
    with pytest.raises(fetch.SupplyError) as caught:
        fetch.fetch(pin, tree=tmp_path / "tree")
    text = str(caught.value)
    assert "LOOPFAST_LIBUV_SOURCE" in text and all(release.version in text for release in pin.releases)


def pkg_config(folder: Path, version: str) -> str:
    tool = folder / "pkg-config"
    tool.write_text(f"#!/bin/sh\ncase $1 in --modversion) echo {version};; --cflags) echo -I/opt/uv/include;; "
                    "--libs) echo -L/opt/uv/lib -luv;; esac\n")
    tool.chmod(0o755)
    return str(tool)


def test_the_systems_libuv(monkeypatch: pytest.MonkeyPatch, pin: fetch.Pin, tmp_path: Path) -> None:
    monkeypatch.setenv("PKG_CONFIG", pkg_config(tmp_path, "99.1.0"))
    found = build.system_libuv(pin)
    assert (found.version, found.include_dirs, found.link_args) == ("99.1.0", ["/opt/uv/include"], ["-L/opt/uv/lib", "-luv"])
    monkeypatch.setenv("PKG_CONFIG", pkg_config(tmp_path, "1.44.2"))
    with pytest.raises(fetch.SupplyError, match=rf"1\.44\.2, at least {pin.system_minimum}"):
        build.system_libuv(pin)
    monkeypatch.setenv("PKG_CONFIG", "")
    with pytest.raises(fetch.SupplyError, match="pkg-config"):
        build.system_libuv(pin)


def test_libuv_is_not_committed(project: Path) -> None:
    import subprocess

    git = shutil.which("git", path=os.defpath + ":/usr/local/bin")
    assert git is not None
    listed = subprocess.run([git, "ls-files", "vendor/libuv"], cwd=project, capture_output=True, text=True, check=True).stdout
    assert listed == ""

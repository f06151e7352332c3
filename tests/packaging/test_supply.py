"""vendor/fetch.py: every place libuv can come from, verified by content; a changed source is refused, with one clear
error."""

from __future__ import annotations

import dataclasses
import http.server
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vendor import fetch
from vendor.fetch import Pin, Release, SupplyError

Files = dict[str, bytes]


def write_tar(path: Path, files: Files, top: str) -> Path:
    """A .tar.gz at `path` with `files` below the folder `top`."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, files: Files, top: str) -> Path:
    """The same as a zip archive."""
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(f"{top}/{name}", content)
    return path


@pytest.fixture(scope="session")
def libuv_archive(libuv_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release as an archive whose top folder is named as nobody's is."""
    return write_tar(tmp_path_factory.mktemp("archive") / "libuv.tar.gz", libuv_files, "some-folder")


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No override, an empty cache, no proxy; the folder to fetch to, which does not exist yet."""
    for name in list(os.environ):
        if name.startswith("LOOPFAST_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(fetch.CACHE_OVERRIDE, str(tmp_path / "cache"))
    return tmp_path / "project/vendor/libuv"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way fetch.py has to a network becomes a failure of the test."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"reached for the network: {arguments}")

    monkeypatch.setattr(fetch, "download", refuse)
    monkeypatch.setattr(fetch, "from_apt", refuse)


def tampered(files: Files) -> Files:
    """The tree with one byte changed in one file."""
    content = files["src/timer.c"]
    return files | {"src/timer.c": content[:-1] + bytes([content[-1] ^ 1])}


CHANGES = {
    "one byte": tampered,
    "a file more": lambda files: files | {"src/extra.c": b"int extra;\n"},
    "a file less": lambda files: {name: content for name, content in files.items() if name != "src/idna.c"},
    "a file renamed": lambda files: {name.replace("src/idna.c", "src/idnb.c"): text for name, text in files.items()},
    "a header changed": lambda files: files | {"include/uv.h": files["include/uv.h"] + b"\n"},
}


def only(release: Release, **changes: object) -> Pin:
    """A pin of just `release`, changed."""
    return Pin((dataclasses.replace(release, **changes),), "1.49.0")  # type: ignore[arg-type]


class Server:
    """A web server on 127.0.0.1 that answers with what `pages` holds and remembers what it was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.silent = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if self.path == "/silent":
                    outer.silent.wait(60)
                    return
                body = outer.pages.get(self.path)
                self.send_response(404 if body is None else 200)
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def close(self) -> None:
        self.silent.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def upstream() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libuv_archive: Path) -> Path:
    """apt-get and apt-helper that serve `libuv_archive`; returns the log of what they were asked."""
    folder, log = tmp_path / "apt", tmp_path / "apt.log"
    folder.mkdir()
    scripts = {
        "apt-get": "echo 'Debian|http://security.example/debian-security/'; echo 'Other|http://other.example/'\n"
        "echo 'Debian|http://pool.example/debian/'",
        "apt-helper": f'case "$2" in *missing*) echo "E: 404 Not Found" >&2; exit 100; esac; cp "{libuv_archive}" "$3"',
    }
    for name, text in scripts.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\necho {name} "$@" >> "{log}"\n{text}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return log


posix = pytest.mark.skipif(sys.platform == "win32", reason="apt is a POSIX program")


# ---- the places, in order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "nested folder", "tar", "zip"])
@pytest.mark.usefixtures("no_network")
def test_override(clean: Path, kind: str, libuv_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "given"
    if kind == "folder":
        fetch.write_tree(libuv_files, path)
    elif kind == "nested folder":
        fetch.write_tree(libuv_files, path / "libuv-x")
    elif kind == "tar":
        write_tar(path, libuv_files, "libuv-x")
    else:
        write_zip(path, libuv_files, "libuv-x")
    monkeypatch.setenv(fetch.OVERRIDE, str(path))

    found = fetch.fetch(tree=clean)
    assert (found.path, found.origin) == (clean, f"{fetch.OVERRIDE}={path}")
    assert fetch.read_folder(clean) == libuv_files
    located = fetch.locate(scratch=tmp_path / "scratch", tree=tmp_path / "none")
    assert located is not None and fetch.read_folder(located.path) == libuv_files


@pytest.mark.usefixtures("no_network")
def test_override_comes_before_the_tree(
    clean: Path, libuv_archive: Path, libuv_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.write_tree(tampered(libuv_files), clean)
    monkeypatch.setenv(fetch.OVERRIDE, str(libuv_archive))
    fetch.fetch(tree=clean)
    assert fetch.read_folder(clean) == libuv_files


@pytest.mark.usefixtures("no_network")
def test_tree_is_used_as_it_is(clean: Path, libuv_files: Files, release: Release) -> None:
    fetch.write_tree(libuv_files, clean)
    assert fetch.fetch(tree=clean) == fetch.Source(clean, release, "vendor/libuv")
    assert fetch.locate(tree=clean) == fetch.Source(clean, release, "vendor/libuv")


@pytest.mark.usefixtures("no_network")
def test_cache(clean: Path, libuv_files: Files, release: Release) -> None:
    fetch.write_tree(libuv_files, fetch.cache_path(release))
    located = fetch.locate(tree=clean)
    assert located is not None and located.path == fetch.cache_path(release)
    assert not clean.exists(), "a build reads the cache where it is"
    assert fetch.fetch(tree=clean).origin == "the per-user cache"
    assert fetch.read_folder(clean) == libuv_files


def test_upstream_then_offline(
    clean: Path,
    upstream: Server,
    libuv_archive: Path,
    libuv_files: Files,
    release: Release,
    request: pytest.FixtureRequest,
) -> None:
    upstream.pages["/libuv.tar.gz"] = libuv_archive.read_bytes()
    pin = only(release, upstream=(upstream.url("/gone"), upstream.url("/libuv.tar.gz")))
    said: list[str] = []
    assert fetch.fetch(pin, tree=clean, say=said.append).origin == "upstream"
    assert fetch.read_folder(clean) == libuv_files
    assert upstream.asked == ["/gone", "/libuv.tar.gz"]
    assert said == [f"libuv {release.version}: asking upstream"]

    request.getfixturevalue("no_network")
    assert fetch.fetch(pin, tree=clean).origin == "vendor/libuv"
    assert fetch.fetch(pin, tree=clean.with_name("second")).origin == "the per-user cache"


@posix
def test_silent_upstream_does_not_hold_up_the_next_place(
    clean: Path, upstream: Server, fake_apt: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "UPSTREAM_TIMEOUT", 0.2)
    pin = only(release, upstream=(upstream.url("/silent"),))
    assert fetch.fetch(pin, tree=clean).origin == "Debian's pool"
    assert upstream.asked == ["/silent"]


@posix
def test_apt(clean: Path, upstream: Server, fake_apt: Path, libuv_files: Files, release: Release) -> None:
    pin = only(release, upstream=(upstream.url("/gone"),))
    assert fetch.fetch(pin, tree=clean).origin == "Debian's pool"
    assert fetch.read_folder(clean) == libuv_files
    listed, downloaded = fake_apt.read_text().splitlines()
    assert listed.startswith("apt-get indextargets")
    command, verb, url, _, digest = downloaded.split()
    assert (command, verb) == ("apt-helper", "download-file")
    assert url == f"http://pool.example/debian/pool/main/libu/libuv1/{release.debian_file}"
    assert digest == f"SHA256:{release.debian_sha256}"


@posix
def test_an_older_release_stands_in(clean: Path, upstream: Server, fake_apt: Path, release: Release) -> None:
    newer = dataclasses.replace(
        release, version="9.9.9", tree="0" * 64, upstream=(upstream.url("/9"),), debian_file="missing"
    )
    older = dataclasses.replace(release, upstream=(upstream.url("/1"),))
    assert fetch.fetch(Pin((newer, older), "1.49.0"), tree=clean).release == older


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/usr/lib/apt/apt-helper", os.X_OK), reason="not a Debian machine")
def test_apt_for_real(clean: Path, upstream: Server) -> None:
    """Debian's pool as this machine is configured for it, for every release in the pin."""
    for release in Pin.load().releases:
        tree = clean.with_name(release.version)
        pin = only(release, upstream=(upstream.url("/gone"),))
        assert fetch.fetch(pin, tree=tree).origin == "Debian's pool"
        assert fetch.digest_files(fetch.read_folder(tree)) == release.tree


@posix
def test_nothing_works(clean: Path, upstream: Server, fake_apt: Path, release: Release) -> None:
    pin = only(release, upstream=(upstream.url("/gone"), "http://127.0.0.1:1/refused"), debian_file="missing")
    with pytest.raises(SupplyError) as caught:
        fetch.fetch(pin, tree=clean)
    text = str(caught.value)
    for part in (
        "/gone",
        "404",
        "127.0.0.1:1",
        "refused",
        "E: 404 Not Found",
        f"Set {fetch.OVERRIDE}",
        release.version,
    ):
        assert part.lower() in text.lower()
    assert not clean.exists()


def test_an_unwritable_cache_is_no_obstacle(
    clean: Path,
    upstream: Server,
    libuv_archive: Path,
    release: Release,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv(fetch.CACHE_OVERRIDE, str(blocker))
    upstream.pages["/libuv.tar.gz"] = libuv_archive.read_bytes()
    said: list[str] = []
    fetch.fetch(only(release, upstream=(upstream.url("/libuv.tar.gz"),)), tree=clean, say=said.append)
    assert clean.is_dir() and any("cache cannot be written" in line for line in said)


# ---- a changed source is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.usefixtures("no_network")
def test_changed_tree(clean: Path, change: str, libuv_files: Files) -> None:
    changed = CHANGES[change](libuv_files)
    fetch.write_tree(changed, clean)
    for attempt in (fetch.fetch, fetch.locate):
        with pytest.raises(SupplyError, match="changed or is another release; refused") as caught:
            attempt(tree=clean)
        assert str(clean) in str(caught.value) and fetch.digest_files(changed) in str(caught.value)
        assert fetch.OVERRIDE in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.usefixtures("no_network")
def test_changed_override(
    clean: Path, kind: str, libuv_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An override is what the user asked for: unusable, it ends the search instead of being skipped."""
    fetch.write_tree(libuv_files, clean)
    path = tmp_path / "given"
    (fetch.write_tree if kind == "folder" else lambda files, to: write_tar(to, files, "x"))(tampered(libuv_files), path)
    monkeypatch.setenv(fetch.OVERRIDE, str(path))
    with pytest.raises(SupplyError, match="refused") as caught:
        fetch.fetch(tree=clean)
    assert f"{fetch.OVERRIDE}={path}" in str(caught.value)
    assert fetch.read_folder(clean) == libuv_files


def test_changed_upstream(
    clean: Path, upstream: Server, libuv_files: Files, libuv_archive: Path, release: Release, tmp_path: Path
) -> None:
    upstream.pages["/bad"] = write_tar(tmp_path / "bad", tampered(libuv_files), "x").read_bytes()
    upstream.pages["/good"] = libuv_archive.read_bytes()
    fetch.fetch(only(release, upstream=(upstream.url("/bad"), upstream.url("/good"))), tree=clean)
    assert fetch.read_folder(clean) == libuv_files
    assert upstream.asked == ["/bad", "/good"]


def test_damaged_cache_is_fetched_again(
    clean: Path, upstream: Server, libuv_files: Files, libuv_archive: Path, release: Release
) -> None:
    fetch.write_tree(tampered(libuv_files), fetch.cache_path(release))
    upstream.pages["/good"] = libuv_archive.read_bytes()
    said: list[str] = []
    pin = only(release, upstream=(upstream.url("/good"),))
    assert fetch.fetch(pin, tree=clean, say=said.append).origin == "upstream"
    assert any("damaged cache entry" in line for line in said)
    assert fetch.read_folder(fetch.cache_path(release)) == libuv_files


@posix
def test_changed_pool(clean: Path, upstream: Server, fake_apt: Path, release: Release) -> None:
    """apt's archive is good, but not the release the pin names."""
    pin = only(release, tree="0" * 64, upstream=(upstream.url("/gone"),))
    with pytest.raises(SupplyError, match=release.tree):
        fetch.fetch(pin, tree=clean)
    assert not clean.exists()


# ---- archives and paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable"),
        (b"<html>not found</html>", "not a readable"),
        (b"\x1f\x8b\x08" + bytes(20), "not a readable"),
        (b"PK\x05\x06" + bytes(18), "no libuv source"),
    ],
)
def test_not_an_archive(
    clean: Path, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "given"
    path.write_bytes(content)
    monkeypatch.setenv(fetch.OVERRIDE, str(path))
    with pytest.raises(SupplyError, match=message) as caught:
        fetch.fetch(tree=clean)
    assert str(path) in str(caught.value)


def test_truncated_archive(libuv_archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.tar.gz"
    path.write_bytes(libuv_archive.read_bytes()[:200_000])
    with pytest.raises(SupplyError, match="not a readable"):
        fetch.read_archive(path)


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_members_outside_the_tree_are_left_out(write: object, libuv_files: Files, tmp_path: Path) -> None:
    extra = {"../evil.c": b"x", "src/../../evil.h": b"x", "README.md": b"x", "test/run-tests.c": b"x"}
    archive = write(tmp_path / "archive", libuv_files | extra, "top")  # type: ignore[operator]
    assert fetch.read_archive(archive) == libuv_files


def test_oversized_archive(libuv_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = [write_tar(tmp_path / "a", libuv_files, "x"), write_zip(tmp_path / "b", libuv_files, "x")]
    monkeypatch.setattr(fetch, "MAX_TREE_BYTES", 1 << 20)
    for archive in archives:
        with pytest.raises(SupplyError, match="unpacks to more than"):
            fetch.read_archive(archive)


def test_oversized_download(clean: Path, upstream: Server, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_ARCHIVE_BYTES", 1000)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(fetch.os, "access", lambda path, mode: False)
    upstream.pages["/big"] = bytes(100_000)
    with pytest.raises(SupplyError, match="larger than 1000 bytes"):
        fetch.fetch(only(release, upstream=(upstream.url("/big"),)), tree=clean)


def test_override_that_is_not_there(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fetch.OVERRIDE, str(tmp_path / "nowhere"))
    with pytest.raises(SupplyError, match="nowhere: no such file or folder"):
        fetch.fetch(tree=clean)


def test_a_failed_write_leaves_the_old_tree(clean: Path, libuv_files: Files) -> None:
    fetch.write_tree(libuv_files, clean)
    with pytest.raises(TypeError):
        fetch.write_tree(libuv_files | {"src/broken.c": None}, clean)  # type: ignore[dict-item]
    assert fetch.read_folder(clean) == libuv_files
    assert [path.name for path in clean.parent.iterdir()] == [clean.name]


# ---- the pin and the command line ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "[[release]]\nversion = 1", "not toml ["])
def test_broken_pin(text: str, tmp_path: Path) -> None:
    path = tmp_path / "libuv.toml"
    path.write_text(text)
    with pytest.raises(SupplyError, match=r"libuv\.toml: cannot read libuv's pin"):
        Pin.load(path)


def test_pin_is_well_formed() -> None:
    for release in Pin.load().releases:
        assert all(len(digest) == 64 and int(digest, 16) for digest in (release.tree, release.debian_sha256))
        assert all(url.startswith("https://") and release.version in url for url in release.upstream)


def test_libuv_is_not_committed(project: Path) -> None:
    git = shutil.which("git")
    if git is None or not (project / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "vendor/libuv"], cwd=project, capture_output=True, text=True, check=True)
    assert listed.stdout == ""


def test_licences_are_the_sources_own(project: Path, libuv_files: Files) -> None:
    """The texts that wheels carry are committed; they must be those of the libuv that is built."""
    licences = project / "vendor/licences"
    for name in fetch.LICENCE_FILES:
        assert (licences / f"libuv-{name}.txt").read_bytes() == libuv_files[name]
    notices = (licences / "libuv-third-party.txt").read_text(encoding="utf-8")
    for name in ("include/uv/tree.h", "src/inet.c", "src/heap-inl.h"):
        line = next(line for line in libuv_files[name].decode().splitlines() if "Copyright" in line)
        assert line.lstrip("/* ") in notices


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "vendor/fetch.py", *map(str, arguments)],
        cwd=Path(fetch.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )


def test_command_prints_a_digest(libuv_archive: Path, release: Release) -> None:
    assert command("digest", libuv_archive).stdout.strip() == release.tree


def test_command_fails_in_one_line(tmp_path: Path) -> None:
    done = command(**{fetch.OVERRIDE: str(tmp_path / "nowhere")})
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: LOOPFAST_LIBUV_SOURCE=") and done.stderr.count("\n") == 1

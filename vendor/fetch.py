"""Finds libuv's source, verifies it against the digests in libuv.toml and puts it into vendor/libuv.

Places, in order: LOOPFAST_LIBUV_SOURCE (folder or archive), vendor/libuv, a per-user cache, the upstream release over
https, Debian's pool through apt. Only this command downloads; the build itself reads the first three places and nothing
else.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
PIN = HERE / "libuv.toml"
TREE = HERE / "libuv"
OVERRIDE = "LOOPFAST_LIBUV_SOURCE"
CACHE_OVERRIDE = "LOOPFAST_CACHE_DIR"

#: Seconds without a byte from upstream before the next place is tried.
UPSTREAM_TIMEOUT = 6.0
#: libuv's archive is 1.4 MB and unpacks to 6 MB: anything far above is not libuv.
MAX_ARCHIVE_BYTES = 32 << 20
MAX_TREE_BYTES = 64 << 20

LICENCE_FILES = ("LICENSE", "LICENSE-extra")


class SupplyError(Exception):
    """libuv's source is missing or is not the pinned one; the text says what to do."""


@dataclass(frozen=True)
class Release:
    """One accepted libuv release: its version, the digest of its tree and who carries it."""

    version: str
    tree: str
    upstream: tuple[str, ...]
    debian_file: str
    debian_sha256: str


@dataclass(frozen=True)
class Pin:
    """The content of libuv.toml: accepted releases, best first, and the oldest system libuv that may stand in."""

    releases: tuple[Release, ...]
    system_minimum: str

    @classmethod
    def load(cls, path: Path = PIN) -> Pin:
        """Read `path`; SupplyError when it is missing or malformed."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
            releases = tuple(
                Release(r["version"], r["tree"], tuple(r["upstream"]), r["debian"]["file"], r["debian"]["sha256"])
                for r in data["release"]
            )
            return cls(releases, data["system"]["minimum"])
        except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as exc:
            raise SupplyError(f"{path}: cannot read libuv's pin: {exc!r}") from exc

    def release_of(self, digest: str) -> Release | None:
        """The accepted release whose tree has `digest`, or None."""
        return next((release for release in self.releases if release.tree == digest), None)

    def versions(self) -> str:
        """The accepted versions for an error message."""
        return " or ".join(release.version for release in self.releases)


@dataclass(frozen=True)
class Source:
    """A verified source tree on disk."""

    path: Path
    release: Release
    origin: str


Files = dict[str, bytes]


def digest_files(files: Mapping[str, bytes]) -> str:
    """The tree digest of `files` (posix path -> content), as libuv.toml defines it."""
    digest = hashlib.sha256()
    for path in sorted(files):
        if is_pinned(path):
            content = files[path]
            digest.update(b"%s\0%d\0" % (path.encode(), len(content)))
            digest.update(content)
    return digest.hexdigest()


def is_pinned(path: str) -> bool:
    """Whether `path` counts for the digest: exactly the files a compiler can ever see."""
    return path.startswith(("include/", "src/")) and path.endswith((".c", ".h"))


def read_folder(root: Path) -> Files:
    """The pinned files and the licences of the libuv tree at or one level below `root`; SupplyError if there is
    none."""
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    top = next((path for path in candidates if is_libuv(path)), None)
    if top is None:
        raise SupplyError(f"{root}: no libuv source here (include/uv.h beside src/uv-common.c)")
    files = {}
    for part in ("include", "src"):
        for path in (top / part).rglob("*"):
            name = path.relative_to(top).as_posix()
            if is_pinned(name) and path.is_file():
                files[name] = path.read_bytes()
    for name in LICENCE_FILES:
        if (top / name).is_file():
            files[name] = (top / name).read_bytes()
    return files


def is_libuv(path: Path) -> bool:
    """Whether `path` looks like the top of a libuv tree."""
    return (path / "include/uv.h").is_file() and (path / "src/uv-common.c").is_file()


def read_archive(archive: Path) -> Files:
    """The pinned files and the licences in a tar or zip `archive`; nothing is unpacked to disk. SupplyError if
    unusable."""
    try:
        members = dict(zip_members(archive)) if zipfile.is_zipfile(archive) else dict(tar_members(archive))
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError) as exc:
        raise SupplyError(f"{archive}: not a readable tar or zip archive: {exc}") from exc
    top = next(
        (
            name[: -len("include/uv.h")]
            for name in sorted(members, key=len)
            if name.endswith("include/uv.h") and name[: -len("include/uv.h")] + "src/uv-common.c" in members
        ),
        None,
    )
    if top is None:
        raise SupplyError(f"{archive}: no libuv source inside (include/uv.h beside src/uv-common.c)")
    files = {name.removeprefix(top): content for name, content in members.items() if name.startswith(top)}
    return {name: content for name, content in files.items() if is_pinned(name) or name in LICENCE_FILES}


def wanted(name: str) -> bool:
    """Whether an archive member may belong to the tree: keeps documentation, tests and odd paths out of memory."""
    parts = PurePosixPath(name).parts
    return (
        ".." not in parts
        and not name.startswith("/")
        and (name.endswith((".c", ".h")) or PurePosixPath(name).name in LICENCE_FILES)
    )


def tar_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the regular files in a tar archive that `wanted` lets through."""
    total = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            total += member.size
            if total > MAX_TREE_BYTES:
                raise ValueError(f"unpacks to more than {MAX_TREE_BYTES} bytes")
            if member.isfile() and wanted(member.name):
                handle = tar.extractfile(member)
                assert handle is not None
                yield member.name, handle.read()


def zip_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in a zip archive that `wanted` lets through."""
    with zipfile.ZipFile(archive) as bundle:
        if sum(info.file_size for info in bundle.infolist()) > MAX_TREE_BYTES:
            raise ValueError(f"unpacks to more than {MAX_TREE_BYTES} bytes")
        for info in bundle.infolist():
            if not info.is_dir() and wanted(info.filename):
                yield info.filename, bundle.read(info)


def verify(files: Files, where: str, pin: Pin) -> Release:
    """The release `files` are; SupplyError naming `where` and both digests when they are none."""
    digest = digest_files(files)
    release = pin.release_of(digest)
    if release is None:
        raise SupplyError(
            f"{where}: this is not libuv {pin.versions()} as pinned in vendor/libuv.toml: the tree's digest is "
            f"{digest}, expected {' or '.join(r.tree for r in pin.releases)}. The source was changed or is another "
            "release; refused."
        )
    return release


def write_tree(files: Files, destination: Path) -> None:
    """Replace `destination` by `files` in one rename, so that no reader and no interrupted run sees half a tree."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".libuv-", dir=destination.parent))
    try:
        for name, content in files.items():
            path = staging / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if destination.exists():
            destination.rename(staging / "old")
        (staging / "tree").rename(destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def cache_root() -> Path:
    """The per-user cache folder: LOOPFAST_CACHE_DIR or the platform's own place."""
    if override := os.environ.get(CACHE_OVERRIDE):
        return Path(override)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library/Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "loopfast"


def cache_path(release: Release) -> Path:
    """Where the cache keeps `release`: keyed by content, so a moved pin never meets an old tree."""
    return cache_root() / f"libuv-{release.version}-{release.tree[:16]}"


def from_override(pin: Pin) -> tuple[Files, Release, str] | None:
    """The tree LOOPFAST_LIBUV_SOURCE names, or None where it is not set. Set and unusable is an error, never
    skipped."""
    value = os.environ.get(OVERRIDE)
    if not value:
        return None
    path = Path(value)
    where = f"{OVERRIDE}={value}"
    if not path.exists():
        raise SupplyError(f"{where}: no such file or folder")
    files = read_folder(path) if path.is_dir() else read_archive(path)
    return files, verify(files, where, pin), where


def from_tree(pin: Pin, tree: Path = TREE) -> Source | None:
    """vendor/libuv, or None where it is not there. There and different from the pin is an error, never skipped."""
    if not tree.is_dir():
        return None
    try:
        release = verify(read_folder(tree), str(tree), pin)
    except SupplyError as exc:
        raise SupplyError(f"{exc} Remove {tree} to fetch it again, or name another source in {OVERRIDE}.") from exc
    return Source(tree, release, "vendor/libuv")


def from_cache(pin: Pin, say: Callable[[str], None]) -> Source | None:
    """The best release in the per-user cache. A damaged entry is reported and ignored: it is only a copy."""
    for release in pin.releases:
        path = cache_path(release)
        if path.is_dir():
            try:
                return Source(path, verify(read_folder(path), str(path), pin), "the per-user cache")
            except (SupplyError, OSError) as exc:
                say(f"ignoring a damaged cache entry: {exc}")
    return None


def from_upstream(release: Release, folder: Path, pin: Pin) -> Files:
    """The upstream release, downloaded into `folder`; SupplyError with one line per address that failed."""
    failures = []
    for url in release.upstream:
        archive = folder / "upstream.tar.gz"
        try:
            download(url, archive)
            files = read_archive(archive)
            if verify(files, url, pin) is release:
                return files
            failures.append(f"{url}: carries another release than {release.version}")
        except (OSError, SupplyError, ValueError) as exc:
            failures.append(f"{url}: {getattr(exc, 'reason', None) or exc}")
    raise SupplyError("; ".join(failures))


def download(url: str, destination: Path) -> None:
    """Store `url` in `destination`; OSError when it does not answer, ValueError when it is too large to be libuv."""
    request = urllib.request.Request(url, headers={"User-Agent": "loopfast-vendor-fetch"})
    with urllib.request.urlopen(request, timeout=UPSTREAM_TIMEOUT) as response, destination.open("wb") as out:
        total = 0
        while chunk := response.read(1 << 16):
            total += len(chunk)
            if total > MAX_ARCHIVE_BYTES:
                raise ValueError(f"larger than {MAX_ARCHIVE_BYTES} bytes, cannot be libuv")
            out.write(chunk)


def from_apt(release: Release, folder: Path, pin: Pin) -> Files:
    """The release from the Debian pool this machine's apt is configured for; SupplyError where there is no such apt."""
    helper = next(
        (path for path in (shutil.which("apt-helper"), "/usr/lib/apt/apt-helper") if path and os.access(path, os.X_OK)),
        None,
    )
    get = shutil.which("apt-get")
    if helper is None or get is None:
        raise SupplyError("apt: not on this machine")
    targets = run([get, "indextargets", "--format", "$(ORIGIN)|$(REPO_URI)", "Created-By: Packages"])
    repository = next(
        (
            line.partition("|")[2]
            for line in targets.splitlines()
            if line.startswith("Debian|") and "security" not in line
        ),
        None,
    )
    if repository is None:
        raise SupplyError("apt: no Debian repository is configured")
    archive = folder / release.debian_file
    run(
        [
            helper,
            "download-file",
            f"{repository.rstrip('/')}/pool/main/libu/libuv1/{release.debian_file}",
            str(archive),
            f"SHA256:{release.debian_sha256}",
        ]
    )
    files = read_archive(archive)
    verify(files, release.debian_file, pin)
    return files


def run(command: list[str]) -> str:
    """The standard output of `command`; SupplyError with its last words when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SupplyError(f"{command[0]}: {exc}") from exc
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise SupplyError(f"{Path(command[0]).name}: {words[-1]}")
    return done.stdout


def locate(
    pin: Pin | None = None,
    *,
    scratch: Path | None = None,
    tree: Path = TREE,
    say: Callable[[str], None] = lambda text: None,
) -> Source | None:
    """The verified source that is already on this machine, or None: never touches the network.

    An archive named by LOOPFAST_LIBUV_SOURCE is unpacked below `scratch`. SupplyError where the override or
    vendor/libuv is there but is not an accepted release.
    """
    pin = pin or Pin.load()
    if found := from_override(pin):
        files, release, origin = found
        path = (scratch or HERE.parent / "build") / f"libuv-{release.version}-{release.tree[:16]}"
        if not path.is_dir() or digest_files(read_folder(path)) != release.tree:
            write_tree(files, path)
        return Source(path, release, origin)
    return from_tree(pin, tree) or from_cache(pin, say)


def fetch(pin: Pin | None = None, *, tree: Path = TREE, say: Callable[[str], None] = lambda text: None) -> Source:
    """Make `tree` hold a verified libuv and return it, from the first place that has one.

    `say` receives one line of progress per step. SupplyError lists every place that was tried and names the override.
    """
    pin = pin or Pin.load()
    if found := from_override(pin):
        files, release, origin = found
        current = read_folder(tree) if is_libuv(tree) else {}
        if digest_files(current) != release.tree:
            write_tree(files, tree)
        return Source(tree, release, origin)
    if source := from_tree(pin, tree):
        return source
    if cached := from_cache(pin, say):
        write_tree(read_folder(cached.path), tree)
        return Source(tree, cached.release, cached.origin)

    failures = []
    with tempfile.TemporaryDirectory(prefix="loopfast-libuv-") as folder:
        for release in pin.releases:
            for name, route in (("upstream", from_upstream), ("Debian's pool", from_apt)):
                say(f"libuv {release.version}: asking {name}")
                try:
                    files = route(release, Path(folder), pin)
                except SupplyError as exc:
                    failures.append(f"libuv {release.version} from {name}: {exc}")
                    continue
                write_tree(files, tree)
                try:
                    write_tree(files, cache_path(release))
                except OSError as exc:
                    say(f"the per-user cache cannot be written ({exc}); going on without it")
                return Source(tree, release, name)
    raise SupplyError(
        "libuv's source could not be found:\n  "
        + "\n  ".join(failures)
        + f"\nSet {OVERRIDE} to a folder or archive of libuv {pin.versions()} to supply it yourself."
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line: `fetch.py` makes vendor/libuv; `fetch.py digest PATH` prints what a folder or archive holds."""
    parser = argparse.ArgumentParser(prog="vendor/fetch.py", description=main.__doc__)
    parser.add_argument("command", nargs="?", choices=("fetch", "digest"), default="fetch")
    parser.add_argument("path", nargs="?", type=Path, help="folder or archive for `digest`")
    options = parser.parse_args(arguments)
    try:
        if options.command == "digest":
            if options.path is None:
                parser.error("digest needs a folder or an archive")
            files = read_folder(options.path) if options.path.is_dir() else read_archive(options.path)
            print(digest_files(files))
            return 0
        source = fetch(say=lambda text: print(text, file=sys.stderr, flush=True))
        print(f"libuv {source.release.version} verified in {source.path} (from {source.origin})")
        return 0
    except (SupplyError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""vendor/build.py and vendor/patch.py: source lists, switches, the system's libuv, missing tools, our own patches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vendor import build, fetch, patch
from vendor.fetch import SupplyError

Files = dict[str, bytes]


# ---- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linux", "darwin", "win32"])
def test_recipe(name: str, libuv_files: Files) -> None:
    """Every file a recipe names is in the release, once; and each platform's library has its own name."""
    recipe = build.platform_for(name)
    assert len(set(recipe.sources)) == len(recipe.sources)
    assert set(recipe.sources) <= libuv_files.keys()
    assert "loopfast" in recipe.library


def test_windows_recipe_is_complete(libuv_files: Files) -> None:
    """On Windows libuv compiles all there is."""
    windows = {name for name in libuv_files if name.startswith("src/win/") and name.endswith(".c")}
    assert windows <= set(build.platform_for("win32").sources)


def test_unknown_platform() -> None:
    with pytest.raises(SupplyError, match="no recipe for libuv on 'sunos5'; set LOOPFAST_SYSTEM_LIBUV=1"):
        build.platform_for("sunos5")


def test_header_version(libuv_files: Files, release: fetch.Release, tmp_path: Path) -> None:
    fetch.write_tree(libuv_files, tmp_path / "libuv")
    assert build.header_version(tmp_path / "libuv/include") == release.version


# ---- switches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "tag"),
    [
        ({}, ""),
        ({"LOOPFAST_DEBUG": "0", "LOOPFAST_SYSTEM_LIBUV": ""}, ""),
        ({"LOOPFAST_DEBUG": "1"}, "debug"),
        ({"LOOPFAST_SANITIZE": "address,undefined"}, "sanitize-address-undefined"),
        ({"LOOPFAST_DEBUG": "1", "LOOPFAST_SYSTEM_LIBUV": "1"}, "debug-system"),
    ],
)
def test_each_configuration_has_its_own_folder(
    environment: dict[str, str], tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOOPFAST_DEBUG", "LOOPFAST_SYSTEM_LIBUV", "LOOPFAST_SANITIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert build.Config.from_environment().tag == tag


@pytest.mark.parametrize("value", ["yes", "2", " "])
def test_a_switch_is_0_or_1(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPFAST_DEBUG", value)
    with pytest.raises(SupplyError, match=f"LOOPFAST_DEBUG={value!r}: expected 0 or 1"):
        build.Config.from_environment()


def test_assertions_follow_the_switch() -> None:
    assert "-DNDEBUG" in build.Config().compile_args(windows=False)
    debug = build.Config(debug=True).compile_args(windows=False)
    assert "-UNDEBUG" in debug and "-DNDEBUG" not in debug and "-g" in debug
    sanitized = build.Config(sanitize="address,undefined")
    assert "-fsanitize=address,undefined" in sanitized.compile_args(windows=False)
    assert "-fsanitize=address,undefined" in sanitized.link_args()


# ---- tools ---------------------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(sys.platform == "win32", reason="setuptools looks for Visual C++ itself")


@posix
def test_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -pipe")
    with pytest.raises(SupplyError, match="no C compiler: 'no-such-compiler' is not on PATH"):
        build.check_tools()


@posix
def test_missing_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SupplyError, match="headers of Python .* are missing .*python3-dev"):
        build.check_tools()


def pkg_config(folder: Path, script: str) -> str:
    """A pkg-config that does as `script` says."""
    tool = folder / "pkg-config"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return str(tool)


@posix
@pytest.mark.parametrize("version", ["1.49.0", "1.52.1", "2.0.0", "1.60.0-dev"])
def test_system_libuv(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = f"--modversion) echo {version};; --cflags) echo -I/opt/uv/include;; --libs) echo -L/opt/uv/lib -luv;;"
    script = f"case $1 in {answers} esac"
    monkeypatch.setenv("PKG_CONFIG", pkg_config(tmp_path, script))
    found = build.system_libuv()
    assert (found.version, found.include_dirs, found.link_args) == (
        version,
        ["/opt/uv/include"],
        ["-L/opt/uv/lib", "-luv"],
    )
    assert found.objects == []


@posix
@pytest.mark.parametrize("version", ["1.44.2", "1.48.99", "0.99"])
def test_system_libuv_too_old(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKG_CONFIG", pkg_config(tmp_path, f"echo {version}"))
    minimum = fetch.Pin.load().system_minimum
    with pytest.raises(SupplyError, match=f"the system's libuv is {version}, at least {minimum} is needed"):
        build.system_libuv()


@posix
def test_no_system_libuv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKG_CONFIG", pkg_config(tmp_path, "echo 'Package libuv was not found' >&2; exit 1"))
    with pytest.raises(SupplyError, match="no system libuv .* Package libuv was not found"):
        build.system_libuv()
    monkeypatch.delenv("PKG_CONFIG")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(SupplyError, match="needs pkg-config, which is not on PATH"):
        build.system_libuv()


# ---- patches -------------------------------------------------------------------------------------------------------

ORIGINAL = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n"
REASON = "Because the test says so.\n\n"
TWO_HUNKS = (
    REASON
    + """\
--- a/src/x.c
+++ b/src/x.c
@@ -1,3 +1,4 @@
 one
-two
+TWO
+two and a half
 three
@@ -6,2 +7,1 @@
-six
 seven
"""
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/x.c").write_text(ORIGINAL)
    return tmp_path


def test_patch(tree: Path) -> None:
    patch.apply({"01-x.patch": TWO_HUNKS}, tree)
    assert (tree / "src/x.c").read_text() == "one\nTWO\ntwo and a half\nthree\nfour\nfive\nseven\n"


def test_patches_build_on_each_other(tree: Path) -> None:
    second = REASON + "--- a/src/x.c\n+++ b/src/x.c\n@@ -2 +2 @@\n-TWO\n+zwei\n@@ -7,0 +8 @@\n+end\n"
    patch.apply({"01-x.patch": TWO_HUNKS, "02-x.patch": second}, tree)
    assert (tree / "src/x.c").read_text() == "one\nzwei\ntwo and a half\nthree\nfour\nfive\nseven\nend\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO_HUNKS.replace("-two\n", "-zwei\n"), r"src/x\.c:1 is not what the patch expects"),
        (TWO_HUNKS.replace("@@ -1,3 +1,4", "@@ -2,3 +2,4"), r"src/x\.c:2 is not what the patch expects"),
        (TWO_HUNKS.replace("@@ -6,2 +7,1", "@@ -90,2 +91,1"), "end of file"),
        (TWO_HUNKS.replace("src/x.c", "src/y.c"), "libuv has no file 'src/y.c'"),
        (TWO_HUNKS.replace("src/x.c", "../x.c"), "libuv has no file"),
        (TWO_HUNKS.removeprefix(REASON), "does not say why"),
        (TWO_HUNKS.removesuffix("-six\n seven\n"), "ends early"),
        (REASON, "no change in it"),
        (REASON + "@@ -1 +1 @@\n-a\n+b\n", "a hunk before any file"),
        (REASON + "--- a/src/x.c\n@@ -1 +1 @@\n", "expected"),
    ],
)
def test_patch_that_does_not_fit(tree: Path, text: str, message: str) -> None:
    (tree.parent / "x.c").write_text(ORIGINAL)
    with pytest.raises(SupplyError, match=message) as caught:
        patch.apply({"01-x.patch": text}, tree)
    assert str(caught.value).startswith("01-x.patch: ")
    assert (tree.parent / "x.c").read_text() == ORIGINAL


def test_our_patches_fit_the_pinned_source(libuv_files: Files, release: fetch.Release, tmp_path: Path) -> None:
    """Each states its reason, applies exactly, and changes something."""
    fetch.write_tree(libuv_files, tmp_path / "libuv")
    assert patch.patch_files(release.version)
    for path in patch.patch_files(release.version):
        before = fetch.digest_files(fetch.read_folder(tmp_path / "libuv"))
        patch.apply({path.name: path.read_text(encoding="utf-8")}, tmp_path / "libuv")
        assert fetch.digest_files(fetch.read_folder(tmp_path / "libuv")) != before, path.name


def test_every_accepted_release_has_every_patch() -> None:
    names = {
        release.version: [path.name for path in patch.patch_files(release.version)]
        for release in fetch.Pin.load().releases
    }
    assert len({tuple(found) for found in names.values()}) == 1, names


# ---- the build as a whole refuses ----------------------------------------------------------------------------------


def build_ext(checkout: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """An in-place build in `checkout` that is expected to fail before it compiles anything."""
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=110,
        env=environment,
    )


@pytest.fixture
def skeleton(tmp_path: Path, project: Path) -> Path:
    """What the build reads, with one Cython module of one line: it gets to libuv at once."""
    folder = tmp_path / "skeleton"
    ignore = shutil.ignore_patterns("__pycache__", "libuv")
    shutil.copytree(project / "vendor", folder / "vendor", ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy2(project / name, folder / name)
    (folder / "loopfast").mkdir()
    shutil.copy2(project / "loopfast/_version.py", folder / "loopfast/_version.py")
    (folder / "loopfast/__init__.py").touch()
    (folder / "loopfast/one.pyx").write_text("number = 1\n")
    return folder


def plain(**changes: str) -> dict[str, str]:
    """This environment with an empty cache and no switch but `changes`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOOPFAST_")}
    return kept | {"LOOPFAST_CACHE_DIR": os.path.join(os.sep, "nonexistent")} | changes


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line a refused build ends with; asserts that there is no traceback and nothing was built."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_build_without_source(skeleton: Path) -> None:
    line = error_line(build_ext(skeleton, plain()))
    for way_out in ("vendor/fetch.py", fetch.OVERRIDE, "LOOPFAST_SYSTEM_LIBUV=1"):
        assert way_out in line
    assert not (skeleton / "loopfast/_lib").exists()


def test_build_with_a_changed_source(skeleton: Path, libuv_files: Files) -> None:
    fetch.write_tree(libuv_files | {"src/timer.c": libuv_files["src/timer.c"] + b" "}, skeleton / "vendor/libuv")
    line = error_line(build_ext(skeleton, plain()))
    assert "refused" in line and "vendor/libuv" in line and fetch.OVERRIDE in line
    assert not (skeleton / "loopfast/_lib").exists()


@posix
def test_build_without_compiler(skeleton: Path) -> None:
    assert "no C compiler: 'no-such-compiler'" in error_line(build_ext(skeleton, plain(CC="no-such-compiler")))


@posix
def test_build_with_an_old_system_libuv(skeleton: Path, tmp_path: Path) -> None:
    tool = pkg_config(tmp_path, "echo 1.44.2")
    line = error_line(build_ext(skeleton, plain(LOOPFAST_SYSTEM_LIBUV="1", PKG_CONFIG=tool)))
    assert "the system's libuv is 1.44.2" in line


def test_build_with_a_wrong_switch(skeleton: Path) -> None:
    assert "LOOPFAST_DEBUG='on': expected 0 or 1" in error_line(build_ext(skeleton, plain(LOOPFAST_DEBUG="on")))


# ---- old systems ---------------------------------------------------------------------------------------------------


@posix
def test_a_function_of_glibc_2_27_may_be_missing() -> None:
    """`make wheels GLIBC=2.17` is for systems without copy_file_range(), which only Linux has."""
    import loopfast.fsops

    linux = sys.platform == "linux"
    command = ["nm", *(["-D"] if linux else []), loopfast.fsops.__file__]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [line.split()[0] for line in symbols.splitlines() if "copy_file_range" in line]
    assert found == (["w"] if linux else [])

"""What users install: the sdist, the wheel made from it without a network, an editable installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

from vendor import build as libuv_build
from vendor import fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROGRAM = """
import asyncio, loopfast, pathlib, sys
assert "cffi" not in sys.modules
async def main():
    async def echo(reader, writer):
        writer.write(await reader.readexactly(4))
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"ping")
    print((await reader.read()).decode())
    writer.close()
    server.close()
loopfast.run(main())
import loopfast.uv
assert loopfast.uv.version() == loopfast.libuv_version()
print(pathlib.Path(loopfast.__file__).parent)
"""


def python(folder: Path) -> str:
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")


def build(folder: Path, out: Path, what: str, environment: dict[str, str]) -> Path:
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", what, "--outdir", out, folder],
        check=True,
        env=environment,
        timeout=800,
    )
    [made] = out.iterdir()
    return made


@pytest.fixture(scope="session")
def sdist(checkout: Path, offline: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("sdist"), "--sdist", offline)


@pytest.fixture(scope="session")
def wheel(sdist: Path, offline: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, filter="data")
    [root] = folder.iterdir()
    return build(root, tmp_path_factory.mktemp("wheel"), "--wheel", offline)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment that can see this one's packages, cffi among them, but not this loopfast."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    import cffi

    [site] = folder.glob("lib/python*/site-packages") if os.name != "nt" else folder.glob("Lib/site-packages")
    packages = Path(cffi.__file__).parents[1]
    for name in ("cffi", "pycparser"):
        (site / name).symlink_to(packages / name)
    for path in packages.glob("_cffi_backend*"):
        (site / path.name).symlink_to(path)
    return folder


def test_the_sdist_holds_sources_only(sdist: Path) -> None:
    with tarfile.open(sdist) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    assert {
        "pyproject.toml",
        "setup.py",
        "LICENSE",
        "README.md",
        "loopfast/core.pyx",
        "loopfast/core.pxd",
        "loopfast/includes/platform.h",
        "vendor/libuv.toml",
        "vendor/libuv/include/uv.h",
        "vendor/libuv/src/uv-common.c",
        "vendor/libuv/LICENSE",
    } <= names
    generated = [
        name
        for name in names
        if name.endswith((".so", ".o", ".pyc")) or (name.endswith(".c") and name.startswith("loopfast/"))
    ]
    assert generated == []


def test_the_wheel_holds_one_libuv_and_the_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert len([name for name in names if name.startswith("loopfast/_lib/")]) == 1
    licences = [name for name in names if "/licenses/" in name]
    assert any(name.endswith("/LICENSE") for name in licences) and any("libuv" in name.lower() for name in licences)
    assert "loopfast/core.pxd" in names and "loopfast/py.typed" in names
    assert "loopfast/_boot/sitecustomize.py" in names
    assert not [name for name in names if name.endswith((".pyx", ".c")) and not name.startswith("loopfast/bench/")]
    assert wheel.stat().st_size < 1.5 * 2**20


def test_the_wheel_carries_the_benchmarks_and_no_demonstration(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "loopfast/bench/__init__.py",
        "loopfast/bench/__main__.py",
        "loopfast/bench/launch.py",
        "loopfast/bench/load.c",
        "loopfast/bench/budget/targets.toml",
        "loopfast/bench/suite/workloads/web.py",
    } <= names
    unwanted = ("bench/", "loopfast/bench/demo/", "loopfast/bench/results/")
    assert not [name for name in names if name.startswith(unwanted)]


def test_the_benchmark_command_of_the_wheel(
    wheel: Path, environment: Path, offline: dict[str, str], tmp_path: Path
) -> None:
    subprocess.run(
        [python(environment), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel],
        check=True,
        env=offline,
    )
    clean = {name: value for name, value in offline.items() if not name.startswith("PYTHON")}

    def ask(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=120)

    command = Path(python(environment)).with_name("loopfast-bench")
    for words in ([command], [python(environment), "-m", "loopfast", "bench"]):
        done = ask(*words, "list")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "loopfast-bench: pyperf is not installed: pip install 'loopfast[bench]'\n"

    import pyperf

    [site] = environment.glob("lib/python*/site-packages") if os.name != "nt" else environment.glob("Lib/site-packages")
    link = site / "pyperf"
    link.symlink_to(Path(pyperf.__file__).parent)
    try:
        workloads = ["call_soon.single", "startup.process", *(["udp.1KiB.c10"] if sys.platform == "linux" else [])]
        done = ask(command, "run", "--quick", "--rounds", "2", *workloads, "-o", "got.json")
        assert done.returncode == 0, done.stderr
        assert "failed: " not in done.stdout and "loopfast" in done.stdout
        again = ask(python(environment), "-m", "loopfast", "bench", "report", "got.json")
        assert again.returncode == 0 and "call_soon.single" in again.stdout
    finally:
        link.unlink()


def test_the_wheel_runs_outside_the_checkout(
    wheel: Path, environment: Path, offline: dict[str, str], tmp_path: Path
) -> None:
    subprocess.run(
        [python(environment), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel],
        check=True,
        env=offline,
    )
    clean = {name: value for name, value in offline.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python(environment), "-c", PROGRAM], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "" and done.returncode == 0
    answer, place = done.stdout.splitlines()
    assert answer == "ping" and Path(place).is_relative_to(environment)
    report = subprocess.run(
        [python(environment), "-m", "loopfast"], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60
    )
    assert report.returncode == 0 and "libuv" in report.stdout
    # The command, and a process below it.
    kind = "import asyncio; loop = asyncio.new_event_loop(); print(type(loop).__module__, flush=True); loop.close()"
    program = f"{kind}; import subprocess, sys; subprocess.run([sys.executable, '-c', {kind!r}], check=True)"
    command = Path(python(environment)).with_name("loopfast")
    done = subprocess.run(
        [command, "run", "-c", program], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "loopfast._loop\n" * 2, "")


PROBE = """
from loopfast.core cimport LoopCore
from loopfast.includes cimport uv

def turns(LoopCore loop):
    return loop.turns

def libuv_handles(LoopCore loop):
    return loop.state.loop.active_handles, uv.uv_loop_alive(&loop.state.loop)
"""
PROBE_SETUP = """
import pathlib, sys
import loopfast
from Cython.Build import cythonize
from setuptools import Extension, setup
libuv_headers = sys.argv.pop()
package = pathlib.Path(loopfast.__file__).parent
[library] = (package / "_lib").iterdir()
probe = Extension(
    "probe", ["probe.pyx"], include_dirs=[str(package / "includes"), libuv_headers], extra_objects=[str(library)]
)
setup(name="probe", ext_modules=cythonize([probe], language_level=3))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows links with an import library, which the wheel has not")
def test_the_wheel_can_be_cimported(wheel: Path, checkout: Path, offline: dict[str, str], tmp_path: Path) -> None:
    """A Cython module of the user's, with libuv's headers, on the loop and the libuv of the wheel."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "probe.pyx").write_text(PROBE)
    (tmp_path / "setup.py").write_text(PROBE_SETUP)
    environment = {**offline, "PYTHONPATH": os.pathsep.join([str(tmp_path / "installed"), str(tmp_path)])}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", str(checkout / "vendor/libuv/include")]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=300)
    program = """
        import asyncio, loopfast, probe
        assert loopfast.__file__.startswith(INSTALLED), loopfast.__file__
        async def main():
            loop = asyncio.get_running_loop()
            before = probe.turns(loop)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            print(probe.turns(loop) - before, probe.libuv_handles(loop)[1])
        loopfast.run(main())
    """
    program = f"INSTALLED = {str(tmp_path)!r}\n" + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("2 1\n", "")


def test_another_libuv_than_compiled_against_is_refused(
    wheel: Path, environment: Path, offline: dict[str, str], tmp_path: Path
) -> None:
    """A library that answers like libuv 1.2.3, loaded first, interposes."""
    subprocess.run(
        [python(environment), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel],
        check=True,
        env=offline,
    )
    (tmp_path / "other.c").write_text(
        'unsigned uv_version(void) { return 0x010203; }\nconst char *uv_version_string(void) { return "1.2.3"; }\n'
    )
    other = tmp_path / "other.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", other, tmp_path / "other.c"], check=True)
    done = subprocess.run(
        [python(environment), "-c", "import loopfast"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**offline, "LD_PRELOAD": str(other)},
    )
    assert done.returncode == 1
    assert "ImportError" in done.stderr and "1.2.3" in done.stderr


def test_nothing_in_the_wheel_points_to_this_machine(wheel: Path, checkout: Path) -> None:
    """No library path of the interpreter, no folder of the build: only `$ORIGIN` leads from a module to libuv."""
    here = [str(path).encode() for path in (checkout, Path.home(), sysconfig.get_config_var("LIBDIR"), sys.prefix)]
    with zipfile.ZipFile(wheel) as bundle:
        binaries = {
            name: bundle.read(name)
            for name in bundle.namelist()
            if name.endswith((".so", ".so.1", ".dylib", ".pyd", ".dll"))
        }
    assert len(binaries) > 5
    assert [(name, path) for name, content in binaries.items() for path in here if path in content] == []


@pytest.fixture
def build_environment(tmp_path: Path) -> Path:
    """A fresh virtual environment that sees this one's packages, the build tools among them, but not this loopfast.

    They come before the environment's own, which may hold an older setuptools. The .pth files among them, editable
    installations too, are not read from there.
    """
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    [site] = folder.glob("lib/python*/site-packages") if os.name != "nt" else folder.glob("Lib/site-packages")
    (site / "packages.pth").write_text(f"import sys; sys.path.insert(0, {sysconfig.get_path('purelib')!r})\n")
    return folder


def test_an_editable_installation(
    checkout: Path, build_environment: Path, offline: dict[str, str], tmp_path: Path
) -> None:
    clean = {name: value for name, value in offline.items() if not name.startswith("PYTHON")}
    subprocess.run(
        [python(build_environment), "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", checkout],
        check=True,
        env=clean,
        timeout=800,
    )
    done = subprocess.run(
        [python(build_environment), "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=clean
    )
    assert done.stderr == "" and done.stdout.splitlines() == ["ping", str(checkout / "loopfast")]

    # What is edited is what runs; and a second build finds everything up to date.
    version = checkout / "loopfast/_version.py"
    version.write_text(version.read_text() + '__version__ += "+edited"\n')
    shown = subprocess.run(
        [python(build_environment), "-c", "import loopfast; print(loopfast.__version__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=clean,
        check=True,
    )
    assert shown.stdout.strip().endswith("+edited")
    again = subprocess.run(
        [python(build_environment), "setup.py", "-q", "build_ext", "--inplace"],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=300,
        env=clean,
        check=True,
    )
    assert "ompiling" not in again.stdout + again.stderr and "building libuv" not in again.stderr


@pytest.fixture
def system_libuv(libuv_files: dict[str, bytes], tmp_path: Path) -> Path:
    """A libuv installed as a distribution would, under a prefix of its own."""
    source, prefix = tmp_path / "libuv", tmp_path / "prefix"
    fetch.write_tree(libuv_files, source)
    (prefix / "lib/pkgconfig").mkdir(parents=True)
    shutil.copytree(source / "include", prefix / "include")
    recipe = libuv_build.platform_for()
    subprocess.run(
        [
            "cc",
            "-O1",
            "-fPIC",
            "-shared",
            "-std=gnu11",
            "-fno-strict-aliasing",
            "-Iinclude",
            "-Isrc",
            "-Wl,-soname,libuv.so.1",
            *(f"-D{name}" if value is None else f"-D{name}={value}" for name, value in recipe.macros),
            *recipe.sources,
            *(f"-l{name}" for name in recipe.libraries),
            "-o",
            prefix / "lib/libuv.so.1",
        ],
        cwd=source,
        check=True,
        timeout=300,
    )
    (prefix / "lib/libuv.so").symlink_to("libuv.so.1")
    (prefix / "lib/pkgconfig/libuv.pc").write_text(
        f"Name: libuv\nDescription: I/O\nVersion: {libuv_build.header_version(source / 'include')}\n"
        f"Libs: -L{prefix}/lib -luv\nCflags: -I{prefix}/include\n"
    )
    return prefix


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="builds a shared library as Linux names it")
def test_the_systems_libuv(checkout: Path, system_libuv: Path, offline: dict[str, str], tmp_path: Path) -> None:
    clean = {name: value for name, value in offline.items() if not name.startswith(("PYTHON", "LOOPFAST_"))}
    switched = clean | {"LOOPFAST_SYSTEM_LIBUV": "1", "PKG_CONFIG_PATH": str(system_libuv / "lib/pkgconfig")}
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-base", tmp_path / "build", "--build-lib", out],
        cwd=checkout,
        env=switched,
        check=True,
        timeout=800,
    )
    assert not (out / "loopfast/_lib").exists()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=clean | {"PYTHONPATH": str(out), "LD_LIBRARY_PATH": str(system_libuv / "lib")},
    )
    assert done.stderr == "" and done.stdout.splitlines() == ["ping", str(out / "loopfast")]
    loaded = subprocess.run(
        [sys.executable, "-c", "import loopfast; print(open('/proc/self/maps').read())"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=clean | {"PYTHONPATH": str(out), "LD_LIBRARY_PATH": str(system_libuv / "lib")},
    ).stdout
    assert str(system_libuv / "lib/libuv.so.1") in loaded and "libloopfast-uv" not in loaded


def test_a_missing_compiler_is_one_clear_error(checkout: Path, offline: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", tmp_path, "--build-lib", tmp_path],
        cwd=checkout,
        env={**offline, "CC": "no-such-compiler"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "no-such-compiler" in done.stderr and "Traceback" not in done.stderr

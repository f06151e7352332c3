"""`python -m loopfast`: run as a user runs it, in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import loopfast
from loopfast import _info

SOURCE_ROOT = Path(loopfast.__file__).parents[1]


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loopfast", *arguments],
        env=os.environ | {"PYTHONPATH": str(SOURCE_ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_json_states_the_facts() -> None:
    done = run_command("--json", UV_THREADPOOL_SIZE="7")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    versions = facts["versions"]
    assert versions["loopfast"] == loopfast.__version__
    assert versions["python"] == f"CPython {platform.python_version()}"
    assert versions["libuv loaded"] == versions["libuv compiled against"] == loopfast.libuv_version()
    assert versions["cython"].startswith("3.")
    assert versions["openssl"].startswith("OpenSSL")
    assert facts["build"]["kind"].split()[0] in ("release", "debug")
    assert facts["build"]["compiler"]
    assert facts["python"]["free-threaded build"] is bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert facts["machine"]["cpus"] == os.cpu_count()
    assert facts["machine"]["architecture"] == platform.machine()
    assert facts["features"]["epoll"] is (sys.platform == "linux")
    assert facts["environment"]["UV_THREADPOOL_SIZE"] == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's list of a process's mapped files")
def test_names_the_libuv_file_in_use() -> None:
    [path] = _info.collect()["build"]["libuv files"]
    assert os.path.basename(path).startswith(("libloopfast-uv", "libuv"))  # ours, or the system's


def test_text_has_every_fact_of_the_json() -> None:
    text = run_command().stdout
    facts = json.loads(run_command("--json").stdout)
    assert run_command("info").stdout.splitlines()[0] == text.splitlines()[0]
    sections = {section.splitlines()[0]: section for section in text.strip().split("\n\n")}
    assert list(sections) == [title for title, entries in facts.items() if entries]
    for title, entries in facts.items():
        for name, value in entries.items():
            [line] = [line for line in sections[title].splitlines() if line.startswith(f"  {name}  ")]
            if isinstance(value, str):
                assert line.endswith(f"  {value}")
    assert max(map(len, text.splitlines())) <= 200


def test_contains_nothing_personal(tmp_path: Path) -> None:
    """No host name, no user name: the home directory is abbreviated and unknown variables are left out."""
    home = Path(sys.executable).parents[1]
    done = run_command(HOME=str(home), SECRET_TOKEN="do-not-show")
    assert done.returncode == 0
    assert f"{home}{os.sep}" not in done.stdout
    assert "~" in done.stdout
    assert "do-not-show" not in done.stdout
    node = platform.node()
    assert len(node) < 4 or node not in done.stdout


def test_version() -> None:
    done = run_command("--version")
    assert done.returncode == 0
    assert done.stdout == f"loopfast {loopfast.__version__} (libuv {loopfast.libuv_version()})\n"


def test_a_reader_that_leaves_early() -> None:
    """As in `python -m loopfast | head`: no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "loopfast"],
        env=os.environ | {"PYTHONPATH": str(SOURCE_ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_wrong_usage() -> None:
    done = run_command("--nonsense")
    assert done.returncode == 2
    assert "--nonsense" in done.stderr
    assert done.stdout == ""


def test_a_missing_compiled_module_is_explained(tmp_path: Path) -> None:
    """A source tree that was not built: one error that names the module and the remedy."""
    package = tmp_path / "loopfast"
    package.mkdir()
    for source in Path(loopfast.__file__).parent.glob("*.py"):
        (package / source.name).write_bytes(source.read_bytes())
    # Without site-packages, where an editable installation would lend its compiled modules to the copy.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "loopfast"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert "loopfast is not built" in error
    assert "pip install" in error


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_cpu_quota(files: dict[str, str], cpus: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two versions of control groups, as https://docs.kernel.org/admin-guide/cgroup-v2.html describes them."""
    monkeypatch.setattr(_info, "_read", files.get)
    assert _info._cgroup_cpus() == cpus


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"/sys/fs/cgroup/memory.max": "268435456"}, 2**28),
        ({"/sys/fs/cgroup/memory.max": "max"}, None),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576"}, 2**20),
        ({}, None),
    ],
)
def test_memory_limit(files: dict[str, str], limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_info, "_read", files.get)
    assert _info._cgroup_memory() == limit

"""`loopfast run`: programs, their processes, and what they find on the way, each compared with plain Python.

Everything runs in processes of its own, started from a folder that has no loopfast in it.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import loopfast
from loopfast import _command, _install

PACKAGE = Path(loopfast.__file__).parent
SOURCE_ROOT = PACKAGE.parent

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the shell commands and signals of the tests are POSIX's"
)

# Says which loop each way of asking for one gives, as the class's module.
KINDS = """
    import asyncio, json, sys

    def package(loop):
        return type(loop).__module__.partition(".")[0]

    async def running():
        return package(asyncio.get_running_loop())

    def new():
        loop = asyncio.new_event_loop()
        loop.close()
        return package(loop)
"""
ONE = textwrap.dedent(KINDS) + "print(asyncio.run(running()), flush=True)\n"


def variables(*path: Path, **more: str) -> dict[str, str]:
    """This process's environment with ``path`` on PYTHONPATH, behind the tree under test."""
    inherited = {name: value for name, value in os.environ.items() if name != "LOOPFAST_RUN"}
    return {**inherited, "PYTHONPATH": os.pathsep.join(map(str, [SOURCE_ROOT, *path])), **more}


def execute(
    *words: str | Path, cwd: Path, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=variables() if env is None else env,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def loopfast_run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return execute(sys.executable, "-m", "loopfast", "run", *words, **options)


def write(path: Path, source: str) -> Path:
    path.write_text(textwrap.dedent(source))
    return path


# ------------------------------------------------------------------------------------------------------ which program


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "package.module", "-x", "1"],
        ["-c", "print(1)", "-S"],
        ["-X", "dev", "-W", "error", "-m", "package"],
        ["-"],
        ["-u", "script.py"],
        ["script.py", "-I"],
        ["-Wignore", "-Xdev", "-OOm", "module", "-E"],
        ["--check-hash-based-pycs", "never", "script", "-I"],
        ["-m", "module", "-I"],
    ],
    ids=" ".join,
)
def test_what_python_runs(words: list[str], folder: Path) -> None:
    line = _command.command_line(words)
    assert line[0] == sys.executable
    assert line[-len(words) :] == words


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["-I", "script.py"], "-I"),
        (["-Im", "module"], "-I"),
        (["-uE", "script.py"], "-E"),
        (["-X", "dev", "-W", "-I", "-S", "script.py"], "-S"),
        (["--check-hash-based-pycs", "-E", "-I", "script.py"], "-I"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_would_switch_it_off_are_refused(words: list[str], option: str) -> None:
    with pytest.raises(ValueError, match=option):
        _command.command_line(words)


def test_a_file_or_a_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts and folders go to Python; a plain name is a command beside this Python, then in PATH, then a file."""
    (folder / "application").mkdir()
    (folder / "application" / "__main__.py").touch()
    (folder / "plain").touch()
    for name in ("missing.py", "application", "plain", "archive.pyz"):
        assert _command.command_line([name, "-x"])[-2:] == [name, "-x"]
        assert _command.command_line([name, "-x"])[0] == sys.executable
    assert _command.command_line(["./tool", "-x"]) == ["./tool", "-x"]
    here, there = folder / "here", folder / "there"
    for place in (here, there):
        place.mkdir()
        (place / "tool").touch(mode=0o755)
    (there / "other").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(there))
    monkeypatch.setattr(_command.sysconfig, "get_path", {"scripts": str(here)}.get)
    assert _command.command_line(["tool", "1"]) == [str(here / "tool"), "1"]
    assert _command.command_line(["other"]) == [str(there / "other")]
    with pytest.raises(FileNotFoundError, match="'nothing'"):
        _command.command_line(["nothing"])


def test_the_environment() -> None:
    boot = _command.BOOT
    assert _command.environment({"A": "1"})["PYTHONPATH"] == boot
    once = _command.environment({"PYTHONPATH": f"x{os.pathsep}y"})
    assert once["PYTHONPATH"] == os.pathsep.join([boot, "x", "y"])
    twice = _command.environment(once, as_uvloop=True)
    assert twice["PYTHONPATH"] == once["PYTHONPATH"]
    assert (once["LOOPFAST_RUN"], twice["LOOPFAST_RUN"]) == (f"pid={os.getpid()}", f"pid={os.getpid()} as-uvloop")


def test_errors_in_use(folder: Path) -> None:
    (folder / "not-executable").touch(mode=0o644)
    for words, status, text in [
        ([], 2, "no program given"),
        (["--as-uvloop"], 2, "no program given"),
        (["-I", "-c", "1"], 2, "-I"),
        (["no-such-command"], 127, "'no-such-command'"),
        (["./no-such-file"], 127, "'./no-such-file'"),
        (["./not-executable"], 126, "ermission"),
    ]:
        done = loopfast_run(*words, cwd=folder)
        assert (done.returncode, done.stdout) == (status, ""), done
        assert text in done.stderr
        assert "Traceback" not in done.stderr
    done = execute(sys.executable, "-E", "-c", f"{RUN_MAIN}(['run', 'x.py'])", cwd=folder)
    assert done.returncode == 2
    assert "-E" in done.stderr
    assert "--as-uvloop" in loopfast_run("--help", cwd=folder).stdout


RUN_MAIN = f"import sys; sys.path.insert(0, {str(SOURCE_ROOT)!r}); from loopfast.__main__ import main; main"

# ------------------------------------------------------------------------------------------------------ the program

INTROSPECTION = """
    import json, sys, __main__

    spec = __spec__ and __spec__.name
    print(json.dumps({
        "argv": sys.argv, "path": sys.path, "name": __name__, "file": globals().get("__file__"), "spec": spec,
        "package": __package__, "main": __main__.__dict__ is globals(),
        "flags": list(sys.flags), "warnings": sys.warnoptions, "x": sys._xoptions,
    }))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["script.py", "-m", "x", "--as-uvloop"],
        ["-m", "package.module", "a b", "-c"],
        ["-m", "package"],
        ["package", "1"],
        ["-c", textwrap.dedent(INTROSPECTION), "1", "2"],
        ["-X", "dev", "-W", "ignore", "-OO", "script.py"],
    ],
    ids=lambda words: words[0] + words[1][:15],
)
def test_the_program_sees_what_python_shows_it(words: list[str], tmp_path: Path) -> None:
    write(tmp_path / "script.py", INTROSPECTION)
    package = tmp_path / "package"
    package.mkdir()
    for name in ("__init__", "__main__", "module"):
        write(package / f"{name}.py", "" if name == "__init__" else INTROSPECTION)
    plain = execute(sys.executable, *words, cwd=tmp_path)
    ours = loopfast_run(*words, cwd=tmp_path)
    assert plain.returncode == ours.returncode == 0, ours.stderr
    expected, facts = json.loads(plain.stdout), json.loads(ours.stdout)
    assert facts["path"][1] == _command.BOOT
    assert facts["path"].pop(1) == _command.BOOT
    assert facts == expected
    assert ours.stderr == plain.stderr


def test_options_of_the_first_python_are_passed_on(tmp_path: Path) -> None:
    script = write(tmp_path / "script.py", INTROSPECTION)
    options = ("-X", "dev", "-W", "ignore::UserWarning", "-O", "-P")
    plain = json.loads(execute(sys.executable, *options, script, cwd=tmp_path).stdout)
    done = execute(sys.executable, *options, "-m", "loopfast", "run", script, cwd=tmp_path)
    ours = json.loads(done.stdout)
    for name in ("flags", "x"):
        assert ours[name] == plain[name]
    assert set(ours["warnings"]) == set(plain["warnings"])


def test_standard_input_and_a_command_of_path(tmp_path: Path) -> None:
    assert loopfast_run("-", cwd=tmp_path, input=ONE).stdout == "loopfast\n"
    tool = write(tmp_path / "tool", f"#!{sys.executable}\n{ONE}")
    tool.chmod(0o755)
    env = variables(PATH=os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    assert loopfast_run("tool", cwd=tmp_path, env=env).stdout == "loopfast\n"
    shell = f"{sys.executable} -c '{ONE}'; exit 9"
    done = loopfast_run("sh", "-c", shell, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("loopfast\n", 9)


def test_exit_status_and_signals(tmp_path: Path) -> None:
    assert loopfast_run("-c", "import sys; sys.exit(7)", cwd=tmp_path).returncode == 7
    failed = loopfast_run("-c", "1 / 0", cwd=tmp_path)
    assert (failed.returncode, failed.stderr) == (1, execute(sys.executable, "-c", "1 / 0", cwd=tmp_path).stderr)
    killed = loopfast_run("-c", "import os; os.kill(os.getpid(), 9)", cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    # SIGPIPE is what the shell's own commands expect it to be, although Python ignores it.
    done = loopfast_run("sh", "-c", "kill -PIPE $$; echo ignored", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", -signal.SIGPIPE)


def test_a_signal_reaches_the_program_itself(tmp_path: Path) -> None:
    program = """
        import asyncio, os, signal

        async def main():
            stopped = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
            print(os.getpid(), flush=True)
            await stopped.wait()
            print("stopped in good order")

        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-m", "loopfast", "run", write(tmp_path / "program.py", program)],
        env=variables(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "stopped in good order\n"
    assert process.returncode == 0


# ------------------------------------------------------------------------------------------------ which loop, and where


def test_each_way_to_a_loop(tmp_path: Path) -> None:
    done = loopfast_run(
        "-c",
        textwrap.dedent(KINDS)
        + textwrap.dedent(
            """
            import threading
            with asyncio.Runner() as runner:
                by_runner = runner.run(running())
            in_thread = []
            thread = threading.Thread(target=lambda: in_thread.append(asyncio.run(running())))
            thread.start()
            thread.join()
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                explicit = runner.run(running())
            print(json.dumps([asyncio.run(running()), by_runner, new(), in_thread[0], explicit]))
            """
        ),
        cwd=tmp_path,
    )
    assert json.loads(done.stdout) == ["loopfast"] * 4 + ["asyncio"], done.stderr
    assert done.stderr == ""


PROCESSES = """
    import concurrent.futures, multiprocessing, subprocess

    def work(depth):
        if depth == 0:
            return [asyncio.run(running())]
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return [asyncio.run(running()), *pool.submit(work, depth - 1).result()]

    if __name__ == "__main__":
        kinds = {}
        for method in multiprocessing.get_all_start_methods():
            with multiprocessing.get_context(method).Pool(1) as pool:
                kinds[method] = pool.apply(work, (0,))
        kinds["nested"] = work(2)
        kinds["command"] = subprocess.check_output([sys.executable, "-c", ONE], text=True).split()
        kinds["shell"] = subprocess.check_output(f"exec {sys.executable} one.py", shell=True, text=True).split()
        kinds["switched off"] = subprocess.check_output(
            f"LOOPFAST_RUN= {sys.executable} one.py", shell=True, text=True
        ).split()
        for option in ("-I", "-E", "-S"):
            kinds[option] = subprocess.check_output([sys.executable, option, "one.py"], text=True).split()
        print(json.dumps(kinds))
"""


def test_the_processes_of_a_program(tmp_path: Path) -> None:
    """Those of multiprocessing, nested ones, and commands are reached; Python's isolating options are the limit."""
    (tmp_path / "one.py").write_text(ONE)
    program = tmp_path / "program.py"
    program.write_text(f"ONE = {ONE!r}\n{textwrap.dedent(KINDS)}{textwrap.dedent(PROCESSES)}")
    done = loopfast_run(program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kinds = json.loads(done.stdout)
    for name in ("switched off", "-I", "-E", "-S"):
        assert kinds.pop(name) == ["asyncio"]
    assert kinds.pop("nested") == ["loopfast"] * 3
    assert {"spawn", "fork", "command", "shell"} <= kinds.keys()
    assert kinds == dict.fromkeys(kinds, ["loopfast"])
    assert done.stderr == ""


def test_run_inside_run(tmp_path: Path) -> None:
    inner = [
        sys.executable,
        "-m",
        "loopfast",
        "run",
        sys.executable,
        "-c",
        "import os, sys; print(sys.path.count(sys.argv[1]))",
    ]
    done = loopfast_run(*inner, _command.BOOT, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_what_never_needs_a_loop_loads_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; print([name for name in sys.modules if name.split('.')[0] in ('asyncio', 'loopfast', 'typing')])"
    )
    done = loopfast_run("-c", program, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_program_that_imports_loopfast_itself(tmp_path: Path) -> None:
    """Importing it imports asyncio in the midst of that; afterwards it decides."""
    program = f"import loopfast\n{ONE}loopfast.uninstall()\nprint(asyncio.run(running()))"
    done = loopfast_run("-c", program, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("loopfast\nasyncio\n", "")


def test_the_modules_that_install_changes_are_known_at_the_start() -> None:
    """They import asyncio, so what waits for asyncio must know them beforehand."""
    path = Path(_command.BOOT, "_loopfast_boot.py")
    spec = importlib.util.spec_from_file_location("_loopfast_boot_under_test", path)
    assert spec is not None and spec.loader is not None
    boot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(boot)
    changed = [set(change._replacements) for change in _install._make_changes() if hasattr(change, "_replacements")]
    assert changed == [set(boot.SERVER_MODULES)]


def test_asyncio_itself_keeps_no_trace(tmp_path: Path) -> None:
    program = "import asyncio; print(type(asyncio.__loader__).__name__, type(asyncio.__spec__.loader).__name__)"
    plain = execute(sys.executable, "-c", program, cwd=tmp_path)
    assert loopfast_run("-c", program, cwd=tmp_path).stdout == plain.stdout


def test_from_a_tree_that_is_not_on_the_path(tmp_path: Path) -> None:
    """The program's environment has no loopfast: that of the command is used, as in another virtual environment."""
    environment = {name: value for name, value in variables().items() if name != "PYTHONPATH"}
    words = ["run", "-c", f"{ONE}import loopfast; print(loopfast.__file__, *sys.path)"]
    done = execute(sys.executable, "-c", f"{RUN_MAIN}({words})", cwd=tmp_path, env=environment)
    kind, location, *path = done.stdout.split()
    # Unless this one has it installed, perhaps editable and from another tree.
    find = "import importlib.util as util; spec = util.find_spec('loopfast'); print(spec.origin if spec else '')"
    installed = execute(sys.executable, "-c", find, cwd=tmp_path, env=environment).stdout.strip()
    assert (kind, location) == ("loopfast", installed or str(PACKAGE / "__init__.py")), done.stderr
    if not shutil.which("pip"):  # where it is installed, perhaps editable, the folder may be there for that reason
        assert str(SOURCE_ROOT) not in path


# ------------------------------------------------------------------------------------------------ interpreters without


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with a loopfast that this interpreter cannot load, and the real hook beside it."""
    package = tmp_path / "foreign" / "loopfast"
    shutil.copytree(PACKAGE / "_boot", package / "_boot", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text("raise ImportError('made for another Python')\n")
    return package


def test_a_python_that_cannot_load_it_goes_on_without(foreign: Path, tmp_path: Path) -> None:
    """A child in silence; the program itself says so."""
    path = os.pathsep.join([str(foreign / "_boot"), str(foreign.parent)])
    (tmp_path / "one.py").write_text(ONE)
    child = execute(
        sys.executable, "one.py", cwd=tmp_path, env=variables() | {"PYTHONPATH": path, "LOOPFAST_RUN": "pid=1"}
    )
    assert (child.stdout, child.stderr) == ("asyncio\n", "")
    main = execute(
        "sh", "-c", f"LOOPFAST_RUN=pid=$$ exec {sys.executable} one.py", cwd=tmp_path,
        env=variables() | {"PYTHONPATH": path},
    )  # fmt: skip
    assert main.stdout == "asyncio\n"
    assert "made for another Python" in main.stderr
    assert "runs without loopfast" in main.stderr
    assert len(main.stderr.splitlines()) == 1


def test_a_broken_one_is_reported_and_does_no_harm(tmp_path: Path, foreign: Path) -> None:
    (foreign / "__init__.py").write_text("def install():\n    raise LookupError('broken')\n")
    path = os.pathsep.join([str(foreign / "_boot"), str(foreign.parent)])
    done = execute(
        sys.executable, "-c", ONE, cwd=tmp_path, env=variables() | {"PYTHONPATH": path, "LOOPFAST_RUN": "pid=1"}
    )
    assert done.stdout == "asyncio\n"
    assert "LookupError('broken')" in done.stderr


def test_older_pythons_can_read_it() -> None:
    """The grammar of Python 3.4, the oldest that ast knows, for the file that any Python may meet."""
    source = (PACKAGE / "_boot" / "sitecustomize.py").read_text()
    ast.parse(source, feature_version=(3, 4))
    assert "f'" not in source and 'f"' not in source


# ------------------------------------------------------------------------------------------- the user's sitecustomize


def test_the_users_own_sitecustomize(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    write(own / "sitecustomize.py", "import sys; sys.path.append('/added'); sys.seen = __file__, __name__\n")
    program = (
        "import sys, sitecustomize\n"
        "print(sys.seen == (sitecustomize.__file__, 'sitecustomize'), '/added' in sys.path)\n" + ONE
    )
    done = loopfast_run("-c", program, cwd=tmp_path, env=variables(own))
    assert done.stdout == "True True\nloopfast\n", done.stderr
    # Also in the processes below, and where there is nothing for loopfast to do.
    env = variables(own) | {"PYTHONPATH": os.pathsep.join([_command.BOOT, str(own)])}
    assert execute(sys.executable, "-c", program, cwd=tmp_path, env=env).stdout == "True True\nasyncio\n"


@pytest.mark.parametrize("error", ["1 / 0", "import no_such_module"])
def test_a_failing_sitecustomize_is_reported_as_ever(error: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(error)
    plain = execute(sys.executable, "-c", "print(1)", cwd=tmp_path, env=variables(tmp_path))
    ours = loopfast_run("-c", "print(1)", cwd=tmp_path, env=variables(tmp_path))
    assert "sitecustomize" in plain.stderr
    # The first Python, in which the command itself runs, reports it, too.
    assert ours.stderr == plain.stderr * 2
    assert (ours.stdout, ours.returncode) == (plain.stdout, plain.returncode) == ("1\n", 0)


# ------------------------------------------------------------------------------------------------------ uvloop's name

# Stands for uvloop, so that the test does not depend on it.
UVLOOP = """
    import asyncio

    class Loop(asyncio.SelectorEventLoop):
        pass

    new_event_loop = Loop
    __version__ = "0.0"
"""


@pytest.fixture
def uvloop_path(tmp_path: Path) -> Path:
    folder = tmp_path / "uvloop"
    folder.mkdir()
    (folder / "uvloop").mkdir()
    write(folder / "uvloop" / "__init__.py", UVLOOP)
    return folder


ASK_UVLOOP = textwrap.dedent(KINDS) + textwrap.dedent(
    """
    import subprocess
    import uvloop, uvloop as again
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(running()), flush=True)
    if len(sys.argv) == 1:
        subprocess.run([sys.executable, __file__, "child"], check=True)
    """
)


def test_as_uvloop(tmp_path: Path, uvloop_path: Path) -> None:
    """Only on request; each process that uses the alias says so, once."""
    program = tmp_path / "program.py"
    program.write_text(ASK_UVLOOP)
    without = loopfast_run(program, cwd=tmp_path, env=variables(uvloop_path))
    assert (without.stdout, without.stderr) == ("uvloop\nuvloop\n", "")
    done = loopfast_run("--as-uvloop", program, cwd=tmp_path, env=variables(uvloop_path))
    assert done.stdout == "loopfast\nloopfast\n", done.stderr
    warnings = [line for line in done.stderr.splitlines() if "LoopfastAliasWarning" in line]
    assert len(warnings) == 2
    assert warnings[0].startswith(f"{program}:")
    unused = loopfast_run("--as-uvloop", "-c", ONE, cwd=tmp_path)
    assert (unused.stdout, unused.stderr) == ("loopfast\n", "")


# ------------------------------------------------------------------------------------------------------------ uvicorn

APPLICATION = """
    import asyncio, os, signal, sys

    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        await receive()
        kind = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        with open("result", "a") as file:
            file.write(f"{kind} {os.getpid()}\\n")
        await send({"type": "lifespan.startup.complete"})
        with open("result") as file:
            if len(file.readlines()) == int(os.environ["WORKERS"]):
                os.kill(os.getppid() if int(os.environ["WORKERS"]) > 1 else os.getpid(), signal.SIGINT)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("choice", "expected"), [([], "loopfast"), (["--loop", "asyncio"], "asyncio")])
def test_uvicorn(workers: int, choice: list[str], expected: str, tmp_path: Path, uvloop_path: Path) -> None:
    """Its default is loopfast although there is a uvloop; what is named explicitly stays. In worker processes, too."""
    pytest.importorskip("uvicorn")
    write(tmp_path / "application.py", APPLICATION)
    words = ["-m", "uvicorn", "application:app", "--port", "0", "--workers", str(workers), *choice]
    done = loopfast_run(*words, cwd=tmp_path, env=variables(uvloop_path, WORKERS=str(workers)))
    lines = [line.split() for line in (tmp_path / "result").read_text().splitlines()]
    assert [kind for kind, _ in lines] == [expected] * workers, done.stderr
    assert len({pid for _, pid in lines}) == workers

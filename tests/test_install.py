"""install() and uninstall(): what they change, what they leave alone, and real uvicorn servers of several ages on top.

All of it is process-wide state, so each test runs its program in an interpreter of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import loopfast

SOURCE_ROOT = Path(loopfast.__file__).parents[1]
HAS_POLICIES = sys.version_info < (3, 16)

# "installed" is the uvicorn of the test environment. 0.30 chooses the loop through the policy; 0.36 is the first that
# passes a loop factory.
UVICORN_VERSIONS = ("installed", "0.30.6", "0.36.0")

PRELUDE = """
    import asyncio, json, sys
    import loopfast

    async def kind():
        return kind_of(asyncio.get_running_loop())

    def kind_of(loop):
        return "loopfast" if isinstance(loop, loopfast.Loop) else type(loop).__name__

    def kind_of_new():
        loop = asyncio.new_event_loop()
        loop.close()
        return kind_of(loop)

    def report(**facts):
        print(json.dumps(facts))

    # The current policy, without asyncio's deprecation warning.
    policy = getattr(asyncio.events, "_get_event_loop_policy", getattr(asyncio.events, "get_event_loop_policy", None))
    set_policy = getattr(
        asyncio.events, "_set_event_loop_policy", getattr(asyncio.events, "set_event_loop_policy", None)
    )
    STDLIB = asyncio.SelectorEventLoop.__name__
"""

# A uvicorn server on a free port, asked one question by a client in another thread and then interrupted, as by Ctrl+C.
SERVER_PRELUDE = """
    import http.client, logging, queue, signal, threading

    async def app(scope, receive, send):
        if scope["type"] == "http":
            body = json.dumps({"kind": await kind(), "path": scope["path"]}).encode()
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    class PortOfServer(logging.Handler):
        def __init__(self):
            super().__init__()
            self.ports = queue.Queue()

        def emit(self, record):
            if "running on" in record.msg:
                self.ports.put(record.args[2])

    def serve(**options):
        import uvicorn
        answers = []
        handler = PortOfServer()
        logger = logging.getLogger("uvicorn.error")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)

        def client():
            try:
                connection = http.client.HTTPConnection("127.0.0.1", handler.ports.get(timeout=30), timeout=30)
                connection.request("GET", "/question")
                answers.append(json.loads(connection.getresponse().read()))
                connection.close()
            finally:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        thread = threading.Thread(target=client)
        thread.start()
        try:
            uvicorn.run(app, port=0, log_config=None, lifespan="off", ws="none", **options)
        except KeyboardInterrupt:
            pass  # uvicorn delivers the signal again once the server is down; later versions catch it themselves
        finally:
            logger.removeHandler(handler)
            thread.join()
        [answer] = answers
        assert answer["path"] == "/question"
        return answer["kind"]
"""

# What uvicorn looks for under this name; in front of the path it also hides a real uvloop.
UVLOOP_MODULE = """
    import asyncio

    class UvLoop(asyncio.SelectorEventLoop):
        pass

    new_event_loop = UvLoop

    base = getattr(asyncio.unix_events, "_DefaultEventLoopPolicy", None) or asyncio.DefaultEventLoopPolicy

    class EventLoopPolicy(base):
        _loop_factory = UvLoop
"""


def run_program(*parts: str, path: list[Path] | None = None, strict: bool = True) -> dict[str, Any]:
    """Run the joined ``parts`` in a new interpreter and return what they passed to report().

    ``path`` goes in front of the module search path; ``strict`` turns warnings into errors.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*(path or []), SOURCE_ROOT]))}
    source = "".join(map(textwrap.dedent, parts))
    done = subprocess.run(
        [sys.executable, *(["-W", "error"] if strict else []), "-c", source],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def uvicorn_path(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Any:
    """A function from a uvicorn version to the folder to put in front of the path; downloads it once per checkout."""
    pytest.importorskip("uvicorn")

    def folder_of(version: str) -> list[Path]:
        if version == "installed":
            return []
        cache = getattr(pytestconfig, "cache", None)
        store = cache.mkdir("loopfast-packages") if cache else tmp_path_factory.getbasetemp()
        folder = store / f"uvicorn-{version}"
        if not (folder / "uvicorn").is_dir():
            done = subprocess.run(
                [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, f"uvicorn=={version}"],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                pytest.skip(f"optional package uvicorn {version} cannot be had: {done.stderr.strip()[-200:]}")
        return [folder]

    return folder_of


@pytest.fixture
def uvloop_path(tmp_path: Path) -> list[Path]:
    (tmp_path / "uvloop.py").write_text(textwrap.dedent(UVLOOP_MODULE))
    return [tmp_path]


def run_server(body: str, path: list[Path]) -> dict[str, Any]:
    return run_program(PRELUDE, SERVER_PRELUDE, body, path=path, strict=False)  # older uvicorns warn on newer Pythons


# --- asyncio ----------------------------------------------------------------------------------------------------


def test_every_way_asyncio_creates_a_loop() -> None:
    facts = run_program(
        PRELUDE,
        """
        before = asyncio.run(kind())
        loopfast.install()
        with asyncio.Runner() as runner:
            by_runner = runner.run(kind())
        report(before=before == STDLIB, run=asyncio.run(kind()), runner=by_runner, new=kind_of_new())
    """,
    )
    assert facts == {"before": True, "run": "loopfast", "runner": "loopfast", "new": "loopfast"}


def test_anyio_chooses_the_same_way() -> None:
    pytest.importorskip("anyio")
    facts = run_program(
        PRELUDE,
        """
        import anyio
        loopfast.install()
        installed = anyio.run(kind)
        loopfast.uninstall()
        by_factory = anyio.run(kind, backend_options={"loop_factory": loopfast.new_event_loop})
        report(installed=installed, restored=anyio.run(kind) == STDLIB, by_factory=by_factory)
        """,
        strict=False,  # not our warnings
    )
    assert facts == {"installed": "loopfast", "restored": True, "by_factory": "loopfast"}


def test_an_explicit_loop_factory_is_respected() -> None:
    facts = run_program(
        PRELUDE,
        """
        loopfast.install()
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            report(kind=runner.run(kind()) == STDLIB)
    """,
    )
    assert facts == {"kind": True}


def test_uninstall_restores_asyncio() -> None:
    facts = run_program(
        PRELUDE,
        """
        names = {"asyncio": asyncio, "events": asyncio.events}
        before = {name: dict(vars(module)) for name, module in names.items()}
        meta_path = list(sys.meta_path)
        previous = policy and policy()
        loopfast.install()
        changed = sys.meta_path != meta_path
        loopfast.uninstall()
        after = {name: dict(vars(module)) for name, module in names.items()}
        different = [
            f"{name}.{key}" for name in names for key in before[name] | after[name]
            if before[name].get(key) is not after[name].get(key) and key != "_event_loop_policy"
        ]
        report(changed=changed, different=different, meta_path=sys.meta_path == meta_path,
               policy=(policy and policy()) is previous, run=asyncio.run(kind()) == STDLIB)
    """,
    )
    assert facts == {"changed": True, "different": [], "meta_path": True, "policy": True, "run": True}


def test_both_can_be_called_twice_and_in_any_order() -> None:
    facts = run_program(
        PRELUDE,
        """
        loopfast.uninstall()
        meta_path = list(sys.meta_path)
        kinds = []
        for _ in range(2):
            loopfast.install()
            loopfast.install()
            kinds.append(asyncio.run(kind()))
            loopfast.uninstall()
            kinds.append(asyncio.run(kind()))
            loopfast.uninstall()
        report(kinds=[name.replace(STDLIB, "stdlib") for name in kinds], meta_path=sys.meta_path == meta_path)
    """,
    )
    assert facts == {"kinds": ["loopfast", "stdlib"] * 2, "meta_path": True}


@pytest.mark.skipif(not HAS_POLICIES, reason="Python 3.16 and later have no event loop policies")
def test_a_policy_set_before_comes_back() -> None:
    facts = run_program(
        PRELUDE,
        """
        class Mine(type(policy())):
            pass
        mine = Mine()
        set_policy(mine)
        loopfast.install()
        installed = type(policy()) is loopfast.EventLoopPolicy
        loopfast.uninstall()
        report(installed=installed, restored=policy() is mine)
    """,
    )
    assert facts == {"installed": True, "restored": True}


@pytest.mark.skipif(not HAS_POLICIES, reason="Python 3.16 and later have no event loop policies")
def test_a_policy_set_afterwards_stays_and_install_puts_ours_back() -> None:
    facts = run_program(
        PRELUDE,
        """
        class Theirs(type(policy())):
            pass
        theirs = Theirs()
        loopfast.install()
        set_policy(theirs)
        loopfast.uninstall()
        kept = policy() is theirs
        loopfast.install()
        set_policy(theirs)
        loopfast.install()
        ours = asyncio.run(kind())
        loopfast.uninstall()
        report(kept=kept, ours=ours, restored=policy() is theirs)
    """,
    )
    assert facts == {"kept": True, "ours": "loopfast", "restored": True}


@pytest.mark.skipif(not HAS_POLICIES, reason="Python 3.16 and later have no event loop policies")
def test_the_policy_by_itself() -> None:
    facts = run_program(
        PRELUDE,
        """
        lazy = "loopfast._policy" not in sys.modules
        set_policy(loopfast.EventLoopPolicy())
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        current = asyncio.get_event_loop() is loop
        asyncio.set_event_loop(None)
        loop.close()
        report(lazy=lazy, current=current, kind=asyncio.run(kind()), same=loopfast.EventLoopPolicy is type(policy()),
               module=loopfast.EventLoopPolicy.__module__, listed="EventLoopPolicy" in dir(loopfast))
    """,
    )
    assert facts == {
        "lazy": True, "current": True, "kind": "loopfast", "same": True, "module": "loopfast", "listed": True,
    }  # fmt: skip


WITHOUT_POLICIES = """
    import asyncio
    from asyncio import events, unix_events

    for module in (asyncio, events, unix_events):
        for name in [name for name in vars(module) if name.lower().endswith("policy")]:
            delattr(module, name)
    vars(asyncio).pop("__getattr__", None)
    events.new_event_loop = asyncio.new_event_loop = lambda: asyncio.SelectorEventLoop()
    events.set_event_loop = asyncio.set_event_loop = lambda loop: None
    original = events.new_event_loop
"""


def test_on_a_python_without_policies() -> None:
    """Take the policies out of this interpreter's asyncio as 3.16 does; on 3.16 there is nothing left to take."""
    facts = run_program(
        WITHOUT_POLICIES,
        PRELUDE,
        """
        from loopfast import *
        try:
            loopfast.EventLoopPolicy
        except AttributeError as exc:
            message = str(exc)
        loopfast.install()
        loopfast.install()
        with asyncio.Runner() as runner:
            by_runner = runner.run(kind())
        installed = [asyncio.run(kind()), by_runner, kind_of_new()]
        loopfast.uninstall()
        restored = events.new_event_loop is original is asyncio.new_event_loop and asyncio.run(kind()) == STDLIB
        report(installed=installed, restored=restored, message=message, run=loopfast.run(kind()))
    """,
    )
    assert facts["installed"] == ["loopfast"] * 3
    assert facts["restored"] is True
    assert facts["run"] == "loopfast"
    assert "loopfast.EventLoopPolicy does not exist on Python" in facts["message"]


def test_importing_is_light_and_changes_nothing() -> None:
    facts = run_program(
        """
        import asyncio, json, sys
        meta_path = list(sys.meta_path)
        before = asyncio.events.__dict__.copy()
        loaded = set(sys.modules)
        import loopfast
        new = set(sys.modules) - loaded
        heavy = ["cffi", "_cffi_backend", "loopfast.uv", "uvicorn", "argparse", "importlib.metadata", "platform",
                 "loopfast._policy", "loopfast._info", "loopfast._watch"]
        print(json.dumps({
            "heavy": [name for name in heavy if name in new],
            "foreign": sorted(name for name in new if "." not in name and name not in sys.stdlib_module_names
                              and not name.startswith("_cython")),
            "unchanged": asyncio.events.__dict__ == before and sys.meta_path == meta_path,
        }))
        """
    )
    assert facts["heavy"] == []
    assert facts["foreign"] in (["loopfast"], ["cython_runtime", "loopfast"])
    assert facts["unchanged"] is True


def test_importing_seldom_waits_for_itself() -> None:
    """Each extension module asks for those that it uses; for one that is there, CPython would ask in Python whether
    this thread is still importing the package (includes/imports.h)."""
    facts = run_program(
        """
        import asyncio, importlib._bootstrap, json
        waits, wait = [], importlib._bootstrap._lock_unlock_module
        def count(name):
            waits.append(name)
            return wait(name)
        importlib._bootstrap._lock_unlock_module = count
        import loopfast
        print(json.dumps({"waits": waits.count("loopfast")}))
        """
    )
    assert 0 < facts["waits"] < 80  # 17, and 40 on 3.14; it was 171


# --- uvicorn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", UVICORN_VERSIONS)
@pytest.mark.parametrize("first", ["uvicorn", "loopfast"])
def test_uvicorn_runs_on_loopfast(version: str, first: str, uvicorn_path: Any, uvloop_path: list[Path]) -> None:
    """Whatever is imported first, and although ``auto`` would find a uvloop."""
    body = """
        import importlib
        if FIRST == "uvicorn":
            importlib.import_module("uvicorn.loops.auto")
        loopfast.install()
        if FIRST == "loopfast":
            assert "uvicorn" not in sys.modules
        report(kind=serve())
    """.replace("FIRST", repr(first))
    assert run_server(body, uvicorn_path(version) + uvloop_path) == {"kind": "loopfast"}


EXPLICIT = [("asyncio", "stdlib"), ("uvloop", "UvLoop"), ("none", "loopfast")]
# Before 0.36 uvicorn knows no import strings.
IMPORT_STRINGS = [("uvloop:new_event_loop", "UvLoop"), ("loopfast:new_event_loop", "loopfast")]


@pytest.mark.parametrize(
    ("version", "choice", "expected"),
    [
        (version, *row)
        for version in UVICORN_VERSIONS
        for row in (EXPLICIT if version == "0.30.6" else EXPLICIT + IMPORT_STRINGS)
    ],
)
def test_an_explicit_uvicorn_loop_is_respected(
    version: str, choice: str, expected: str, uvicorn_path: Any, uvloop_path: list[Path]
) -> None:
    facts = run_server(
        f"""
        loopfast.install()
        report(kind=serve(loop={choice!r}).replace(STDLIB, "stdlib"))
        """,
        uvicorn_path(version) + uvloop_path,
    )
    assert facts == {"kind": expected}


@pytest.mark.parametrize("version", UVICORN_VERSIONS)
def test_uninstall_gives_uvicorn_its_own_choice_back(version: str, uvicorn_path: Any, uvloop_path: list[Path]) -> None:
    """Three servers in one process; names imported in the meantime follow too."""
    facts = run_server(
        """
        import uvicorn.loops.auto as auto
        import uvicorn.loops.asyncio as explicit
        before = dict(vars(auto)), dict(vars(explicit))
        loopfast.install()
        name = "auto_loop_factory" if hasattr(auto, "auto_loop_factory") else "auto_loop_setup"
        ours = getattr(auto, name)
        kinds = [serve()]
        loopfast.uninstall()
        restored = (dict(vars(auto)), dict(vars(explicit))) == before
        kept = ours()
        kinds += [serve()]
        loopfast.install()
        kinds += [serve()]
        report(kinds=kinds, restored=restored, kept=kept is None or kept.__name__)
        """,
        uvicorn_path(version) + uvloop_path,
    )
    assert facts["kinds"] == ["loopfast", "UvLoop", "loopfast"]
    assert facts["restored"] is True
    assert facts["kept"] == (True if version == "0.30.6" else "UvLoop")


@pytest.mark.parametrize("version", UVICORN_VERSIONS)
def test_the_module_uvicorn_loads_afterwards_is_its_own(version: str, uvicorn_path: Any) -> None:
    """The import hook leaves no trace in the module, and nothing behind when it is uninstalled before the import."""
    facts = run_server(
        """
        import importlib, inspect
        loopfast.install()
        auto = importlib.import_module("uvicorn.loops.auto")
        loader = type(auto.__loader__).__name__, type(auto.__spec__.loader).__name__, auto.__loader__.get_filename()
        source = inspect.getsource(auto)
        loopfast.uninstall()
        own = [value.__module__ for value in vars(auto).values() if inspect.isfunction(value)]
        del sys.modules["uvicorn.loops.auto"]
        loopfast.install()
        loopfast.uninstall()
        again = importlib.import_module("uvicorn.loops.auto")
        own += [value.__module__ for value in vars(again).values() if inspect.isfunction(value)]
        report(loader=loader[:2], file=loader[2] == auto.__file__, source="uvloop" in source, own=sorted(set(own)))
        """,
        uvicorn_path(version),
    )
    assert facts == {
        "loader": ["SourceFileLoader"] * 2, "file": True, "source": True, "own": ["uvicorn.loops.auto"],
    }  # fmt: skip


def test_uvicorn_need_not_be_installed() -> None:
    facts = run_program(
        PRELUDE,
        """
        class Absent:
            def find_spec(self, name, path, target=None):
                if name.partition(".")[0] == "uvicorn":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Absent())
        loopfast.install()
        kinds = [asyncio.run(kind())]
        try:
            import uvicorn.loops.auto
        except ModuleNotFoundError as exc:
            missing = exc.name
        loopfast.uninstall()
        report(kinds=kinds, missing=missing)
    """,
    )
    assert facts == {"kinds": ["loopfast"], "missing": "uvicorn"}


WORKER_PROGRAM = """
    import asyncio, os, signal, sys, threading
    import loopfast
    {at_top}

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            message = await receive()
            loop = asyncio.get_running_loop()
            name = "loopfast" if isinstance(loop, loopfast.Loop) else "other"
            with open(sys.argv[1], "a") as file:
                file.write(f"{{name}} {{os.getpid()}}\\n")
            await send({{"type": "lifespan.startup.complete"}})
            # Every worker says so; the supervisor is stopped once both have.
            with open(sys.argv[1]) as file:
                if len(file.readlines()) == 2:
                    os.kill(os.getppid(), signal.SIGTERM)
            await receive()
            await send({{"type": "lifespan.shutdown.complete"}})

    if __name__ == "__main__":
        import uvicorn
        {in_main}
        uvicorn.run("workers:app", port=0, workers=2, log_level="warning"{option})
"""


@pytest.mark.parametrize(
    ("at_top", "in_main", "option", "expected"),
    [
        ("loopfast.install()", "pass", "", "loopfast"),  # "spawn" runs the main module's top level again
        ("", "loopfast.install()", "", "other"),  # and not what is under __main__
        ("", "pass", ", loop='loopfast:new_event_loop'", "loopfast"),  # travels with the configuration
    ],
)
def test_uvicorn_workers(tmp_path: Path, at_top: str, in_main: str, option: str, expected: str) -> None:
    """What the documentation says about processes that uvicorn starts."""
    pytest.importorskip("uvicorn")
    program = tmp_path / "workers.py"
    program.write_text(textwrap.dedent(WORKER_PROGRAM).format(at_top=at_top, in_main=in_main, option=option))
    result = tmp_path / "result"
    done = subprocess.run(
        [sys.executable, program, result],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{SOURCE_ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [line.split() for line in result.read_text().splitlines()]
    assert [name for name, _ in lines] == [expected] * 2, done.stderr
    assert len({pid for _, pid in lines}) == 2

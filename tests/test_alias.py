"""uvloop_alias(): what `import uvloop` gives while it is there, that it is loud, and that nothing remains of it.

The state is the process's, so each test runs its program in an interpreter of its own.
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

PRELUDE = """
    import asyncio, importlib.util, json, sys, warnings
    import loopfast

    async def kind():
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    def quiet(**options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", loopfast.LoopfastAliasWarning)
            return loopfast.uvloop_alias(**options)

    def entries():
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "uvloop"}

    def refused(action):
        try:
            action()
        except Exception as exc:
            return [type(exc).__name__, str(exc)]
"""

# Stands for uvloop, with a module inside it and its policy.
UVLOOP = """
    import asyncio
    from . import loop

    class Loop(asyncio.SelectorEventLoop):
        pass

    new_event_loop = Loop
    base = getattr(asyncio.unix_events, "_DefaultEventLoopPolicy", None) or getattr(
        asyncio.unix_events, "DefaultEventLoopPolicy", object
    )

    class EventLoopPolicy(base):
        _loop_factory = Loop
"""


@pytest.fixture
def uvloop_path(tmp_path: Path) -> Path:
    package = tmp_path / "uvloop"
    package.mkdir()
    (package / "__init__.py").write_text(textwrap.dedent(UVLOOP))
    (package / "loop.py").touch()
    return tmp_path


def run_program(*parts: str, path: Path | None = None, options: tuple[str, ...] = ()) -> tuple[Any, str]:
    """Run the program and return what it printed, as JSON, and what it wrote to stderr."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, [path, SOURCE_ROOT])))}
    done = subprocess.run(
        [sys.executable, *options, "-c", "".join(map(textwrap.dedent, parts))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_names_of_uvloop() -> None:
    facts, _ = run_program(
        PRELUDE,
        """
        alias = quiet()
        import uvloop
        from uvloop import Loop, install, new_event_loop, run
        from uvloop.loop import libuv_get_loop_t_ptr, libuv_get_version
        loop = new_event_loop()
        pointer = type(libuv_get_loop_t_ptr(loop)).__name__
        same = isinstance(loop, uvloop.Loop) and isinstance(loop, loopfast.Loop) and uvloop.loop.Loop is Loop
        loop.close()
        before = asyncio.run(kind())
        install()
        number = libuv_get_version()
        print(json.dumps({
            "run": run(kind()), "before": before, "installed": asyncio.run(kind()), "same": same, "pointer": pointer,
            "libuv": f"{number >> 16}.{number >> 8 & 255}.{number & 255}" == loopfast.libuv_version(),
            "version": uvloop.__version__, "inner": sys.modules["uvloop._version"].__version__,
            "star": sorted(uvloop.__all__), "found": importlib.util.find_spec("uvloop").origin,
            "other": refused(lambda: importlib.import_module("uvloop.other"))[0],
            "unknown": refused(lambda: uvloop.unknown),
            "policy": not hasattr(asyncio.events, "set_event_loop_policy")
            or uvloop.EventLoopPolicy is loopfast.EventLoopPolicy,
        }))
        """,
    )
    assert facts.pop("unknown")[0] == "AttributeError"
    version = facts.pop("version")
    assert version == facts.pop("inner")
    assert version.endswith(f"+loopfast.{loopfast.__version__}")
    assert facts == {
        "run": "loopfast", "before": "asyncio", "installed": "loopfast", "same": True, "pointer": "PyCapsule",
        "libuv": True, "star": ["new_event_loop", "run"], "found": "loopfast's alias", "other": "ModuleNotFoundError",
        "policy": True,
    }  # fmt: skip


def test_the_version_is_one_that_comparisons_understand() -> None:
    version = pytest.importorskip("packaging.version")
    from loopfast import _alias

    assert version.Version(_alias.UVLOOP_VERSION) >= version.Version("0.22")


def test_it_is_loud(uvloop_path: Path) -> None:
    """One line on stderr, at the caller's place, each time; an error where warnings are errors, and then no alias."""
    _, said = run_program("import loopfast\n", "loopfast.uvloop_alias()\n", "import uvloop, uvloop.loop\nprint(0)")
    [line] = [line for line in said.splitlines() if "LoopfastAliasWarning" in line]
    assert line.startswith("<string>:2: LoopfastAliasWarning: uvloop is loopfast in this process")
    facts, _ = run_program(
        PRELUDE,
        """
        failed = refused(loopfast.uvloop_alias)
        import uvloop
        print(json.dumps([failed[0], hasattr(uvloop, "base")]))
        """,
        path=uvloop_path,
        options=("-W", "error"),
    )
    assert facts == ["LoopfastAliasWarning", True]


def test_it_is_reversible(uvloop_path: Path) -> None:
    """What was imported comes back, the very objects; nothing of ours stays; twice is once."""
    facts, _ = run_program(
        PRELUDE,
        """
        nothing = entries()
        with quiet() as alias:
            inside = sorted(entries())
            alias_is = sys.modules["uvloop"] is alias.module
        empty = entries() == nothing == {}
        import uvloop
        real = entries()
        one, other = quiet(), quiet()
        hidden = sys.modules["uvloop"] is one.module is other.module is not uvloop
        other.undo()
        other.undo()
        still = sys.modules["uvloop"] is one.module
        one.undo()
        restored = entries()
        again = quiet()
        sys.modules["uvloop"] = json
        again.undo()
        print(json.dumps([inside, alias_is, empty, hidden, still, restored == real, sys.modules["uvloop"] is json]))
        """,
        path=uvloop_path,
    )
    assert facts == [["uvloop", "uvloop._version", "uvloop.loop"], *[True] * 6]


def test_it_refuses_while_uvloop_is_in_use(uvloop_path: Path) -> None:
    facts, _ = run_program(
        PRELUDE,
        """
        import uvloop
        loops = [uvloop.new_event_loop() for _ in range(2)]
        two = refused(quiet)
        loops[0].close()
        one = refused(quiet)
        untouched = sys.modules["uvloop"] is uvloop
        with quiet(force=True) as alias:
            forced = sys.modules["uvloop"] is alias.module
        loops[1].close()
        with quiet() as alias:
            unused = sys.modules["uvloop"] is alias.module
        set_policy = getattr(asyncio.events, "_set_event_loop_policy", None) or getattr(
            asyncio.events, "set_event_loop_policy", None
        )
        policy = None
        if set_policy is not None:
            set_policy(uvloop.EventLoopPolicy())
            policy = refused(quiet)
        print(json.dumps([two, one, untouched, forced, unused, policy]))
        """,
        path=uvloop_path,
    )
    two, one, *rest, policy = facts
    assert two[0] == one[0] == "RuntimeError"
    assert "2 open event loops" in two[1] and "1 open event loop;" in one[1]
    assert "force=True" in two[1]
    assert rest == [True, True, True]
    if policy is not None:
        assert policy[0] == "RuntimeError" and "policy" in policy[1]

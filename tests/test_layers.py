"""The layers of loopfast point downward only: reads every import and cimport and fails on an upward edge or a cycle.

A new module must be given a place in LAYERS; that decision is the design.
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "loopfast"

#: Bottom to top. A module may import from lower layers, and from its own as long as no cycle comes of it.
LAYERS = (
    ("includes",),
    ("errors", "buildinfo"),
    ("callbacks",),
    ("buffers",),
    ("core",),
    ("scheduling", "collector"),
    ("handles.base",),
    ("handles.timer", "handles.poll", "handles.signal", "handles.fsevent", "server"),
    ("transports.base",),
    ("transports.stream", "transports.udp", "dns", "fsops", "sockops", "tls", "streams"),
    ("transports.tcp", "transports.pipe"),
    ("transports.process",),
    ("census", "baseloop"),
    ("_version", "_endpoints", "_executors", "_statistics", "_endpoint", "_streams", "_loop"),
    (
        "_run",
        "_policy",
        "_install",
        "_alias",
        "_watch",
        "_files",
        "_textfiles",
        "_opening",
        "_tempfiles",
        "fs",
        "_export",
        "prometheus",
        "opentelemetry",
    ),
    ("",),  # the package itself: public names
    ("_info", "_top", "bench", "serving", "_boot._loopfast_boot", "_boot.sitecustomize"),
    ("_bench", "_command", "workers"),
    ("__main__",),
)
#: The first layer that is plain Python; below it everything is compiled.
PYTHON_SIDE = next(level for level, names in enumerate(LAYERS) if "_loop" in names)
#: The cffi binding stands beside the tower: it imports nothing of ours, and only the Python side may import it.
SIDE = "uv"


def module_name(path: Path) -> str:
    """The module a source file belongs to, relative to the package: loopfast/handles/base.pxd is "handles.base"."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, list[Path]]:
    """Module -> its files: a compiled module has a .pyx and may have a .pxd."""
    modules: dict[str, list[Path]] = {}
    for suffix in ("*.py", "*.pyx", "*.pxd"):
        for path in sorted((ROOT / PACKAGE).rglob(suffix)):
            modules.setdefault(module_name(path), []).append(path)
    return modules


def level_of(module: str) -> int | None:
    """The layer of `module`, or None where LAYERS has no place for it."""
    for level, names in enumerate(LAYERS):
        if module in names or module.startswith("includes.") and "includes" in names:
            return level
    return None


STATEMENT = re.compile(
    r"""^[ \t]*(?:from[ \t]+(?P<base>\.*[\w.]*)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n#;]+)
              |c?import[ \t]+(?P<plain>[^\n#;(]+))""",
    re.MULTILINE | re.VERBOSE,
)


def cython_imports(text: str, package: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(absolute module, imported names) for each import and cimport in Cython source; `package` resolves relative
    ones."""
    text = re.sub(r'"""[\s\S]*?"""', '""', text)
    text = re.sub(r"#[^\n]*", "", text.replace("\\\n", " "))
    for match in STATEMENT.finditer(text):
        if match["plain"]:
            for item in match["plain"].split(","):
                yield item.split(" as ")[0].strip(), []
            continue
        names = [item.split(" as ")[0].strip() for item in match["names"].strip("()\n ").split(",")]
        yield absolute(match["base"], package), [name for name in names if name]


def python_imports(text: str, package: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The same for Python source, late imports included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []
        elif isinstance(node, ast.ImportFrom):
            yield absolute("." * node.level + (node.module or ""), package), [alias.name for alias in node.names]


def absolute(base: str, package: list[str]) -> str:
    """The absolute name of a possibly relative `base`, seen from within `package`."""
    dots = len(base) - len(base.lstrip("."))
    if not dots:
        return base
    return ".".join([*package[: len(package) - dots + 1], *filter(None, [base[dots:]])])


def edges_of(module: str, paths: list[Path], known: set[str]) -> set[str]:
    """The modules of loopfast that `module` imports."""
    found: set[str] = set()
    for path in paths:
        package = [PACKAGE, *path.relative_to(ROOT / PACKAGE).parts[:-1]]
        reader = python_imports if path.suffix == ".py" else cython_imports
        for name, names in reader(path.read_text(encoding="utf-8"), package):
            if name != PACKAGE and not name.startswith(PACKAGE + "."):
                continue
            target = name[len(PACKAGE) + 1 :]
            submodules = {f"{target}.{item}".lstrip(".") for item in names}
            found |= submodules & known
            if submodules - known or not names:
                found.add(target)
    return found - {module}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    modules = sources()
    return {module: edges_of(module, paths, set(modules)) for module, paths in modules.items()}


def is_namespace(module: str) -> bool:
    """A sub-package that only holds modules."""
    return module in {"handles", "transports"}


def complaints(graph: dict[str, set[str]]) -> list[str]:
    """Every edge of `graph` that breaks a rule, and a cycle if there is one."""
    wrong = []
    for module, targets in sorted(graph.items()):
        level = level_of(module)
        inside = module == SIDE or module.startswith(SIDE + ".")
        if level is None and not inside and not is_namespace(module):
            wrong.append(f"{module}: has no place in LAYERS")
            continue
        for target in sorted(targets):
            target_level = level_of(target)
            if target == SIDE or target.startswith(SIDE + "."):
                if not inside and (level is None or level < PYTHON_SIDE):
                    wrong.append(f"{module} -> {target}: only the Python side may use the cffi binding")
            elif inside:
                wrong.append(f"{module} -> {target}: the cffi binding may import nothing of ours")
            elif is_namespace(module):
                wrong.append(f"{module} -> {target}: a sub-package's __init__ stays empty")
            elif target_level is None:
                wrong.append(f"{module} -> {target}: no such module in LAYERS")
            elif level is not None and target_level > level:
                wrong.append(f"{module} (layer {level}) -> {target} (layer {target_level}): points upward")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as exc:
        wrong.append("cycle: " + " -> ".join(exc.args[1]))
    return wrong


def test_layers_point_downward_only(graph: dict[str, set[str]]) -> None:
    assert complaints(graph) == []


def test_every_source_is_read(graph: dict[str, set[str]]) -> None:
    assert {"errors", "core", "_run", "", "uv"} <= graph.keys()
    assert "errors" in graph["core"], "core cimports errors: a reader that misses it sees nothing"
    assert any(target.startswith("includes.") for target in graph["core"])


def test_nothing_is_included_textually() -> None:
    """`include "x.pxi"` would make names ambient and hide edges from this test."""
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for paths in sources().values()
        for path in paths
        if path.suffix in (".pyx", ".pxd")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*include\s+['\"]", line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"core": {"errors"}, "errors": set()}, None),
        ({"errors": {"core"}, "core": set()}, "points upward"),
        ({"server": {"transports.base"}, "transports.base": set()}, "points upward"),
        ({"handles.poll": {"server"}, "server": {"handles.poll"}}, "cycle"),
        ({"core": {"_loop"}, "_loop": set()}, "points upward"),
        ({"core": {"uv"}, "uv": set()}, "cffi binding"),
        ({"uv": {"core"}, "core": set()}, "nothing of ours"),
        ({"_info": {"uv"}, "uv": {"uv._uv"}}, None),
        ({"brandnew": set()}, "no place"),
        ({"handles": {"core"}, "core": set()}, "stays empty"),
    ],
)
def test_the_rules_bite(graph: dict[str, set[str]], expected: str | None) -> None:
    wrong = complaints(graph)
    assert wrong == [] if expected is None else any(expected in line for line in wrong), wrong


def test_cython_statements_are_understood() -> None:
    text = '''
"""from loopfast.doc cimport nothing"""
from loopfast.core cimport A, B as C  # from loopfast.comment cimport D
from loopfast.handles cimport base, poll
from . cimport stream
from ..core cimport (
    X,  # a comment
    Y as Z,
)
cimport loopfast.errors as e, cython
    import loopfast.server
from loopfast.includes.uv cimport \\
    uv_run
'''
    assert list(cython_imports(text, ["loopfast", "transports"])) == [
        ("loopfast.core", ["A", "B"]),
        ("loopfast.handles", ["base", "poll"]),
        ("loopfast.transports", ["stream"]),
        ("loopfast.core", ["X", "Y"]),
        ("loopfast.errors", []),
        ("cython", []),
        ("loopfast.server", []),
        ("loopfast.includes.uv", ["uv_run"]),
    ]

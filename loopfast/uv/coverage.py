"""`python -m loopfast.uv.coverage HEADER`: a table of libuv's functions, and where each of them is in loopfast.uv.

The functions are read from libuv's header, their places from the binding's own source: nothing is listed by hand but
the reasons for what is left out.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

__all__ = ["bindings", "functions", "main", "table"]

HERE = Path(__file__).resolve().parent
PACKAGE = "loopfast.uv"

#: Why a function has no place. A key that ends with * stands for all that begin so.
LEFT_OUT = {
    "uv_library_shutdown": "the library runs it when the process ends; earlier it would end loopfast's own loops",
    "uv_replace_allocator": "must come before libuv's first use, which is over when Python gets there",
    "uv_default_loop": "a loop without an owner that could close it: use `Loop()`",
    "uv_loop_new": "deprecated by libuv",
    "uv_loop_delete": "deprecated by libuv",
    "uv_strerror_r": "`strerror()` needs no buffer",
    "uv_err_name_r": "`err_name()` needs no buffer",
    "uv_print_all_handles": "writes to a C FILE: use `Loop.walk()`",
    "uv_print_active_handles": "writes to a C FILE: use `Loop.walk()`",
    "uv_buf_init": "the binding fills in `uv_buf_t` itself",
    "uv_setup_args": "takes the argv of main(), which is Python's",
    "uv_get_process_title": "needs `uv_setup_args()`",
    "uv_set_process_title": "needs `uv_setup_args()`",
    "uv_ip4_name": "`uv_ip_name()` does both families",
    "uv_ip6_name": "`uv_ip_name()` does both families",
    "uv_dlopen": "Python has `ctypes` and `cffi`",
    "uv_dlclose": "Python has `ctypes` and `cffi`",
    "uv_dlsym": "Python has `ctypes` and `cffi`",
    "uv_dlerror": "Python has `ctypes` and `cffi`",
    "uv_mutex_*": "locks without knowledge of the GIL: use `threading`",
    "uv_rwlock_*": "locks without knowledge of the GIL: use `threading`",
    "uv_sem_*": "locks without knowledge of the GIL: use `threading`",
    "uv_cond_*": "locks without knowledge of the GIL: use `threading`",
    "uv_barrier_*": "locks without knowledge of the GIL: use `threading`",
    "uv_once": "use `threading`",
    "uv_key_*": "use `threading.local`",
    "uv_thread_create": "threads that Python does not know: use `threading`",
    "uv_thread_create_ex": "threads that Python does not know: use `threading`",
    "uv_thread_detach": "threads that Python does not know: use `threading`",
    "uv_thread_join": "threads that Python does not know: use `threading`",
    "uv_thread_equal": "compare `threading.get_ident()`",
    "uv_utf16_*": "Python's codecs: UTF-16 with `surrogatepass`",
    "uv_wtf8_*": "Python's codecs: UTF-8 with `surrogatepass`",
    "uv_pipe_bind": "`uv_pipe_bind2()` tells when a name is too long",
    "uv_pipe_connect": "`uv_pipe_connect2()` tells when a name is too long",
    "uv_handle_size": "in `lib`; the binding has the C compiler's sizes",
    "uv_req_size": "in `lib`; the binding has the C compiler's sizes",
    "uv_handle_get_data": "in `lib`; the data of handles is the binding's: give a subclass attributes",
    "uv_handle_set_data": "in `lib`; the data of handles is the binding's: give a subclass attributes",
    "uv_handle_get_loop": "in `lib`; `Handle.loop` is the loop as an object",
    "uv_req_get_data": "in `lib`; the data of requests is the binding's: use a closure",
    "uv_req_set_data": "in `lib`; the data of requests is the binding's: use a closure",
    "uv_loop_get_data": "in `lib`; the data of loops is the binding's: give a subclass attributes",
    "uv_loop_set_data": "in `lib`; the data of loops is the binding's: give a subclass attributes",
    "uv_fs_get_type": "an `FSRequest` comes from the function that says it",
    "uv_fs_get_system_error": "in `lib`; the callback gets an `OSError`",
}

#: The chapters of libuv's documentation, in its order, and the modules that hold them.
CHAPTERS: dict[str, tuple[str, ...]] = {
    "Error handling": ("errors",),
    "Event loop": ("loop",),
    "Base handle": ("handle",),
    "Base request": ("request",),
    "Timer handle": ("timer",),
    "Prepare handle": ("prepare",),
    "Check handle": ("check",),
    "Idle handle": ("idle",),
    "Async handle": ("async_",),
    "Poll handle": ("poll",),
    "Signal handle": ("signal",),
    "Process handle": ("process",),
    "Stream handle": ("stream",),
    "TCP handle": ("tcp",),
    "Pipe handle": ("pipe_",),
    "TTY handle": ("tty",),
    "UDP handle": ("udp",),
    "FS Event handle": ("fs_event",),
    "FS Poll handle": ("fs_poll",),
    "File system operations": ("fs",),
    "Thread pool work scheduling": ("threadpool",),
    "DNS utility functions": ("dns",),
    "Threading and synchronization utilities": ("thread",),
    "Miscellaneous utilities, version": ("misc",),
    "Metrics operations": ("metrics",),
    "Used by several of these": ("_base", "_address", "_pool", "_library", "_stat"),
}


def functions(header: str) -> list[str]:
    """The names of the functions that libuv's header `uv.h`, given as text, makes public, in its order."""
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    declarations = re.findall(r"^UV_EXTERN\b[^;]*?\b(uv_\w+)\s*\(", header, flags=re.MULTILINE)
    return list(dict.fromkeys(declarations))


def bindings() -> dict[str, list[tuple[str, str]]]:
    """libuv function -> (module, qualified name) of the Python code that calls it, public names first."""
    helpers = _helpers()
    found: dict[str, list[tuple[str, str]]] = {}
    said: dict[str, tuple[str, str]] = {}
    for names in CHAPTERS.values():
        for module in names:
            tree = ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8"))
            for function, place in _uses(tree, []):
                for called in helpers.get(function, [function]):
                    places = found.setdefault(called, [])
                    if (module, place) not in places:
                        places.append((module, place))
            for function, place in _mentions(tree, []):
                said.setdefault(function, (module, place))
    for function, places in found.items():
        places.sort(key=lambda place: _is_private(*place))
        if _is_private(*places[0]) and function in said:
            places.insert(0, said[function])  # called by a helper of what says so
    return found


def _helpers() -> dict[str, list[str]]:
    """C function of ours -> the functions of libuv it calls."""
    text = (HERE / "_build.py").read_text(encoding="utf-8")
    found = {}
    definition = r"^static [^;{]*?\b(loopfast_\w+)\([^;{]*\)\s*(\{.*?\}$)"
    for match in re.finditer(definition, text, re.MULTILINE | re.DOTALL):
        if called := sorted(set(re.findall(r"\b(uv_\w+)\(", match[2]))):
            found[match[1]] = called
    return found


def _uses(node: ast.AST, path: list[str]) -> list[tuple[str, str]]:
    """(function, qualified name) for each `lib.function` below `node`."""
    found = []
    for child in ast.iter_child_nodes(node):
        inner = path
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not any(name.islower() for name in path):
            inner = [*path, child.name]
        if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name) and child.value.id == "lib":
            found.append((child.attr, ".".join(path)))
        found += _uses(child, inner)
    return found


def _mentions(node: ast.AST, path: list[str]) -> list[tuple[str, str]]:
    """(function, qualified name) for each libuv function that the docstring of something public names."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            place = ".".join([*path, child.name])
            if not _is_private("", place):
                text = ast.get_docstring(child) or ""
                found += [(name, place) for name in re.findall(r"\buv_\w+", text)]
                found += _mentions(child, [*path, child.name])
    return found


def _is_private(module: str, place: str) -> bool:
    """Whether a name is empty (the module itself) or private, or its module is; __init__ is the class itself."""
    return (
        not place
        or module.startswith("_")
        or any(part.startswith("_") and part != "__init__" for part in place.split("."))
    )


def reason(function: str) -> str | None:
    """Why a function is left out; None if no reason is given."""
    for key, text in LEFT_OUT.items():
        if function == key or (key.endswith("*") and function.startswith(key[:-1])):
            return text
    return None


def _shown(module: str, place: str) -> str:
    if _is_private(module, place):
        return "the binding itself"
    name = place.removesuffix(".__init__")
    return f"`{'fs.' if module == 'fs' else 'errors.' if place == 'error' else ''}{name}`"


def table(header: str, version: str) -> str:
    """The table as Markdown, for a header given as text."""
    names, found = functions(header), bindings()
    chapters: dict[str, list[str]] = {chapter: [] for chapter in CHAPTERS}
    of_module = {module: chapter for chapter, modules in CHAPTERS.items() for module in modules}
    for name in names:
        if reason(name) is None:
            module, place = found[name][0] if name in found else ("_base", "missing")
            chapters[of_module[module]].append(f"| `{name}` | {_shown(module, place)} |")
    left_out = [f"| `{name}` | {reason(name)} |" for name in names if reason(name) is not None]
    bound = len(names) - len(left_out)
    lines = [
        "# libuv in loopfast.uv",
        "",
        f"libuv {version} has {len(names)} public functions: {bound} are in `loopfast.uv`, {len(left_out)} are left",
        "out, for the reasons at the end. Written by `python -m loopfast.uv.coverage`; a test compares it with",
        "the header.",
    ]
    for chapter, rows in chapters.items():
        if rows:
            lines += ["", f"## {chapter}", "", "| libuv | Python |", "| --- | --- |", *rows]
    lines += ["", "## Left out", "", "| libuv | reason |", "| --- | --- |", *left_out]
    return "\n".join(lines) + "\n"


def header_version(header: Path) -> str:
    """The version that uv/version.h beside `header` states."""
    text = (header.parent / "uv" / "version.h").read_text(encoding="utf-8")
    numbers = [re.search(rf"#define UV_VERSION_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(number[1] for number in numbers if number)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 if a function has neither a place nor a reason."""
    parser = argparse.ArgumentParser(prog=f"python -m {PACKAGE}.coverage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("header", type=Path, help="libuv's include/uv.h")
    header = parser.parse_args(arguments).header
    text = header.read_text(encoding="utf-8")
    print(table(text, header_version(header)), end="")
    found = bindings()
    missing = [name for name in functions(text) if name not in found and reason(name) is None]
    if missing:
        print(f"neither bound nor left out: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

"""Compiles the pinned libuv into the one shared library inside the package, with plain compiler calls.

Also owns the alternative, a system libuv found through pkg-config, and the compiler flags both worlds share. Source
lists follow libuv's own CMakeLists.txt for the three platforms loopfast supports.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vendor import patch
from vendor.fetch import OVERRIDE, Pin, Source, SupplyError, read_folder, write_tree

COMMON = """fs-poll idna inet random strscpy strtok thread-common threadpool timer uv-common uv-data-getter-setters
    version""".split()
UNIX = """async core dl fs getaddrinfo getnameinfo loop-watcher loop pipe poll process random-devurandom signal stream
    tcp thread tty udp proctitle""".split()
LINUX = "linux procfs-exepath random-getrandom random-sysctl-linux".split()
DARWIN = "bsd-ifaddrs kqueue random-getentropy darwin-proctitle darwin fsevents".split()
WINDOWS = """async core detect-wakeup dl error fs fs-event getaddrinfo getnameinfo handle loop-watcher pipe thread poll
    process process-stdio signal snprintf stream tcp tty udp util winapi winsock""".split()


@dataclass(frozen=True)
class Platform:
    """What libuv needs on one operating system, and how our shared library is called there."""

    sources: tuple[str, ...]
    macros: tuple[tuple[str, str | None], ...]
    libraries: tuple[str, ...]
    #: File name in loopfast/_lib. The name is ours, so no other libuv in the process can be taken for it.
    library: str


def platform_for(name: str = sys.platform) -> Platform:
    """The build recipe for `name` (a value of sys.platform); SupplyError for a system loopfast does not support."""
    common = tuple(f"src/{stem}.c" for stem in COMMON)
    unix = tuple(f"src/unix/{stem}.c" for stem in UNIX)
    large_files = (("_FILE_OFFSET_BITS", "64"), ("_LARGEFILE_SOURCE", None))
    if name.startswith("linux"):
        return Platform(
            common + unix + tuple(f"src/unix/{stem}.c" for stem in LINUX),
            large_files + (("_GNU_SOURCE", None), ("_POSIX_C_SOURCE", "200112")),
            ("pthread", "dl", "rt"),
            "libloopfast-uv.so.1",
        )
    if name == "darwin":
        return Platform(
            common + unix + tuple(f"src/unix/{stem}.c" for stem in DARWIN),
            large_files + (("_DARWIN_UNLIMITED_SELECT", "1"), ("_DARWIN_USE_64_BIT_INODE", "1")),
            ("pthread",),
            "libloopfast-uv.1.dylib",
        )
    if name == "win32":
        return Platform(
            common + tuple(f"src/win/{stem}.c" for stem in WINDOWS),
            (("WIN32_LEAN_AND_MEAN", None), ("_WIN32_WINNT", "0x0A00"), ("_CRT_DECLARE_NONSTDC_NAMES", "0")),
            ("psapi", "user32", "advapi32", "iphlpapi", "userenv", "ws2_32", "dbghelp", "ole32", "shell32"),
            "loopfast-uv-1.dll",
        )
    raise SupplyError(f"no recipe for libuv on {name!r}; set LOOPFAST_SYSTEM_LIBUV=1 to use the system's libuv")


@dataclass(frozen=True)
class Config:
    """The build switches, read from the environment once."""

    debug: bool = False
    system_libuv: bool = False
    sanitize: str = ""

    @classmethod
    def from_environment(cls) -> Config:
        """LOOPFAST_DEBUG, LOOPFAST_SYSTEM_LIBUV (0 or 1) and LOOPFAST_SANITIZE (as gcc's -fsanitize)."""
        return cls(flag("LOOPFAST_DEBUG"), flag("LOOPFAST_SYSTEM_LIBUV"), os.environ.get("LOOPFAST_SANITIZE", ""))

    @property
    def tag(self) -> str:
        """Names a build folder per configuration, so that switching back and forth compiles nothing twice."""
        parts = ["debug"] * self.debug + ["system"] * self.system_libuv
        if self.sanitize:
            parts.append("sanitize-" + re.sub(r"\W+", "-", self.sanitize))
        return "-".join(parts)

    def compile_args(self, windows: bool = sys.platform == "win32") -> list[str]:
        """Compiler arguments common to libuv and the extensions; later than, so stronger than, the interpreter's
        own."""
        if windows:
            return ["/Od", "/Z7", "/UNDEBUG"] if self.debug else ["/O2", "/DNDEBUG"]
        args = ["-fno-semantic-interposition", "-fvisibility=hidden", "-Wall"]
        if sys.platform == "darwin":
            args.remove("-fno-semantic-interposition")  # Mach-O binds this way already; clang would warn
        else:
            args.append("-fno-plt")  # one instruction less per call into the interpreter and libuv
        if self.sanitize:
            args += [f"-fsanitize={self.sanitize}", "-fno-omit-frame-pointer"]
        if self.debug:
            return [*args, "-O1", "-g", "-UNDEBUG"]
        if self.sanitize:
            return [*args, "-O1", "-g", "-DNDEBUG"]
        return [*args, "-O3", "-g0", "-DNDEBUG"]

    def link_args(self) -> list[str]:
        """Linker arguments common to libuv and the extensions."""
        args = [f"-fsanitize={self.sanitize}"] if self.sanitize else []
        if sys.platform.startswith("linux"):
            args += ["-Wl,-O1", "-Wl,--as-needed", "-Wl,-z,relro"]
        return args


def check_tools() -> None:
    """SupplyError with one line on what to install when the C compiler or the interpreter's headers are missing."""
    if sys.platform == "win32":
        return  # setuptools finds Visual C++ through the registry and has a good error of its own
    words = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if not shutil.which(words[0]):
        raise SupplyError(
            f"no C compiler: {words[0]!r} is not on PATH. Install one (Debian, Ubuntu: apt-get install gcc "
            f"libc6-dev; macOS: xcode-select --install) or name it in CC."
        )
    include = Path(sysconfig.get_path("include"))
    platform_include = Path(sysconfig.get_path("platinclude"))
    if not (include / "Python.h").is_file() or not (platform_include / "pyconfig.h").is_file():
        raise SupplyError(
            f"the headers of Python {sys.version.split()[0]} are missing ({include}/Python.h). Install them "
            f"(Debian, Ubuntu: apt-get install python3-dev) or use another interpreter."
        )


def flag(name: str) -> bool:
    """A 0/1 switch from the environment; SupplyError for anything else."""
    value = os.environ.get(name, "0") or "0"
    if value not in ("0", "1"):
        raise SupplyError(f"{name}={value!r}: expected 0 or 1")
    return value == "1"


@dataclass
class Libuv:
    """What an extension needs to compile against and link with the chosen libuv."""

    version: str
    include_dirs: list[str] = field(default_factory=list)
    macros: list[tuple[str, str | None]] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    link_args: list[str] = field(default_factory=list)
    #: Files whose change must relink the extensions.
    depends: list[str] = field(default_factory=list)


def system_libuv(pin: Pin | None = None) -> Libuv:
    """The system's libuv as pkg-config knows it; SupplyError when absent or older than libuv.toml's minimum."""
    minimum = (pin or Pin.load()).system_minimum
    tool = os.environ.get("PKG_CONFIG") or shutil.which("pkg-config")
    if not tool:
        raise SupplyError("LOOPFAST_SYSTEM_LIBUV=1 needs pkg-config, which is not on PATH")

    def ask(*arguments: str) -> str:
        done = subprocess.run([tool, *arguments, "libuv"], capture_output=True, text=True)
        if done.returncode:
            words = done.stderr.strip().splitlines() or ["pkg-config does not know libuv"]
            raise SupplyError(f"LOOPFAST_SYSTEM_LIBUV=1: no system libuv (at least {minimum} is needed): {words[0]}")
        return done.stdout.strip()

    version = ask("--modversion")
    if version_key(version) < version_key(minimum):
        raise SupplyError(f"LOOPFAST_SYSTEM_LIBUV=1: the system's libuv is {version}, at least {minimum} is needed")
    cflags = ask("--cflags").split()
    include_dirs = [word[2:] for word in cflags if word.startswith("-I")]
    return Libuv(version, include_dirs, link_args=ask("--libs").split())


def version_key(version: str) -> tuple[int, ...]:
    """`version` as something to compare: "1.44.2" -> (1, 44, 2); a suffix such as "-dev" is ignored."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def header_version(include: Path) -> str:
    """The version libuv's own header states."""
    text = (include / "uv/version.h").read_text(encoding="utf-8")
    numbers = [re.search(rf"#define UV_VERSION_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(number[1] if number else "?" for number in numbers)


def missing_source_message(pin: Pin) -> str:
    """The one error a build without libuv ends with."""
    return (
        f"libuv's source is not here, and a build never downloads. Run `python vendor/fetch.py` once "
        f"(or any `make` target), or set {OVERRIDE} to a folder or archive of libuv {pin.versions()}, "
        f"or LOOPFAST_SYSTEM_LIBUV=1 to use the system's libuv."
    )


def build_shared(
    compiler: Any, source: Source, output: Path, temp: Path, config: Config, jobs: int, say: Callable[[str], None]
) -> Libuv:
    """Compile `source` into the shared library `output` and return how to use it.

    `compiler` is setuptools' compiler object, already customised; `temp` receives objects and a stamp. Nothing is
    compiled when the stamp says that the library there was made from the same source with the same commands.
    """
    platform = platform_for()
    windows = sys.platform == "win32"
    macros = [*platform.macros, ("BUILDING_UV_SHARED", "1")]
    args = config.compile_args() + ([] if windows else ["-std=gnu11", "-fno-strict-aliasing"])
    if "undefined" in config.sanitize:
        args.append("-fno-sanitize=alignment")  # libuv casts sockaddr buffers on purpose
    link_args, import_library = shared_link_args(platform.library, temp)
    link_args += config.link_args()

    temp.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    tree, state = prepared_tree(source, temp)
    result = Libuv(
        header_version(tree / "include"),
        [str(tree / "include")],
        macros=[("USING_UV_SHARED", "1")],
        objects=[import_library or str(output)],
        depends=[str(output)],
    )

    recipe = [state, macros, args, link_args, platform.libraries, tools(compiler)]
    stamp, key = temp / "stamp", hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    if output.exists() and stamp.exists() and stamp.read_text() == key:
        return result
    stamp.unlink(missing_ok=True)

    say(f"building libuv {result.version} ({len(platform.sources)} files) into {output.name}")
    include_dirs = [str(tree / "include"), str(tree / "src")]

    def compile_one(name: str) -> list[str]:
        objects: list[str] = compiler.compile(
            [os.path.relpath(tree / name)],
            output_dir=str(temp),
            macros=macros,
            include_dirs=include_dirs,
            extra_postargs=args,
        )
        return objects

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        objects = [name for names in pool.map(compile_one, platform.sources) for name in names]
    link_shared(compiler, objects, output, platform, link_args)
    stamp.write_text(key)
    return result


def prepared_tree(source: Source, temp: Path) -> tuple[Path, str]:
    """A copy of `source` below `temp` with our patches applied, and a text that identifies it.

    A copy even without patches: the source may lie outside the project, where distutils would put its objects beside
    it.
    """
    patches = {path.name: path.read_text(encoding="utf-8") for path in patch.patch_files(source.release.version)}
    tree, marker = temp / "source", temp / "source.json"
    state = json.dumps([source.release.tree, patches])
    if not tree.is_dir() or not marker.is_file() or marker.read_text() != state:
        marker.unlink(missing_ok=True)
        write_tree(read_folder(source.path), tree)
        patch.apply(patches, tree)
        marker.write_text(state)
    return tree, state


def tools(compiler: Any) -> list[str]:
    """The commands `compiler` runs, for the stamp: another compiler means another library."""
    return [str(getattr(compiler, name, "")) for name in ("compiler_so", "linker_so", "cc")]


def shared_link_args(library: str, temp: Path) -> tuple[list[str], str | None]:
    """Linker arguments that give the shared library its own name, and the import library's path on Windows."""
    if sys.platform == "win32":
        import_library = str(temp / "loopfast-uv-1.lib")
        return [f"/IMPLIB:{import_library}"], import_library
    if sys.platform == "darwin":
        return [f"-Wl,-install_name,@rpath/{library}", "-Wl,-compatibility_version,1", "-Wl,-current_version,1"], None
    return [f"-Wl,-soname,{library}", "-Wl,-z,defs"], None


def link_shared(compiler: Any, objects: list[str], output: Path, platform: Platform, link_args: list[str]) -> None:
    """Link `objects`. On macOS the interpreter's command makes bundles, which nothing can link against: swap the
    switch."""
    saved = list(getattr(compiler, "linker_so", ()))
    if sys.platform == "darwin":
        words = ["-dynamiclib" if word == "-bundle" else word for word in saved]
        compiler.linker_so = [word for word in words if word not in ("-undefined", "dynamic_lookup")]
    try:
        compiler.link_shared_object(objects, str(output), libraries=list(platform.libraries), extra_postargs=link_args)
    finally:
        if saved:
            compiler.linker_so = saved


if __name__ == "__main__":  # `python -m vendor.build`: can this machine compile at all?
    try:
        check_tools()
    except SupplyError as exc:
        sys.exit(f"error: {exc}")

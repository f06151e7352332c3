"""Builds the shared libuv, every loopfast/**/*.pyx and the cffi module, all linked to that one libuv.

Metadata lives in pyproject.toml. Switches (environment): LOOPFAST_DEBUG=1, LOOPFAST_SYSTEM_LIBUV=1,
LOOPFAST_SANITIZE=address,undefined, LOOPFAST_LIBUV_SOURCE=PATH, LOOPFAST_JOBS=N. Generated C goes to build/c, by
`setup.py translate` nothing but that; with LOOPFAST_TRANSLATED=1 Cython's is compiled as it is there.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError
from setuptools.modified import newer_group

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))

from vendor import build as libuv_build  # noqa: E402
from vendor import fetch as libuv_fetch  # noqa: E402

PACKAGE = "loopfast"
GENERATED_C = "build/c"
BENCH = "bench"
BENCH_SUFFIXES = (".py", ".c", ".toml")
BENCH_OMITS = ("demo", "scaling.py", "results", "__init__.py")  # loopfast/bench has an __init__.py of its own
LIB_PACKAGE = f"{PACKAGE}._lib"

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "nonecheck": False,
    "cdivision": True,
    "binding": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",  # the form inspect.signature() can parse
    "auto_pickle": False,  # what Cython generates trusts the pickle
    "freethreading_compatible": True,  # see CONTRIBUTING.md, "Without the GIL"
}


class LibuvExtension(Extension):
    """The shared libuv, dressed as an extension so that in-place, editable, wheel and sdist builds all carry it."""


class CffiExtension(Extension):
    """A cffi API-mode module; `script` defines its `ffibuilder`."""

    def __init__(self, name: str, script: str) -> None:
        super().__init__(name, sources=[], depends=[script])
        self.script = script


def cython_extensions() -> list[Extension]:
    """One extension per .pyx below the package, named after its path."""
    headers = sorted(path.as_posix() for path in Path(PACKAGE, "includes").glob("*.h"))
    return [
        Extension(".".join(path.with_suffix("").parts), sources=[path.as_posix()], depends=list(headers))
        for path in sorted(Path(PACKAGE).rglob("*.pyx"))
    ]


def generated_c(ext: Extension) -> str:
    """The C file that the extension's source is translated to."""
    return Path(GENERATED_C, *ext.name.split(".")).with_suffix(".c").as_posix()


def library_path(name: str) -> list[str]:
    """Linker arguments that let the extension `name` find loopfast/_lib from wherever the package is installed."""
    up = "/.." * (name.count(".") - 1)
    if sys.platform == "darwin":
        return [f"-Wl,-rpath,@loader_path{up}/_lib"]
    if sys.platform == "win32":
        return []  # loopfast/__init__.py names the folder to the DLL search
    return [f"-Wl,-rpath,$ORIGIN{up}/_lib"]


class BuildByConfiguration(build):
    """`build` with a folder of its own per configuration."""

    def initialize_options(self) -> None:
        super().initialize_options()
        if tag := libuv_build.Config.from_environment().tag:
            self.build_base = f"build/{tag}"


class BuildModules(build_py):
    """`build_py` that puts the folder bench/ into the wheel as loopfast.bench; editable builds use it where it is."""

    def bench_files(self) -> dict[str, str]:
        """What is copied where."""
        root = Path(BENCH)
        found = [path for path in sorted(root.rglob("*")) if path.suffix in BENCH_SUFFIXES and path.is_file()]
        inside = [path.relative_to(root) for path in found]
        target = Path(self.build_lib, PACKAGE, BENCH)
        return {str(root / path): str(target / path) for path in inside if path.parts[0] not in BENCH_OMITS}

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source, target in self.bench_files().items():
            self.mkpath(os.path.dirname(target))
            self.copy_file(source, target, preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self.bench_files().values())]


class BuildExtensions(build_ext):
    """`build_ext` that makes libuv first and then everything that links to it."""

    def finalize_options(self) -> None:
        self.config = libuv_build.Config.from_environment()
        if self.config.system_libuv and self.distribution.ext_modules:
            self.distribution.ext_modules = [
                ext for ext in self.distribution.ext_modules if not isinstance(ext, LibuvExtension)
            ]
        super().finalize_options()
        if self.editable_mode:
            # setuptools points an editable build at a throw-away folder; ours is incremental and shared with --inplace.
            usual = BuildByConfiguration(self.distribution)
            usual.ensure_finalized()
            self.build_lib, self.build_temp = usual.build_lib, usual.build_temp
        if self.parallel is None:
            self.parallel = int(os.environ.get("LOOPFAST_JOBS") or os.cpu_count() or 1)

    def get_ext_filename(self, fullname: str) -> str:
        """The shared libuv has its own file name; everything else is an ordinary extension."""
        if fullname.rpartition(".")[0] == LIB_PACKAGE:
            return os.path.join(*LIB_PACKAGE.split("."), libuv_build.platform_for().library)
        return super().get_ext_filename(fullname)

    def run(self) -> None:
        libuv_build.check_tools()
        self.translate()
        super().run()

    def translate(self) -> None:
        """Let every extension that is written in something else have C sources, below build/c."""
        pyx = [ext for ext in self.extensions if any(source.endswith(".pyx") for source in ext.sources)]
        if libuv_build.flag("LOOPFAST_TRANSLATED"):
            for ext in pyx:
                ext.sources = [generated_c(ext)]
        else:
            self.cythonize(pyx)
        for ext in self.extensions:
            if isinstance(ext, CffiExtension):
                self.generate_cffi(ext)

    def cythonize(self, extensions: list[Extension]) -> None:
        """Translate what changed to C below build/c and let `extensions` name the result as their source."""
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError as TranslationError

        if not extensions:
            return
        # `copy`: cythonize returns new objects, setuptools has already prepared the ones it knows.
        try:
            translated = cythonize(
                [copy.copy(ext) for ext in extensions],
                build_dir=GENERATED_C,
                compiler_directives=DIRECTIVES,
                include_path=["."],
                nthreads=min(self.parallel, len(extensions)),
                force=bool(self.force),
            )
        except TranslationError as exc:  # Cython has printed the place already; a traceback adds nothing
            raise CompileError(f"Cython refused {exc}") from exc
        by_name = {ext.name: ext for ext in translated}
        for ext in extensions:
            ext.sources = by_name[ext.name].sources

    def generate_cffi(self, ext: CffiExtension) -> None:
        """Write the C source of a cffi module; the file keeps its time stamp when nothing changed."""
        ffibuilder = runpy.run_path(ext.script)["ffibuilder"]
        target = Path(generated_c(ext))
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):  # cffi prints that it did nothing
            ffibuilder.emit_c_code(str(target))
        ext.sources = [str(target)]

    def build_extensions(self) -> None:
        self.drop_interpreter_rpath()
        libuv = self.supply_libuv()
        for ext in self.extensions:
            if not isinstance(ext, LibuvExtension):
                self.configure(ext, libuv)
        super().build_extensions()

    def drop_interpreter_rpath(self) -> None:
        """A locally built interpreter puts its own absolute library folder into every extension; a wheel must not."""
        if isinstance(linker := getattr(self.compiler, "linker_so", None), list):
            self.compiler.linker_so = [word for word in linker if not word.startswith("-Wl,-rpath")]

    def supply_libuv(self) -> libuv_build.Libuv:
        """The libuv to link with: the system's, or ours built from the verified source."""
        if self.config.system_libuv:
            return libuv_build.system_libuv()
        pin = libuv_fetch.Pin.load()
        source = libuv_fetch.locate(pin, scratch=Path(self.build_temp), say=self.announce_line)
        if source is None:
            raise libuv_fetch.SupplyError(libuv_build.missing_source_message(pin))
        output = Path(self.build_lib, *LIB_PACKAGE.split("."), libuv_build.platform_for().library)
        return libuv_build.build_shared(
            self.compiler,
            source,
            output,
            Path(self.build_temp, "libuv"),
            self.config,
            self.parallel,
            self.announce_line,
        )

    def announce_line(self, text: str) -> None:
        """Progress a user sees at normal verbosity."""
        print(text, file=sys.stderr, flush=True)

    def configure(self, ext: Extension, libuv: libuv_build.Libuv) -> None:
        """Point `ext` at libuv and our own headers, with the flags of the chosen configuration."""
        ext.include_dirs += [f"{PACKAGE}/includes", *libuv.include_dirs]
        ext.define_macros += libuv.macros
        # Cython's way to call __cinit__() with keywords releases what it has not set yet, if memory is short.
        ext.define_macros.append(("CYTHON_VECTORCALL_TPNEW", "0"))
        if self.config.debug:
            ext.define_macros.append(("LOOPFAST_DEBUG", "1"))
        ext.extra_compile_args += self.config.compile_args()
        ext.extra_objects += libuv.objects
        ext.extra_link_args += [*self.config.link_args(), *libuv.link_args]
        if libuv.objects:
            ext.extra_link_args += library_path(ext.name)
        ext.depends += libuv.depends

    def copy_extensions_to_source(self) -> None:
        Path(*LIB_PACKAGE.split(".")).mkdir(exist_ok=True)
        super().copy_extensions_to_source()

    def build_extension(self, ext: Extension) -> None:
        if isinstance(ext, LibuvExtension):
            return  # built before everything else, by supply_libuv()
        if self.force or newer_group([*ext.sources, *ext.depends], self.get_ext_fullpath(ext.name), "newer"):
            self.announce_line(f"compiling {ext.name}")
        super().build_extension(ext)


class Translate(BuildExtensions):
    """`translate`: the C code alone. Cython's is the same for every interpreter, cffi's is not."""

    description = "translate the extensions to C, below build/c"

    def run(self) -> None:
        self.translate()


class SourceDistribution(sdist):
    """`sdist` that refuses to make an archive which could not be built without a network."""

    def run(self) -> None:
        if libuv_fetch.from_tree(libuv_fetch.Pin.load()) is None:
            raise libuv_fetch.SupplyError("the sdist carries libuv's source: run `python vendor/fetch.py` first")
        super().run()


def extensions() -> list[Extension]:
    """Everything compiled, the shared libuv first."""
    cffi = (
        [CffiExtension(f"{PACKAGE}.uv._uv", f"{PACKAGE}/uv/_build.py")]
        if Path(PACKAGE, "uv/_build.py").exists()
        else []
    )
    return [LibuvExtension(f"{LIB_PACKAGE}.uv", sources=[]), *cython_extensions(), *cffi]


if __name__ == "__main__":
    try:
        setup(
            ext_modules=extensions(),
            cmdclass={
                "build": BuildByConfiguration,
                "build_ext": BuildExtensions,
                "build_py": BuildModules,
                "sdist": SourceDistribution,
                "translate": Translate,
            },
        )
    except libuv_fetch.SupplyError as exc:
        sys.exit(f"error: {exc}")

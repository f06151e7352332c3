"""What this installation and this machine are, collected for `python -m loopfast` and bug reports.

Only facts that explain behaviour or speed; no host name, user name or environment beyond the few variables listed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["collect", "render"]

# Frameworks and loops whose version changes what a report about loopfast means; none is imported.
_NEIGHBOURS = (
    "uvicorn", "fastapi", "starlette", "aiohttp", "anyio", "hypercorn", "granian", "gunicorn", "websockets",
    "httptools", "uvloop", "winloop", "rloop", "zuvloop", "aiofastnet", "gevent", "pytest-asyncio",
)  # fmt: skip

# Variables that change the behaviour of the loop, of libuv or of asyncio.
_VARIABLES = (
    "UV_THREADPOOL_SIZE", "UV_USE_IO_URING", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHON_GIL", "LD_PRELOAD",
    "LOOPFAST_TLS_ENGINE", "LOOPFAST_CONTEXTS", "LOOPFAST_RUN", "LOOPFAST_TOP",
)  # fmt: skip


def collect() -> dict[str, dict[str, Any]]:
    """Return the facts by section; every value is one JSON can hold.

    Sections: ``versions``, ``build`` (of the compiled modules), ``python``, ``machine``, ``features``,
    ``packages`` (installed neighbours) and ``environment``. A fact that cannot be found out is left out or None.
    """
    import loopfast
    from loopfast.buildinfo import build_info

    build = build_info()
    return {
        "versions": {
            "loopfast": loopfast.__version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "libuv loaded": build["libuv_loaded"],
            "libuv compiled against": build["libuv_headers"],
            "cython": build["cython"],
            "cffi": _package_version("cffi"),
            "openssl": _openssl(),
        },
        "build": _build(build),
        "python": _python(),
        "machine": _machine(),
        "features": _features(),
        "packages": {name: version for name in _NEIGHBOURS if (version := _package_version(name))},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def render(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return ``facts`` as plain text, one fact a line; readable as it is and inside a fenced block of an issue."""
    sections = []
    for title, entries in facts.items():
        if entries:
            width = max(map(len, entries))
            lines = (f"  {name:<{width}}  {_text(value)}" for name, value in entries.items())
            sections.append("\n".join([title, *lines]))
    return "\n\n".join(sections)


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _openssl() -> str | None:
    try:
        import ssl
    except ImportError:  # an interpreter built without OpenSSL
        return None
    return ssl.OPENSSL_VERSION


def _build(build: Mapping[str, Any]) -> dict[str, Any]:
    package = str(Path(__file__).parent)
    libraries = {_without_home(path.replace(package, "loopfast")) for path in _loaded_libuvs()}
    return {
        "kind": "debug (assertions and counters)" if build["debug"] else "release",
        "compiler": build["compiler"],
        # More than one is possible, beside another loop; which of them answers is what "libuv loaded" says.
        "libuv files": sorted(libraries) or None,
        "installed as": _installation(),
    }


def _loaded_libuvs() -> set[str]:
    """Paths of the shared libraries in this process that are a libuv by name (ours is libloopfast-uv); Linux only."""
    paths = re.findall(r"(/.*)$", _read("/proc/self/maps") or "", re.MULTILINE)
    return {path for path in paths if re.match(r"lib([a-z]+-)?uv[-.]", os.path.basename(path))}


def _installation() -> str:
    """Whether the package came from a wheel, an editable installation, or is used from a source tree as it is."""
    try:
        distribution = importlib.metadata.distribution("loopfast")
    except importlib.metadata.PackageNotFoundError:
        return "not installed, source tree"
    # https://packaging.python.org/en/latest/specifications/direct-url/
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return "editable" if origin.get("dir_info", {}).get("editable") else "package"


def _python() -> dict[str, Any]:
    config = sysconfig.get_config_vars()
    arguments = str(config.get("CONFIG_ARGS") or "")
    free_threaded = bool(config.get("Py_GIL_DISABLED"))
    gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    return {
        "compiler": platform.python_compiler(),
        "free-threaded build": free_threaded,
        "GIL enabled": gil_enabled,
        "debug build": hasattr(sys, "gettotalrefcount"),
        "shared library": bool(config.get("Py_ENABLE_SHARED")),
        "optimized (PGO)": "--enable-optimizations" in arguments,
        "LTO": bool(re.search(r"--with-lto(?!=no)", arguments)),
        "JIT": bool(getattr(getattr(sys, "_jit", None), "is_enabled", lambda: False)()),
        "executable": _without_home(sys.executable),
        "virtual environment": sys.prefix != sys.base_prefix,
    }


def _machine() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "distribution": _distribution(),
        "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
    }
    if hasattr(os, "sched_getaffinity"):
        facts["cpus usable"] = len(os.sched_getaffinity(0))
    if (quota := _cgroup_cpus()) is not None:
        facts["cpu quota"] = f"{quota:g} cpus"
    facts["memory"] = _memory()
    if (limit := _cgroup_memory()) is not None:
        facts["memory limit"] = _mebibytes(limit)
    facts["container"] = " ".join(_container_hints()) or "no sign of one"
    try:
        import resource
    except ImportError:
        pass
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        facts["open files limit"] = f"{_limit(soft)} (hard {_limit(hard)})"
    return facts


def _features() -> dict[str, Any]:
    import select
    import socket

    return {
        "epoll": hasattr(select, "epoll"),
        "kqueue": hasattr(select, "kqueue"),
        "io_uring": _io_uring(),
        "pidfd": hasattr(os, "pidfd_open"),
        "IPv6": socket.has_ipv6,
        "SO_REUSEPORT": hasattr(socket, "SO_REUSEPORT"),
        "event loop policies": hasattr(sys.modules["asyncio.events"], "set_event_loop_policy"),
        "cffi binding (loopfast.uv)": _has_cffi_binding(),
        "OpenSSL called directly": sys.modules["loopfast.tls"].can_go_direct(),
        "contexts made when needed": sys.modules["loopfast.callbacks"].knows_contexts(),
        "write gathering": hasattr(sys.modules["loopfast"].Loop, "set_write_gathering"),
    }


def _has_cffi_binding() -> bool:
    """Whether loopfast.uv can be imported; imports it, which is why `import loopfast` does not ask."""
    try:
        from loopfast.uv import lib  # noqa: F401
    except ImportError:
        return False
    return True


def _without_home(path: str | None) -> str | None:
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if path and home != "/" and path.startswith(home + os.sep) else path


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return platform.mac_ver()[0] or None


def _cpu_model() -> str | None:
    match = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return match[1] if match else platform.processor() or None


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB"


def _memory() -> str | None:
    try:
        return _mebibytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return None


def _limit(number: int) -> str:
    import resource

    return "unlimited" if number == resource.RLIM_INFINITY else str(number)


def _cgroup_cpus() -> float | None:
    """CPUs this process may use at a time by its control group (version 2, then 1), or None without a limit."""
    quota, period = ((_read("/sys/fs/cgroup/cpu.max") or "").split() + ["", ""])[:2]
    if not quota:
        quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") or ""
        period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us") or ""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _cgroup_memory() -> int | None:
    """Bytes of memory this process's control group may use, or None without a limit."""
    text = _read("/sys/fs/cgroup/memory.max") or _read("/sys/fs/cgroup/memory/memory.limit_in_bytes") or ""
    # Version 1 says "no limit" with a number close to 2**63.
    return int(text) if text.isdigit() and int(text) < 2**60 else None


def _container_hints() -> Iterator[str]:
    if os.path.exists("/.dockerenv"):
        yield "docker"
    if os.path.exists("/run/.containerenv"):
        yield "podman"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        yield "kubernetes"
    # systemd's convention for the name of the container manager: https://systemd.io/CONTAINER_INTERFACE
    if name := os.environ.get("container"):  # noqa: SIM112
        yield name
    if "microsoft" in platform.release().lower():
        yield "wsl"
    if "gvisor" in (_read("/proc/version") or "").lower():
        yield "gvisor"


def _io_uring() -> str | None:
    if sys.platform != "linux":
        return None
    # https://docs.kernel.org/admin-guide/sysctl/kernel.html#io-uring-disabled
    state = _read("/proc/sys/kernel/io_uring_disabled")
    return {"0": "allowed", "1": "privileged only", "2": "disabled"}.get(state or "")

"""What a result was measured on: processor, kernel, governor, interpreter and its build, load, date."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import shlex
import ssl
import subprocess
import sysconfig
from pathlib import Path

from .. import native


def describe() -> dict[str, str]:
    """Returns the description of this machine, in the order to be shown; what cannot be found out is left out."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "processors": f"{usable} usable of {os.cpu_count()}",
        "governor": first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not told by this machine",
        "turbo": {"0": "on", "1": "off"}.get(first_line("/sys/devices/system/cpu/intel_pstate/no_turbo"), ""),
        "system": system(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "python build": build_flags(),
        "loopfast build": loopfast_build(),
        "libraries": libraries(),
        "commit": commit(),
        "load before": " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "",
    }
    return {name: value for name, value in facts.items() if value}


def build_flags() -> str:
    """Returns how the interpreter was configured, without the words that name folders of this machine."""
    words = shlex.split(sysconfig.get_config_var("CONFIG_ARGS") or "")
    return " ".join(word for word in words if "/" not in word) or "default"


def processor() -> str:
    """Returns the processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def system() -> str:
    """Returns the name of the distribution, where there is one."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def first_line(path: str) -> str:
    """Returns the first line of the file `path`, empty where there is none."""
    try:
        return Path(path).read_text().partition("\n")[0].strip()
    except OSError:
        return ""


def loopfast_build() -> str:
    """Returns compiler, libuv and mode of the loopfast that is measured, empty where it is not built."""
    try:
        from loopfast.buildinfo import build_info
    except ImportError:
        return ""
    return ", ".join(f"{name} {value}" for name, value in build_info().items())


def libraries() -> str:
    """Returns the versions of what the workloads use besides a loop."""
    found = []
    for name in ("pyperf", "uvicorn", "fastapi", "httptools", "h11", "websockets", "aiohttp"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join([*found, ssl.OPENSSL_VERSION])


def commit() -> str:
    """Returns the commit of the checkout, marked where files of it were changed, empty outside one."""
    root = native.checkout()
    if root is None:
        return ""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

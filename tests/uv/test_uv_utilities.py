"""The thread pool, names and addresses, random bytes, and what libuv knows of process, machine, users and clocks."""

from __future__ import annotations

import errno
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopfast import uv


@pytest.fixture
def loop() -> Iterator[uv.Loop]:
    with uv.Loop() as loop:
        yield loop


# ------------------------------------------------------------------------------------------------------- thread pool


def test_work(loop: uv.Loop) -> None:
    results: list[Any] = []

    def work() -> tuple[str, int]:
        return "done", threading.get_ident()

    def after(result: Any, error: BaseException | None) -> None:
        results.append((*result, error, threading.get_ident()))

    request = uv.queue_work(loop, work, after)
    assert not request.done and request.type == uv.RequestType.WORK and "pending" in repr(request)
    loop.run()
    text, worker, error, here = results[0]
    assert (text, error, here) == ("done", None, threading.get_ident()) and worker != here
    assert request.done and "done" in repr(request)


def test_what_work_raises(loop: uv.Loop) -> None:
    results: list[Any] = []
    uv.queue_work(loop, lambda: 1 // 0, lambda result, error: results.append((result, type(error))))
    loop.run()
    assert results == [(None, ZeroDivisionError)]
    uv.queue_work(loop, lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        loop.run()
    uv.queue_work(loop, lambda: sys.exit(3), lambda result, error: results.append(type(error)))
    loop.run()
    assert results[-1] is SystemExit


def test_cancelling_work(loop: uv.Loop) -> None:
    go, began = threading.Event(), threading.Barrier(5)
    results: list[Any] = []

    def block() -> None:
        began.wait(30)
        go.wait(30)

    running = [uv.queue_work(loop, block, lambda result, error: results.append(error)) for _ in range(4)]
    began.wait(30)
    waiting = uv.queue_work(loop, print, lambda result, error: results.append(error))
    with pytest.raises(OSError) as caught:
        running[0].cancel()
    assert caught.value.errno == errno.EBUSY
    waiting.cancel()
    loop.run(uv.RunMode.ONCE)
    assert [error.errno for error in results] == [errno.ECANCELED]
    go.set()
    loop.run()
    assert results[1:] == [None] * 4


# ---------------------------------------------------------------------------------------------------------- resolver


def test_getaddrinfo(loop: uv.Loop) -> None:
    answers = uv.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert answers == [uv.AddrInfo(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
    found: list[Any] = []
    uv.getaddrinfo("::1", "http", loop=loop, callback=lambda *args: found.append(args))
    uv.getaddrinfo("127.0.0.1", "no-such-service", loop=loop, callback=lambda *args: found.append(args))
    loop.run()
    good = next(result for result, error in found if error is None)
    bad = next(error for result, error in found if error is not None)
    assert good[0].address == ("::1", 80, 0, 0) and isinstance(bad, socket.gaierror)
    with pytest.raises(socket.gaierror):
        uv.getaddrinfo("127.0.0.1", "no-such-service")
    with pytest.raises(OSError) as caught:
        uv.getaddrinfo(None)
    assert caught.value.errno == errno.EINVAL
    for wrong, kind in ((7, TypeError), ("a\0b", ValueError)):
        with pytest.raises(kind):
            uv.getaddrinfo(wrong)  # type: ignore[call-overload]
    # libuv refuses names that are longer than any.
    with pytest.raises(OSError):
        uv.getaddrinfo("x" * 1000)


def test_getnameinfo(loop: uv.Loop) -> None:
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert uv.getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")
    found: list[Any] = []
    uv.getnameinfo(("::1", 443), flags, loop=loop, callback=lambda *args: found.append(args))
    loop.run()
    assert found == [(("::1", "443"), None)]
    with pytest.raises(ValueError, match="localhost"):
        uv.getnameinfo(("localhost", 80))


def test_addresses_as_text() -> None:
    for family, text in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        packed = uv.inet_pton(family, text)
        assert packed == socket.inet_pton(family, text) and uv.inet_ntop(family, packed) == text
        with pytest.raises(ValueError, match="bytes"):
            uv.inet_ntop(family, packed + b"x")
        with pytest.raises(OSError) as caught:
            uv.inet_pton(family, "nonsense")
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        uv.inet_pton(socket.AF_UNIX, "x")
    assert caught.value.errno == errno.EAFNOSUPPORT


def test_random(loop: uv.Loop) -> None:
    assert len(uv.random(32)) == 32 and uv.random(32) != uv.random(32) and uv.random(0) == b""
    found: list[Any] = []
    uv.random(1000, loop=loop, callback=lambda *args: found.append(args))
    loop.run()
    assert len(found[0][0]) == 1000 and found[0][1] is None and len(set(found[0][0])) > 50
    for wrong, kind in ((-1, ValueError), ("x", TypeError), (1.5, TypeError)):
        with pytest.raises(kind, match="size"):
            uv.random(wrong)  # type: ignore[call-overload]


# ------------------------------------------------------------------------------------------ the process, the machine


def test_version() -> None:
    numbers = [int(part) for part in uv.version().split("-")[0].split(".")]
    assert uv.version_number() == numbers[0] << 16 | numbers[1] << 8 | numbers[2]


def test_the_process(tmp_path: Path) -> None:
    assert uv.os_getpid() == os.getpid() and uv.os_getppid() == os.getppid()
    assert os.path.samefile(uv.exepath(), os.path.realpath(sys.executable))
    before = os.getcwd()
    try:
        deep = tmp_path / ("x" * 200) / ("y" * 200)
        deep.mkdir(parents=True)
        uv.chdir(deep)
        assert uv.cwd() == os.getcwd() == str(deep)
    finally:
        os.chdir(before)
    with pytest.raises(FileNotFoundError) as caught:
        uv.chdir(tmp_path / "missing")
    assert caught.value.filename == tmp_path / "missing"
    assert 0 < uv.resident_set_memory() < 1 << 40
    usage = uv.getrusage()
    assert usage.ru_utime > 0 and usage.ru_maxrss > 0
    if uv.version_number() >= 0x013200:
        assert 0 <= uv.getrusage_thread().ru_utime <= uv.getrusage().ru_utime
    assert uv.os_getpriority() == os.getpriority(os.PRIO_PROCESS, 0)
    uv.os_setpriority(uv.os_getpriority())
    with pytest.raises(ProcessLookupError):
        uv.os_getpriority(1 << 30)
    with pytest.raises(OSError) as wrong:
        uv.os_setpriority(100)
    assert wrong.value.errno == errno.EINVAL


def test_descriptors_that_children_do_not_inherit() -> None:
    program = """
import os, subprocess, sys
from loopfast import uv
extra = os.dup(0)
os.set_inheritable(extra, True)
uv.disable_stdio_inheritance()
print(os.get_inheritable(extra), os.get_inheritable(0))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(uv.__file__).parents[2])},
    )
    assert (done.returncode, done.stdout) == (0, "False False\n"), done.stderr


def test_kinds_of_descriptors(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, socket.socket() as tcp:
        assert uv.guess_handle(file) == uv.HandleType.FILE and uv.guess_handle(tcp) == uv.HandleType.TCP
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            assert uv.guess_handle(udp) == uv.HandleType.UDP
    assert uv.guess_handle(9999) == uv.HandleType.UNKNOWN_HANDLE
    for number in uv.HandleType:
        assert uv.handle_type_name(number) is None or isinstance(uv.handle_type_name(number), str)
    assert uv.handle_type_name(999) is None and uv.request_type_name(999) is None
    assert uv.request_type_name(uv.RequestType.WRITE) == "write"


def test_the_machine() -> None:
    name = os.uname()
    assert uv.os_uname() == (name.sysname, name.release, name.version, name.machine)
    assert uv.os_gethostname() == socket.gethostname()
    cpus = uv.cpu_info()
    assert len(cpus) >= uv.available_parallelism() >= 1
    assert all(cpu.cpu_times.user >= 0 and isinstance(cpu.model, str) for cpu in cpus)
    assert uv.uptime() > 0 and all(load >= 0 for load in uv.loadavg())
    assert uv.get_total_memory() >= uv.get_free_memory() > 0
    assert uv.get_available_memory() > 0 and uv.get_constrained_memory() >= 0


def test_interfaces() -> None:
    found = uv.interface_addresses()
    local = next(entry for entry in found if entry.address[0] == "127.0.0.1")
    assert local.is_internal and local.netmask[0] == "255.0.0.0" and len(local.phys_addr) == 6
    index = socket.if_nametoindex(local.name)
    assert uv.if_indextoname(index) == local.name == uv.if_indextoiid(index)
    with pytest.raises(OSError) as caught:
        uv.if_indextoname(1 << 30)
    assert caught.value.errno == errno.ENXIO


def test_users(monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.getpwuid(os.getuid())
    for ours in (uv.os_get_passwd(), uv.os_get_passwd(os.getuid())):
        assert (ours.username, ours.uid, ours.gid, ours.homedir) == (
            user.pw_name,
            user.pw_uid,
            user.pw_gid,
            user.pw_dir,
        )
    with pytest.raises(FileNotFoundError):
        uv.os_get_passwd(123456789)
    group = uv.os_get_group(0)
    assert group.gid == 0 and group.groupname and isinstance(group.members, list)
    with pytest.raises(FileNotFoundError):
        uv.os_get_group(123456789)
    long = "/x" * 500
    monkeypatch.setenv("HOME", long)
    assert uv.os_homedir() == long
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())
    assert uv.os_tmpdir() == tempfile.gettempdir()


def test_the_environment() -> None:
    name = f"LOOPFAST_TEST_{os.getpid()}"
    assert uv.os_getenv(name) is None
    for value in ("", "ünï", "x" * 10_000):
        uv.os_setenv(name, value)
        assert uv.os_getenv(name) == value == uv.os_environ()[name]
    uv.os_unsetenv(name)
    assert uv.os_getenv(name) is None and name not in uv.os_environ()
    for wrong in ("", "A=B", "a\0"):
        with pytest.raises(ValueError):
            uv.os_getenv(wrong)


def test_clocks() -> None:
    before = uv.hrtime()
    assert abs(uv.clock_gettime(uv.ClockID.REALTIME).tv_sec - time.time()) < 60
    assert abs(uv.clock_gettime(uv.ClockID.MONOTONIC).tv_sec - time.monotonic()) < 60
    seconds, microseconds = uv.gettimeofday()
    assert abs(seconds - time.time()) < 60 and 0 <= microseconds < 1_000_000
    uv.sleep(2)
    assert uv.hrtime() - before >= 2_000_000
    with pytest.raises(ValueError):
        uv.clock_gettime(99)


def test_the_thread() -> None:
    seen: list[Any] = []

    def work() -> None:
        if uv.version_number() >= 0x013200:
            uv.thread_setname("loopfast-uv")
            seen.append(uv.thread_getname())
        processors = uv.thread_getaffinity()
        one = min(processors)
        assert uv.thread_setaffinity([one]) == processors
        assert uv.thread_getaffinity() == {one} and uv.thread_getcpu() == one
        uv.thread_setaffinity(processors)
        with pytest.raises(ValueError, match="-1"):
            uv.thread_setaffinity([-1])
        assert isinstance(uv.thread_getpriority(), int)
        with pytest.raises(ValueError, match="77"):
            uv.thread_setpriority(77)
        uv.thread_setpriority(uv.ThreadPriority.LOWEST)
        seen.append("end")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[-1] == "end" and (len(seen) == 1 or seen[0] == "loopfast-uv")

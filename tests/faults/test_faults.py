"""A bounded sample of what `make torture` does: for each scenario, failing calls of loopfast and libuv themselves."""

from __future__ import annotations

import random
import sys

import pytest
from faults import LASTS, Faults, Problem, begin
from scenarios import FRESH, SCENARIOS

# Of each scenario, the calls that fail, and with what.
CALLS = {
    "tcp": {"accept4": "EMFILE", "epoll_ctl": "ENOMEM", "writev": "EPIPE", "calloc": "ENOMEM", "epoll_pwait": "EINTR"},
    "unix": {"accept4": "ECONNABORTED", "read": "EIO", "realloc": "ENOMEM"},
    "tls": {"socket": "EMFILE", "malloc": "ENOMEM", "read": "EINTR"},
    "streams": {"io_uring_setup": "ENOMEM", "connect": "ECONNREFUSED", "shutdown": "ENOTCONN"},
    "udp": {"recvmmsg": "ENOMEM", "sendto": "ENOBUFS", "malloc": "ENOMEM"},
    "pipes": {"read": "EIO", "write": "EPIPE", "epoll_ctl": "ENOSPC"},
    "process": {"vfork": "EAGAIN", "pidfd_open": "EMFILE", "dup2": "EMFILE"},
    "names": {"pthread_create": "EAGAIN", "eventfd": "EMFILE"},
    "sendfile": {"dup": "EMFILE", "sendfile": "EIO", "getsockopt": "ENOBUFS"},
    "sock_sendfile": {"sendfile": "EINTR", "epoll_create1": "EMFILE"},
    "signals": {"read": "EIO", "epoll_pwait": "EINTR"},
    "threads": {"pthread_create": "EAGAIN", "epoll_pwait": "EINTR"},
    "sockets": {"recv": "ECONNRESET", "send": "EPIPE", "epoll_ctl": "ENOMEM", "realloc": "ENOMEM"},
    "readers": {"epoll_ctl": "ENOMEM", "epoll_wait": "EBADF", "realloc": "ENOMEM"},
    "fork": {"epoll_create1": "ENOMEM", "pipe2": "ENFILE", "eventfd": "EMFILE"},
    "first_lookup": {"pthread_create": "EAGAIN", "getaddrinfo": "EAI_AGAIN", "malloc": "ENOMEM"},
    "lookups": {"getaddrinfo": "EAI_SYSTEM", "pthread_create": "EAGAIN", "malloc": "ENOMEM"},
    "first_file": {"pthread_create": "EAGAIN", "eventfd": "EMFILE", "calloc": "ENOMEM"},
    "files": {"open": "EMFILE", "pwrite": "ENOSPC", "pread": "SHORT", "fsync": "EIO", "calloc": "ENOMEM"},
    "files_at_once": {"pwrite": "SHORT", "read": "EIO", "open": "EMFILE", "calloc": "ENOMEM"},
    "whole_files": {"copy_file_range": "EXDEV", "pwrite": "ENOSPC", "malloc": "ENOMEM", "fstat": "EACCES"},
    "file_functions": {"statx": "ENOSYS", "readdir": "EIO", "realpath": "ENOMEM", "realloc": "ENOMEM"},
    "temporary_files": {"unlink": "EACCES", "mkdir": "EEXIST", "open": "EMFILE"},
    "watching": {"inotify_init1": "EMFILE", "inotify_add_watch": "ENOSPC", "read": "EINTR", "malloc": "ENOMEM"},
    "statistics_endpoint": {"accept4": "EMFILE", "bind": "EACCES", "epoll_ctl": "ENOMEM", "pthread_create": "EAGAIN"},
    "first_loop": {"pipe2": "EMFILE", "eventfd": "EMFILE", "epoll_ctl": "ENOMEM", "io_uring_setup": "EPERM"},
}


# Once not handled well, wherever the scenario makes the call.
FOUND = [
    ("watching", "epoll_ctl", "ENOMEM"),
    ("watching", "stat", "EACCES"),
    ("whole_files", "ftruncate", "EINTR"),
]


def test_a_child_that_hangs_holds_nobody_up(faults: Faults) -> None:
    """It has the pipes of the program, which has ended."""
    program = "import os, time; os.fork() or time.sleep(600)"
    status, said, err = faults.finished(begin([sys.executable, "-c", program], "", {}), limit=1)
    assert (status, said, err) == ("no end", [], "")


@pytest.mark.parametrize(("scenario", "call", "error"), FOUND)
def test_calls_that_once_failed_unnoticed(faults: Faults, scenario: str, call: str, error: str) -> None:
    number = faults.count(scenario)[call]
    injections = [{"call": call, "nth": nth, "errno": error, "times": 1} for nth in range(1, number + 1)]
    problems = [str(step) for step in faults.run(scenario, injections) if isinstance(step, Problem)]
    assert injections
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("scenario", "no_ring"),
    [*((name, False) for name in SCENARIOS), ("tcp", True), ("udp", True), ("first_loop", True)],
)
def test_failing_calls(faults: Faults, scenario: str, no_ring: bool) -> None:
    # As a rule containers have no io_uring.
    calls, places = CALLS[scenario], 1 if scenario in FRESH else 3
    faults.no_ring = no_ring
    try:
        counts = faults.count(scenario)
        injections = []
        for call, error in calls.items():
            if call.startswith("io_uring") and (no_ring or call not in counts):
                continue
            # Another kernel or Python version makes fewer calls of a kind.
            number = counts.get(call, 0)
            for nth in {1, number, *(random.randint(1, number) for _ in range(places - 2))} if number else ():
                injections.append({"call": call, "nth": nth, "errno": error, "times": 1})
            if number and error in ("EMFILE", "ENOMEM"):
                injections.append({"call": call, "nth": number, "errno": error, "times": LASTS})
        assert injections
        steps = list(faults.run(scenario, injections))
    finally:
        faults.no_ring = False
    problems = [str(step) for step in steps if isinstance(step, Problem)]
    assert not problems, "\n".join(problems)
    assert sum(step for step in steps if isinstance(step, int)) == len(injections)

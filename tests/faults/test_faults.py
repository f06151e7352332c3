"""A bounded sample of what `make torture` does: for each scenario, failing calls of loopfast and libuv themselves."""

from __future__ import annotations

import random

import pytest
from faults import LASTS, Faults, Problem
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
    "signals": {"socketpair": "EMFILE", "recv": "EINTR", "epoll_wait": "EINTR"},
    "threads": {"pthread_create": "EAGAIN", "epoll_pwait": "EINTR"},
    "sockets": {"recv": "ECONNRESET", "send": "EPIPE", "epoll_ctl": "ENOMEM", "realloc": "ENOMEM"},
    "readers": {"epoll_ctl": "ENOMEM", "epoll_wait": "EBADF", "realloc": "ENOMEM"},
    "fork": {"epoll_create1": "ENOMEM", "pipe2": "ENFILE", "eventfd": "EMFILE"},
    "first_loop": {"pipe2": "EMFILE", "eventfd": "EMFILE", "epoll_ctl": "ENOMEM", "io_uring_setup": "EPERM"},
}


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

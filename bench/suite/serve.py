"""The measured process of a server workload: ``launch.py suite.serve WORKLOAD LOOP ADDRESS``.

ADDRESS is the path of a UNIX socket to be made, or "-". The port (0 for a path) is printed once the server accepts;
the process then serves until it is killed.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import socket
import sys

from .. import loops
from .registry import Workload, load_all
from .worker import REASON

PR_SET_PDEATHSIG = 1


def listen(workload: Workload, address: str) -> tuple[socket.socket, int]:
    """Returns a bound socket of the kind the workload serves on, and its port."""
    if workload.load.protocol == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        port = 0
    else:
        kind = socket.SOCK_DGRAM if workload.load.protocol == "udp" else socket.SOCK_STREAM
        # asyncio turns Nagle's algorithm off on sockets that say they are TCP, as those it makes itself do.
        protocol = socket.IPPROTO_UDP if kind == socket.SOCK_DGRAM else socket.IPPROTO_TCP
        listener = socket.socket(type=kind, proto=protocol)
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    listener.setblocking(False)
    return listener, port


def main(arguments: list[str]) -> None:
    """Serves the workload that the command line names."""
    name, loop_name, address = arguments
    # A server must not outlive the command that measures it, however that ends.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    raise_descriptor_limit()
    workload = load_all()[name]
    try:
        loop = loops.factory(loop_name)()
        listener, port = listen(workload, address)
        _running = loop.run_until_complete(workload.run(loop, listener))
    except Exception as error:  # whatever a loop cannot do is a row of the table, not a traceback
        text = " ".join(str(error).split())
        raise SystemExit(f"{REASON}{type(error).__name__}: {text}".rstrip(": ")) from None
    print(port, flush=True)
    loop.run_forever()


def raise_descriptor_limit() -> None:
    """Allows as many open descriptors as the system lets us: a workload may have a thousand connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The command ``python -m bench.demo``: the application served by loopfast, checked, and set beside the other loops."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench import load, loops, native

NEEDED = ("fastapi", "uvicorn", "httpx", "websockets")
NOTE = """This is a demonstration and not a benchmark: short runs, one route, client and server on one machine. What one
operation costs is counted by `make budget`."""


def say(line: str = "") -> None:
    """Prints `line` at once, so that progress is seen as it is made."""
    print(line, flush=True)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--serve", action="store_true", help="leave the application running, for curl and wrk")
    mode.add_argument("--syscalls", action="store_true", help="count the sends of each request under strace")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on, with --serve (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for a free one, with --serve (default: 8000)")
    parser.add_argument("--loop", choices=loops.NAMES, default="loopfast", help="loop to serve with")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the comparison (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round for each loop (default: 1)")
    parser.add_argument("--connections", type=int, default=32, help="connections of the comparison (default: 32)")
    parser.add_argument("--quick", action="store_true", help="two rounds of a quarter of a second")
    options = parser.parse_args(words)
    if options.quick:
        options.rounds, options.seconds = 2, 0.25
    for name, least in (("rounds", 1), ("connections", 1), ("port", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, not {getattr(options, name)}")
    if options.port > 65535:
        parser.error(f"--port must be at most 65535, not {options.port}")
    if not options.seconds > 0:
        parser.error(f"--seconds must be above 0, not {options.seconds}")
    return options


async def show_routes(url: str) -> dict[str, str]:
    """Checks every route of the server at `url`, printing each; returns what served it."""
    from bench.demo.check import check_all, served_by

    async for route, seen in check_all(url):
        say(f"  ok  {route:16} {seen}")
    return await served_by(url)


def demonstrate(options: argparse.Namespace) -> int:
    """Serves, checks and compares; returns the exit status."""
    from bench.demo import compare
    from bench.demo.check import CheckFailed
    from bench.demo.server import Server

    begun = time.monotonic()
    # The client's loop first: an interrupt while asyncio makes one is reported from that loop's finaliser.
    with asyncio.Runner() as runner, Server(options.loop) as server:
        runner.get_loop()
        say(f"Serving a FastAPI application:\n  {server.shown_command}")
        say(f"\nTalking to {server.url} with httpx and websockets:")
        served = runner.run(show_routes(server.url))
        if served["loop"].partition(".")[0] != options.loop:
            raise CheckFailed(f"uvicorn was told to use {options.loop}, but runs on {served['loop']}")
        server.stop()
    say("\nServed by:")
    for what, value in served.items():
        say(f"  {what:7} {value}")
    say(f"\nGET /json over {options.connections} kept-alive connections, each loop in turn:")
    try:
        grid = compare.throughput(options.rounds, options.seconds, options.connections, say)
    except native.Unavailable as error:
        say(f"  no comparison here: {error}")
    else:
        say(f"\n{grid}\n\n{NOTE}")
    say(f"\nDone in {time.monotonic() - begun:.0f} s; every route answered right on {served['loop']}.")
    return 0


def count_sends(options: argparse.Namespace) -> int:
    """Counts sends per request on every loop; returns the exit status."""
    from bench.demo import compare

    say("System calls that send to the client, per GET /json, under uvicorn:")
    grid = compare.sends(200 if options.quick else 1000, min(options.connections, 10), say)
    say(f"\n{grid}")
    return 0


def serve(options: argparse.Namespace) -> int:
    """Serves until Ctrl+C; returns the exit status."""
    import uvicorn

    from bench.demo.server import UVICORN_LOOPS

    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # the socket module repeats the address there
        print(f"bench.demo: cannot serve on {options.host} port {options.port}: {reason}", file=sys.stderr)
        return 1
    with listener:
        host = f"[{options.host}]" if ":" in options.host else options.host
        url = f"http://{host}:{listener.getsockname()[1]}"
        say(f"""Serving on {url} with {loops.version(options.loop)}; Ctrl+C ends it. Try in another terminal:
  curl {url}/served-by
  curl {url}/json
  curl {url}/orders -H 'content-type: application/json' -d '{{"item": "lamp", "quantity": 3, "price": 9.5}}'
  curl -N '{url}/stream?lines=10'
  curl -X PUT {url}/jobs/one; curl {url}/jobs/one
  python -m websockets {url.replace("http", "ws", 1)}/echo
  wrk -c 32 -t 1 -d 5 --latency {url}/json
  the documentation of all routes: {url}/docs
""")
        config = uvicorn.Config("bench.demo.app:app", loop=UVICORN_LOOPS[options.loop], access_log=False)
        server = uvicorn.Server(config)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return 0  # uvicorn has shut down in order and then passes the interrupt on
        return 0 if server.started else 1


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command with `words` (default: the process's own); returns the exit status."""
    options = arguments(words)
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        print(f"bench.demo: {', '.join(absent)} not installed: pip install 'loopfast[demo]'", file=sys.stderr)
        return 1
    if reason := loops.missing(options.loop):
        print(f"bench.demo: {options.loop} cannot be used: {reason}", file=sys.stderr)
        return 1
    if options.serve:
        return serve(options)

    from bench.demo.check import CheckFailed
    from bench.demo.server import ServerError

    def ended(number: int, _frame: Any) -> None:
        # For Ctrl+C too: asyncio.run() would cancel its task instead, which a client library may report as an error of
        # its own.
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    try:
        return count_sends(options) if options.syscalls else demonstrate(options)
    except (CheckFailed, ServerError, load.LoadError, native.Unavailable) as error:
        print(f"bench.demo: failed: {error}", file=sys.stderr)
    except Exception as error:  # a client's error: the type says as much as the text
        print(f"bench.demo: failed: {type(error).__name__}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nbench.demo: interrupted; the servers have been ended", file=sys.stderr)
        sys.exit(130)

"""Fixtures of the interoperability tests: a certificate, PostgreSQL and Redis, started once, stopped at the end.

What is not installed is skipped with the name of the package; with LOOPFAST_CI in the environment that is a failure.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from programs import Program, command_of, free_port, missing, short_folder
from support import LOCALHOST

# Large packages with an extra of their own, `engines`: their tests exist where they are installed.
collect_ignore = [
    f"test_{name}.py"
    for name, package in {"dask": "distributed", "ray": "ray"}.items()
    if importlib.util.find_spec(package) is None
]

# Seconds for one test: some start half a dozen Python processes on a busy machine.
HANG = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(HANG))
        for category in ("pytest.PytestUnraisableExceptionWarning", "ResourceWarning", "RuntimeWarning"):
            item.add_marker(pytest.mark.filterwarnings(f"error::{category}"), append=False)


@pytest.fixture(autouse=True)
def packages(request: pytest.FixtureRequest) -> None:
    """What the mark names must be installed."""
    for marker in request.node.iter_markers("interop"):
        for name in marker.args:
            if importlib.util.find_spec(name) is None:
                missing(f"module {name}", f"{name} (pip install 'loopfast[interop]')")


# ------------------------------------------------------------------------------------------------------------------ TLS


class Certificate(NamedTuple):
    """A certificate for localhost that signs itself, and its key: files in PEM."""

    cert: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.cert))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extensions = ("subjectAltName=DNS:localhost,IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign")
    command = [command_of("openssl", "openssl"), *words.split(), "-keyout", str(made.key), "-out", str(made.cert)]
    for extension in extensions:
        command += ["-addext", extension]
    subprocess.run(command, check=True, capture_output=True)
    return made


# -------------------------------------------------------------------------------------------------------------- servers


def unprivileged() -> str | None:
    """The account to run a database under: PostgreSQL refuses to be run by root."""
    if os.getuid() != 0:
        return None
    import pwd  # not on Windows, where this file is imported too

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def start_on_free_port(arguments: Any, ready: str, **options: Any) -> tuple[Program, int]:
    """Start the command that *arguments* makes of a port, again with another one where that has just been taken."""
    for attempt in range(3):
        port = free_port()
        program = Program(*arguments(port), **options)
        try:
            program.expect(ready)
        except BaseException:
            program.kill()
            if attempt == 2 or "Address already in use" not in program.output:
                raise
        else:
            return program, port
    raise AssertionError("unreachable")


class Database(NamedTuple):
    """A PostgreSQL server: TCP with and without TLS, and a UNIX socket in `folder`."""

    port: int
    folder: Path
    user: str

    def options(self, **more: Any) -> dict[str, Any]:
        """Arguments of asyncpg.connect()."""
        return {"host": LOCALHOST, "port": self.port, "user": self.user, "database": "postgres", "timeout": 30, **more}


@pytest.fixture(scope="session")
def postgresql(certificate: Certificate) -> Iterator[Database]:
    # Debian keeps the server's commands out of PATH, in a folder per version.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    initdb, postgres = (command_of(name, "postgresql", folders) for name in ("initdb", "postgres"))
    account = unprivileged()
    with short_folder(account) as folder:
        data = folder / "data"
        command = (initdb, "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        with Program(*command, cwd=folder, user=account) as program:
            assert program.ended() == 0, program.output
        for path in certificate:
            shutil.copy(path, folder)
            if account is not None:
                shutil.chown(folder / path.name, account)
            (folder / path.name).chmod(0o600)
        settings = {
            "listen_addresses": LOCALHOST,
            "unix_socket_directories": folder,
            "fsync": "off",
            "max_connections": 50,
            "ssl": "on",
            "ssl_cert_file": folder / certificate.cert.name,
            "ssl_key_file": folder / certificate.key.name,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        program, port = start_on_free_port(
            lambda port: [postgres, "-D", data, "-p", str(port), *options],
            "ready to accept connections",
            cwd=folder,
            user=account,
        )
        with program:
            yield Database(port, folder, "tester")
            # Fast shutdown: ends what a failed test left connected.
            assert program.stop(2) == 0, program.output


class RedisServer(NamedTuple):
    """A Redis server: TCP, TLS where it was built with that, and a UNIX socket."""

    port: int
    unix: str


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    command = command_of("redis-server", "redis-server")
    account = unprivileged()
    with short_folder(account) as folder:
        unix = str(folder / "redis.sock")
        program, port = start_on_free_port(
            lambda port: [command, "--port", str(port), "--bind", LOCALHOST, "--unixsocket", unix, "--save", ""],
            "[Rr]eady to accept connections.*(unix|sock)|The server is now ready to accept connections at",
            cwd=folder,
            user=account,
        )
        with program:
            yield RedisServer(port, unix)
            assert program.stop() == 0, program.output

"""Every example of the documentation runs: programs, commands, servers; what cannot run here is looked at.

A page is a test, with a folder of its own in which its files are kept and its blocks run in order. docs/README.md
describes the comments that say how.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blocks import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Pages whose examples have tests of their own.
ELSEWHERE = {"integrations.md": ROOT / "tests" / "interop" / "test_recipes.py"}
PAGES = sorted(path for path in DOCS.glob("*.md") if path.name not in ("README.md", *ELSEWHERE))
PAGES.append(ROOT / "README.md")
LOCALHOST = "127.0.0.1"
#: The port that examples use; each server gets a free one in its place.
PORT = "8000"
#: Languages whose blocks run. A block of one that is in neither list fails, so that none is forgotten.
SHELL = ("sh", "bash", "shell")
OTHERS = (
    "",
    "text",
    "output",
    "c",
    "cython",
    "toml",
    "ini",
    "dockerfile",
    "json",
    "html",
    "nginx",
    "diff",
    "traceback",
)
#: Seconds for a program to end, or for a server to begin or to end.
PATIENCE = 60

pytestmark = [pytest.mark.interop("fastapi", "uvicorn", "gunicorn", "uvicorn_worker"), pytest.mark.timeout(300)]


def environment() -> dict[str, str]:
    """For programs: this interpreter first, this loopfast, and warnings that asyncio is fond of."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    modules = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    mine = {
        "PATH": path,
        "PYTHONPATH": modules,
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONWARNINGS": "default::ResourceWarning,default::RuntimeWarning",
    }
    return {**os.environ, **mine}


def missing(needs: str) -> list[str]:
    """Return which of the commands or packages in the list *needs* are not here."""
    names = [name.strip() for name in needs.split(",") if name.strip()]
    return [name for name in names if shutil.which(name) is None and importlib.util.find_spec(name) is None]


class Page:
    """Runs the blocks of one page in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = PORT
        #: The files of the page, by name, with the port as it is printed.
        self.files: dict[str, str] = {}
        self.server: subprocess.Popen[bytes] | None = None
        self.server_log = folder / ".server-log"
        self.output: str | None = None
        self.left_out: list[str] = []

    def run(self, block: Block) -> None:
        """Do what the language of *block*, or the comment before it, asks for."""
        how = block.how
        absent = missing(how.get("needs", ""))
        if absent:
            assert not os.environ.get("LOOPFAST_CI"), f"{block} needs {', '.join(absent)}"
            self.left_out.append(f"{block} needs {', '.join(absent)}")
            self.output = None
        elif "quoted from" in how:
            check_quotation(block)
        elif "output" in how:
            self.compare(block)
        elif "not run" in how:
            self.look_at(block)
        elif "file" in how:
            self.keep(block, how["file"])
        elif "server" in how:
            self.serve(block)
        elif "until" in how:
            self.run_until(block)
        elif block.language == "python":
            self.output = self.finish(block, self.python(block))
        elif block.language in SHELL:
            self.output = self.finish(block, ["bash", "-euo", "pipefail", "-c", self.text(block)])
        else:
            known = block.language in OTHERS or block.language.startswith("{")
            assert known, f"{block}: nobody knows what to do with a block of {block.language!r}"

    def text(self, block: Block) -> str:
        return self.with_port(block.text)

    def with_port(self, text: str) -> str:
        return re.sub(rf"\b{PORT}\b", self.port, text)

    def choose_port(self) -> None:
        """Take a free port in the place of the printed one, in the files, too."""
        with socket.socket() as sock:
            sock.bind((LOCALHOST, 0))
            self.port = str(sock.getsockname()[1])
        for name, text in self.files.items():
            (self.folder / name).write_text(self.with_port(text), encoding="utf-8")

    def keep(self, block: Block, name: str, setup: str = "") -> None:
        if name.endswith(".py"):
            compile(block.text, f"{block} {name}", "exec")
        self.files[name] = f"{setup}\n{block.text}" if setup else block.text
        (self.folder / name).write_text(self.with_port(self.files[name]), encoding="utf-8")

    def python(self, block: Block) -> list[str]:
        """The command for a program, which is a file, as many start processes that import it."""
        name = block.how.get("server") or f"example_{block.line}.py"
        if "inside" in block.how:
            block = dataclasses.replace(block, text=COROUTINE.format(textwrap.indent(block.text, "    ")))
        self.keep(block, name, block.how.get("setup", ""))
        return [sys.executable, name]

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )

    def finish(self, block: Block, command: list[str]) -> str:
        """Run *command* to a good end and return what it printed."""
        with self.start(command, stdout=subprocess.PIPE, text=True) as process, whole_group(process):
            output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, f"{block} ended with status {process.returncode}\n{output}"
        assert "Traceback" not in output, f"{block}\n{output}"
        return output

    def compare(self, block: Block) -> None:
        """Compare what the block before has printed; with that block left out there is nothing to compare."""
        if self.output is not None:
            pattern = ".*".join(re.escape(piece.strip(" ")) for piece in self.text(block).strip().split("..."))
            found = re.fullmatch(pattern, self.output.strip(), re.DOTALL)
            assert found, f"{block} says\n{block.text}\nbut it is\n{self.output}"

    # ------------------------------------------------------------------------------------------------------- servers

    def serve(self, block: Block) -> None:
        """Start a server that goes on until the next one starts or the page ends."""
        self.stop()
        self.choose_port()
        if block.language == "python":
            command = self.python(block)
        else:
            lines = self.text(block).strip()
            assert "\n" not in lines, f"{block}: a server is one command"
            command = ["bash", "-c", f"exec {lines}"]
        self.begin(block, command, unix=re.search(r"--uds (\S+)", block.text))

    def begin(self, block: Block, command: list[str], unix: re.Match[str] | None = None) -> None:
        with self.server_log.open("wb") as log:
            self.server = self.start(command, stdout=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            family, address = socket.AF_INET, (LOCALHOST, int(self.port))
            with socket.socket(socket.AF_UNIX if unix else family) as sock, contextlib.suppress(OSError):
                # Relative: the folder's own name may be too long for a socket.
                sock.connect(os.path.relpath(self.folder / unix[1]) if unix else address)
                return
            log_text = self.server_log.read_text(errors="replace")
            assert self.server.poll() is None, f"{block} ended with {self.server.returncode}\n{log_text}"
            assert time.monotonic() < deadline, f"{block} accepts no connections\n{log_text}"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server as service managers do; it must obey."""
        server, self.server = self.server, None
        if server is not None:
            with whole_group(server):
                server.send_signal(signal.SIGTERM)
                status = server.wait(PATIENCE)
            log = self.server_log.read_text(errors="replace")
            assert status in (0, -signal.SIGTERM), f"a server ended with status {status}\n{log}"
            assert "Traceback" not in log, log

    def run_until(self, block: Block) -> None:
        """Start a program without an end, do what `meanwhile` says until it prints what is expected, interrupt it."""
        file = self.folder / ".program-log"
        with file.open("wb") as log:
            process = self.start(self.python(block), stdout=log)
        deadline = time.monotonic() + PATIENCE
        with whole_group(process):
            while block.how["until"] not in (text := file.read_text(errors="replace")):
                assert process.poll() is None, f"{block} ended with {process.returncode}\n{text}"
                assert time.monotonic() < deadline, f"{block} has not printed {block.how['until']!r}\n{text}"
                subprocess.run(["bash", "-c", block.how.get("meanwhile", ":")], cwd=self.folder, check=True)
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) in (-signal.SIGINT, 130), f"{block} was not interrupted"

    # ------------------------------------------------------------------------------------------------ what cannot run

    def look_at(self, block: Block) -> None:
        """Check the syntax of what is not run."""
        assert block.how["not run"], f"{block}: say why it is not run"
        self.output = None
        name = block.how.get("file", "")
        if block.language == "python":
            compile(block.text, str(block), "exec")
        elif block.language in SHELL:
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        elif name.endswith((".service", ".socket")):
            self.verify_unit(block, name)
        elif name == "Dockerfile":
            self.check_dockerfile(block)
        else:
            raise AssertionError(f"{block}: nobody knows how to look at this")

    def verify_unit(self, block: Block, name: str) -> None:
        """Have systemd read a unit, with this interpreter's commands in the place of those in /opt."""
        units = self.folder / "units"
        units.mkdir(exist_ok=True)
        text = block.text.replace("/opt/app/.venv/bin", os.path.dirname(sys.executable))
        (units / name).write_text(text)
        if name.endswith(".socket"):
            # Complete without its service, which comes later on the page.
            service = (units / name).with_suffix(".service")
            service.write_text("[Service]\nExecStart=/bin/true\n")
        if absent := missing("systemd-analyze"):
            self.left_out.append(f"{block} is verified by {absent[0]}")
            return
        command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(units / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0 and name not in done.stderr, f"{block}\n{done.stderr}"

    def check_dockerfile(self, block: Block) -> None:
        """Check each instruction, then start what the container would."""
        stages: list[str] = []
        command: list[str] = []
        lines = re.sub(r"\\\n", " ", block.text).splitlines()
        instructions = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
        assert instructions[0][0] == "FROM", f"{block}: an image is made from another"
        for word, rest in instructions:
            assert word in DOCKERFILE, f"{block}: {word} is no instruction"
            if word == "FROM" and (stage := re.search(r" AS (\S+)$", rest)):
                stages.append(stage[1])
            if source := re.search(r"--from=(\S+)", rest):
                assert word == "COPY" and source[1] in stages, f"{block}: there is no stage {source[1]}"
            elif word == "COPY":
                path = rest.split()[0]
                assert path == "loopfast/" or (self.folder / path).exists(), f"{block}: the page has no {path}"
            if word in ("CMD", "ENTRYPOINT"):
                command = json.loads(rest)
        self.stop()
        self.choose_port()
        self.begin(block, [word if word != PORT else self.port for word in command])


#: Around a block that is a part of a coroutine.
COROUTINE = """import asyncio
import loopfast
async def main():
    loop = asyncio.get_running_loop()
{}
loopfast.run(main())
"""
DOCKERFILE = "FROM RUN COPY USER WORKDIR EXPOSE CMD ENTRYPOINT ENV ARG LABEL HEALTHCHECK STOPSIGNAL VOLUME".split()


def check_quotation(block: Block) -> None:
    """Every line of *block* is in the file it names."""
    source = (ROOT / block.how["quoted from"]).read_text(encoding="utf-8").splitlines()
    absent = [line for line in block.text.rstrip("\n").removesuffix(" ...").splitlines() if line not in source]
    assert not absent, f"{block}: {block.how['quoted from']} has no such lines: {absent}"


@contextlib.contextmanager
def whole_group(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Leave nothing of *process* and its children behind."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_page_that_is_not_run_here_is_run_elsewhere(name: str) -> None:
    assert not (DOCS / name).exists() or f'"{name}"' in ELSEWHERE[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_page(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lf-docs-") as folder:
        page = Page(Path(folder))
        try:
            for block in blocks(path):
                page.run(block)
            page.stop()
        finally:
            if page.server is not None:
                with whole_group(page.server):
                    pass
    if page.left_out:
        pytest.skip(f"all but: {'; '.join(page.left_out)}")

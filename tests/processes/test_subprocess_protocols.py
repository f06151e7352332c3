"""loop.subprocess_exec() and subprocess_shell(): which callbacks come in which order, and what the transport tells."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import os
import signal
import subprocess
import sys
import warnings

import pytest
from support import settle, until

DEVNULL, PIPE = subprocess.DEVNULL, subprocess.PIPE


class Recorder(asyncio.SubprocessProtocol):
    """Records the callbacks: pieces of data next to each other as one."""

    def __init__(self, loop=None):
        loop = loop or asyncio.get_running_loop()
        self.events = []
        self.data = {1: bytearray(), 2: bytearray()}
        self.exited = loop.create_future()
        self.lost = loop.create_future()
        self.transport = None

    def connection_made(self, transport):
        self.events.append("made")
        self.transport = transport

    def pipe_data_received(self, fd, data):
        assert type(data) is bytes and data
        if f"data {fd}" not in self.events:
            self.events.append(f"data {fd}")
        # Nothing comes after the end.
        assert not any(str(event).startswith(f"lost {fd}") for event in self.events)
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.events.append(f"lost {fd} {type(exc).__name__}")

    def process_exited(self):
        self.events.append("exited")
        if not self.exited.done():
            self.exited.set_result(self.transport.get_returncode())

    def connection_lost(self, exc):
        self.events.append("lost")
        if not self.lost.done():
            self.lost.set_result(exc)

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")


@contextlib.asynccontextmanager
async def child(*command, protocol=Recorder, **options):
    transport, proto = await asyncio.get_running_loop().subprocess_exec(protocol, *command, **options)
    try:
        yield transport, proto
    finally:
        transport.close()
        with contextlib.suppress(BaseException):
            await proto.lost
        await settle()


def shell(command, **options):
    return child("/bin/sh", "-c", command, **options)


async def test_the_life_of_a_child(loop):
    async with shell("cat; echo error >&2; exit 3") as (transport, protocol):
        assert protocol.events == ["made"]
        assert protocol.transport is transport
        transport.get_pipe_transport(0).write(b"input")
        transport.get_pipe_transport(0).close()
        assert await protocol.lost is None
        assert protocol.data == {1: b"input", 2: b"error\n"}
        assert await protocol.exited == 3
        assert protocol.events[0] == "made" and protocol.events[-1] == "lost"
        assert sorted(protocol.events[1:-1]) == [
            "data 1",
            "data 2",
            "exited",
            "lost 0 NoneType",
            "lost 1 NoneType",
            "lost 2 NoneType",
        ]


async def test_a_child_without_pipes(loop):
    async with shell("exit 0", stdin=None, stdout=DEVNULL, stderr=DEVNULL) as (transport, protocol):
        assert [transport.get_pipe_transport(fd) for fd in (0, 1, 2)] == [None] * 3
        assert await protocol.lost is None
        assert protocol.events == ["made", "exited", "lost"]


async def test_the_default_is_pipes(loop):
    async with shell("cat") as (transport, _):
        assert isinstance(transport.get_pipe_transport(0), asyncio.WriteTransport)
        assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
        assert isinstance(transport.get_pipe_transport(2), asyncio.ReadTransport)
        assert transport.get_pipe_transport(3) is None


async def test_subprocess_shell(loop):
    transport, protocol = await loop.subprocess_shell(Recorder, "echo $((40 + 2))")
    assert await protocol.lost is None
    assert protocol.data[1] == b"42\n"
    transport.close()


async def test_what_the_transport_tells(loop):
    async with shell("exec cat") as (transport, protocol):
        assert isinstance(transport, asyncio.SubprocessTransport)
        popen = transport.get_extra_info("subprocess")
        assert isinstance(popen, subprocess.Popen)
        assert popen.pid == transport.get_pid()
        assert popen.args == ("/bin/sh", "-c", "exec cat")
        assert popen.returncode is None and transport.get_returncode() is None
        assert popen.stdin is transport.get_pipe_transport(0).get_extra_info("pipe")
        assert transport.get_extra_info("nothing", 5) == 5
        assert transport.get_protocol() is protocol and not transport.is_closing()
        assert f"pid={popen.pid}" in repr(transport) and "running" in repr(transport)
        transport.get_pipe_transport(0).close()
        await protocol.lost
        assert transport.get_returncode() == 0 == popen.returncode
        assert transport.get_pid() == popen.pid
        assert "returncode=0" in repr(transport)


async def test_the_program_ends_before_its_output(loop):
    """process_exited() comes with the exit; connection_lost() waits for the pipes."""
    reader, writer = os.pipe()
    async with shell("exec 3<&0; cat <&3 &", stdin=reader, stderr=None) as (_, protocol):
        os.close(reader)
        assert await protocol.exited == 0
        await settle()
        assert protocol.events == ["made", "exited"]
        os.write(writer, b"late")
        os.close(writer)
        await protocol.lost
        assert protocol.events == ["made", "exited", "data 1", "lost 1 NoneType", "lost"]


async def test_the_output_ends_before_the_program(loop):
    async with shell("exec >&-; read line", stderr=None) as (transport, protocol):
        await until(lambda: "lost 1 NoneType" in protocol.events)
        assert protocol.events == ["made", "lost 1 NoneType"]
        transport.get_pipe_transport(0).close()
        await protocol.lost
        assert protocol.events[-1] == "lost" and set(protocol.events[2:-1]) == {"lost 0 NoneType", "exited"}


async def test_flow_control_of_the_input(loop):
    async with shell("read line; cat >/dev/null", stdout=None, stderr=None) as (transport, protocol):
        pipe = transport.get_pipe_transport(0)
        pipe.write(bytes(1_000_000))
        assert protocol.events == ["made", "pause"]
        pipe.write(b"\n")
        await until(lambda: "resume" in protocol.events)
        pipe.write_eof()
        await protocol.lost
        assert protocol.events[:3] == ["made", "pause", "resume"]


async def test_the_child_closes_its_input(loop):
    async with shell("read line; exec <&-; sleep 1000", stdout=None, stderr=None) as (transport, protocol):
        transport.get_pipe_transport(0).write(b"line\n" + bytes(1_000_000))
        await until(lambda: protocol.events[-1].startswith("lost 0"))
        assert protocol.events == ["made", "pause", "lost 0 BrokenPipeError"]
        transport.kill()
        await protocol.lost
        assert transport.get_returncode() == -signal.SIGKILL


async def test_reading_can_be_paused(loop):
    async with shell("echo first; read line; echo second", stderr=None) as (transport, protocol):
        await until(lambda: protocol.data[1] == b"first\n")
        pipe = transport.get_pipe_transport(1)
        pipe.pause_reading()
        transport.get_pipe_transport(0).write(b"\n")
        assert await protocol.exited == 0
        await settle()
        assert protocol.data[1] == b"first\n" and not protocol.lost.done()
        pipe.resume_reading()
        await protocol.lost
        assert protocol.data[1] == b"first\nsecond\n"


async def test_close_kills(loop):
    async with shell("exec sleep 1000") as (transport, protocol):
        transport.close()
        assert transport.is_closing()
        transport.close()
        assert await protocol.exited == -signal.SIGKILL
        assert await protocol.lost is None
        assert [event for event in protocol.events if event.startswith("lost ")] == [
            f"lost {fd} NoneType" for fd in (0, 1, 2)
        ]
        transport.close()
        assert "closed" in repr(transport)


async def test_close_after_the_exit(loop):
    async with shell("exit 5") as (transport, protocol):
        await protocol.lost
        transport.close()
        assert transport.get_returncode() == 5
        for method in (transport.kill, transport.terminate, lambda: transport.send_signal(signal.SIGINT)):
            with pytest.raises(ProcessLookupError):
                method()


async def test_close_inside_callbacks(loop):
    class Protocol(Recorder):
        def pipe_data_received(self, fd, data):
            super().pipe_data_received(fd, data)
            self.transport.close()

    async with shell("echo x; exec sleep 1000", protocol=Protocol) as (transport, protocol):
        await protocol.lost
        assert transport.get_returncode() == -signal.SIGKILL
        assert protocol.events[:2] == ["made", "data 1"]


async def test_debug_mode_logs(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 100
    with caplog.at_level(logging.DEBUG, "asyncio"):
        async with shell("exit 5", stderr=subprocess.STDOUT) as (transport, protocol):
            await protocol.lost
            pid = transport.get_pid()
        shell_transport, later = await loop.subprocess_shell(Recorder, "exec sleep 1000", stdout=DEVNULL)
        shell_transport.close()
        await later.lost
    loop.set_debug(False)
    # Arguments may be secrets: only the program is logged, but a shell's command is.
    for message in (
        "execute program '/bin/sh' stdin=<pipe> stdout=stderr=<pipe>",
        f"process '/bin/sh' created: pid {pid}",
        "exited with return code 5",
        "run shell command 'exec sleep 1000' stdin=<pipe> stdout=-3 stderr=<pipe>",
        "Close running child process: kill",
    ):
        assert message in caplog.text
    assert "exit 5" not in caplog.text


CALLBACKS = ["connection_made", "pipe_data_received", "pipe_connection_lost", "process_exited", "connection_lost"]


@pytest.mark.parametrize("name", CALLBACKS)
async def test_exceptions_in_callbacks_are_reported(loop, reports, name):
    def method(self, *arguments):
        getattr(Recorder, name)(self, *arguments)
        raise ZeroDivisionError(name)

    protocol = type("Protocol", (Recorder,), {name: method})
    async with shell("echo x", protocol=protocol, stdin=None, stderr=None) as (transport, protocol):
        assert await protocol.lost is None
        assert protocol.data[1] == b"x\n" and transport.get_returncode() == 0
        await settle()
        context = reports.take()
        assert context["message"].startswith("Exception in callback")
        assert str(context["exception"]) == name


async def test_set_protocol(loop):
    async with shell("read line; echo text", stderr=None) as (transport, protocol):
        later = Recorder()
        later.transport = transport
        transport.set_protocol(later)
        assert transport.get_protocol() is later
        transport.get_pipe_transport(0).write(b"\n")
        assert await later.exited == 0
        await later.lost
        assert later.data[1] == b"text\n"
        assert protocol.events == ["made"]
        protocol.lost.cancel()


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio 3.11 waits in threads, which have contexts of their own"
)
async def test_contexts_of_callbacks(loop):
    variable = contextvars.ContextVar("variable", default=None)
    seen = {}

    def method(name):
        def call(self, *arguments):
            seen.setdefault(name, variable.get())
            variable.set(name)
            return getattr(Recorder, name)(self, *arguments)

        return call

    variable.set("creator")
    async with shell("echo x", protocol=type("Protocol", (Recorder,), {name: method(name) for name in CALLBACKS})) as (
        _,
        protocol,
    ):
        variable.set("later")
        await protocol.lost
        assert seen == dict.fromkeys(CALLBACKS, "creator")


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_a_transport_nobody_closed(loop_factory):
    loop = loop_factory()

    async def start():
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, "/bin/sleep", "1000", stdin=None, stdout=None, stderr=None
        )
        pid = transport.get_pid()
        # The loop waits for the child and holds the transport: as long as it does, nothing happens.
        gc.collect()
        os.kill(pid, 0)
        assert transport.get_returncode() is None
        return transport, pid

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        transport, pid = loop.run_until_complete(start())
        transport.__del__()
        assert transport.is_closing()
        assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == [
            f"unclosed transport <{type(transport).__name__} pid={pid} running>"
        ]
    assert loop.run_until_complete(transport._wait()) == -signal.SIGKILL
    loop.run_until_complete(settle())
    loop.close()


async def test_a_closed_transport_does_not_warn(loop, recwarn):
    async with shell("exit 0") as (transport, protocol):
        await protocol.lost
        transport.close()
    protocol.transport = None
    del transport, protocol
    gc.collect()
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]

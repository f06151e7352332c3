"""What a child is started with: every keyword of Popen, those that are refused, and what cannot be started."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import fcntl
import gc
import os
import pathlib
import pwd
import re
import signal
import socket
import subprocess
import sys
import types

import pytest
from support import open_descriptors, run_program, settle

PIPE, STDOUT, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT, asyncio.subprocess.DEVNULL
PYTHON = (sys.executable, "-I", "-S", "-c")
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root may do so")
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")

create = asyncio.create_subprocess_exec


async def output(*command, **options):
    """Return what a child prints that ends well."""
    process = await create(*command, stdout=PIPE, **options)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def shell_output(command, **options):
    return await output("/bin/sh", "-c", command, **options)


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "path"])
async def test_kinds_of_arguments(loop, kind):
    assert await output(kind("/bin/echo"), kind("one"), kind("two words"), kind("*")) == "one two words *\n"


async def test_arguments_are_passed_as_they_are(loop):
    arguments = ["", " ", "a'b\"c", "\u2603", "\udc80", "$HOME", "-n", "\n", "x" * 100_000]
    code = "import sys, os; os.write(1, b'\\0'.join(os.fsencode(a) for a in sys.argv[1:]))"
    process = await create(*PYTHON, code, *arguments, stdout=PIPE)
    out, _ = await process.communicate()
    assert out.split(b"\0") == [os.fsencode(argument) for argument in arguments]


async def test_the_program_is_looked_for_in_the_path(loop, tmp_path):
    script = tmp_path / "some-program"
    script.write_text("#!/bin/sh\necho found\n")
    script.chmod(0o755)
    # As with Popen: the path of the environment that the child gets.
    assert await output("some-program", env={"PATH": str(tmp_path)}) == "found\n"


async def test_the_shell(loop):
    for command in ("echo $((1 + 2)) | cat; echo 'a  b'", b"echo 3; echo 'a  b'"):
        process = await asyncio.create_subprocess_shell(command, stdout=PIPE)
        assert await process.communicate() == (b"3\na  b\n", None)
    process = await asyncio.create_subprocess_shell("exit 7")
    assert await process.wait() == 7
    process = await asyncio.create_subprocess_shell("no-such-program-anywhere", stderr=DEVNULL)
    assert await process.wait() == 127
    process = await asyncio.create_subprocess_shell("echo $0", executable="/bin/sh", stdout=PIPE)
    assert (await process.communicate())[0] == b"/bin/sh\n"


async def test_executable(loop):
    assert await output("another-name", "-c", "echo $0", executable="/bin/sh") == "another-name\n"


# ---------------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "path"])
async def test_cwd(loop, tmp_path, kind):
    assert await shell_output("pwd -P", cwd=kind(tmp_path)) == f"{tmp_path.resolve()}\n"


@pytest.mark.parametrize(
    "kind",
    [dict, types.MappingProxyType, collections.UserDict, collections.ChainMap, collections.OrderedDict],
    ids=lambda kind: kind.__name__,
)
async def test_env_is_any_mapping(loop, kind):
    env = kind({"FIRST": "one", "SECOND": "\u2603"})
    out = await output("/usr/bin/env", env=env)
    assert sorted(out.split()) == ["FIRST=one", "SECOND=\u2603"]


async def test_env_of_bytes_empty_and_inherited(loop, monkeypatch):
    assert await output("/usr/bin/env", env={b"A": b"\xc3\xa9", "B": pathlib.Path("/x")}) == "A=\xe9\nB=/x\n"
    assert await output("/usr/bin/env", env={}) == ""
    monkeypatch.setenv("LOOPFAST_TEST", "inherited")
    assert "LOOPFAST_TEST=inherited\n" in await output("/usr/bin/env")
    assert "LOOPFAST_TEST=inherited\n" in await output("/usr/bin/env", env=None)
    assert "LOOPFAST_TEST=inherited\n" in await output("/usr/bin/env", env=os.environ)


async def test_umask(loop):
    assert int(await shell_output("umask", umask=0o027), 8) == 0o027
    mine = os.umask(0o077)
    os.umask(mine)
    assert int(await shell_output("umask", umask=-1), 8) == mine


async def test_preexec_fn(loop):
    reader, writer = os.pipe()
    assert await shell_output("pwd", preexec_fn=lambda: (os.write(writer, b"child"), os.chdir("/"))) == "/\n"
    assert os.read(reader, 10) == b"child"
    os.close(reader)
    os.close(writer)


async def test_an_exception_in_preexec_fn(loop):
    with pytest.raises(subprocess.SubprocessError, match="Exception occurred in preexec_fn"):
        await create("true", preexec_fn=lambda: 1 / 0)


async def test_start_new_session_and_process_group(loop):
    code = "import os; print(os.getpid() == os.getsid(0), os.getpgrp() == os.getpid(), os.getpgrp())"
    assert (await output(*PYTHON, code)).split()[:2] == ["False", "False"]
    assert (await output(*PYTHON, code, start_new_session=True)).split()[:2] == ["True", "True"]
    assert (await output(*PYTHON, code, process_group=0)).split()[:2] == ["False", "True"]
    assert (await output(*PYTHON, code, process_group=os.getpgrp())).split()[2] == str(os.getpgrp())
    # -1 means none.
    assert (await output(*PYTHON, code, process_group=None)).split()[2] == str(os.getpgrp())


@needs_proc
@pytest.mark.parametrize("restore", [True, False])
async def test_restore_signals(loop, restore):
    out = await output("/bin/cat", "/proc/self/status", restore_signals=restore)
    ignored = int(re.search(r"SigIgn:\s*(\w+)", out)[1], 16)
    # The interpreter ignores it.
    assert bool(ignored & 1 << (signal.SIGPIPE - 1)) is not restore


@needs_proc
async def test_no_signal_is_blocked_in_the_child(loop):
    out = await output("/bin/cat", "/proc/self/status")
    assert int(re.search(r"SigBlk:\s*(\w+)", out)[1], 16) == 0


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="the size of pipes is fixed")
@pytest.mark.parametrize("size", [4096, 262144])
async def test_pipesize(loop, size):
    process = await create("/bin/cat", stdin=PIPE, stdout=PIPE, pipesize=size)
    transport = process._transport
    for fd in (0, 1):
        pipe = transport.get_pipe_transport(fd).get_extra_info("pipe")
        assert fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ) == size
    assert await process.communicate(b"x" * 100) == (b"x" * 100, None)


# ----------------------------------------------------------------------------------------------------------------- user


async def test_ones_own_user_and_group(loop):
    user = pwd.getpwuid(os.getuid()).pw_name
    for options in ({"user": os.getuid()}, {"user": user}, {"group": os.getgid()}):
        assert await shell_output("id -u; id -g", **options) == f"{os.getuid()}\n{os.getgid()}\n"


@needs_root
async def test_another_user_and_group(loop):
    options = {"user": 65534, "group": 65533, "extra_groups": [65532, 65531]}
    user, group, *groups = (await shell_output("id -u; id -g; id -G", **options)).split()
    assert (user, group, sorted(groups)) == ("65534", "65533", ["65531", "65532", "65533"])
    assert await shell_output("id -u", user="nobody") == f"{pwd.getpwnam('nobody').pw_uid}\n"
    assert await shell_output("id -G", extra_groups=[]) == f"{os.getgid()}\n"


@pytest.mark.parametrize("option", [{"user": 0}, {"group": 0}, {"extra_groups": [0]}], ids=repr)
def test_what_only_root_may_do(loop_kind, option):
    out = run_program(
        loop_kind,
        f"""
        async def main():
            # Loads what the second one needs too: nobody may not be able to read it.
            await (await asyncio.create_subprocess_exec("true")).wait()
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            try:
                await asyncio.create_subprocess_exec("true", **{option!r})
            except PermissionError:
                print("refused")
        run(main())
        """,
    )
    assert out == "refused\n"


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"user": "no-such-user"}, KeyError),
        ({"user": -1}, ValueError),
        ({"user": 1.5}, TypeError),
        ({"group": "no-such-group"}, KeyError),
        ({"group": -1}, ValueError),
        ({"group": []}, TypeError),
        ({"extra_groups": "text"}, ValueError),
        ({"extra_groups": ["no-such-group"]}, KeyError),
        ({"extra_groups": [-1]}, ValueError),
    ],
    ids=repr,
)
async def test_users_that_do_not_exist(loop, option, error):
    with pytest.raises(error):
        await create("true", **option)


# ---------------------------------------------------------------------------------------------------------- descriptors

LIST = "import os; print(*[fd for fd in range(200) if os.path.exists(f'/proc/self/fd/{fd}')])"


@contextlib.contextmanager
def inheritable_descriptor():
    """A descriptor that every child gets that closes nothing, and a socket that must not be one."""
    with socket.socket() as sock:
        fd = os.dup(sock.fileno())
        os.set_inheritable(fd, True)
        try:
            yield fd
        finally:
            os.close(fd)


@needs_proc
@pytest.mark.parametrize("stdin", [None, PIPE, DEVNULL])
@pytest.mark.parametrize("passed", [False, True])
async def test_what_is_open_in_the_child(loop, stdin, passed):
    with inheritable_descriptor() as inheritable, socket.socket() as private:
        options = {"pass_fds": [private.fileno()]} if passed else {}
        # The shell would close nothing of its own, but list its listing.
        process = await create(*PYTHON, LIST, stdin=stdin, stdout=PIPE, stderr=PIPE, **options)
        out, err = await process.communicate()
        assert err == b"" and inheritable not in map(int, out.split())
        assert list(map(int, out.split())) == sorted([0, 1, 2, *([private.fileno()] if passed else [])])
        # It is so in the child alone.
        assert not private.get_inheritable()


@needs_proc
async def test_close_fds_false(loop):
    with inheritable_descriptor() as inheritable, socket.socket() as private:
        found = set(map(int, (await output(*PYTHON, LIST, close_fds=False)).split()))
        assert inheritable in found and private.fileno() not in found
        with pytest.warns(RuntimeWarning, match="pass_fds overriding close_fds"):
            found = await output(*PYTHON, LIST, close_fds=False, pass_fds=[private.fileno()])
        assert set(map(int, found.split())) == {0, 1, 2, private.fileno()}


@needs_proc
async def test_many_children_at_once_do_not_inherit_from_each_other(loop):
    processes = [await create(*PYTHON, LIST, stdin=PIPE, stdout=PIPE, stderr=PIPE) for _ in range(10)]
    results = await asyncio.gather(*(process.communicate() for process in processes))
    assert set(results) == {(b"0 1 2\n", b"")}


@needs_proc
async def test_a_child_can_open_dev_stdin(loop):
    process = await create("/bin/cat", "/dev/stdin", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(b"through the file system") == (b"through the file system", None)
    process = await asyncio.create_subprocess_shell(
        "echo text > /dev/stdout; echo error > /dev/stderr", stdout=PIPE, stderr=PIPE
    )
    assert await process.communicate() == (b"text\n", b"error\n")


async def test_the_ends_of_the_child_are_blocking(loop):
    code = "import os; print([os.get_blocking(fd) for fd in (0, 1, 2)])"
    process = await create(*PYTHON, code, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert await process.communicate() == (b"[True, True, True]\n", b"")


async def test_files_as_standard_streams(loop, tmp_path):
    (tmp_path / "in").write_text("from a file")
    with open(tmp_path / "in") as source, open(tmp_path / "out", "wb") as target:
        process = await create("/bin/cat", stdin=source, stdout=target)
        assert process.stdin is process.stdout is process.stderr is None
        assert await process.communicate() == (None, None)
        assert process.returncode == 0
        # Still open here.
        target.write(b" and more")
    assert (tmp_path / "out").read_text() == "from a file and more"


async def test_numbers_as_standard_streams(loop):
    reader, writer = os.pipe()
    process = await create("/bin/sh", "-c", "echo out; echo err >&2", stdout=writer, stderr=writer, stdin=DEVNULL)
    os.close(writer)
    assert await process.wait() == 0
    assert os.read(reader, 100) == b"out\nerr\n"
    os.close(reader)


async def test_sockets_as_standard_streams(loop):
    one, other = socket.socketpair()
    with one, other:
        process = await create("/bin/cat", stdin=other, stdout=other)
        other.close()
        one.sendall(b"through a socket")
        one.shutdown(socket.SHUT_WR)
        assert await process.wait() == 0
        assert one.recv(100) == b"through a socket"


async def test_stderr_to_stdout_and_devnull(loop):
    command = ("/bin/sh", "-c", "echo 1; echo 2 >&2; echo 3; cat")
    process = await create(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    assert process.stderr is None
    assert await process.communicate() == (b"1\n2\n3\n", None)
    process = await create(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    assert await process.communicate() == (None, b"2\n")


async def test_swapped_standard_streams(loop):
    """Descriptors 1 and 2 of the parent as 2 and 1 of the child."""
    one, two = os.pipe(), os.pipe()
    saved = [os.dup(1), os.dup(2)]
    sys.stdout.flush()
    try:
        os.dup2(one[1], 1)
        os.dup2(two[1], 2)
        process = await create("/bin/sh", "-c", "echo out; echo err >&2", stdout=2, stderr=1)
    finally:
        for number, fd in zip((1, 2), saved, strict=True):
            os.dup2(fd, number)
            os.close(fd)
    assert await process.wait() == 0
    assert os.read(one[0], 100) == b"err\n" and os.read(two[0], 100) == b"out\n"
    for fd in (*one, *two):
        os.close(fd)


def test_standard_streams_are_inherited(loop_kind):
    out = run_program(
        loop_kind,
        """
        async def main():
            process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "echo from the child")
            print(await process.wait())
        run(main())
        """,
    )
    assert out == "from the child\n0\n"


def test_with_the_standard_streams_closed(loop_kind):
    """The pipes of a child may then get the numbers 0, 1 and 2."""
    out = run_program(
        loop_kind,
        """
        PIPE = asyncio.subprocess.PIPE
        async def main():
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", "cat; echo error >&2", stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
            return await process.communicate(b"data")
        saved = os.dup(1)
        os.set_inheritable(saved, False)
        for fd in (0, 1, 2):
            os.close(fd)
        result = run(main())
        os.write(saved, repr(result).encode())
        os._exit(0)
        """,
    )
    assert out == "(b'data', b'error\\n')"


# -------------------------------------------------------------------------------------------------------------- refused

REFUSED = [
    ({"universal_newlines": True}, "universal_newlines must be False"),
    ({"text": True}, "text must be False"),
    ({"encoding": "utf-8"}, "encoding must be None"),
    ({"errors": "strict"}, "errors must be None"),
    ({"bufsize": 1}, "bufsize must be 0"),
    ({"bufsize": -1}, "bufsize must be 0"),
]


@pytest.mark.parametrize("interface", ["streams", "protocols"])
@pytest.mark.parametrize("how", ["exec", "shell"])
@pytest.mark.parametrize(("option", "message"), [*REFUSED, ({"shell": None}, None)], ids=repr)
async def test_refused_keywords(loop, interface, how, option, message):
    if message is None:
        option = {"shell": how == "exec"}
        message = f"shell must be {how == 'shell'}"
    before = open_descriptors()
    with pytest.raises(ValueError, match=f"^{message}$"):
        if interface == "streams":
            await getattr(asyncio, f"create_subprocess_{how}")("true", **option)
        else:
            await getattr(loop, f"subprocess_{how}")(asyncio.SubprocessProtocol, "true", **option)
    assert open_descriptors() == before


async def test_the_same_keywords_with_values_that_change_nothing(loop):
    options = {"universal_newlines": False, "text": False, "encoding": None, "errors": None, "bufsize": 0}
    assert await output("/bin/echo", "x", shell=False, **options) == "x\n"
    process = await asyncio.create_subprocess_shell("echo x", shell=True, stdout=PIPE, **{**options, "text": None})
    assert await process.communicate() == (b"x\n", None)


@pytest.mark.parametrize("command", [["echo", "x"], pathlib.Path("echo"), 5, None], ids=repr)
async def test_shell_commands_are_text(loop, command):
    with pytest.raises(ValueError, match="^cmd must be a string$"):
        await asyncio.create_subprocess_shell(command)


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (["/bin/echo", "a\0b"], {}, ValueError),
        (["/bin/ec\0ho"], {}, ValueError),
        ([b"/bin/echo", b"a\0b"], {}, ValueError),
        (["true"], {"cwd": "/\0"}, ValueError),
        (["true"], {"env": {"A": "b\0c"}}, ValueError),
        (["true"], {"env": {"A\0": "b"}}, ValueError),
        (["true"], {"env": {"A=B": "c"}}, ValueError),
        (["true"], {"env": {"A": 5}}, TypeError),
        (["true"], {"env": [("A", "b")]}, (TypeError, AttributeError)),
        (["true", 5], {}, TypeError),
        ([5], {}, TypeError),
        ([None], {}, TypeError),
        (["true"], {"no_such_keyword": 5}, TypeError),
        (["true"], {"preexec_fn": 5}, (TypeError, subprocess.SubprocessError)),
        (["true"], {"pass_fds": [-1]}, ValueError),
        (["true"], {"pass_fds": ["x"]}, (TypeError, ValueError)),
        (["true"], {"stdout": "text"}, AttributeError),
        (["true"], {"stdout": 9999}, OSError),
        (["true"], {"startupinfo": 5}, ValueError),
        (["true"], {"creationflags": 5}, ValueError),
        (["no-such-program-anywhere"], {}, FileNotFoundError),
        (["/no/such/program"], {}, FileNotFoundError),
        (["true"], {"cwd": "/no/such/directory"}, FileNotFoundError),
        (["true"], {"cwd": "/bin/sh"}, NotADirectoryError),
        (["true"], {"executable": "/no/such/program"}, FileNotFoundError),
        (["/"], {}, PermissionError),
        ([""], {}, (FileNotFoundError, PermissionError)),
        (["/bin/echo", "x" * 10_000_000], {}, OSError),
    ],
    ids=lambda value: repr(value)[:50],
)
@pytest.mark.parametrize("pipes", [False, True], ids=["", "pipes"])
async def test_what_cannot_be_started(loop, arguments, options, error, pipes):
    """The error is that of Popen, and nothing is left."""
    before = open_descriptors()
    if pipes:
        options = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, **options}
    with pytest.raises(error) as info:
        await create(*arguments, **options)
    if isinstance(info.value, FileNotFoundError) and arguments != [""]:
        assert info.value.filename == options.get("cwd", options.get("executable", arguments[0]))
    with pytest.raises(type(info.value)) as expected:
        subprocess.Popen(arguments, **options)
    assert str(info.value) == str(expected.value)
    del info, expected
    await settle()
    gc.collect()
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("mode", "text", "number"),
    [(0o644, "#!/bin/sh\n", errno.EACCES), (0o755, "no program", errno.ENOEXEC), (0o755, "#!/no/shell", errno.ENOENT)],
)
async def test_files_that_are_no_programs(loop, tmp_path, mode, text, number):
    file = tmp_path / "file"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(OSError) as info:
        await create(file)
    assert info.value.errno == number
    assert os.fspath(info.value.filename) == str(file)

"""The same random operations on a file of loopfast.fs and on one of builtins.open(): results and files are equal."""

from __future__ import annotations

import io
import os
import random

import pytest
from support import pattern

from loopfast import fs

pytestmark = pytest.mark.loopfast_only("asyncio has no files")

MODES = ("r", "w", "a", "r+", "w+", "a+")
TEXT = "one\r\ntwo\nthree\rfour \N{GREEK SMALL LETTER ALPHA}\N{GRINNING FACE} five\n\n" * 7 + "the end, without one"


async def outcome(call, *args):
    """What awaiting *call* brings, or the kind of error."""
    try:
        return await call(*args)
    except (OSError, ValueError) as exc:
        return type(exc)


def expected(call, *args):
    try:
        return call(*args)
    except (OSError, ValueError) as exc:
        return type(exc)


def random_data(source, most=40):
    data = bytes(source.choice(b"ab\n") for _ in range(source.randrange(most)))
    return source.choice([bytes, bytearray, memoryview])(data)


def binary_call(source):
    """The name of a method and its arguments."""
    small = source.choice([0, 1, 2, 3, 7, 20, 63, 64, 65, 200, 1000, -1])
    calls = [
        ("read", small),
        ("read",),
        ("readline",),
        ("readline", small),
        ("readlines", source.choice([-1, 0, 5, 50, None])),
        ("write", random_data(source)),
        ("write", random_data(source, 300)),
        ("writelines", [bytes(random_data(source, 9)) for _ in range(source.randrange(4))]),
        ("seek", source.randrange(300)),
        ("seek", source.randrange(-10, 10), os.SEEK_CUR),
        ("seek", source.randrange(-300, 30), os.SEEK_END),
        ("seek", 0, source.choice([7, -1])),
        ("tell",),
        ("flush",),
        ("truncate",),
        ("truncate", source.randrange(400)),
    ]
    return source.choice(calls)


def with_prepared(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("seed", range(40))
async def test_binary_files(loop, tmp_path, seed):
    source = random.Random(seed)
    for round_ in range(12):
        mode = source.choice(MODES) + "b"
        content = bytes(source.choice(b"abcd\n") for _ in range(source.choice([0, 1, 50, 300])))
        buffering = source.choice([-1, 2, 16, 64])
        mine, theirs = (with_prepared(tmp_path / f"{name}{round_}", content) for name in ("mine", "theirs"))
        calls = [binary_call(source) for _ in range(30)]
        with open(theirs, mode, buffering) as reference:
            async with fs.open(mine, mode, buffering) as file:
                for number, (name, *args) in enumerate(calls):
                    if (name, *args) == ("readline", 0) and not file.readable():
                        # Theirs does not look at what it may.
                        continue
                    want = expected(getattr(reference, name), *args)
                    got = await outcome(getattr(file, name), *args)
                    assert got == want, (mode, buffering, calls[: number + 1])
                    if name.startswith("write") and "a" in mode:
                        # What is appended goes to the end, and ours stands there then; theirs has lost its way.
                        assert await file.seek(0, os.SEEK_END) == reference.seek(0, os.SEEK_END)
                if file.seekable():
                    assert await file.tell() == reference.tell()
        assert mine.read_bytes() == theirs.read_bytes(), (mode, buffering, calls)


def text_call(source, mode, cookies):
    text = "".join(source.choice(["a", "b", "\n", "\r\n", "\N{GREEK SMALL LETTER ALPHA}"]) for _ in range(9))
    calls = [("seek", source.choice(cookies)), ("seek", 0, os.SEEK_END), ("flush",), ("tell",)]
    if "r" in mode or "+" in mode:
        calls += [("read", source.choice([0, 1, 2, 3, 10, 40, 100])), ("readline", source.choice([0, 1, 5, 30]))]
        calls += [("read",), ("readlines",), ("readline",), ("readline",)]
    if "r" not in mode or "+" in mode:
        calls += [("write", text), ("write", text), ("writelines", [text, "x"])]
    return source.choice(calls)


def place(cookie):
    """A position to seek: of the beginning always 0. There, theirs may forget the mark of the byte order."""
    return cookie if cookie & (1 << 64) - 1 else 0


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "latin-1", "gb18030"])
async def test_text_files(loop, tmp_path, encoding, newline):
    for seed in range(40):
        source = random.Random(f"{encoding} {newline!r} {seed}")
        mode = source.choice(MODES)
        content = TEXT[: source.choice([0, 1, 100, 1000])].encode(encoding, "replace")
        mine, theirs = (with_prepared(tmp_path / f"{name}{seed}", content) for name in ("mine", "theirs"))
        options = {"encoding": encoding, "newline": newline, "errors": source.choice(["replace", "ignore"])}
        # A small buffer of ours, so that lines and characters lie across its end.
        buffering = source.choice([-1, 16, 33])
        log = []
        with open(theirs, mode, **options) as reference:
            async with fs.open(mine, mode, buffering, **options) as file:
                # Positions of text are each one's own: theirs and ours of the same place.
                cookies, last = [(0, 0)], "seek"
                for _ in range(25):
                    name, *args = text_call(source, mode, cookies)
                    kind = name[:4]
                    if {kind, last} == {"read", "writ"}:
                        # Between the two, builtins want a seek().
                        reference.seek(place(reference.tell()))
                        await file.seek(place(await file.tell()))
                    if kind in ("read", "writ", "seek"):
                        last = kind
                    log.append((name, *args))
                    mine_args = theirs_args = args
                    if args and isinstance(args[0], tuple):
                        (their_cookie, my_cookie), *_ = args
                        theirs_args, mine_args = [their_cookie], [my_cookie]
                    want = expected(getattr(reference, name), *theirs_args)
                    got = await outcome(getattr(file, name), *mine_args)
                    if name in ("tell", "seek"):
                        assert isinstance(got, int) and isinstance(want, int), (mode, options, log)
                        cookies.append((place(want), place(got)))
                    else:
                        assert got == want, (mode, buffering, options, log)
                    if kind == "writ" and "a" in mode:
                        reference.seek(0, os.SEEK_END)
                        await file.seek(0, os.SEEK_END)
        assert mine.read_bytes() == theirs.read_bytes(), (mode, buffering, options, log)


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 131072, 300_000, 2_000_000])
async def test_large_and_small_contents(loop, tmp_path, size):
    content = pattern(size)
    path = with_prepared(tmp_path / "file", content)
    assert await fs.read_bytes(path) == content
    async with fs.open(path, "rb") as file:
        assert await file.read() == content
        assert await file.read() == b""
        assert await file.seek(size // 2) == size // 2
        assert await file.read() == content[size // 2 :]
    async with fs.open(path, "rb") as file:
        pieces = []
        while piece := await file.read(50_001):
            pieces.append(piece)
        assert b"".join(pieces) == content
    async with fs.open(path, "rb") as file:
        assert [line async for line in file] == io.BytesIO(content).readlines()
    copy = tmp_path / "copy"
    async with fs.open(copy, "wb") as file:
        for start in range(0, size, 70_001):
            assert await file.write(content[start : start + 70_001]) == len(content[start : start + 70_001])
    assert copy.read_bytes() == content
    assert await fs.write_bytes(copy, memoryview(content)[: size // 2]) == size // 2
    assert copy.read_bytes() == content[: size // 2]


ARGUMENTS = [
    ("file", "q"),
    ("file", "rw"),
    ("file", "rr"),
    ("file", ""),
    ("file", "rbt"),
    ("file", "r", 0),
    ("file", "rb", -1, "utf-8"),
    ("file", "rb", -1, None, "strict"),
    ("file", "rb", -1, None, None, "\n"),
    ("file", "r", -1, "no-such-encoding"),
    ("file", "r", -1, "rot13"),
    ("file", "r", -1, None, None, "x"),
    ("file", "r", -1, 3),
    ("file", "r", -1, None, None, 3),
    ("file", "r", -1, None, None, None, False),
    ("file", 3),
    (3.5,),
    (None,),
    ("fi\0le",),
    (b"fi\0le",),
    (-1,),
    ("missing/file",),
    ("missing",),
    ("folder",),
    ("folder", "wb"),
    ("file", "x"),
    (1000,),
    (1000, "wb"),
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=repr)
async def test_wrong_arguments_of_open(loop, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises((OSError, ValueError, TypeError, LookupError)) as theirs:
        open(*arguments)  # noqa: SIM115
    with pytest.raises((OSError, ValueError, TypeError, LookupError)) as mine:
        await fs.open(*arguments)
    assert mine.type is theirs.type
    if isinstance(theirs.value, OSError):
        assert (mine.value.errno, mine.value.strerror) == (theirs.value.errno, theirs.value.strerror)
        assert mine.value.filename == theirs.value.filename or arguments[0] == 1000


@pytest.mark.parametrize("mode", ["r", "w", "rb", "wb"])
async def test_the_wrong_direction(loop, tmp_path, mode):
    path = tmp_path / "file"
    path.write_text("abc")
    data = b"x" if "b" in mode else "x"
    async with fs.open(path, mode) as file:
        assert file.readable() is ("r" in mode)
        assert file.writable() is ("w" in mode)
        for call in (
            (file.read, file.readline, file.readlines) if "w" in mode else (lambda: file.write(data), file.truncate)
        ):
            with pytest.raises(io.UnsupportedOperation):
                await call()


async def test_the_wrong_type(loop, tmp_path):
    async with fs.open(tmp_path / "text", "w") as file:
        for data in (b"x", 3, None):
            with pytest.raises(TypeError):
                await file.write(data)
    async with fs.open(tmp_path / "bytes", "wb+") as file:
        for data in ("x", 3, None):
            with pytest.raises(TypeError):
                await file.write(data)
        with pytest.raises(TypeError):
            await file.readinto(b"cannot be changed")

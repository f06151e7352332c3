"""run() and new_event_loop(): the same program must behave the same under loopfast.run and asyncio.run."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loopfast

SOURCE_ROOT = Path(loopfast.__file__).parents[1]
RUNNERS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(loopfast.run, id="loopfast")]


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_new_event_loop() -> None:
    loop = loopfast.new_event_loop()
    try:
        assert type(loop) is loopfast.Loop
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert not loop.is_running()
        assert loop.run_until_complete(running_loop()) is loop
        with pytest.raises(TypeError):
            loopfast.new_event_loop(1)  # type: ignore[call-arg]
    finally:
        loop.close()
    assert loop.is_closed()


def test_new_event_loop_as_a_loop_factory() -> None:
    with asyncio.Runner(loop_factory=loopfast.new_event_loop) as runner:
        loop = runner.get_loop()
        assert type(loop) is loopfast.Loop
        assert runner.run(running_loop()) is loop
        assert runner.run(running_loop()) is loop
    assert loop.is_closed()


@pytest.mark.parametrize("run", RUNNERS)
def test_result_and_exception(run: Callable[..., Any]) -> None:
    async def main(value: object) -> object:
        await asyncio.sleep(0)
        if isinstance(value, BaseException):
            raise value
        return value

    assert run(main(42)) == 42
    for error in (ZeroDivisionError("x"), SystemExit(3), asyncio.CancelledError()):
        with pytest.raises(type(error)) as caught:
            run(main(error))
        assert caught.value.args == error.args


def test_the_loop_is_new_each_time_and_closed() -> None:
    loops = [loopfast.run(running_loop()) for _ in range(2)]
    assert [type(loop) for loop in loops] == [loopfast.Loop] * 2
    assert loops[0] is not loops[1]
    assert all(loop.is_closed() for loop in loops)


@pytest.mark.parametrize("run", RUNNERS)
def test_debug(run: Callable[..., Any]) -> None:
    async def debug() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert run(debug(), debug=True) is True
    assert run(debug(), debug=False) is False


def test_loop_factory() -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.SelectorEventLoop())
        return made[-1]

    assert [loopfast.run(running_loop(), loop_factory=factory)] == made
    assert made[0].is_closed()
    assert type(loopfast.run(running_loop(), loop_factory=None)) is loopfast.Loop


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("main", [None, 1, str, running_loop], ids=["None", "int", "type", "coroutine function"])
def test_what_is_not_a_coroutine(run: Callable[..., Any], main: object) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        run(main)
    with pytest.raises((ValueError, TypeError)) as expected:
        asyncio.run(main)  # type: ignore[arg-type]
    assert type(caught.value) is type(expected.value)
    assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("run", RUNNERS)
def test_inside_a_running_loop(run: Callable[..., Any]) -> None:
    async def outer() -> None:
        inner = running_loop()
        try:
            with pytest.raises(RuntimeError, match=r"run\(\) cannot be called from a running event loop"):
                run(inner)
        finally:
            inner.close()

    run(outer())


@pytest.mark.parametrize("run", RUNNERS)
def test_what_is_left_is_finished(run: Callable[..., Any]) -> None:
    """Tasks are cancelled, asynchronous generators closed, executor threads joined, in that order."""
    events: list[str] = []
    threads: list[threading.Thread] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            events.append("task")

    async def generator() -> Any:
        try:
            yield 1
        finally:
            events.append("generator")

    async def main() -> Any:
        task = asyncio.create_task(endless())
        iterator = generator()
        await anext(iterator)
        threads.append(await asyncio.to_thread(threading.current_thread))
        return task, iterator  # alive until the loop is closed

    task, _ = run(main())
    assert events == ["task", "generator"]
    assert task.cancelled()
    assert not threads[0].is_alive()


@pytest.mark.parametrize("run", RUNNERS)
def test_context(run: Callable[..., Any]) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("outside")

    async def main() -> str:
        before = variable.get()
        variable.set("inside")
        return before

    assert run(main()) == "outside"
    assert variable.get() == "outside"


@pytest.mark.parametrize("run", RUNNERS)
def test_in_another_thread(run: Callable[..., Any]) -> None:
    results: list[object] = []

    async def main() -> int:
        await asyncio.sleep(0.001)
        return threading.get_ident()

    thread = threading.Thread(target=lambda: results.append(run(main())))
    thread.start()
    thread.join()
    assert results == [thread.ident]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows delivers Ctrl+C another way")
@pytest.mark.parametrize("run", RUNNERS)
def test_interrupt(run: Callable[..., Any]) -> None:
    """The first Ctrl+C cancels the main task, which may clean up; the loop was idle, so nothing else wakes it."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    events: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        interrupt = threading.Thread(target=signal.pthread_kill, args=(threading.main_thread().ident, signal.SIGINT))
        try:
            loop.call_soon(interrupt.start)
            await loop.create_future()
        except asyncio.CancelledError:
            events.append("cancelled")
            await asyncio.sleep(0)
            events.append("cleaned up")
            raise
        finally:
            interrupt.join()

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert events == ["cancelled", "cleaned up"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(running_loop()).is_closed()  # and the next run is undisturbed


@pytest.mark.skipif(sys.platform == "win32", reason="Windows delivers Ctrl+C another way")
@pytest.mark.parametrize("run", ["asyncio.run", "loopfast.run"])
def test_interrupt_of_a_program(run: str) -> None:
    """As a user does it: one Ctrl+C is enough, the second ends a program that ignores the first; death by SIGINT."""
    program = textwrap.dedent(f"""
        import asyncio, loopfast, sys

        async def main():
            try:
                print("ready", flush=True)
                await asyncio.Event().wait()
            finally:
                print("cleaning up", flush=True)
                if sys.argv[1] == "stubborn":
                    await asyncio.Event().wait()

        {run}(main())
    """)
    for behaviour, interrupts in (("civil", 1), ("stubborn", 2)):
        process = subprocess.Popen(
            [sys.executable, "-c", program, behaviour],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SOURCE_ROOT)},
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "cleaning up\n"
            if interrupts == 2:
                process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGINT
        assert errors.splitlines()[-1] == "KeyboardInterrupt"

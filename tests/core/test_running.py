"""run_forever, run_until_complete, stop and close: what one run does, how it ends, and running again."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

# asyncio 3.13.0 forgets that it runs when it refuses to run again.
RUNS_ONCE = pytest.mark.loopfast_only("asyncio 3.13.0 breaks here", when=sys.version_info[:3] == (3, 13, 0))


def test_run_until_complete_returns_the_result(loop):
    async def main():
        await asyncio.sleep(0)
        return 42

    assert loop.run_until_complete(main()) == 42


def test_run_until_complete_raises_the_exception(loop):
    async def main():
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        loop.run_until_complete(main())


def test_run_until_complete_of_a_done_future(loop):
    future = loop.create_future()
    future.set_result("done")
    assert loop.run_until_complete(future) == "done"


def test_run_until_complete_when_stopped_early(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="Event loop stopped before Future completed"):
        loop.run_until_complete(future)


@pytest.mark.parametrize("thing", [None, 42, "text"])
def test_run_until_complete_of_something_else(loop, thing):
    with pytest.raises(TypeError):
        loop.run_until_complete(thing)


def test_a_future_of_another_loop_is_refused(loop, loop_factory):
    other = loop_factory()
    future = other.create_future()
    with pytest.raises(ValueError):
        loop.run_until_complete(future)
    other.close()


def test_stop_before_run_forever_runs_one_batch(loop):
    calls = []

    def first():
        calls.append("first")
        loop.call_soon(calls.append, "later")

    loop.call_soon(first)
    loop.stop()
    loop.run_forever()
    assert calls == ["first"]
    loop.stop()
    loop.run_forever()
    assert calls == ["first", "later"]


def test_stop_before_run_forever_still_polls_once(loop):
    calls = []
    loop.call_later(0, calls.append, "timer")
    loop.stop()
    loop.run_forever()
    assert calls == ["timer"]


def test_stop_finishes_the_running_batch(loop):
    calls = []
    loop.call_soon(loop.stop)
    loop.call_soon(calls.append, "same batch")
    loop.call_soon(loop.call_soon, calls.append, "next batch")
    loop.run_forever()
    assert calls == ["same batch"]


def test_stop_twice_stops_one_run(loop):
    calls = []
    loop.stop()
    loop.stop()
    loop.run_forever()
    loop.call_soon(calls.append, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert calls == [1]


def test_stop_from_another_thread(loop):
    thread = threading.Timer(0.01, loop.call_soon_threadsafe, [loop.stop])
    thread.start()
    loop.run_forever()
    thread.join()


def test_is_running_and_is_closed(loop):
    seen = []
    assert not loop.is_running() and not loop.is_closed()
    loop.call_soon(lambda: seen.append((loop.is_running(), loop.is_closed())))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [(True, False)]
    loop.close()
    assert not loop.is_running() and loop.is_closed()


def test_the_running_loop_is_set_only_while_it_runs(loop):
    seen = []
    loop.call_soon(lambda: seen.append(asyncio.get_running_loop()))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [loop]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


@RUNS_ONCE
async def test_running_a_running_loop_raises(loop):
    with pytest.raises(RuntimeError, match="This event loop is already running"):
        loop.run_forever()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="This event loop is already running"):
        loop.run_until_complete(coroutine)
    coroutine.close()
    assert loop.is_running()
    await asyncio.sleep(0)


@RUNS_ONCE
async def test_running_another_loop_inside_raises(loop, loop_factory):
    other = loop_factory()
    with pytest.raises(RuntimeError, match="Cannot run the event loop while another loop is running"):
        other.run_forever()
    assert not other.is_running()
    other.close()
    assert asyncio.get_running_loop() is loop


@RUNS_ONCE
def test_running_in_two_threads_at_once_raises(loop):
    failures = []

    def run_again():
        try:
            loop.run_forever()
        except RuntimeError as exc:
            failures.append(str(exc))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=run_again)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert failures == ["This event loop is already running"]


async def test_closing_a_running_loop_raises(loop):
    with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
        loop.close()
    assert not loop.is_closed()


def test_closing_twice_does_nothing(loop):
    loop.close()
    loop.close()
    assert loop.is_closed()


def test_stop_on_a_closed_loop_does_nothing(loop):
    loop.close()
    loop.stop()


def test_runs_in_another_thread(loop):
    results = []

    async def main():
        await asyncio.sleep(0.001)
        return threading.get_ident()

    thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(main())))
    thread.start()
    thread.join()
    assert results == [thread.ident]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_runs_again_after_an_interrupting_callback(loop, kind):
    calls = []

    def interrupt():
        raise kind

    loop.call_soon(calls.append, "before")
    loop.call_soon(interrupt)
    loop.call_soon(calls.append, "after")
    with pytest.raises(kind):
        loop.run_forever()
    assert calls == ["before"]
    assert not loop.is_running()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert calls == ["before", "after"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_runs_again_after_an_interrupting_task(loop, kind):
    async def interrupt():
        await asyncio.sleep(0)
        raise kind

    with pytest.raises(kind):
        loop.run_until_complete(interrupt())
    assert loop.run_until_complete(asyncio.sleep(0.001, "fine")) == "fine"


def test_interrupting_timer_leaves_the_others(loop):
    calls = []

    def interrupt():
        raise KeyboardInterrupt

    loop.call_later(0.001, interrupt)
    loop.call_later(0.002, calls.append, 1)
    loop.call_later(0.003, loop.stop)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.run_forever()
    assert calls == [1]


def test_a_new_loop_is_of_the_type_asyncio_documents(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)


def test_repr_names_the_state(loop):
    text = repr(loop)
    assert "running=False" in text and "closed=False" in text and "debug=False" in text
    loop.close()
    assert "closed=True" in repr(loop)


def test_attributes_can_be_set(loop):
    loop.my_attribute = 1
    assert loop.my_attribute == 1


def test_runner_leaves_nothing(loop_factory):
    async def main():
        asyncio.create_task(asyncio.sleep(100))
        return asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.run(main())
    assert loop.is_closed()


def test_hundreds_of_loops_one_after_the_other(loop_factory):
    for _ in range(200):
        loop = loop_factory()
        assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
        loop.close()


def test_many_loops_at_once(loop_factory):
    loops = [loop_factory() for _ in range(20)]
    for loop in loops:
        loop.call_soon(loop.stop)
    for loop in loops:
        loop.run_forever()
        loop.close()

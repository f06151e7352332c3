"""Futures, tasks, task factories and eager tasks: exactly what the caller passed, per version of Python."""

from __future__ import annotations

import asyncio
import contextvars
import sys

import pytest

EAGER = sys.version_info >= (3, 12)
# From 3.13.3 on create_task() hands all its keywords to the factory, the name included.
FACTORY_GETS_NAME = sys.version_info >= (3, 13, 3)


async def nothing(result=None):
    return result


def test_create_future(loop):
    future = loop.create_future()
    assert type(future) is asyncio.Future
    assert future.get_loop() is loop


async def test_create_task(loop):
    task = loop.create_task(nothing(7))
    assert type(task) is asyncio.Task
    assert task.get_loop() is loop
    assert task in asyncio.all_tasks()
    assert not task.done()
    assert await task == 7


async def test_create_task_with_a_name(loop):
    task = loop.create_task(nothing(), name="my task")
    assert task.get_name() == "my task"
    await task
    assert loop.create_task(nothing(), name=None).get_name().startswith("Task-")


async def test_create_task_with_a_name_of_another_type(loop):
    task = loop.create_task(nothing(), name=42)
    assert task.get_name() in (42, "42")


@pytest.mark.parametrize("thing", [None, 1, print, asyncio.sleep])
async def test_create_task_of_something_else(loop, thing):
    with pytest.raises(TypeError, match="a coroutine was expected"):
        loop.create_task(thing)


async def test_create_task_with_an_unknown_keyword(loop):
    coroutine = nothing()
    with pytest.raises(TypeError):
        loop.create_task(coroutine, nonsense=1)
    coroutine.close()


async def test_create_task_takes_one_positional_argument(loop):
    coroutine = nothing()
    with pytest.raises(TypeError):
        loop.create_task(coroutine, "name")
    with pytest.raises(TypeError):
        loop.create_task()
    coroutine.close()


async def test_create_task_by_keyword(loop):
    assert await loop.create_task(coro=nothing(3)) == 3


def test_create_task_on_a_closed_loop(loop):
    loop.close()
    coroutine = nothing()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.create_task(coroutine)
    coroutine.close()


async def test_tasks_start_in_order(loop):
    order = []

    async def work(number):
        order.append(number)

    tasks = [loop.create_task(work(number)) for number in range(50)]
    assert order == []
    await asyncio.gather(*tasks)
    assert order == list(range(50))


async def test_a_factory_gets_what_the_caller_passed(loop):
    calls = []

    def factory(loop, coro, **kwargs):
        calls.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    context = contextvars.copy_context()
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    await loop.create_task(nothing())
    await loop.create_task(nothing(), context=context)
    task = loop.create_task(nothing(), name="mine")
    await task
    assert task.get_name() == "mine"
    assert calls[1] == {"context": context} or (FACTORY_GETS_NAME and calls[1].get("context") is context)
    if FACTORY_GETS_NAME:
        assert calls[2]["name"] == "mine"
    else:
        assert calls[0] == {} and calls[2] == {}


@pytest.mark.skipif(FACTORY_GETS_NAME, reason="asyncio passes keywords to every factory from 3.13.3 on")
async def test_a_legacy_factory_without_keywords(loop):
    loop.set_task_factory(lambda loop, coro: asyncio.Task(coro, loop=loop))
    assert await loop.create_task(nothing(1), name="named") == 1


async def test_the_factory_can_be_removed(loop):
    loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    assert await loop.create_task(nothing(1)) == 1


@pytest.mark.parametrize("factory", [1, "factory", object()])
def test_a_factory_must_be_callable(loop, factory):
    with pytest.raises(TypeError, match="task factory must be a callable or None"):
        loop.set_task_factory(factory)


@pytest.mark.skipif(not EAGER, reason="eager tasks are new in Python 3.12")
async def test_eager_task_factory(loop):
    loop.set_task_factory(asyncio.eager_task_factory)
    started = []

    async def work():
        started.append(asyncio.current_task())
        return "result"

    task = loop.create_task(work())
    assert started == [task]
    assert task.done()
    assert await task == "result"

    async def block():
        started.append("before")
        await asyncio.sleep(0)
        started.append("after")

    task = asyncio.create_task(block())
    assert started[-1] == "before"
    await task
    assert started[-1] == "after"


@pytest.mark.skipif(not EAGER, reason="eager tasks are new in Python 3.12")
async def test_eager_task_in_a_context(loop):
    variable = contextvars.ContextVar("variable")
    context = contextvars.Context()
    loop.set_task_factory(asyncio.eager_task_factory)

    async def work():
        variable.set(1)

    await loop.create_task(work(), context=context)
    assert context[variable] == 1
    assert variable.get(None) is None


@pytest.mark.skipif(sys.version_info < (3, 14), reason="create_task(eager_start=) is new in Python 3.14")
async def test_eager_start(loop):
    assert loop.create_task(nothing(1), eager_start=True).done()
    task = loop.create_task(nothing(1), eager_start=False)
    assert not task.done()
    await task


async def test_current_and_all_tasks(loop):
    me = asyncio.current_task()
    other = loop.create_task(asyncio.sleep(0))
    assert asyncio.all_tasks() == {me, other}
    await other
    assert asyncio.current_task() is me


async def test_a_task_destroyed_while_pending_is_reported(loop, reports):
    import gc

    future = loop.create_future()

    async def work(future):
        await future

    task = loop.create_task(work(future))
    await asyncio.sleep(0)
    del task, future
    gc.collect()
    assert reports.take()["message"] == "Task was destroyed but it is pending!"


async def test_an_exception_never_retrieved_is_reported(loop, reports):
    import gc

    async def work():
        raise LookupError

    # Nobody holds the task: it dies with its only step, and its handler runs in its context.
    loop.create_task(work())
    await asyncio.sleep(0)
    gc.collect()
    assert isinstance(reports.take()["exception"], LookupError)


async def test_cancellation(loop):
    task = loop.create_task(asyncio.sleep(1000))
    await asyncio.sleep(0)
    task.cancel("reason")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_task_groups(loop):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0.001, number)) for number in range(10)]
    assert [task.result() for task in tasks] == list(range(10))


async def test_synchronisation_between_tasks(loop):
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    received = []

    async def consume():
        while (item := await queue.get()) is not None:
            received.append(item)

    consumer = asyncio.create_task(consume())
    for number in range(100):
        await queue.put(number)
    await queue.put(None)
    await consumer
    assert received == list(range(100))


async def test_a_future_of_a_thread_pool(loop):
    import concurrent.futures

    future = concurrent.futures.Future()
    loop.call_later(0.001, future.set_result, 5)
    assert await asyncio.wrap_future(future) == 5


async def test_a_patched_future_class_is_not_needed(loop):
    # asyncio's own classes stay in place: all_tasks(), isinstance and the introspection of 3.14 rely on them.
    assert isinstance(loop.create_future(), asyncio.Future)
    assert isinstance(asyncio.current_task(), asyncio.Task)


def test_task_and_future_classes_may_be_replaced(loop, monkeypatch):
    class Task(asyncio.tasks._PyTask):
        pass

    class Future(asyncio.futures._PyFuture):
        pass

    monkeypatch.setattr(asyncio.tasks, "Task", Task)
    monkeypatch.setattr(asyncio.futures, "Future", Future)
    assert type(loop.create_future()) is Future
    task = loop.create_task(asyncio.sleep(0, "done"))
    assert type(task) is Task
    assert loop.run_until_complete(task) == "done"

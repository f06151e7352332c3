"""Handle and TimerHandle: types, ordering, equality, hash, context, repr, cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from fractions import Fraction

import pytest


class Callback:
    """A callable that can be referenced weakly."""

    def __call__(self, *args):
        pass


def named_callback(*args):
    pass


@pytest.fixture
def handles(loop):
    made = [
        loop.call_soon(named_callback, 1),
        loop.call_soon_threadsafe(named_callback, 1),
        loop.call_later(100, named_callback, 1),
        loop.call_at(loop.time() + 100, named_callback, 1),
    ]
    yield made
    while made:
        made.pop().cancel()


def test_types(handles):
    assert all(isinstance(handle, asyncio.Handle) for handle in handles)
    assert [isinstance(handle, asyncio.TimerHandle) for handle in handles] == [False, False, True, True]


def test_cancelled(handles):
    for handle in handles:
        assert not handle.cancelled()
        handle.cancel()
        assert handle.cancelled()
        handle.cancel()
        assert handle.cancelled()


def test_get_context(loop, loop_kind):
    if loop_kind == "asyncio" and sys.version_info < (3, 12):
        pytest.skip("asyncio's handles have no get_context() before Python 3.12")
    context = contextvars.copy_context()
    for handle in (
        loop.call_soon(print, context=context),
        loop.call_soon_threadsafe(print, context=context),
        loop.call_later(100, print, context=context),
        loop.call_at(100, print, context=context),
    ):
        assert handle.get_context() is context
        handle.cancel()
    handle = loop.call_soon(print)
    assert isinstance(handle.get_context(), contextvars.Context)
    assert handle.get_context() is handle.get_context()
    handle.cancel()


def test_when(loop):
    handle = loop.call_at(12345.678, print)
    assert handle.when() == 12345.678
    handle.cancel()
    before = loop.time()
    handle = loop.call_later(50, print)
    assert before + 50 <= handle.when() <= loop.time() + 50
    handle.cancel()
    assert isinstance(handle.when(), float)


@pytest.mark.parametrize("when", [10**9, 2**60 + 1, Fraction(10**9 * 2 + 1, 2), True])
def test_when_is_what_was_given(loop, when):
    """As frameworks do that round deadlines up, so that the timers of a second are due together."""
    handle = loop.call_at(when, print)
    assert handle.when() is when
    assert hash(handle) == hash(when)
    assert repr(handle).startswith(f"<TimerHandle when={when} ")
    with_context = loop.call_at(when, print, context=contextvars.copy_context())
    assert with_context.when() is when
    assert not handle < with_context
    handle.cancel()
    with_context.cancel()
    assert handle.when() is when


def test_timers_are_ordered_by_deadline(loop):
    now = loop.time()
    early, late, same = loop.call_at(now + 10, print), loop.call_at(now + 20, print), loop.call_at(now + 10, print)
    try:
        assert early < late and late > early and early <= late and late >= early
        assert not late < early and not early > late
        assert early <= same and early >= same and not early < same and not early > same
        assert sorted([late, early])[0] is early
        assert early != late
    finally:
        for timer in (early, late, same):
            timer.cancel()


def test_timers_compare_with_nothing_else(loop):
    timer = loop.call_later(100, print)
    handle = loop.call_soon(print)
    with pytest.raises(TypeError):
        assert timer < 5
    with pytest.raises(TypeError):
        assert timer >= handle
    assert timer != 5
    assert timer != handle
    timer.cancel()
    handle.cancel()


def test_equality_of_timers_as_asyncio(loop):
    # Equal: same deadline, callback, arguments and cancelled state.
    when = loop.time() + 100
    one, other = loop.call_at(when, named_callback, 1), loop.call_at(when, named_callback, 1)
    assert one == other
    assert one == one
    assert hash(one) == hash(other) == hash(when)
    different = loop.call_at(when, named_callback, 2)
    assert one != different
    one.cancel()
    assert one != other
    other.cancel()
    different.cancel()


def test_handles_are_hashable_and_weakly_referable(handles):
    assert len({id(handle): handle for handle in handles}) == 4
    assert {handles[0]: 1}[handles[0]] == 1
    assert weakref.ref(handles[0])() is handles[0]
    assert weakref.ref(handles[2])() is handles[2]


def test_repr_names_the_callback(handles):
    for handle in handles:
        assert "Handle" in repr(handle)
        assert "named_callback(" in repr(handle)
    assert "when=" in repr(handles[2])
    handles[0].cancel()
    assert "cancelled" in repr(handles[0])
    assert "named_callback" not in repr(handles[0])


def test_repr_in_debug_mode(loop):
    loop.set_debug(True)
    handle = loop.call_soon(named_callback, 1)
    assert "created at" in repr(handle) and "test_handles.py" in repr(handle)
    handle.cancel()
    assert "named_callback(1)" in repr(handle)


def test_repr_after_the_run(loop):
    handle = loop.call_soon(named_callback, 1)
    timer = loop.call_later(0, named_callback, 1)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert "Handle" in repr(handle)
    assert "TimerHandle" in repr(timer)


@pytest.mark.parametrize("schedule", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_cancel_frees_callback_and_arguments_at_once(loop, schedule):
    callback, argument = Callback(), Callback()
    references = weakref.ref(callback), weakref.ref(argument)
    before = [1000] if schedule in ("call_later", "call_at") else []
    handle = getattr(loop, schedule)(*before, callback, argument)
    del callback, argument
    gc.disable()
    try:
        handle.cancel()
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


@pytest.mark.loopfast_only("asyncio's heap and queue keep cancelled handles for a while")
def test_cancel_frees_a_timer_handle_at_once(loop):
    handle = loop.call_later(1000, print)
    reference = weakref.ref(handle)
    handle.cancel()
    del handle
    assert reference() is None


def test_a_handle_is_freed_after_the_run(loop):
    callback = Callback()
    reference = weakref.ref(callback)
    handles = [loop.call_soon(callback)]
    del callback
    loop.call_soon(loop.stop)
    loop.run_forever()
    handles.clear()
    gc.collect()
    assert reference() is None


@pytest.mark.loopfast_only("asyncio's handles keep callback and arguments as long as somebody holds them")
def test_a_held_handle_lets_go_of_its_callback_after_the_run(loop):
    callback = Callback()
    reference = weakref.ref(callback)
    soon, timer = loop.call_soon(callback), loop.call_later(0, callback)
    del callback
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert reference() is None
    assert not soon.cancelled() and not timer.cancelled()


def test_a_cycle_through_a_pending_handle_is_collected(loop_factory):
    class Owner:
        def method(self):
            pass

    loop = loop_factory()
    owner = Owner()
    owner.timer = loop.call_later(1000, owner.method)
    owner.soon = loop.call_soon(owner.method)
    reference = weakref.ref(owner)
    loop.close()
    del owner, loop
    gc.collect()
    assert reference() is None


def test_cancel_after_the_run_does_nothing(loop):
    handle = loop.call_soon(named_callback)
    loop.call_soon(loop.stop)
    loop.run_forever()
    handle.cancel()
    assert handle.cancelled()


def test_cancel_after_close(loop):
    handles = [loop.call_soon(print), loop.call_later(10, print)]
    loop.close()
    for handle in handles:
        handle.cancel()
        assert handle.cancelled()
        repr(handle)


def test_when_and_comparison_after_close(loop):
    timer = loop.call_at(5.0, print)
    loop.close()
    assert timer.when() == 5.0
    assert hash(timer) == hash(5.0)


def test_many_timers_cancelled_from_a_callback(loop):
    timers = [loop.call_later(1000 + number, pytest.fail) for number in range(2000)]

    def cancel_all():
        for timer in timers:
            timer.cancel()
        loop.stop()

    loop.call_soon(cancel_all)
    loop.run_forever()
    assert all(timer.cancelled() for timer in timers)

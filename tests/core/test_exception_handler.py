"""The exception handler: who gets to know what, and what happens when the handler itself fails."""

from __future__ import annotations

import logging

import pytest


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_set_and_get(loop):
    def handler(loop, context):
        pass

    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


@pytest.mark.parametrize("handler", ["handler", 1, object()])
def test_the_handler_must_be_callable(loop, handler):
    with pytest.raises(TypeError, match="callable object or None is expected"):
        loop.set_exception_handler(handler)


def test_the_default_handler_logs(loop, caplog):
    loop.set_exception_handler(None)
    loop.call_soon(lambda: 1 / 0)
    run_once(loop)
    (record,) = caplog.records
    assert record.name == "asyncio" and record.levelno == logging.ERROR
    assert "Exception in callback" in record.getMessage()
    assert record.exc_info[0] is ZeroDivisionError


def test_a_handler_that_raises_is_logged(loop, caplog):
    def handler(loop, context):
        raise LookupError("in the handler")

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    run_once(loop)
    assert "Unhandled error in exception handler" in caplog.text
    assert "in the handler" in caplog.text
    # The record holds the traceback, and with it the handle.
    caplog.clear()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_handler_that_interrupts_ends_the_run(loop, kind):
    def handler(loop, context):
        raise kind

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    with pytest.raises(kind):
        loop.run_forever()
    run_once(loop)


def test_call_exception_handler(loop, reports):
    context = {"message": "something", "detail": 1}
    loop.call_exception_handler(context)
    assert reports.take() is context


def test_an_overridden_method_is_used(loop_factory):
    contexts = []
    base = type(loop_factory_instance := loop_factory())
    loop_factory_instance.close()

    class Loop(base):
        def call_exception_handler(self, context):
            contexts.append(context)

    loop = Loop()
    loop.call_soon(lambda: 1 / 0)
    run_once(loop)
    loop.close()
    assert isinstance(contexts[0]["exception"], ZeroDivisionError)


def test_the_default_handler_can_be_called(loop, caplog):
    loop.default_exception_handler({"message": "told by hand"})
    assert "told by hand" in caplog.text

"""What every method does on a loop that was closed, never ran, or was never initialised."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import weakref

import pytest
from support import run_program


@pytest.fixture
def closed(loop):
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return loop


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("call_soon", (print,)),
        ("call_soon_threadsafe", (print,)),
        ("call_later", (1, print)),
        ("call_at", (1, print)),
        ("run_forever", ()),
        ("run_in_executor", (None, print)),
        ("add_reader", (0, print)),
        ("add_writer", (0, print)),
        ("add_signal_handler", (signal.SIGUSR1, print)),
    ],
)
def test_what_would_need_it_raises(closed, method, arguments):
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        getattr(closed, method)(*arguments)


def test_run_until_complete_raises(closed):
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        closed.run_until_complete(closed.create_future())


def test_what_only_looks_or_ends_does_not_raise(closed):
    assert closed.is_closed() and not closed.is_running()
    assert closed.time() > 0
    assert closed.get_debug() is False
    closed.set_debug(True)
    closed.set_debug(False)
    closed.stop()
    closed.close()
    closed.create_future().cancel()
    closed.get_exception_handler()
    closed.set_exception_handler(None)
    closed.get_task_factory()
    assert closed.remove_reader(0) is False
    assert closed.remove_writer(0) is False
    assert closed.remove_signal_handler(signal.SIGUSR1) is False
    assert "closed=True" in repr(closed)


def test_queued_callbacks_are_dropped(loop):
    class Callback:
        def __call__(self):
            pytest.fail("ran after close")

    callbacks = [Callback() for _ in range(3)]
    references = [weakref.ref(callback) for callback in callbacks]
    handles = [loop.call_soon(callbacks[0]), loop.call_later(0, callbacks[1]), loop.call_soon_threadsafe(callbacks[2])]
    callbacks.clear()
    loop.close()
    del handles
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_a_loop_that_never_ran_can_be_closed(loop_factory):
    loop_factory().close()


def test_open_transports_are_released(loop, recwarn):
    one, other = socket.socketpair()
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=one))
    loop.close()
    # None of these may crash.
    transport.write(b"x")
    repr(transport)
    transport.is_closing()
    transport.is_reading()
    transport.get_write_buffer_size()
    transport.get_extra_info("socket")
    transport.get_protocol()
    for end in (transport.close, transport.abort, transport.pause_reading, transport.resume_reading):
        # asyncio's need the loop, and say so.
        try:
            end()
        except RuntimeError as exc:
            assert "closed" in str(exc)
    del transport, one, end
    gc.collect()
    other.close()


def test_a_server_is_released(loop):
    server = loop.run_until_complete(loop.create_server(asyncio.Protocol, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()
    server.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with socket.socket() as sock:
        assert sock.connect_ex(address) != 0


def test_a_subclass_can_be_made(loop_factory):
    base = loop_factory()
    base.close()

    class Loop(type(base)):
        def __init__(self):
            super().__init__()
            self.mine = 1

        def call_soon(self, *args, **kwargs):
            self.mine += 1
            return super().call_soon(*args, **kwargs)

    loop = Loop()
    assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
    assert loop.mine > 1
    loop.close()


@pytest.mark.loopfast_only("asyncio's loops are plain Python objects")
def test_a_loop_that_was_never_initialised_does_not_crash(loop_kind):
    # In a process of its own: what the methods of such a loop have done before they failed is anybody's guess.
    out = run_program(
        loop_kind,
        """
        import loopfast
        warnings.simplefilter("ignore")
        sys.stderr = open(os.devnull, "w")
        loop = loopfast.Loop.__new__(loopfast.Loop)
        others = {"__class__", "__init_subclass__", "__subclasshook__", "__new__", "__init__"}
        for name in sorted(set(dir(loop)) - others):
            for arguments in ((), (1,), (1, 2), (print,), (0, print), (None, None, None)):
                try:
                    # Else run_forever() does what its name says.
                    loop.stop()
                    result = getattr(loop, name)(*arguments)
                except Exception:
                    continue
                if asyncio.iscoroutine(result):
                    result.close()
        print("alive", flush=True)
        os._exit(0)
        """,
    )
    assert out.endswith("alive\n")


@pytest.mark.loopfast_only("asyncio's classes are plain Python classes")
def test_no_extension_type_crashes_when_made_by_new(loop_kind):
    out = run_program(
        loop_kind,
        """
        import importlib, loopfast
        from support import importable_modules
        warnings.simplefilter("ignore")
        sys.stderr = open(os.devnull, "w")
        modules = [importlib.import_module(name) for name in importable_modules()]
        types = {
            value
            for module in modules
            if module.__file__.endswith((".so", ".pyd"))
            for value in vars(module).values()
            if isinstance(value, type)
            and value.__module__.startswith("loopfast.")
            and not issubclass(value, loopfast.Loop)
        }
        made = 0
        for cls in sorted(types, key=lambda cls: cls.__name__):
            for make in (lambda: cls.__new__(cls), lambda: cls(), lambda: cls(None), lambda: cls(None, None)):
                try:
                    thing = make()
                except Exception:
                    continue
                made += 1
                for name in sorted(set(dir(thing)) - {"__class__", "__init_subclass__", "__subclasshook__", "__new__"}):
                    if "run" in name or name == "wait":
                        continue
                    for arguments in ((), (1,), (b"x",), (None, None), (thing, thing)):
                        try:
                            result = getattr(thing, name)(*arguments)
                        except Exception:
                            continue
                        if asyncio.iscoroutine(result):
                            result.close()
                        result = None
                thing = None
                gc.collect()
        print("alive", made > 3, flush=True)
        os._exit(0)
        """,
    )
    assert out.endswith("alive True\n")

"""Crashes and lost memory that the enumeration, or reading, has found: the smallest program of each."""

from __future__ import annotations

import asyncio
import socket

import pytest
from support import program, run_program, settle, transport_and_peer


@pytest.mark.parametrize("ending", ["abort", "_force_close"])
def test_data_of_a_request_in_flight_outlives_abort(loop_factory, ending):
    """libuv may still send of a write request after abort(): its memory must not have become somebody else's."""
    size = 60_000

    async def main():
        async with transport_and_peer(asyncio.Protocol, send_buffer=65536) as (transport, _, peer):
            for _ in range(100):
                transport.write(bytes([65]) * size)
            await asyncio.sleep(0.01)
            assert transport.get_write_buffer_size() > 0
            transport.abort() if ending == "abort" else transport._force_close(None)
            reuse = [bytes([66]) * size for _ in range(200)]
            seen = set(drained(peer))
            # The socket is writable again, and the loop has not yet run connection_lost().
            await settle()
            seen |= set(drained(peer))
            assert len(reuse) == 200
            assert seen == {65}

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def drained(sock: socket.socket) -> bytes:
    data = bytearray()
    while True:
        try:
            piece = sock.recv(1 << 20)
        except OSError:
            return bytes(data)
        if not piece:
            return bytes(data)
        data += piece


def test_an_argument_may_cancel_its_own_timer_as_it_goes(loop_kind):
    out = run_program(
        loop_kind,
        """
        class Argument:
            def __del__(self):
                timer.cancel()
                print("gone")
        loop = new_event_loop()
        others = [loop.call_later(delay, print) for delay in (1, 50, 100, 150)]
        timer = loop.call_later(70, print, Argument())
        timer.cancel()
        for other in others:
            other.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        print(timer.cancelled())
        """,
    )
    assert out == "gone\nTrue\n"


@pytest.mark.parametrize("early", ["timer._run()", "loop._add_callback(timer); turn()"])
def test_a_timer_that_was_run_early_can_be_cancelled(loop_kind, early):
    out = run_program(
        loop_kind,
        f"""
        loop = new_event_loop()
        def turn():
            loop.call_soon(loop.stop)
            loop.run_forever()
        timer = loop.call_later(100, print, "ran")
        other = loop.call_later(50, print, "other")
        {early}
        timer.cancel()
        other.cancel()
        turn()
        loop.close()
        """,
    )
    assert out == "ran\n"


@pytest.mark.parametrize("schedule", ["call_soon(f)", "call_later(0, f)", "call_soon_threadsafe(f)"])
def test_cancel_cancels_even_if_repr_raises_in_debug_mode(loop_kind, schedule):
    out = run_program(
        loop_kind,
        f"""
        class Callback:
            def __repr__(self):
                raise ValueError("no repr")
            def __call__(self):
                print("called")
        f = Callback()
        loop = new_event_loop()
        loop.set_debug(True)
        handle = loop.{schedule}
        try:
            handle.cancel()
        except ValueError:
            print("raised")
        print(handle.cancelled())
        loop.set_debug(False)
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        loop.close()
        """,
    )
    assert out.splitlines()[-1:] == ["True"]


@pytest.mark.loopfast_only("asyncio's own loop lets a turn be nested, which libuv cannot")
@pytest.mark.parametrize("entry", ["_run_once", "_run_until_stopped", "_close_core"])
@pytest.mark.parametrize("place", ["callback", "data_received", "thread"])
def test_libuv_is_not_entered_twice(loop_kind, entry, place):
    out = run_program(
        loop_kind,
        f"""
        from support import transport_and_peer
        def misuse():
            try:
                loop.{entry}()
            except RuntimeError as exc:
                print(exc)
        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                if {place!r} == "data_received":
                    misuse()
                done.set_result(None)
        async def main():
            global loop, done
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            async with transport_and_peer(Protocol) as (transport, _, peer):
                if {place!r} == "callback":
                    loop.call_soon(misuse)
                elif {place!r} == "thread":
                    await loop.run_in_executor(None, misuse)
                peer.send(b"x")
                await done
        run(main())
        """,
    )
    assert "running" in out


@pytest.mark.loopfast_only("asyncio's own transports are not safe against this either, but cannot crash")
@pytest.mark.parametrize("calls", ["flow", "write", "end", "drop"])
def test_transports_used_from_a_foreign_thread(loop_kind, calls):
    """Nothing crashes, and what was written arrives whole and in order."""
    code = f"""
        from support import pattern, tcp_pair
        sys.setswitchinterval(1e-5)
        CALLS = {calls!r}
        data = pattern(1_500_000)
        class Counter(asyncio.Protocol):
            count = 0
            def data_received(self, data):
                self.count += len(data)
        async def one_round(loop):
            mine, peer = tcp_pair(nonblocking=False)
            mine.setblocking(False)
            peer.settimeout(5)
            got = bytearray()
            transport, protocol = await loop.create_connection(Counter, sock=mine)
            def misuse(transport):
                for start in range(0, len(data), 30_000):
                    transport.write(data[start:start + 30_000])
                    if CALLS == "flow":
                        transport.pause_reading()
                        transport.resume_reading()
                # Closing with something unread would reset the connection.
                while CALLS == "flow" and protocol.count < 100_000:
                    transport.pause_reading()
                    time.sleep(0.0001)
                    transport.resume_reading()
                    time.sleep(0.0001)
                if CALLS == "end":
                    transport.abort()
                elif CALLS == "drop":
                    transport.pause_reading()
                    transport.write_eof()
                else:
                    transport.close()
            def other_end():
                try:
                    if CALLS in ("flow", "end"):
                        peer.sendall(b"x" * 100_000)
                    while piece := peer.recv(100_000):
                        got.extend(piece)
                except OSError:
                    pass
            reader = threading.Thread(target=other_end)
            writer = threading.Thread(target=misuse, args=(transport,))
            reader.start()
            writer.start()
            if CALLS == "drop":
                # The last reference goes in the other thread.
                del transport, writer
            while reader.is_alive():
                await asyncio.sleep(0.001)
            reader.join()
            peer.close()
            if CALLS != "end":
                assert got == data, (len(got), len(data))
            else:
                assert data.startswith(got)
        async def main():
            loop = asyncio.get_running_loop()
            for _ in range(15):
                await one_round(loop)
        warnings.simplefilter("ignore")
        run(main())
        print("done")
    """
    with program(loop_kind, code) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "done\n"), err


@pytest.mark.loopfast_only("of loopfast's transports, which enter libuv")
def test_flow_control_from_a_foreign_thread_while_data_comes_in(loop_kind):
    """libuv reads without the GIL, so what it reads with must not go away meanwhile."""
    code = """
        import random
        from support import tcp_pair
        sys.setswitchinterval(1e-5)
        async def one_round(loop, number):
            mine, peer = tcp_pair(nonblocking=False)
            mine.setblocking(False)
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
            peer.settimeout(0.001)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=mine)
            done = []
            def other_end():
                try:
                    while not done:
                        try:
                            peer.recv(3000)
                        except TimeoutError:
                            pass
                        peer.send(b"y" * 2000)
                except OSError:
                    pass
            def misuse():
                choice = random.Random(number)
                for _ in range(300):
                    what = choice.randrange(5)
                    if what < 2:
                        transport.pause_reading()
                    elif what < 4:
                        transport.resume_reading()
                    else:
                        transport.write(b"z" * 300_000)
                transport.close() if number % 2 else transport.abort()
                done.append(True)
            threads = [threading.Thread(target=function) for function in (other_end, misuse)]
            for thread in threads:
                thread.start()
            while not done:
                await asyncio.sleep(0.0005 + random.random() / 500)
            transport.abort()
            await asyncio.sleep(0)
            for thread in threads:
                thread.join()
            peer.close()
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: None)
            for number in range(150):
                await one_round(loop, number)
        run(main())
        print("done")
    """
    with program(loop_kind, code) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "done\n"), err

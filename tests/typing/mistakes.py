"""Mistakes that a type checker must find. The comment of a line names the error that mypy reports there."""

import asyncio

import loopfast
from loopfast.errors import uv_exception
from loopfast.transports.tcp import TCPTransport


def add(left: int, right: int) -> int:
    return left + right


async def main() -> int:
    return 1


def mistakes(loop: loopfast.Loop, transport: TCPTransport) -> None:
    loop.call_soon(add, 1)  # E: arg-type
    loop.call_soon(add, 1, "2")  # E: arg-type
    loop.call_later("soon", print)  # E: arg-type
    loop.call_soon(print, context={})  # E: arg-type
    loop.set_write_gathering()  # E: call-arg
    loop.no_such_method()  # E: attr-defined
    loop.statistics().timers = 5  # E: misc
    print(loop.statistics().no_such_field)  # E: attr-defined
    transport.write("text")  # E: arg-type
    transport.set_write_gathering(enable=True)  # E: call-arg
    text: str = loopfast.run(main())  # E: assignment
    loopfast.run(main)  # E: arg-type
    loopfast.run(main(), True)  # E: call-arg
    loopfast.new_event_loop(1)  # E: call-arg
    loopfast.libuv_version().no_such_method()  # E: attr-defined
    print(loopfast.no_such_name)  # E: attr-defined
    uv_exception("UV_EOF")  # E: arg-type
    asyncio.Runner(loop_factory=loopfast.install)  # E: arg-type
    loopfast.fs.stat(3.5)  # E: arg-type, unused-coroutine
    loopfast.fs.write_bytes("file", "text")  # E: arg-type, unused-coroutine
    loopfast.fs.open("file", "rb", encoding="utf-8").no_such_method()  # E: attr-defined
    print(text)

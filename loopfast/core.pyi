# What Python code may know of the compiled core; the Cython declarations are in core.pxd.

import asyncio
from typing import Any

from typing_extensions import disjoint_base

from loopfast.buffers import LoopBuffers

@disjoint_base
class LoopObject: ...

@disjoint_base
class LoopCore(LoopBuffers):
    def time(self) -> float: ...
    def stop(self) -> None: ...
    def libuv_get_loop_t_ptr(self) -> object: ...
    def _libuv_enter_ptr(self) -> object: ...

    # Compiled, for _loop.py.
    def _check_closed(self) -> None: ...
    def _close_core(self) -> None: ...
    def _run_until_stopped(self) -> None: ...

    # loopfast.uv's.
    _binding: Any
    # Counted, and stored here by _loop.py.
    _accept_errors: int
    _accepted: int
    _bytes_received: int
    _bytes_sent: int
    _endpoint: Any
    _pipes: Any
    _upgrading: Any
    _slow_calls: Any
    _slow_sample: Any

    # asyncio's own, stored here.
    _closed: bool
    _executor_shutdown_called: bool
    _internal_fds: int
    _ready: Any
    _signal_handlers: dict[int, asyncio.Handle]
    _stopping: bool
    _transports: Any
    _thread_id: int | None

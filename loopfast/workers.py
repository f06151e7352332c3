"""Worker classes for gunicorn: uvicorn on loopfast, as in ``gunicorn -k loopfast.workers.UvicornWorker app:app``.

They are uvicorn-worker's classes, or uvicorn's own where that package is not installed, with the loop named and a
server that answers what it has accepted before it ends.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from loopfast.serving import DrainingServer

__all__ = ["UvicornH11Worker", "UvicornWorker"]

if TYPE_CHECKING:

    class _UvicornWorker:
        """What is used of the class of uvicorn-worker, which need not be there where types are checked."""

        CONFIG_KWARGS: dict[str, Any]
        config: Any
        wsgi: Any
        sockets: Any

        def _install_sigquit_handler(self) -> None: ...

else:
    try:
        from uvicorn_worker import UvicornWorker as _UvicornWorker
    except ModuleNotFoundError as exc:
        if exc.name != "uvicorn_worker":
            raise
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it points to uvicorn-worker
            from uvicorn.workers import UvicornWorker as _UvicornWorker

#: What gunicorn takes for "the worker could not start", and ends by itself (``Arbiter.WORKER_BOOT_ERROR``).
BOOT_ERROR = 3


class UvicornWorker(_UvicornWorker):
    """gunicorn's uvicorn worker on loopfast. It needs uvicorn 0.36 or later, which takes a loop by its import string.

    On SIGTERM, and so in a restart by SIGHUP to gunicorn, it ends as `loopfast.serving.DrainingServer` does. For other
    options of uvicorn's derive a class and extend ``CONFIG_KWARGS``, as with the class this one comes from.
    """

    CONFIG_KWARGS: dict[str, Any] = {**_UvicornWorker.CONFIG_KWARGS, "loop": "loopfast:new_event_loop"}

    async def _serve(self) -> None:
        # The base class names its server nowhere else.
        self.config.app = self.wsgi
        self._install_sigquit_handler()
        server = DrainingServer(self.config)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(BOOT_ERROR)


class UvicornH11Worker(UvicornWorker):
    """The same with the HTTP parser h11, which is written in Python."""

    CONFIG_KWARGS: dict[str, Any] = {**UvicornWorker.CONFIG_KWARGS, "http": "h11"}

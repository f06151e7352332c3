"""class Loop: the compiled loop joined with the cold half of asyncio's surface, taken from the running interpreter.

Inheriting from the interpreter's own ``asyncio.SelectorEventLoop`` makes keywords, checks and semantics of the cold
methods exactly those of its version; its private hooks are answered by native code here and in ``loopfast.baseloop``.
"""

from __future__ import annotations

import _socket
import asyncio
import collections
import concurrent.futures
import contextlib
import contextvars
import errno
import functools
import os
import selectors
import signal
import socket
import ssl
import sys
import threading
import types
import weakref
from asyncio import base_events, constants, events, sslproto
from asyncio.log import logger
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast

from loopfast._executors import wrap_work
from loopfast._statistics import REMEMBERED, LoopStatistics, SlowCallback, describe_slow, name_call
from loopfast._streams import use_fast_streams, with_fast_streams
from loopfast.baseloop import BaseLoop, PipeEnd, is_in_environment, is_plain_socket, open_pipe
from loopfast.census import take_census
from loopfast.dns import look_up
from loopfast.scheduling import install_fast_methods
from loopfast.tls import TLSProtocol
from loopfast.transports.pipe import ReadPipeTransport, WritePipeTransport

if sys.platform != "win32":
    from asyncio import unix_events

if TYPE_CHECKING:
    from loopfast._endpoint import Endpoint

__all__ = ["Loop"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_Pipe = TypeVar("_Pipe", bound=asyncio.BaseTransport)
# Whoever replaces asyncio's class gets the replacement.
InheritedProtocol = sslproto.SSLProtocol


class _WatchedDescriptors:
    """The part of a selector that asyncio's own Python transports look at (in their repr)."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def get_key(self, fd: int) -> selectors.SelectorKey:
        mask = self._loop._watched_events(fd)
        if not mask:
            raise KeyError(f"{fd!r} is not registered")
        return selectors.SelectorKey(fd, fd, mask, None)

    def close(self) -> None:
        """Nothing to do: the descriptors belong to the loop."""


class _Accepting:
    """A listening socket in one run of asyncio's accept loop, with nothing more to accept once accept() has failed.

    The loop itself goes on for the whole backlog when descriptors are wanting, with a report and a timer each time.
    """

    def __init__(self, sock: socket.socket, loop: Loop) -> None:
        self.sock = sock
        self._loop = loop
        self._failed = False

    def accept(self) -> tuple[socket.socket, Any]:
        if self._failed:
            raise BlockingIOError
        try:
            accepted = self.sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            self._failed = True
            raise
        except OSError:
            self._failed = True
            self._loop._accept_errors += 1
            raise
        self._loop._accepted += 1
        return accepted

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def __eq__(self, other: object) -> bool:
        # It stands for the socket where asyncio hands it on.
        return other is self or other is self.sock

    def __hash__(self) -> int:
        return hash(self.sock)


#: The originals of what a program may replace to have a say in the lookup of names.
_GETADDRINFO = socket.getaddrinfo if getattr(socket.getaddrinfo, "__globals__", None) is vars(socket) else None

#: What the resolver answers for an IPv4 address in numbers when it is asked for one kind of socket.
_KINDS: dict[int, tuple[socket.AddressFamily, socket.SocketKind, int, str]] = {
    socket.SOCK_STREAM: (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""),
    socket.SOCK_DGRAM: (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP, ""),
}


#: The family of UNIX sockets, a number that no socket has where there are none.
_UNIX = getattr(socket, "AF_UNIX", -1)

#: The class of sockets, which a program may replace.
_SOCKET = socket.socket

#: The numbers behind a socket's attributes, of which socket.socket makes members of enumerations each time.
_FAMILY_OF, _TYPE_OF, _PROTO_OF = (
    _socket.socket.family.__get__,
    _socket.socket.type.__get__,
    _socket.socket.proto.__get__,
)


def _self_pipe() -> tuple[PipeEnd, PipeEnd] | tuple[socket.socket, socket.socket]:
    """Return the ends to read and to write. Raises OSError."""
    if sys.platform == "win32":
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        return ends
    return open_pipe()


def _is_address(family: int, host: str) -> bool:
    """Return True if *host* is an address of *family* in numbers."""
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        return False
    return True


def _needs_no_lookup(sock: Any, address: Any) -> bool:
    """Return True if *sock* is a plain socket of UNIX or TCP to which *address* means what it says."""
    if type(sock) is not _SOCKET:
        return False
    family = _FAMILY_OF(sock)
    if family == _UNIX:
        return True
    if family != socket.AF_INET or _TYPE_OF(sock) != socket.SOCK_STREAM:
        return False
    if _PROTO_OF(sock) not in (0, socket.IPPROTO_TCP) or type(address) is not tuple or len(address) != 2:
        return False
    host, port = address
    return type(port) is int and 0 <= port <= 65535 and type(host) is str and _is_address(socket.AF_INET, host)


def _resolve_numeric(host: Any, port: Any, family: int, kind: int, proto: int, flags: int) -> Any:
    """Return what ``socket.getaddrinfo`` does if *host* is an address in numbers, for which the resolver asks nobody;
    else None."""
    if type(host) is not str or not (port is None or isinstance(port, int)):
        return None
    if _is_address(socket.AF_INET, host):
        entry = _KINDS.get(kind)
        # True is an int, but no port.
        if entry and family in (0, socket.AF_INET) and proto == flags == 0 and type(port) is int and 0 <= port <= 65535:
            return [(*entry, (host, port))]
    elif not _is_address(socket.AF_INET6, host):
        return None
    return socket.getaddrinfo(host, port, family, kind, proto, flags)


def _refuse_cut_path(sock: Any, address: Any) -> None:
    """Raise ValueError for the path of a unix socket with NUL inside, which the kernel would cut there."""
    if isinstance(address, (str, bytes, bytearray)) and getattr(sock, "family", None) == _UNIX:
        path = os.fsencode(address) if isinstance(address, str) else address
        # Abstract names begin with one, and may have more.
        if 0 in path and path[0] != 0:
            raise ValueError(f"embedded null byte in the path {address!r}")


def _tls_class() -> type[sslproto.SSLProtocol]:
    return TLSProtocol if sslproto.SSLProtocol is InheritedProtocol else sslproto.SSLProtocol


def _upgraded_tls(loop: Loop, *args: Any, **kwargs: Any) -> Any:
    tls: Any = _tls_class()(loop, *args, **kwargs)
    tls._ssl_writing_paused, tls._app_writing_paused = loop._upgrading
    return tls


def _serving_options(
    sslcontext: Any,
    ssl_handshake_timeout: Any = constants.SSL_HANDSHAKE_TIMEOUT,
    ssl_shutdown_timeout: Any = constants.SSL_SHUTDOWN_TIMEOUT,
    context: Any = None,
) -> tuple[tuple[Any, Any, Any] | None, Any]:
    """Sort what asyncio says of a server: its TLS, if it has any, and the context of its connections."""
    return (sslcontext, ssl_handshake_timeout, ssl_shutdown_timeout) if sslcontext else None, context


# The running asyncio's own function, which differs between versions, with another class of TLS connections. One for all
# calls: without the GIL a function waits for the garbage collector.
_start_tls: Callable[..., Coroutine[Any, Any, Any]] = types.FunctionType(
    base_events.BaseEventLoop.start_tls.__code__,
    {**vars(base_events), "sslproto": types.SimpleNamespace(SSLProtocol=_upgraded_tls)},
)
_start_tls.__kwdefaults__ = base_events.BaseEventLoop.start_tls.__kwdefaults__


class Loop(BaseLoop, asyncio.SelectorEventLoop):
    """An asyncio event loop on libuv.

    Everything that ``asyncio``'s documentation says of event loops holds:
    https://docs.python.org/3/library/asyncio-eventloop.html
    """

    # Fields of LoopCore, as all of a loop's state: an instance dictionary would slow down every call of its methods.

    #: One for each child that this loop waits for itself; owned. None without any.
    _pidfds: frozenset[int] | None
    #: Whom signals woke before this loop ran: a descriptor, -1, or None where there is nothing to restore.
    _previous_wakeup_fd: int | None
    #: A loop that installed a signal handler while this one ran, and shares its wake-up.
    _installed_meanwhile: Loop | None
    #: True once the default executor is the user's choice; None before.
    _executor_chosen: bool | None

    #: Transports of pipes, which the compiled part does not see; weakly. None without any.
    _pipes: set[weakref.ref[Any]] | None
    _upgrading: tuple[bool, bool]
    #: The last slow callbacks, and the stack that was seen during the one that began at a time. None without any.
    _slow_calls: collections.deque[SlowCallback] | None
    _slow_sample: tuple[float, tuple[str, ...]] | None
    #: asyncio's.
    _default_executor: Any
    #: What `loopfast top` asks, once it is wanted. See _endpoint.py.
    _endpoint: Endpoint | None

    def __init__(self) -> None:
        super().__init__(cast(selectors.BaseSelector, _WatchedDescriptors(self)))
        # The first question takes a tenth of the time of the second.
        if (
            sys.platform != "win32"
            and is_in_environment(b"LOOPFAST_TOP")
            and (wanted := os.environ.get("LOOPFAST_TOP"))
        ):
            self._want_endpoint(wanted)

    # ------------------------------------------------------------------------------------------------- running

    def run_forever(self) -> None:
        """Run until `stop` is called.

        Raises:
            RuntimeError: the loop is closed, or it or another loop runs in this thread.
        """
        self._check_closed()
        self._check_running()
        hooks = sys.get_asyncgen_hooks()
        try:
            self._set_coroutine_origin_tracking(self._debug)
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
            self._previous_wakeup_fd = self._take_wakeup_fd()
            events._set_running_loop(self)
            if self._endpoint is not None:
                self._endpoint.open_or_warn()
            self._run_until_stopped()
        finally:
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            self._give_wakeup_fd_back()
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*hooks)

    def close(self) -> None:
        """Close the loop: pending callbacks are dropped, transports that are still open are closed. Idempotent.

        Raises:
            RuntimeError: the loop is running.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self._closed:
            return
        if self._endpoint is not None:
            self._endpoint.close()
        if self._ready is None:
            # Made by __new__() alone: asyncio's part was never set up.
            self._closed = True
        else:
            super().close()
        if self._binding is not None:
            self._binding._asyncio_closes()
        self._close_core()
        pidfds, self._pidfds = self._pidfds, None
        for pidfd in pidfds or ():
            os.close(pidfd)

    # ------------------------------------------------------------------------------------------------- insight

    def statistics(self) -> LoopStatistics:
        """Return what the loop is doing and has done so far, in a snapshot.

        It may be called from any thread, in any state of the loop: of a closed one it tells the counts of its life. The
        counting is always on; a snapshot costs some microseconds, and a little more for each open transport.
        """
        facts = take_census(self)
        kinds = facts["transports"]
        pipes = [reference() for reference in tuple(self._pipes or ())]
        kinds["pipe"] = sum(pipe is not None and pipe._pipe is not None for pipe in pipes)
        others = self._transports.valuerefs() if self._transports else ()
        kinds["other"] = sum(getattr(reference(), "_sock", None) is not None for reference in others)
        # The loop's thread may add one meanwhile; a copy is made at once.
        slow = self._slow_calls
        return LoopStatistics(**facts, slow=tuple(slow.copy()) if slow else ())

    def _on_slow_callback(self, subject: Any, method: str | None, started: float, duration: float) -> None:
        """Remember what took long, and in debug mode log it. *subject* is a handle, a protocol of which *method* was
        called, or None where it is not known."""
        sample = self._slow_sample
        seen = sample[1] if sample is not None and sample[0] == started else None
        slow = describe_slow(subject, method, duration, seen)
        if self._slow_calls is None:
            self._slow_calls = collections.deque(maxlen=REMEMBERED)
        self._slow_calls.append(slow)
        if not self._debug or subject is None:
            return
        text = name_call(subject, method)
        if slow.task is not None and slow.taken in ("during", "after"):
            stack = "".join(f"\n  {line}" for line in slow.stack)
            where = "suspended at" if slow.taken == "after" else "in"
            cast(Any, base_events).logger.warning(
                "Executing %s took %.3f seconds\nThe task was %s:%s", text, duration, where, stack
            )
        else:
            cast(Any, base_events).logger.warning("Executing %s took %.3f seconds", text, duration)

    def open_statistics_endpoint(self, folder: str | os.PathLike[str] | None = None) -> str:
        """Let ``loopfast top`` watch this loop while it runs, as ``LOOPFAST_TOP=1`` in the environment does. Unix only.

        Opens a UNIX socket that only processes of this user, and of root, may ask; closing the loop removes it. While
        it is open each callback is timed.

        Args:
            folder: where to make the socket; made with mode 0700 if it is not there. None means
                ``$XDG_RUNTIME_DIR/loopfast``, or ``loopfast-UID`` in the folder for temporary files.

        Returns:
            The path of the socket.

        Raises:
            OSError: the folder or the socket cannot be made; other users could put something in the place of either.
            RuntimeError: the loop is closed, or its endpoint is open in another folder.
        """
        self._check_closed()
        wanted = None if folder is None else os.path.abspath(os.fspath(folder))
        if self._endpoint is not None and self._endpoint.path is not None:
            if wanted is not None and os.path.dirname(self._endpoint.path) != wanted:
                raise RuntimeError(f"the statistics endpoint of this loop is open at {self._endpoint.path!r}")
            return self._endpoint.open()
        endpoint = _new_endpoint(self, wanted)
        path = endpoint.open()
        self._endpoint = endpoint
        return path

    def close_statistics_endpoint(self) -> None:
        """Close what `open_statistics_endpoint` or ``LOOPFAST_TOP`` has opened. Idempotent."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.close()

    def _want_endpoint(self, wanted: str) -> None:
        from loopfast import _endpoint

        folder = _endpoint.wanted_folder(wanted)
        if folder:
            # Opened when the loop runs: a process may fork before, and each one that runs the loop has its own.
            self._endpoint = _endpoint.Endpoint(self, None if folder is True else str(folder))

    # ------------------------------------------------------------------------------------------------- signals
    # Python's C-level signal handler writes to the "self-pipe", which wakes a sleeping loop; the handlers themselves
    # run where Python runs them, or are dispatched by asyncio's own code from what is read. The pipe is made on first
    # use. It is one, where asyncio has a pair of sockets: made in half the time, and full after 65,536 signals instead
    # of a few hundred. On Windows signals need sockets.

    _ssock: Any
    _csock: Any

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None
        self._internal_fds += 1

    def _open_self_pipe(self) -> int:
        if self._csock is None:
            ours, handlers = _self_pipe()
            try:
                self._add_internal_reader(ours.fileno(), self._read_from_self)
            except BaseException:
                ours.close()
                handlers.close()
                raise
            self._ssock, self._csock = ours, handlers
        elif isinstance(self._csock, PipeEnd) and self._csock.is_inherited():
            self._part_self_pipe()
        number: int = self._csock.fileno()
        return number

    def _part_self_pipe(self) -> None:
        """In a forked child: a pipe of its own under the parent's numbers, or each would get signals of the other."""
        ours, handlers = open_pipe()
        number = self._ssock.fileno()
        self.remove_reader(number)
        self._ssock.replace(ours)
        self._add_internal_reader(number, self._read_from_self)
        # The last step: where one before it fails, the next run begins anew.
        self._csock.replace(handlers)

    def _close_self_pipe(self) -> None:
        if self._csock is None:
            self._internal_fds -= 1
            return
        running = events._get_running_loop()
        if isinstance(running, Loop) and running._previous_wakeup_fd == self._csock.fileno():
            # The number is about to be free: restored later, signals would write into whatever file has it then.
            running._previous_wakeup_fd = -1
            running._installed_meanwhile = None
        super()._close_self_pipe()

    def _take_wakeup_fd(self) -> int | None:
        """Have signals wake this loop; return the descriptor to restore, or None if this is not the main thread."""
        if threading.current_thread() is not threading.main_thread():
            # What the self-pipe opens in the main thread.
            with contextlib.suppress(OSError):
                self._open_descriptor_set()
            return None
        try:
            return signal.set_wakeup_fd(self._open_self_pipe(), warn_on_full_buffer=False)
        except ValueError:
            # A subinterpreter: signals go to the main one.
            return None

    def _give_wakeup_fd_back(self) -> None:
        wakeup_fd, self._previous_wakeup_fd = self._previous_wakeup_fd, None
        other, self._installed_meanwhile = self._installed_meanwhile, None
        # With signal handlers installed, signals that come while the loop rests are kept in the pipe for its next run,
        # unless another loop was the last to install one.
        if wakeup_fd is not None and (other is not None or not getattr(self, "_signal_handlers", None)):
            try:
                signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
            except (OSError, ValueError):
                # Its owner closed it while the loop ran.
                signal.set_wakeup_fd(-1)

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Call ``callback(*args)`` in the loop when the signal *sig* arrives. Unix only.

        Raises:
            ValueError: *sig* is not a signal number.
            RuntimeError: it cannot be caught, or this is not the main thread.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.add_signal_handler
        """
        self._check_closed()
        self._open_self_pipe()
        running = events._get_running_loop()
        try:
            super().add_signal_handler(sig, callback, *args)
            if isinstance(running, Loop) and running is not self:
                running._previous_wakeup_fd = self._open_self_pipe()
                running._installed_meanwhile = self
        finally:
            # asyncio has given the wake-up to this loop, or to none if it failed. Without it a running loop sleeps
            # through a signal, and Python's own handler (of Ctrl-C, say) is not run before the loop wakes.
            if isinstance(running, Loop):
                running._take_wakeup_fd()

    def _handle_signal(self, sig: int) -> None:
        other = self._installed_meanwhile
        if other is not None and sig not in self._signal_handlers:
            # Kept there for its next run.
            other._handle_signal(sig)
        else:
            super()._handle_signal(sig)  # type: ignore[misc]

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove the handler of *sig*; return False if there was none. Unix only."""
        removed = super().remove_signal_handler(sig)
        if removed and not self._signal_handlers:
            # asyncio has switched the wake-up off, also that of another loop which runs while this one is closed.
            running = events._get_running_loop()
            if isinstance(running, Loop):
                running._take_wakeup_fd()
        return removed

    # ------------------------------------------------------------------------------------------------- executors, names

    def run_in_executor(self, executor: Any, func: Callable[[*_Ts], _T], *args: *_Ts) -> asyncio.Future[_T]:
        """Call ``func(*args)`` in *executor*, or in the default one if that is None; return a future of the result.

        Raises:
            RuntimeError: the loop is closed, or its default executor was shut down.
            TypeError: in debug mode, if *func* is a coroutine function or cannot be called.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.run_in_executor
        """
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")  # type: ignore[attr-defined]
        if executor is None:
            executor = self._default_executor
            # Only where the default executor is wanted.
            self._check_default_executor()  # type: ignore[attr-defined]
            if executor is None:
                executor = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="asyncio")
                self._default_executor = executor
        return wrap_work(executor.submit(func, *args), self)

    def set_default_executor(self, executor: Any) -> None:
        """Set the executor of `run_in_executor`, and of the lookup of names from now on.

        Raises:
            TypeError: *executor* is not a ``concurrent.futures.ThreadPoolExecutor``.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.set_default_executor
        """
        super().set_default_executor(executor)
        self._executor_chosen = True

    def _resolves_itself(self) -> bool:
        """True if nobody could tell a lookup in libuv's threads from one in the executor's."""
        return not (
            self._executor_chosen
            or self._executor_shutdown_called
            or socket.getaddrinfo is not _GETADDRINFO
            or cast(Any, base_events).socket is not socket
            or type(self).run_in_executor is not Loop.run_in_executor
        )

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Return what ``socket.getaddrinfo`` does. A numeric host needs no thread: it is answered at once.

        A name is looked up in libuv's threads, or in the default executor where one was set or those are busy.

        Raises:
            socket.gaierror: *host* or *port* cannot be resolved.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.getaddrinfo
        """
        if not self._debug:
            found = _resolve_numeric(host, port, family, type, proto, flags)
            if found is not None:
                return found
            if self._resolves_itself():
                lookup = look_up(self, host, port, family, type, proto, flags)
                if lookup is not None:
                    try:
                        return await lookup.future
                    except asyncio.CancelledError:
                        lookup.cancel()
                        raise
        return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect the non-blocking *sock* with *address*.

        Raises:
            OSError: they cannot be connected.
            ValueError: *address* is a path with NUL inside, or in debug mode *sock* is blocking.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.sock_connect
        """
        _refuse_cut_path(sock, address)
        if self._debug or not _needs_no_lookup(sock, address):
            return await super().sock_connect(sock, address)
        fut = self.create_future()
        self._sock_connect(fut, sock, address)
        try:
            await fut
        finally:
            # The exception holds this frame.
            del fut

    def _sock_connect(self, fut: asyncio.Future[None], sock: socket.socket, address: Any) -> None:
        fd = sock.fileno()
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError):
            self._ensure_fd_no_transport(fd)
            if self._connected_at_once(fd):
                # As that of asyncio, which would have taken its place, and gone.
                self._remove_writer(fd)
                fut.set_result(None)
                return
            asyncios = cast(Any, self)
            handle = self._add_writer(fd, asyncios._sock_connect_cb, fut, sock, address)
            fut.add_done_callback(functools.partial(asyncios._sock_write_done, fd, handle=handle))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            fut.set_exception(exc)
        else:
            fut.set_result(None)
        finally:
            # The exception holds this frame.
            del fut

    # ------------------------------------------------------------------------------------------------- transports

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if isinstance(sock, _Accepting):
            # Once more after a lack of descriptors; the server may have been closed since.
            sock = sock.sock
            if sock.fileno() < 0:
                return
        if is_plain_socket(sock):
            # From 3.15 on asyncio passes the context that the server was made in.
            tls, context = _serving_options(sslcontext, *args, **kwargs)
            self._listen(with_fast_streams(self, protocol_factory), sock, server, tls, backlog, context)
        else:
            super()._start_serving(protocol_factory, sock, sslcontext, server, backlog, *args, **kwargs)

    def _serve_tls(self, accepted: Any, protocol_factory: Any, tls: Any, context: Any) -> None:
        serving = self._shake_hands(accepted, protocol_factory, tls, context)
        self.create_task(serving, **({} if context is None else {"context": context}))

    async def _shake_hands(
        self,
        accepted: Any,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        options: tuple[Any, Any, Any],
        context: Any,
    ) -> None:
        """Serve the *accepted* connection; this ends with the handshake, and closes the connection if it fails."""
        sslcontext, handshake_timeout, shutdown_timeout = options
        details: dict[str, Any] = {"message": "Error on transport creation for incoming connection"}
        try:
            protocol = details["protocol"] = protocol_factory()
            waiter = self.create_future()
            tls: Any = _tls_class()(
                self,
                protocol,
                sslcontext,
                waiter,
                server_side=True,
                ssl_handshake_timeout=handshake_timeout,
                ssl_shutdown_timeout=shutdown_timeout,
            )
            self._serve_accepted(accepted, tls, context)
            transport = details["transport"] = tls._app_transport
            try:
                await waiter
            except BaseException:
                transport.close()
                raise
            finally:
                # Its exception holds this frame.
                del waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if self._debug:
                details = {name: value for name, value in details.items() if value is not None}
                self.call_exception_handler({**details, "exception": exc})

    def _accept_connection(self, protocol_factory: Any, sock: Any, *args: Any, **kwargs: Any) -> None:
        inherited: Any = super()
        inherited._accept_connection(protocol_factory, _Accepting(sock, self), *args, **kwargs)

    def _stop_serving(self, sock: socket.socket) -> None:
        if self._left_to_the_loop(self._stop_serving, sock):
            # The watcher must go before the descriptor does.
            return
        self._stop_listening(sock)
        super()._stop_serving(sock)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: Any = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: Any = constants.SSL_SHUTDOWN_TIMEOUT,
        **kwargs: Any,
    ) -> asyncio.Transport:
        tls = _tls_class()(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._make_socket_transport(rawsock, tls, extra=extra, server=server, **kwargs)
        return tls._app_transport

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        **options: Any,
    ) -> Any:
        """Put TLS over *transport*; return the transport that *protocol* uses from now on, or None if it is closed.

        Raises:
            TypeError: *sslcontext* is no context, or *transport* cannot do this.
            OSError: the handshake failed.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.start_tls
        """
        # What was written before may still wait: the protocol that was told to pause is told to resume by TLS.
        full = getattr(transport, "_protocol_paused", False) is True
        # asyncio's code makes the TLS connection, which takes this, before it first waits.
        self._upgrading = full, full and transport.get_protocol() is protocol
        return await _start_tls(self, transport, protocol, sslcontext, **options)

    if sys.platform != "win32":

        def _make_read_pipe_transport(
            self, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None
        ) -> asyncio.ReadTransport:
            return self._know_pipe(ReadPipeTransport(self, pipe, protocol, waiter, extra))

        def _make_write_pipe_transport(
            self, pipe: Any, protocol: asyncio.BaseProtocol, waiter: Any = None, extra: dict[str, Any] | None = None
        ) -> asyncio.WriteTransport:
            return self._know_pipe(WritePipeTransport(self, pipe, protocol, waiter, extra))

        def _know_pipe(self, transport: _Pipe) -> _Pipe:
            if self._pipes is None:
                self._pipes = set()
            self._pipes.add(weakref.ref(transport, self._pipes.discard))
            return transport

    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        # From 3.12 on asyncio waits for children through a pidfd where there are any, before in a thread for each. This
        # is for the loops of 3.11, unless the user has chosen another watcher.

        async def _make_subprocess_transport(
            self,
            protocol: asyncio.SubprocessProtocol,
            args: Any,
            shell: bool,
            stdin: Any,
            stdout: Any,
            stderr: Any,
            bufsize: int,
            extra: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> Any:
            watcher = asyncio.get_child_watcher()
            if type(watcher) is not asyncio.ThreadedChildWatcher:
                inherited: Any = super()
                return await inherited._make_subprocess_transport(
                    protocol, args, shell, stdin, stdout, stderr, bufsize, extra, **kwargs
                )
            waiter = self.create_future()
            transport = cast(Any, unix_events)._UnixSubprocessTransport(
                self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter, extra=extra, **kwargs
            )
            # The end is told in an empty context, as that of a thread is.
            contextvars.Context().run(self._watch_child, watcher, transport)
            try:
                await waiter
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                transport.close()
                await transport._wait()
                raise
            return transport

        def _watch_child(self, watcher: asyncio.AbstractChildWatcher, transport: Any) -> None:
            pid = transport.get_pid()
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                # An old kernel, or no descriptor left.
                watcher.add_child_handler(pid, cast(Any, self)._child_watcher_callback, transport)
                return
            self._pidfds = (self._pidfds or frozenset()) | {pidfd}
            self.add_reader(pidfd, self._on_child_ended, pidfd, pid, transport)

        def _on_child_ended(self, pidfd: int, pid: int, transport: Any) -> None:
            self.remove_reader(pidfd)
            self._pidfds = (self._pidfds or frozenset()) - {pidfd}
            os.close(pidfd)
            try:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            except ChildProcessError:
                # Somebody else was faster.
                status = 255
                logger.warning("child process pid %d exit status already read: will report returncode 255", pid)
            # Not at once: what the child has written comes first.
            self.call_soon(self.call_soon, transport._process_exited, status)

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        """Send *file* with the system call. While that waits, the socket is watched as users' descriptors are."""
        reading = transp.is_reading()
        transp.pause_reading()
        await transp._make_empty_waiter()
        try:
            # Without a descriptor left this raises before anything is sent. asyncio's fallback would be no substitute:
            # it moves the position of the file, which others may be sending at the same time.
            self._open_descriptor_set()
            sock = transp._sock
            sock.setblocking(False)
            sent = await self.sock_sendfile(sock, file, offset, count, fallback=False)
            self._bytes_sent += sent
            return sent
        except OSError as exc:
            if exc.errno == errno.EBADF and transp.is_closing():
                raise ConnectionError("Connection closed by peer") from exc
            raise
        finally:
            transp._reset_empty_waiter()
            if reading:
                transp.resume_reading()


def _new_endpoint(loop: Loop, folder: str | None) -> Endpoint:
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "there are no UNIX sockets on Windows")
    from loopfast import _endpoint

    return _endpoint.Endpoint(loop, folder)


install_fast_methods(Loop)
use_fast_streams()

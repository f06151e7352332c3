"""What every native transport is: the asyncio state machine of a connection, flow control, and the end of it.

The behaviour is that of asyncio's own transports (https://docs.python.org/3/library/asyncio-protocol.html).
"""

import asyncio
import socket
import warnings
import weakref
from asyncio import constants, futures, transports, trsock
from asyncio.log import logger

cimport cython
from cpython.object cimport PyObject
from libc.stdlib cimport free, malloc

from loopfast.core cimport LoopCore, handed_over, handed_over_with, is_for_its_thread
from loopfast.handles.base cimport UVHandle
from loopfast.includes.python cimport (
    Py_DECREF, Py_INCREF, Py_XDECREF, PyContext_CopyCurrent, propagate,
)
from loopfast.includes.threads cimport LF_FREE_THREADED, lf_lend, lf_lock, lf_try_incref, lf_unlock

cdef enum:
    DEFAULT_HIGH_WATER = 64 * 1024

cdef object set_result_unless_cancelled = futures._set_result_unless_cancelled
cdef object base_transport = transports.BaseTransport
cdef object base_get_extra_info = base_transport.get_extra_info


cdef class FastProtocol:
    """Base of protocols that take data without a ``bytes`` object. Not for direct use."""

    cdef int receive(self, const char* data, Py_ssize_t size) noexcept:
        return 0


@cython.no_gc_clear
cdef class NativeTransport(UVHandle):
    """Base of the native transports. Not for direct use."""

    def __cinit__(self):
        self.high_water = DEFAULT_HIGH_WATER
        self.low_water = DEFAULT_HIGH_WATER // 4
        self.closing = True
        self.fd = -1

    def __dealloc__(self):
        if self.connections is not None:
            self.connections.unlink(self)
        Py_XDECREF(self.context)
        Py_XDECREF(self.held_sock)

    def __del__(self):
        if self.connections is not None:
            # Before all else: nobody may find there what is being deallocated.
            self.connections.unlink(self)
        if self.handle == NULL and not self.left_open:
            return
        if self.is_left_to_its_thread():
            return
        self.left_open = False
        warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
        if self.handle == NULL:
            return
        server, self.server = self.server, None
        self.release_socket()
        self.close_handle()
        if server is not None:
            detach_from_server(server, self)

    cdef bint is_left_to_its_thread(self) noexcept:
        """Without the GIL the last reference may go on any thread: the loop's gets one more, and ends this."""
        if not is_for_its_thread(self.loop):
            return False
        try:
            self.loop.call_soon_threadsafe(self._end_here)
        except RuntimeError:
            # The loop closes just now.
            return False
        return True

    def _end_here(self):
        NativeTransport.__del__(self)

    # ------------------------------------------------------------------------------------------------- descriptor

    cdef int claim(self, LoopCore loop, int fd, object sock) except -1:
        self.fd = fd
        self.hold_socket(sock)
        return loop.claim_descriptor(fd, self)

    cdef void hold_socket(self, object sock) noexcept:
        cdef PyObject* before = self.held_sock
        self.sock = sock
        self.held_sock = NULL
        if sock is not None:
            Py_INCREF(<PyObject*> sock)
            self.held_sock = <PyObject*> sock
        Py_XDECREF(before)

    cdef object socket_object(self):
        return self.sock

    cdef int family(self) except -1:
        """The address family of the socket, also once it is closed: of one with IPv6 the name has four parts."""
        return socket.AF_INET6 if isinstance(self.sockname, tuple) and len(self.sockname) == 4 else socket.AF_INET

    cdef object name_of_peer(self):
        return end_name(self.socket_object().getpeername) if self.handle != NULL else None

    cdef object own_name(self):
        return end_name(self.socket_object().getsockname) if self.handle != NULL else None

    cdef int release_socket(self) except -1:
        """Before libuv closes the descriptor: part it from the socket object."""
        if self.fd >= 0:
            self.loop.release_descriptor(self.fd, self)
        if self.sock is not None:
            self.sock.detach()
            self.hold_socket(None)
        return 0

    cdef void on_loop_close(self) noexcept:
        try:
            self.release_socket()
        except Exception as exc:
            self.loop.fail(exc)
        self.left_open = self.handle != NULL and not self.conn_lost
        self.closing = True
        self.close_handle()

    def get_extra_info(self, name, default=None):
        """Return what is known of the connection under *name*.

        Args:
            name: ``"socket"``, ``"sockname"``, ``"peername"``, or what the transport was made with.
            default: returned for an unknown name.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.BaseTransport.get_extra_info
        """
        # asyncio's own transports inherit this method: replaced in the class, as tests do, it is replaced for them all.
        if base_transport.get_extra_info is not base_get_extra_info:
            return replaced_get_extra_info(self, name, default)
        return self.info_on(name, default)

    cdef object info_on(self, object name, object default):
        if self.extra is not None and name in self.extra:
            return self.extra[name]
        if name == "peername":
            if self.peername is None:
                self.peername = self.name_of_peer()
            return self.peername
        if name == "sockname":
            if self.sockname is None:
                self.sockname = self.own_name()
            return self.sockname
        if name == "socket":
            if self.handle != NULL:
                # Whoever holds the socket may look at what is on the wire.
                self.flush()
            elif self.fd < 0:
                return default
            if self.socket_view is None:
                # One object for ever, as users compare it: it follows the socket, which is detached at the end.
                sock = self.socket_object() if self.handle != NULL else closed_socket(self.family())
                self.socket_view = view = TransportSocket(sock)
                view._transport = weakref.ref(self)
            return self.socket_view
        return default

    @property
    def _extra(self):
        names = {name: self.info_on(name, None) for name in ("socket", "sockname", "peername")}
        return {**names, **(self.extra or {})}

    @property
    def _sock_fd(self):
        return self.fd

    @property
    def _server(self):
        return self.server

    def __repr__(self):
        info = [type(self).__name__]
        if self.handle == NULL:
            info.append("closed")
        elif self.closing:
            info.append("closing")
        info.append(f"fd={self.fd}")
        if self.handle != NULL:
            info.append(f"read={'polling' if self.reading else 'idle'}")
            info.append(f"write=<{'polling' if self.is_sending() else 'idle'}, bufsize={self.unsent()}>")
        return f"<{' '.join(info)}>"

    # ------------------------------------------------------------------------------------------------- opening

    cdef int open_transport(self, LoopCore loop, object protocol, object server, dict extra, object context) except -1:
        """Store what asyncio's transports are made with. The libuv handle is open."""
        if context is None:
            self.context = PyContext_CopyCurrent()
            if self.context == NULL:
                return propagate()
        else:
            Py_INCREF(<PyObject*> context)
            self.context = <PyObject*> context
            self.shares_context = True
        self.extra = extra
        self.closing = False
        self.take_protocol(protocol)
        if server is not None:
            attach_to_server(server, self)
            self.server = server
        return 0

    cdef int start(self, object waiter) except -1:
        cdef LoopCore loop = self.loop
        cdef PyObject* shared = self.context if self.shares_context else NULL
        context = <object> shared if shared != NULL else None
        loop.schedule(self.protocol.connection_made, self, shared)
        loop.schedule(BEGIN, self, shared)
        if waiter is not None:
            loop.call_soon(set_result_unless_cancelled, waiter, None, context=context)
        return 0

    cdef int begin(self) except -1:
        return 0

    # -------------------------------------------------------------------------------------------- asyncio.BaseTransport

    @property
    def _loop(self):
        return None if self.protocol is None and self.closing else self.loop

    @property
    def _protocol(self):
        return self.protocol

    @property
    def _protocol_paused(self):
        return bool(self.protocol_paused)

    @property
    def _closing(self):
        return bool(self.closing)

    @property
    def _conn_lost(self):
        return self.conn_lost

    def set_protocol(self, protocol):
        """Make *protocol* the receiver of this connection's events from now on."""
        if is_for_its_thread(self.loop) and self.loop.left_to_its_thread(self.set_protocol, protocol):
            return
        self.take_protocol(protocol)

    cdef int take_protocol(self, object protocol) except -1:
        self.replace_protocol(protocol)
        self.protocol_connected = True
        return 0

    cdef int replace_protocol(self, object protocol) except -1:
        if not LF_FREE_THREADED or self.loop is None:
            self.protocol = protocol
            return 0
        # Dropped once the lock is free.
        _previous = self.protocol
        lf_lock(&self.loop.mutex)
        self.protocol = protocol
        lf_unlock(&self.loop.mutex)
        return 0

    def get_protocol(self):
        """Return the current protocol."""
        if not LF_FREE_THREADED or self.loop is None:
            return self.protocol
        lf_lock(&self.loop.mutex)
        protocol = self.protocol
        lf_unlock(&self.loop.mutex)
        return protocol

    def is_closing(self) -> bool:
        """Return True if the transport is closing or closed."""
        return bool(self.closing)

    # ------------------------------------------------------------------------------------------------- flow control

    def get_write_buffer_limits(self) -> tuple:
        """Return the (low, high) water marks in bytes."""
        return (self.low_water, self.high_water)

    def set_write_buffer_limits(self, high=None, low=None):
        """Set the water marks of unsent bytes that pause and resume the protocol.

        Args:
            high: bytes above which ``pause_writing()`` is called; 64 KiB, or four times *low*, if None.
            low: bytes at or below which ``resume_writing()`` is called; a quarter of *high* if None.

        Raises:
            ValueError: not ``high >= low >= 0``.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.WriteTransport.set_write_buffer_limits
        """
        if high is None:
            high = DEFAULT_HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        if is_for_its_thread(self.loop):
            self.loop.call_soon_threadsafe(self.set_write_buffer_limits, high, low)
            return
        # A mark may be any number; one beyond the address space is never reached.
        self.high_water = <size_t> min(high, 1 << 62)
        self.low_water = <size_t> min(low, 1 << 62)
        if not self.closing and self.unsent() > self.high_water:
            # What has merely gathered does not count.
            self.flush()
            self.update_flow()

    def _set_write_buffer_limits(self, high=None, low=None):
        self.set_write_buffer_limits(high, low)

    cdef bint is_sending(self) noexcept:
        return False

    cdef size_t unsent(self) noexcept:
        return 0

    cdef int update_flow(self) except -1:
        """Pause the protocol if too much is unsent."""
        if not self.protocol_paused and self.unsent() > self.high_water:
            self.pause_protocol()
        return 0

    cdef int pause_protocol(self) except -1:
        self.protocol_paused = True
        try:
            self.protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report_protocol_error(exc, "protocol.pause_writing() failed")
        return 0

    cdef int resume_protocol(self) except -1:
        """Resume a paused protocol once little enough is unsent."""
        if not self.protocol_paused or self.unsent() > self.low_water:
            return 0
        self.protocol_paused = False
        try:
            self.protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report_protocol_error(exc, "protocol.resume_writing() failed")
        return 0

    cdef int report_protocol_error(self, object exception, str message) except -1:
        return self.loop.report(
            {"message": message, "exception": exception, "transport": self, "protocol": self.protocol})

    # ------------------------------------------------------------------------------------------------- the end

    def abort(self):
        """Close at once: what is queued is dropped, ``connection_lost(None)`` follows."""
        if self.handle != NULL and not handed_over(self, "abort"):
            self.force_close(None)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        if self.handle != NULL and not handed_over_with(self, "_fatal_error", exc):
            self.fatal_error(exc, message)

    def _force_close(self, exc):
        if self.handle != NULL and not handed_over_with(self, "_force_close", exc):
            self.force_close(exc)

    cdef int fatal_error(self, object exception, str message) except -1:
        if self.handle == NULL:
            return 0
        if isinstance(exception, OSError):
            if self.loop._debug:
                logger.debug("%r: %s", self, message, exc_info=exception)
        else:
            self.report_protocol_error(exception, message)
        return self.force_close(exception)

    cdef int force_close(self, object exception) except -1:
        if self.conn_lost or self.handle == NULL:
            return 0
        self.drop_queue()
        if not self.closing:
            self.closing = True
            self.stop_reading()
        return self.schedule_connection_lost(exception)

    cdef int schedule_connection_lost(self, object exception) except -1:
        self.conn_lost += 1
        # Until connection_lost() the loop holds the transport through this callback.
        self.loop.schedule(self._call_connection_lost, exception, self.context if self.shares_context else NULL)
        return 0

    def _call_connection_lost(self, exc):
        if self.handle == NULL or handed_over_with(self, "_call_connection_lost", exc):
            return
        try:
            if self.protocol_connected:
                self.protocol.connection_lost(exc)
        finally:
            server, self.server = self.server, None
            self.replace_protocol(None)
            self.release_socket()
            self.close_handle()
            if server is not None:
                detach_from_server(server, self)
            self.on_lost(exc)

    cdef int note_lost_write(self) except -1:
        if self.conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self.conn_lost += 1
        return 0

    cdef int flush(self) except -1:
        return 0

    cdef int stop_reading(self) except -1:
        return 0

    cdef void drop_queue(self) noexcept:
        pass

    cdef int on_lost(self, object exception) except -1:
        return 0


def _begin(NativeTransport transport not None):
    """connection_made() has returned."""
    if transport.handle != NULL and not transport.loop.left_to_its_thread(BEGIN, transport):
        transport.begin()


# A function for all, not a bound method for each.
cdef object BEGIN = _begin


class TransportSocket(trsock.TransportSocket):
    """The socket of a transport as users see it. What was written before leaves before it is used by itself."""

    __slots__ = ("_transport",)

    def fileno(self):
        send_written(self._transport())
        return self._sock.fileno()

    def dup(self):
        send_written(self._transport())
        return self._sock.dup()

    def shutdown(self, how):
        send_written(self._transport())
        self._sock.shutdown(how)


cdef int send_written(NativeTransport transport) except -1:
    return 0 if transport is None else transport.flush()


cdef object closed_socket(int family):
    """Return what is left of a transport's socket once it is closed."""
    sock = socket.socket(family)
    sock.close()
    return sock


cdef object replaced_get_extra_info(object transport, object name, object default):
    """As asyncio's own transports find what stands in `asyncio.BaseTransport` in its place."""
    method = base_transport.__dict__["get_extra_info"]
    if hasattr(type(method), "__get__"):
        method = method.__get__(transport, type(transport))
    return method(name) if default is None else method(name, default)


cdef object end_name(object ask):
    try:
        return ask()
    except OSError:
        return None


# -------------------------------------------------------------------------------------------------------------- servers

# From 3.13 on a Server knows its connections.
cdef bint SERVER_KNOWS_CLIENTS = hasattr(asyncio.Server, "close_clients")
cdef object Server = asyncio.Server


@cython.final
cdef class Connections:
    """The open connections of one server: its ``_clients``. Holds no reference to them."""

    cdef void link(self, NativeTransport transport) noexcept:
        transport.connections = self
        lf_lend(<PyObject*> transport)
        lf_lock(&self.mutex)
        transport.previous_connection = NULL
        transport.next_connection = self.first
        if self.first != NULL:
            (<NativeTransport> self.first).previous_connection = <PyObject*> transport
        self.first = <PyObject*> transport
        self.count += 1
        lf_unlock(&self.mutex)

    cdef void unlink(self, NativeTransport transport) noexcept:
        lf_lock(&self.mutex)
        if transport.previous_connection != NULL:
            (<NativeTransport> transport.previous_connection).next_connection = transport.next_connection
        else:
            self.first = transport.next_connection
        if transport.next_connection != NULL:
            (<NativeTransport> transport.next_connection).previous_connection = transport.previous_connection
        transport.next_connection = transport.previous_connection = NULL
        self.count -= 1
        lf_unlock(&self.mutex)
        transport.connections = None

    def add(self, transport):
        """Add *transport*, if it is not there yet."""
        if not isinstance(transport, NativeTransport):
            if self.others is None:
                self.others = weakref.WeakSet()
            self.others.add(transport)
        elif (<NativeTransport> transport).connections is None:
            self.link(transport)

    def discard(self, transport):
        """Remove *transport*, if it is there."""
        if not isinstance(transport, NativeTransport):
            if self.others is not None:
                self.others.discard(transport)
        elif (<NativeTransport> transport).connections is self:
            self.unlink(transport)

    def copy(self):
        """Return a set of the transports."""
        cdef PyObject* item
        cdef set found = set(self.others or ())
        cdef PyObject** members
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t room
        if not LF_FREE_THREADED:
            item = self.first
            while item != NULL:
                found.add(<object> item)
                item = (<NativeTransport> item).next_connection
            return found
        lf_lock(&self.mutex)
        room = self.count
        members = <PyObject**> malloc(room * sizeof(PyObject*))
        item = self.first
        while members != NULL and item != NULL:
            if lf_try_incref(item):
                members[i] = item
                i += 1
            item = (<NativeTransport> item).next_connection
        lf_unlock(&self.mutex)
        if members == NULL and room:
            raise MemoryError(f"no memory for {room} connections")
        try:
            for room in range(i):
                found.add(<object> members[room])
        finally:
            for room in range(i):
                Py_DECREF(members[room])
            free(members)
        return found

    def __iter__(self):
        return iter(self.copy())

    def __len__(self):
        return self.count + (len(self.others) if self.others is not None else 0)


def know_connections(server):
    """Have *server*, which has none yet, keep its connections in a `Connections`."""
    if SERVER_KNOWS_CLIENTS and type(server) is Server and type(server._clients) is weakref.WeakSet:
        if not server._clients:
            server._clients = Connections()


cdef int attach_to_server(object server, NativeTransport transport) except -1:
    if not SERVER_KNOWS_CLIENTS:
        server._attach()
        return 0
    connections = server._clients if type(server) is Server else None
    if type(connections) is Connections and server._sockets is not None:
        (<Connections> connections).link(transport)
    else:
        server._attach(transport)
    return 0


cdef int detach_from_server(object server, NativeTransport transport) except -1:
    cdef Connections connections = transport.connections
    if not SERVER_KNOWS_CLIENTS:
        server._detach()
    elif connections is None or type(server) is not Server:
        server._detach(transport)
    else:
        connections.unlink(transport)
        if connections.count == 0 and server._sockets is None and not len(connections):
            server._wakeup()
    return 0

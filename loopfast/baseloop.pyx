"""The compiled half of the asyncio surface: futures and tasks, readers and writers, listeners, stream transports.

`loopfast.Loop` joins it with the running interpreter's own ``asyncio.SelectorEventLoop``, whose private hooks
(``_add_reader``, ``_make_socket_transport``, ...) are the seam: what is hot is answered here, the rest by asyncio
itself.
"""

import asyncio
import socket
import sys
from asyncio.log import logger

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from libc.stdlib cimport getenv

from loopfast.callbacks cimport Handle
from loopfast.core cimport LoopCore, LoopObject
from loopfast.errors cimport system_error
from loopfast.handles.poll cimport DescriptorSet, Watch
from loopfast.includes.platform cimport (
    LF_READ, LF_WRITE, lf_is_connected, lf_move_descriptor, lf_open_pipe, lf_process, lf_read, lf_write,
)
from loopfast.includes.python cimport (
    METH_FASTCALL, METH_KEYWORDS, Py_INCREF, Py_XDECREF, PyContext_Copy, PyDescr_NewMethod, PyDict_SetItemString,
    PyMethodDef, PyObject_Vectorcall, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTupleObject, PyType_Modified, PyTypeObject,
    propagate,
)
from loopfast.includes.socket cimport lf_close_socket, sockaddr_storage
from loopfast.includes.threads cimport lf_load_flag, lf_load_runner
from loopfast.server cimport Listener
from loopfast.sockops cimport CALLS_PER_TURN, RECV, RECV_INTO, SENDALL, SocketCall, SocketSet, socket_call
from loopfast.streams cimport feed_for
from loopfast.transports.base import know_connections
from loopfast.transports.base cimport end_name
from loopfast.transports.stream cimport StreamTransport
from loopfast.transports.tcp cimport (
    AcceptedSocket, SocketStream, accepted_socket, accepted_transport, socket_transport,
)
from loopfast.transports.udp cimport datagram_transport

# Looked up at each call, as asyncio does: either class may have been replaced.
cdef dict FUTURES = asyncio.futures.__dict__
cdef dict TASKS = asyncio.tasks.__dict__
cdef object CFuture = asyncio.Future
cdef object running_loop = asyncio._get_running_loop
cdef object current_task = asyncio.current_task
cdef str FUTURE = sys.intern("Future")
cdef str TASK = sys.intern("Task")
cdef object inherited_create_task = asyncio.BaseEventLoop.create_task
cdef object inherited_make_socket_transport = asyncio.SelectorEventLoop._make_socket_transport
cdef object inherited_make_datagram_transport = asyncio.SelectorEventLoop._make_datagram_transport
cdef object inherited_sock_recv = asyncio.SelectorEventLoop.sock_recv
cdef object inherited_sock_recv_into = asyncio.SelectorEventLoop.sock_recv_into
cdef object inherited_sock_sendall = asyncio.SelectorEventLoop.sock_sendall
cdef object Socket = socket.socket
# What asyncio calls on the socket of a transport.
cdef tuple SOCKET_METHODS = (
    "accept", "recv", "recv_into", "recvfrom", "send", "sendmsg", "sendto", "shutdown", "close", "fileno",
)
cdef tuple LOOP_KEYWORD = (sys.intern("loop"),)
cdef str NAME = sys.intern("name")
cdef str CONTEXT = sys.intern("context")


cdef inline PyObject* class_in(dict module, str name) except NULL:
    """Return the class *name* of a module's dictionary (borrowed)."""
    cdef PyObject* found = PyDict_GetItemWithError(module, name)
    if found == NULL:
        raise AttributeError(f"module {module['__name__']!r} has no attribute {name!r}")
    return found


cdef object make_future(BaseLoop loop):
    cdef PyObject* kind = class_in(FUTURES, FUTURE)
    cdef PyObject* args[2]
    cdef PyObject* result
    if kind == <PyObject*> CFuture and running_loop() is loop:
        # It takes the running loop by itself, and without a dict of keywords.
        result = PyObject_Vectorcall(kind, args, 0, NULL)
    else:
        args[1] = <PyObject*> loop
        result = PyObject_Vectorcall(kind, &args[1], 0, <PyObject*> LOOP_KEYWORD)
    if result == NULL:
        propagate()
    future = <object> result
    Py_XDECREF(result)
    return future


def is_in_environment(const char* name) -> bool:
    """Return True if the environment variable *name*, as bytes, is set: ``os.environ`` without the time it takes."""
    return getenv(name) != NULL


cdef class PipeEnd:
    """One end of the loop's self-pipe, with those methods of a socket that are used of it."""

    cdef int fd
    # The process that made it.
    cdef int process

    def __cinit__(self):
        self.fd = -1
        self.process = lf_process()

    def __dealloc__(self):
        if self.fd >= 0:
            lf_close_socket(self.fd)

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""
        return self.fd

    def recv(self, Py_ssize_t size) -> bytes:
        """Return up to *size* bytes. Raises BlockingIOError if there are none, another OSError where reading fails."""
        cdef bytes data
        cdef Py_ssize_t n
        if size < 0:
            raise ValueError(f"negative size: {size}")
        data = PyBytes_FromStringAndSize(NULL, size)
        n = lf_read(self.fd, PyBytes_AS_STRING(data), size)
        if n < 0:
            raise system_error(<int> n)
        return data[:n]

    def send(self, bytes data not None) -> int:
        """Write *data*, and return how many bytes there was room for. Raises OSError."""
        cdef Py_ssize_t n = lf_write(self.fd, PyBytes_AS_STRING(data), len(data))
        if n < 0:
            raise system_error(<int> n)
        return n

    def is_inherited(self) -> bool:
        """Return True in a forked child of the process that made it."""
        return self.process != lf_process()

    def replace(self, PipeEnd other not None):
        """Put *other* under the number of this one, and close it. Raises OSError."""
        cdef int status = lf_move_descriptor(other.fd, self.fd)
        if status < 0:
            raise system_error(status)
        other.fd = -1
        self.process = other.process

    def close(self):
        """Close the descriptor. Again does nothing."""
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            lf_close_socket(fd)


def open_pipe() -> tuple:
    """Return the ends of a new pipe that does not block, a `PipeEnd` to read and one to write. Raises OSError."""
    cdef PipeEnd reading = PipeEnd.__new__(PipeEnd), writing = PipeEnd.__new__(PipeEnd)
    cdef tuple ends = (reading, writing)
    cdef int fds[2]
    cdef int status = lf_open_pipe(fds)
    if status < 0:
        raise system_error(status)
    reading.fd, writing.fd = fds[0], fds[1]
    return ends


def is_plain_socket(sock) -> bool:
    """Return True if *sock* is nothing more than its descriptor: a ``socket.socket``, with no method overridden.

    And if libuv can own that descriptor: the numbers of the standard streams it neither closes nor expects.
    """
    kind = type(sock)
    if kind is Socket:
        return not 0 <= sock.fileno() <= 2
    if not issubclass(kind, Socket):
        return False
    for name in SOCKET_METHODS:
        if getattr(kind, name) is not getattr(Socket, name):
            return False
    return not 0 <= sock.fileno() <= 2


cdef int log_connection(object server, int fd) except -1:
    """Log a connection that a server has accepted, as asyncio does in debug mode."""
    try:
        sock = Socket(fileno=fd)
    except OSError as exc:
        logger.debug("%r got a new connection: %r", server, exc)
        return 0
    try:
        # It is gone when somebody looks at the record.
        logger.debug("%r got a new connection from %r: %s", server, end_name(sock.getpeername), repr(sock))
    finally:
        sock.detach()
    return 0


cdef int descriptor_of(object fd) except -1:
    """Return the number of *fd*, an int or an object with ``fileno()``, as ``selectors`` does."""
    cdef object number = fd
    if not isinstance(fd, int):
        try:
            number = int(fd.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fd!r}") from None
    if number < 0:
        raise ValueError(f"Invalid file descriptor: {number}")
    if number > 0x7fffffff:
        raise OverflowError(f"file descriptor {number} is too large")
    return number


cdef class BaseLoop(LoopCore):
    """The compiled part of `loopfast.Loop`. Not for direct use."""

    def __cinit__(self, *args, **kwargs):
        self.listeners = {}
        self.watched_objects = {}
        self.gathering = True
        self.has_own_futures = type(self).create_future is not BaseLoop.create_future

    # ------------------------------------------------------------------------------------------------- state

    def get_debug(self) -> bool:
        """Return True in debug mode."""
        return bool(self._debug)

    def is_running(self) -> bool:
        """Return True if the loop is running."""
        return lf_load_runner(&self.running_thread) != 0

    def is_closed(self) -> bool:
        """Return True if the loop was closed."""
        return bool(lf_load_flag(&self.closed))

    # ------------------------------------------------------------------------------------------------ futures and tasks

    def create_future(self):
        """Return a new ``asyncio.Future`` attached to this loop."""
        return make_future(self)

    cdef int on_descriptor_taken(self, int fd, int event) except -1:
        if self.descriptors is not None and self.descriptors.events_of(fd) & event:
            self.descriptors.remove(fd, event)
            if self.descriptors.events_of(fd) == 0:
                self.watched_objects.pop(fd, None)
        return 0

    cdef object on_protocol(self, object protocol):
        return feed_for(self, protocol)

    cdef object new_future(self):
        return (<object> self).create_future() if self.has_own_futures else make_future(self)

    def create_task(self, coro, **kwargs):
        return inherited_create_task(self, coro, **kwargs)

    # ---------------------------------------------------------------------------------------------- readers and writers

    cdef int check_unclaimed(self, object fd) except -1:
        """Refuse a descriptor that one of our transports, or one of asyncio's, owns."""
        cdef int number = fd if isinstance(fd, int) and 0 <= fd <= 0x7fffffff else -1
        if number < 0:
            if isinstance(fd, int):
                return 0
            try:
                number = int(fd.fileno())
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fd!r}") from None
        if 0 <= number < self.claims_capacity and self.claims[number] != NULL:
            transport = self.claimant(number)
        elif self._transports:
            transport = self._transports.get(number)
        else:
            return 0
        if isinstance(transport, StreamTransport) and (<StreamTransport> transport).empty_waiter is not None:
            # A file is being sent: the loop itself watches the descriptor.
            return 0
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")
        return 0

    def _ensure_fd_no_transport(self, fd):
        self.check_unclaimed(fd)

    cdef int open_descriptor_set(self) except -1:
        cdef DescriptorSet descriptors
        if self.descriptors is None:
            descriptors = DescriptorSet.__new__(DescriptorSet)
            descriptors.open(self)
            self.descriptors = descriptors
        return 0

    cdef int on_descriptor_claimed(self, int fd) except -1:
        # As on asyncio, whose transports add a reader of their own.
        return self.on_descriptor_taken(fd, LF_READ)

    def _open_descriptor_set(self):
        """Have what add_reader() and add_writer() need, so that they work with no descriptor left, too."""
        self.open_descriptor_set()

    def _end_writing(self, int fd):
        """A transport that was sending a file closes *fd*: whoever waits to go on sending finds it closed."""
        cdef Watch* entry = NULL if self.descriptors is None else self.descriptors.watch_of(fd)
        if entry == NULL or entry.writer == NULL:
            return
        handle = <object> entry.writer
        callback, args = handle._callback, handle._args
        self.descriptors.remove(fd, LF_WRITE)
        self.call_soon(callback, *args)

    cdef Handle watch_descriptor(self, object fd, int event, object callback, tuple args, bint internal,
                                 object context):
        cdef Handle handle
        cdef int number
        self.check_open()
        self.check_not_elsewhere()
        number = descriptor_of(fd)
        self.open_descriptor_set()
        handle = self.new_handle(<PyObject*> callback, (<PyTupleObject*> args).ob_item, len(args),
                                 NULL if context is None else <PyObject*> context)
        if self.sockets is not None:
            self.sockets.forget(number, event)
        is_new = self.descriptors.events_of(number) == 0
        handle = self.descriptors.add(number, event, handle, internal)
        if is_new and not isinstance(fd, int):
            self.watched_objects[number] = fd
        return handle

    cdef bint forget_descriptor(self, object fd, int event) except -1:
        cdef int number
        cdef bint was_watched
        if lf_load_flag(&self.closed):
            return False
        self.check_not_elsewhere()
        try:
            number = descriptor_of(fd)
        except ValueError:
            closed = [key for key, watched in self.watched_objects.items() if watched is fd]
            if not closed:
                raise
            number = closed[0]
        except OverflowError:
            return False
        was_watched = self.sockets is not None and self.sockets.forget(number, event)
        if self.descriptors is None:
            return was_watched
        was_watched |= self.descriptors.remove(number, event)
        if was_watched and self.descriptors.events_of(number) == 0:
            self.watched_objects.pop(number, None)
        return was_watched

    def _add_reader(self, fd, callback, *args, context=None):
        return self.watch_descriptor(fd, LF_READ, callback, args, False, context)

    def _add_internal_reader(self, fd, callback, *args):
        """_add_reader() for the loop's own descriptors, which do not count as something to poll for."""
        return self.watch_descriptor(fd, LF_READ, callback, args, True, None)

    def _add_writer(self, fd, callback, *args, context=None):
        return self.watch_descriptor(fd, LF_WRITE, callback, args, False, context)

    def _remove_reader(self, fd):
        return self.forget_descriptor(fd, LF_READ)

    def _remove_writer(self, fd):
        return self.forget_descriptor(fd, LF_WRITE)

    def add_reader(self, fd, callback, *args):
        """Call ``callback(*args)`` whenever *fd* is readable, instead of what was registered for that before.

        Args:
            fd: a descriptor, or an object with ``fileno()``.

        Raises:
            ValueError: *fd* is not a descriptor.
            OSError: it is closed (EBADF) or cannot be polled, such as a regular file (EPERM).
            RuntimeError: the loop is closed, or a transport owns *fd*.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.add_reader
        """
        self.check_unclaimed(fd)
        self.watch_descriptor(fd, LF_READ, callback, args, False, None)

    def add_writer(self, fd, callback, *args):
        """Call ``callback(*args)`` whenever *fd* is writable; otherwise as `add_reader`."""
        self.check_unclaimed(fd)
        self.watch_descriptor(fd, LF_WRITE, callback, args, False, None)

    def remove_reader(self, fd) -> bool:
        """Stop watching *fd* for readability; return False if it was not watched."""
        self.check_unclaimed(fd)
        return self.forget_descriptor(fd, LF_READ)

    def remove_writer(self, fd) -> bool:
        """Stop watching *fd* for writability; return False if it was not watched."""
        self.check_unclaimed(fd)
        return self.forget_descriptor(fd, LF_WRITE)

    def _watched_events(self, fd):
        """Return what *fd* is watched for, as ``selectors.EVENT_*`` bits."""
        return 0 if self.descriptors is None else self.descriptors.events_of(descriptor_of(fd))

    # ------------------------------------------------------------------------------------------------- servers

    def _listen(self, protocol_factory, sock, server, tls, int backlog, context=None):
        """Accept connections on the listening *sock* and serve each with a protocol of *protocol_factory*.

        *tls* is None, or what `_serve_tls` gets: context, limits in seconds of handshake and shutdown.
        """
        cdef Listener listener = Listener.__new__(Listener)
        self.check_open()
        know_connections(server)
        listener.start(self, sock, protocol_factory, server, tls, backlog, context)
        self.listeners[listener.fd] = listener

    def _left_to_the_loop(self, method, argument):
        """Call ``method(argument)`` on the loop's thread if that is in libuv just now; return False if it is not."""
        return self.left_to_its_thread(method, argument)

    def _stop_listening(self, sock):
        """Stop accepting on *sock*, which stays open."""
        cdef Listener listener = self.listeners.pop(sock.fileno(), None)
        if listener is not None:
            listener.stop()

    cdef int on_connection(self, LoopObject listener, int fd, void* address, int length) except -1:
        """Make protocol and transport of an accepted connection, in a copy of the server's context of its own."""
        cdef Listener source = <Listener> listener
        cdef PyObject* copied = PyContext_Copy(source.context)
        cdef bint owned = False
        protocol = None
        if copied == NULL:
            lf_close_socket(fd)
            return propagate()
        context = <object> copied
        Py_XDECREF(copied)
        if source.tls is not None:
            return self.on_tls_connection(source, fd, <sockaddr_storage*> address, length, context)
        try:
            self.enter_context(<PyObject*> context)
            if self._debug:
                log_connection(source.server, fd)
            protocol = source.protocol_factory()
            owned = True
            transport = accepted_transport(self, fd, <sockaddr_storage*> address, length, protocol, source.server,
                                           source.local_name, context if source.shares_context else None)
            (<StreamTransport> transport).at_once = not self.gathering
        except (SystemExit, KeyboardInterrupt):
            if not owned:
                lf_close_socket(fd)
            raise
        except BaseException as exc:
            if not owned:
                lf_close_socket(fd)
            if self._debug:
                details = {"message": "Error on transport creation for incoming connection", "exception": exc}
                if protocol is not None:
                    details["protocol"] = protocol
                self.leave_context()
                self.report(details)
        self.leave_context()
        return 0

    cdef int on_tls_connection(self, Listener source, int fd, sockaddr_storage* address, int length,
                               object context) except -1:
        """Leave an accepted connection to a task of its own, as asyncio does: it ends when the handshake is over."""
        cdef AcceptedSocket accepted = accepted_socket(self, fd, address, length, source.server, source.local_name)
        try:
            self.enter_context(<PyObject*> context)
            if self._debug:
                log_connection(source.server, fd)
            # Another copy: an eager task enters it at once.
            shared = context.copy() if source.shares_context else None
            self._serve_tls(accepted, source.protocol_factory, source.tls, shared)
        except BaseException as exc:
            # Its traceback may hold the connection.
            accepted.close()
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            self.leave_context()
            self.report({"message": "Serving a connection failed", "exception": exc})
        self.leave_context()
        return 0

    def _serve_accepted(self, AcceptedSocket accepted not None, protocol, context=None):
        """Serve an accepted connection with *protocol*; *context* is asyncio's from 3.15 on, for all its callbacks."""
        self.check_open()
        accepted.open(protocol, context).at_once = not self.gathering

    # ------------------------------------------------------------------------------------------------- sockets

    cdef SocketCall native_call(self, object sock, int kind, object argument):
        """A native call on *sock*; None where asyncio's own must do it: debug mode, other objects than plain
        sockets."""
        if self._debug or lf_load_flag(&self.closed):
            return None
        self.check_not_elsewhere()
        if self.sockets is None:
            sockets = SocketSet.__new__(SocketSet)
            (<SocketSet> sockets).open(self, -1)
            self.sockets = sockets
        return socket_call(self.sockets, sock, kind, argument)

    def sock_recv(self, sock, n):
        """Receive up to *n* bytes from the non-blocking *sock*: an awaitable for ``bytes``.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.sock_recv
        """
        call = self.native_call(sock, RECV, n)
        return inherited_sock_recv(self, sock, n) if call is None else call

    def sock_recv_into(self, sock, buf):
        """Receive from the non-blocking *sock* into *buf*: an awaitable for the number of bytes.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.sock_recv_into
        """
        call = self.native_call(sock, RECV_INTO, buf)
        return inherited_sock_recv_into(self, sock, buf) if call is None else call

    def sock_sendall(self, sock, data):
        """Send all of *data* to the non-blocking *sock*: an awaitable.

        Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.sock_sendall
        """
        call = self.native_call(sock, SENDALL, data)
        return inherited_sock_sendall(self, sock, data) if call is None else call

    def _connected_at_once(self, int fd) -> bool:
        """Return True if the socket *fd*, of which connect() is said to be in progress, is connected by now.

        That is the rule for peers on this machine, which need no turn of the loop then; but a task that goes on like
        this is interrupted, so that others have their turn, and one that is being cancelled is to hear of it here.
        """
        task = current_task(self)
        cancelling = getattr(task, "cancelling", None)
        if cancelling is not None and cancelling():
            return False
        if self.connected_in != self.turns or self.connected_by != <PyObject*> task:
            self.connected_in = self.turns
            self.connected_by = <PyObject*> task
            self.connected = 0
        self.connected += 1
        return self.connected <= CALLS_PER_TURN and lf_is_connected(fd)

    # ------------------------------------------------------------------------------------------------- transports

    def _make_socket_transport(self, sock, protocol, waiter=None, *, extra=None, server=None, context=None):
        """Return the transport of the connected stream socket *sock*, which it takes over."""
        cdef SocketStream transport
        self.check_open()
        self.check_unclaimed(sock)
        if not is_plain_socket(sock):
            # Its methods do something else than the system calls, and must be called: asyncio's own transport does
            # that.
            keywords = {} if context is None else {"context": context}
            return inherited_make_socket_transport(self, sock, protocol, waiter, extra=extra, server=server, **keywords)
        transport = socket_transport(self, sock, protocol, waiter, extra, server, context)
        transport.at_once = not self.gathering
        return transport

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        """Return the transport of the datagram socket *sock*, which it takes over."""
        self.check_open()
        self.check_unclaimed(sock)
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or not is_plain_socket(sock):
            return inherited_make_datagram_transport(self, sock, protocol, address, waiter, extra)
        return datagram_transport(self, sock, protocol, address, waiter, extra)

    def set_write_gathering(self, enabled: bool):
        """Choose how the transports made from now on send.

        Args:
            enabled: True (the default) gathers the writes of a turn of the loop and sends them with one vectored call
                per transport at its end; False sends each write at once, as asyncio does.
                `TCPTransport.set_write_gathering` changes one transport.
        """
        self.gathering = bool(enabled)


# ---------------------------------------------------------------------------------------------------------- create_task
# The common case calls Task as asyncio does, without building a dict of keywords. Debug mode, task factories and
# keywords that are not of every version go to the running interpreter's own create_task().

cdef inline bint is_plain_keyword(PyObject* name) noexcept:
    return name == <PyObject*> NAME or name == <PyObject*> CONTEXT


cdef PyObject* fast_create_task(PyObject* self, PyObject** args, Py_ssize_t nargs, PyObject* kwnames) except NULL:
    cdef BaseLoop loop = <BaseLoop> self
    cdef Py_ssize_t keywords = 0 if kwnames == NULL else PyTuple_GET_SIZE(kwnames)
    cdef PyObject* call[6]
    cdef PyObject* result
    cdef Py_ssize_t i
    cdef bint plain = nargs == 1 and keywords <= 2 and not loop._debug and loop._task_factory is None
    for i in range(keywords):
        plain = plain and is_plain_keyword(PyTuple_GET_ITEM(kwnames, i))
    if not plain:
        positional = [<object> args[i] for i in range(nargs)]
        named = {<object> PyTuple_GET_ITEM(kwnames, i): <object> args[nargs + i] for i in range(keywords)}
        task = inherited_create_task(loop, *positional, **named)
        Py_INCREF(<PyObject*> task)
        return <PyObject*> task
    loop.check_open()
    call[1] = args[0]
    call[2] = self
    if keywords == 0:
        result = PyObject_Vectorcall(class_in(TASKS, TASK), &call[1], 1, <PyObject*> LOOP_KEYWORD)
    else:
        for i in range(keywords):
            call[3 + i] = args[1 + i]
        names = LOOP_KEYWORD + <tuple> kwnames
        result = PyObject_Vectorcall(class_in(TASKS, TASK), &call[1], 1, <PyObject*> names)
    if result == NULL:
        propagate()
    return result


cdef PyMethodDef CREATE_TASK
CREATE_TASK = PyMethodDef("create_task", <void*> fast_create_task, METH_FASTCALL | METH_KEYWORDS, (
    "create_task($self, coro, **kwargs)\n--\n\n"
    "Schedule the coroutine coro as a task and return it; keywords are those of the running Python's asyncio.\n\n"
    "Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.create_task"))
PyDict_SetItemString((<PyTypeObject*> BaseLoop).tp_dict, "create_task",
                     PyDescr_NewMethod(<PyTypeObject*> BaseLoop, &CREATE_TASK))
PyType_Modified(<PyTypeObject*> BaseLoop)

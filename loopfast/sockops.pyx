"""``sock_recv``, ``sock_recv_into`` and ``sock_sendall`` for plain sockets; the others are asyncio's own.

Each call is an awaitable of its own instead of a coroutine: awaiting it tries the system call, and a future is made
only where that would block. The behaviour is that of asyncio
(https://docs.python.org/3/library/asyncio-eventloop.html).
"""

import os
import socket
from asyncio import InvalidStateError

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EBADF
from libc.stdlib cimport free

from loopfast.core cimport LoopCore, is_for_its_thread
from loopfast.handles.poll cimport KernelSet, grown_table
from loopfast.includes cimport uv
from loopfast.includes.awaiting cimport sent, throw_here, throw_into
from loopfast.includes.platform cimport LF_READ, LF_WRITE, lf_set_edges, lf_set_ready
from loopfast.includes.python cimport (
    METH_NOARGS, PYGEN_ERROR, PYGEN_NEXT, Py_DECREF, Py_INCREF, Py_None, Py_XDECREF, PyBytes_FromStringAndSize,
    PyErr_Clear, PyErr_SetObject, PyIter_Send, PyLong_AsLong, PyLong_AsSsize_t,
    PyLong_FromSsize_t, PyMethodDescrObject, PyTypeObject, PyWeakref_NewRef, propagate, traverseproc,
    visitproc,
)
from loopfast.includes.socket cimport lf_recv, lf_send
from loopfast.includes.stop cimport lf_forget_value, lf_stop_iteration
from loopfast.includes.threads cimport LF_FREE_THREADED

cdef enum:
    # Bytes of one sock_recv(), which may return less than was asked for.
    LONGEST_RECV = 120 * 1024

# Seconds, and at most twice as long: then the kernel is told once more of a socket that a call waits for.
cdef double SECOND_LOOK = 0.1

cdef object Socket = socket.socket
# The C function behind socket.fileno(), for a call without looking it up.
cdef object FILENO = Socket.fileno
cdef bint FILENO_IS_PLAIN = (
    type(FILENO) is type(str.upper) and (<PyMethodDescrObject*> FILENO).d_method.ml_flags == METH_NOARGS
)
cdef tuple NAMES = ("sock_recv", "sock_recv_into", "sock_sendall")


ctypedef PyObject* (*PyCFunction)(PyObject* self, PyObject* args) noexcept


@cython.no_gc_clear
cdef class SocketSet(KernelSet):
    """The sockets that calls wait for. Not for direct use."""

    def __dealloc__(self):
        cdef int fd
        for fd in range(self.capacity):
            Py_XDECREF(self.watches[fd].sock)
        free(self.watches)

    cdef void on_loop_close(self) noexcept:
        cdef int fd
        if LF_FREE_THREADED:
            for fd in range(self.capacity):
                if self.watches[fd].reader != NULL:
                    self.leave(<SocketCall> self.watches[fd].reader)
                if self.watches[fd].writer != NULL:
                    self.leave(<SocketCall> self.watches[fd].writer)
        # Or a closed loop would keep the handle.
        self.second_look = None
        self.close_handle()

    cdef int on_poll(self, int status, int events) except -1:
        cdef int n, i
        if self.found_count:
            # Those of an interrupted run come first; the others are still there afterwards.
            return 0
        n = lf_set_ready(self.fd, self.found, EVENTS_PER_CALL)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        if self.loop.deferring:
            self.found_count = n
            if n:
                self.defer()
            return 0
        for i in range(n):
            self.wake(self.found[i].fd, self.found[i].events, None)
        return 0

    cdef int on_deferred(self) except -1:
        cdef int n = self.found_count
        cdef int i
        self.found_count = 0
        for i in range(n):
            self.wake_earlier(self.found[i].fd, self.found[i].events)
        return 0

    cdef int wake_earlier(self, int fd, int events) except -1:
        """wake() without the calls that began to wait after the poll: what it brought was there when they tried."""
        if 0 <= fd < self.capacity:
            if self.watches[fd].reader != NULL and (<SocketCall> self.watches[fd].reader).since == self.loop.turns:
                events &= ~LF_READ
            if self.watches[fd].writer != NULL and (<SocketCall> self.watches[fd].writer).since == self.loop.turns:
                events &= ~LF_WRITE
        return self.wake(fd, events, None)

    cdef void on_fork(self) noexcept:
        """A set of this process's own in the place of the parent's, with those for which calls wait."""
        cdef SocketWatch* entry
        cdef PyObject* reference
        cdef int fd
        self.found_count = 0
        if not self.part_from_parent():
            return
        for fd in range(self.capacity):
            entry = &self.watches[fd]
            if entry.reader != NULL or entry.writer != NULL:
                lf_set_edges(self.fd, fd)
                continue
            reference, entry.sock = entry.sock, NULL
            Py_XDECREF(reference)

    cdef int wake(self, int fd, int events, object error) except -1:
        """Let the calls on *fd* that wait for one of *events* try again, or fail with *error*."""
        if 0 <= fd < self.capacity:
            if events & LF_READ and self.watches[fd].reader != NULL:
                self.answer(<SocketCall> self.watches[fd].reader, error)
            if events & LF_WRITE and self.watches[fd].writer != NULL:
                self.answer(<SocketCall> self.watches[fd].writer, error)
        return 0

    cdef int answer(self, SocketCall call, object error) except -1:
        future = call.future
        self.leave(call)
        try:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        except InvalidStateError:
            # Cancelled, and its task has not heard of it yet.
            pass
        except BaseException as exc:
            # From a future or a call_soon() of the user's. Nobody will tell of the other sockets' edges again.
            self.loop.fail(exc)
        return 0

    cdef bint is_greedy(self, int fd) except -1:
        """Return True once *fd* has had its calls of this turn."""
        cdef SocketWatch* entry
        if fd >= self.capacity:
            self.watches = <SocketWatch*> grown_table(self.watches, &self.capacity, fd, sizeof(SocketWatch))
        entry = &self.watches[fd]
        if entry.turn != self.loop.turns:
            entry.turn = self.loop.turns
            entry.calls = 0
        entry.calls += 1
        return entry.calls > CALLS_PER_TURN

    cdef int wait(self, SocketCall call) except -1:
        """Put *call* in the place of its descriptor's reader or writer, and have the kernel watch that."""
        cdef SocketWatch* entry
        cdef PyObject** slot
        cdef PyObject* reference
        cdef int status
        self.loop.own_after_fork()
        self.loop.on_descriptor_taken(call.fd, LF_WRITE if call.kind == SENDALL else LF_READ)
        if call.fd >= self.capacity:
            self.watches = <SocketWatch*> grown_table(self.watches, &self.capacity, call.fd, sizeof(SocketWatch))
        entry = &self.watches[call.fd]
        if entry.sock == NULL or (<object> entry.sock)() is not call.sock:
            if not self.is_same_file(entry.sock, call.fd):
                # The number belongs to another socket now: theirs was closed.
                self.wake(call.fd, LF_READ | LF_WRITE, OSError(EBADF, os.strerror(EBADF)))
            reference = PyWeakref_NewRef(<PyObject*> call.sock, NULL)
            if reference == NULL:
                return propagate()
            status = lf_set_edges(self.fd, call.fd)
            if status < 0:
                Py_DECREF(reference)
                raise OSError(-status, os.strerror(-status))
            # Not `entry`: what ran meanwhile may have made the table grow.
            entry = &self.watches[call.fd]
            reference, entry.sock = entry.sock, reference
            Py_XDECREF(reference)
        slot = &entry.writer if call.kind == SENDALL else &entry.reader
        if slot[0] != NULL:
            previous = <SocketCall> slot[0]
            self.leave(<SocketCall> previous)
        if self.second_look is None:
            self.plan_look()
        if self.waiting == 0:
            self.watch(uv.UV_READABLE)
            uv.uv_ref(self.handle)
        slot[0] = <PyObject*> call
        if LF_FREE_THREADED:
            # Or the collector, on another thread, could free it together with its task.
            Py_INCREF(<PyObject*> call)
        call.waiting = True
        call.since = self.loop.turns
        self.waiting += 1
        return 0

    def _look_again(self):
        """Tell the kernel once more of the sockets for which calls have waited all the time, once for each call.

        os.dup2() may have put another file under the number, of which nobody tells; that of a closed socket is noticed
        on the way.
        """
        cdef int fd
        cdef bint later = False
        self.second_look = None
        if self.handle == NULL or self.loop.left_to_its_thread(self._look_again):
            return
        for fd in range(self.capacity):
            if self.needs_look(self.watches[fd].reader, &later) | self.needs_look(self.watches[fd].writer, &later):
                self.look_at(fd)
        if later:
            self.plan_look()

    cdef int plan_look(self) except -1:
        self.second_look = self.loop.call_later(SECOND_LOOK, self._look_again)
        self.look_since = self.loop.turns
        return 0

    cdef bint needs_look(self, PyObject* call, bint* later) noexcept:
        if call == NULL or (<SocketCall> call).was_looked_at:
            return False
        if (<SocketCall> call).since > self.look_since:
            later[0] = True
            return False
        (<SocketCall> call).was_looked_at = True
        return True

    cdef int look_at(self, int fd) except -1:
        cdef PyObject* item = self.watches[fd].reader if self.watches[fd].reader != NULL else self.watches[fd].writer
        cdef int status = -EBADF
        if number_of((<SocketCall> item).sock) == fd:
            status = lf_set_edges(self.fd, fd)
        if status < 0:
            self.wake(fd, LF_READ | LF_WRITE, OSError(-status, os.strerror(-status)))
        return 0

    cdef bint is_same_file(self, PyObject* reference, int fd) except -1:
        """Return True if another object of the user's is still the open socket *fd*."""
        if reference == NULL:
            return False
        sock = (<object> reference)()
        return sock is not None and number_of(sock) == fd

    cdef bint forget(self, int fd, int event) except -1:
        """Let the call that waits for *event* of *fd* wait in vain; return False if there is none."""
        cdef PyObject* call
        if not 0 <= fd < self.capacity:
            return False
        call = self.watches[fd].writer if event == LF_WRITE else self.watches[fd].reader
        if call == NULL:
            return False
        self.leave(<SocketCall> call)
        return True

    cdef int leave(self, SocketCall call) noexcept:
        """*call* waits no more."""
        if call.waiting:
            call.waiting = False
            if call.kind == SENDALL:
                self.watches[call.fd].writer = NULL
            else:
                self.watches[call.fd].reader = NULL
            self.waiting -= 1
            if self.waiting == 0 and self.handle != NULL:
                # The set stays armed, but nobody needs the loop to look.
                uv.uv_unref(self.handle)
            if LF_FREE_THREADED:
                Py_DECREF(<PyObject*> call)
        return 0


# Without the GIL the set owns the calls that wait, and shows them to the collector (see collector.traverse_loop).

cdef traverseproc generated_traverse


cdef int traverse_set(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef SocketWatch* watches = (<SocketSet> self).watches
    cdef int fd
    cdef int status = generated_traverse(self, visit, arg)
    for fd in range((<SocketSet> self).capacity):
        if status == 0 and watches[fd].reader != NULL:
            status = visit(watches[fd].reader, arg)
        if status == 0 and watches[fd].writer != NULL:
            status = visit(watches[fd].writer, arg)
    return status


if LF_FREE_THREADED:
    generated_traverse = (<PyTypeObject*> SocketSet).tp_traverse
    (<PyTypeObject*> SocketSet).tp_traverse = traverse_set


@cython.final
@cython.no_gc_clear
@cython.freelist(64)
cdef class SocketCall:
    """One call of ``sock_recv`` or its kin: await it once, as a coroutine."""

    def __cinit__(self):
        # Until socket_call() has filled it in.
        self.finished = True

    def __dealloc__(self):
        self.finish()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        """Replaced below by an entry that raises StopIteration without a traceback."""
        raise NotImplementedError

    def send(self, value):
        """Continue the call; coroutine protocol."""
        return sent(self.step())

    def throw(self, kind, value=None, traceback=None):
        """Raise an exception where the call waits; coroutine protocol."""
        iterator = self.iterator
        self.finish()
        if iterator is not None:
            throw_into(iterator, kind, value, traceback)
        throw_here(kind, value)

    @property
    def __name__(self):
        return NAMES[self.kind]

    @property
    def __qualname__(self):
        return f"Loop.{NAMES[self.kind]}"

    def close(self):
        """Give the call up; coroutine protocol."""
        if self.waiting and is_for_its_thread(self.set.loop) and self.set.loop.left_to_its_thread(self.close):
            return
        self.finish()

    cdef void finish(self) noexcept:
        self.finished = True
        if self.waiting:
            self.set.leave(self)
        if self.has_view:
            self.has_view = False
            PyBuffer_Release(&self.view)
        # Whoever looks at the task later must not keep the socket alive.
        self.future = self.iterator = self.sock = self.data = None

    cdef PyObject* step(self) noexcept:
        """Return the future to wait for; NULL when the call is over, with StopIteration or another exception, or
        none."""
        cdef PyObject* result = NULL
        cdef int state
        lf_forget_value()
        if self.finished:
            try:
                raise RuntimeError("cannot reuse already awaited coroutine")
            except RuntimeError as exc:
                PyErr_SetObject(<PyObject*> RuntimeError, <PyObject*> exc)
            return NULL
        if self.iterator is not None:
            state = PyIter_Send(<PyObject*> self.iterator, Py_None, &result)
            if state == PYGEN_NEXT:
                return result
            if state == PYGEN_ERROR:
                self.finish()
                return NULL
            Py_XDECREF(result)
            self.future = self.iterator = None
        return step_on(self)

    cdef int attempt(self, PyObject** result) except -2:
        """Make the system call; False if it would block."""
        cdef Py_ssize_t n
        cdef Py_buffer view
        cdef char* buffer
        if self.kind == RECV:
            if self.size == 0:
                result[0] = PyBytes_FromStringAndSize(NULL, 0)
                return True
            buffer = self.set.loop.borrow_read_buffer()
            n = lf_recv(self.fd, buffer, min(self.size, LONGEST_RECV))
            if n >= 0:
                result[0] = PyBytes_FromStringAndSize(buffer, n)
        elif self.kind == RECV_INTO:
            PyObject_GetBuffer(self.data, &view, PyBUF_WRITABLE)
            n = lf_recv(self.fd, <char*> view.buf, view.len) if view.len else 0
            PyBuffer_Release(&view)
            if n >= 0:
                result[0] = PyLong_FromSsize_t(n)
        else:
            return self.attempt_send()
        if n == -EAGAIN:
            return False
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        self.set.loop._bytes_received += n
        if result[0] == NULL:
            propagate()
        return True

    cdef int attempt_send(self) except -2:
        cdef Py_ssize_t n, size
        cdef char* data
        if type(self.data) is bytes:
            data = PyBytes_AS_STRING(self.data)
            size = PyBytes_GET_SIZE(self.data)
        else:
            if not self.has_view:
                PyObject_GetBuffer(self.data, &self.view, PyBUF_SIMPLE)
                self.has_view = True
            data = <char*> self.view.buf
            size = self.view.len
        n = lf_send(self.fd, data + self.sent, size - self.sent)
        if n == -EAGAIN:
            return False
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        self.sent += n
        self.set.loop._bytes_sent += n
        return self.sent >= size

    cdef PyObject* start_waiting(self) except NULL:
        """Wait for the socket in a future; return that."""
        cdef LoopCore loop = self.set.loop
        cdef PyObject* result = NULL
        loop.check_open()
        loop.check_not_polling()
        if loop._transports or (self.fd < loop.claims_capacity and loop.claims[self.fd] != NULL):
            (<object> loop)._ensure_fd_no_transport(self.fd)
        self.future = loop.new_future()
        self.set.wait(self)
        self.iterator = iter(self.future)
        if PyIter_Send(<PyObject*> self.iterator, Py_None, &result) != PYGEN_NEXT:
            Py_XDECREF(result)
            raise RuntimeError("a new future is done")
        return result


cdef PyObject* step_on(SocketCall call) noexcept:
    """Try; over, or wait. As `SocketCall.step`."""
    cdef PyObject* result = NULL
    try:
        call.fd = number_of(call.sock)
        if call.fd >= 0 and not call.was_patient and call.set.is_greedy(call.fd):
            call.was_patient = True
            Py_INCREF(Py_None)
            return Py_None
        if not call.attempt(&result):
            return call.start_waiting()
    except BaseException as exc:
        call.finish()
        kind = type(exc)
        PyErr_SetObject(<PyObject*> kind, <PyObject*> exc)
        return NULL
    call.finish()
    if result != NULL:
        # sock_sendall() returns None, which needs no StopIteration.
        lf_stop_iteration(result)
        Py_DECREF(result)
    return NULL


cdef PyObject* next_step(PyObject* self) noexcept:
    return (<SocketCall> self).step()


# From Cython code StopIteration would get a traceback each time.
(<PyTypeObject*> SocketCall).tp_iternext = next_step


cdef inline int number_of(object sock) except -2:
    """Return the descriptor of a plain socket, -1 if it is closed."""
    cdef PyObject* number
    cdef int fd
    if not FILENO_IS_PLAIN:
        return sock.fileno()
    number = (<PyCFunction> (<PyMethodDescrObject*> FILENO).d_method.ml_meth)(<PyObject*> sock, NULL)
    if number == NULL:
        propagate()
    fd = <int> PyLong_AsLong(number)
    Py_DECREF(number)
    return fd


cdef SocketCall socket_call(SocketSet set, object sock, int kind, object argument):
    cdef SocketCall call
    cdef Py_ssize_t size = 0
    if type(sock) is not Socket:
        return None
    if kind == RECV:
        if type(argument) is not int:
            return None
        size = PyLong_AsSsize_t(<PyObject*> argument)
        if size < 0:
            PyErr_Clear()
            return None
    elif type(argument) is memoryview:
        if not argument.c_contiguous or (kind == RECV_INTO and argument.readonly):
            return None
    elif type(argument) is not bytearray and (kind == RECV_INTO or type(argument) is not bytes):
        return None
    call = SocketCall.__new__(SocketCall)
    call.set = set
    call.sock = sock
    call.kind = kind
    call.size = size
    call.data = argument
    call.fd = -1
    call.finished = False
    return call

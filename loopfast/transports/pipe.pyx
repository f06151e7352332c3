"""Pipes: asyncio's own transports, with what runs for each read and write compiled.

The descriptor belongs to the user's file object, which may be closed at any time; its number may be given to a second
transport or to ``add_reader``; and asyncio's rules for all this differ between versions. So it never reaches libuv,
which closes what it watches or aborts: it would need a duplicate, and with one the peer of a closed file sees no end.
Instead ``_add_reader`` and ``_add_writer`` watch it, for one more system call (less than 1 us) per wake-up, and all
that is not hot stays the running interpreter's code.
"""

import sys
import weakref
from asyncio import transports
from asyncio.base_subprocess import WriteSubprocessPipeProto

from cpython.object cimport PyObject
from libc.errno cimport EAGAIN

from loopfast.buffers cimport READ_BUFFER_SIZE
from loopfast.core cimport LoopCore
from loopfast.includes.platform cimport lf_read, lf_resize_pipe, lf_write
from loopfast.includes.python cimport (
    Py_DECREF, Py_XDECREF, PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, PyObject_VectorcallMethod,
    _PyBytes_Resize, propagate,
)
from loopfast.transports.base cimport received_bytes, release_received

try:
    from asyncio.unix_events import _UnixReadPipeTransport as Reader
    from asyncio.unix_events import _UnixWritePipeTransport as Writer
except ImportError:
    # Windows, whose selector loops have no pipes: the classes below are never used.
    Reader = transports.ReadTransport
    Writer = transports.WriteTransport

cdef enum:
    # Bytes from which on a copy costs more than to allocate for the longest read and give back what was not used.
    MUCH = 16 * 1024
    # Bytes that a pipe holds by default. A read of as many found it full.
    USUAL_PIPE = 64 * 1024
    # Bytes that the pipe of a child process is to hold which was found full. Twice as many are no faster.
    ROOMY_PIPE = 256 * 1024
    # How often it must have been full for that.
    OFTEN_FULL = 2
    # How many pipes may have it at a time. All pipes of an unprivileged user share 64 MiB (pipe(7)).
    MOST_ROOMY = 32

# Weak references to the transports of those pipes, of the loops of all threads.
cdef set roomy = set()

cdef object inherited_read_ready = getattr(Reader, "_read_ready", None)
cdef object inherited_write = Writer.write
cdef object inherited_write_ready = getattr(Writer, "_write_ready", None)
cdef str DATA_RECEIVED = sys.intern("data_received")


cdef inline Py_ssize_t read_once(LoopCore loop, int fd, Py_ssize_t limit, bint much, object protocol) except -2:
    """Read up to *limit* bytes from *fd* and hand them to *protocol*; return how many, or -1 for the end or an error,
    which comes again. If *much* is expected, read into the very object, else into the loop's buffer.

    The GIL is released as in ``os.read``: another process that has this pipe may have made it blocking.
    """
    cdef PyObject* args[2]
    cdef PyObject* result
    cdef char* buffer
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    limit = min(limit, <Py_ssize_t> READ_BUFFER_SIZE)
    if limit <= 0:
        return -1
    args[1] = NULL
    if much:
        args[1] = PyBytes_FromStringAndSize(NULL, limit)
        if args[1] == NULL:
            return propagate()
        buffer = PyBytes_AS_STRING(args[1])
    else:
        buffer = loop.borrow_read_buffer()
    with nogil:
        size = lf_read(fd, buffer, limit)
    loop._bytes_received += max(0, size)
    if size <= 0:
        Py_XDECREF(args[1])
        return 0 if size == -EAGAIN else -1
    if much:
        capacity = size
        if size < limit:
            _PyBytes_Resize(&args[1], size)
    else:
        args[1] = received_bytes(loop, buffer, size, &capacity)
    if args[1] == NULL:
        return propagate()
    args[0] = <PyObject*> protocol
    result = PyObject_VectorcallMethod(<PyObject*> DATA_RECEIVED, args, 2, NULL)
    release_received(loop, args[1], capacity)
    if result == NULL:
        return propagate()
    Py_DECREF(result)
    return size


cdef inline Py_ssize_t write_once(int fd, PyObject* data) noexcept:
    """Write the bytes object *data*; return how much of it the kernel took, or -1 for an error, which comes again."""
    cdef const char* start = PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    with nogil:
        size = lf_write(fd, start, size)
    return 0 if size == -EAGAIN else size


cdef int write_slowly(object transport, object data) except -1:
    """asyncio's write(): of any data, in any state."""
    cdef bint is_open = not transport._conn_lost and not transport._closing
    unsent = len(transport._buffer)
    inherited_write(transport, data)
    if is_open and not transport._conn_lost:
        count_sent(transport._loop, memoryview(data).nbytes + unsent - len(transport._buffer))
    return 0


cdef int count_sent(object loop, Py_ssize_t size) except -1:
    if isinstance(loop, LoopCore):
        (<LoopCore> loop)._bytes_sent += size
    return 0


cdef bint is_room_left() except -1:
    """Return True if another pipe may have more room."""
    if len(roomy) >= MOST_ROOMY:
        for reference in roomy.copy():
            transport = reference()
            if transport is None or transport._pipe is None:
                roomy.discard(reference)
    return len(roomy) < MOST_ROOMY


cdef int note_full(object transport) except -1:
    """The pipe was found full: where that is no accident, give it more room, as otherwise both processes wait for each
    other at every 64 KiB. Only the pipes of child processes, which asyncio makes, and not where `pipesize` chose the
    size.
    """
    times = transport._times_full + 1
    transport._times_full = times
    if times < OFTEN_FULL or not isinstance(transport._protocol, WriteSubprocessPipeProto) or not is_room_left():
        return 0
    owner = transport._protocol.proc
    if owner is None or getattr(owner.get_extra_info("subprocess"), "pipesize", -1) >= 0:
        return 0
    if lf_resize_pipe(transport._fileno, USUAL_PIPE, ROOMY_PIPE):
        roomy.add(weakref.ref(transport))
    return 0


class ReadPipeTransport(Reader):
    """The transport of ``loop.connect_read_pipe()``: an ``asyncio.ReadTransport``."""

    # Bytes of one read, at most.
    max_size = READ_BUFFER_SIZE

    # The last read brought much, so the next one will.
    _reads_much = False

    _times_full = 0

    def _read_ready(self):
        cdef Py_ssize_t size
        cdef bint much
        loop = self._loop
        if not isinstance(loop, LoopCore):
            return inherited_read_ready(self)
        much = self._reads_much
        size = read_once(loop, self._fileno, self.max_size, much, self._protocol)
        if size < 0:
            inherited_read_ready(self)
        elif much != (size >= MUCH):
            self._reads_much = not much
        if size >= USUAL_PIPE and self._times_full < OFTEN_FULL:
            note_full(self)


class WritePipeTransport(Writer):
    """The transport of ``loop.connect_write_pipe()``: an ``asyncio.WriteTransport``."""

    _times_full = 0

    def write(self, data):
        """Write *data*, a bytes-like object, at once; what the kernel does not take waits in the buffer.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.WriteTransport.write
        """
        cdef Py_ssize_t written
        if type(data) is not bytes or not data or self._buffer or self._conn_lost or self._closing:
            write_slowly(self, data)
            return
        written = write_once(self._fileno, <PyObject*> data)
        if written < 0:
            write_slowly(self, data)
            return
        count_sent(self._loop, written)
        if written < PyBytes_GET_SIZE(<PyObject*> data):
            self._loop._add_writer(self._fileno, self._write_ready)
            self._buffer += memoryview(data)[written:]
            if self._times_full < OFTEN_FULL:
                note_full(self)
            self._maybe_pause_protocol()

    def _write_ready(self):
        unsent = len(self._buffer)
        inherited_write_ready(self)
        if not self._conn_lost:
            count_sent(self._loop, unsent - len(self._buffer))
            if self._buffer and self._times_full < OFTEN_FULL:
                note_full(self)

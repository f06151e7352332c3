# What every native transport is: the asyncio state machine of a connection (open, closing, lost) and flow control.
#
#   open --close()--> closing --(queue empty)--> lost        conn_lost counts: 0 open, 1 connection_lost() is scheduled,
#   open --error or abort()---------------------> lost       more: writes that came after that

from cpython.object cimport PyObject

from loopfast.buffers cimport BULK_READ_SIZE
from loopfast.core cimport LoopCore, flag
from loopfast.handles.base cimport UVHandle
from loopfast.includes.bytes cimport LF_REUSES_BYTES, lf_end_bytes, lf_refill_bytes
from loopfast.includes.python cimport (
    Py_DECREF, Py_REFCNT, Py_XDECREF, PyBytes_FromStringAndSize, _PyBytes_Resize, propagate,
)
from loopfast.includes.threads cimport lf_mutex


cdef enum:
    # Bytes up to which a received object is kept for the next read; about the same spares malloc's slow path (1 KiB and
    # more).
    REUSED_BYTES = 4096


cdef inline PyObject* received_bytes(LoopCore loop, const char* data, Py_ssize_t size, Py_ssize_t* capacity) noexcept:
    # Return a bytes object with a copy of `data` (a new reference; NULL with the exception set), to be given to
    # release_received() with `capacity`.
    cdef PyObject* spare = loop.spare_bytes
    if LF_REUSES_BYTES and spare != NULL and 1 < size <= loop.spare_bytes_capacity:
        loop.spare_bytes = NULL
        capacity[0] = loop.spare_bytes_capacity
        lf_refill_bytes(spare, data, size)
        return spare
    capacity[0] = size
    return PyBytes_FromStringAndSize(data, size)


cdef inline PyObject* receiving_bytes(LoopCore loop, Py_ssize_t size, Py_ssize_t* capacity) noexcept:
    # The same with room for `size` bytes instead of a copy, to be given to received_so_far() as well.
    cdef PyObject* spare = loop.spare_bytes
    if LF_REUSES_BYTES and spare != NULL and 1 < size <= loop.spare_bytes_capacity:
        loop.spare_bytes = NULL
        capacity[0] = loop.spare_bytes_capacity
        return spare
    capacity[0] = size
    return PyBytes_FromStringAndSize(NULL, size)


cdef inline int received_so_far(PyObject** data, Py_ssize_t size, Py_ssize_t* capacity) except -1:
    # The first `size` bytes of what receiving_bytes() gave are in place, at least one; the others are not wanted.
    if LF_REUSES_BYTES and capacity[0] <= REUSED_BYTES:
        lf_end_bytes(data[0], size)
        return 0
    capacity[0] = size
    return 0 if _PyBytes_Resize(data, size) == 0 else propagate()


cdef inline void release_received(LoopCore loop, PyObject* data, Py_ssize_t capacity) noexcept:
    # The protocol has returned: drop `data`, or keep it if it is the protocol's no more.
    if (LF_REUSES_BYTES and Py_REFCNT(data) == 1 and 1 < capacity <= REUSED_BYTES
            and (loop.spare_bytes == NULL or loop.spare_bytes_capacity < capacity)):
        Py_XDECREF(loop.spare_bytes)
        loop.spare_bytes = data
        loop.spare_bytes_capacity = capacity
        return
    if LF_REUSES_BYTES and capacity == BULK_READ_SIZE and loop.bulk_bytes == NULL and Py_REFCNT(data) == 1:
        lf_end_bytes(data, capacity)
        loop.bulk_bytes = data
        return
    Py_DECREF(data)


cdef class FastProtocol:
    # A protocol that takes data from a native stream as it is in the read buffer. 0, or -1 with the exception set.
    cdef LoopCore stream_loop
    cdef int receive(self, const char* data, Py_ssize_t size) noexcept


cdef class Connections:
    # The open connections of a server, in the place of the weak set in which asyncio's Server keeps them.
    cdef:
        # Head of the list of native transports (borrowed: a transport that is deallocated leaves first).
        PyObject* first
        Py_ssize_t count
        # The others: a WeakSet once there is one.
        object others
        # Without the GIL: guards the list.
        lf_mutex mutex

    cdef void link(self, NativeTransport transport) noexcept
    cdef void unlink(self, NativeTransport transport) noexcept


cdef class NativeTransport(UVHandle):
    cdef:
        # The user's protocol; None once connection_lost() has returned. Without the GIL other threads look at it, with
        # the loop's lock, which replace_protocol() takes to change it.
        object protocol
        # asyncio's Server that accepted the connection, until it is lost; the list that this transport is in meanwhile,
        # if any, and its neighbours there (borrowed both ways).
        object server
        Connections connections
        PyObject* next_connection
        PyObject* previous_connection
        # The socket object for this descriptor: the user's own, or made when first asked for. Detached before libuv
        # closes.
        object sock
        # One more reference to it (owned), which the collector does not see: of a transport and its socket that go
        # together it would end the socket first, and libuv would close the number again, which may be another file's.
        PyObject* held_sock
        # The TransportSocket of it that get_extra_info("socket") gave out.
        object socket_view
        int fd
        int conn_lost
        # The names of both ends, once they were asked for.
        object sockname
        object peername
        # What get_extra_info() answers beyond the socket itself; None until there is something.
        dict extra
        # The context of this connection's callbacks, a copy of the one it was made in; shared with no other connection
        # (owned).
        PyObject* context
        # asyncio of 3.15 gave the context: every callback runs in this very one, connection_made() and
        # connection_lost() too.
        flag shares_context
        flag protocol_connected
        # libuv reads, and the loop holds this transport.
        flag reading
        flag closing
        # It was open when its loop was closed.
        flag left_open

        # Flow control: pause_writing() above `high_water` unsent bytes, resume_writing() at or below `low_water`.
        flag protocol_paused
        size_t high_water
        size_t low_water

    cdef bint is_left_to_its_thread(self) noexcept
    # Who the descriptor belongs to, as asyncio's users see it.
    cdef int claim(self, LoopCore loop, int fd, object sock) except -1
    cdef void hold_socket(self, object sock) noexcept
    cdef object socket_object(self)
    cdef int family(self) except -1
    cdef object name_of_peer(self)
    cdef object own_name(self)
    # What get_extra_info() answers from what the transport itself knows.
    cdef object info_on(self, object name, object default)
    # set_protocol(), on the loop's thread.
    cdef int take_protocol(self, object protocol) except -1
    cdef int open_transport(self, LoopCore loop, object protocol, object server, dict extra, object context) except -1
    # Schedule connection_made(), then begin(), then the waiter's result, in this order.
    cdef int start(self, object waiter) except -1
    cdef int begin(self) except -1
    # Bytes that wait to be sent, and whether libuv has a request for some of them.
    cdef size_t unsent(self) noexcept
    cdef bint is_sending(self) noexcept
    cdef int update_flow(self) except -1
    # A write after the connection was lost: too many of them are logged.
    cdef int note_lost_write(self) except -1
    cdef int replace_protocol(self, object protocol) except -1
    cdef int pause_protocol(self) except -1
    cdef int resume_protocol(self) except -1
    # Report `exception` (an OSError only to the debug log), drop what is queued, lose the connection.
    cdef int report_protocol_error(self, object exception, str message) except -1
    cdef int fatal_error(self, object exception, str message) except -1
    cdef int force_close(self, object exception) except -1
    cdef int schedule_connection_lost(self, object exception) except -1
    # Upcalls of the states above: stop reading; drop queued data; connection_lost() has run, give everything back.
    cdef int stop_reading(self) except -1
    cdef void drop_queue(self) noexcept
    # Send what is held back.
    cdef int flush(self) except -1
    # Before libuv closes the descriptor: part it from the user's socket object.
    cdef int release_socket(self) except -1
    cdef int on_lost(self, object exception) except -1


# The name that `ask`, getsockname() or getpeername(), returns; None where the connection is gone.
cdef object end_name(object ask)

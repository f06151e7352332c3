# sock_recv(), sock_recv_into() and sock_sendall(): awaitables that try the system call first and wait only if they
# must.

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from loopfast.handles.poll cimport KernelSet
from loopfast.includes.platform cimport lf_event


cdef enum:
    EVENTS_PER_CALL = 128
    # Calls on one socket that may complete in one turn, and connections of one task
    # that may stand at once; the next one lets others run first.
    CALLS_PER_TURN = 16


cdef enum:
    RECV
    RECV_INTO
    SENDALL


ctypedef struct SocketWatch:
    # Whom the kernel was told about: a weak reference to the socket object (owned; NULL: nobody), because its number
    # may be closed and reused behind our back. And the SocketCalls that wait (borrowed; NULL: none), one for each
    # direction: as in asyncio a later one takes the place of the one before, which then waits in vain.
    PyObject* sock
    PyObject* reader
    PyObject* writer
    # The turn that it was used in last, and how often.
    uint64_t turn
    int calls


cdef class SocketSet(KernelSet):
    # Sockets stay in the kernel set, edge-triggered in both directions, so that a round trip costs no call to change
    # it, and one that nobody waits for costs nothing.
    cdef:
        SocketWatch* watches
        int capacity
        int waiting
        # The timer of _look_again(), while a call waits that it has not looked at; None without.
        object second_look
        # The turn in which that timer was made.
        uint64_t look_since
        # What the poll brought while the loop was deferring.
        lf_event[EVENTS_PER_CALL] found
        int found_count

    cdef bint is_greedy(self, int fd) except -1
    cdef int wait(self, SocketCall call) except -1
    cdef bint forget(self, int fd, int event) except -1
    cdef int leave(self, SocketCall call) noexcept
    cdef int wake(self, int fd, int events, object error) except -1
    cdef int wake_earlier(self, int fd, int events) except -1
    cdef int answer(self, SocketCall call, object error) except -1
    cdef bint is_same_file(self, PyObject* reference, int fd) except -1
    cdef int plan_look(self) except -1
    cdef bint needs_look(self, PyObject* call, bint* later) noexcept
    cdef int look_at(self, int fd) except -1


cdef class SocketCall:
    cdef:
        SocketSet set
        object sock
        # RECV, RECV_INTO or SENDALL, and for what: the size to receive, the buffer, the data.
        int kind
        Py_ssize_t size
        object data
        # sock_sendall(): bytes that have left, and the export of data that is not bytes.
        Py_ssize_t sent
        Py_buffer view
        bint has_view
        bint finished
        # It has let others run; the next try comes in any case.
        bint was_patient

        # While it waits: the future, its iterator, and whether it is its descriptor's reader or writer.
        object future
        object iterator
        int fd
        bint waiting
        bint was_looked_at
        # The turn in which it began to wait.
        uint64_t since

    cdef PyObject* step(self) noexcept
    cdef int attempt(self, PyObject** result) except -2
    cdef int attempt_send(self) except -2
    cdef PyObject* start_waiting(self) except NULL
    cdef void finish(self) noexcept


# A call of this kind if it can be made natively, else None.
cdef SocketCall socket_call(SocketSet set, object sock, int kind, object argument)

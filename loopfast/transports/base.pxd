# What every native transport is: the asyncio state machine of a connection (open, closing, lost) and flow control.
#
#   open --close()--> closing --(queue empty)--> lost        conn_lost counts: 0 open, 1 connection_lost() is scheduled,
#   open --error or abort()---------------------> lost       more: writes that came after that

from cpython.object cimport PyObject

from loopfast.core cimport LoopCore
from loopfast.handles.base cimport UVHandle


cdef class NativeTransport(UVHandle):
    cdef:
        # The user's protocol; None once connection_lost() has returned.
        object protocol
        # asyncio's Server that accepted the connection, until it is lost.
        object server
        # What get_extra_info() answers beyond the socket itself; None until there is something.
        dict extra
        # The context of this connection's callbacks, a copy of the one it was made in; shared with no other connection (owned).
        PyObject* context
        # asyncio of 3.15 gave the context: every callback runs in this very one, connection_made() and connection_lost() too.
        bint shares_context
        bint protocol_connected
        bint closing
        int conn_lost

        # Flow control: pause_writing() above `high_water` unsent bytes, resume_writing() at or below `low_water`.
        size_t high_water
        size_t low_water
        bint protocol_paused

    cdef int open_transport(self, LoopCore loop, object protocol, object server, dict extra, object context) except -1
    # Schedule connection_made(), then begin(), then the waiter's result, in this order.
    cdef int start(self, object waiter) except -1
    cdef int begin(self) except -1
    cdef size_t unsent(self) noexcept
    cdef int update_flow(self) except -1
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
    # Before libuv closes the descriptor: part it from the user's socket object.
    cdef int release_socket(self) except -1
    cdef int on_lost(self, object exception) except -1

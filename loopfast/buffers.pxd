# Memory that the objects of a loop share, and who owns which descriptor. Knows nothing of libuv.

from cpython.object cimport PyObject

from loopfast.callbacks cimport CallbackQueues

cdef enum:
    READ_BUFFER_SIZE = 120 * 1024
    # One read of a stream that has filled the buffer: straight into a bytes object.
    BULK_READ_SIZE = 256 * 1024
    GATHER_BUFFER_SIZE = 64 * 1024
    # Bytes that libuv needs for one datagram, and how many one read may bring.
    DATAGRAM_SIZE = 64 * 1024
    DATAGRAMS_PER_READ = 16


cdef class LoopBuffers(CallbackQueues):
    cdef:
        # Lent to a stream during one read callback, copied before it returns. Allocated at the first read.
        char* read_buffer
        # The same for endpoints of datagrams: room for several.
        char* datagram_buffer

        # The bytes object received last if nobody kept it (owned), and the bytes it has memory for.
        PyObject* spare_bytes
        Py_ssize_t spare_bytes_capacity
        # A bytes object of BULK_READ_SIZE that nobody has seen yet, for the next large read (owned; NULL: none).
        PyObject* bulk_bytes

        # Small writes of the running turn, copied; everything in it has left, or was copied on, when the turn ends.
        char* gather_buffer
        size_t gathered

        # By descriptor: the transport that owns it (borrowed), so that add_reader() and sock_*() can refuse it.
        PyObject** claims
        int claims_capacity

    cdef char* borrow_read_buffer(self) except NULL
    cdef char* borrow_datagram_buffer(self) except NULL
    cdef char* borrow_bulk_bytes(self) noexcept
    # Room for claim_descriptor(fd), which then cannot fail.
    cdef int reserve_descriptor(self, int fd) except -1
    cdef int claim_descriptor(self, int fd, object owner) except -1
    # Who has claimed it, or None.
    cdef object claimant(self, int fd)
    cdef void release_descriptor(self, int fd, object owner) noexcept

"""What a loop lends to those who read and write on it: buffers, and descriptors, each to one owner."""

from cpython.object cimport PyObject
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from loopfast.includes.python cimport (
    Py_DECREF, Py_XDECREF, PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyErr_Clear,
)
from loopfast.includes.threads cimport lf_lock, lf_try_incref, lf_unlock


cdef class LoopBuffers(CallbackQueues):
    """Memory that the objects of a loop share, and who owns which descriptor. Not for direct use."""

    def __dealloc__(self):
        free(self.claims)
        free(self.read_buffer)
        free(self.datagram_buffer)
        free(self.gather_buffer)
        Py_XDECREF(self.spare_bytes)
        Py_XDECREF(self.bulk_bytes)

    cdef char* borrow_read_buffer(self) except NULL:
        if self.read_buffer == NULL:
            self.read_buffer = <char*> malloc(READ_BUFFER_SIZE)
            if self.read_buffer == NULL:
                raise MemoryError(f"no memory for a read buffer of {READ_BUFFER_SIZE} bytes")
        if self.gather_buffer == NULL:
            self.gather_buffer = <char*> malloc(GATHER_BUFFER_SIZE)
            if self.gather_buffer == NULL:
                raise MemoryError(f"no memory for a gather buffer of {GATHER_BUFFER_SIZE} bytes")
        return self.read_buffer

    cdef char* borrow_bulk_bytes(self) noexcept:
        """Return memory of BULK_READ_SIZE that becomes a bytes object without a copy; NULL where there is none."""
        if self.bulk_bytes == NULL:
            self.bulk_bytes = PyBytes_FromStringAndSize(NULL, BULK_READ_SIZE)
            if self.bulk_bytes == NULL:
                PyErr_Clear()
                return NULL
        return PyBytes_AS_STRING(self.bulk_bytes)

    cdef char* borrow_datagram_buffer(self) except NULL:
        if self.datagram_buffer == NULL:
            self.datagram_buffer = <char*> malloc(DATAGRAM_SIZE * DATAGRAMS_PER_READ)
            if self.datagram_buffer == NULL:
                raise MemoryError(f"no memory for {DATAGRAMS_PER_READ} datagrams of {DATAGRAM_SIZE} bytes")
        return self.datagram_buffer

    cdef int reserve_descriptor(self, int fd) except -1:
        cdef int capacity = max(64, self.claims_capacity)
        cdef PyObject** claims
        if fd >= self.claims_capacity:
            while capacity <= fd:
                capacity *= 2
            lf_lock(&self.mutex)
            claims = <PyObject**> realloc(self.claims, capacity * sizeof(PyObject*))
            if claims != NULL:
                memset(claims + self.claims_capacity, 0, (capacity - self.claims_capacity) * sizeof(PyObject*))
                self.claims = claims
                self.claims_capacity = capacity
            lf_unlock(&self.mutex)
            if claims == NULL:
                raise MemoryError(f"no memory for descriptor {fd}")
        return 0

    cdef int claim_descriptor(self, int fd, object owner) except -1:
        self.reserve_descriptor(fd)
        lf_lock(&self.mutex)
        self.claims[fd] = <PyObject*> owner
        lf_unlock(&self.mutex)
        return 0

    cdef void release_descriptor(self, int fd, object owner) noexcept:
        lf_lock(&self.mutex)
        if fd < self.claims_capacity and self.claims[fd] == <PyObject*> owner:
            self.claims[fd] = NULL
        lf_unlock(&self.mutex)

    cdef object claimant(self, int fd):
        cdef PyObject* found = NULL
        if not 0 <= fd < self.claims_capacity:
            return None
        lf_lock(&self.mutex)
        if self.claims[fd] != NULL and lf_try_incref(self.claims[fd]):
            found = self.claims[fd]
        lf_unlock(&self.mutex)
        if found == NULL:
            return None
        owner = <object> found
        Py_DECREF(found)
        return owner

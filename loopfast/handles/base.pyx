"""The life of a libuv handle under a Python object."""

cimport cython
from libc.stdlib cimport calloc, free

from loopfast.core cimport LoopCore, LoopObject, polls_elsewhere
from loopfast.includes cimport uv
from loopfast.includes.threads cimport lf_lock, lf_unlock


cdef void free_handle(uv.uv_handle_t* handle) noexcept nogil:
    free(handle)


@cython.no_gc_clear
cdef class UVHandle(LoopObject):
    """Base of what wraps one ``uv_handle_t``. Not for direct use."""

    def __dealloc__(self):
        # Also where a handle is dropped while open. `self.loop` is still there: see no_gc_clear in core.
        self.close_handle()

    cdef int allocate(self, size_t size) except -1:
        self.handle = <uv.uv_handle_t*> calloc(1, size)
        if self.handle == NULL:
            raise MemoryError(f"no memory for a libuv handle of {size} bytes")
        return 0

    cdef int opened(self, LoopCore loop) except -1:
        self.handle.data = <void*> self
        return self.attach(loop)

    cdef void failed(self) noexcept:
        free(self.handle)
        self.handle = NULL

    cdef void close_handle(self) noexcept:
        cdef uv.uv_handle_t* handle = self.handle
        if handle == NULL:
            return
        self.handle = NULL
        handle.data = NULL
        self.loop.own_after_fork()
        # Without the GIL: so that nobody begins to run the loop meanwhile.
        lf_lock(&self.loop.mutex)
        if self.loop.state == NULL:
            # Nobody can close it any more: libuv keeps the memory.
            pass
        elif polls_elsewhere(self.loop):
            # The last reference may go on any thread.
            self.loop.close_late(handle, free_handle)
        elif not uv.uv_is_closing(handle):
            uv.uv_close(handle, free_handle)
        lf_unlock(&self.loop.mutex)
        self.detach()

    cdef int check_handle(self) except -1:
        if self.handle == NULL:
            raise RuntimeError(f"{type(self).__name__} is closed")
        return 0

    cdef void on_loop_close(self) noexcept:
        self.close_handle()

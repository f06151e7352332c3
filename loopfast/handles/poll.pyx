"""Readiness of descriptors: ``uv_poll_t``, and the set behind ``add_reader`` and ``add_writer``."""

import os

cimport cython
from cpython.object cimport PyObject
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from loopfast.collector cimport visit_call
from loopfast.callbacks cimport Handle
from loopfast.core cimport LoopCore, LoopState, hold_gil
from loopfast.errors cimport check, system_error
from loopfast.handles.base cimport UVHandle
from loopfast.includes cimport uv
from loopfast.includes.platform cimport LF_READ, LF_WRITE, lf_event, lf_set_change, lf_set_open, lf_set_ready
from loopfast.includes.python cimport (
    Py_DECREF, Py_INCREF, PyTypeObject, traverseproc, visitproc,
)

cdef extern from *:
    """
    #if defined(_WIN32)
    #include <winsock2.h>
    #define lf_close(fd) ((void)closesocket(fd))
    #else
    #include <unistd.h>
    #define lf_close(fd) ((void)close(fd))
    #endif
    """
    void lf_close(int fd) nogil

cdef enum:
    # Descriptors whose readiness is asked for with one call.
    EVENTS_PER_CALL = 128
    # The table grows to so many without a question.
    USUAL_DESCRIPTORS = 1024


cdef void on_uv_poll(uv.uv_poll_t* handle, int status, int events) noexcept:
    hold_gil(<LoopState*> (<uv.uv_handle_t*> handle).loop.data)
    if handle.data == NULL:
        return
    cdef UVPoll poll = <UVPoll> handle.data
    try:
        if status < 0:
            # libuv has stopped watching.
            poll.events = 0
            poll.on_unwatched(status)
        else:
            poll.on_poll(status, events)
    except BaseException as exc:
        poll.loop.fail(exc)


@cython.no_gc_clear
cdef class UVPoll(UVHandle):
    """Wraps ``uv_poll_t``. Not for direct use. Source: https://docs.libuv.org/en/v1.x/poll.html"""

    cdef int open(self, LoopCore loop, int fd) except -1:
        cdef int status
        loop.check_open()
        loop.check_not_polling()
        self.allocate(sizeof(uv.uv_poll_t))
        status = uv.uv_poll_init_socket(&loop.state.loop, <uv.uv_poll_t*> self.handle, fd)
        if status < 0:
            self.failed()
            check(status)
        self.fd = fd
        self.opened(loop)
        return 0

    cdef int watch(self, int events) except -1:
        self.check_handle()
        if events == self.events:
            return 0
        self.loop.own_after_fork()
        self.check_handle()
        cdef int status = 0
        if events:
            status = uv.uv_poll_start(<uv.uv_poll_t*> self.handle, events, on_uv_poll)
        else:
            uv.uv_poll_stop(<uv.uv_poll_t*> self.handle)
        # One that could not be started is stopped.
        self.events = events if status == 0 else 0
        if status < 0:
            raise system_error(status)
        return 0

    cdef int on_poll(self, int status, int events) except -1:
        return 0

    cdef int on_unwatched(self, int status) except -1:
        check(status)
        return 0


@cython.no_gc_clear
cdef class KernelSet(UVPoll):
    """A kernel set of descriptors, which libuv watches as one descriptor. Not for direct use."""

    def __dealloc__(self):
        if self.handle != NULL and self.fd >= 0:
            self.close_handle()

    cdef int open(self, LoopCore loop, int fd) except -1:
        """Make the set; *fd* is ignored."""
        cdef int set_fd = lf_set_open()
        if set_fd < 0:
            raise OSError(-set_fd, os.strerror(-set_fd))
        try:
            UVPoll.open(self, loop, set_fd)
        except BaseException:
            os.close(set_fd)
            raise
        self.keep()
        return 0

    cdef bint part_from_parent(self) noexcept:
        cdef int set_fd = lf_set_open()
        if set_fd < 0:
            return False
        try:
            os.dup2(set_fd, self.fd, inheritable=False)
        except OSError:
            lf_close(set_fd)
            return False
        lf_close(set_fd)
        return True

    cdef void close_handle(self) noexcept:
        cdef int fd = self.fd
        if self.handle == NULL:
            return
        self.fd = -1
        UVHandle.close_handle(self)
        lf_close(fd)


@cython.no_gc_clear
cdef class DescriptorSet(KernelSet):
    """The descriptors that callbacks wait for. Not for direct use."""

    def __dealloc__(self):
        self.drop_watches()
        free(self.watches)

    cdef void on_loop_close(self) noexcept:
        self.drop_watches()
        self.close_handle()

    cdef void on_fork(self) noexcept:
        """A set of this process's own in the place of the parent's, with the same members."""
        cdef int fd
        if not self.part_from_parent():
            return
        for fd in range(self.capacity):
            if self.watches[fd].events:
                lf_set_change(self.fd, fd, 0, self.watches[fd].events)

    cdef Watch* watch_of(self, int fd) noexcept:
        """The entry of *fd*, NULL if it has none."""
        if fd < 0 or fd >= self.capacity or self.watches[fd].events == 0:
            return NULL
        return &self.watches[fd]

    cdef int events_of(self, int fd) noexcept:
        cdef Watch* entry = self.watch_of(fd)
        return 0 if entry == NULL else entry.events

    cdef Handle add(self, int fd, int event, Handle handle, bint internal):
        """Have *handle* called when *fd* is ready for *event* (LF_READ or LF_WRITE), instead of whoever was before.

        Raises OSError as ``epoll_ctl`` does: EBADF for a closed descriptor, EPERM for a regular file.
        """
        cdef Watch* entry
        cdef PyObject** slot
        cdef PyObject* old
        if fd >= self.capacity:
            # The kernel first: it knows which numbers are descriptors, and so how large the table can become.
            if fd >= USUAL_DESCRIPTORS:
                check_descriptor(self.fd, fd, event)
            self.watches = <Watch*> grown_table(self.watches, &self.capacity, fd, sizeof(Watch))
        entry = &self.watches[fd]
        # Said to the kernel even if it is not news to us: the number may have been closed and given to another file.
        self.set_events(fd, entry, entry.events | event)
        if internal and not entry.is_internal:
            entry.is_internal = True
            self.internal_count += 1
            self.mark_active()
        slot = &entry.reader if event == LF_READ else &entry.writer
        old = slot[0]
        handle.is_persistent = True
        Py_INCREF(<PyObject*> handle)
        slot[0] = <PyObject*> handle
        if old != NULL:
            previous = <Handle> old
            Py_DECREF(old)
            (<Handle> previous).do_cancel()
        return handle

    cdef bint remove(self, int fd, int event) except -1:
        """Take the callback for *event* of *fd* out; return False if there was none."""
        cdef Watch* entry = self.watch_of(fd)
        cdef PyObject** slot
        cdef PyObject* old
        if entry == NULL:
            return False
        slot = &entry.reader if event == LF_READ else &entry.writer
        old = slot[0]
        if old == NULL:
            return False
        slot[0] = NULL
        self.set_events(fd, entry, entry.events & ~event)
        handle = <Handle> old
        Py_DECREF(old)
        (<Handle> handle).do_cancel()
        return True

    cdef int set_events(self, int fd, Watch* entry, int events) except -1:
        """Tell the kernel, and count the descriptor in or out."""
        cdef int before = entry.events
        cdef int status
        self.loop.own_after_fork()
        status = lf_set_change(self.fd, fd, before, events)
        if status < 0 and events & ~before:
            raise OSError(-status, os.strerror(-status))
        # Failing to take a bit away means that the descriptor is gone, and its registration with it.
        if before == 0:
            self.count += 1
            try:
                self.mark_active()
            except BaseException:
                self.count -= 1
                lf_set_change(self.fd, fd, events, 0)
                raise
            entry.events = events
            return 0
        entry.events = events
        if events == 0:
            self.count -= 1
            if entry.is_internal:
                entry.is_internal = False
                self.internal_count -= 1
        self.mark_active()
        return 0

    cdef int mark_active(self) except -1:
        """Watch the set while it has members; let it count as watched only while one of them is a user's."""
        if self.handle == NULL or self.loop.left_to_its_thread(self._mark_active):
            return 0
        self.watch(uv.UV_READABLE if self.count else 0)
        if self.count > self.internal_count:
            uv.uv_ref(self.handle)
        else:
            uv.uv_unref(self.handle)
        return 0

    def _mark_active(self):
        self.mark_active()

    cdef int on_poll(self, int status, int events) except -1:
        cdef lf_event ready[EVENTS_PER_CALL]
        cdef int n = lf_set_ready(self.fd, ready, EVENTS_PER_CALL)
        cdef int i
        cdef Watch* entry
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        for i in range(n):
            entry = self.watch_of(ready[i].fd)
            if entry == NULL:
                continue
            if ready[i].events & LF_READ and entry.reader != NULL:
                self.fire(ready[i].fd, LF_READ, entry.reader)
            entry = self.watch_of(ready[i].fd)
            if entry != NULL and ready[i].events & LF_WRITE and entry.writer != NULL:
                self.fire(ready[i].fd, LF_WRITE, entry.writer)
        return 0

    cdef int fire(self, int fd, int event, PyObject* callback) except -1:
        if (<Handle> callback).is_cancelled:
            self.remove(fd, event)
        elif not (<Handle> callback).is_queued:
            self.loop.push_event(callback)
            (<Handle> callback).is_queued = True
        return 0

    cdef void drop_watches(self) noexcept:
        """Release every callback without telling the kernel: the set itself goes away."""
        cdef int fd
        cdef PyObject* handles[2]
        for fd in range(self.capacity):
            handles[0], handles[1] = self.watches[fd].reader, self.watches[fd].writer
            memset(&self.watches[fd], 0, sizeof(Watch))
            release_persistent(handles[0])
            release_persistent(handles[1])
        self.count = self.internal_count = 0

    def get_events(self, int fd):
        """Return the LF_* bits that *fd* is watched for."""
        return self.events_of(fd)


cdef void release_persistent(PyObject* handle) noexcept:
    """Drop a watch's reference to its callback, and what the callback holds."""
    if handle == NULL:
        return
    if not (<Handle> handle).is_running:
        (<Handle> handle).release()
    Py_DECREF(handle)


cdef int check_descriptor(int set_fd, int fd, int event) except -1:
    """Raise what adding *fd* to the set raises; it stays added."""
    cdef int status = lf_set_change(set_fd, fd, 0, event)
    if status < 0:
        raise OSError(-status, os.strerror(-status))
    return 0


cdef void* grown_table(void* table, int* capacity, int fd, size_t size) except NULL:
    cdef int wanted = max(16, capacity[0])
    cdef char* grown
    while wanted <= fd:
        wanted *= 2
    grown = <char*> realloc(table, wanted * size)
    if grown == NULL:
        raise MemoryError(f"no memory to watch descriptor {fd}")
    memset(grown + capacity[0] * size, 0, (wanted - capacity[0]) * size)
    capacity[0] = wanted
    return grown


# The set owns its callbacks through C pointers, so it shows them to the collector itself (see collector.traverse_loop).

cdef traverseproc generated_traverse


cdef int traverse_set(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef int fd
    cdef int status = generated_traverse(self, visit, arg)
    for fd in range((<DescriptorSet> self).capacity):
        if status == 0:
            status = visit_call((<DescriptorSet> self).watches[fd].reader, visit, arg)
        if status == 0:
            status = visit_call((<DescriptorSet> self).watches[fd].writer, visit, arg)
    return status


generated_traverse = (<PyTypeObject*> DescriptorSet).tp_traverse
(<PyTypeObject*> DescriptorSet).tp_traverse = traverse_set

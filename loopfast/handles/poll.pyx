"""Readiness of descriptors: ``uv_poll_t``, and the set behind ``add_reader`` and ``add_writer``."""

import os

cimport cython
from cpython.object cimport PyObject
from libc.errno cimport EBADF
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from loopfast.collector cimport visit_call
from loopfast.callbacks cimport Handle
from loopfast.core cimport LoopCore, LoopObject, LoopState, hold_gil
from loopfast.errors cimport check, system_error
from loopfast.handles.base cimport UVHandle
from loopfast.includes cimport uv
from loopfast.includes.platform cimport (
    LF_READ, LF_WRITE, lf_event, lf_set_change, lf_set_events, lf_set_open, lf_set_ready, lf_shared_set_change,
)
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


cdef int made_set() except -1:
    """Return the descriptor of a new kernel set. Raises OSError."""
    cdef int set_fd = lf_set_open()
    if set_fd < 0:
        raise OSError(-set_fd, os.strerror(-set_fd))
    return set_fd


cdef bint renewed_set(int fd) noexcept:
    """Put a new set in the place of the set *fd*, which is the parent's; return False if the system has none left."""
    cdef int set_fd = lf_set_open()
    if set_fd < 0:
        return False
    try:
        os.dup2(set_fd, fd, inheritable=False)
    except OSError:
        lf_close(set_fd)
        return False
    lf_close(set_fd)
    return True


@cython.no_gc_clear
cdef class KernelSet(UVPoll):
    """A kernel set of descriptors, which libuv watches as one descriptor. Not for direct use."""

    def __dealloc__(self):
        if self.handle != NULL and self.fd >= 0:
            self.close_handle()

    cdef int open(self, LoopCore loop, int fd) except -1:
        """Take over the set *fd*, or one that is made if that is -1; where this raises, *fd* is still the caller's."""
        cdef int set_fd = made_set() if fd < 0 else fd
        try:
            UVPoll.open(self, loop, set_fd)
        except BaseException:
            if fd < 0:
                lf_close(set_fd)
            raise
        self.keep()
        return 0

    cdef bint part_from_parent(self) noexcept:
        return renewed_set(self.fd)

    cdef void close_handle(self) noexcept:
        cdef int fd = self.fd
        if self.handle == NULL:
            return
        self.fd = -1
        UVHandle.close_handle(self)
        lf_close(fd)


@cython.no_gc_clear
cdef class OwnSet(KernelSet):
    """The kernel set of those descriptors that cannot be in libuv's. Not for direct use."""

    cdef int on_poll(self, int status, int events) except -1:
        cdef lf_event ready[EVENTS_PER_CALL]
        cdef int n = lf_set_ready(self.fd, ready, EVENTS_PER_CALL)
        cdef int i
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        for i in range(n):
            if self.loop.state.descriptors != NULL:
                (<DescriptorSet> self.loop.state.descriptors).on_ready(ready[i].fd, ready[i].events)
        return 0


# What our patch of libuv calls, with or without the GIL.

cdef void on_event_of_others(uv.uv_loop_t* loop, int fd, unsigned int events) noexcept:
    """An event in libuv's kernel set that is not libuv's."""
    cdef LoopState* state = <LoopState*> loop.data
    hold_gil(state)
    if state.descriptors == NULL:
        return
    descriptors = <DescriptorSet> state.descriptors
    try:
        descriptors.on_ready(fd, lf_set_events(events))
    except BaseException as exc:
        descriptors.loop.fail(exc)


cdef void on_taken(uv.uv_loop_t* loop, int fd) noexcept:
    """libuv begins to watch a descriptor itself."""
    cdef LoopState* state = <LoopState*> loop.data
    hold_gil(state)
    if state.descriptors != NULL:
        (<DescriptorSet> state.descriptors).give_way(fd)


cdef int is_of_others(uv.uv_loop_t* loop, int fd) noexcept:
    """True if *fd* is in libuv's kernel set for us."""
    cdef LoopState* state = <LoopState*> loop.data
    hold_gil(state)
    return state.descriptors != NULL and (<DescriptorSet> state.descriptors).shares(fd)


cdef bint MAY_SHARE = True


def share_set(enabled):
    """For the tests: have the loops made from now on watch descriptors in libuv's kernel set, where that can be, or all
    of them in one of their own."""
    global MAY_SHARE
    MAY_SHARE = enabled


@cython.no_gc_clear
cdef class DescriptorSet(LoopObject):
    """The descriptors that callbacks wait for. Not for direct use."""

    def __cinit__(self):
        self.own_fd = -1

    def __dealloc__(self):
        self.leave()
        free(self.watches)

    cdef int open(self, LoopCore loop) except -1:
        # Made at once: later there may be no descriptor left.
        self.own_fd = made_set()
        self.attach(loop)
        self.keep()
        loop.state.descriptors = <PyObject*> self
        self.may_share = MAY_SHARE and uv.lf_share_set(&loop.state.loop, on_event_of_others, on_taken, is_of_others)
        return 0

    cdef void leave(self) noexcept:
        self.drop_watches()
        if self.is_attached and self.loop.state != NULL:
            self.loop.state.descriptors = NULL
        if self.own is not None:
            self.own.close_handle()
        elif self.own_fd >= 0:
            lf_close(self.own_fd)
        self.own_fd = -1
        self.detach()

    cdef void on_loop_close(self) noexcept:
        self.leave()

    cdef void on_fork(self) noexcept:
        """Sets of this process's own in the place of the parent's, with the same members."""
        cdef int fd
        cdef bint has_own = self.own_fd >= 0 and renewed_set(self.own_fd)
        for fd in range(self.capacity):
            if self.watches[fd].events == 0:
                continue
            if not self.watches[fd].is_shared:
                try:
                    self.use_own()
                except BaseException as exc:
                    self.loop.fail(exc)
            if self.watches[fd].is_shared or has_own:
                self.change(fd, self.watches[fd].is_shared, 0, self.watches[fd].events)

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
                self.check_descriptor(fd, event)
            self.watches = <Watch*> grown_table(self.watches, &self.capacity, fd, sizeof(Watch))
        # Said to the kernel even if it is not news to us: the number may have been closed and given to another file.
        self.set_events(fd, self.watches[fd].events | event)
        self.skip_events(fd)
        entry = &self.watches[fd]
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
        handle = <Handle> old
        Py_DECREF(old)
        try:
            self.set_events(fd, entry.events & ~event)
        finally:
            (<Handle> handle).do_cancel()
        return True

    cdef int set_events(self, int fd, int events) except -1:
        """Tell the kernel, and count the descriptor in or out."""
        cdef int before = self.watches[fd].events
        cdef int status
        self.loop.own_after_fork()
        if before == 0:
            self.watches[fd].is_shared = self.can_share(fd)
        if events and not before & ~events and not self.watches[fd].is_shared:
            # Nothing is taken away, which must not fail.
            self.use_own()
        status = self.change(fd, self.watches[fd].is_shared, before, events)
        if status < 0 and events & ~before:
            raise OSError(-status, os.strerror(-status))
        # Failing to take a bit away means that the descriptor is gone, and its registration with it.
        self.watches[fd].events = events
        if before == 0:
            self.count += 1
            try:
                self.mark_active()
            except BaseException:
                self.count -= 1
                self.watches[fd].events = 0
                self.change(fd, self.watches[fd].is_shared, events, 0)
                raise
            return 0
        if events == 0:
            self.count -= 1
            if self.watches[fd].is_internal:
                self.watches[fd].is_internal = False
                self.internal_count -= 1
        self.mark_active()
        return 0

    cdef void skip_events(self, int fd) noexcept:
        """What the poll that is going on has found was there for whoever waited before."""
        cdef LoopState* state = self.loop.state
        # Not while the loop's thread looks at it without the GIL.
        if self.may_share and state != NULL and state.released == NULL:
            uv.lf_skip_events(&state.loop, fd)

    cdef bint can_share(self, int fd) noexcept:
        """True if libuv does not watch *fd*: a set has one entry for each descriptor."""
        cdef LoopState* state = self.loop.state
        return self.may_share and state != NULL and not uv.lf_loop_watches(&state.loop, fd)

    cdef bint shares(self, int fd) noexcept:
        cdef Watch* entry = self.watch_of(fd)
        return entry != NULL and entry.is_shared

    cdef int change(self, int fd, bint shared, int before, int events) noexcept:
        """Tell the kernel; return a negative errno where it refuses."""
        cdef LoopState* state = self.loop.state
        if not shared:
            return lf_set_change(self.own_fd, fd, before, events)
        if state == NULL or (events == 0 and uv.lf_loop_watches(&state.loop, fd)):
            # Not ours any more.
            return -EBADF
        return lf_shared_set_change(uv.uv_backend_fd(&state.loop), fd, before, events)

    cdef int check_descriptor(self, int fd, int event) except -1:
        """Raise what watching *fd* raises, for which there is no room in the table yet."""
        cdef bint shared = self.can_share(fd)
        cdef int status
        self.loop.own_after_fork()
        status = self.change(fd, shared, 0, event)
        self.change(fd, shared, event, 0)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        return 0

    cdef void give_way(self, int fd) noexcept:
        """libuv is about to watch *fd*, which has one entry in its set: go on in our own."""
        cdef Watch* entry = self.watch_of(fd)
        cdef int status
        if entry == NULL or not entry.is_shared:
            return
        if self.loop.is_forked():
            # The sets are the parent's still; own_after_fork() is to come.
            entry.is_shared = False
            return
        status = self.change(fd, True, entry.events, 0)
        entry.is_shared = False
        if status < 0:
            # It was another file under this number, which nobody has removed.
            return
        try:
            self.use_own()
            status = self.change(fd, False, 0, entry.events)
            if status < 0:
                raise OSError(-status, os.strerror(-status))
        except Exception as exc:
            try:
                self.loop.schedule(self.loop.call_exception_handler, {
                    "message": f"Descriptor {fd} cannot be watched for its reader or writer any more",
                    "exception": exc,
                }, NULL)
            except BaseException as failure:
                self.loop.fail(failure)

    cdef int mark_active(self) except -1:
        """Let what users wait for count as something to poll for."""
        if not self.is_attached or self.loop.state == NULL:
            return 0
        self.loop.state.watched = self.count - self.internal_count
        if self.own is None or self.own.handle == NULL or self.own.events:
            return 0
        if self.loop.left_to_its_thread(self._mark_active):
            return 0
        return self.own.watch(uv.UV_READABLE)

    def _mark_active(self):
        self.mark_active()

    cdef int use_own(self) except -1:
        """Have libuv watch the set of our own, which is about to have a member."""
        cdef OwnSet own
        if self.own is not None or self.loop.left_to_its_thread(self._use_own):
            return 0
        own = OwnSet.__new__(OwnSet)
        own.open(self.loop, self.own_fd)
        uv.uv_unref(own.handle)
        self.own = own
        return own.watch(uv.UV_READABLE)

    def _use_own(self):
        if self.own_fd >= 0:
            self.use_own()

    cdef int on_ready(self, int fd, int events) except -1:
        cdef Watch* entry = self.watch_of(fd)
        if entry == NULL:
            # Left by a file that was closed under this number, and that lives on under another.
            self.change(fd, True, LF_READ, 0)
            self.change(fd, False, LF_READ, 0)
            return 0
        if events & LF_READ and entry.reader != NULL:
            self.fire(fd, LF_READ, entry.reader)
        entry = self.watch_of(fd)
        if entry != NULL and events & LF_WRITE and entry.writer != NULL:
            self.fire(fd, LF_WRITE, entry.writer)
        return 0

    cdef int fire(self, int fd, int event, PyObject* callback) except -1:
        if (<Handle> callback).is_cancelled:
            self.remove(fd, event)
        elif not (<Handle> callback).is_queued:
            self.loop.push_event(callback)
            (<Handle> callback).is_queued = True
        return 0

    cdef void drop_watches(self) noexcept:
        """Release every callback. Libuv's set may stay for a while, a set of our own goes away."""
        cdef int fd
        cdef PyObject* handles[2]
        for fd in range(self.capacity):
            if self.watches[fd].events and self.watches[fd].is_shared:
                self.change(fd, True, self.watches[fd].events, 0)
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

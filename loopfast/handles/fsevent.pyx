"""What the kernel tells of directories and files: ``uv_fs_event_t``, and the queue that all of a loop's share."""

import os

cimport cython

from loopfast.core cimport LoopCore, LoopState, hold_gil, polls_elsewhere
from loopfast.errors cimport check
from loopfast.handles.base cimport UVHandle
from loopfast.includes cimport uv

cdef extern from "Python.h":
    str PyUnicode_DecodeFSDefault(const char* text)

cdef extern from *:
    """
    #if defined(__linux__)
    #include <sys/ioctl.h>
    /* The most events that can be in the queue: none is shorter than its head. */
    static inline int lf_events_waiting(const uv_loop_t *loop)
    {
        int bytes = 0;
        if (loop->inotify_fd < 0 || ioctl(loop->inotify_fd, FIONREAD, &bytes) < 0) return 0;
        return bytes / 16;
    }
    #else
    #define lf_events_waiting(loop) 0
    #endif
    """
    int lf_events_waiting(const uv.uv_loop_t* loop) nogil

cdef enum:
    # Names that are kept for an owner who does not take them; beyond, he must look at everything.
    MOST_NAMES = 1 << 16

#: The kinds of events, to be tested as bits: a name came, went or now means another file; its file has changed.
RENAME = <int> uv.UV_RENAME
CHANGE = <int> uv.UV_CHANGE


cdef void on_uv_fs_event(uv.uv_fs_event_t* handle, const char* name, int events, int status) noexcept:
    hold_gil(<LoopState*> (<uv.uv_handle_t*> handle).loop.data)
    if handle.data == NULL:
        return
    cdef UVFSEvent event = <UVFSEvent> handle.data
    try:
        event.on_fs_event(name, events, status)
    except BaseException as exc:
        event.loop.fail(exc)


cdef class FSEventQueue:
    """Notices when the kernel may have dropped events of one loop. Not for direct use.

    Args:
        limit: how many events the kernel keeps.
        on_full: called without arguments when as many have come at once.
    """

    def __init__(self, Py_ssize_t limit, on_full):
        self.limit = limit
        self.on_full = on_full

    cdef void count_event(self, LoopCore loop) noexcept:
        if self.turn != loop.turns:
            self.turn = loop.turns
            self.count = self.stale
            self.stale = 0
        self.count += 1
        if self.count >= self.limit:
            self.is_full = True

    cdef void count_closed(self, LoopCore loop) noexcept:
        """Count what is in the queue for a handle that has just been closed, and the kernel's answer to that."""
        cdef int waiting
        if loop.state == NULL:
            return
        waiting = 1 + lf_events_waiting(&loop.state.loop)
        # In a poll of another thread it will be closed later, and its answer counts beside those of its like.
        self.stale = self.stale + waiting if polls_elsewhere(loop) else waiting


@cython.no_gc_clear
cdef class UVFSEvent(UVHandle):
    """Wraps ``uv_fs_event_t``: collects the names of what changes in a directory. Not for direct use.

    Args:
        loop: the loop that watches.
        queue: the one of this loop.
        path: the directory (not what is below its subdirectories) or file; a symbolic link is followed.
        callback: called as ``callback(token)`` in each turn of the loop that brought events; takes them with `take`.
        token: what *callback* gets.

    Raises:
        OSError: the kernel does not watch *path*; ``filename`` is *path*.
        RuntimeError: the loop is closed, or polls in another thread.

    Source: https://docs.libuv.org/en/v1.x/fs_event.html
    """

    def __init__(self, LoopCore loop not None, FSEventQueue queue not None, path, callback, token):
        if self.loop is not None:
            raise RuntimeError("a handle is opened once")
        name = os.fsencode(path)
        if b"\0" in name:
            raise ValueError("embedded null byte")
        self.queue = queue
        self.callback = callback
        self.token = token
        self.names = {}
        try:
            self.open(loop, name)
        except OSError as exc:
            raise type(exc)(exc.errno, exc.strerror, path) from None

    cdef int open(self, LoopCore loop, bytes path) except -1:
        cdef int status
        loop.check_open()
        loop.check_not_polling()
        loop.own_after_fork()
        loop.check_open()
        self.allocate(sizeof(uv.uv_fs_event_t))
        status = uv.uv_fs_event_init(&loop.state.loop, <uv.uv_fs_event_t*> self.handle)
        if status < 0:
            self.failed()
            check(status)
        self.opened(loop)
        status = uv.uv_fs_event_start(<uv.uv_fs_event_t*> self.handle, on_uv_fs_event, path, 0)
        if status < 0:
            self.close_handle()
            check(status)
        return 0

    cdef int on_fs_event(self, const char* name, int events, int status) except -1:
        self.queue.count_event(self.loop)
        if name == NULL or status < 0 or len(self.names) >= MOST_NAMES:
            self.is_lossy = True
            self.names.clear()
        elif not self.is_lossy:
            text = PyUnicode_DecodeFSDefault(name)
            self.names[text] = <int> self.names.get(text, 0) | events
        # Always, not only while the loop is deferring: once per poll, however many events it brings.
        self.defer()
        return 0

    cdef int on_deferred(self) except -1:
        try:
            if self.handle != NULL:
                self.callback(self.token)
            if self.queue.is_full:
                self.queue.is_full = False
                self.queue.on_full()
        except BaseException as exc:
            self.loop.fail(exc)
        return 0

    def take(self):
        """Return the names of what changed since the last call, each with the bits of its events, and whether events
        were lost."""
        names, lossy = self.names, bool(self.is_lossy)
        self.names = {}
        self.is_lossy = False
        return names, lossy

    cdef void close_handle(self) noexcept:
        if self.handle != NULL:
            UVHandle.close_handle(self)
            if self.queue is not None:
                self.queue.count_closed(self.loop)

    def __dealloc__(self):
        self.close_handle()

    def close(self):
        """Stop watching. Idempotent."""
        self.close_handle()

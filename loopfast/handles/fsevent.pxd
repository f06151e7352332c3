# What the kernel tells of directories and files: uv_fs_event_t, and the queue that all of a loop's share.

from libc.stdint cimport uint64_t

from loopfast.core cimport LoopCore
from loopfast.handles.base cimport UVHandle


cdef class FSEventQueue:
    # The kernel drops what does not fit into its queue and says so with an event that libuv skips (IN_Q_OVERFLOW). But
    # libuv empties the queue whenever it looks, so whoever counts knows: as many events at once as the queue holds.
    cdef:
        # Called without arguments, after the events that were there, when the queue may have overflowed.
        object on_full
        # Events that fill the queue.
        Py_ssize_t limit
        # What came in the turn `turn`, and what was in the queue for handles that were closed since: those events are
        # never seen.
        Py_ssize_t count
        Py_ssize_t stale
        uint64_t turn
        bint is_full

    cdef void count_event(self, LoopCore loop) noexcept
    cdef void count_closed(self, LoopCore loop) noexcept


cdef class UVFSEvent(UVHandle):
    # Nobody but its owner keeps it alive: dropped, it stops watching.
    cdef:
        FSEventQueue queue
        # Called as callback(token), once for each poll that brought events.
        object callback
        object token
        # Name -> UV_RENAME | UV_CHANGE: what came since the last take().
        dict names
        # `names` is not all.
        bint is_lossy

    cdef int open(self, LoopCore loop, bytes path) except -1
    cdef int on_fs_event(self, const char* name, int events, int status) except -1

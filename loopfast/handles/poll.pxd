# Readiness of descriptors: uv_poll_t, and the set of descriptors that users watch with add_reader() and add_writer().

from cpython.object cimport PyObject

from loopfast.callbacks cimport Handle
from loopfast.core cimport LoopCore, LoopObject
from loopfast.handles.base cimport UVHandle


cdef class UVPoll(UVHandle):
    # A descriptor of our own, or one whose owner outlives this watcher; libuv aborts on one closed behind its back.
    cdef:
        int fd
        int events

    cdef int open(self, LoopCore loop, int fd) except -1
    # Watch for UV_READABLE | UV_WRITABLE; 0 stops. Idempotent.
    cdef int watch(self, int events) except -1
    cdef int on_poll(self, int status, int events) except -1
    # The kernel watches the descriptor no more.
    cdef int on_unwatched(self, int status) except -1


cdef class KernelSet(UVPoll):
    # A kernel set (epoll, kqueue) of descriptors that we do not own, which libuv watches as one descriptor. So a number
    # closed or reused behind our back, or one that cannot be polled, is an error of the call and never reaches libuv,
    # whose answer is abort().

    # In a forked child: a new set under the number of the parent's. False if the system has none left.
    cdef bint part_from_parent(self) noexcept


cdef class OwnSet(KernelSet):
    pass


ctypedef struct Watch:
    # What one descriptor is watched for. The handles are owned, NULL where absent; `events` is what the kernel was
    # told.
    PyObject* reader
    PyObject* writer
    int events
    unsigned char is_internal
    # It is in libuv's kernel set, not in our own.
    unsigned char is_shared


cdef class DescriptorSet(LoopObject):
    # The users' descriptors: what add_reader() and add_writer() were given. They are in libuv's own kernel set, with a
    # mark by which libuv hands their events on (a patch of ours), and libuv knows nothing else of them. What libuv
    # itself watches, too, and all of them where the patch is missing, is in a set of our own.
    cdef:
        Watch* watches
        int capacity
        # Registered descriptors, and how many of them are the loop's own (they must not keep an idle turn polling).
        int count
        int internal_count
        # The set of our own, and what watches it once it had a member.
        int own_fd
        OwnSet own
        bint may_share

    cdef int open(self, LoopCore loop) except -1
    cdef int use_own(self) except -1
    cdef void leave(self) noexcept
    cdef Handle add(self, int fd, int event, Handle handle, bint internal)
    cdef bint remove(self, int fd, int event) except -1
    cdef int events_of(self, int fd) noexcept
    cdef Watch* watch_of(self, int fd) noexcept
    # It is in libuv's set for us.
    cdef bint shares(self, int fd) noexcept
    # From libuv, with the GIL: it is about to watch this descriptor.
    cdef void give_way(self, int fd) noexcept
    # An event, of whichever set.
    cdef int on_ready(self, int fd, int events) except -1
    cdef int mark_active(self) except -1
    cdef int fire(self, int fd, int event, PyObject* callback) except -1
    cdef int set_events(self, int fd, int events) except -1
    cdef void skip_events(self, int fd) noexcept
    cdef bint can_share(self, int fd) noexcept
    cdef int change(self, int fd, bint shared, int before, int events) noexcept
    cdef int check_descriptor(self, int fd, int event) except -1
    cdef void drop_watches(self) noexcept


# A table by descriptor, with room for `fd` and new entries of zeros; the old one is freed. `size` is that of an entry.
cdef void* grown_table(void* table, int* capacity, int fd, size_t size) except NULL

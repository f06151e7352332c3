# The operating system beside libuv (platform.h): clock, fine wait, reading and writing, set of descriptors.

from libc.stdint cimport uint32_t

cdef extern from "platform.h" nogil:
    double lf_monotonic()

    void lf_pause()
    void lf_keep_heap()
    int lf_hold_low_descriptors()
    void lf_let_low_descriptors_go(int held)

    const int LF_FINE_WAIT
    void lf_wait_readable(int fd, double seconds)
    bint lf_is_connected(int fd)

    Py_ssize_t lf_read(int fd, char* buffer, size_t size)
    Py_ssize_t lf_write(int fd, const char* data, size_t size)
    int lf_open_pipe(int* ends)
    int lf_move_descriptor(int source, int to)
    int lf_process()
    bint lf_resize_pipe(int fd, int before, int after)

    enum:
        LF_READ
        LF_WRITE

    ctypedef struct lf_event "struct lf_event":
        int fd
        int events

    int lf_set_open()
    int lf_set_change(int set, int fd, int before, int after)
    int lf_set_edges(int set, int fd)
    int lf_set_ready(int set, lf_event* out, int capacity)
    int lf_set_events(uint32_t events)
    int lf_shared_set_change(int set, int fd, int before, int after)

# libuv's public C API, as far as loopfast uses it. Names and meaning: https://docs.libuv.org/

from libc.stdint cimport int64_t, uint64_t

from loopfast.includes.socket cimport sockaddr

cdef extern from "uv.h" nogil:
    ctypedef int uv_os_fd_t
    ctypedef int uv_os_sock_t
    ctypedef int uv_file

    ctypedef struct uv_buf_t:
        char* base
        size_t len

    ctypedef struct uv_active_reqs_t "union { void* unused; unsigned int count; }":
        unsigned int count

    ctypedef struct uv_loop_t:
        void* data
        unsigned int active_handles
        uv_active_reqs_t active_reqs

    ctypedef enum uv_handle_type:
        UV_UNKNOWN_HANDLE

    ctypedef struct uv_handle_t:
        void* data
        uv_loop_t* loop
        uv_handle_type type

    ctypedef struct uv_async_t:
        void* data

    ctypedef struct uv_prepare_t:
        void* data

    ctypedef struct uv_check_t:
        void* data

    ctypedef struct uv_timer_t:
        void* data

    ctypedef struct uv_poll_t:
        void* data

    ctypedef struct uv_fs_event_t:
        void* data

    ctypedef struct uv_stream_t:
        void* data
        uv_loop_t* loop

    ctypedef struct uv_tcp_t:
        void* data

    ctypedef struct uv_write_t:
        void* data
        uv_stream_t* handle

    ctypedef struct uv_udp_t:
        void* data
        uv_loop_t* loop

    ctypedef struct uv_udp_send_t:
        void* data
        uv_udp_t* handle

    ctypedef struct uv_req_t:
        void* data

    ctypedef struct addrinfo "struct addrinfo":
        int ai_flags
        int ai_family
        int ai_socktype
        int ai_protocol
        size_t ai_addrlen
        sockaddr* ai_addr
        char* ai_canonname
        addrinfo* ai_next

    ctypedef struct uv_getaddrinfo_t:
        void* data
        uv_loop_t* loop

    ctypedef struct uv_timespec_t:
        long tv_sec
        long tv_nsec

    ctypedef struct uv_stat_t:
        uint64_t st_dev
        uint64_t st_mode
        uint64_t st_nlink
        uint64_t st_uid
        uint64_t st_gid
        uint64_t st_rdev
        uint64_t st_ino
        uint64_t st_size
        uint64_t st_blksize
        uint64_t st_blocks
        uv_timespec_t st_atim
        uv_timespec_t st_mtim
        uv_timespec_t st_ctim

    ctypedef struct uv_fs_t:
        uv_loop_t* loop
        ssize_t result
        void* ptr
        uv_stat_t statbuf

    ctypedef enum uv_run_mode:
        UV_RUN_DEFAULT
        UV_RUN_ONCE
        UV_RUN_NOWAIT

    ctypedef enum uv_poll_event:
        UV_READABLE
        UV_WRITABLE
        UV_DISCONNECT
        UV_PRIORITIZED

    ctypedef enum uv_fs_event:
        UV_RENAME
        UV_CHANGE

    int UV_UDP_RECVMMSG
    int UV_UDP_MMSG_FREE

    int UV_EOF
    int UV_EPIPE
    int UV_EAGAIN
    int UV_EBADF
    int UV_EBUSY
    int UV_ECANCELED
    int UV_EIO
    int UV_ENOBUFS
    int UV_ENOMEM
    int UV_UNKNOWN

# Callbacks run inside uv_run(), with the GIL or without it: core.hold_gil() is the first statement of those that need
# it.
cdef extern from "uv.h":
    ctypedef void (*uv_close_cb)(uv_handle_t* handle) noexcept
    ctypedef void (*uv_walk_cb)(uv_handle_t* handle, void* arg) noexcept
    ctypedef void (*uv_async_cb)(uv_async_t* handle) noexcept
    ctypedef void (*uv_prepare_cb)(uv_prepare_t* handle) noexcept
    ctypedef void (*uv_check_cb)(uv_check_t* handle) noexcept
    ctypedef void (*uv_timer_cb)(uv_timer_t* handle) noexcept
    ctypedef void (*uv_poll_cb)(uv_poll_t* handle, int status, int events) noexcept
    ctypedef void (*uv_fs_event_cb)(
        uv_fs_event_t* handle, const char* filename, int events, int status
    ) noexcept
    ctypedef void (*uv_alloc_cb)(uv_handle_t* handle, size_t suggested, uv_buf_t* buf) noexcept
    ctypedef void (*uv_read_cb)(uv_stream_t* stream, ssize_t nread, const uv_buf_t* buf) noexcept
    ctypedef void (*uv_write_cb)(uv_write_t* req, int status) noexcept
    ctypedef void (*uv_udp_recv_cb)(
        uv_udp_t* handle, ssize_t nread, const uv_buf_t* buf, const sockaddr* addr, unsigned int flags
    ) noexcept
    ctypedef void (*uv_udp_send_cb)(uv_udp_send_t* req, int status) noexcept
    ctypedef void (*uv_getaddrinfo_cb)(uv_getaddrinfo_t* req, int status, addrinfo* found) noexcept

cdef extern from "uv.h" nogil:
    unsigned int uv_version()
    const char* uv_version_string()
    size_t uv_loop_size()
    size_t uv_handle_size(uv_handle_type type)
    const char* uv_handle_type_name(uv_handle_type type)
    const char* uv_strerror(int err)
    const char* uv_err_name(int err)
    int uv_translate_sys_error(int sys_errno)

    int uv_loop_init(uv_loop_t* loop)
    int uv_loop_close(uv_loop_t* loop)
    int uv_loop_alive(const uv_loop_t* loop)
    int uv_run(uv_loop_t* loop, uv_run_mode mode)
    void uv_stop(uv_loop_t* loop)
    int uv_backend_fd(const uv_loop_t* loop)
    uint64_t uv_now(const uv_loop_t* loop)
    void uv_update_time(uv_loop_t* loop)
    void uv_walk(uv_loop_t* loop, uv_walk_cb walk_cb, void* arg)

    void uv_close(uv_handle_t* handle, uv_close_cb close_cb)
    int uv_is_closing(const uv_handle_t* handle)
    int uv_is_active(const uv_handle_t* handle)
    void uv_ref(uv_handle_t* handle)
    void uv_unref(uv_handle_t* handle)
    int uv_fileno(const uv_handle_t* handle, uv_os_fd_t* fd)

    int uv_async_init(uv_loop_t* loop, uv_async_t* handle, uv_async_cb cb)
    int uv_async_send(uv_async_t* handle)
    int uv_prepare_init(uv_loop_t* loop, uv_prepare_t* handle)
    int uv_prepare_start(uv_prepare_t* handle, uv_prepare_cb cb)
    int uv_check_init(uv_loop_t* loop, uv_check_t* handle)
    int uv_check_start(uv_check_t* handle, uv_check_cb cb)
    int uv_timer_init(uv_loop_t* loop, uv_timer_t* handle)
    int uv_timer_start(uv_timer_t* handle, uv_timer_cb cb, uint64_t timeout, uint64_t repeat)
    int uv_timer_stop(uv_timer_t* handle)

    int uv_poll_init_socket(uv_loop_t* loop, uv_poll_t* handle, uv_os_sock_t socket)
    int uv_poll_start(uv_poll_t* handle, int events, uv_poll_cb cb)
    int uv_poll_stop(uv_poll_t* handle)

    int uv_cancel(uv_req_t* req)
    int uv_fs_event_init(uv_loop_t* loop, uv_fs_event_t* handle)
    int uv_fs_event_start(uv_fs_event_t* handle, uv_fs_event_cb cb, const char* path, unsigned int flags)

    int uv_tcp_init(uv_loop_t* loop, uv_tcp_t* handle)
    int uv_tcp_open(uv_tcp_t* handle, uv_os_sock_t sock)
    int uv_tcp_nodelay(uv_tcp_t* handle, int enable)

    int uv_read_start(uv_stream_t* stream, uv_alloc_cb alloc_cb, uv_read_cb read_cb)
    int uv_read_stop(uv_stream_t* stream)
    int uv_try_write(uv_stream_t* stream, const uv_buf_t* bufs, unsigned int nbufs)
    int uv_write(uv_write_t* req, uv_stream_t* stream, const uv_buf_t* bufs, unsigned int nbufs, uv_write_cb cb)
    size_t uv_stream_get_write_queue_size(const uv_stream_t* stream)

    int uv_udp_init_ex(uv_loop_t* loop, uv_udp_t* handle, unsigned int flags)
    int uv_udp_recv_start(uv_udp_t* handle, uv_alloc_cb alloc_cb, uv_udp_recv_cb recv_cb)
    int uv_udp_recv_stop(uv_udp_t* handle)
    int uv_udp_send(
        uv_udp_send_t* req, uv_udp_t* handle, const uv_buf_t* bufs, unsigned int nbufs, const sockaddr* addr,
        uv_udp_send_cb cb
    )

    int uv_getaddrinfo(
        uv_loop_t* loop, uv_getaddrinfo_t* req, uv_getaddrinfo_cb cb, const char* node, const char* service,
        const addrinfo* hints
    )
    void uv_freeaddrinfo(addrinfo* found)

cdef extern from *:
    """
    /* What the headers promise, for the import-time check against the library that was loaded. */
    #define LF_UV_HEADER_VERSION UV_VERSION_HEX
    #define LF_UV_HEADER_VERSION_STRING \
        LF_UV_STR(UV_VERSION_MAJOR) "." LF_UV_STR(UV_VERSION_MINOR) "." LF_UV_STR(UV_VERSION_PATCH)
    #define LF_UV_STR(x) LF_UV_STR_(x)
    #define LF_UV_STR_(x) #x

    /* uv_udp_open() sets SO_REUSEADDR, which would let another process take our datagrams. */
    static inline int lf_udp_open(uv_udp_t *handle, uv_os_sock_t sock) {
    #if UV_VERSION_HEX >= ((1 << 16) | (52 << 8))
        return uv_udp_open_ex(handle, sock, 0);
    #else
        int before = 0, status;
        socklen_t size = sizeof(before);
        if (getsockopt(sock, SOL_SOCKET, SO_REUSEADDR, (void *)&before, &size) < 0) return UV_EBADF;
        status = uv_udp_open(handle, sock);
        (void)setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, (const void *)&before, sizeof(before));
        return status;
    #endif
    }
    """
    int lf_udp_open(uv_udp_t* handle, uv_os_sock_t sock)
    const unsigned int LF_UV_HEADER_VERSION
    const char* LF_UV_HEADER_VERSION_STRING

cdef extern from *:
    """
    /* uv_loop_fork() forgets that a watcher whose change is still to be told to the kernel is new to the child's own
       set as well: libuv would then modify what is not there, and abort. */
    static inline int lf_loop_fork(uv_loop_t *loop)
    {
    #if !defined(_WIN32)
        unsigned int i;
        for (i = 0; i < loop->nwatchers; i++)
            if (loop->watchers[i] != NULL)
                loop->watchers[i]->events = 0;
    #endif
        return uv_loop_fork(loop);
    }
    """
    int lf_loop_fork(uv_loop_t* loop) nogil

cdef extern from *:
    """
    /* The events that the kernel has reported to this loop; counted always, unlike the idle time. */
    static inline uint64_t lf_loop_events(uv_loop_t *loop)
    {
        uv_metrics_t metrics;
        uv_metrics_info(loop, &metrics);
        return metrics.events;
    }
    """
    uint64_t lf_loop_events(uv_loop_t* loop) nogil

cdef extern from *:
    """
    /* Our patch of the bundled libuv; the system's has no such functions. */
    typedef void (*lf_event_cb)(uv_loop_t *loop, int fd, unsigned int events);
    typedef void (*lf_taken_cb)(uv_loop_t *loop, int fd);
    typedef int (*lf_is_of_others_cb)(uv_loop_t *loop, int fd);
    #if defined(__linux__)
    extern void uv_loopfast_share(uv_loop_t *, lf_event_cb, lf_taken_cb, lf_is_of_others_cb) __attribute__((weak));
    extern void uv_loopfast_skip(uv_loop_t *, int) __attribute__((weak));
    static inline int lf_share_set(uv_loop_t *loop, lf_event_cb event, lf_taken_cb taken, lf_is_of_others_cb others)
    {
        if (uv_loopfast_share == NULL) return 0;
        uv_loopfast_share(loop, event, taken, others);
        return 1;
    }
    static inline void lf_skip_events(uv_loop_t *loop, int fd)
    {
        if (uv_loopfast_skip != NULL) uv_loopfast_skip(loop, fd);
    }
    #else
    static inline int lf_share_set(uv_loop_t *loop, lf_event_cb event, lf_taken_cb taken, lf_is_of_others_cb others)
    {
        (void)loop; (void)event; (void)taken; (void)others;
        return 0;
    }
    static inline void lf_skip_events(uv_loop_t *loop, int fd) { (void)loop; (void)fd; }
    #endif

    #if defined(_WIN32)
    static inline int lf_loop_watches(uv_loop_t *loop, int fd) { (void)loop; (void)fd; return 0; }
    #else
    static inline int lf_loop_watches(uv_loop_t *loop, int fd)
    {
        return (unsigned int)fd < loop->nwatchers && loop->watchers[fd] != NULL;
    }
    #endif
    """
    # Entries that are not libuv's may be in the loop's kernel set: `event` is called with what is reported of them,
    # `taken` before libuv watches a descriptor itself, `others` where it would remove one that may not be its own.
    # False if this libuv cannot.
    bint lf_share_set(
        uv_loop_t* loop,
        void (*event)(uv_loop_t* loop, int fd, unsigned int events) noexcept,
        void (*taken)(uv_loop_t* loop, int fd) noexcept,
        int (*others)(uv_loop_t* loop, int fd) noexcept
    )
    # Forget what the poll that is going on still has to tell of `fd`; it is told again if it is still true then.
    void lf_skip_events(uv_loop_t* loop, int fd)
    # True if libuv itself watches the descriptor `fd`.
    bint lf_loop_watches(uv_loop_t* loop, int fd)

"""Builds loopfast.uv._uv, cffi's API-mode module over the shared libuv. setup.py runs this file; nothing imports it.

The declarations follow libuv's documentation, chapter by chapter. `...` leaves sizes, offsets and values to the C
compiler, so no header is copied. What is newer than the oldest libuv accepted fails with ENOSYS where it is missing.
"""

import re

from cffi import FFI

ERRORS = """
E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EAI_ADDRFAMILY EAI_AGAIN EAI_BADFLAGS EAI_BADHINTS
EAI_CANCELED EAI_FAIL EAI_FAMILY EAI_MEMORY EAI_NODATA EAI_NONAME EAI_OVERFLOW EAI_PROTOCOL EAI_SERVICE EAI_SOCKTYPE
EALREADY EBADF EBUSY ECANCELED ECHARSET ECONNABORTED ECONNREFUSED ECONNRESET EDESTADDRREQ EEXIST EFAULT EFBIG
EHOSTUNREACH EINTR EINVAL EIO EISCONN EISDIR ELOOP EMFILE EMSGSIZE ENAMETOOLONG ENETDOWN ENETUNREACH ENFILE ENOBUFS
ENODEV ENOENT ENOMEM ENONET ENOPROTOOPT ENOSPC ENOSYS ENOTCONN ENOTDIR ENOTEMPTY ENOTSOCK ENOTSUP EOVERFLOW EPERM
EPIPE EPROTO EPROTONOSUPPORT EPROTOTYPE ERANGE EROFS ESHUTDOWN ESPIPE ESRCH ETIMEDOUT ETXTBSY EXDEV UNKNOWN EOF ENXIO
EMLINK EHOSTDOWN EREMOTEIO ENOTTY EFTYPE EILSEQ ESOCKTNOSUPPORT ENODATA EUNATCH ENOEXEC
""".split()

CONSTANTS = """
UV_LOOP_BLOCK_SIGNAL UV_METRICS_IDLE_TIME UV_LOOP_USE_IO_URING_SQPOLL
UV_READABLE UV_WRITABLE UV_DISCONNECT UV_PRIORITIZED
UV_IGNORE UV_CREATE_PIPE UV_INHERIT_FD UV_INHERIT_STREAM UV_READABLE_PIPE UV_WRITABLE_PIPE UV_NONBLOCK_PIPE
UV_PROCESS_SETUID UV_PROCESS_SETGID UV_PROCESS_WINDOWS_VERBATIM_ARGUMENTS UV_PROCESS_DETACHED UV_PROCESS_WINDOWS_HIDE
UV_PROCESS_WINDOWS_HIDE_CONSOLE UV_PROCESS_WINDOWS_HIDE_GUI UV_PROCESS_WINDOWS_FILE_PATH_EXACT_NAME
UV_TCP_IPV6ONLY UV_TCP_REUSEPORT UV_PIPE_NO_TRUNCATE
UV_TTY_MODE_NORMAL UV_TTY_MODE_RAW UV_TTY_MODE_IO UV_TTY_MODE_RAW_VT UV_TTY_SUPPORTED UV_TTY_UNSUPPORTED
UV_UDP_IPV6ONLY UV_UDP_PARTIAL UV_UDP_REUSEADDR UV_UDP_MMSG_CHUNK UV_UDP_MMSG_FREE UV_UDP_LINUX_RECVERR
UV_UDP_REUSEPORT UV_UDP_RECVMMSG UV_LEAVE_GROUP UV_JOIN_GROUP
UV_RENAME UV_CHANGE UV_FS_EVENT_WATCH_ENTRY UV_FS_EVENT_STAT UV_FS_EVENT_RECURSIVE
UV_FS_COPYFILE_EXCL UV_FS_COPYFILE_FICLONE UV_FS_COPYFILE_FICLONE_FORCE UV_FS_SYMLINK_DIR UV_FS_SYMLINK_JUNCTION
UV_DIRENT_UNKNOWN UV_DIRENT_FILE UV_DIRENT_DIR UV_DIRENT_LINK UV_DIRENT_FIFO UV_DIRENT_SOCKET UV_DIRENT_CHAR
UV_DIRENT_BLOCK UV_CLOCK_MONOTONIC UV_CLOCK_REALTIME
UV_PRIORITY_LOW UV_PRIORITY_BELOW_NORMAL UV_PRIORITY_NORMAL UV_PRIORITY_ABOVE_NORMAL UV_PRIORITY_HIGH
UV_PRIORITY_HIGHEST UV_THREAD_PRIORITY_HIGHEST UV_THREAD_PRIORITY_ABOVE_NORMAL UV_THREAD_PRIORITY_NORMAL
UV_THREAD_PRIORITY_BELOW_NORMAL UV_THREAD_PRIORITY_LOWEST
UV_MAXHOSTNAMESIZE UV_IF_NAMESIZE
""".split()

#: Handle types whose fields of interest are those that every handle has.
HANDLES = "async check fs_event fs_poll handle idle pipe poll prepare process signal stream tcp timer tty udp".split()
REQUESTS = "req connect write shutdown udp_send work random".split()

TYPES = """
/* Version, of the library that is loaded and of the headers this module was compiled with. */
unsigned int uv_version(void);
const char *uv_version_string(void);
static const unsigned int LOOPFAST_UV_HEADER_VERSION;
static const char *const LOOPFAST_UV_HEADER_VERSION_STRING;

/* Types. */
typedef enum {
    UV_UNKNOWN_HANDLE, UV_ASYNC, UV_CHECK, UV_FS_EVENT, UV_FS_POLL, UV_HANDLE, UV_IDLE, UV_NAMED_PIPE, UV_POLL,
    UV_PREPARE, UV_PROCESS, UV_STREAM, UV_TCP, UV_TIMER, UV_TTY, UV_UDP, UV_SIGNAL, UV_FILE, ...
} uv_handle_type;
typedef enum {
    UV_UNKNOWN_REQ, UV_REQ, UV_CONNECT, UV_WRITE, UV_SHUTDOWN, UV_UDP_SEND, UV_FS, UV_WORK, UV_GETADDRINFO,
    UV_GETNAMEINFO, UV_RANDOM, ...
} uv_req_type;
typedef enum { UV_RUN_DEFAULT, UV_RUN_ONCE, UV_RUN_NOWAIT, ... } uv_run_mode;
typedef int... uv_loop_option;
typedef int... uv_tty_mode_t;
typedef int... uv_tty_vtermstate_t;
typedef int... uv_membership;
typedef int... uv_clock_id;
typedef int... uv_dirent_type_t;
typedef int... uv_os_fd_t;
typedef int... uv_os_sock_t;
typedef int... uv_file;
typedef int... uv_uid_t;
typedef int... uv_gid_t;
typedef int... uv_pid_t;
struct sockaddr;
struct sockaddr_storage { ...; };
struct addrinfo {
    int ai_flags; int ai_family; int ai_socktype; int ai_protocol;
    struct sockaddr *ai_addr; char *ai_canonname; struct addrinfo *ai_next; ...;
};
typedef struct { char *base; size_t len; ...; } uv_buf_t;
typedef struct { long tv_sec; long tv_nsec; ...; } uv_timespec_t;
typedef struct { int64_t tv_sec; int32_t tv_nsec; ...; } uv_timespec64_t;
typedef struct { long tv_sec; long tv_usec; ...; } uv_timeval_t;
typedef struct { int64_t tv_sec; int32_t tv_usec; ...; } uv_timeval64_t;
typedef struct {
    uint64_t st_dev; uint64_t st_mode; uint64_t st_nlink; uint64_t st_uid; uint64_t st_gid; uint64_t st_rdev;
    uint64_t st_ino; uint64_t st_size; uint64_t st_blksize; uint64_t st_blocks; uint64_t st_flags; uint64_t st_gen;
    uv_timespec_t st_atim; uv_timespec_t st_mtim; uv_timespec_t st_ctim; uv_timespec_t st_birthtim; ...;
} uv_stat_t;
typedef struct uv_loop_s { void *data; ...; } uv_loop_t;
"""

API = """
typedef struct uv_getaddrinfo_s { void *data; uv_req_type type; struct addrinfo *addrinfo; ...; } uv_getaddrinfo_t;
typedef struct uv_getnameinfo_s { void *data; uv_req_type type; char host[...]; char service[...]; ...; }
    uv_getnameinfo_t;
typedef struct uv_fs_s { void *data; uv_req_type type; ssize_t result; ...; } uv_fs_t;
typedef void (*uv_walk_cb)(uv_handle_t *handle, void *arg);
typedef void (*uv_close_cb)(uv_handle_t *handle);
typedef void (*uv_timer_cb)(uv_timer_t *handle);
typedef void (*uv_async_cb)(uv_async_t *handle);
typedef void (*uv_prepare_cb)(uv_prepare_t *handle);
typedef void (*uv_check_cb)(uv_check_t *handle);
typedef void (*uv_idle_cb)(uv_idle_t *handle);
typedef void (*uv_poll_cb)(uv_poll_t *handle, int status, int events);
typedef void (*uv_signal_cb)(uv_signal_t *handle, int signum);
typedef void (*uv_exit_cb)(uv_process_t *handle, int64_t exit_status, int term_signal);
typedef void (*uv_alloc_cb)(uv_handle_t *handle, size_t suggested_size, uv_buf_t *buf);
typedef void (*uv_read_cb)(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf);
typedef void (*uv_write_cb)(uv_write_t *req, int status);
typedef void (*uv_connect_cb)(uv_connect_t *req, int status);
typedef void (*uv_shutdown_cb)(uv_shutdown_t *req, int status);
typedef void (*uv_connection_cb)(uv_stream_t *server, int status);
typedef void (*uv_udp_send_cb)(uv_udp_send_t *req, int status);
typedef void (*uv_udp_recv_cb)(
    uv_udp_t *handle, ssize_t nread, const uv_buf_t *buf, const struct sockaddr *addr, unsigned int flags);
typedef void (*uv_fs_event_cb)(uv_fs_event_t *handle, const char *filename, int events, int status);
typedef void (*uv_fs_poll_cb)(uv_fs_poll_t *handle, int status, const uv_stat_t *prev, const uv_stat_t *curr);
typedef void (*uv_fs_cb)(uv_fs_t *req);
typedef void (*uv_work_cb)(uv_work_t *req);
typedef void (*uv_after_work_cb)(uv_work_t *req, int status);
typedef void (*uv_getaddrinfo_cb)(uv_getaddrinfo_t *req, int status, struct addrinfo *res);
typedef void (*uv_getnameinfo_cb)(uv_getnameinfo_t *req, int status, const char *hostname, const char *service);
typedef void (*uv_random_cb)(uv_random_t *req, int status, void *buf, size_t buflen);

/* Errors. */
const char *uv_strerror(int err);
const char *uv_err_name(int err);
int uv_translate_sys_error(int sys_errno);

/* Loops. A loop that asyncio runs must not be initialised, run, stopped or closed from here; one of your own may. */
size_t uv_loop_size(void);
int uv_loop_init(uv_loop_t *loop);
int uv_loop_configure(uv_loop_t *loop, uv_loop_option option, ...);
int uv_loop_close(uv_loop_t *loop);
int uv_run(uv_loop_t *loop, uv_run_mode mode);
int uv_loop_alive(const uv_loop_t *loop);
void uv_stop(uv_loop_t *loop);
int uv_backend_fd(const uv_loop_t *loop);
int uv_backend_timeout(const uv_loop_t *loop);
uint64_t uv_now(const uv_loop_t *loop);
void uv_update_time(uv_loop_t *loop);
void uv_walk(uv_loop_t *loop, uv_walk_cb walk_cb, void *arg);
int loopfast_collect(uv_loop_t *loop, uv_handle_t **handles, int size);
int uv_loop_fork(uv_loop_t *loop);
void *uv_loop_get_data(const uv_loop_t *loop);
void uv_loop_set_data(uv_loop_t *loop, void *data);

/* Handles of every type. */
int uv_is_active(const uv_handle_t *handle);
int uv_is_closing(const uv_handle_t *handle);
void uv_close(uv_handle_t *handle, uv_close_cb close_cb);
void uv_ref(uv_handle_t *handle);
void uv_unref(uv_handle_t *handle);
int uv_has_ref(const uv_handle_t *handle);
size_t uv_handle_size(uv_handle_type type);
int uv_send_buffer_size(uv_handle_t *handle, int *value);
int uv_recv_buffer_size(uv_handle_t *handle, int *value);
int uv_fileno(const uv_handle_t *handle, uv_os_fd_t *fd);
uv_loop_t *uv_handle_get_loop(const uv_handle_t *handle);
void *uv_handle_get_data(const uv_handle_t *handle);
void uv_handle_set_data(uv_handle_t *handle, void *data);
uv_handle_type uv_handle_get_type(const uv_handle_t *handle);
const char *uv_handle_type_name(uv_handle_type type);

/* Requests of every type. */
int uv_cancel(uv_req_t *req);
size_t uv_req_size(uv_req_type type);
void *uv_req_get_data(const uv_req_t *req);
void uv_req_set_data(uv_req_t *req, void *data);
uv_req_type uv_req_get_type(const uv_req_t *req);
const char *uv_req_type_name(uv_req_type type);

/* Timers: milliseconds. */
int uv_timer_init(uv_loop_t *loop, uv_timer_t *handle);
int uv_timer_start(uv_timer_t *handle, uv_timer_cb cb, uint64_t timeout, uint64_t repeat);
int uv_timer_stop(uv_timer_t *handle);
int uv_timer_again(uv_timer_t *handle);
void uv_timer_set_repeat(uv_timer_t *handle, uint64_t repeat);
uint64_t uv_timer_get_repeat(const uv_timer_t *handle);
uint64_t uv_timer_get_due_in(const uv_timer_t *handle);

/* The hooks around the poll, and wake-up from another thread. */
int uv_prepare_init(uv_loop_t *loop, uv_prepare_t *prepare);
int uv_prepare_start(uv_prepare_t *prepare, uv_prepare_cb cb);
int uv_prepare_stop(uv_prepare_t *prepare);
int uv_check_init(uv_loop_t *loop, uv_check_t *check);
int uv_check_start(uv_check_t *check, uv_check_cb cb);
int uv_check_stop(uv_check_t *check);
int uv_idle_init(uv_loop_t *loop, uv_idle_t *idle);
int uv_idle_start(uv_idle_t *idle, uv_idle_cb cb);
int uv_idle_stop(uv_idle_t *idle);
int uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb cb);
int uv_async_send(uv_async_t *async);

/* Polling of descriptors. */
int uv_poll_init(uv_loop_t *loop, uv_poll_t *handle, int fd);
int uv_poll_init_socket(uv_loop_t *loop, uv_poll_t *handle, uv_os_sock_t socket);
int uv_poll_start(uv_poll_t *handle, int events, uv_poll_cb cb);
int uv_poll_stop(uv_poll_t *handle);

/* Signals. */
int uv_signal_init(uv_loop_t *loop, uv_signal_t *handle);
int uv_signal_start(uv_signal_t *handle, uv_signal_cb cb, int signum);
int uv_signal_start_oneshot(uv_signal_t *handle, uv_signal_cb cb, int signum);
int uv_signal_stop(uv_signal_t *handle);

/* Processes. */
typedef struct { ...; } uv_stdio_container_t;
typedef struct {
    uv_exit_cb exit_cb; const char *file; char **args; char **env; const char *cwd; unsigned int flags;
    int stdio_count; uv_stdio_container_t *stdio; uv_uid_t uid; uv_gid_t gid; ...;
} uv_process_options_t;
void uv_disable_stdio_inheritance(void);
int uv_spawn(uv_loop_t *loop, uv_process_t *handle, const uv_process_options_t *options);
uv_pid_t uv_process_get_pid(const uv_process_t *handle);
int uv_process_kill(uv_process_t *handle, int signum);
int uv_kill(int pid, int signum);

/* Streams. */
int uv_shutdown(uv_shutdown_t *req, uv_stream_t *handle, uv_shutdown_cb cb);
int uv_listen(uv_stream_t *stream, int backlog, uv_connection_cb cb);
int uv_accept(uv_stream_t *server, uv_stream_t *client);
int uv_read_start(uv_stream_t *stream, uv_alloc_cb alloc_cb, uv_read_cb read_cb);
int uv_read_stop(uv_stream_t *stream);
int uv_write(uv_write_t *req, uv_stream_t *handle, const uv_buf_t *bufs, unsigned int nbufs, uv_write_cb cb);
int uv_write2(
    uv_write_t *req, uv_stream_t *handle, const uv_buf_t *bufs, unsigned int nbufs, uv_stream_t *send_handle,
    uv_write_cb cb);
int uv_try_write(uv_stream_t *handle, const uv_buf_t *bufs, unsigned int nbufs);
int uv_try_write2(uv_stream_t *handle, const uv_buf_t *bufs, unsigned int nbufs, uv_stream_t *send_handle);
int uv_is_readable(const uv_stream_t *handle);
int uv_is_writable(const uv_stream_t *handle);
int uv_stream_set_blocking(uv_stream_t *handle, int blocking);
size_t uv_stream_get_write_queue_size(const uv_stream_t *stream);

/* TCP. */
int uv_tcp_init(uv_loop_t *loop, uv_tcp_t *handle);
int uv_tcp_init_ex(uv_loop_t *loop, uv_tcp_t *handle, unsigned int flags);
int uv_tcp_open(uv_tcp_t *handle, uv_os_sock_t sock);
int uv_tcp_nodelay(uv_tcp_t *handle, int enable);
int uv_tcp_keepalive(uv_tcp_t *handle, int enable, unsigned int delay);
int uv_tcp_keepalive_ex(
    uv_tcp_t *handle, int on, unsigned int idle, unsigned int intvl, unsigned int cnt);
int uv_tcp_simultaneous_accepts(uv_tcp_t *handle, int enable);
int uv_tcp_bind(uv_tcp_t *handle, const struct sockaddr *addr, unsigned int flags);
int uv_tcp_getsockname(const uv_tcp_t *handle, struct sockaddr *name, int *namelen);
int uv_tcp_getpeername(const uv_tcp_t *handle, struct sockaddr *name, int *namelen);
int uv_tcp_connect(uv_connect_t *req, uv_tcp_t *handle, const struct sockaddr *addr, uv_connect_cb cb);
int uv_tcp_close_reset(uv_tcp_t *handle, uv_close_cb close_cb);
int uv_socketpair(int type, int protocol, uv_os_sock_t *socket_vector, int flags0, int flags1);

/* Pipes. */
int uv_pipe_init(uv_loop_t *loop, uv_pipe_t *handle, int ipc);
int uv_pipe_open(uv_pipe_t *handle, uv_file file);
int uv_pipe_bind(uv_pipe_t *handle, const char *name);
int uv_pipe_bind2(uv_pipe_t *handle, const char *name, size_t namelen, unsigned int flags);
void uv_pipe_connect(uv_connect_t *req, uv_pipe_t *handle, const char *name, uv_connect_cb cb);
int uv_pipe_connect2(
    uv_connect_t *req, uv_pipe_t *handle, const char *name, size_t namelen, unsigned int flags, uv_connect_cb cb);
int uv_pipe_getsockname(const uv_pipe_t *handle, char *buffer, size_t *size);
int uv_pipe_getpeername(const uv_pipe_t *handle, char *buffer, size_t *size);
void uv_pipe_pending_instances(uv_pipe_t *handle, int count);
int uv_pipe_pending_count(uv_pipe_t *handle);
uv_handle_type uv_pipe_pending_type(uv_pipe_t *handle);
int uv_pipe_chmod(uv_pipe_t *handle, int flags);
int uv_pipe(uv_file *fds, int read_flags, int write_flags);

/* Terminals. */
int uv_tty_init(uv_loop_t *loop, uv_tty_t *handle, uv_file fd, int readable);
int uv_tty_set_mode(uv_tty_t *handle, uv_tty_mode_t mode);
int uv_tty_reset_mode(void);
int uv_tty_get_winsize(uv_tty_t *handle, int *width, int *height);
void uv_tty_set_vterm_state(uv_tty_vtermstate_t state);
int uv_tty_get_vterm_state(uv_tty_vtermstate_t *state);

/* UDP. `bulk` is the room for several datagrams at once, which the handle keeps; NULL: for one, made for each read. */
typedef struct { uv_udp_t handle; char *bulk; size_t bulk_size; ...; } loopfast_udp_t;
int uv_udp_init(uv_loop_t *loop, uv_udp_t *handle);
int uv_udp_init_ex(uv_loop_t *loop, uv_udp_t *handle, unsigned int flags);
int uv_udp_open(uv_udp_t *handle, uv_os_sock_t sock);
int uv_udp_open_ex(uv_udp_t *handle, uv_os_sock_t sock, unsigned int flags);
int uv_udp_bind(uv_udp_t *handle, const struct sockaddr *addr, unsigned int flags);
int uv_udp_connect(uv_udp_t *handle, const struct sockaddr *addr);
int uv_udp_getpeername(const uv_udp_t *handle, struct sockaddr *name, int *namelen);
int uv_udp_getsockname(const uv_udp_t *handle, struct sockaddr *name, int *namelen);
int uv_udp_set_membership(
    uv_udp_t *handle, const char *multicast_addr, const char *interface_addr, uv_membership membership);
int uv_udp_set_source_membership(
    uv_udp_t *handle, const char *multicast_addr, const char *interface_addr, const char *source_addr,
    uv_membership membership);
int uv_udp_set_multicast_loop(uv_udp_t *handle, int on);
int uv_udp_set_multicast_ttl(uv_udp_t *handle, int ttl);
int uv_udp_set_multicast_interface(uv_udp_t *handle, const char *interface_addr);
int uv_udp_set_broadcast(uv_udp_t *handle, int on);
int uv_udp_set_ttl(uv_udp_t *handle, int ttl);
int uv_udp_send(
    uv_udp_send_t *req, uv_udp_t *handle, const uv_buf_t *bufs, unsigned int nbufs, const struct sockaddr *addr,
    uv_udp_send_cb send_cb);
int uv_udp_try_send(uv_udp_t *handle, const uv_buf_t *bufs, unsigned int nbufs, const struct sockaddr *addr);
int uv_udp_try_send2(
    uv_udp_t *handle, unsigned int count, uv_buf_t **bufs, unsigned int *nbufs, struct sockaddr **addrs,
    unsigned int flags);
int uv_udp_recv_start(uv_udp_t *handle, uv_alloc_cb alloc_cb, uv_udp_recv_cb recv_cb);
int uv_udp_using_recvmmsg(const uv_udp_t *handle);
int uv_udp_recv_stop(uv_udp_t *handle);
size_t uv_udp_get_send_queue_size(const uv_udp_t *handle);
size_t uv_udp_get_send_queue_count(const uv_udp_t *handle);

/* Events of the file system. */
int uv_fs_event_init(uv_loop_t *loop, uv_fs_event_t *handle);
int uv_fs_event_start(uv_fs_event_t *handle, uv_fs_event_cb cb, const char *path, unsigned int flags);
int uv_fs_event_stop(uv_fs_event_t *handle);
int uv_fs_event_getpath(uv_fs_event_t *handle, char *buffer, size_t *size);
int uv_fs_poll_init(uv_loop_t *loop, uv_fs_poll_t *handle);
int uv_fs_poll_start(uv_fs_poll_t *handle, uv_fs_poll_cb poll_cb, const char *path, unsigned int interval);
int uv_fs_poll_stop(uv_fs_poll_t *handle);
int uv_fs_poll_getpath(uv_fs_poll_t *handle, char *buffer, size_t *size);

/* File system. Without a callback these run at once, in the caller's thread. */
typedef struct { const char *name; uv_dirent_type_t type; ...; } uv_dirent_t;
typedef struct { uv_dirent_t *dirents; size_t nentries; ...; } uv_dir_t;
typedef struct {
    uint64_t f_type; uint64_t f_bsize; uint64_t f_blocks; uint64_t f_bfree; uint64_t f_bavail; uint64_t f_files;
    uint64_t f_ffree; ...;
} uv_statfs_t;
void uv_fs_req_cleanup(uv_fs_t *req);
int uv_fs_close(uv_loop_t *loop, uv_fs_t *req, uv_file file, uv_fs_cb cb);
int uv_fs_open(uv_loop_t *loop, uv_fs_t *req, const char *path, int flags, int mode, uv_fs_cb cb);
int uv_fs_read(
    uv_loop_t *loop, uv_fs_t *req, uv_file file, const uv_buf_t *bufs, unsigned int nbufs, int64_t offset, uv_fs_cb cb);
int uv_fs_unlink(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb);
int uv_fs_write(
    uv_loop_t *loop, uv_fs_t *req, uv_file file, const uv_buf_t *bufs, unsigned int nbufs, int64_t offset, uv_fs_cb cb);
int uv_fs_mkdir(uv_loop_t *loop, uv_fs_t *req, const char *path, int mode, uv_fs_cb cb);
int uv_fs_mkdtemp(uv_loop_t *loop, uv_fs_t *req, const char *tpl, uv_fs_cb cb);
int uv_fs_mkstemp(uv_loop_t *loop, uv_fs_t *req, const char *tpl, uv_fs_cb cb);
int uv_fs_rmdir(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb);
int uv_fs_opendir(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb);
int uv_fs_closedir(uv_loop_t *loop, uv_fs_t *req, uv_dir_t *dir, uv_fs_cb cb);
int uv_fs_readdir(uv_loop_t *loop, uv_fs_t *req, uv_dir_t *dir, uv_fs_cb cb);
int uv_fs_scandir(uv_loop_t *loop, uv_fs_t *req, const char *path, int flags, uv_fs_cb cb);
int uv_fs_scandir_next(uv_fs_t *req, uv_dirent_t *ent);
int uv_fs_stat(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb);
int uv_fs_fstat(uv_loop_t *loop, uv_fs_t *req, uv_file file, uv_fs_cb cb);
int uv_fs_lstat(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb);
int uv_fs_statfs(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb);
int uv_fs_rename(uv_loop_t *loop, uv_fs_t *req, const char *path, const char *new_path, uv_fs_cb cb);
int uv_fs_fsync(uv_loop_t *loop, uv_fs_t *req, uv_file file, uv_fs_cb cb);
int uv_fs_fdatasync(uv_loop_t *loop, uv_fs_t *req, uv_file file, uv_fs_cb cb);
int uv_fs_ftruncate(uv_loop_t *loop, uv_fs_t *req, uv_file file, int64_t offset, uv_fs_cb cb);
int uv_fs_copyfile(uv_loop_t *loop, uv_fs_t *req, const char *path, const char *new_path, int flags, uv_fs_cb cb);
int uv_fs_sendfile(
    uv_loop_t *loop, uv_fs_t *req, uv_file out_fd, uv_file in_fd, int64_t in_offset, size_t length, uv_fs_cb cb);
int uv_fs_access(uv_loop_t *loop, uv_fs_t *req, const char *path, int mode, uv_fs_cb cb);
int uv_fs_chmod(uv_loop_t *loop, uv_fs_t *req, const char *path, int mode, uv_fs_cb cb);
int uv_fs_fchmod(uv_loop_t *loop, uv_fs_t *req, uv_file file, int mode, uv_fs_cb cb);
int uv_fs_utime(uv_loop_t *loop, uv_fs_t *req, const char *path, double atime, double mtime, uv_fs_cb cb);
int uv_fs_futime(uv_loop_t *loop, uv_fs_t *req, uv_file file, double atime, double mtime, uv_fs_cb cb);
int uv_fs_lutime(uv_loop_t *loop, uv_fs_t *req, const char *path, double atime, double mtime, uv_fs_cb cb);
int uv_fs_link(uv_loop_t *loop, uv_fs_t *req, const char *path, const char *new_path, uv_fs_cb cb);
int uv_fs_symlink(uv_loop_t *loop, uv_fs_t *req, const char *path, const char *new_path, int flags, uv_fs_cb cb);
int uv_fs_readlink(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb);
int uv_fs_realpath(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb);
int uv_fs_chown(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_uid_t uid, uv_gid_t gid, uv_fs_cb cb);
int uv_fs_fchown(uv_loop_t *loop, uv_fs_t *req, uv_file file, uv_uid_t uid, uv_gid_t gid, uv_fs_cb cb);
int uv_fs_lchown(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_uid_t uid, uv_gid_t gid, uv_fs_cb cb);
ssize_t uv_fs_get_result(const uv_fs_t *req);
int uv_fs_get_system_error(const uv_fs_t *req);
void *uv_fs_get_ptr(const uv_fs_t *req);
const char *uv_fs_get_path(const uv_fs_t *req);
uv_stat_t *uv_fs_get_statbuf(uv_fs_t *req);
uv_os_fd_t uv_get_osfhandle(int fd);
int uv_open_osfhandle(uv_os_fd_t os_fd);

/* The thread pool. */
int uv_queue_work(uv_loop_t *loop, uv_work_t *req, uv_work_cb work_cb, uv_after_work_cb after_work_cb);

/* Names and addresses. */
int uv_getaddrinfo(
    uv_loop_t *loop, uv_getaddrinfo_t *req, uv_getaddrinfo_cb getaddrinfo_cb, const char *node, const char *service,
    const struct addrinfo *hints);
void uv_freeaddrinfo(struct addrinfo *ai);
int uv_getnameinfo(
    uv_loop_t *loop, uv_getnameinfo_t *req, uv_getnameinfo_cb getnameinfo_cb, const struct sockaddr *addr, int flags);
int uv_inet_ntop(int af, const void *src, char *dst, size_t size);
int uv_inet_pton(int af, const char *src, void *dst);
int loopfast_make_address(
    const char *host, int port, unsigned int flowinfo, unsigned int scope_id, struct sockaddr_storage *address);
int loopfast_read_address(
    const struct sockaddr *address, char *host, size_t size, int *port, unsigned int *flowinfo,
    unsigned int *scope_id);

/* The process, the machine, its users, memory, clocks and interfaces. */
typedef struct {
    uv_timeval_t ru_utime; uv_timeval_t ru_stime; uint64_t ru_maxrss; uint64_t ru_ixrss; uint64_t ru_idrss;
    uint64_t ru_isrss; uint64_t ru_minflt; uint64_t ru_majflt; uint64_t ru_nswap; uint64_t ru_inblock;
    uint64_t ru_oublock; uint64_t ru_msgsnd; uint64_t ru_msgrcv; uint64_t ru_nsignals; uint64_t ru_nvcsw;
    uint64_t ru_nivcsw; ...;
} uv_rusage_t;
struct uv_cpu_times_s { uint64_t user; uint64_t nice; uint64_t sys; uint64_t idle; uint64_t irq; ...; };
typedef struct { int speed; struct uv_cpu_times_s cpu_times; ...; } uv_cpu_info_t;
typedef struct { char *name; char phys_addr[6]; int is_internal; ...; } uv_interface_address_t;
typedef struct { char *username; unsigned long uid; unsigned long gid; char *shell; char *homedir; ...; } uv_passwd_t;
typedef struct { char *groupname; unsigned long gid; char **members; ...; } uv_group_t;
typedef struct { char sysname[256]; char release[256]; char version[256]; char machine[256]; ...; } uv_utsname_t;
typedef struct { char *name; char *value; ...; } uv_env_item_t;
uv_handle_type uv_guess_handle(uv_file file);
int uv_resident_set_memory(size_t *rss);
int uv_uptime(double *uptime);
int uv_getrusage(uv_rusage_t *rusage);
int uv_getrusage_thread(uv_rusage_t *rusage);
uv_pid_t uv_os_getpid(void);
uv_pid_t uv_os_getppid(void);
unsigned int uv_available_parallelism(void);
int uv_cpu_info(uv_cpu_info_t **cpu_infos, int *count);
void uv_free_cpu_info(uv_cpu_info_t *cpu_infos, int count);
int uv_cpumask_size(void);
int uv_interface_addresses(uv_interface_address_t **addresses, int *count);
void uv_free_interface_addresses(uv_interface_address_t *addresses, int count);
const struct sockaddr *loopfast_interface_address(const uv_interface_address_t *entry, int netmask);
void uv_loadavg(double *avg);
int uv_if_indextoname(unsigned int ifindex, char *buffer, size_t *size);
int uv_if_indextoiid(unsigned int ifindex, char *buffer, size_t *size);
int uv_exepath(char *buffer, size_t *size);
int uv_cwd(char *buffer, size_t *size);
int uv_chdir(const char *dir);
int uv_os_homedir(char *buffer, size_t *size);
int uv_os_tmpdir(char *buffer, size_t *size);
int uv_os_get_passwd(uv_passwd_t *pwd);
int uv_os_get_passwd2(uv_passwd_t *pwd, uv_uid_t uid);
void uv_os_free_passwd(uv_passwd_t *pwd);
int uv_os_get_group(uv_group_t *grp, uv_uid_t gid);
void uv_os_free_group(uv_group_t *grp);
uint64_t uv_get_free_memory(void);
uint64_t uv_get_total_memory(void);
uint64_t uv_get_constrained_memory(void);
uint64_t uv_get_available_memory(void);
uint64_t uv_hrtime(void);
int uv_clock_gettime(uv_clock_id clock_id, uv_timespec64_t *ts);
int uv_gettimeofday(uv_timeval64_t *tv);
void uv_sleep(unsigned int msec);
int uv_random(uv_loop_t *loop, uv_random_t *req, void *buf, size_t buflen, unsigned int flags, uv_random_cb cb);
int uv_os_environ(uv_env_item_t **envitems, int *count);
void uv_os_free_environ(uv_env_item_t *envitems, int count);
int uv_os_getenv(const char *name, char *buffer, size_t *size);
int uv_os_setenv(const char *name, const char *value);
int uv_os_unsetenv(const char *name);
int uv_os_gethostname(char *buffer, size_t *size);
int uv_os_uname(uv_utsname_t *buffer);
int uv_os_getpriority(uv_pid_t pid, int *priority);
int uv_os_setpriority(uv_pid_t pid, int priority);

/* The calling thread. */
int uv_thread_getcpu(void);
int uv_thread_setname(const char *name);
int loopfast_thread_getname(char *name, size_t size);
int loopfast_thread_getpriority(int *priority);
int loopfast_thread_setpriority(int priority);
int loopfast_thread_getaffinity(char *mask, size_t size);
int loopfast_thread_setaffinity(char *mask, char *old, size_t size);

/* Metrics. */
typedef struct { uint64_t loop_count; uint64_t events; uint64_t events_waiting; ...; } uv_metrics_t;
uint64_t uv_metrics_idle_time(uv_loop_t *loop);
int uv_metrics_info(uv_loop_t *loop, uv_metrics_t *metrics);
"""

OURS = """
/* The pointer inside a PyCapsule without a name, given the capsule's address; NULL if it is not one. */
void *loopfast_capsule_pointer(uintptr_t capsule);
/* One more reference to the object at this address, for ever: libuv still has pointers into it. */
void loopfast_keep_forever(uintptr_t object);
/* What the callbacks below call first on a loop that is not ours, so that the loop notices that Python runs. */
void loopfast_set_enter(void *function);
void loopfast_set_stdio(uv_stdio_container_t *container, int flags, uv_stream_t *stream, int fd);
const char *loopfast_cpu_model(const uv_cpu_info_t *cpu);
/* Mark a loop as one of ours. */
void loopfast_own(uv_loop_t *loop);
/* Before the interpreter goes: wait for the Python functions that run in the thread pool, start no more. */
void loopfast_end_work(void);
/* In a forked child, which has none of its parent's threads. */
void loopfast_forget_work(void);

/* What is handed to libuv, and calls the Python functions further down. */
void loopfast_on_close(uv_handle_t *handle);
void loopfast_on_timer(uv_timer_t *handle);
void loopfast_on_async(uv_async_t *handle);
void loopfast_on_prepare(uv_prepare_t *handle);
void loopfast_on_check(uv_check_t *handle);
void loopfast_on_idle(uv_idle_t *handle);
void loopfast_on_poll(uv_poll_t *handle, int status, int events);
void loopfast_on_wakeup(uv_poll_t *handle, int status, int events);
void loopfast_on_signal(uv_signal_t *handle, int signum);
void loopfast_on_exit(uv_process_t *handle, int64_t exit_status, int term_signal);
void loopfast_on_alloc(uv_handle_t *handle, size_t suggested_size, uv_buf_t *buf);
void loopfast_on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf);
void loopfast_on_write(uv_write_t *req, int status);
void loopfast_on_connect(uv_connect_t *req, int status);
void loopfast_on_shutdown(uv_shutdown_t *req, int status);
void loopfast_on_connection(uv_stream_t *server, int status);
void loopfast_on_udp_send(uv_udp_send_t *req, int status);
void loopfast_on_udp_alloc(uv_handle_t *handle, size_t suggested_size, uv_buf_t *buf);
void loopfast_on_udp_recv(
    uv_udp_t *handle, ssize_t nread, const uv_buf_t *buf, const struct sockaddr *addr, unsigned int flags);
void loopfast_on_fs_event(uv_fs_event_t *handle, const char *filename, int events, int status);
void loopfast_on_fs_poll(uv_fs_poll_t *handle, int status, const uv_stat_t *prev, const uv_stat_t *curr);
void loopfast_on_fs(uv_fs_t *req);
void loopfast_on_work(uv_work_t *req);
void loopfast_on_after_work(uv_work_t *req, int status);
void loopfast_on_getaddrinfo(uv_getaddrinfo_t *req, int status, struct addrinfo *res);
void loopfast_on_getnameinfo(uv_getnameinfo_t *req, int status, const char *hostname, const char *service);
void loopfast_on_random(uv_random_t *req, int status, void *buf, size_t buflen);

extern "Python" {
    void loopfast_py_close(uv_handle_t *handle);
    void loopfast_py_event(uv_handle_t *handle);
    void loopfast_py_poll(uv_handle_t *handle, int status, int events);
    void loopfast_py_wakeup(uv_handle_t *handle);
    void loopfast_py_signal(uv_handle_t *handle, int signum);
    void loopfast_py_exit(uv_handle_t *handle, int64_t exit_status, int term_signal);
    void loopfast_py_read(uv_handle_t *handle, ssize_t nread, char *base);
    void loopfast_py_connection(uv_handle_t *handle, int status);
    void loopfast_py_recv(
        uv_handle_t *handle, ssize_t nread, char *base, const struct sockaddr *addr, unsigned int flags);
    void loopfast_py_fs_event(uv_handle_t *handle, const char *filename, int events, int status);
    void loopfast_py_fs_poll(uv_handle_t *handle, int status, const uv_stat_t *prev, const uv_stat_t *curr);
    void loopfast_py_request(uv_req_t *req, int status);
    void loopfast_py_work(uv_req_t *req);
}
"""

BEFORE = r"""
#include <uv.h>
#include <stdlib.h>
#include <string.h>

#define LOOPFAST_UV_HEADER_VERSION ((unsigned int) UV_VERSION_HEX)
#define LOOPFAST_TEXT_(x) #x
#define LOOPFAST_TEXT(x) LOOPFAST_TEXT_(x)
#define LOOPFAST_UV_HEADER_VERSION_STRING                                                                   \
    LOOPFAST_TEXT(UV_VERSION_MAJOR) "." LOOPFAST_TEXT(UV_VERSION_MINOR)                                     \
    "." LOOPFAST_TEXT(UV_VERSION_PATCH) UV_VERSION_SUFFIX

#if defined(_WIN32)
typedef intptr_t loopfast_os_fd;  /* A HANDLE as a number, which is what Python has of it. */
static int loopfast_fileno(const uv_handle_t *it, loopfast_os_fd *fd) { return uv_fileno(it, (uv_os_fd_t *) fd); }
static loopfast_os_fd loopfast_get_osfhandle(int fd) { return (loopfast_os_fd) uv_get_osfhandle(fd); }
static int loopfast_open_osfhandle(loopfast_os_fd fd) { return uv_open_osfhandle((uv_os_fd_t) fd); }
#define uv_os_fd_t loopfast_os_fd
#define uv_fileno loopfast_fileno
#define uv_get_osfhandle loopfast_get_osfhandle
#define uv_open_osfhandle loopfast_open_osfhandle
#endif

/* What the oldest libuv accepted lacks. */
#if UV_VERSION_HEX < 0x013200
#define UV_ENOEXEC (-ENOEXEC)
static int uv_getrusage_thread(uv_rusage_t *rusage) { (void) rusage; return UV_ENOSYS; }
static int uv_thread_setname(const char *name) { (void) name; return UV_ENOSYS; }
static int uv_thread_getname(uv_thread_t *tid, char *name, size_t size)
{
    (void) tid; (void) name; (void) size;
    return UV_ENOSYS;
}
static int uv_udp_try_send2(
    uv_udp_t *handle, unsigned int count, uv_buf_t **bufs, unsigned int *nbufs, struct sockaddr **addrs,
    unsigned int flags)
{
    (void) handle; (void) count; (void) bufs; (void) nbufs; (void) addrs; (void) flags;
    return UV_ENOSYS;
}
#endif
#if UV_VERSION_HEX < 0x013300
#define UV_TTY_MODE_RAW_VT 3
#endif
#if UV_VERSION_HEX < 0x013400
static int uv_tcp_keepalive_ex(uv_tcp_t *handle, int on, unsigned int idle, unsigned int intvl, unsigned int cnt)
{
    (void) handle; (void) on; (void) idle; (void) intvl; (void) cnt;
    return UV_ENOSYS;
}
static int uv_udp_open_ex(uv_udp_t *handle, uv_os_sock_t sock, unsigned int flags)
{
    (void) handle; (void) sock; (void) flags;
    return UV_ENOSYS;
}
#endif

typedef struct { uv_udp_t handle; char *bulk; size_t bulk_size; } loopfast_udp_t;

/* cffi passes no Python objects: the caller hands over the address of one it keeps alive. cffi lets go of the GIL. */
static void *loopfast_capsule_pointer(uintptr_t capsule)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    void *pointer = NULL;

    if (PyCapsule_IsValid((PyObject *) capsule, NULL))
        pointer = PyCapsule_GetPointer((PyObject *) capsule, NULL);
    PyGILState_Release(gil);
    return pointer;
}

static void loopfast_keep_forever(uintptr_t object)
{
    PyGILState_STATE gil = PyGILState_Ensure();

    Py_INCREF((PyObject *) object);
    PyGILState_Release(gil);
}

/* ---- loops ---- */

static char own_loop;
static void (*enter_loop)(uv_loop_t *) = NULL;

static void loopfast_set_enter(void *function) { *(void **) &enter_loop = function; }
static void loopfast_own(uv_loop_t *loop) { loop->data = &own_loop; }

static void enter(uv_loop_t *loop)
{
    if (loop->data != &own_loop && enter_loop != NULL)
        enter_loop(loop);
}

/* Up to `size` handles of the loop; returns how many there are. */
struct collection { uv_handle_t **handles; int size; int count; };

static void collect_one(uv_handle_t *handle, void *arg)
{
    struct collection *all = arg;

    if (all->count < all->size)
        all->handles[all->count] = handle;
    all->count++;
}

static int loopfast_collect(uv_loop_t *loop, uv_handle_t **handles, int size)
{
    struct collection all = { handles, size, 0 };

    uv_walk(loop, collect_one, &all);
    return all.count;
}

/* ---- callbacks ---- */

static void loopfast_py_close(uv_handle_t *);
static void loopfast_py_event(uv_handle_t *);
static void loopfast_py_poll(uv_handle_t *, int, int);
static void loopfast_py_wakeup(uv_handle_t *);
static void loopfast_py_signal(uv_handle_t *, int);
static void loopfast_py_exit(uv_handle_t *, int64_t, int);
static void loopfast_py_read(uv_handle_t *, ssize_t, char *);
static void loopfast_py_connection(uv_handle_t *, int);
static void loopfast_py_recv(uv_handle_t *, ssize_t, char *, const struct sockaddr *, unsigned int);
static void loopfast_py_fs_event(uv_handle_t *, const char *, int, int);
static void loopfast_py_fs_poll(uv_handle_t *, int, const uv_stat_t *, const uv_stat_t *);
static void loopfast_py_request(uv_req_t *, int);
static void loopfast_py_work(uv_req_t *);

#define ON_EVENT(name)                                                                                      \
    static void loopfast_on_##name(uv_##name##_t *handle)                                                   \
    {                                                                                                       \
        enter(handle->loop);                                                                                \
        loopfast_py_event((uv_handle_t *) handle);                                                          \
    }
#define ON_STREAM_REQUEST(name)                                                                             \
    static void loopfast_on_##name(uv_##name##_t *req, int status)                                          \
    {                                                                                                       \
        enter(req->handle->loop);                                                                           \
        loopfast_py_request((uv_req_t *) req, status);                                                      \
    }

ON_EVENT(timer)
ON_EVENT(async)
ON_EVENT(prepare)
ON_EVENT(check)
ON_EVENT(idle)
ON_STREAM_REQUEST(write)
ON_STREAM_REQUEST(connect)
ON_STREAM_REQUEST(shutdown)
ON_STREAM_REQUEST(udp_send)

static void loopfast_on_close(uv_handle_t *handle)
{
    enter(handle->loop);
    loopfast_py_close(handle);
}

static void loopfast_on_poll(uv_poll_t *handle, int status, int events)
{
    enter(handle->loop);
    loopfast_py_poll((uv_handle_t *) handle, status, events);
}

static void loopfast_on_wakeup(uv_poll_t *handle, int status, int events)
{
    (void) status;
    (void) events;
    loopfast_py_wakeup((uv_handle_t *) handle);
}

static void loopfast_on_signal(uv_signal_t *handle, int signum)
{
    enter(handle->loop);
    loopfast_py_signal((uv_handle_t *) handle, signum);
}

static void loopfast_on_exit(uv_process_t *handle, int64_t exit_status, int term_signal)
{
    enter(handle->loop);
    loopfast_py_exit((uv_handle_t *) handle, exit_status, term_signal);
}

/* Without memory the length stays 0, and libuv reports ENOBUFS. */
static void loopfast_on_alloc(uv_handle_t *handle, size_t suggested_size, uv_buf_t *buf)
{
    (void) handle;
    buf->base = malloc(suggested_size);
    buf->len = buf->base == NULL ? 0 : suggested_size;
}

static void loopfast_on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    char *base = buf->base;

    if (nread != 0) {  /* 0: there was nothing to read */
        enter(stream->loop);
        loopfast_py_read((uv_handle_t *) stream, nread, base);
    }
    free(base);
}

static void loopfast_on_connection(uv_stream_t *server, int status)
{
    enter(server->loop);
    loopfast_py_connection((uv_handle_t *) server, status);
}

static void loopfast_on_udp_alloc(uv_handle_t *handle, size_t suggested_size, uv_buf_t *buf)
{
    loopfast_udp_t *udp = (loopfast_udp_t *) handle;

    if (udp->bulk == NULL) {
        loopfast_on_alloc(handle, suggested_size, buf);
        return;
    }
    buf->base = udp->bulk;
    buf->len = udp->bulk_size;
}

static void loopfast_on_udp_recv(
    uv_udp_t *handle, ssize_t nread, const uv_buf_t *buf, const struct sockaddr *addr, unsigned int flags)
{
    char *base = buf->base;

    if (nread != 0 || addr != NULL) {  /* else there was nothing to read, or libuv is done with the buffer */
        enter(handle->loop);
        loopfast_py_recv((uv_handle_t *) handle, nread, base, addr, flags);
    }
    if (((loopfast_udp_t *) handle)->bulk == NULL)
        free(base);
}

static void loopfast_on_fs_event(uv_fs_event_t *handle, const char *filename, int events, int status)
{
    enter(handle->loop);
    loopfast_py_fs_event((uv_handle_t *) handle, filename, events, status);
}

static void loopfast_on_fs_poll(uv_fs_poll_t *handle, int status, const uv_stat_t *prev, const uv_stat_t *curr)
{
    enter(handle->loop);
    loopfast_py_fs_poll((uv_handle_t *) handle, status, prev, curr);
}

static void loopfast_on_fs(uv_fs_t *req)
{
    enter(req->loop);
    loopfast_py_request((uv_req_t *) req, req->result < 0 ? (int) req->result : 0);
}

static void loopfast_on_after_work(uv_work_t *req, int status)
{
    enter(req->loop);
    loopfast_py_request((uv_req_t *) req, status);
}

static void loopfast_on_getaddrinfo(uv_getaddrinfo_t *req, int status, struct addrinfo *res)
{
    (void) res;
    enter(req->loop);
    loopfast_py_request((uv_req_t *) req, status);
}

static void loopfast_on_getnameinfo(uv_getnameinfo_t *req, int status, const char *hostname, const char *service)
{
    (void) hostname;
    (void) service;
    enter(req->loop);
    loopfast_py_request((uv_req_t *) req, status);
}

static void loopfast_on_random(uv_random_t *req, int status, void *buf, size_t buflen)
{
    (void) buf;
    (void) buflen;
    enter(req->loop);
    loopfast_py_request((uv_req_t *) req, status);
}

/* ---- Python functions in the thread pool ----
   libuv joins its threads when the process exits, and a thread that wants an interpreter which is gone never ends. */

static uv_once_t work_once = UV_ONCE_INIT;
static uv_mutex_t work_lock;
static uv_cond_t work_done;
static int work_running = 0;
static int work_ended = 0;

static void prepare_work(void)
{
    if (uv_mutex_init(&work_lock) != 0 || uv_cond_init(&work_done) != 0)
        Py_FatalError("no memory for a lock");
}

static void loopfast_on_work(uv_work_t *req)
{
    int ended;

    uv_once(&work_once, prepare_work);
    uv_mutex_lock(&work_lock);
    ended = work_ended;
    if (!ended)
        work_running++;
    uv_mutex_unlock(&work_lock);
    if (ended)
        return;
    loopfast_py_work((uv_req_t *) req);
    uv_mutex_lock(&work_lock);
    if (--work_running == 0)
        uv_cond_broadcast(&work_done);
    uv_mutex_unlock(&work_lock);
}

static void loopfast_end_work(void)
{
    uv_once(&work_once, prepare_work);
    uv_mutex_lock(&work_lock);
    work_ended = 1;
    while (work_running > 0)
        uv_cond_wait(&work_done, &work_lock);
    uv_mutex_unlock(&work_lock);
}

static void loopfast_forget_work(void)
{
    uv_once(&work_once, prepare_work);
    prepare_work();  /* a thread of the parent may have held the lock */
    work_running = 0;
}

/* ---- data that Python should not take apart ---- */

static void loopfast_set_stdio(uv_stdio_container_t *container, int flags, uv_stream_t *stream, int fd)
{
    container->flags = (uv_stdio_flags) flags;
    if (stream != NULL)
        container->data.stream = stream;
    else
        container->data.fd = fd;
}

static int loopfast_make_address(
    const char *host, int port, unsigned int flowinfo, unsigned int scope_id, struct sockaddr_storage *address)
{
    struct sockaddr_in6 *six = (struct sockaddr_in6 *) address;
    int status;

    memset(address, 0, sizeof *address);
    if (uv_ip4_addr(host, port, (struct sockaddr_in *) address) == 0)
        return 0;
    memset(address, 0, sizeof *address);
    status = uv_ip6_addr(host, port, six);
    if (status == 0) {
        six->sin6_flowinfo = htonl(flowinfo);
        if (scope_id != 0)
            six->sin6_scope_id = scope_id;
    }
    return status;
}

/* The family, AF_INET or AF_INET6, or a negative status. */
static int loopfast_read_address(
    const struct sockaddr *address, char *host, size_t size, int *port, unsigned int *flowinfo, unsigned int *scope_id)
{
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *) address;
    int status = uv_ip_name(address, host, size);

    if (status < 0)
        return status;
    *flowinfo = *scope_id = 0;
    if (address->sa_family == AF_INET) {
        *port = ntohs(((const struct sockaddr_in *) address)->sin_port);
    } else {
        *port = ntohs(six->sin6_port);
        *flowinfo = ntohl(six->sin6_flowinfo);
        *scope_id = six->sin6_scope_id;
    }
    return address->sa_family;
}

static const struct sockaddr *loopfast_interface_address(const uv_interface_address_t *entry, int netmask)
{
    return netmask ? (const struct sockaddr *) &entry->netmask : (const struct sockaddr *) &entry->address;
}

static const char *loopfast_cpu_model(const uv_cpu_info_t *cpu) { return cpu->model; }

static int loopfast_thread_getname(char *name, size_t size)
{
    uv_thread_t self = uv_thread_self();

    return uv_thread_getname(&self, name, size);
}

static int loopfast_thread_getpriority(int *priority) { return uv_thread_getpriority(uv_thread_self(), priority); }
static int loopfast_thread_setpriority(int priority) { return uv_thread_setpriority(uv_thread_self(), priority); }

static int loopfast_thread_getaffinity(char *mask, size_t size)
{
    uv_thread_t self = uv_thread_self();

    return uv_thread_getaffinity(&self, mask, size);
}

static int loopfast_thread_setaffinity(char *mask, char *old, size_t size)
{
    uv_thread_t self = uv_thread_self();

    return uv_thread_setaffinity(&self, mask, old, size);
}
"""


def structures() -> str:
    """The handle and request types, of which Python sees what all have in common."""
    lines = []
    for name in HANDLES:
        fields = "void *data; uv_loop_t *loop; uv_handle_type type; ...;"
        lines.append(f"typedef struct uv_{name}_s {{ {fields} }} uv_{name}_t;")
    for name in REQUESTS:
        lines.append(f"typedef struct uv_{name}_s {{ void *data; uv_req_type type; ...; }} uv_{name}_t;")
    return "\n".join(lines)


def constants() -> str:
    """Error codes and flags; the C compiler knows their values."""
    return "".join(f"#define {name} ...\n" for name in [*(f"UV_{error}" for error in ERRORS), *CONSTANTS])


FUNCTION = re.compile(r"^(?P<type>[\w ]+?[ *]+)(?P<name>(?:uv|loopfast)_\w+)\((?P<arguments>[^;()]*)\);", re.MULTILINE)
TOUCHES_LOOP = re.compile(rf"(?<!const )\buv_({'|'.join(['loop', *HANDLES])})_t \*\w+")
#: With NULL for such a callback the function blocks, and touches no loop.
BLOCKS_WITHOUT = ("uv_fs_cb", "uv_getaddrinfo_cb", "uv_getnameinfo_cb", "uv_random_cb")


def guards(declarations: str) -> str:
    """Wrappers that hold the GIL around each call into a loop.

    libuv knows no locks, and cffi lets go of the GIL around every call: without these, another thread that closes a
    transport of the same asyncio loop, as the garbage collector may, would be in libuv at the same time.
    """
    lines = []
    for match in FUNCTION.finditer(declarations):
        kind, name, arguments = match["type"].strip(), match["name"], " ".join(match["arguments"].split())
        if name == "uv_run" or "..." in arguments or not TOUCHES_LOOP.search(arguments):
            continue  # uv_run() is there to let other threads work
        names = [argument.split()[-1].lstrip("*") for argument in arguments.split(", ")]
        call = f"{name}({', '.join(names)})"
        blocking = [names[i] for i, text in enumerate(arguments.split(", ")) if text.split()[0] in BLOCKS_WITHOUT]
        lines += [f"static {kind} guarded_{name}({arguments})", "{"]
        if blocking:
            lines += [f"    if ({blocking[0]} == NULL)", f"        return {call};"]
        lines += ["    {", "        PyGILState_STATE gil = PyGILState_Ensure();"]
        if kind == "void":
            lines += [f"        {call};", "        PyGILState_Release(gil);"]
        else:
            lines += [f"        {kind} result = {call};", "        PyGILState_Release(gil);", "        return result;"]
        lines += ["    }", "}", f"#define {name} guarded_{name}"]
    return "\n".join(lines) + "\n"


CDEF = "\n".join([TYPES, structures(), constants(), API, OURS])

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source("loopfast.uv._uv", BEFORE + guards(API))

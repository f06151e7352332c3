/* An LD_PRELOAD library that fails chosen calls of a process: every system call that libuv, loopfast and the
   interpreter make through libc, and the allocations of chosen libraries. Off until armed through the exported faults_*
   functions; then it counts calls, and fails the nth of one kind with one errno. Forked children share the state. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* The kinds of calls, in the order of their numbers. */
#define KINDS(X)                                                                                                      \
    X(socket) X(socketpair) X(accept) X(accept4) X(connect) X(bind) X(listen) X(getsockname) X(getpeername)           \
    X(setsockopt) X(getsockopt) X(read) X(write) X(readv) X(writev) X(send) X(recv) X(sendto) X(recvfrom) X(sendmsg)  \
    X(recvmsg) X(sendmmsg) X(recvmmsg) X(epoll_create1) X(epoll_ctl) X(epoll_wait) X(epoll_pwait) X(poll) X(ppoll)    \
    X(eventfd) X(pipe2) X(dup) X(dup2) X(dup3) X(fcntl) X(ioctl) X(fork) X(vfork) X(posix_spawn) X(waitpid) X(waitid) \
    X(pidfd_open) X(io_uring_setup) X(io_uring_enter) X(pthread_create) X(open) X(openat) X(fstat) X(stat) X(lstat)   \
    X(lseek) X(unlink) X(mmap) X(sigaction) X(shutdown) X(sendfile) X(pread) X(preadv2) X(pwrite) X(copy_file_range)  \
    X(fsync) X(fdatasync) X(ftruncate) X(truncate) X(mkdir) X(rmdir) X(rename) X(link) X(symlink) X(readlink)         \
    X(realpath) X(access) X(chmod) X(fchmod) X(chown) X(fchown) X(lchown) X(utimensat) X(futimens) X(statvfs)         \
    X(fstatvfs) X(statx) X(fstatat) X(opendir) X(readdir) X(inotify_init1) X(inotify_add_watch) X(inotify_rm_watch)   \
    X(getaddrinfo) X(getnameinfo) X(malloc) X(calloc) X(realloc)

enum kind {
#define X(name) K_##name,
    KINDS(X)
#undef X
    KIND_COUNT
};

static const char *const names[] = {
#define X(name) #name,
    KINDS(X)
#undef X
};

#define RANGES 64
/* Instead of an errno: no failure, but half of what was asked for. */
#define FAULTS_SHORT 100000

struct state {
    atomic_int armed;
    atomic_long counts[KIND_COUNT];
    /* The call to fail: its kind, its number from 1, how many from there on, with what. */
    int kind;
    long nth;
    long times;
    int error;
    /* Only calls made by the code of the ranges below, if set. What takes memory: always only those, since the
       interpreter's own threads hang where they cannot allocate. */
    int ours_only;
    atomic_int fired;
    /* Who made the call that failed first, and who closed a descriptor that was not open. */
    uintptr_t caller;
    atomic_int bad_closes;
    uintptr_t bad_close_caller;
    int no_ring;
    int range_count;
    uintptr_t starts[RANGES], ends[RANGES];
};

static struct state off;
static struct state *state = &off;

static inline int in_ranges(uintptr_t caller) {
    for (int i = 0; i < state->range_count; i++)
        if (caller >= state->starts[i] && caller < state->ends[i]) return 1;
    return 0;
}

/* The errno to fail this call with, or 0. */
static int hit(enum kind kind, void *return_address) {
    uintptr_t caller = (uintptr_t)return_address;
    if (!atomic_load_explicit(&state->armed, memory_order_relaxed)) return 0;
    if ((state->ours_only || kind >= K_malloc || kind == K_mmap) && !in_ranges(caller)) return 0;
    long number = atomic_fetch_add(&state->counts[kind], 1) + 1;
    if ((int)kind != state->kind || number < state->nth || number >= state->nth + state->times) return 0;
    if (atomic_fetch_add(&state->fired, 1) == 0) state->caller = caller;
    return state->error;
}

#define CALLER __builtin_return_address(0)
#define REAL(name) ((__typeof__(&name))real_of(&real_##name, #name))
static void *real_of(void **cache, const char *name) {
    if (*cache == NULL) *cache = dlsym(RTLD_NEXT, name);
    return *cache;
}

/* A call that returns -1 and sets errno when it fails. */
#define WRAP(kind, type, name, parameters, arguments)                                                                  \
    static void *real_##name;                                                                                          \
    EXPORT type name parameters {                                                                                      \
        int error = hit(K_##kind, CALLER);                                                                             \
        if (error) return errno = error, (type)-1;                                                                     \
        return REAL(name) arguments;                                                                                   \
    }

typedef struct sockaddr *address_t;
WRAP(socket, int, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP(socketpair, int, socketpair, (int domain, int type, int protocol, int pair[2]), (domain, type, protocol, pair))
WRAP(accept, int, accept, (int fd, address_t address, socklen_t *size), (fd, address, size))
WRAP(accept4, int, accept4, (int fd, address_t address, socklen_t *size, int flags), (fd, address, size, flags))
WRAP(connect, int, connect, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size))
WRAP(bind, int, bind, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size))
WRAP(listen, int, listen, (int fd, int backlog), (fd, backlog))
WRAP(getsockname, int, getsockname, (int fd, address_t address, socklen_t *size), (fd, address, size))
WRAP(getpeername, int, getpeername, (int fd, address_t address, socklen_t *size), (fd, address, size))
WRAP(setsockopt, int, setsockopt, (int fd, int level, int name, const void *value, socklen_t size),
     (fd, level, name, value, size))
WRAP(getsockopt, int, getsockopt, (int fd, int level, int name, void *value, socklen_t *size),
     (fd, level, name, value, size))
WRAP(read, ssize_t, read, (int fd, void *data, size_t size), (fd, data, size))

/* What wakes a loop, 8 bytes to an event descriptor, is only ever interrupted. */
static void *real_write;
EXPORT ssize_t write(int fd, const void *data, size_t size) {
    int error = size == 8 && state->error != EINTR ? 0 : hit(K_write, CALLER);
    if (error) return errno = error, -1;
    return REAL(write)(fd, data, size);
}

WRAP(readv, ssize_t, readv, (int fd, const struct iovec *parts, int count), (fd, parts, count))
WRAP(writev, ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
WRAP(send, ssize_t, send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags))
WRAP(recv, ssize_t, recv, (int fd, void *data, size_t size, int flags), (fd, data, size, flags))
WRAP(sendto, ssize_t, sendto,
     (int fd, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length),
     (fd, data, size, flags, address, length))
WRAP(recvfrom, ssize_t, recvfrom, (int fd, void *data, size_t size, int flags, address_t address, socklen_t *length),
     (fd, data, size, flags, address, length))
WRAP(sendmsg, ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
WRAP(recvmsg, ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
WRAP(sendmmsg, int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags),
     (fd, messages, count, flags))
WRAP(recvmmsg, int, recvmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *limit),
     (fd, messages, count, flags, limit))
WRAP(epoll_create1, int, epoll_create1, (int flags), (flags))
WRAP(epoll_ctl, int, epoll_ctl, (int set, int op, int fd, struct epoll_event *event), (set, op, fd, event))
WRAP(epoll_wait, int, epoll_wait, (int set, struct epoll_event *events, int count, int limit),
     (set, events, count, limit))
WRAP(epoll_pwait, int, epoll_pwait,
     (int set, struct epoll_event *events, int count, int limit, const sigset_t *mask),
     (set, events, count, limit, mask))
WRAP(poll, int, poll, (struct pollfd *fds, nfds_t count, int limit), (fds, count, limit))
WRAP(ppoll, int, ppoll, (struct pollfd *fds, nfds_t count, const struct timespec *limit, const sigset_t *mask),
     (fds, count, limit, mask))
WRAP(eventfd, int, eventfd, (unsigned start, int flags), (start, flags))
WRAP(pipe2, int, pipe2, (int pair[2], int flags), (pair, flags))
WRAP(pipe2, int, pipe, (int pair[2]), (pair))
WRAP(dup, int, dup, (int fd), (fd))
WRAP(dup2, int, dup2, (int fd, int wanted), (fd, wanted))
WRAP(dup3, int, dup3, (int fd, int wanted, int flags), (fd, wanted, flags))
WRAP(fork, pid_t, fork, (void), ())
WRAP(waitpid, pid_t, waitpid, (pid_t pid, int *status, int options), (pid, status, options))
WRAP(waitid, int, waitid, (idtype_t type, id_t id, siginfo_t *info, int options), (type, id, info, options))
WRAP(fstat, int, fstat, (int fd, struct stat *status), (fd, status))
WRAP(fstat, int, fstat64, (int fd, struct stat64 *status), (fd, status))
WRAP(stat, int, stat, (const char *path, struct stat *status), (path, status))
WRAP(stat, int, stat64, (const char *path, struct stat64 *status), (path, status))
WRAP(lstat, int, lstat, (const char *path, struct stat *status), (path, status))
WRAP(lstat, int, lstat64, (const char *path, struct stat64 *status), (path, status))
WRAP(lseek, off_t, lseek, (int fd, off_t offset, int whence), (fd, offset, whence))
WRAP(lseek, off64_t, lseek64, (int fd, off64_t offset, int whence), (fd, offset, whence))
WRAP(unlink, int, unlink, (const char *path), (path))
WRAP(mmap, void *, mmap, (void *at, size_t size, int protection, int flags, int fd, off_t offset),
     (at, size, protection, flags, fd, offset))
WRAP(mmap, void *, mmap64, (void *at, size_t size, int protection, int flags, int fd, off64_t offset),
     (at, size, protection, flags, fd, offset))
WRAP(sigaction, int, sigaction, (int number, const struct sigaction *new, struct sigaction *old), (number, new, old))
WRAP(shutdown, int, shutdown, (int fd, int how), (fd, how))
WRAP(sendfile, ssize_t, sendfile, (int out, int in, off_t *offset, size_t size), (out, in, offset, size))
WRAP(sendfile, ssize_t, sendfile64, (int out, int in, off64_t *offset, size_t size), (out, in, offset, size))

/* The same for calls on files that may also do a part only of what they are asked for. */
#define PART(size) (error == FAULTS_SHORT ? (size) / 2 + (size) % 2 : (size))
#define WRAP_PARTIAL(kind, name, parameters, ...)                                                                      \
    static void *real_##name;                                                                                          \
    EXPORT ssize_t name parameters {                                                                                   \
        int error = hit(K_##kind, CALLER);                                                                             \
        if (error && error != FAULTS_SHORT) return errno = error, -1;                                                  \
        return REAL(name)(__VA_ARGS__);                                                                                \
    }

WRAP_PARTIAL(pread, pread, (int fd, void *data, size_t size, off_t at), fd, data, PART(size), at)
WRAP_PARTIAL(pread, pread64, (int fd, void *data, size_t size, off64_t at), fd, data, PART(size), at)
WRAP_PARTIAL(pwrite, pwrite, (int fd, const void *data, size_t size, off_t at), fd, data, PART(size), at)
WRAP_PARTIAL(pwrite, pwrite64, (int fd, const void *data, size_t size, off64_t at), fd, data, PART(size), at)
WRAP_PARTIAL(copy_file_range, copy_file_range,
             (int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags), in, in_at, out, out_at,
             PART(size), flags)

/* Of one piece only, which is how we call it. */
static struct iovec part_of(const struct iovec *parts, int count, int error) {
    struct iovec one = {0};
    if (count == 1) one = parts[0], one.iov_len = PART(one.iov_len);
    return one;
}

static void *real_preadv2;
EXPORT ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    int error = hit(K_preadv2, CALLER);
    struct iovec one = part_of(parts, count, error);
    if (error && error != FAULTS_SHORT) return errno = error, -1;
    return REAL(preadv2)(fd, count == 1 ? &one : parts, count, at, flags);
}
static void *real_preadv64v2;
EXPORT ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
    int error = hit(K_preadv2, CALLER);
    struct iovec one = part_of(parts, count, error);
    if (error && error != FAULTS_SHORT) return errno = error, -1;
    return REAL(preadv64v2)(fd, count == 1 ? &one : parts, count, at, flags);
}

WRAP(fsync, int, fsync, (int fd), (fd))
WRAP(fdatasync, int, fdatasync, (int fd), (fd))
WRAP(ftruncate, int, ftruncate, (int fd, off_t size), (fd, size))
WRAP(ftruncate, int, ftruncate64, (int fd, off64_t size), (fd, size))
WRAP(truncate, int, truncate, (const char *path, off_t size), (path, size))
WRAP(truncate, int, truncate64, (const char *path, off64_t size), (path, size))
WRAP(mkdir, int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(rmdir, int, rmdir, (const char *path), (path))
WRAP(rename, int, rename, (const char *path, const char *other), (path, other))
WRAP(link, int, link, (const char *path, const char *other), (path, other))
WRAP(symlink, int, symlink, (const char *path, const char *other), (path, other))
WRAP(unlink, int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
WRAP(readlink, ssize_t, readlink, (const char *path, char *data, size_t size), (path, data, size))
WRAP(access, int, access, (const char *path, int mode), (path, mode))
WRAP(chmod, int, chmod, (const char *path, mode_t mode), (path, mode))
WRAP(fchmod, int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(chown, int, chown, (const char *path, uid_t user, gid_t group), (path, user, group))
WRAP(fchown, int, fchown, (int fd, uid_t user, gid_t group), (fd, user, group))
WRAP(lchown, int, lchown, (const char *path, uid_t user, gid_t group), (path, user, group))
WRAP(utimensat, int, utimensat, (int folder, const char *path, const struct timespec times[2], int flags),
     (folder, path, times, flags))
WRAP(futimens, int, futimens, (int fd, const struct timespec times[2]), (fd, times))
WRAP(statvfs, int, statvfs, (const char *path, struct statvfs *space), (path, space))
WRAP(statvfs, int, statvfs64, (const char *path, struct statvfs64 *space), (path, space))
WRAP(fstatvfs, int, fstatvfs, (int fd, struct statvfs *space), (fd, space))
WRAP(fstatvfs, int, fstatvfs64, (int fd, struct statvfs64 *space), (fd, space))
WRAP(fstatat, int, fstatat, (int folder, const char *path, struct stat *status, int flags),
     (folder, path, status, flags))
WRAP(fstatat, int, fstatat64, (int folder, const char *path, struct stat64 *status, int flags),
     (folder, path, status, flags))
WRAP(inotify_init1, int, inotify_init1, (int flags), (flags))
WRAP(inotify_add_watch, int, inotify_add_watch, (int queue, const char *path, uint32_t mask), (queue, path, mask))
WRAP(inotify_rm_watch, int, inotify_rm_watch, (int queue, int watch), (queue, watch))

/* These return a pointer; NULL is an error, for readdir() only with errno. */
#define WRAP_POINTER(kind, type, name, parameters, arguments)                                                          \
    static void *real_##name;                                                                                          \
    EXPORT type name parameters {                                                                                      \
        int error = hit(K_##kind, CALLER);                                                                             \
        if (error) return errno = error, NULL;                                                                         \
        return REAL(name) arguments;                                                                                   \
    }

WRAP_POINTER(realpath, char *, realpath, (const char *path, char *found), (path, found))
WRAP_POINTER(opendir, DIR *, opendir, (const char *path), (path))
WRAP_POINTER(opendir, DIR *, fdopendir, (int fd), (fd))
WRAP_POINTER(readdir, struct dirent *, readdir, (DIR *folder), (folder))
WRAP_POINTER(readdir, struct dirent64 *, readdir64, (DIR *folder), (folder))

/* Calls with an argument that may be absent. */
#define WRAP_VARIADIC(kind, name, parameters, last, type, ...)                                                         \
    static void *real_##name;                                                                                          \
    EXPORT int name parameters {                                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, last);                                                                                          \
        type argument = va_arg(rest, type);                                                                            \
        va_end(rest);                                                                                                  \
        int error = hit(K_##kind, CALLER);                                                                             \
        if (error) return errno = error, -1;                                                                           \
        return REAL(name)(__VA_ARGS__, argument);                                                                      \
    }

WRAP_VARIADIC(fcntl, fcntl, (int fd, int command, ...), command, void *, fd, command)
WRAP_VARIADIC(fcntl, fcntl64, (int fd, int command, ...), command, void *, fd, command)
WRAP_VARIADIC(ioctl, ioctl, (int fd, unsigned long request, ...), request, void *, fd, request)
WRAP_VARIADIC(open, open, (const char *path, int flags, ...), flags, unsigned, path, flags)
WRAP_VARIADIC(open, open64, (const char *path, int flags, ...), flags, unsigned, path, flags)
WRAP_VARIADIC(openat, openat, (int folder, const char *path, int flags, ...), flags, unsigned, folder, path, flags)
WRAP_VARIADIC(openat, openat64, (int folder, const char *path, int flags, ...), flags, unsigned, folder, path, flags)

/* vfork() returns twice into the caller's frame, which a wrapper has left by then: fork() does all that it promises. */
EXPORT pid_t vfork(void) {
    int error = hit(K_vfork, CALLER);
    if (error) return errno = error, -1;
    return REAL(fork)();
}

/* These return the error, in numbers of their own: EAI_AGAIN and so on; with EAI_SYSTEM, errno tells. */
static void *real_getaddrinfo, *real_getnameinfo;
EXPORT int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int error = hit(K_getaddrinfo, CALLER);
    if (error) return errno = EMFILE, error;
    return REAL(getaddrinfo)(node, service, hints, found);
}

EXPORT int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_size, char *service,
                       socklen_t service_size, int flags) {
    int error = hit(K_getnameinfo, CALLER);
    if (error) return errno = EMFILE, error;
    return REAL(getnameinfo)(address, length, host, host_size, service, service_size, flags);
}

/* These return the error number. */
static void *real_posix_spawn, *real_pthread_create;
EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
    int error = hit(K_posix_spawn, CALLER);
    return error ? error : REAL(posix_spawn)(pid, path, actions, attributes, arguments, environment);
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    int error = hit(K_pthread_create, CALLER);
    return error ? error : REAL(pthread_create)(thread, attributes, run, argument);
}

static void *real_syscall;
EXPORT long syscall(long number, ...) {
    long a[6];
    int error = 0;
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    switch (number) {
#ifdef SYS_pidfd_open
    case SYS_pidfd_open: error = hit(K_pidfd_open, CALLER); break;
#endif
#ifdef SYS_io_uring_setup
    case SYS_io_uring_setup: error = state->no_ring ? ENOSYS : hit(K_io_uring_setup, CALLER); break;
    case SYS_io_uring_enter: error = hit(K_io_uring_enter, CALLER); break;
#endif
#ifdef SYS_statx
    case SYS_statx: error = hit(K_statx, CALLER); break;
#endif
    case SYS_sendmmsg: error = hit(K_sendmmsg, CALLER); break;
    case SYS_recvmmsg: error = hit(K_recvmmsg, CALLER); break;
    }
    if (error) return errno = error, -1;
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Never fails, but closing what is not open is a defect of its own: the number may belong to somebody else. */
static void *real_close;
EXPORT int close(int fd) {
    int status = REAL(close)(fd);
    if (status == -1 && errno == EBADF && atomic_load_explicit(&state->armed, memory_order_relaxed)) {
        if (atomic_fetch_add(&state->bad_closes, 1) == 0) state->bad_close_caller = (uintptr_t)CALLER;
        errno = EBADF;
    }
    return status;
}

/* glibc's own names: dlsym() itself allocates. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
EXPORT void *malloc(size_t size) {
    if (hit(K_malloc, CALLER)) return errno = ENOMEM, NULL;
    return __libc_malloc(size);
}
EXPORT void *calloc(size_t count, size_t size) {
    if (hit(K_calloc, CALLER)) return errno = ENOMEM, NULL;
    return __libc_calloc(count, size);
}
EXPORT void *realloc(void *block, size_t size) {
    if (hit(K_realloc, CALLER)) return errno = ENOMEM, NULL;
    return __libc_realloc(block, size);
}

/* Where the process dies: one line with the code that was running, innermost first, for the parent to judge. */
static struct sigaction crash_handlers[NSIG];

static void on_crash(int number) {
    void *frames[12];
    int count = backtrace(frames, 12);
    (void)!REAL(write)(2, "crashed in:\n", 12);
    backtrace_symbols_fd(frames, count, 2);
    (void)!REAL(write)(2, "end of crash\n", 13);
    REAL(sigaction)(number, &crash_handlers[number], NULL);
    raise(number);
}

/* ---- what Python calls ---- */

EXPORT void faults_catch_crashes(void) {
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = SA_NODEFER};
    void *frames[2];
    /* Loads what it needs, while there is memory. */
    backtrace(frames, 2);
    for (unsigned i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        REAL(sigaction)(numbers[i], &action, &crash_handlers[numbers[i]]);
}

EXPORT int faults_kinds(void) { return KIND_COUNT; }
EXPORT const char *faults_name(int kind) { return names[kind]; }

/* Code from `start` to `end` is ours. Returns 0, or -1 when there is no room. */
EXPORT int faults_add_range(uintptr_t start, uintptr_t end) {
    if (state == &off) {
        int flags = MAP_SHARED | MAP_ANONYMOUS;
        void *shared = REAL(mmap)(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, flags, -1, 0);
        if (shared == MAP_FAILED) return -1;
        state = shared;
    }
    if (state->range_count == RANGES) return -1;
    state->starts[state->range_count] = start;
    state->ends[state->range_count++] = end;
    return 0;
}

/* Count from zero, and fail `times` calls of `kind` from number `nth` on with `error`; a kind of -1 fails none. */
EXPORT void faults_arm(int kind, long nth, long times, int error, int ours_only) {
    for (int i = 0; i < KIND_COUNT; i++) atomic_store(&state->counts[i], 0);
    state->kind = kind;
    state->nth = nth;
    state->times = times;
    state->error = error;
    state->ours_only = ours_only;
    state->caller = state->bad_close_caller = 0;
    atomic_store(&state->fired, 0);
    atomic_store(&state->bad_closes, 0);
    atomic_store(&state->armed, 1);
}

/* From here on as on a system without io_uring. After the first faults_add_range(). */
EXPORT void faults_forbid_ring(void) { state->no_ring = 1; }
EXPORT void faults_disarm(void) { atomic_store(&state->armed, 0); }
EXPORT long faults_count(int kind) { return atomic_load(&state->counts[kind]); }
EXPORT int faults_fired(void) { return atomic_load(&state->fired); }
EXPORT int faults_bad_closes(void) { return atomic_load(&state->bad_closes); }

/* The library that made the call that failed first, or that closed what was not open. */
EXPORT const char *faults_caller(int of_close) {
    Dl_info found;
    uintptr_t caller = of_close ? state->bad_close_caller : state->caller;
    return caller && dladdr((void *)caller, &found) ? found.dli_fname : "";
}

/* What loopfast needs from the operating system beside libuv: the clock of time.monotonic() in full resolution, a wait on
   one descriptor that is finer than a millisecond, reading and writing of pipes, and a set of descriptors that reports
   errors instead of aborting (epoll, kqueue). */
#ifndef LOOPFAST_PLATFORM_H
#define LOOPFAST_PLATFORM_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#if !defined(_WIN32)
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>
#endif

#if defined(_WIN32)
#include <winsock2.h>
#include <windows.h>

static inline double lf_monotonic(void) {
    static LARGE_INTEGER frequency;
    LARGE_INTEGER now;
    if (frequency.QuadPart == 0) QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&now);
    return (double)now.QuadPart / (double)frequency.QuadPart;
}
#elif defined(__APPLE__)
#include <mach/mach_time.h>

static inline double lf_monotonic(void) {
    static mach_timebase_info_data_t base;
    if (base.denom == 0) mach_timebase_info(&base);
    return (double)(mach_absolute_time() * base.numer / base.denom) / 1e9;
}
#else
#include <time.h>

static inline double lf_monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)((int64_t)now.tv_sec * 1000000000 + now.tv_nsec) / 1e9;
}
#endif

/* Wait until `fd` is readable or `seconds` (below one) have passed. Interruption by a signal ends the wait. */
#if defined(__linux__)
#define LF_FINE_WAIT 1

static inline void lf_wait_readable(int fd, double seconds) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    struct timespec limit = {.tv_sec = 0, .tv_nsec = (long)(seconds * 1e9)};
    (void)ppoll(&one, 1, &limit, NULL);
}
#else
#define LF_FINE_WAIT 0
static inline void lf_wait_readable(int fd, double seconds) { (void)fd; (void)seconds; }
#endif

/* Whether the socket `fd`, whose connect() is in progress, is connected by now. What failed is not. */
#if defined(_WIN32)
static inline int lf_is_connected(int fd) { (void)fd; return 0; }
#else
static inline int lf_is_connected(int fd) {
    struct pollfd one = {.fd = fd, .events = POLLOUT};
    return poll(&one, 1, 0) == 1 && one.revents == POLLOUT;
}
#endif

/* read(2) and write(2): the number of bytes or a negated errno, whatever it is. Pipes on Windows are not descriptors. */
#if defined(_WIN32)
static inline long long lf_read(int fd, char *buffer, size_t size) {
    (void)fd; (void)buffer; (void)size; return -ENOSYS;
}
static inline long long lf_write(int fd, const char *data, size_t size) {
    (void)fd; (void)data; (void)size; return -ENOSYS;
}
#else
static inline long long lf_read(int fd, char *buffer, size_t size) {
    ssize_t n = read(fd, buffer, size);
    return n < 0 ? -errno : n;
}
static inline long long lf_write(int fd, const char *data, size_t size) {
    ssize_t n = write(fd, data, size);
    return n < 0 ? -errno : n;
}
#endif

/* Both ends of a new pipe, neither of which blocks or is inherited: to read, to write. 0 or a negated errno. */
#if defined(_WIN32)
static inline int lf_open_pipe(int ends[2]) { (void)ends; return -ENOSYS; }
#elif defined(__linux__)
static inline int lf_open_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0; }
#else
static inline int lf_open_pipe(int ends[2]) {
    if (pipe(ends) < 0) return -errno;
    for (int i = 0; i < 2; i++) {
        (void)fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
}
#endif

/* Put the file of `from` under the number `to`, not to be inherited, and free `from`. 0, or a negated errno and nothing done. */
#if defined(_WIN32)
static inline int lf_move_descriptor(int from, int to) { (void)from; (void)to; return -ENOSYS; }
static inline int lf_process(void) { return (int)GetCurrentProcessId(); }
#else
static inline int lf_move_descriptor(int from, int to) {
    if (dup2(from, to) < 0) return -errno;
    (void)fcntl(to, F_SETFD, FD_CLOEXEC);
    (void)close(from);
    return 0;
}
static inline int lf_process(void) { return (int)getpid(); }
#endif

/* Let the pipe `fd` hold `after` bytes if it holds `before`. Returns whether it does now: it may be no pipe, and the
   kernel may refuse. */
static inline int lf_resize_pipe(int fd, int before, int after) {
#if defined(F_SETPIPE_SZ)
    return fcntl(fd, F_GETPIPE_SZ) == before && fcntl(fd, F_SETPIPE_SZ, after) >= 0;
#else
    (void)fd; (void)before; (void)after;
    return 0;
#endif
}

/* A set of descriptors watched for the bits LF_READ and LF_WRITE, itself a descriptor that is readable while one of
   them is ready. Every function returns 0 (or a count), or a negated errno. */
enum { LF_READ = 1, LF_WRITE = 2 };
struct lf_event { int fd; int events; };

#if defined(__linux__)
#include <sys/epoll.h>

static inline int lf_set_open(void) {
    int set = epoll_create1(EPOLL_CLOEXEC);
    return set < 0 ? -errno : set;
}

/* As selectors.EpollSelector: anything but plain readability wakes writers, and the other way round, so that a hang-up or an
   error reaches whoever waits. */
static inline int lf_set_events(uint32_t events) {
    return ((events & ~(uint32_t)EPOLLOUT) ? LF_READ : 0) | ((events & ~(uint32_t)EPOLLIN) ? LF_WRITE : 0);
}

static inline struct epoll_event lf_set_entry(int fd, int events) {
    struct epoll_event event = {0};
    event.data.fd = fd;
    if (events & LF_READ) event.events |= EPOLLIN;
    if (events & LF_WRITE) event.events |= EPOLLOUT;
    return event;
}

static inline int lf_set_tell(int set, struct epoll_event event, int fd, int before, int after) {
    int op = !after ? EPOLL_CTL_DEL : before ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(set, op, fd, &event) == 0) return 0;
    /* The number was closed and reused behind our back: the kernel has forgotten it, or still knows another name for it. */
    if (op == EPOLL_CTL_MOD && errno == ENOENT) op = EPOLL_CTL_ADD;
    else if (op == EPOLL_CTL_ADD && errno == EEXIST) op = EPOLL_CTL_MOD;
    else return -errno;
    return epoll_ctl(set, op, fd, &event) == 0 ? 0 : -errno;
}

static inline int lf_set_change(int set, int fd, int before, int after) {
    return lf_set_tell(set, lf_set_entry(fd, after), fd, before, after);
}

/* The same in libuv's own set, where the upper half of an entry's data tells libuv that it is not libuv's. A descriptor that
   libuv does not watch any more may be there still; libuv does not mind where that is changed or gone. */
static inline int lf_shared_set_change(int set, int fd, int before, int after) {
    struct epoll_event event = lf_set_entry(fd, after);
    event.data.u64 = (uint64_t)1 << 32 | (uint32_t)fd;
    return lf_set_tell(set, event, fd, before, after);
}

/* Add `fd` for good, in both directions: an event for each change, seen or not. */
static inline int lf_set_edges(int set, int fd) {
    struct epoll_event event = lf_set_entry(fd, 0);
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0) return 0;
    if (errno != EEXIST) return -errno;
    return epoll_ctl(set, EPOLL_CTL_MOD, fd, &event) == 0 ? 0 : -errno;
}

static inline int lf_set_ready(int set, struct lf_event *out, int capacity) {
    struct epoll_event events[256];
    int n;
    do n = epoll_wait(set, events, capacity < 256 ? capacity : 256, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0) return -errno;
    for (int i = 0; i < n; i++) {
        out[i].fd = events[i].data.fd;
        out[i].events = lf_set_events(events[i].events);
    }
    return n;
}
#elif !defined(_WIN32)
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>

static inline int lf_set_open(void) {
    int set = kqueue();
    return set < 0 ? -errno : set;
}

static inline int lf_set_change(int set, int fd, int before, int after) {
    static const int bits[2] = {LF_READ, LF_WRITE};
    static const int filters[2] = {EVFILT_READ, EVFILT_WRITE};
    for (int i = 0; i < 2; i++) {
        struct kevent change;
        int add = (after & bits[i]) != 0;
        if (add == ((before & bits[i]) != 0) && !add) continue;
        EV_SET(&change, fd, filters[i], add ? EV_ADD : EV_DELETE, 0, 0, 0);
        if (kevent(set, &change, 1, NULL, 0, NULL) < 0 && (add || (errno != ENOENT && errno != EBADF))) return -errno;
    }
    return 0;
}

static inline int lf_set_edges(int set, int fd) {
    struct kevent changes[2];
    EV_SET(&changes[0], fd, EVFILT_READ, EV_ADD | EV_CLEAR, 0, 0, 0);
    EV_SET(&changes[1], fd, EVFILT_WRITE, EV_ADD | EV_CLEAR, 0, 0, 0);
    return kevent(set, changes, 2, NULL, 0, NULL) < 0 ? -errno : 0;
}

static inline int lf_set_ready(int set, struct lf_event *out, int capacity) {
    struct kevent events[256];
    struct timespec now = {0, 0};
    int n;
    do n = kevent(set, NULL, 0, events, capacity < 256 ? capacity : 256, &now);
    while (n < 0 && errno == EINTR);
    if (n < 0) return -errno;
    for (int i = 0; i < n; i++) {
        out[i].fd = (int)events[i].ident;
        out[i].events = events[i].filter == EVFILT_READ ? LF_READ : LF_WRITE;
    }
    return n;
}
#else
/* Windows has no descriptor for a set; handles/poll.pyx keeps one uv_poll_t per socket there. */
static inline int lf_set_open(void) { return -ENOSYS; }
static inline int lf_set_change(int set, int fd, int before, int after) {
    (void)set; (void)fd; (void)before; (void)after; return -ENOSYS;
}
static inline int lf_set_edges(int set, int fd) { (void)set; (void)fd; return -ENOSYS; }
static inline int lf_set_ready(int set, struct lf_event *out, int capacity) {
    (void)set; (void)out; (void)capacity; return -ENOSYS;
}
#endif

#if !defined(__linux__)
static inline int lf_set_events(uint32_t events) { return (int)events; }
static inline int lf_shared_set_change(int set, int fd, int before, int after) {
    (void)set; (void)fd; (void)before; (void)after; return -ENOSYS;
}
#endif

/* libuv takes the numbers of the standard streams for those streams: it does not close them, or asserts. Where they are
   closed, hold them while it opens descriptors of its own. Returns the bits of those held. */
static inline int lf_hold_low_descriptors(void) {
    int held = 0;
#if !defined(_WIN32)
    int fd;
    for (fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            int opened = open("/dev/null", O_RDONLY | O_CLOEXEC);
            if (opened == fd) held |= 1 << fd;
            else if (opened >= 0) (void)close(opened);
        }
#endif
    return held;
}

static inline void lf_let_low_descriptors_go(int held) {
#if !defined(_WIN32)
    int fd;
    for (fd = 0; fd <= 2; fd++)
        if (held & (1 << fd)) (void)close(fd);
#else
    (void)held;
#endif
}

/* Let other threads go on for a moment. */
#if defined(_WIN32)
static inline void lf_pause(void) { Sleep(0); }
#else
static inline void lf_pause(void) { (void)usleep(50); }
#endif

/* glibc gives a free block at the end of its heap back to the system from 128 KiB on, and each large read then pays for new
   pages. Once a block of more than that was mapped and freed it keeps twice as much. asyncio's 256 KiB reads do this by
   the way. */
static inline void lf_keep_heap(void) {
    char *volatile block = (char *)malloc(512 * 1024);
    free(block);
}

#endif

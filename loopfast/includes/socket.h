/* The few socket calls that loopfast makes itself, the same on POSIX and Windows. */
#ifndef LOOPFAST_SOCKET_H
#define LOOPFAST_SOCKET_H

#include <errno.h>
#include <string.h>

#if defined(_WIN32)
#include <winsock2.h>
#include <ws2tcpip.h>
#define LF_SHUT_WRITE SD_SEND
#define LF_SEND_FLAGS 0
#define LF_WOULD_BLOCK WSAEWOULDBLOCK
#define LF_DONT_WAIT 0
static inline int lf_socket_error(void) { return WSAGetLastError(); }
static inline void lf_close_socket(int fd) { (void)closesocket(fd); }
#else
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>
#define LF_SHUT_WRITE SHUT_WR
#define LF_WOULD_BLOCK EWOULDBLOCK
#define LF_DONT_WAIT MSG_DONTWAIT
#ifdef MSG_NOSIGNAL
#define LF_SEND_FLAGS MSG_NOSIGNAL
#else
#define LF_SEND_FLAGS 0
#endif
static inline int lf_socket_error(void) { return errno; }
static inline void lf_close_socket(int fd) { (void)close(fd); }
#endif

/* Accept one connection, non-blocking and not inherited by children. Returns the descriptor or a negated errno. */
static inline int lf_accept(int listener, struct sockaddr_storage *address, int *length) {
    socklen_t size = sizeof(*address);
    int fd;
    memset(address, 0, sizeof(*address));
#if defined(__linux__) || defined(__FreeBSD__)
    fd = accept4(listener, (struct sockaddr *)address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return -errno;
    if (fd <= 2) {
        /* The number of a standard stream: libuv would not close it. */
        int low = fd;
        fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
        if (fd < 0) fd = -errno;
        (void)close(low);
        if (fd < 0) return fd;
    }
#elif defined(_WIN32)
    u_long on = 1;
    fd = (int)accept(listener, (struct sockaddr *)address, &size);
    if (fd < 0) return -lf_socket_error();
    ioctlsocket(fd, FIONBIO, &on);
#else
    fd = accept(listener, (struct sockaddr *)address, &size);
    if (fd < 0) return -errno;
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
#endif
    *length = (int)size;
    return fd;
}

/* 0 if `fd` is a stream socket, else a negated errno. */
static inline int lf_check_stream(int fd) {
    int type = 0;
    socklen_t size = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, (void *)&type, &size) < 0) return -lf_socket_error();
    return type == SOCK_STREAM ? 0 : -EPROTOTYPE;
}

static inline int lf_shutdown_write(int fd) { return shutdown(fd, LF_SHUT_WRITE) < 0 ? -lf_socket_error() : 0; }

/* The printable host of an IPv4 or IPv6 address and its numbers. Returns 0, or -1 if `address` is neither, or has a scope,
   whose name only the resolver knows. */
static inline int lf_address(const struct sockaddr *address, char *host, size_t size, int *port) {
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        *port = ntohs(in->sin_port);
        return inet_ntop(AF_INET, &in->sin_addr, host, (socklen_t)size) ? 0 : -1;
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)address;
        *port = ntohs(in->sin6_port);
        if (in->sin6_scope_id != 0 || in->sin6_flowinfo != 0) return -1;
        return inet_ntop(AF_INET6, &in->sin6_addr, host, (socklen_t)size) ? 0 : -1;
    }
    return -1;
}

/* An address of IPv4 or IPv6, and the Python objects that name it: as received, and as a caller wrote it. */
union lf_ip_address {
    struct sockaddr any;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
};

struct lf_known_address {
    union lf_ip_address raw;
    int length;
    void *name;
    void *given;
};

/* The socket address of a printable IPv4 or IPv6 host of this family. Returns its length, or 0 if `host` is not one. */
static inline int lf_parse_address(int family, const char *host, int port, unsigned flow, unsigned scope,
                                   union lf_ip_address *address) {
    if (family == AF_INET) {
        struct sockaddr_in *in = &address->in4;
        memset(in, 0, sizeof(*in));
        in->sin_family = AF_INET;
        in->sin_port = htons((unsigned short)port);
        return inet_pton(AF_INET, host, &in->sin_addr) == 1 ? (int)sizeof(*in) : 0;
    }
    if (family == AF_INET6) {
        struct sockaddr_in6 *in = &address->in6;
        memset(in, 0, sizeof(*in));
        in->sin6_family = AF_INET6;
        in->sin6_port = htons((unsigned short)port);
        in->sin6_flowinfo = htonl(flow);
        in->sin6_scope_id = scope;
        return inet_pton(AF_INET6, host, &in->sin6_addr) == 1 ? (int)sizeof(*in) : 0;
    }
    return 0;
}

/* What Python's socket module shows of an IPv4 or IPv6 address: host, port, and for IPv6 flow and scope. Returns 0, or -1
   for another family. */
static inline int lf_show_address(const struct sockaddr *address, char *host, size_t size, int *port, unsigned *flow,
                                  unsigned *scope) {
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        *port = ntohs(in->sin_port);
        return inet_ntop(AF_INET, &in->sin_addr, host, (socklen_t)size) ? 0 : -1;
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)address;
        *port = ntohs(in->sin6_port);
        *flow = ntohl(in->sin6_flowinfo);
        *scope = in->sin6_scope_id;
        return inet_ntop(AF_INET6, &in->sin6_addr, host, (socklen_t)size) ? 0 : -1;
    }
    return -1;
}

/* Whether two addresses of IPv4 or IPv6 are the same, scope included. */
static inline int lf_same_address(const struct sockaddr *one, const struct sockaddr *other) {
    if (one->sa_family != other->sa_family) return 0;
    if (one->sa_family == AF_INET) {
        const struct sockaddr_in *a = (const struct sockaddr_in *)one, *b = (const struct sockaddr_in *)other;
        return a->sin_port == b->sin_port && a->sin_addr.s_addr == b->sin_addr.s_addr;
    }
    return one->sa_family == AF_INET6 && memcmp(one, other, sizeof(struct sockaddr_in6)) == 0;
}

/* The local end of an IPv4 or IPv6 socket, or its peer. Returns 0, a negated errno, or -EAFNOSUPPORT for another family. */
static inline int lf_keep_address(int status, const struct sockaddr_storage *storage, union lf_ip_address *address) {
    if (status < 0) return -lf_socket_error();
    if (storage->ss_family != AF_INET && storage->ss_family != AF_INET6) return -EAFNOSUPPORT;
    memcpy(address, storage, sizeof(*address));
    return 0;
}

static inline int lf_local_address(int fd, union lf_ip_address *address) {
    struct sockaddr_storage storage;
    socklen_t size = sizeof(storage);
    int status = getsockname(fd, (struct sockaddr *)&storage, &size);
    return lf_keep_address(status, &storage, address);
}

static inline int lf_peer_address(int fd, union lf_ip_address *address) {
    struct sockaddr_storage storage;
    socklen_t size = sizeof(storage);
    int status = getpeername(fd, (struct sockaddr *)&storage, &size);
    return lf_keep_address(status, &storage, address);
}

/* A number from 0 to `slots` - 1 (`slots` is a power of two) that is the same for equal addresses. */
static inline unsigned lf_address_slot(const struct sockaddr *address, unsigned slots) {
    unsigned hash;
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        hash = ntohs(in->sin_port) ^ ntohl(in->sin_addr.s_addr);
    } else {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)address;
        hash = ntohs(in->sin6_port) ^ in->sin6_addr.s6_addr[15];
    }
    return (hash ^ (hash >> 8)) & (slots - 1);
}

/* Receive or send without blocking. Returns the number of bytes or a negated errno, EAGAIN if it would block. */
static inline long long lf_recv(int fd, char *buffer, size_t size) {
    for (;;) {
        long long n = recv(fd, buffer, size, LF_DONT_WAIT);
        if (n >= 0) return n;
        if (lf_socket_error() == LF_WOULD_BLOCK) return -EAGAIN;
        if (lf_socket_error() != EINTR) return -lf_socket_error();
    }
}

static inline long long lf_send(int fd, const char *data, size_t size) {
    for (;;) {
        long long n = send(fd, data, size, LF_DONT_WAIT | LF_SEND_FLAGS);
        if (n >= 0) return n;
        if (lf_socket_error() == LF_WOULD_BLOCK) return -EAGAIN;
        if (lf_socket_error() != EINTR) return -lf_socket_error();
    }
}

static inline long long lf_recv_datagram(int fd, char *buffer, size_t size, union lf_ip_address *sender) {
    for (;;) {
        socklen_t length = sizeof(*sender);
        long long n = recvfrom(fd, buffer, size, LF_DONT_WAIT, &sender->any, &length);
        if (n >= 0) return n;
        if (lf_socket_error() == LF_WOULD_BLOCK) return -EAGAIN;
        if (lf_socket_error() != EINTR) return -lf_socket_error();
    }
}

/* Send one datagram, to the connected peer if `address` is NULL. Returns 0 or a negated errno, EAGAIN if it would block. */
static inline int lf_send_datagram(int fd, const char *data, size_t size, const struct sockaddr *address, int length) {
    for (;;) {
        if (sendto(fd, data, size, LF_SEND_FLAGS, address, (socklen_t)length) >= 0) return 0;
        if (lf_socket_error() == LF_WOULD_BLOCK) return -EAGAIN;
        if (lf_socket_error() != EINTR) return -lf_socket_error();
    }
}

#endif

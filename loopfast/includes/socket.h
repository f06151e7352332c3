/* The few socket calls that loopfast makes itself, the same on POSIX and Windows. */
#ifndef LOOPFAST_SOCKET_H
#define LOOPFAST_SOCKET_H

#include <errno.h>
#include <string.h>

#if defined(_WIN32)
#include <winsock2.h>
#include <ws2tcpip.h>
#define LF_SHUT_WRITE SD_SEND
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
static inline int lf_address(const struct sockaddr_storage *address, char *host, size_t size, int *port) {
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        *port = ntohs(in->sin_port);
        return inet_ntop(AF_INET, &in->sin_addr, host, (socklen_t)size) ? 0 : -1;
    }
    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)address;
        *port = ntohs(in->sin6_port);
        if (in->sin6_scope_id != 0 || in->sin6_flowinfo != 0) return -1;
        return inet_ntop(AF_INET6, &in->sin6_addr, host, (socklen_t)size) ? 0 : -1;
    }
    return -1;
}

#endif

# The few socket calls that loopfast makes itself (socket.h).

cdef extern from "socket.h" nogil:
    ctypedef struct sockaddr_storage "struct sockaddr_storage":
        int ss_family

    ctypedef struct sockaddr "struct sockaddr":
        int sa_family

    int AF_INET
    int AF_INET6

    int lf_accept(int listener, sockaddr_storage* address, int* length)
    int lf_check_stream(int fd)
    int lf_shutdown_write(int fd)
    int lf_address(const sockaddr* address, char* host, size_t size, int* port)
    ctypedef union lf_ip_address "union lf_ip_address":
        sockaddr any

    ctypedef struct lf_known_address "struct lf_known_address":
        lf_ip_address raw
        int length
        void* name
        void* given

    int lf_parse_address(
        int family, const char* host, int port, unsigned int flow, unsigned int scope, lf_ip_address* address
    )
    int lf_local_address(int fd, lf_ip_address* address)
    int lf_peer_address(int fd, lf_ip_address* address)
    unsigned int lf_address_slot(const sockaddr* address, unsigned int slots)
    int lf_show_address(
        const sockaddr* address, char* host, size_t size, int* port, unsigned int* flow, unsigned int* scope
    )
    bint lf_same_address(const sockaddr* one, const sockaddr* other)
    Py_ssize_t lf_recv(int fd, char* buffer, size_t size)
    Py_ssize_t lf_recv_datagram(int fd, char* buffer, size_t size, lf_ip_address* sender)
    Py_ssize_t lf_send(int fd, const char* data, size_t size)
    int lf_send_datagram(int fd, const char* data, size_t size, const sockaddr* address, int length)
    void lf_close_socket(int fd)

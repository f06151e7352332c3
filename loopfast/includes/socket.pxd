# The few socket calls that loopfast makes itself (socket.h).

cdef extern from "socket.h" nogil:
    ctypedef struct sockaddr_storage "struct sockaddr_storage":
        int ss_family

    int AF_INET
    int AF_INET6

    int lf_accept(int listener, sockaddr_storage* address, int* length)
    int lf_check_stream(int fd)
    int lf_shutdown_write(int fd)
    int lf_address(const sockaddr_storage* address, char* host, size_t size, int* port)
    void lf_close_socket(int fd)

# Python's own OpenSSL, called directly (openssl.h).

from cpython.object cimport PyObject

cdef extern from "openssl.h":
    bint LF_HAS_DIRECT_TLS

    bint lf_tls_load(const char* path, unsigned long version) noexcept
    void* lf_tls_connection(
        PyObject* connection, PyObject* context, PyObject* incoming, PyObject* outgoing, void** rbio, void** wbio
    ) noexcept
    void lf_tls_forget_errors() noexcept
    size_t lf_bio_pending(void* bio) noexcept
    int lf_bio_read(void* bio, void* data, int size) noexcept
    int lf_bio_write(void* bio, const void* data, int size) noexcept
    bint lf_tls_has_pending(void* ssl) noexcept
    int lf_tls_read(void* ssl, void* rbio, void* data, size_t size, size_t* done) noexcept
    bint lf_tls_write(void* ssl, const void* data, size_t size, size_t* done) noexcept

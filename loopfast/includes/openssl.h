/* The OpenSSL that Python's _ssl module is linked to, called without it: functions found through the module's own
   library, and the SSL and BIO structures of a connection that the module made. Nothing of OpenSSL is needed to compile
   or to load this. */
#ifndef LOOPFAST_OPENSSL_H
#define LOOPFAST_OPENSSL_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

/* Without the GIL _ssl locks each connection. On Windows each library has a handle of its own, which nobody gives us. */
#if defined(Py_GIL_DISABLED) || defined(_WIN32)
#define LF_HAS_DIRECT_TLS 0
#else
#define LF_HAS_DIRECT_TLS 1
#include <dlfcn.h>
#endif

/* <openssl/bio.h>, <openssl/ssl.h>: part of the binary interface since OpenSSL 0.9. */
#define LF_BIO_TYPE_MEM (1 | 0x0400)
#define LF_BIO_CTRL_PENDING 10
#define LF_BIO_FLAGS_READ 0x01
#define LF_SSL_NOTHING 1
#define LF_SSL_READING 3

static struct {
    unsigned long (*version_number)(void);
    unsigned long (*peek_error)(void);
    void (*clear_error)(void);
    int (*bio_method_type)(const void *bio);
    int (*bio_test_flags)(const void *bio, int flags);
    long (*bio_ctrl)(void *bio, int command, long number, void *pointer);
    int (*bio_read)(void *bio, void *data, int size);
    int (*bio_write)(void *bio, const void *data, int size);
    void *(*get_context)(const void *ssl);
    void *(*get_rbio)(const void *ssl);
    void *(*get_wbio)(const void *ssl);
    int (*has_pending)(const void *ssl);
    int (*want)(const void *ssl);
    int (*read)(void *ssl, void *data, size_t size, size_t *done);
    int (*write)(void *ssl, const void *data, size_t size, size_t *done);
} lf_openssl;

/* Finds the functions through the loaded shared library at `path`, that of _ssl. Returns 1, or 0 if one is missing or
   they belong to another OpenSSL than the `version` that _ssl runs with. */
static int lf_tls_load(const char *path, unsigned long version)
{
#if LF_HAS_DIRECT_TLS
    static const char *const names[] = {
        "OpenSSL_version_num", "ERR_peek_error", "ERR_clear_error", "BIO_method_type", "BIO_test_flags", "BIO_ctrl",
        "BIO_read", "BIO_write", "SSL_get_SSL_CTX", "SSL_get_rbio", "SSL_get_wbio", "SSL_has_pending", "SSL_want",
        "SSL_read_ex", "SSL_write_ex",
    };
    void *found[sizeof(names) / sizeof(names[0])];
    /* Never closed: the module stays loaded as long as the process lives. */
    void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL) return 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        found[i] = dlsym(library, names[i]);
        if (found[i] == NULL) return 0;
    }
    if (sizeof(found) != sizeof(lf_openssl)) return 0;
    memcpy(&lf_openssl, found, sizeof(found));
    return lf_openssl.version_number() == version;
#else
    (void)path, (void)version;
    return 0;
#endif
}

#if LF_HAS_DIRECT_TLS
/* True if `bio` is a memory BIO, and the one of `object`, an _ssl.MemoryBIO. */
static inline int lf_is_memory_of(void *bio, PyObject *object)
{
    void *first = ((void **)object)[sizeof(PyObject) / sizeof(void *)];
    return bio != NULL && bio == first && lf_openssl.bio_method_type(bio) == LF_BIO_TYPE_MEM;
}
#endif

/* Returns the SSL structure of `connection`, an _ssl._SSLSocket, and stores its two memory BIOs; NULL if the objects do
   not look as they did in every Python version up to now: the word before the one that holds `context` is the SSL, and
   the first fields of context and BIO objects are the SSL_CTX and the BIOs that it names. */
static void *lf_tls_connection(PyObject *connection, PyObject *context, PyObject *incoming, PyObject *outgoing,
                               void **rbio, void **wbio)
{
#if LF_HAS_DIRECT_TLS
    const size_t first = sizeof(PyObject) / sizeof(void *);
    void **words = (void **)connection;
    size_t count = (size_t)Py_TYPE(connection)->tp_basicsize / sizeof(void *);
    void *ssl = NULL;
    for (size_t i = first + 1; i < count && i < first + 6; i++) {
        if (words[i] == (void *)context) {
            ssl = words[i - 1];
            break;
        }
    }
    if (ssl == NULL || (uintptr_t)ssl % sizeof(void *) != 0) return NULL;
    if (lf_openssl.get_context(ssl) != ((void **)context)[first]) return NULL;
    *rbio = lf_openssl.get_rbio(ssl);
    *wbio = lf_openssl.get_wbio(ssl);
    return lf_is_memory_of(*rbio, incoming) && lf_is_memory_of(*wbio, outgoing) ? ssl : NULL;
#else
    (void)connection, (void)context, (void)incoming, (void)outgoing, (void)rbio, (void)wbio;
    return NULL;
#endif
}

/* Whoever used OpenSSL in this thread before may have left errors behind, which the next failure would be blamed on. */
static inline void lf_tls_forget_errors(void)
{
    if (lf_openssl.peek_error() != 0) lf_openssl.clear_error();
}

static inline size_t lf_bio_pending(void *bio)
{
    return (size_t)lf_openssl.bio_ctrl(bio, LF_BIO_CTRL_PENDING, 0, NULL);
}

static inline int lf_bio_read(void *bio, void *data, int size) { return lf_openssl.bio_read(bio, data, size); }
static inline int lf_bio_write(void *bio, const void *data, int size) { return lf_openssl.bio_write(bio, data, size); }

/* True if the connection holds bytes that it has taken from its BIO: plain ones, or a part of a record. */
static inline int lf_tls_has_pending(void *ssl) { return lf_openssl.has_pending(ssl); }

/* Decrypts up to `size` bytes. 1: `*done` bytes; 0: it needs more from its BIO; -1: the end, or an error, which stays in
   OpenSSL's queue: the same call through _ssl meets the same and raises it. */
static inline int lf_tls_read(void *ssl, void *rbio, void *data, size_t size, size_t *done)
{
    if (lf_openssl.read(ssl, data, size, done) == 1) return 1;
    /* SSL_get_error() without its look at the queue. */
    return lf_openssl.want(ssl) == LF_SSL_READING && lf_openssl.bio_test_flags(rbio, LF_BIO_FLAGS_READ) ? 0 : -1;
}

/* Encrypts `size` bytes. 1: the first `*done` of them; 0: not now, or an error. The same call through _ssl meets the
   same. */
static inline int lf_tls_write(void *ssl, const void *data, size_t size, size_t *done)
{
    if (lf_openssl.write(ssl, data, size, done) == 1) return 1;
    /* What waits has failed at nothing: the errors are somebody else's. */
    if (lf_openssl.want(ssl) != LF_SSL_NOTHING) lf_openssl.clear_error();
    return 0;
}

#endif

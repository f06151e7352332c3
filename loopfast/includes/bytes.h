/* Using a bytes object again that nobody else has seen the end of. */
#ifndef LOOPFAST_BYTES_H
#define LOOPFAST_BYTES_H

#include <Python.h>
#include <string.h>

/* Without the GIL a count of one does not prove that nobody else can reach the object. */
#ifdef Py_GIL_DISABLED
#define LF_REUSES_BYTES 0
#else
#define LF_REUSES_BYTES 1
#endif

/* Makes `obj`, a bytes object with memory for at least `size` bytes whose only reference is the caller's, end after them. */
static inline void lf_end_bytes(PyObject *obj, Py_ssize_t size)
{
    PyBytes_AS_STRING(obj)[size] = '\0';
    Py_SET_SIZE((PyVarObject *) obj, size);
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#elif defined(_MSC_VER)
#pragma warning(push)
#pragma warning(disable : 4996)
#endif
    ((PyBytesObject *) obj)->ob_shash = -1;
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic pop
#elif defined(_MSC_VER)
#pragma warning(pop)
#endif
}

/* Makes such an object hold a copy of `data`. */
static inline void lf_refill_bytes(PyObject *obj, const char *data, Py_ssize_t size)
{
    memcpy(PyBytes_AS_STRING(obj), data, (size_t) size);
    lf_end_bytes(obj, size);
}

#endif

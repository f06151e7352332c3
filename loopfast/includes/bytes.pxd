# Using a bytes object again (bytes.h).

from cpython.object cimport PyObject

cdef extern from "bytes.h":
    bint LF_REUSES_BYTES
    void lf_end_bytes(PyObject* obj, Py_ssize_t size)
    void lf_refill_bytes(PyObject* obj, const char* data, Py_ssize_t size)

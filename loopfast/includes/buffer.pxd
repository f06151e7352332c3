# The memory of a writable buffer without the buffer protocol (buffer.h).

from cpython.object cimport PyObject

cdef extern from "buffer.h":
    bint lf_plain_buffer(PyObject* obj, char** base, Py_ssize_t* size)
    int lf_empty_bytearray(PyObject* obj) except -1
    void lf_lend_memory(PyObject* obj)
    int lf_append_bytes(PyObject* obj, const char* data, Py_ssize_t size) except -1

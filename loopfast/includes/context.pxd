# A Context seen from inside (context.h).

from cpython.object cimport PyObject

cdef extern from "context.h":
    ctypedef struct lf_context:
        PyObject* variables
        PyObject* weak_references

    bint lf_context_fits() noexcept
    bint lf_is_table(PyObject* obj) noexcept
    PyObject* lf_current_context() noexcept

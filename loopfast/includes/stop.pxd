# StopIteration without an object for each: see stop.h.

from cpython.object cimport PyObject

cdef extern from "stop.h":
    void lf_stop_iteration(PyObject* value)
    void lf_forget_value()

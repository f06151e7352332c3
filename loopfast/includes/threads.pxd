# The free-threaded build's locks and counts (threads.h).

from cpython.object cimport PyObject

cdef extern from "threads.h":
    # A constant of the C compiler: what it guards is not there in a build with the GIL.
    bint LF_FREE_THREADED

    ctypedef struct lf_mutex:
        pass

    # PyMutex: calls no Python code, lets go of the thread state while it waits. Nothing that may run Python code, not
    # even Py_DECREF, belongs between the two.
    void lf_lock(lf_mutex* mutex) noexcept
    void lf_unlock(lf_mutex* mutex) noexcept
    void lf_reset(lf_mutex* mutex) noexcept

    bint lf_is_unshared(PyObject* obj) noexcept
    void lf_lend(PyObject* obj) noexcept
    bint lf_try_incref(PyObject* obj) noexcept

    unsigned long lf_load_runner(unsigned long* runner) noexcept
    void lf_store_runner(unsigned long* runner, unsigned long thread) noexcept
    Py_ssize_t lf_load_count(Py_ssize_t* count) noexcept
    void lf_store_count(Py_ssize_t* count, Py_ssize_t value) noexcept

    bint lf_load_flag "lf_load"(bint* flag) noexcept
    void lf_store_flag "lf_store"(bint* flag, bint value) noexcept
    unsigned int lf_load_number "lf_load"(unsigned int* number) noexcept
    void lf_store_number "lf_store"(unsigned int* number, unsigned int value) noexcept
    PyObject* lf_load_object "lf_load"(PyObject** place) noexcept

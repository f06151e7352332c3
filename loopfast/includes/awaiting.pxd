# What our awaitables have in common as coroutines. `step()` returns the future to wait for; NULL when the call is over,
# with StopIteration or another exception, or none.

from cpython.object cimport PyObject

from loopfast.includes.python cimport Py_DECREF, PyErr_Occurred, propagate


cdef inline object sent(PyObject* step):
    # What send() makes of the result of step().
    if step != NULL:
        future = <object> step
        Py_DECREF(step)
        return future
    if PyErr_Occurred() == NULL:
        raise StopIteration
    propagate()


cdef inline object throw_into(object iterator, object kind, object value, object traceback):
    # Raise an exception in `iterator`, as throw() was asked to: the form with three arguments is deprecated, and what
    # some callers still use.
    if value is None and traceback is None:
        return iterator.throw(kind)
    return iterator.throw(kind, value, traceback)


cdef inline object throw_here(object kind, object value):
    # The same where there is no iterator, or the exception came back out of it.
    if isinstance(kind, type):
        raise kind if value is None else value
    raise kind

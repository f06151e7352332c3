"""The cyclic garbage collector's view of a loop.

Handles are not tracked, and kept objects are held by a C list: the loop's own traverse and clear speak for both, so
that a loop dropped without close() is found, warned about and freed, as asyncio's is.
"""

from cpython.object cimport PyObject

from loopfast.callbacks cimport Handle, is_native
from loopfast.core cimport LoopCore, LoopObject
from loopfast.includes.python cimport Py_REFCNT, PyTypeObject, traverseproc, visitproc

ctypedef int (*clear_function)(PyObject*) noexcept
cdef traverseproc generated_traverse
cdef clear_function generated_clear


cdef int visit_one(PyObject* obj, visitproc visit, void* arg) noexcept:
    return visit(obj, arg) if obj != NULL else 0


cdef int visit_call(PyObject* item, visitproc visit, void* arg) noexcept:
    """Visit a handle and what it owns, for the one place that keeps it while it waits, whoever else refers to it."""
    cdef int status = 0
    if item == NULL:
        return 0
    if not is_native(item):
        return visit(item, arg)
    status = visit_one((<Handle> item).callback, visit, arg)
    status = status or visit_one((<Handle> item).context, visit, arg)
    status = status or visit_one((<Handle> item).args[1], visit, arg)
    status = status or visit_one((<Handle> item).args[2], visit, arg)
    status = status or visit_one((<Handle> item).args[3], visit, arg)
    return status


cdef int visit_queued(PyObject* item, visitproc visit, void* arg) noexcept:
    """Visit a queued handle, and what it owns if the queue holds the only reference: else it may be in a set or in a
    queue once more, which must not be visited twice."""
    if item != NULL and is_native(item) and Py_REFCNT(item) != 1:
        return 0
    return visit_call(item, visit, arg)


cdef int traverse_loop(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef Py_ssize_t i
    cdef Py_ssize_t mask = (<LoopCore> self).ring_capacity - 1
    cdef PyObject* obj = (<LoopCore> self).objects
    cdef int status = generated_traverse(self, visit, arg)
    status = status or visit_one((<LoopCore> self).entered, visit, arg)
    i = 0
    while status == 0 and i < (<LoopCore> self).ready_count:
        status = visit_queued((<LoopCore> self).ring[((<LoopCore> self).ring_head + i) & mask], visit, arg)
        i += 1
    i = 0
    while status == 0 and i < (<LoopCore> self).foreign_count:
        status = visit_queued((<LoopCore> self).foreign[i], visit, arg)
        i += 1
    i = (<LoopCore> self).event_head
    while status == 0 and i < (<LoopCore> self).event_count:
        status = visit_queued((<LoopCore> self).events[i], visit, arg)
        i += 1
    i = 0
    while status == 0 and i < (<LoopCore> self).timer_count:
        status = visit_call((<LoopCore> self).heap[i], visit, arg)
        i += 1
    i = 0
    while status == 0 and i < (<LoopCore> self).turn_end_count:
        status = visit_one((<LoopCore> self).turn_end[i], visit, arg)
        i += 1
    while status == 0 and obj != NULL:
        if (<LoopObject> obj).is_kept:
            status = visit(obj, arg)
        obj = (<LoopObject> obj).next_object
    return status


cdef int clear_loop(PyObject* self) noexcept:
    cdef PyObject* obj
    (<LoopCore> self).drop_handles()
    while True:
        obj = (<LoopCore> self).objects
        while obj != NULL and not (<LoopObject> obj).is_kept:
            obj = (<LoopObject> obj).next_object
        if obj == NULL:
            break
        # May deallocate the object and with it change the list: start over.
        (<LoopObject> obj).unkeep()
    return generated_clear(self)


generated_traverse = (<PyTypeObject*> LoopCore).tp_traverse
generated_clear = (<PyTypeObject*> LoopCore).tp_clear
(<PyTypeObject*> LoopCore).tp_traverse = traverse_loop
(<PyTypeObject*> LoopCore).tp_clear = clear_loop

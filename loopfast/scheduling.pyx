"""The entries of the scheduling calls: ``call_soon`` and its three relatives as METH_FASTCALL | METH_KEYWORDS
functions.

C tasks and most callers pass at most the keyword ``context``; anything else goes to LoopCore's generic form, found by
name.
"""

import sys

from cpython.object cimport PyObject

from loopfast.callbacks cimport (
    THREAD_SAFE_HANDLES, TimerHandle, fill_handle, grow_ring, make_handle, make_threadsafe_handle, runs_here,
    set_deadline, take_what_others_scheduled,
)
from loopfast.core cimport LoopCore, wake
from loopfast.includes.platform cimport lf_monotonic
from loopfast.includes.python cimport (
    METH_FASTCALL, METH_KEYWORDS, Py_DECREF, Py_INCREF, Py_None, Py_XDECREF, PyDescr_NewMethod, PyDict_SetItemString,
    PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyLong_AsDouble, PyLong_CheckExact, PyMethodDef, PyTuple_GET_ITEM,
    PyTuple_GET_SIZE, PyType_Modified, PyTypeObject, PyUnicode_Compare,
)
from loopfast.includes.threads cimport LF_FREE_THREADED, lf_load_flag, lf_load_object

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    static inline int lf_settle(PyObject **place, PyObject *obj) {
        PyObject *none = NULL;
        return __atomic_compare_exchange_n(place, &none, obj, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    #else
    static inline int lf_settle(PyObject **place, PyObject *obj) { *place = obj; return 1; }
    #endif
    """
    # Without the GIL: store `obj` where nothing is yet; True if that was so.
    bint lf_settle(PyObject** place, PyObject* obj) noexcept

cdef str CONTEXT = sys.intern("context")
cdef dict GENERIC = {}


cdef PyObject* call_generic(str name, PyObject* self, PyObject** args, Py_ssize_t nargs, PyObject* kwnames) except NULL:
    cdef Py_ssize_t i
    positional = (<object> self, *[<object> args[i] for i in range(nargs)])
    keywords = {}
    if kwnames != NULL:
        for i in range(PyTuple_GET_SIZE(kwnames)):
            keywords[<object> PyTuple_GET_ITEM(kwnames, i)] = <object> args[nargs + i]
    result = GENERIC[name](*positional, **keywords)
    Py_INCREF(<PyObject*> result)
    return <PyObject*> result


cdef inline bint is_simple_call(Py_ssize_t nargs, Py_ssize_t needed, PyObject** args, PyObject* kwnames,
                                PyObject** context) noexcept:
    """True if the call has its positional arguments and no keyword but `context`, which is then stored."""
    context[0] = NULL
    if nargs < needed:
        return False
    if kwnames == NULL:
        return True
    if kwnames != lf_load_object(&known_keywords) and not is_context_keyword(kwnames):
        return False
    if args[nargs] != Py_None:
        context[0] = args[nargs]
    return True


# The keyword tuple seen last that is ("context",), owned. Every C task passes the same tuple, whose string is not
# interned.
cdef PyObject* known_keywords = NULL


cdef bint is_context_keyword(PyObject* kwnames) noexcept:
    global known_keywords
    if PyTuple_GET_SIZE(kwnames) != 1 or PyUnicode_Compare(PyTuple_GET_ITEM(kwnames, 0), <PyObject*> CONTEXT) != 0:
        return False
    Py_INCREF(kwnames)
    if not LF_FREE_THREADED:
        Py_XDECREF(known_keywords)
        known_keywords = kwnames
    elif not lf_settle(&known_keywords, kwnames):
        # Another thread may just be comparing it: the first one stays.
        Py_DECREF(kwnames)
    return True


cdef inline PyObject* append_call(LoopCore loop, PyObject** args, Py_ssize_t nargs, PyObject* context) except NULL:
    """Append args[0](*args[1:]) to the ready ring and return a new reference to its handle."""
    cdef PyObject* item
    take_what_others_scheduled(loop)
    if loop.ready_count == loop.ring_capacity:
        grow_ring(loop)
    item = make_handle(loop, args[0], args + 1, nargs - 1, context)
    # One reference for the ring, one for the caller.
    Py_INCREF(item)
    loop.ring[(loop.ring_head + loop.ready_count) & (loop.ring_capacity - 1)] = item
    loop.ready_count += 1
    return item


cdef inline bint is_usual(LoopCore loop) noexcept:
    """True where no check is due: not closed, no debug mode, and without the GIL a loop that runs in this thread."""
    return not (loop._debug or lf_load_flag(&loop.closed) or (LF_FREE_THREADED and not runs_here(loop)))


cdef PyObject* fast_call_soon(PyObject* self, PyObject** args, Py_ssize_t nargs, PyObject* kwnames) except NULL:
    cdef LoopCore loop = <LoopCore> self
    cdef PyObject* context
    if not is_usual(loop) or not is_simple_call(nargs, 1, args, kwnames, &context):
        return call_generic("call_soon", self, args, nargs, kwnames)
    return append_call(loop, args, nargs, context)


cdef int push_or_drop(LoopCore loop, PyObject* item) except -1:
    """Queue the new handle *item*, unless the loop was closed meanwhile."""
    try:
        loop.push(item)
    except BaseException:
        Py_DECREF(item)
        raise
    return 0


cdef PyObject* fast_call_soon_threadsafe(PyObject* self, PyObject** args, Py_ssize_t nargs,
                                         PyObject* kwnames) except NULL:
    cdef LoopCore loop = <LoopCore> self
    cdef PyObject* context
    cdef PyObject* item
    if loop._debug or lf_load_flag(&loop.closed) or not is_simple_call(nargs, 1, args, kwnames, &context):
        return call_generic("call_soon_threadsafe", self, args, nargs, kwnames)
    if THREAD_SAFE_HANDLES:
        item = make_threadsafe_handle(loop, args[0], args + 1, nargs - 1, context)
        if LF_FREE_THREADED:
            push_or_drop(loop, item)
        else:
            loop.push(item)
    else:
        item = append_call(loop, args, nargs, context)
    wake(loop)
    return item


cdef inline bint is_number(PyObject* obj) noexcept:
    return PyFloat_CheckExact(obj) or PyLong_CheckExact(obj)


cdef inline double seconds(PyObject* number) except? -1:
    return PyFloat_AS_DOUBLE(number) if PyFloat_CheckExact(number) else PyLong_AsDouble(number)


cdef inline PyObject* plain_timer(LoopCore loop, double deadline, PyObject** args, Py_ssize_t nargs,
                                  PyObject* context) except NULL:
    cdef TimerHandle timer = TimerHandle.__new__(TimerHandle)
    fill_handle(<PyObject*> timer, loop, args[0], args + 1, nargs - 1, context)
    set_deadline(timer, deadline)
    loop.heap_push(timer)
    Py_INCREF(<PyObject*> timer)
    return <PyObject*> timer


cdef PyObject* fast_call_later(PyObject* self, PyObject** args, Py_ssize_t nargs, PyObject* kwnames) except NULL:
    cdef LoopCore loop = <LoopCore> self
    cdef PyObject* context
    if (not is_usual(loop) or loop.has_own_clock or not is_simple_call(nargs, 2, args, kwnames, &context)
            or not is_number(args[0])):
        return call_generic("call_later", self, args, nargs, kwnames)
    return plain_timer(loop, lf_monotonic() + seconds(args[0]), args + 1, nargs - 1, context)


cdef PyObject* fast_call_at(PyObject* self, PyObject** args, Py_ssize_t nargs, PyObject* kwnames) except NULL:
    cdef LoopCore loop = <LoopCore> self
    cdef PyObject* context
    cdef PyObject* timer
    if not is_usual(loop) or not is_simple_call(nargs, 2, args, kwnames, &context) or not is_number(args[0]):
        return call_generic("call_at", self, args, nargs, kwnames)
    timer = plain_timer(loop, seconds(args[0]), args + 1, nargs - 1, context)
    if not PyFloat_CheckExact(args[0]):
        (<TimerHandle> timer).given = <object> args[0]
    return timer


cdef PyMethodDef[4] FAST_METHODS
cdef int FAST_KEYWORDS = METH_FASTCALL | METH_KEYWORDS
FAST_METHODS[0] = PyMethodDef("call_soon", <void*> fast_call_soon, FAST_KEYWORDS, (
    "call_soon($self, callback, *args, context=None)\n--\n\n"
    "Schedule callback(*args) for the next turn of the loop; return its handle.\n\n"
    "context is the contextvars.Context to run it in, by default a copy of the current one.\n"
    "Raises RuntimeError if the loop is closed.\n\n"
    "Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.call_soon"))
FAST_METHODS[1] = PyMethodDef("call_soon_threadsafe", <void*> fast_call_soon_threadsafe, FAST_KEYWORDS, (
    "call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n"
    "call_soon() that may be called from any thread; wakes the loop if it sleeps.\n\n"
    "Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.call_soon_threadsafe"))
FAST_METHODS[2] = PyMethodDef("call_later", <void*> fast_call_later, FAST_KEYWORDS, (
    "call_later($self, delay, callback, *args, context=None)\n--\n\n"
    "Schedule callback(*args) to run after delay seconds, never earlier; return its TimerHandle.\n\n"
    "Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.call_later"))
FAST_METHODS[3] = PyMethodDef("call_at", <void*> fast_call_at, FAST_KEYWORDS, (
    "call_at($self, when, callback, *args, context=None)\n--\n\n"
    "Schedule callback(*args) to run at the time when, in seconds of loop.time(); return its TimerHandle.\n\n"
    "Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.call_at"))


def install_fast_methods(type cls):
    """Give *cls*, a LoopCore, these entries as methods of its own: on an exact type the interpreter checks `self`
    faster."""
    cdef PyTypeObject* type_ = <PyTypeObject*> cls
    cdef int i
    if not issubclass(cls, LoopCore):
        raise TypeError(f"a subclass of LoopCore was expected, got {cls!r}")
    for i in range(4):
        PyDict_SetItemString(type_.tp_dict, FAST_METHODS[i].ml_name, PyDescr_NewMethod(type_, &FAST_METHODS[i]))
    PyType_Modified(type_)


for _name in ("call_soon", "call_soon_threadsafe", "call_later", "call_at"):
    GENERIC[_name] = getattr(LoopCore, _name)
install_fast_methods(LoopCore)

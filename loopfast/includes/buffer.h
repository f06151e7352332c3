/* The memory of a writable buffer without the buffer protocol: for the two exact types nearly everybody returns from
   get_buffer(), where nothing can resize or release them before the read that follows at once. */
#ifndef LOOPFAST_BUFFER_H
#define LOOPFAST_BUFFER_H

#include <Python.h>

/* Returns 1 and stores the memory of `obj` if it is an exact bytearray or a plain writable memoryview; else 0. The caller holds
   a reference to `obj`, keeps the GIL, and runs no Python code while it uses the memory. */
static inline int lf_plain_buffer(PyObject *obj, char **base, Py_ssize_t *size)
{
#ifndef Py_GIL_DISABLED
    if (PyByteArray_CheckExact(obj)) {
        *base = PyByteArray_AS_STRING(obj);
        *size = PyByteArray_GET_SIZE(obj);
        return 1;
    }
    if (PyMemoryView_Check(obj)) {
        PyMemoryViewObject *view = (PyMemoryViewObject *) obj;
        int plain = _Py_MEMORYVIEW_C;
        int refused = _Py_MEMORYVIEW_RELEASED;
#ifdef _Py_MEMORYVIEW_RESTRICTED
        refused |= _Py_MEMORYVIEW_RESTRICTED;
#endif
        if ((view->flags & (plain | refused)) == plain && !(view->mbuf->flags & _Py_MANAGED_BUFFER_RELEASED) &&
            !view->view.readonly) {
            *base = (char *) view->view.buf;
            *size = view->view.len;
            return 1;
        }
    }
#else
    (void) obj, (void) base, (void) size;
#endif
    return 0;
}

#endif

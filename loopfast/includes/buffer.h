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

/* Empties the exact bytearray `obj`. Its memory stays for what comes next if that is little: a stream's buffer is filled and
   emptied for each message. Returns -1 with an exception set where `obj` has exports. */
static inline int lf_empty_bytearray(PyObject *obj)
{
#if PY_VERSION_HEX < 0x030F0000 && !defined(Py_GIL_DISABLED)
    PyByteArrayObject *array = (PyByteArrayObject *) obj;
    if (array->ob_exports == 0 && array->ob_alloc > 0 && array->ob_alloc <= 2048) {
        array->ob_start = array->ob_bytes;
        array->ob_start[0] = '\0';
        Py_SET_SIZE((PyVarObject *) array, 0);
        return 0;
    }
#endif
    return PyByteArray_Resize(obj, 0);
}

#endif

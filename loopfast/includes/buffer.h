/* The memory of a writable buffer without the buffer protocol: for the two exact types nearly everybody returns from
   get_buffer(), where nothing can resize or release them before the read that follows at once. */
#ifndef LOOPFAST_BUFFER_H
#define LOOPFAST_BUFFER_H

#include <Python.h>
#include <string.h>

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

/* From 3.15 on the memory of a bytearray is a bytes object. Without the GIL any thread may look at it. */
#if PY_VERSION_HEX < 0x030F0000 && !defined(Py_GIL_DISABLED)
#define LF_KEEPS_MEMORY 1
#else
#define LF_KEEPS_MEMORY 0
#endif

/* Of a bytearray: memory that is kept, in bytes; and how many of them may lie aside. */
#define LF_LITTLE_MEMORY 2048
#define LF_SPARE_MEMORIES 128

#if LF_KEEPS_MEMORY
static struct {
    char *start;
    Py_ssize_t size;
} lf_spare_memory[LF_SPARE_MEMORIES];
static int lf_spare_memories;
#endif

/* Empties the exact bytearray `obj`. Its memory stays for what comes next if that is little: a stream's buffer is filled and
   emptied for each message. Returns -1 with an exception set where `obj` has exports. */
static inline int lf_empty_bytearray(PyObject *obj)
{
#if LF_KEEPS_MEMORY
    PyByteArrayObject *array = (PyByteArrayObject *) obj;
    if (array->ob_exports == 0 && array->ob_alloc > 0 && array->ob_alloc <= LF_LITTLE_MEMORY) {
        array->ob_start = array->ob_bytes;
        array->ob_start[0] = '\0';
        Py_SET_SIZE((PyVarObject *) array, 0);
        return 0;
    }
#endif
    return PyByteArray_Resize(obj, 0);
}

/* Lays the memory of the exact bytearray `obj` aside if it is empty: its stream waits, perhaps for ever, and the next one that
   gets data can use it. */
static inline void lf_lend_memory(PyObject *obj)
{
#if LF_KEEPS_MEMORY
    PyByteArrayObject *array = (PyByteArrayObject *) obj;
    if (Py_SIZE(obj) > 0 || array->ob_exports > 0 || array->ob_alloc <= 1)
        return;
    if (lf_spare_memories == LF_SPARE_MEMORIES || array->ob_alloc > LF_LITTLE_MEMORY) {
        /* CPython gives memory back when the size changes, which may take memory. */
        if (PyByteArray_Resize(obj, 1) < 0 || PyByteArray_Resize(obj, 0) < 0) {
            PyErr_Clear();
            Py_SET_SIZE((PyVarObject *) array, 0);
            array->ob_start[0] = '\0';
        }
        return;
    }
    lf_spare_memory[lf_spare_memories].start = array->ob_bytes;
    lf_spare_memory[lf_spare_memories].size = array->ob_alloc;
    lf_spare_memories++;
    array->ob_bytes = array->ob_start = NULL;
    array->ob_alloc = 0;
#else
    (void) obj;
#endif
}

/* Appends to the exact bytearray `obj`, whose memory stays as large as it is. Returns -1 with an exception set where `obj` has
   exports or there is no memory. */
static inline int lf_append_bytes(PyObject *obj, const char *data, Py_ssize_t size)
{
    Py_ssize_t filled = Py_SIZE(obj);
#if LF_KEEPS_MEMORY
    PyByteArrayObject *array = (PyByteArrayObject *) obj;
    if (array->ob_exports == 0 && array->ob_alloc == 0 && lf_spare_memories > 0) {
        lf_spare_memories--;
        array->ob_bytes = array->ob_start = lf_spare_memory[lf_spare_memories].start;
        array->ob_alloc = lf_spare_memory[lf_spare_memories].size;
        array->ob_start[0] = '\0';
    }
    if (array->ob_exports == 0 && array->ob_alloc - (array->ob_start - array->ob_bytes) - filled > size) {
        memcpy(array->ob_start + filled, data, (size_t) size);
        array->ob_start[filled + size] = '\0';
        Py_SET_SIZE((PyVarObject *) array, filled + size);
        return 0;
    }
#endif
    if (PyByteArray_Resize(obj, filled + size) < 0)
        return -1;
    memcpy(PyByteArray_AS_STRING(obj) + filled, data, (size_t) size);
    return 0;
}

#endif

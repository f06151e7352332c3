/* A contextvars.Context seen from inside: the immutable table that its variables are in, which copies of a context share.
   Nothing of CPython's private headers is needed. */
#ifndef LOOPFAST_CONTEXT_H
#define LOOPFAST_CONTEXT_H

#include <Python.h>
#include <stddef.h>
#include <string.h>

/* PyContext, the same from Python 3.11 to 3.15. */
typedef struct {
    PyObject_HEAD
    PyObject *previous;
    PyObject *variables;
    PyObject *weak_references;
    int is_entered;
} lf_context;

/* True if a Context of this Python may look like that. Without the GIL other threads may use it while we look. */
static inline int lf_context_fits(void)
{
#if defined(Py_GIL_DISABLED) || defined(PYPY_VERSION) || PY_VERSION_HEX >= 0x03100000
    return 0;
#else
    return PyContext_Type.tp_basicsize == (Py_ssize_t)sizeof(lf_context)
           && PyContext_Type.tp_weaklistoffset == (Py_ssize_t)offsetof(lf_context, weak_references);
#endif
}

static inline int lf_is_table(PyObject *obj) { return obj != NULL && strcmp(Py_TYPE(obj)->tp_name, "hamt") == 0; }

/* The calling thread's context, borrowed; NULL where it has had none yet. */
static inline PyObject *lf_current_context(void)
{
#if defined(PYPY_VERSION)
    return NULL;
#else
    return PyThreadState_Get()->context;
#endif
}

#endif

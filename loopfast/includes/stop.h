/* StopIteration with a value, as tp_iternext raises it for each await that returns something, without an object made and freed
   each time. */
#ifndef LOOPFAST_STOP_H
#define LOOPFAST_STOP_H

#include <Python.h>

/* The exception, empty, and its only reference while nobody handles it. One for each module, guarded by the GIL. */
static PyObject *lf_spare_stop = NULL;

static inline int lf_stop_is_spare(void)
{
    PyBaseExceptionObject *stop = (PyBaseExceptionObject *) lf_spare_stop;
    return stop != NULL && Py_REFCNT(stop) == 1 && stop->traceback == NULL && stop->context == NULL && stop->cause == NULL &&
           stop->dict == NULL;
}

/* Raises StopIteration(value), to be caught by the interpreter, which looks at nothing but the value. */
static inline void lf_stop_iteration(PyObject *value)
{
#ifndef Py_GIL_DISABLED
    if (!lf_stop_is_spare()) {
        PyObject *made = PyObject_CallNoArgs(PyExc_StopIteration);
        if (made == NULL) {
            return;
        }
        Py_XSETREF(lf_spare_stop, made);
    }
    Py_INCREF(value);
    Py_XSETREF(((PyStopIterationObject *) lf_spare_stop)->value, value);
    Py_INCREF(lf_spare_stop);
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(lf_spare_stop);
#else
    Py_INCREF(PyExc_StopIteration);
    PyErr_Restore(PyExc_StopIteration, lf_spare_stop, NULL);
#endif
#else
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
#endif
}

/* The await is over: the exception must not keep what it carried. */
static inline void lf_forget_value(void)
{
    if (lf_spare_stop != NULL && ((PyStopIterationObject *) lf_spare_stop)->value != NULL && Py_REFCNT(lf_spare_stop) == 1) {
        Py_CLEAR(((PyStopIterationObject *) lf_spare_stop)->value);
    }
}

#endif

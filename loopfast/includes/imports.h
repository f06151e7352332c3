/* Finding a module that has been imported.
 *
 * Each extension module asks by PyImport_ImportModule() for all whose types and functions it uses. That asks importlib
 * whether the package is still being imported, takes its lock to wait until it is not, and finds that it is this thread
 * which imports it: a fifth of the instructions of `import loopfast`. */
#ifndef LOOPFAST_IMPORTS_H
#define LOOPFAST_IMPORTS_H

#include <Python.h>

/* As CPython itself sees whether a module has run to its end; what has no such mark is left to CPython. -1: an exception. */
static inline int lf_is_imported(PyObject *module)
{
    PyObject *spec = PyObject_GetAttrString(module, "__spec__");
    PyObject *running = spec != NULL ? PyObject_GetAttrString(spec, "_initializing") : NULL;
    int done = running == Py_False;

    Py_XDECREF(running);
    Py_XDECREF(spec);
    if (running != NULL)
        return done;
    if (!PyErr_ExceptionMatches(PyExc_AttributeError))
        return -1;
    PyErr_Clear();
    return 0;
}

/* As PyImport_ImportModule(). */
static inline PyObject *lf_import_module(const char *name)
{
    PyObject *key = PyUnicode_FromString(name);
    PyObject *module;
    int done = 0;

    if (key == NULL)
        return NULL;
    module = PyImport_GetModule(key);
    Py_DECREF(key);
    if (module != NULL)
        done = lf_is_imported(module);
    else if (PyErr_Occurred())
        return NULL;
    if (done > 0)
        return module;
    Py_XDECREF(module);
    return done < 0 ? NULL : PyImport_ImportModule(name);
}

/* For the C code that Cython writes, which is below this. */
#define PyImport_ImportModule lf_import_module

#endif

# CPython's C API where Cython's own declarations are missing or would add reference counting that the hot path must not
# pay.

from cpython.object cimport PyObject

cdef extern from "imports.h":
    # Makes it cheap to ask for a module that is there.
    pass

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass

    ctypedef int (*visitproc)(PyObject* obj, void* arg) noexcept
    ctypedef int (*traverseproc)(PyObject* self, visitproc visit, void* arg) noexcept

    ctypedef PyObject* (*iternextfunc)(PyObject* self) noexcept

    ctypedef struct PyTypeObject:
        PyObject* tp_dict
        Py_ssize_t tp_weaklistoffset
        unsigned int tp_version_tag
        traverseproc tp_traverse
        int (*tp_clear)(PyObject* self) noexcept
        iternextfunc tp_iternext
        PyObject* (*tp_new)(PyTypeObject* kind, PyObject* args, PyObject* kwargs)
        PyObject* (*tp_call)(PyObject* self, PyObject* args, PyObject* kwargs)
        Py_ssize_t tp_vectorcall_offset
        unsigned long tp_flags

    ctypedef struct PyTupleObject:
        PyObject** ob_item

    ctypedef struct PyMethodDef:
        const char* ml_name
        void* ml_meth
        int ml_flags
        const char* ml_doc

    ctypedef struct PyMethodDescrObject:
        PyMethodDef* d_method

    int METH_NOARGS
    int METH_FASTCALL
    int METH_KEYWORDS
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    unsigned long Py_TPFLAGS_HAVE_VECTORCALL
    unsigned long Py_TPFLAGS_METHOD_DESCRIPTOR

    PyTypeObject* Py_TYPE(PyObject* obj) nogil
    Py_ssize_t Py_REFCNT(PyObject* obj) nogil
    void Py_INCREF(PyObject* obj)
    void Py_DECREF(PyObject* obj)
    void Py_XINCREF(PyObject* obj)
    void Py_XDECREF(PyObject* obj)
    PyObject* Py_None
    PyObject* Py_False
    PyObject* Py_True

    PyThreadState* PyEval_SaveThread() nogil
    void PyEval_RestoreThread(PyThreadState* state) nogil
    unsigned long PyThread_get_thread_ident() nogil

    PyObject* PyErr_Occurred() nogil
    int PyErr_CheckSignals() except -1
    void PyErr_Clear()
    void PyErr_SetObject(PyObject* kind, PyObject* value)
    int PyErr_WarnFormat(object category, Py_ssize_t stack_level, const char* text, ...)
    void PyErr_WriteUnraisable(PyObject* where)
    PyObject* PyExc_StopIteration

    int PYGEN_RETURN
    int PYGEN_ERROR
    int PYGEN_NEXT
    int PyIter_Send(PyObject* iterator, PyObject* value, PyObject** result)

    PyObject* PyObject_GenericGetDict(PyObject* obj, void* context)
    PyObject* PyWeakref_NewRef(PyObject* obj, PyObject* callback)

    # Borrowed arguments, new reference or NULL with an exception set: the caller owns the result.
    PyObject* PyObject_Vectorcall(PyObject* func, PyObject** args, size_t nargsf, PyObject* kwnames)
    PyObject* PyObject_VectorcallMethod(PyObject* name, PyObject** args, size_t nargsf, PyObject* kwnames)
    ctypedef PyObject* (*vectorcallfunc)(PyObject* func, PyObject** args, size_t nargsf, PyObject* kwnames) noexcept
    vectorcallfunc PyVectorcall_Function(PyObject* func)
    PyObject* PyVectorcall_Call(PyObject* func, PyObject* args, PyObject* kwargs)
    PyObject* PyObject_Call(PyObject* func, PyObject* args, PyObject* kwargs)
    PyObject* PyTuple_New(Py_ssize_t n)
    PyObject* PyTuple_GET_ITEM(PyObject* tup, Py_ssize_t i)
    Py_ssize_t PyTuple_GET_SIZE(PyObject* tup)
    void PyTuple_SET_ITEM(PyObject* tup, Py_ssize_t i, PyObject* value)
    PyObject* PyContext_New()
    PyObject* PyContext_CopyCurrent()
    PyObject* PyContext_Copy(PyObject* ctx)
    int PyContext_Enter(PyObject* ctx)
    int PyContext_Exit(PyObject* ctx)
    bint PyContext_CheckExact(PyObject* obj)
    double PyFloat_AsDouble(PyObject* obj) except? -1.0
    double PyFloat_AS_DOUBLE(PyObject* obj)
    double PyLong_AsDouble(PyObject* obj) except? -1.0
    bint PyFloat_CheckExact(PyObject* obj)
    bint PyLong_CheckExact(PyObject* obj)
    Py_ssize_t PyLong_AsSsize_t(PyObject* obj)
    long PyLong_AsLong(PyObject* obj)
    PyObject* PyBytes_FromStringAndSize(const char* data, Py_ssize_t size)
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size)
    PyObject* PyLong_FromSsize_t(Py_ssize_t value)
    char* PyBytes_AS_STRING(PyObject* data)
    Py_ssize_t PyBytes_GET_SIZE(PyObject* data)
    bint PyUnicode_IS_ASCII(object text)
    # A value of NULL deletes the attribute.
    int set_attribute "PyObject_GenericSetAttr"(PyObject* obj, PyObject* name, PyObject* value) except -1
    int PyUnicode_Compare(PyObject* left, PyObject* right)

    object PyDescr_NewMethod(PyTypeObject* type, PyMethodDef* method)
    void PyType_Modified(PyTypeObject* type)
    int PyDict_SetItemString(PyObject* dict, const char* key, object value) except -1


cdef inline PyObject* call_vector(PyObject* func, PyObject** args, size_t nargsf) noexcept:
    # PyObject_Vectorcall() without its look-up of the thread state, for callables that support the protocol (nearly all
    # do).
    cdef vectorcallfunc entry = PyVectorcall_Function(func)
    if entry != NULL:
        return entry(func, args, nargsf, NULL)
    return PyObject_Vectorcall(func, args, nargsf, NULL)


cdef inline int propagate() except -1:
    # Turn a NULL from the C API, with its exception set, into a Cython error return.
    return -1

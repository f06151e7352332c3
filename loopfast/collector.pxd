from cpython.object cimport PyObject

from loopfast.includes.python cimport visitproc

# For the traverse functions of those who own handles through C pointers: visit a handle (NULL is allowed), and what it
# owns if theirs is the only reference to it.
cdef int visit_handle(PyObject* item, visitproc visit, void* arg) noexcept

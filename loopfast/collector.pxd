from cpython.object cimport PyObject

from loopfast.includes.python cimport visitproc

# For the traverse functions of those who own handles through C pointers, each handle once: visit it (NULL is allowed),
# and what it owns. Somebody outside who has the handle, such as a coroutine that sleeps, finds it empty once they go.
cdef int visit_call(PyObject* item, visitproc visit, void* arg) noexcept

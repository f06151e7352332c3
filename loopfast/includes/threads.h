/* What the free-threaded build needs where the GIL guards everything else: a lock, counts of references that other threads
   change, and who runs a loop. With the GIL all of it compiles to nothing, or to the plain operation. */
#ifndef LOOPFAST_THREADS_H
#define LOOPFAST_THREADS_H

#include <Python.h>

#ifdef Py_GIL_DISABLED
#if PY_VERSION_HEX < 0x030E0000
#error "without the GIL loopfast needs Python 3.14 or later"
#endif
#define LF_FREE_THREADED 1

typedef PyMutex lf_mutex;
static inline void lf_lock(lf_mutex *mutex) { PyMutex_Lock(mutex); }
static inline void lf_unlock(lf_mutex *mutex) { PyMutex_Unlock(mutex); }
/* In a forked child: whoever held it is not there. */
static inline void lf_reset(lf_mutex *mutex) { memset(mutex, 0, sizeof(*mutex)); }

/* True if nobody but the caller can reach `obj`. */
static inline int lf_is_unshared(PyObject *obj) { return PyUnstable_Object_IsUniquelyReferenced(obj); }

/* Objects that borrowed pointers lead to: a new reference unless the object is just going away. */
static inline void lf_lend(PyObject *obj) { PyUnstable_EnableTryIncRef(obj); }
static inline int lf_try_incref(PyObject *obj) { return PyUnstable_TryIncRef(obj); }

static inline unsigned long lf_load_runner(unsigned long *runner) { return __atomic_load_n(runner, __ATOMIC_ACQUIRE); }
static inline void lf_store_runner(unsigned long *runner, unsigned long thread)
{
    __atomic_store_n(runner, thread, __ATOMIC_RELEASE);
}
static inline Py_ssize_t lf_load_count(Py_ssize_t *count) { return __atomic_load_n(count, __ATOMIC_ACQUIRE); }
static inline void lf_store_count(Py_ssize_t *count, Py_ssize_t value) { __atomic_store_n(count, value, __ATOMIC_RELEASE); }
/* For what one thread changes while others may look. */
#define lf_load(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
#define lf_store(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)

#else
#define LF_FREE_THREADED 0

typedef char lf_mutex;
static inline void lf_lock(lf_mutex *mutex) { (void)mutex; }
static inline void lf_unlock(lf_mutex *mutex) { (void)mutex; }
static inline void lf_reset(lf_mutex *mutex) { (void)mutex; }
static inline int lf_is_unshared(PyObject *obj) { return Py_REFCNT(obj) == 1; }
static inline void lf_lend(PyObject *obj) { (void)obj; }
static inline int lf_try_incref(PyObject *obj) { Py_INCREF(obj); return 1; }
static inline unsigned long lf_load_runner(unsigned long *runner) { return *runner; }
static inline void lf_store_runner(unsigned long *runner, unsigned long thread) { *runner = thread; }
static inline Py_ssize_t lf_load_count(Py_ssize_t *count) { return *count; }
static inline void lf_store_count(Py_ssize_t *count, Py_ssize_t value) { *count = value; }
#define lf_load(place) (*(place))
#define lf_store(place, value) ((void)(*(place) = (value)))
#endif

#endif

# Scheduled callbacks: what a handle holds, and the queues where handles wait. Knows nothing of libuv, nor of turns.

from cpython.object cimport PyObject
from libc.math cimport isnan
from libc.stdint cimport uint64_t

from loopfast.includes.context cimport lf_context, lf_current_context
from loopfast.includes.python cimport (
    Py_DECREF, Py_INCREF, Py_TYPE, Py_XDECREF, PyContext_CheckExact, PyContext_CopyCurrent, PyContext_Enter,
    PyContext_Exit, PyContext_New, PyThread_get_thread_ident, PyTuple_New, PyTuple_SET_ITEM, PyTypeObject,
)
from loopfast.includes.threads cimport LF_FREE_THREADED, lf_is_unshared, lf_load_count, lf_load_runner, lf_mutex

cdef enum:
    SPARE_HANDLES = 256


cdef class Handle:
    # A scheduled callback. Not tracked by the cyclic collector: instead it drops callback, arguments and context as
    # soon as it has run or was cancelled, or its loop closed; until then the loop's own traverse vouches for them.
    cdef:
        # The call. All NULL once released. The context may be no more than its variables, see `has_table`.
        PyObject* callback
        PyObject* context
        # args[0] is the spare slot that PY_VECTORCALL_ARGUMENTS_OFFSET asks for; with more than three arguments args[1]
        # is a tuple, and `nargs` is 4.
        PyObject* args[4]
        # Borrowed, a CallbackQueues. Set exactly while the loop's ring, heap or descriptor set holds this handle, so it
        # cannot dangle.
        PyObject* loop
        # Debug mode only, else NULL: a tuple of where it was made and how it looked when it was cancelled.
        PyObject* notes
        # Bytes, as thousands of handles may wait: two cache lines hold even the largest that threads make.
        unsigned char nargs
        unsigned char is_cancelled
        unsigned char is_running
        unsigned char is_queued
        # Runs more than once (a reader's or a writer's callback): not released after the run.
        unsigned char is_persistent
        # `context` is the table of variables that the current context had at the call. A Context is made of it when the
        # callback runs, or when somebody asks for it.
        unsigned char has_table
        object __weakref__

    cdef void release(self) noexcept
    cdef void unschedule(self) noexcept
    cdef int do_cancel(self) except -1
    cdef int settle_context(self) except -1
    # What a field refers to, or None; the arguments as a tuple.
    cdef object look_at(self, PyObject** field)
    cdef tuple look_at_arguments(self)
    cdef object describe(self, object repr_info)
    cdef int note(self, object source_traceback, object last_repr) except -1


cdef class TimerHandle(Handle):
    cdef:
        # The deadline as the caller gave it, in seconds of loop.time(), and as the heap orders it (NaN is due at once).
        double deadline
        double key
        # The deadline itself where it is no float, else None: asyncio gives back what call_at() was given.
        object given
        # Equal deadlines run in the order of creation.
        uint64_t sequence
        # Position in the loop's heap, -1 outside it.
        Py_ssize_t heap_index


cdef class ThreadSafeHandle(Handle):
    # From Python 3.14 on, what call_soon_threadsafe() returns: cancel() of another thread waits while the callback
    # runs.
    cdef:
        unsigned long runner
        # Locks of the threads that wait, or None.
        list waiters
        # Without the GIL: held while the call, `is_cancelled`, `is_running` or `waiters` change.
        lf_mutex mutex

    # Without the GIL: False if it was cancelled; from True on it runs.
    cdef bint run_begins(self) noexcept
    cdef int settle(self) except -1
    cdef int run_ended(self) except -1


cdef class CallbackQueues:
    cdef:
        # Callbacks begun, and what was found slow among them. Counts never go back; the loop's thread writes, all read.
        uint64_t callback_count
        uint64_t slow_count
        # Stretches of a few turns without sleep that took too long: how many, and the longest, in seconds.
        uint64_t stall_count
        double longest_stall
        double last_stall
        # Each callback is timed, as in debug mode, until this time of the monotonic clock.
        bint timing
        double timing_until
        # When the timed callback that runs began; 0: none does.
        double timed_since
        # slow_callback_duration as it was set, and as a number of seconds.
        object slow_duration
        double slow_limit

        # Ready ring: owned references, capacity a power of two.
        PyObject** ring
        Py_ssize_t ring_capacity
        Py_ssize_t ring_head
        Py_ssize_t ready_count

        # What a poll brought, to run after the callbacks that were ready before it: readers, writers, objects with
        # something deferred, due timers. Owned references in events[event_head:event_count].
        PyObject** events
        Py_ssize_t event_capacity
        Py_ssize_t event_head
        Py_ssize_t event_count

        # Handles that have run and that nobody else refers to, for reuse (owned, empty).
        PyObject* spare[SPARE_HANDLES]
        int spare_count

        # Timers: a 4-ary heap of owned TimerHandles, ordered by (key, sequence).
        PyObject** heap
        Py_ssize_t heap_capacity
        Py_ssize_t timer_count
        uint64_t timer_sequence

        # The context that a callback runs in (owned), NULL between callbacks.
        PyObject* entered
        # An empty Context for the next callback that has a bare table (owned), or NULL.
        PyObject* spare_context
        # The table of an empty Context (borrowed, it is never freed); NULL where handles get a Context at the call.
        PyObject* empty_table

        # Without the GIL, a loop belongs to the thread that runs it: everything here but what follows is that thread's
        # alone, or while no thread runs it, the one's that uses it. `mutex` guards what follows, the list of the loop's
        # objects, the table of claimed descriptors, and the going to sleep.
        lf_mutex mutex
        # The thread that runs the loop, or closes it; 0: none. Read without the lock.
        unsigned long runner
        # What other threads have scheduled (owned references), until the loop's thread moves it into the ring.
        PyObject** foreign
        Py_ssize_t foreign_capacity
        Py_ssize_t foreign_count
        # Nothing is taken any more.
        bint is_shut

    # asyncio's private names.
    cdef public bint _debug
    cdef public object _current_handle

    # --- for the modules above
    cdef Handle new_handle(self, PyObject* callback, PyObject** args, Py_ssize_t nargs, PyObject* context)
    cdef Handle schedule(self, object callback, object arg, PyObject* context)
    cdef int push(self, PyObject* handle) except -1
    cdef int heap_push(self, TimerHandle timer) except -1
    cdef int heap_place(self, TimerHandle timer) except -1
    cdef void heap_remove(self, TimerHandle timer) noexcept

    # --- what a poll brings
    cdef int push_event(self, PyObject* handle) except -1
    cdef int merge_events(self, Py_ssize_t first) except -1
    # The timers that are due at `now`, but for those numbered `before_turn` and more.
    cdef int collect_due_timers(self, uint64_t before_turn, double now) except -1
    cdef int collect_around_new_timers(self, uint64_t before_turn, double now) except -1

    # --- the context
    cdef int enter_context(self, PyObject* context) except -1
    cdef int leave_context(self) except -1

    # Without the GIL: append to `foreign`.
    cdef int push_foreign(self, PyObject* handle) except -1
    cdef int take_foreign(self) except -1
    # Without the GIL: become and cease to be the runner. False if another thread is.
    cdef bint begin_to_run(self) noexcept
    cdef void cease_to_run(self) noexcept

    # --- slow callbacks
    # run_handle() with a look at the clock before and after.
    cdef int run_handle_timed(self, Handle handle) except -1
    # The same around a call of `method` of `subject` that is no handle's.
    cdef double begin_timed(self) noexcept
    cdef int end_timed(self, double started, object subject, str method) except -1
    # `duration` seconds of a few turns without sleep are over: called where that was long, or callbacks are timed.
    cdef int on_stretch(self, double duration, double now) except -1

    # --- upcalls
    # Raises where nothing can be scheduled any more.
    cdef int check_open(self) except -1
    # Run a handle in its context, report what it raises, release it.
    cdef int run_handle(self, Handle handle) except -1

    # --- the generic scheduling calls
    cdef object new_call(self, object callback, tuple args, object context, str method, bint check_thread)
    cdef object new_timer(self, object when, object callback, tuple args, object context, str method)
    cdef int check_call(self, object callback, str method, bint check_thread) except -1
    # Without the GIL: raises where another thread runs the loop.
    cdef int check_not_elsewhere(self) except -1


# For the modules that make handles and visit them.
cdef int make_context(PyObject* item) noexcept
cdef int grow_ring(CallbackQueues loop) except -1
cdef int remember_source(Handle handle) except -1
cdef object describe_callback(Handle handle, bint debug)
cdef PyObject* make_threadsafe_handle(CallbackQueues loop, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                                      PyObject* context) except NULL
# asyncio has thread-safe handles (Python 3.14).
cdef bint THREAD_SAFE_HANDLES


cdef inline bint runs_here(CallbackQueues loop) noexcept:
    # Free-threaded build only: the loop runs, in this thread.
    return lf_load_runner(&loop.runner) == PyThread_get_thread_ident()


cdef inline bint runs_elsewhere(CallbackQueues loop) noexcept:
    # Another thread runs the loop. Always False with the GIL, which makes such a caller as good as a callback.
    cdef unsigned long runner
    if not LF_FREE_THREADED:
        return False
    runner = lf_load_runner(&loop.runner)
    return runner != 0 and runner != PyThread_get_thread_ident()


cdef inline int take_what_others_scheduled(CallbackQueues loop) except -1:
    # What another thread has scheduled before this thread heard of it comes first.
    if LF_FREE_THREADED and lf_load_count(&loop.foreign_count):
        return loop.take_foreign()
    return 0


cdef inline bint is_plain(PyObject* item) noexcept:
    return Py_TYPE(item) == <PyTypeObject*> Handle or Py_TYPE(item) == <PyTypeObject*> TimerHandle


cdef inline bint is_native(PyObject* item) noexcept:
    # Not a handle that asyncio's own Python code made.
    return is_plain(item) or Py_TYPE(item) == <PyTypeObject*> ThreadSafeHandle


# enter_context() and leave_context() for the hot path: -1 with the exception set, nothing attached to it.

cdef inline int exit_context(CallbackQueues loop) noexcept:
    cdef PyObject* context = loop.entered
    cdef int status
    loop.entered = NULL
    if context == NULL:
        return 0
    status = PyContext_Exit(context)
    Py_DECREF(context)
    return status


cdef inline int switch_context(CallbackQueues loop, PyObject* context) noexcept:
    if loop.entered != NULL and exit_context(loop) < 0:
        return -1
    if PyContext_Enter(context) < 0:
        return -1
    Py_INCREF(context)
    loop.entered = context
    return 0


# A copy of the current context would be an object for the garbage collector to track, made and freed for each call, and
# hardly ever seen by anybody. The table of its variables is immutable, and there already: a handle keeps that.

cdef inline PyObject* snapshot(CallbackQueues loop, unsigned char* has_table) noexcept:
    # Return a new reference to what a handle keeps of the current context; NULL with the exception set.
    cdef PyObject* current
    if loop.empty_table != NULL:
        current = lf_current_context()
        if current != NULL:
            has_table[0] = True
            current = (<lf_context*> current).variables
            Py_INCREF(current)
            return current
    has_table[0] = False
    return PyContext_CopyCurrent()


cdef inline void move_variables(PyObject* item, PyObject* context) noexcept:
    # The handle `item` gets *context*, an empty one (the reference is taken), with the variables that it kept.
    cdef PyObject* empty = (<lf_context*> context).variables
    (<lf_context*> context).variables = (<Handle> item).context
    (<Handle> item).context = context
    (<Handle> item).has_table = False
    Py_DECREF(empty)


cdef inline bint is_nobody_elses(PyObject* context) noexcept:
    return lf_is_unshared(context) and (<lf_context*> context).weak_references == NULL


cdef inline int make_context_to_run(CallbackQueues loop, PyObject* item) noexcept:
    # make_context() with the loop's spare Context; -1 with the exception set.
    cdef PyObject* context = loop.spare_context
    if context != NULL:
        loop.spare_context = NULL
        if is_nobody_elses(context):
            move_variables(item, context)
            return 0
        # A debugger has found it.
        Py_DECREF(context)
    return make_context(item)


cdef inline void give_up_context(CallbackQueues loop, PyObject* context) noexcept:
    # Drop a reference to the context that a callback ran in; keep the object for the next one if nobody can see it.
    cdef PyObject* variables
    if (loop.empty_table != NULL and loop.spare_context == NULL and PyContext_CheckExact(context)
            and is_nobody_elses(context)):
        variables = (<lf_context*> context).variables
        Py_INCREF(loop.empty_table)
        (<lf_context*> context).variables = loop.empty_table
        loop.spare_context = context
        Py_DECREF(variables)
        return
    Py_DECREF(context)


# How a call is stored in a handle: inline here, because every scheduling call of every module does it.

cdef inline int fill_handle(PyObject* item, CallbackQueues loop, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                            PyObject* context) except -1:
    # Store the call in the fresh handle `item`; without a `context` the current one is copied now, never later.
    cdef Py_ssize_t i
    cdef PyObject* packed = NULL
    cdef unsigned char has_table = False
    if nargs > 3:
        packed = PyTuple_New(nargs)
        if packed == NULL:
            return -1
        for i in range(nargs):
            Py_INCREF(args[i])
            PyTuple_SET_ITEM(packed, i, args[i])
    if context == NULL:
        context = snapshot(loop, &has_table)
        if context == NULL:
            Py_XDECREF(packed)
            return -1
    else:
        Py_INCREF(context)
    (<Handle> item).context = context
    (<Handle> item).has_table = has_table
    Py_INCREF(callback)
    (<Handle> item).callback = callback
    (<Handle> item).nargs = <unsigned char> min(nargs, 4)
    if packed != NULL:
        (<Handle> item).args[1] = packed
    else:
        for i in range(nargs):
            Py_INCREF(args[i])
            (<Handle> item).args[1 + i] = args[i]
    (<Handle> item).loop = <PyObject*> loop
    if loop._debug:
        remember_source(<Handle> item)
    return 0


cdef inline PyObject* make_handle(CallbackQueues loop, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                                  PyObject* context) except NULL:
    # Return a new reference to a handle of this call: one that has served before, if there is one.
    cdef PyObject* item
    if loop.spare_count:
        loop.spare_count -= 1
        item = loop.spare[loop.spare_count]
        (<Handle> item).is_cancelled = False
        if fill_handle(item, loop, callback, args, nargs, context) < 0:
            Py_DECREF(item)
            return NULL
        return item
    handle = Handle.__new__(Handle)
    fill_handle(<PyObject*> handle, loop, callback, args, nargs, context)
    Py_INCREF(<PyObject*> handle)
    return <PyObject*> handle


cdef inline void set_deadline(TimerHandle timer, double deadline) noexcept:
    timer.deadline = deadline
    timer.key = float("-inf") if isnan(deadline) else deadline


cdef inline void drop_call(PyObject* item) noexcept:
    """Drop callback, arguments and context of the handle *item*. They may run code as they go, so the fields are
    emptied first."""
    cdef PyObject* callback = (<Handle> item).callback
    cdef PyObject* context = (<Handle> item).context
    cdef PyObject* args[3]
    cdef Py_ssize_t nargs = (<Handle> item).nargs
    cdef Py_ssize_t i
    (<Handle> item).loop = NULL
    if callback == NULL:
        return
    (<Handle> item).callback = (<Handle> item).context = NULL
    (<Handle> item).has_table = False
    (<Handle> item).nargs = 0
    if nargs:
        if nargs > 3:
            nargs = 1
        for i in range(nargs):
            args[i] = (<Handle> item).args[1 + i]
            (<Handle> item).args[1 + i] = NULL
        for i in range(nargs):
            Py_DECREF(args[i])
    Py_XDECREF(context)
    Py_DECREF(callback)


cdef inline void recycle(CallbackQueues loop, PyObject* item) noexcept:
    """Give up a reference to a handle that has run; keep it for reuse if nobody else can see it."""
    if (lf_is_unshared(item) and Py_TYPE(item) == <PyTypeObject*> Handle and loop.spare_count < SPARE_HANDLES
            and weak_references(item) == NULL and (<Handle> item).notes == NULL):
        loop.spare[loop.spare_count] = item
        loop.spare_count += 1
        return
    Py_DECREF(item)


cdef inline PyObject* weak_references(PyObject* item) noexcept:
    return (<PyObject**> (<char*> item + Py_TYPE(item).tp_weaklistoffset))[0]

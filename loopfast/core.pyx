"""The loop's engine: one turn of the loop, the ready ring, the timer heap, wake-up from other threads, contexts.

A turn is: poll (skipped while nothing is watched), due timers, the callbacks that were ready, the end-of-turn work
(gathered writes). ``uv_run`` is called with the GIL held; it is released only around a poll that blocks.
"""

import asyncio
import inspect
import sys
from asyncio import base_events, format_helpers

cimport cython
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport ceil, isnan
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from loopfast.errors cimport check
from loopfast.includes cimport uv
from loopfast.includes.counters cimport LF_COUNTERS, LF_HANDLE, LF_IS_DEBUG, LF_UV_HANDLE, LF_WRITE_REQUEST, lf_count, lf_freed, lf_made
from loopfast.includes.platform cimport LF_FINE_WAIT, lf_monotonic, lf_wait_readable
from loopfast.includes.python cimport (
    METH_FASTCALL, METH_KEYWORDS, Py_DECREF, Py_INCREF, Py_None, Py_REFCNT, Py_TYPE, Py_XDECREF, Py_XINCREF,
    PY_VECTORCALL_ARGUMENTS_OFFSET, PyContext_CheckExact, PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit,
    PyDescr_NewMethod, PyDict_SetItemString, PyErr_CheckSignals, PyErr_Occurred, PyEval_SaveThread, PyFloat_AsDouble, PyFloat_CheckExact, PyLong_CheckExact,
    PyMethodDef, PyObject_Call, PyObject_Vectorcall, PyThread_get_thread_ident, PyTuple_GET_ITEM, PyTuple_GET_SIZE,
    PyTuple_New, PyTuple_SET_ITEM, PyTupleObject, PyType_Modified,
    PyUnicode_Compare, call_vector, PyTypeObject, visitproc,
)

cdef extern from *:
    """
    #if defined(__clang__)
    #define LF_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define LF_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define LF_COMPILER_STR(x) #x
    #define LF_COMPILER_NUMBER(x) LF_COMPILER_STR(x)
    #define LF_COMPILER "msvc " LF_COMPILER_NUMBER(_MSC_VER)
    #else
    #define LF_COMPILER "unknown"
    #endif
    #define LF_CYTHON_VERSION CYTHON_HEX_VERSION
    """
    const char* LF_COMPILER
    const unsigned int LF_CYTHON_VERSION

cdef enum:
    # Reads of more than glibc's 128 KiB mmap threshold would map and fault fresh pages for every bytes object.
    READ_BUFFER_SIZE = 120 * 1024
    # With callbacks ready and nothing watched but ourselves, poll only every so many turns.
    TURNS_BETWEEN_POLLS = 61
    # A long batch looks at the clock every so many callbacks while end-of-turn work waits.
    CALLBACKS_BETWEEN_LOOKS = 8

# Seconds that end-of-turn work (gathered writes) may wait behind a long batch.
cdef double TURN_END_PATIENCE = 0.001
# Seconds below which the alarm, which counts whole milliseconds, is too coarse.
cdef double FINE_WAIT_LIMIT = 0.001
# Seconds; no poll sleeps longer (as asyncio's MAXIMUM_SELECT_TIMEOUT).
cdef double LONGEST_SLEEP = 24 * 3600.0

cdef lf_count counter_table[LF_COUNTERS]
COUNTERS = counter_table

cdef object AsyncioHandle = asyncio.Handle
cdef object AsyncioTimerHandle = asyncio.TimerHandle
cdef str CONTEXT = sys.intern("context")


# ---------------------------------------------------------------------------------------------------------------- handles

@cython.no_gc
@cython.freelist(1024)
cdef class Handle:
    """A scheduled callback, as `loop.call_soon` returns it: an ``asyncio.Handle`` to ``isinstance``.

    Source: https://docs.python.org/3/library/asyncio-eventloop.html#callback-handles
    """

    def __cinit__(self):
        lf_made(COUNTERS, LF_HANDLE)

    def __dealloc__(self):
        if self.callback != NULL:
            self.release()
        if self.source_traceback != NULL or self.last_repr != NULL:
            Py_XDECREF(self.source_traceback)
            Py_XDECREF(self.last_repr)
        lf_freed(COUNTERS, LF_HANDLE)

    cdef void release(self) noexcept:
        drop_call(<PyObject*> self)

    cdef int do_cancel(self) except -1:
        if self.is_cancelled:
            return 0
        self.is_cancelled = True
        if self.loop != NULL and (<LoopCore> self.loop)._debug:
            # Kept for log lines that name a handle whose callback is gone by then.
            text = repr(self)
            Py_INCREF(<PyObject*> text)
            self.last_repr = <PyObject*> text
        if not self.is_running:
            self.release()
        return 0

    def cancel(self):
        """Cancel the callback. Does nothing if it has run or was cancelled before."""
        self.do_cancel()

    def cancelled(self) -> bool:
        """Return True if the callback was cancelled."""
        return bool(self.is_cancelled)

    def get_context(self):
        """Return the ``contextvars.Context`` of the callback, or None once it has run or was cancelled."""
        return None if self.context == NULL else <object> self.context

    def _run(self):
        if self.is_cancelled or self.callback == NULL:
            return
        if self.loop == NULL:
            raise RuntimeError(f"{self!r} is not scheduled on a loop")
        cdef LoopCore loop = <LoopCore> self.loop
        loop.run_handle(self)

    def _repr_info(self):
        return AsyncioHandle._repr_info(self)

    def __repr__(self):
        return AsyncioHandle.__repr__(self)

    @property
    def __class__(self):
        return AsyncioHandle

    # asyncio's private names, which its own formatting and call-graph code reads.
    @property
    def _callback(self):
        return None if self.callback == NULL else <object> self.callback

    @property
    def _args(self):
        cdef Py_ssize_t i
        if self.callback == NULL:
            return None
        if self.nargs > 3:
            return <object> self.args[1]
        return tuple([<object> self.args[1 + i] for i in range(self.nargs)])

    @property
    def _context(self):
        return self.get_context()

    @property
    def _cancelled(self):
        return bool(self.is_cancelled)

    @property
    def _loop(self):
        return None if self.loop == NULL else <object> self.loop

    @property
    def _repr(self):
        return None if self.last_repr == NULL else <object> self.last_repr

    @property
    def _source_traceback(self):
        return None if self.source_traceback == NULL else <object> self.source_traceback


@cython.no_gc
cdef class TimerHandle(Handle):
    """A callback with a deadline, as `loop.call_later` and `loop.call_at` return it.

    Ordering, equality and hash are those of ``asyncio.TimerHandle``.
    """

    def __cinit__(self):
        self.heap_index = -1

    cdef int do_cancel(self) except -1:
        cdef LoopCore loop
        if self.heap_index >= 0:
            loop = <LoopCore> self.loop
            # repr() in debug mode wants the handle whole, so cancel first; then the heap drops its reference.
            Handle.do_cancel(self)
            loop.heap_remove(self)
            Py_DECREF(<PyObject*> self)
            return 0
        return Handle.do_cancel(self)

    def when(self) -> float:
        """Return the deadline in seconds of `loop.time()`."""
        return self.deadline

    @property
    def _when(self):
        return self.deadline

    @property
    def _scheduled(self):
        return self.heap_index >= 0

    def _repr_info(self):
        return AsyncioTimerHandle._repr_info(self)

    @property
    def __class__(self):
        return AsyncioTimerHandle

    def __hash__(self):
        return hash(self.deadline)

    def __lt__(self, other):
        return AsyncioTimerHandle.__lt__(self, other)

    def __le__(self, other):
        return AsyncioTimerHandle.__le__(self, other)

    def __gt__(self, other):
        return AsyncioTimerHandle.__gt__(self, other)

    def __ge__(self, other):
        return AsyncioTimerHandle.__ge__(self, other)

    def __eq__(self, other):
        return AsyncioTimerHandle.__eq__(self, other)


cdef inline void drop_call(PyObject* item) noexcept:
    """Drop callback, arguments and context of the handle *item*. They may run code as they go, so the fields are emptied first."""
    cdef PyObject* callback = (<Handle> item).callback
    cdef PyObject* context = (<Handle> item).context
    cdef PyObject* args[3]
    cdef Py_ssize_t nargs = (<Handle> item).nargs
    cdef Py_ssize_t i
    (<Handle> item).loop = NULL
    if callback == NULL:
        return
    (<Handle> item).callback = (<Handle> item).context = NULL
    (<Handle> item).nargs = 0
    if nargs:
        if nargs > 3:
            nargs = 1
        for i in range(nargs):
            args[i] = (<Handle> item).args[1 + i]
            (<Handle> item).args[1 + i] = NULL
        for i in range(nargs):
            Py_DECREF(args[i])
    Py_DECREF(context)
    Py_DECREF(callback)


cdef inline int fill_handle(PyObject* item, LoopCore loop, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                            PyObject* context) except -1:
    """Store the call in the fresh handle *item*; without a *context* the current one is copied now, never later."""
    cdef Py_ssize_t i
    cdef PyObject* packed = NULL
    if nargs > 3:
        packed = PyTuple_New(nargs)
        if packed == NULL:
            return propagate()
        for i in range(nargs):
            Py_INCREF(args[i])
            PyTuple_SET_ITEM(packed, i, args[i])
    if context == NULL:
        context = PyContext_CopyCurrent()
        if context == NULL:
            Py_XDECREF(packed)
            return propagate()
    else:
        Py_INCREF(context)
    (<Handle> item).context = context
    Py_INCREF(callback)
    (<Handle> item).callback = callback
    (<Handle> item).nargs = nargs
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


cdef inline PyObject* make_handle(LoopCore loop, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                                  PyObject* context) except NULL:
    """Return a new reference to a handle of this call: one that has served before, if there is one."""
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


cdef inline void recycle(LoopCore loop, PyObject* item) noexcept:
    """Give up a reference to a handle that has run; keep it for reuse if nobody else can see it."""
    if (Py_REFCNT(item) == 1 and Py_TYPE(item) == <PyTypeObject*> Handle and loop.spare_count < SPARE_HANDLES
            and weak_references(item) == NULL and (<Handle> item).source_traceback == NULL
            and (<Handle> item).last_repr == NULL):
        loop.spare[loop.spare_count] = item
        loop.spare_count += 1
        return
    Py_DECREF(item)


cdef inline PyObject* weak_references(PyObject* item) noexcept:
    return (<PyObject**> (<char*> item + Py_TYPE(item).tp_weaklistoffset))[0]


cdef int remember_source(Handle handle) except -1:
    stack = format_helpers.extract_stack(sys._getframe())
    Py_INCREF(<PyObject*> stack)
    handle.source_traceback = <PyObject*> stack
    return 0


cdef inline int propagate() except -1:
    """Turn a NULL from the C API, with its exception set, into a Cython error return."""
    return -1


# ----------------------------------------------------------------------------------------------------------- loop objects

@cython.no_gc_clear
cdef class LoopObject:
    """Base of the extension types that belong to one loop. Not for direct use."""

    cdef int attach(self, LoopCore loop) except -1:
        if loop.state == NULL:
            raise RuntimeError("Event loop is closed")
        self.loop = loop
        self.previous_object = NULL
        self.next_object = loop.objects
        if loop.objects != NULL:
            (<LoopObject> loop.objects).previous_object = <PyObject*> self
        loop.objects = <PyObject*> self
        self.is_attached = True
        lf_made(COUNTERS, LF_UV_HANDLE)
        return 0

    cdef void detach(self) noexcept:
        if not self.is_attached:
            return
        if self.previous_object != NULL:
            (<LoopObject> self.previous_object).next_object = self.next_object
        else:
            self.loop.objects = self.next_object
        if self.next_object != NULL:
            (<LoopObject> self.next_object).previous_object = self.previous_object
        self.is_attached = False
        self.next_object = self.previous_object = NULL
        lf_freed(COUNTERS, LF_UV_HANDLE)
        self.unkeep()

    cdef void keep(self) noexcept:
        if not self.is_kept and self.is_attached:
            self.is_kept = True
            Py_INCREF(<PyObject*> self)

    cdef void unkeep(self) noexcept:
        if self.is_kept:
            self.is_kept = False
            Py_DECREF(<PyObject*> self)

    cdef void on_turn_end(self) noexcept:
        pass

    cdef void on_loop_close(self) noexcept:
        self.detach()


# --------------------------------------------------------------------------------------------------- libuv's own callbacks

cdef void on_wake(uv.uv_async_t* handle) noexcept nogil:
    """The poll returns because of this event; what was queued is found by the turn itself."""


cdef void on_alarm(uv.uv_timer_t* handle) noexcept nogil:
    """The poll returns; due timers are found by the turn itself."""
    (<LoopState*> handle.data).alarm_set = False


cdef void before_poll(uv.uv_prepare_t* handle) noexcept:
    """Release the GIL where this turn decided to block."""
    cdef LoopState* state = <LoopState*> handle.data
    if not state.may_block:
        return
    if (<LoopCore> state.owner).ready_count or (
            state.alarm_set and (<LoopCore> state.owner).timer_count
            and (<TimerHandle> (<LoopCore> state.owner).heap[0]).key < state.alarm_deadline):
        # Another prepare or idle callback (made through cffi) has scheduled something since the decision.
        uv.uv_async_send(&state.wake)
    (<LoopCore> state.owner).leave_context()
    state.blocked = True
    state.woken = False
    state.released = PyEval_SaveThread()


cdef void after_poll(uv.uv_check_t* handle) noexcept nogil:
    """Take the GIL back if no callback did."""
    hold_gil(<LoopState*> handle.data)


cdef void close_foreign(uv.uv_handle_t* handle, void* arg) noexcept nogil:
    """Close what somebody made on this loop through libuv_get_loop_t_ptr() and left open."""
    if not uv.uv_is_closing(handle):
        uv.uv_close(handle, NULL)


# ------------------------------------------------------------------------------------------------------------------- loop

cdef class LoopCore:
    """The engine below `loopfast.Loop`. Not for direct use."""

    def __cinit__(self, *args, **kwargs):
        cdef LoopState* state = <LoopState*> calloc(1, sizeof(LoopState))
        if state == NULL:
            raise MemoryError("no memory for a libuv loop")
        cdef int status = uv.uv_loop_init(&state.loop)
        if status < 0:
            free(state)
            check(status)
        self.state = state
        state.owner = <PyObject*> self
        state.loop.data = state
        self._thread_id = None
        self.slow_callback_duration = 0.1
        try:
            # Only the wake-up is referenced: it makes the loop sleep rather than return, and counts as the one active handle.
            check(uv.uv_async_init(&state.loop, &state.wake, on_wake))
            check(uv.uv_prepare_init(&state.loop, &state.before_poll))
            check(uv.uv_check_init(&state.loop, &state.after_poll))
            check(uv.uv_timer_init(&state.loop, &state.alarm))
            state.wake.data = state.before_poll.data = state.after_poll.data = state.alarm.data = state
            check(uv.uv_prepare_start(&state.before_poll, before_poll))
            check(uv.uv_check_start(&state.after_poll, after_poll))
            uv.uv_unref(<uv.uv_handle_t*> &state.before_poll)
            uv.uv_unref(<uv.uv_handle_t*> &state.after_poll)
            uv.uv_unref(<uv.uv_handle_t*> &state.alarm)
        except BaseException:
            self.close_state()
            raise

    def __dealloc__(self):
        self.drop_handles()
        self.close_state()
        free(self.ring)
        free(self.heap)
        free(self.turn_end)
        free(self.claims)
        free(self.read_buffer)
        free(self.gather_buffer)

    # ------------------------------------------------------------------------------------------------- closing

    cdef void drop_handles(self) noexcept:
        """Drop every queued callback, so that none keeps its arguments or this loop alive."""
        cdef PyObject* item
        while self.ready_count:
            item = self.ring[self.ring_head]
            self.ring_head = (self.ring_head + 1) & (self.ring_capacity - 1)
            self.ready_count -= 1
            if is_native(item):
                (<Handle> item).is_queued = False
                if not (<Handle> item).is_running and not (<Handle> item).is_persistent:
                    (<Handle> item).release()
            Py_DECREF(item)
        while self.timer_count:
            item = self.heap[self.timer_count - 1]
            self.timer_count -= 1
            (<TimerHandle> item).heap_index = -1
            if not (<TimerHandle> item).is_running:
                (<TimerHandle> item).release()
            Py_DECREF(item)
        while self.turn_end_count:
            self.turn_end_count -= 1
            item = self.turn_end[self.turn_end_count]
            if item != NULL:
                (<LoopObject> item).wants_turn_end = False
                Py_DECREF(item)
        while self.spare_count:
            self.spare_count -= 1
            Py_DECREF(self.spare[self.spare_count])
        Py_XDECREF(self.entered)
        self.entered = NULL

    cdef int close_state(self) except -1:
        """Close every handle on the libuv loop, then the loop. Memory is freed only when libuv has let go of all of it."""
        cdef LoopState* state = self.state
        cdef PyObject* obj
        cdef int attempt
        if state == NULL:
            return 0
        while self.objects != NULL:
            obj = self.objects
            Py_INCREF(obj)
            (<LoopObject> obj).on_loop_close()
            (<LoopObject> obj).detach()
            Py_DECREF(obj)
        self.state = NULL
        state.may_block = False
        uv.uv_walk(&state.loop, close_foreign, NULL)
        for attempt in range(16):
            uv.uv_run(&state.loop, uv.UV_RUN_NOWAIT)
            if uv.uv_loop_close(&state.loop) == 0:
                free(state)
                return 0
        # A request made through cffi is still in libuv's thread pool: leaking the loop is safe, freeing it is not.
        return 0

    def _close_core(self):
        """Drop all callbacks and close the libuv loop. Called by `Loop.close` once the rest is down."""
        self.drop_handles()
        self.close_state()

    cdef int check_open(self) except -1:
        if self._closed or self.state == NULL:
            raise RuntimeError("Event loop is closed")
        return 0

    def _check_closed(self):
        self.check_open()

    # ------------------------------------------------------------------------------------------------- ready ring

    cdef int push(self, PyObject* handle) except -1:
        """Append *handle* (a new reference is taken) to the ready ring."""
        cdef Py_ssize_t capacity = self.ring_capacity
        if self.ready_count == capacity:
            grow_ring(self)
            capacity = self.ring_capacity
        Py_INCREF(handle)
        self.ring[(self.ring_head + self.ready_count) & (capacity - 1)] = handle
        self.ready_count += 1
        return 0

    cdef Handle new_handle(self, PyObject* callback, PyObject** args, Py_ssize_t nargs, PyObject* context):
        cdef PyObject* item = make_handle(self, callback, args, nargs, context)
        handle = <Handle> item
        Py_DECREF(item)
        return handle

    cdef Handle schedule(self, object callback, object arg, PyObject* context):
        """``call_soon(callback, arg)`` for the modules above, in *context*, or a copy of the current one if that is NULL."""
        cdef PyObject* argument = <PyObject*> arg
        cdef Handle handle = self.new_handle(<PyObject*> callback, &argument, 1, context)
        self.push(<PyObject*> handle)
        return handle

    def _add_callback(self, handle):
        if not handle._cancelled:
            self.push(<PyObject*> handle)

    def _add_callback_signalsafe(self, handle):
        self._add_callback(handle)
        self._write_to_self()

    def _write_to_self(self):
        """Wake the loop from a blocking poll. May be called from any thread."""
        wake(self)

    # ------------------------------------------------------------------------------------------------- scheduling
    # The generic forms. Over these four, module initialisation below puts entries that take the same arguments without
    # building a tuple or a dict, and that come back here for anything unusual.

    def call_soon(self, callback, *args, context=None):
        return self.new_call(callback, args, context, "call_soon", True)

    def call_soon_threadsafe(self, callback, *args, context=None):
        handle = self.new_call(callback, args, context, "call_soon_threadsafe", False)
        wake(self)
        return handle

    def call_later(self, delay, callback, *args, context=None):
        if delay is None:
            raise TypeError("delay must not be None")
        cdef object deadline = self.time() + delay
        return self.new_timer(PyFloat_AsDouble(<PyObject*> deadline), callback, args, context, "call_at")

    def call_at(self, when, callback, *args, context=None):
        if when is None:
            raise TypeError("when cannot be None")
        return self.new_timer(PyFloat_AsDouble(<PyObject*> when), callback, args, context, "call_at")

    cdef object new_call(self, object callback, tuple args, object context, str method, bint check_thread):
        cdef Handle handle
        self.check_open()
        if self._debug:
            self.check_call(callback, method, check_thread)
        handle = self.new_handle(<PyObject*> callback, (<PyTupleObject*> args).ob_item, len(args),
                                 NULL if context is None else <PyObject*> context)
        self.push(<PyObject*> handle)
        return handle

    cdef object new_timer(self, double deadline, object callback, tuple args, object context, str method):
        cdef TimerHandle timer
        self.check_open()
        if self._debug:
            self.check_call(callback, method, True)
        timer = TimerHandle.__new__(TimerHandle)
        fill_handle(<PyObject*> timer, self, <PyObject*> callback, (<PyTupleObject*> args).ob_item, len(args),
                    NULL if context is None else <PyObject*> context)
        set_deadline(timer, deadline)
        self.heap_push(timer)
        return timer

    cdef int check_call(self, object callback, str method, bint check_thread) except -1:
        """Debug mode's checks: the calling thread, and that *callback* is a plain callable."""
        if check_thread:
            self._check_thread()
        self._check_callback(callback, method)
        return 0

    def time(self) -> float:
        """Return the loop's clock, that of ``time.monotonic()``, in seconds."""
        return lf_monotonic()

    # ------------------------------------------------------------------------------------------------- timers

    cdef int heap_push(self, TimerHandle timer) except -1:
        cdef Py_ssize_t capacity
        cdef PyObject** heap
        if self.timer_count == self.heap_capacity:
            capacity = self.heap_capacity * 2 if self.heap_capacity else 64
            heap = <PyObject**> realloc(self.heap, capacity * sizeof(PyObject*))
            if heap == NULL:
                raise MemoryError(f"no memory for {capacity} timers")
            self.heap = heap
            self.heap_capacity = capacity
        timer.sequence = self.timer_sequence
        self.timer_sequence += 1
        Py_INCREF(<PyObject*> timer)
        self.timer_count += 1
        sift_up(self.heap, self.timer_count - 1, <PyObject*> timer)
        return 0

    cdef void heap_remove(self, TimerHandle timer) noexcept:
        """Take *timer* out of the heap; the heap's reference passes to the caller."""
        cdef Py_ssize_t index = timer.heap_index
        cdef PyObject* last
        timer.heap_index = -1
        self.timer_count -= 1
        if index == self.timer_count:
            return
        last = self.heap[self.timer_count]
        if index > 0 and before(last, self.heap[(index - 1) >> 2]):
            sift_up(self.heap, index, last)
        else:
            sift_down(self.heap, self.timer_count, index, last)

    cdef int collect_due_timers(self) except -1:
        """Move the timers that are due to the ready ring, in the order of their deadlines."""
        cdef double now = lf_monotonic()
        cdef PyObject* timer
        while self.timer_count:
            timer = self.heap[0]
            if (<TimerHandle> timer).key > now:
                break
            self.push(timer)
            self.heap_remove(<TimerHandle> timer)
            Py_DECREF(timer)
        return 0

    # ------------------------------------------------------------------------------------------------- context

    cdef int enter_context(self, PyObject* context) except -1:
        if self.entered != context and self.switch_context(context) < 0:
            return propagate()
        return 0

    cdef int leave_context(self) except -1:
        if self.entered != NULL and self.exit_context() < 0:
            return propagate()
        return 0

    cdef int exit_context(self) noexcept:
        """leave_context() for the hot path: -1 with the exception set, nothing attached to it."""
        cdef PyObject* context = self.entered
        cdef int status
        self.entered = NULL
        if context == NULL:
            return 0
        status = PyContext_Exit(context)
        Py_DECREF(context)
        return status

    # ------------------------------------------------------------------------------------------------- the turn

    def _run_once(self):
        """Run one turn of the loop."""
        self.check_open()
        try:
            self.run_turn()
        finally:
            self.leave_context()

    def _run_until_stopped(self):
        """Run turns until `stop()`; at least one. The caller has set the running loop."""
        self.check_open()
        self.thread_ident = PyThread_get_thread_ident()
        try:
            while True:
                self.run_turn()
                if self._stopping:
                    break
        finally:
            self.leave_context()
            if self.turn_end_count:
                self.finish_turn()

    def stop(self):
        """Let the loop finish the current batch of callbacks and then return from ``run_forever``."""
        self._stopping = True

    cdef int run_turn(self) except -1:
        cdef LoopState* state = self.state
        if state == NULL:
            raise RuntimeError("Event loop is closed")
        self.turns += 1
        if self.ready_count == 0 and not self._stopping:
            self.wait()
        elif watches(state) or self._stopping or self.turns % TURNS_BETWEEN_POLLS == 0:
            self.poll(uv.UV_RUN_NOWAIT)
        if self.timer_count:
            self.collect_due_timers()
        PyErr_CheckSignals()
        self.run_ready()
        if self.turn_end_count:
            self.finish_turn()
        return 0

    cdef int wait(self) except -1:
        """Poll with nothing ready: until an event, a wake-up or the first deadline."""
        cdef LoopState* state = self.state
        cdef double deadline, remaining
        if not self.timer_count:
            if state.alarm_set:
                uv.uv_timer_stop(&state.alarm)
                state.alarm_set = False
            return self.poll(uv.UV_RUN_ONCE)
        deadline = (<TimerHandle> self.heap[0]).key
        remaining = deadline - lf_monotonic()
        if not remaining > 0:
            if watches(state) or self.turns % TURNS_BETWEEN_POLLS == 0:
                return self.poll(uv.UV_RUN_NOWAIT)
            return 0
        if LF_FINE_WAIT and remaining < FINE_WAIT_LIMIT:
            return self.wait_finely(deadline)
        # libuv's own notion of now is from the end of the last poll; without this the batch's run time would be slept again.
        uv.uv_update_time(&state.loop)
        if not state.alarm_set or state.alarm_deadline != deadline:
            check(uv.uv_timer_start(&state.alarm, on_alarm, <uint64_t> ceil(min(remaining, LONGEST_SLEEP) * 1000), 0))
            state.alarm_set = True
            state.alarm_deadline = deadline
        return self.poll(uv.UV_RUN_ONCE)

    cdef int wait_finely(self, double deadline) except -1:
        """Sleep for less than a millisecond, which libuv cannot: wait on its backend descriptor between two polls."""
        cdef LoopState* state = self.state
        cdef double remaining
        cdef int fd
        # This poll also tells the kernel of watchers that changed since the last one.
        self.poll(uv.UV_RUN_NOWAIT)
        if self.ready_count or self._stopping or self.state == NULL or not self.timer_count:
            return 0
        remaining = min(deadline, (<TimerHandle> self.heap[0]).key) - lf_monotonic()
        if not remaining > 0:
            return 0
        fd = uv.uv_backend_fd(&state.loop)
        state.blocked = True
        state.woken = False
        with nogil:
            lf_wait_readable(fd, remaining)
        state.blocked = False
        return self.poll(uv.UV_RUN_NOWAIT)

    cdef int poll(self, uv.uv_run_mode mode) except -1:
        cdef LoopState* state = self.state
        self.leave_context()
        state.may_block = mode == uv.UV_RUN_ONCE
        uv.uv_run(&state.loop, mode)
        state.may_block = False
        return self.raise_failure()

    cdef int run_ready(self) except -1:
        """Run the callbacks that are ready now; what they schedule waits for the next turn."""
        cdef Py_ssize_t remaining = self.ready_count
        cdef PyObject* item
        cdef PyObject* result
        while remaining > 0 and self.ready_count:
            remaining -= 1
            item = self.ring[self.ring_head]
            self.ring_head = (self.ring_head + 1) & (self.ring_capacity - 1)
            self.ready_count -= 1
            if self._debug or not is_native(item) or (<Handle> item).is_persistent:
                # The ring's reference becomes this variable's, which every way out of the function drops.
                handle = <object> item
                Py_DECREF(item)
                self.run_unusual(item)
            elif (<Handle> item).callback != NULL:
                (<Handle> item).is_running = True
                result = call_handle(self, item)
                if result == NULL:
                    handle = <object> item
                    Py_DECREF(item)
                    self.on_callback_raised(<Handle> item)
                    (<Handle> item).is_running = False
                    drop_call(item)
                    handle = None
                else:
                    Py_DECREF(result)
                    (<Handle> item).is_running = False
                    drop_call(item)
                    recycle(self, item)
            else:
                recycle(self, item)
            if self.turn_end_count and remaining % CALLBACKS_BETWEEN_LOOKS == 0:
                if lf_monotonic() - self.turn_end_since > TURN_END_PATIENCE:
                    self.finish_turn()
        return 0

    cdef int run_unusual(self, PyObject* item) except -1:
        """Run what run_ready() leaves: readers and writers, debug mode, handles of asyncio's own Python code."""
        cdef Handle handle
        if is_native(item):
            handle = <Handle> item
            handle.is_queued = False
            if handle.callback == NULL:
                return 0
            if self._debug:
                return self.run_handle_debug(handle)
            return self.run_handle(handle)
        # Signal handlers and child watchers.
        foreign = <object> item
        self.leave_context()
        if not foreign._cancelled:
            foreign._run()
        return 0

    cdef int run_handle(self, Handle handle) except -1:
        """Run *handle* in its context, report what it raises, release it unless it is persistent."""
        cdef PyObject* result
        handle.is_running = True
        result = call_handle(self, <PyObject*> handle)
        if result == NULL:
            self.on_callback_raised(handle)
        else:
            Py_DECREF(result)
        handle.is_running = False
        if not handle.is_persistent or handle.is_cancelled:
            handle.release()
        return 0

    cdef int switch_context(self, PyObject* context) noexcept:
        """enter_context() for the hot path: -1 with the exception set, nothing attached to it."""
        if self.entered != NULL and self.exit_context() < 0:
            return -1
        if PyContext_Enter(context) < 0:
            return -1
        Py_INCREF(context)
        self.entered = context
        return 0

    cdef int on_callback_raised(self, Handle handle) except -1:
        """Report the exception that is set; KeyboardInterrupt and SystemExit end the run instead."""
        try:
            propagate()
        except (SystemExit, KeyboardInterrupt):
            handle.is_running = False
            if not handle.is_persistent:
                handle.release()
            raise
        except BaseException as exc:
            failure = exc
        self.leave_context()
        if not PyContext_CheckExact(handle.context):
            # asyncio takes any object with a run() method for a context.
            try:
                (<object> handle.context).run(handle._callback, *handle._args)
                return 0
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                failure = exc
        context = {
            "message": f"Exception in callback {describe_callback(handle, bool(self._debug))}",
            "exception": failure,
            "handle": handle,
        }
        if handle.source_traceback != NULL:
            context["source_traceback"] = handle._source_traceback
        return self.report(context)

    cdef int run_handle_debug(self, Handle handle) except -1:
        """run_handle() with asyncio's slow-callback log."""
        cdef bint persistent = handle.is_persistent
        cdef double started = lf_monotonic()
        self._current_handle = handle
        # The log line names the callback, so the handle is released only after it.
        handle.is_persistent = True
        try:
            self.run_handle(handle)
            duration = lf_monotonic() - started
            if duration >= self.slow_callback_duration:
                base_events.logger.warning("Executing %s took %.3f seconds", base_events._format_handle(handle), duration)
        finally:
            self._current_handle = None
            handle.is_persistent = persistent
            if not persistent or handle.is_cancelled:
                handle.release()
        return 0

    # ------------------------------------------------------------------------------------------------- end of turn

    cdef int request_turn_end(self, LoopObject obj) except -1:
        """Have *obj*.on_turn_end() called when the running batch ends or has run for about a millisecond."""
        cdef Py_ssize_t capacity
        cdef PyObject** objects
        if obj.wants_turn_end:
            return 0
        if self.turn_end_count == self.turn_end_capacity:
            capacity = self.turn_end_capacity * 2 if self.turn_end_capacity else 64
            objects = <PyObject**> realloc(self.turn_end, capacity * sizeof(PyObject*))
            if objects == NULL:
                raise MemoryError(f"no memory for the writes of {capacity} transports")
            self.turn_end = objects
            self.turn_end_capacity = capacity
        if self.turn_end_count == 0:
            self.turn_end_since = lf_monotonic()
        Py_INCREF(<PyObject*> obj)
        obj.wants_turn_end = True
        self.turn_end[self.turn_end_count] = <PyObject*> obj
        self.turn_end_count += 1
        return 0

    cdef int finish_turn(self) except -1:
        """Let the objects that asked for it do their end-of-turn work (send what was gathered)."""
        cdef Py_ssize_t i = 0
        cdef PyObject* obj
        # The list may grow meanwhile: an upcall runs protocol code, which may write.
        while i < self.turn_end_count:
            obj = self.turn_end[i]
            self.turn_end[i] = NULL
            i += 1
            (<LoopObject> obj).wants_turn_end = False
            (<LoopObject> obj).on_turn_end()
            Py_DECREF(obj)
        self.turn_end_count = 0
        self.gathered = 0
        return self.raise_failure()

    cdef int raise_failure(self) except -1:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return 0

    cdef void fail(self, object exception) noexcept:
        """Keep the first exception that must leave the run; a second one is at least reported."""
        if self.failure is None:
            self.failure = exception
            return
        sys.unraisablehook(UnraisableArguments(exception))

    # ------------------------------------------------------------------------------------------------- shared services

    cdef char* borrow_read_buffer(self) except NULL:
        if self.read_buffer == NULL:
            self.read_buffer = <char*> malloc(READ_BUFFER_SIZE)
            if self.read_buffer == NULL:
                raise MemoryError(f"no memory for a read buffer of {READ_BUFFER_SIZE} bytes")
        if self.gather_buffer == NULL:
            self.gather_buffer = <char*> malloc(GATHER_BUFFER_SIZE)
            if self.gather_buffer == NULL:
                raise MemoryError(f"no memory for a gather buffer of {GATHER_BUFFER_SIZE} bytes")
        return self.read_buffer

    cdef int claim_descriptor(self, int fd, LoopObject owner) except -1:
        cdef int capacity = max(64, self.claims_capacity)
        cdef PyObject** claims
        if fd >= self.claims_capacity:
            while capacity <= fd:
                capacity *= 2
            claims = <PyObject**> realloc(self.claims, capacity * sizeof(PyObject*))
            if claims == NULL:
                raise MemoryError(f"no memory for descriptor {fd}")
            memset(claims + self.claims_capacity, 0, (capacity - self.claims_capacity) * sizeof(PyObject*))
            self.claims = claims
            self.claims_capacity = capacity
        self.claims[fd] = <PyObject*> owner
        return 0

    cdef void release_descriptor(self, int fd, LoopObject owner) noexcept:
        if fd < self.claims_capacity and self.claims[fd] == <PyObject*> owner:
            self.claims[fd] = NULL

    cdef int report(self, dict context) except -1:
        self.call_exception_handler(context)
        return 0

    cdef int on_connection(self, LoopObject listener, int fd, void* address, int length) except -1:
        raise NotImplementedError("on_connection() belongs to BaseLoop")

    def libuv_get_loop_t_ptr(self):
        """Return a ``PyCapsule`` with this loop's ``uv_loop_t*`` (the name uvloop gave this method).

        The pointer is valid until the loop is closed.

        Raises:
            RuntimeError: the loop is closed.
        """
        self.check_open()
        return PyCapsule_New(&self.state.loop, NULL, NULL)


# ---------------------------------------------------------------------------------------------------------------- helpers

cdef inline PyObject* call_handle(LoopCore loop, PyObject* item) noexcept:
    """Call the handle *item* in its context; NULL with the exception set."""
    cdef PyObject* result
    if loop.switch_context((<Handle> item).context) < 0:
        return NULL
    if (<Handle> item).nargs <= 3:
        result = call_vector((<Handle> item).callback, &(<Handle> item).args[1],
                             (<Handle> item).nargs | PY_VECTORCALL_ARGUMENTS_OFFSET)
    else:
        result = PyObject_Call((<Handle> item).callback, (<Handle> item).args[1], NULL)
    # At once, although the next callback may well have the same context: the destructors of what this one leaves behind
    # run outside of it, as on asyncio, and may enter it themselves (Task.__del__ reports in the task's context).
    loop.exit_context()
    return result


class UnraisableArguments:
    """What sys.unraisablehook wants to know."""

    def __init__(self, exception):
        self.exc_type = type(exception)
        self.exc_value = exception
        self.exc_traceback = exception.__traceback__
        self.err_msg = "Exception ignored while another one already ends the event loop's run"
        self.object = None


cdef bint FORMAT_TAKES_DEBUG = "debug" in inspect.signature(format_helpers._format_callback_source).parameters


cdef object describe_callback(Handle handle, bint debug):
    """Return the callback as asyncio's log lines show it, even where its repr raises."""
    try:
        if FORMAT_TAKES_DEBUG:
            return format_helpers._format_callback_source(handle._callback, handle._args, debug=debug)
        return format_helpers._format_callback_source(handle._callback, handle._args)
    except Exception as exc:
        return f"<{type(handle._callback).__name__} whose repr() raised {type(exc).__name__}>"


cdef inline bint watches(LoopState* state) noexcept nogil:
    """True if libuv has anything to look after but our own wake-up."""
    return state.loop.active_handles > 1 or state.loop.active_reqs.count > 0


cdef inline int wake(LoopCore loop) except -1:
    cdef LoopState* state = loop.state
    if state != NULL and state.blocked and not state.woken:
        state.woken = True
        check(uv.uv_async_send(&state.wake))
    return 0


cdef int grow_ring(LoopCore loop) except -1:
    cdef Py_ssize_t old = loop.ring_capacity
    cdef Py_ssize_t capacity = old * 2 if old else 256
    cdef Py_ssize_t tail = old - loop.ring_head
    cdef PyObject** ring = <PyObject**> malloc(capacity * sizeof(PyObject*))
    if ring == NULL:
        raise MemoryError(f"no memory for {capacity} callbacks")
    if old:
        memcpy(ring, loop.ring + loop.ring_head, tail * sizeof(PyObject*))
        memcpy(ring + tail, loop.ring, loop.ring_head * sizeof(PyObject*))
        free(loop.ring)
    loop.ring = ring
    loop.ring_capacity = capacity
    loop.ring_head = 0
    return 0


cdef inline void set_deadline(TimerHandle timer, double deadline) noexcept:
    timer.deadline = deadline
    timer.key = float("-inf") if isnan(deadline) else deadline


cdef inline bint before(PyObject* left, PyObject* right) noexcept:
    if (<TimerHandle> left).key != (<TimerHandle> right).key:
        return (<TimerHandle> left).key < (<TimerHandle> right).key
    return (<TimerHandle> left).sequence < (<TimerHandle> right).sequence


cdef void sift_up(PyObject** heap, Py_ssize_t index, PyObject* timer) noexcept:
    """Place *timer* at or above *index*, where a hole is."""
    cdef Py_ssize_t parent
    while index > 0:
        parent = (index - 1) >> 2
        if not before(timer, heap[parent]):
            break
        heap[index] = heap[parent]
        (<TimerHandle> heap[index]).heap_index = index
        index = parent
    heap[index] = timer
    (<TimerHandle> timer).heap_index = index


cdef void sift_down(PyObject** heap, Py_ssize_t count, Py_ssize_t index, PyObject* timer) noexcept:
    """Place *timer* at or below *index*, where a hole is."""
    cdef Py_ssize_t child, best, end
    while True:
        child = index * 4 + 1
        if child >= count:
            break
        best = child
        end = min(child + 4, count)
        child += 1
        while child < end:
            if before(heap[child], heap[best]):
                best = child
            child += 1
        if not before(heap[best], timer):
            break
        heap[index] = heap[best]
        (<TimerHandle> heap[index]).heap_index = index
        index = best
    heap[index] = timer
    (<TimerHandle> timer).heap_index = index


# ----------------------------------------------------------------------------------------- entries of the scheduling calls
# METH_FASTCALL | METH_KEYWORDS functions. C tasks and most callers pass at most the keyword `context`; anything else goes to
# the generic form, found here by name.

cdef dict GENERIC = {}


cdef PyObject* call_generic(str name, PyObject* self, PyObject** args, Py_ssize_t nargs, PyObject* kwnames) except NULL:
    cdef Py_ssize_t i
    positional = (<object> self, *[<object> args[i] for i in range(nargs)])
    keywords = {}
    if kwnames != NULL:
        for i in range(PyTuple_GET_SIZE(kwnames)):
            keywords[<object> PyTuple_GET_ITEM(kwnames, i)] = <object> args[nargs + i]
    result = GENERIC[name](*positional, **keywords)
    Py_INCREF(<PyObject*> result)
    return <PyObject*> result


cdef inline bint is_plain(Py_ssize_t nargs, Py_ssize_t needed, PyObject** args, PyObject* kwnames,
                          PyObject** context) noexcept:
    """True if the call has its positional arguments and no keyword but `context`, which is then stored."""
    context[0] = NULL
    if nargs < needed:
        return False
    if kwnames == NULL:
        return True
    if kwnames != known_keywords and not is_context_keyword(kwnames):
        return False
    if args[nargs] != Py_None:
        context[0] = args[nargs]
    return True


# The keyword tuple seen last that is ("context",), owned. Every C task passes the same tuple, whose string is not interned.
cdef PyObject* known_keywords = NULL


cdef bint is_context_keyword(PyObject* kwnames) noexcept:
    global known_keywords
    if PyTuple_GET_SIZE(kwnames) != 1 or PyUnicode_Compare(PyTuple_GET_ITEM(kwnames, 0), <PyObject*> CONTEXT) != 0:
        return False
    Py_INCREF(kwnames)
    Py_XDECREF(known_keywords)
    known_keywords = kwnames
    return True


cdef inline PyObject* append_call(LoopCore loop, PyObject** args, Py_ssize_t nargs, PyObject* context) except NULL:
    """Append args[0](*args[1:]) to the ready ring and return a new reference to its handle."""
    cdef PyObject* item
    if loop.ready_count == loop.ring_capacity:
        grow_ring(loop)
    item = make_handle(loop, args[0], args + 1, nargs - 1, context)
    # One reference for the ring, one for the caller.
    Py_INCREF(item)
    loop.ring[(loop.ring_head + loop.ready_count) & (loop.ring_capacity - 1)] = item
    loop.ready_count += 1
    return item


cdef PyObject* fast_call_soon(PyObject* self, PyObject** args, Py_ssize_t nargs, PyObject* kwnames) except NULL:
    cdef LoopCore loop = <LoopCore> self
    cdef PyObject* context
    if loop._debug or loop._closed or not is_plain(nargs, 1, args, kwnames, &context):
        return call_generic("call_soon", self, args, nargs, kwnames)
    return append_call(loop, args, nargs, context)


cdef PyObject* fast_call_soon_threadsafe(PyObject* self, PyObject** args, Py_ssize_t nargs,
                                         PyObject* kwnames) except NULL:
    cdef LoopCore loop = <LoopCore> self
    cdef PyObject* context
    cdef PyObject* item
    if loop._debug or loop._closed or not is_plain(nargs, 1, args, kwnames, &context):
        return call_generic("call_soon_threadsafe", self, args, nargs, kwnames)
    item = append_call(loop, args, nargs, context)
    wake(loop)
    return item


cdef inline bint is_number(PyObject* obj) noexcept:
    return PyFloat_CheckExact(obj) or PyLong_CheckExact(obj)


cdef inline PyObject* plain_timer(LoopCore loop, double deadline, PyObject** args, Py_ssize_t nargs,
                                  PyObject* context) except NULL:
    cdef TimerHandle timer = TimerHandle.__new__(TimerHandle)
    fill_handle(<PyObject*> timer, loop, args[0], args + 1, nargs - 1, context)
    set_deadline(timer, deadline)
    loop.heap_push(timer)
    Py_INCREF(<PyObject*> timer)
    return <PyObject*> timer


cdef PyObject* fast_call_later(PyObject* self, PyObject** args, Py_ssize_t nargs, PyObject* kwnames) except NULL:
    cdef LoopCore loop = <LoopCore> self
    cdef PyObject* context
    if loop._debug or loop._closed or not is_plain(nargs, 2, args, kwnames, &context) or not is_number(args[0]):
        return call_generic("call_later", self, args, nargs, kwnames)
    return plain_timer(loop, lf_monotonic() + PyFloat_AsDouble(args[0]), args + 1, nargs - 1, context)


cdef PyObject* fast_call_at(PyObject* self, PyObject** args, Py_ssize_t nargs, PyObject* kwnames) except NULL:
    cdef LoopCore loop = <LoopCore> self
    cdef PyObject* context
    if loop._debug or loop._closed or not is_plain(nargs, 2, args, kwnames, &context) or not is_number(args[0]):
        return call_generic("call_at", self, args, nargs, kwnames)
    return plain_timer(loop, PyFloat_AsDouble(args[0]), args + 1, nargs - 1, context)


cdef PyMethodDef[4] FAST_METHODS
FAST_METHODS[0] = PyMethodDef("call_soon", <void*> fast_call_soon, METH_FASTCALL | METH_KEYWORDS, (
    "call_soon($self, callback, /, *args, context=None)\n--\n\n"
    "Schedule callback(*args) for the next turn of the loop; return its handle.\n\n"
    "context is the contextvars.Context to run it in, by default a copy of the current one.\n"
    "Raises RuntimeError if the loop is closed.\n\n"
    "Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.call_soon"))
FAST_METHODS[1] = PyMethodDef("call_soon_threadsafe", <void*> fast_call_soon_threadsafe, METH_FASTCALL | METH_KEYWORDS, (
    "call_soon_threadsafe($self, callback, /, *args, context=None)\n--\n\n"
    "call_soon() that may be called from any thread; wakes the loop if it sleeps.\n\n"
    "Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.call_soon_threadsafe"))
FAST_METHODS[2] = PyMethodDef("call_later", <void*> fast_call_later, METH_FASTCALL | METH_KEYWORDS, (
    "call_later($self, delay, callback, /, *args, context=None)\n--\n\n"
    "Schedule callback(*args) to run after delay seconds, never earlier; return its TimerHandle.\n\n"
    "Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.call_later"))
FAST_METHODS[3] = PyMethodDef("call_at", <void*> fast_call_at, METH_FASTCALL | METH_KEYWORDS, (
    "call_at($self, when, callback, /, *args, context=None)\n--\n\n"
    "Schedule callback(*args) to run at the time when, in seconds of loop.time(); return its TimerHandle.\n\n"
    "Source: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.call_at"))


def install_fast_methods(type cls):
    """Give *cls*, a LoopCore, these entries as methods of its own: on an exact type the interpreter checks `self` faster."""
    cdef PyTypeObject* type_ = <PyTypeObject*> cls
    cdef int i
    if not issubclass(cls, LoopCore):
        raise TypeError(f"a subclass of LoopCore was expected, got {cls!r}")
    for i in range(4):
        PyDict_SetItemString(type_.tp_dict, FAST_METHODS[i].ml_name, PyDescr_NewMethod(type_, &FAST_METHODS[i]))
    PyType_Modified(type_)


for name in ("call_soon", "call_soon_threadsafe", "call_later", "call_at"):
    GENERIC[name] = getattr(LoopCore, name)
install_fast_methods(LoopCore)


# ---------------------------------------------------------------------------------------------- garbage collection of loops
# Handles are not tracked, and kept objects are held by a C list: the loop's own traverse and clear speak for both, so that
# a loop dropped without close() is found, warned about and freed, as asyncio's is.

ctypedef int (*traverse_function)(PyObject*, visitproc, void*) noexcept
ctypedef int (*clear_function)(PyObject*) noexcept
cdef traverse_function generated_traverse
cdef clear_function generated_clear


cdef inline bint is_native(PyObject* item) noexcept:
    return Py_TYPE(item) == <PyTypeObject*> Handle or Py_TYPE(item) == <PyTypeObject*> TimerHandle


cdef int visit_one(PyObject* obj, visitproc visit, void* arg) noexcept:
    return visit(obj, arg) if obj != NULL else 0


cdef int visit_handle(PyObject* item, visitproc visit, void* arg) noexcept:
    """Visit a queued handle, and what it owns if the queue holds the only reference (else somebody outside may use it)."""
    cdef int status = 0
    if item == NULL:
        return 0
    if not is_native(item):
        return visit(item, arg)
    if Py_REFCNT(item) == 1:
        status = visit_one((<Handle> item).callback, visit, arg)
        status = status or visit_one((<Handle> item).context, visit, arg)
        status = status or visit_one((<Handle> item).args[1], visit, arg)
        status = status or visit_one((<Handle> item).args[2], visit, arg)
        status = status or visit_one((<Handle> item).args[3], visit, arg)
    return status


cdef int traverse_loop(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef Py_ssize_t i
    cdef PyObject* obj = (<LoopCore> self).objects
    cdef int status = generated_traverse(self, visit, arg)
    status = status or visit_one((<LoopCore> self).entered, visit, arg)
    i = 0
    while status == 0 and i < (<LoopCore> self).ready_count:
        status = visit_handle(
            (<LoopCore> self).ring[((<LoopCore> self).ring_head + i) & ((<LoopCore> self).ring_capacity - 1)], visit, arg)
        i += 1
    i = 0
    while status == 0 and i < (<LoopCore> self).timer_count:
        status = visit_handle((<LoopCore> self).heap[i], visit, arg)
        i += 1
    i = 0
    while status == 0 and i < (<LoopCore> self).turn_end_count:
        status = visit_one((<LoopCore> self).turn_end[i], visit, arg)
        i += 1
    while status == 0 and obj != NULL:
        if (<LoopObject> obj).is_kept:
            status = visit(obj, arg)
        obj = (<LoopObject> obj).next_object
    return status


cdef int clear_loop(PyObject* self) noexcept:
    cdef PyObject* obj
    (<LoopCore> self).drop_handles()
    while True:
        obj = (<LoopCore> self).objects
        while obj != NULL and not (<LoopObject> obj).is_kept:
            obj = (<LoopObject> obj).next_object
        if obj == NULL:
            break
        # May deallocate the object and with it change the list: start over.
        (<LoopObject> obj).unkeep()
    return generated_clear(self)


generated_traverse = (<PyTypeObject*> LoopCore).tp_traverse
generated_clear = (<PyTypeObject*> LoopCore).tp_clear
(<PyTypeObject*> LoopCore).tp_traverse = traverse_loop
(<PyTypeObject*> LoopCore).tp_clear = clear_loop


# ------------------------------------------------------------------------------------------------------- build information

def libuv_version() -> str:
    """Return the version of the libuv that is loaded, such as ``"1.52.1"``."""
    return uv.uv_version_string().decode("ascii")


def build_info() -> dict:
    """Return what this build is: libuv loaded and compiled against, Cython, compiler, debug or release."""
    return {
        "libuv_loaded": libuv_version(),
        "libuv_headers": uv.LF_UV_HEADER_VERSION_STRING.decode("ascii"),
        "cython": ".".join(str(LF_CYTHON_VERSION >> shift & 0xff) for shift in (24, 16, 8)),
        "compiler": LF_COMPILER.decode("ascii"),
        "debug": bool(LF_IS_DEBUG),
    }


def debug_counters() -> dict:
    """Return name -> (made, freed) of handles, libuv handles and write requests; all zero on a release build."""
    return {
        "handles": (counter_table[LF_HANDLE].made, counter_table[LF_HANDLE].freed),
        "uv_handles": (counter_table[LF_UV_HANDLE].made, counter_table[LF_UV_HANDLE].freed),
        "write_requests": (counter_table[LF_WRITE_REQUEST].made, counter_table[LF_WRITE_REQUEST].freed),
    }


cdef int check_library() except -1:
    """Refuse to run on another libuv than the one compiled against: a globally loaded one can interpose."""
    if uv.uv_version() != uv.LF_UV_HEADER_VERSION or uv.uv_loop_size() != sizeof(uv.uv_loop_t):
        raise ImportError(
            f"loopfast was compiled against libuv {uv.LF_UV_HEADER_VERSION_STRING.decode('ascii')} (loop of "
            f"{sizeof(uv.uv_loop_t)} bytes), but libuv {libuv_version()} (loop of {uv.uv_loop_size()} bytes) is loaded")
    return 0


check_library()

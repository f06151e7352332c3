"""Scheduled callbacks: the handles that users hold, and where handles wait: the ready ring, the events of a
poll and the timer heap.

`LoopCore` is these queues with a turn around them.
"""

import _thread
import asyncio
import contextvars
import inspect
import os
import sys
from asyncio import events, format_helpers

cimport cython
from cpython.object cimport PyObject
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from loopfast.buildinfo cimport COUNTERS
from loopfast.includes.counters cimport LF_HANDLE, lf_freed, lf_made
from loopfast.includes.context cimport lf_context, lf_context_fits, lf_current_context, lf_is_table
from loopfast.includes.platform cimport lf_monotonic
from loopfast.includes.python cimport (
    Py_DECREF, Py_INCREF, Py_XDECREF, PyContext_New, PyFloat_AsDouble, PyThread_get_thread_ident, PyTupleObject,
    propagate,
)
from loopfast.includes.threads cimport (
    LF_FREE_THREADED, lf_lock, lf_mutex, lf_store_count, lf_store_runner, lf_try_incref, lf_unlock,
)

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    /* The loop that runs in this thread, compared with only. */
    static _Thread_local void *lf_running_loop;
    #else
    static void *lf_running_loop;
    #endif
    static inline void *lf_get_running_loop(void) { return lf_running_loop; }
    static inline void lf_set_running_loop(void *loop) { lf_running_loop = loop; }
    """
    void* lf_get_running_loop() noexcept
    void lf_set_running_loop(void* loop) noexcept

# Seconds for which callbacks are timed after two stalls that were no further apart.
cdef double TIMING_SPAN = 60.0
# Seconds; what takes less is not slow, whatever slow_callback_duration says outside of debug mode.
cdef double LEAST_SLOW = 0.001

cdef object AsyncioHandle = asyncio.Handle
cdef object AsyncioTimerHandle = asyncio.TimerHandle
cdef object AsyncioThreadSafeHandle = getattr(events, "_ThreadSafeHandle", asyncio.Handle)
THREAD_SAFE_HANDLES = AsyncioThreadSafeHandle is not AsyncioHandle


# ------------------------------------------------------------------------------------------------------------- contexts

cdef inline PyObject* variables_of(object context) noexcept:
    return (<lf_context*> context).variables


cdef PyObject* find_empty_table() except? NULL:
    """Return the table of an empty Context (a new reference), or NULL if a Context of this Python is not as we know it:
    each handle then gets one of its own at the call."""
    cdef PyObject* table
    if sys.implementation.name != "cpython" or not lf_context_fits():
        return NULL
    variable, value = contextvars.ContextVar("variable"), object()
    one, other = contextvars.Context(), contextvars.Context()
    table = variables_of(one)
    if not lf_is_table(table) or variables_of(other) != table:
        return NULL
    one.run(variable.set, value)
    if not lf_is_table(variables_of(one)) or variables_of(one) == table:
        return NULL
    if variables_of(one.copy()) != variables_of(one):
        return NULL
    if not one.run(lambda: lf_current_context() == <PyObject*> one):
        return NULL
    # Lent for a moment.
    (<lf_context*> other).variables = variables_of(one)
    found = other.run(variable.get, None)
    (<lf_context*> other).variables = table
    if found is not value:
        return NULL
    Py_INCREF(table)
    return table


# Never freed.
cdef PyObject* KNOWN_TABLE = find_empty_table()
cdef PyObject* EMPTY_TABLE = NULL


def set_contexts(name):
    """Choose what the handles of loops made from now on keep of the current context. The variable LOOPFAST_CONTEXTS is
    the first choice.

    Args:
        name: ``"auto"`` (the default): its variables, where the inside of a Context is known, and a Context when one is
            needed. ``"portable"``: a Context, made at the call.

    Raises:
        ValueError: there is no such choice.
    """
    global EMPTY_TABLE
    if name not in ("auto", "portable"):
        raise ValueError(f"LOOPFAST_CONTEXTS can be auto or portable, not {name!r}")
    EMPTY_TABLE = KNOWN_TABLE if name == "auto" else NULL


def knows_contexts() -> bool:
    """Return True if the inside of a Context of this Python is known."""
    return KNOWN_TABLE != NULL


set_contexts(os.environ.get("LOOPFAST_CONTEXTS") or "auto")


cdef int make_context(PyObject* item) noexcept:
    """Give the handle *item* a Context with the variables that it keeps; -1 with the exception set."""
    cdef PyObject* context = PyContext_New()
    if context == NULL:
        return -1
    if (<Handle> item).has_table:
        move_variables(item, context)
    else:
        # The garbage collector ran, and with it somebody's code, which has asked for it too.
        Py_DECREF(context)
    return 0


# -------------------------------------------------------------------------------------------------------------- handles

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
        Py_XDECREF(self.notes)
        lf_freed(COUNTERS, LF_HANDLE)

    cdef void release(self) noexcept:
        drop_call(<PyObject*> self)

    cdef void unschedule(self) noexcept:
        pass

    cdef int do_cancel(self) except -1:
        if self.is_cancelled:
            return 0
        if LF_FREE_THREADED and is_others(self):
            # Its thread drops the call when its turn comes.
            self.is_cancelled = True
            return 0
        self.is_cancelled = True
        if self.loop != NULL and (<CallbackQueues> self.loop)._debug:
            # Kept for log lines that name a handle whose callback is gone by then.
            try:
                self.note(self._source_traceback, repr(self))
            except BaseException:
                # Cancelled it is all the same.
                if not self.is_running:
                    self.release()
                raise
        if not self.is_running:
            self.release()
        return 0

    cdef int note(self, object source_traceback, object last_repr) except -1:
        cdef PyObject* before = self.notes
        notes = (source_traceback, last_repr)
        Py_INCREF(<PyObject*> notes)
        self.notes = <PyObject*> notes
        Py_XDECREF(before)
        return 0

    def cancel(self):
        """Cancel the callback. Does nothing if it has run or was cancelled before."""
        self.do_cancel()

    def cancelled(self) -> bool:
        """Return True if the callback was cancelled."""
        return bool(self.is_cancelled)

    def get_context(self):
        """Return the ``contextvars.Context`` of the callback, or None once it has run or was cancelled."""
        self.settle_context()
        return self.look_at(&self.context)

    cdef int settle_context(self) except -1:
        """Make the Context, if this has no more than its variables."""
        if self.has_table and make_context(<PyObject*> self) < 0:
            return propagate()
        return 0

    cdef object look_at(self, PyObject** field):
        return None if field[0] == NULL else <object> field[0]

    cdef tuple look_at_arguments(self):
        cdef Py_ssize_t i
        if self.callback == NULL:
            return None
        if self.nargs > 3:
            return <tuple> self.args[1]
        return tuple([<object> self.args[1 + i] for i in range(self.nargs)])

    def _run(self):
        if self.is_cancelled or self.callback == NULL:
            return
        if self.loop == NULL:
            raise RuntimeError(f"{self!r} is not scheduled on a loop")
        if self.is_running:
            # The running call uses the arguments in this handle, which the end of a second one would drop.
            raise RuntimeError(f"{self!r} is running")
        cdef CallbackQueues loop = <CallbackQueues> self.loop
        self.unschedule()
        loop.run_handle(self)

    def _repr_info(self):
        return self.describe(AsyncioHandle._repr_info)

    cdef object describe(self, object repr_info):
        try:
            return repr_info(self)
        except AttributeError:
            if self.loop != NULL:
                raise
            # Another thread has run it meanwhile: there is no loop to ask for its mode any more, and no callback.
            return repr_info(self)

    def __repr__(self):
        return AsyncioHandle.__repr__(self)

    @property
    def __class__(self):
        return AsyncioHandle

    # asyncio's private names, which its own formatting and call-graph code reads.
    @property
    def _callback(self):
        return self.look_at(&self.callback)

    @property
    def _args(self):
        return self.look_at_arguments()

    @property
    def _context(self):
        return self.get_context()

    @property
    def _cancelled(self):
        return bool(self.is_cancelled)

    @property
    def _loop(self):
        return self.look_at(&self.loop)

    @property
    def _repr(self):
        return None if self.notes == NULL else (<object> self.notes)[1]

    @property
    def _source_traceback(self):
        return None if self.notes == NULL else (<object> self.notes)[0]


@cython.no_gc
cdef class TimerHandle(Handle):
    """A callback with a deadline, as `loop.call_later` and `loop.call_at` return it.

    Ordering, equality and hash are those of ``asyncio.TimerHandle``.
    """

    def __cinit__(self):
        self.heap_index = -1

    cdef void unschedule(self) noexcept:
        """Leave the heap, if this is in one: a handle that has run knows its loop no more."""
        if self.heap_index >= 0:
            (<CallbackQueues> self.loop).heap_remove(self)
            # The heap's reference; the caller has one of its own.
            Py_DECREF(<PyObject*> self)

    cdef int do_cancel(self) except -1:
        if LF_FREE_THREADED and is_others(self):
            self.is_cancelled = True
            return 0
        # First of all: what the release below drops may run code that cancels this handle again. The method's caller
        # has a reference of its own.
        self.unschedule()
        return Handle.do_cancel(self)

    def when(self) -> float:
        """Return the deadline in seconds of `loop.time()`."""
        return self.deadline if self.given is None else self.given

    @property
    def _when(self):
        return self.when()

    @property
    def _scheduled(self):
        return self.heap_index >= 0

    def _repr_info(self):
        return self.describe(AsyncioTimerHandle._repr_info)

    @property
    def __class__(self):
        return AsyncioTimerHandle

    def __hash__(self):
        return hash(self.when())

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


@cython.no_gc
cdef class ThreadSafeHandle(Handle):
    """A callback scheduled by `loop.call_soon_threadsafe`, which may be cancelled from any thread (Python 3.14 and
    later)."""

    cdef int settle(self) except -1:
        """Wait until the callback does not run, unless this is the thread that runs it."""
        cdef bint waits
        lf_lock(&self.mutex)
        waits = self.is_running and self.runner != PyThread_get_thread_ident()
        lf_unlock(&self.mutex)
        if not waits:
            return 0
        lock = _thread.allocate_lock()
        lock.acquire()
        fresh = []
        lf_lock(&self.mutex)
        waits = self.is_running
        if waits:
            if self.waiters is None:
                self.waiters = fresh
            self.waiters.append(lock)
        lf_unlock(&self.mutex)
        if waits:
            lock.acquire()
        return 0

    cdef bint run_begins(self) noexcept:
        cdef bint begins
        lf_lock(&self.mutex)
        begins = not self.is_cancelled and self.callback != NULL
        if begins:
            self.runner = PyThread_get_thread_ident()
            self.is_running = True
        lf_unlock(&self.mutex)
        return begins

    cdef int run_ended(self) except -1:
        cdef list waiters = None
        lf_lock(&self.mutex)
        self.is_running = False
        if self.waiters is not None:
            waiters, self.waiters = self.waiters, None
        lf_unlock(&self.mutex)
        if waiters is not None:
            for lock in waiters:
                lock.release()
        return 0

    cdef int do_cancel(self) except -1:
        cdef bint was_cancelled, is_running
        if not LF_FREE_THREADED:
            return Handle.do_cancel(self)
        lf_lock(&self.mutex)
        was_cancelled = self.is_cancelled
        is_running = self.is_running
        self.is_cancelled = True
        lf_unlock(&self.mutex)
        if not was_cancelled and not is_running:
            self.release()
        return 0

    cdef void release(self) noexcept:
        cdef PyObject* taken[3]
        cdef PyObject* callback
        cdef PyObject* context
        cdef Py_ssize_t i
        if not LF_FREE_THREADED:
            drop_call(<PyObject*> self)
            return
        # Two threads may get here: one of them finds the call, and drops it without the lock.
        lf_lock(&self.mutex)
        callback, context = self.callback, self.context
        for i in range(3):
            taken[i] = self.args[1 + i]
            self.args[1 + i] = NULL
        self.callback = self.context = NULL
        self.nargs = 0
        self.loop = NULL
        lf_unlock(&self.mutex)
        for i in range(3):
            Py_XDECREF(taken[i])
        Py_XDECREF(context)
        Py_XDECREF(callback)

    cdef object look_at(self, PyObject** field):
        cdef PyObject* found
        if not LF_FREE_THREADED:
            return Handle.look_at(self, field)
        lf_lock(&self.mutex)
        found = field[0]
        if found != NULL and field != &self.loop:
            Py_INCREF(found)
        elif found != NULL and not lf_try_incref(found):
            # A loop that is just going away.
            found = NULL
        lf_unlock(&self.mutex)
        if found == NULL:
            return None
        result = <object> found
        Py_DECREF(found)
        return result

    cdef tuple look_at_arguments(self):
        cdef PyObject* found[3]
        cdef Py_ssize_t i, nargs
        if not LF_FREE_THREADED:
            return Handle.look_at_arguments(self)
        lf_lock(&self.mutex)
        if self.callback == NULL:
            nargs = -1
        else:
            nargs = self.nargs
            for i in range(1 if nargs > 3 else nargs):
                found[i] = self.args[1 + i]
                Py_INCREF(found[i])
        lf_unlock(&self.mutex)
        if nargs < 0:
            return None
        objects = []
        for i in range(1 if nargs > 3 else nargs):
            objects.append(<object> found[i])
            Py_DECREF(found[i])
        return <tuple> objects[0] if nargs > 3 else tuple(objects)

    def cancel(self):
        """Cancel the callback. If it runs just now in another thread, wait for its end."""
        self.settle()
        self.do_cancel()

    def cancelled(self) -> bool:
        """Return True if the callback was cancelled."""
        self.settle()
        return bool(self.is_cancelled)

    @property
    def __class__(self):
        return AsyncioThreadSafeHandle


# Without the GIL: held while a thread follows a handle's borrowed pointer to a loop that may be another's. A loop ends
# under it, when it has no handles left.
cdef lf_mutex borrowed_loops


cdef bint is_others(Handle handle) noexcept:
    """Return True if another thread runs the loop where *handle* waits, so that only that one may touch the call."""
    cdef bint elsewhere
    if handle.loop == lf_get_running_loop() or handle.loop == NULL:
        return False
    lf_lock(&borrowed_loops)
    elsewhere = handle.loop != NULL and runs_elsewhere(<CallbackQueues> handle.loop)
    lf_unlock(&borrowed_loops)
    return elsewhere


cdef PyObject* make_threadsafe_handle(CallbackQueues loop, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                                      PyObject* context) except NULL:
    """Return a new reference to a handle of this call that any thread may cancel."""
    if not THREAD_SAFE_HANDLES:
        return make_handle(loop, callback, args, nargs, context)
    handle = ThreadSafeHandle.__new__(ThreadSafeHandle)
    fill_handle(<PyObject*> handle, loop, callback, args, nargs, context)
    Py_INCREF(<PyObject*> handle)
    return <PyObject*> handle


cdef int remember_source(Handle handle) except -1:
    return handle.note(format_helpers.extract_stack(sys._getframe()), None)


cdef bint FORMAT_TAKES_DEBUG = "debug" in inspect.signature(format_helpers._format_callback_source).parameters


cdef object describe_callback(Handle handle, bint debug):
    """Return the callback as asyncio's log lines show it, even where its repr raises."""
    try:
        if FORMAT_TAKES_DEBUG:
            return format_helpers._format_callback_source(handle._callback, handle._args, debug=debug)
        return format_helpers._format_callback_source(handle._callback, handle._args)
    except Exception as exc:
        return f"<{type(handle._callback).__name__} whose repr() raised {type(exc).__name__}>"


# --------------------------------------------------------------------------------------------------------------- queues

cdef class CallbackQueues:
    """The callbacks of a loop: those that are ready, and the timers. Not for direct use."""

    def __cinit__(self, *args, **kwargs):
        self.empty_table = EMPTY_TABLE

    def __dealloc__(self):
        # The subclass has dropped what was in them.
        if LF_FREE_THREADED:
            lf_lock(&borrowed_loops)
            lf_unlock(&borrowed_loops)
        free(self.ring)
        free(self.events)
        free(self.heap)
        free(self.foreign)

    # ------------------------------------------------------------------------------------------------- events

    cdef int push_event(self, PyObject* handle) except -1:
        """Append *handle* (a new reference is taken) to what runs right after the poll."""
        cdef Py_ssize_t capacity
        cdef PyObject** grown
        if self.event_count == self.event_capacity:
            capacity = self.event_capacity * 2 if self.event_capacity else 64
            grown = <PyObject**> realloc(self.events, capacity * sizeof(PyObject*))
            if grown == NULL:
                raise MemoryError(f"no memory for {capacity} events")
            self.events = grown
            self.event_capacity = capacity
        Py_INCREF(handle)
        self.events[self.event_count] = handle
        self.event_count += 1
        return 0

    cdef int merge_events(self, Py_ssize_t first) except -1:
        """The run ends before this turn's events: put them behind the *first* callbacks of the ring, their place."""
        cdef Py_ssize_t count = self.event_count - self.event_head
        cdef Py_ssize_t i = self.ready_count
        cdef Py_ssize_t mask
        if count == 0:
            return 0
        while self.ring_capacity < self.ready_count + count:
            grow_ring(self)
        mask = self.ring_capacity - 1
        while i > first:
            i -= 1
            self.ring[(self.ring_head + i + count) & mask] = self.ring[(self.ring_head + i) & mask]
        for i in range(count):
            self.ring[(self.ring_head + first + i) & mask] = self.events[self.event_head + i]
        self.ready_count += count
        self.event_head = self.event_count = 0
        return 0

    # ------------------------------------------------------------------------------------------------- due timers

    cdef int collect_due_timers(self, uint64_t before_turn, double now) except -1:
        """Move the timers that are due to the events of this turn, in the order of their deadlines.

        But for those that this turn made, whose number is not below *before_turn*: they come after what it scheduled.
        """
        cdef PyObject* timer
        while self.timer_count:
            timer = self.heap[0]
            if (<TimerHandle> timer).key > now:
                break
            if (<TimerHandle> timer).sequence >= before_turn:
                return self.collect_around_new_timers(before_turn, now)
            self.push_event(timer)
            self.heap_remove(<TimerHandle> timer)
            Py_DECREF(timer)
        return 0

    cdef int collect_around_new_timers(self, uint64_t before_turn, double now) except -1:
        """collect_due_timers() where the first deadline, which is past, is that of a timer that this turn made."""
        cdef list new = []
        cdef TimerHandle timer
        try:
            while self.timer_count and (<TimerHandle> self.heap[0]).key <= now:
                timer = <TimerHandle> self.heap[0]
                if timer.sequence >= before_turn:
                    new.append(timer)
                else:
                    self.push_event(<PyObject*> timer)
                self.heap_remove(timer)
                Py_DECREF(<PyObject*> timer)
        finally:
            for timer in new:
                if not timer.is_cancelled:
                    self.heap_place(timer)
        return 0

    # ------------------------------------------------------------------------------------------------- context

    cdef int enter_context(self, PyObject* context) except -1:
        if self.entered != context and switch_context(self, context) < 0:
            return propagate()
        return 0

    cdef int leave_context(self) except -1:
        if self.entered != NULL and exit_context(self) < 0:
            return propagate()
        return 0

    # ------------------------------------------------------------------------------------------------- other threads

    cdef bint begin_to_run(self) noexcept:
        cdef bint is_free
        lf_lock(&self.mutex)
        is_free = self.runner == 0
        if is_free:
            lf_store_runner(&self.runner, PyThread_get_thread_ident())
        lf_unlock(&self.mutex)
        if is_free:
            lf_set_running_loop(<void*> self)
        return is_free

    cdef void cease_to_run(self) noexcept:
        lf_set_running_loop(NULL)
        lf_lock(&self.mutex)
        lf_store_runner(&self.runner, 0)
        lf_unlock(&self.mutex)

    cdef int push_foreign(self, PyObject* handle) except -1:
        cdef Py_ssize_t capacity
        cdef PyObject** grown
        cdef bint is_shut
        cdef bint is_full = False
        lf_lock(&self.mutex)
        is_shut = self.is_shut
        if not is_shut and self.foreign_count == self.foreign_capacity:
            capacity = self.foreign_capacity * 2 if self.foreign_capacity else 64
            grown = <PyObject**> realloc(self.foreign, capacity * sizeof(PyObject*))
            is_full = grown == NULL
            if not is_full:
                self.foreign = grown
                self.foreign_capacity = capacity
        if not is_shut and not is_full:
            Py_INCREF(handle)
            self.foreign[self.foreign_count] = handle
            lf_store_count(&self.foreign_count, self.foreign_count + 1)
        lf_unlock(&self.mutex)
        if is_shut:
            raise RuntimeError("Event loop is closed")
        if is_full:
            raise MemoryError("no memory for the callbacks of other threads")
        return 0

    cdef int take_foreign(self) except -1:
        """Move what other threads have scheduled into the ring."""
        cdef Py_ssize_t i
        lf_lock(&self.mutex)
        try:
            while self.ring_capacity < self.ready_count + self.foreign_count:
                grow_ring(self)
            for i in range(self.foreign_count):
                self.ring[(self.ring_head + self.ready_count) & (self.ring_capacity - 1)] = self.foreign[i]
                self.ready_count += 1
            lf_store_count(&self.foreign_count, 0)
        finally:
            lf_unlock(&self.mutex)
        return 0

    cdef int push(self, PyObject* handle) except -1:
        """Append *handle* (a new reference is taken) to the ready ring."""
        cdef Py_ssize_t capacity
        if LF_FREE_THREADED:
            if not runs_here(self):
                return self.push_foreign(handle)
            take_what_others_scheduled(self)
        capacity = self.ring_capacity
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
        """``call_soon(callback, arg)`` for the modules above, in *context*, or a copy of the current one if that is
        NULL."""
        cdef PyObject* argument = <PyObject*> arg
        cdef Handle handle = self.new_handle(<PyObject*> callback, &argument, 1, context)
        self.push(<PyObject*> handle)
        return handle

    # ------------------------------------------------------------------------------------------------- scheduling
    # The generic forms. scheduling.pyx hides these four behind entries that take the same arguments without building a
    # tuple or a dict, and that come back here for anything unusual.

    def call_soon(self, callback, *args, context=None):
        """Schedule *callback* for the next turn."""
        return self.new_call(callback, args, context, "call_soon", True)

    def call_soon_threadsafe(self, callback, *args, context=None):
        """The same from any thread."""
        handle = self.new_call(callback, args, context, "call_soon_threadsafe", False)
        self._write_to_self()
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """Schedule *callback* to run after *delay* seconds."""
        if delay is None:
            raise TypeError("delay must not be None")
        return self.new_timer(self.time() + delay, callback, args, context, "call_at")

    def call_at(self, when, callback, *args, context=None):
        """Schedule *callback* to run at *when*, in seconds of `time()`."""
        if when is None:
            raise TypeError("when cannot be None")
        return self.new_timer(when, callback, args, context, "call_at")

    cdef object new_call(self, object callback, tuple args, object context, str method, bint check_thread):
        cdef PyObject* item
        cdef PyObject* own = NULL if context is None else <PyObject*> context
        self.check_open()
        if check_thread:
            self.check_not_elsewhere()
        if self._debug:
            self.check_call(callback, method, check_thread)
        if check_thread:
            item = make_handle(self, <PyObject*> callback, (<PyTupleObject*> args).ob_item, len(args), own)
        else:
            item = make_threadsafe_handle(self, <PyObject*> callback, (<PyTupleObject*> args).ob_item, len(args), own)
        handle = <object> item
        Py_DECREF(item)
        self.push(item)
        return handle

    cdef object new_timer(self, object when, object callback, tuple args, object context, str method):
        cdef TimerHandle timer
        cdef double deadline = PyFloat_AsDouble(<PyObject*> when)
        self.check_open()
        self.check_not_elsewhere()
        if self._debug:
            self.check_call(callback, method, True)
        timer = TimerHandle.__new__(TimerHandle)
        fill_handle(<PyObject*> timer, self, <PyObject*> callback, (<PyTupleObject*> args).ob_item, len(args),
                    NULL if context is None else <PyObject*> context)
        set_deadline(timer, deadline)
        if type(when) is not float:
            timer.given = when
        self.heap_push(timer)
        return timer

    cdef int check_call(self, object callback, str method, bint check_thread) except -1:
        """Debug mode's checks: the calling thread, and that *callback* is a plain callable."""
        if check_thread:
            self._check_thread()
        self._check_callback(callback, method)
        return 0

    cdef int check_not_elsewhere(self) except -1:
        if runs_elsewhere(self):
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")
        return 0

    cdef int check_open(self) except -1:
        raise NotImplementedError("check_open() belongs to LoopCore")

    cdef int run_handle(self, Handle handle) except -1:
        raise NotImplementedError("run_handle() belongs to LoopCore")

    # ------------------------------------------------------------------------------------------------- slow callbacks
    # The clock is read before sleep and every few turns, not at each callback. Where that finds two stretches too long
    # within a minute, callbacks are timed one by one for a minute, to learn which it is; so they are in debug mode,
    # too, and while somebody asks for it.

    @property
    def slow_callback_duration(self):
        return self.slow_duration

    @slow_callback_duration.setter
    def slow_callback_duration(self, value):
        self.slow_duration = value
        try:
            self.slow_limit = max(<double> value, LEAST_SLOW)
        except (TypeError, ValueError, OverflowError):
            # asyncio takes anything, and finds out in debug mode.
            self.slow_limit = float("inf")

    def _set_timing(self, enabled):
        """Time each callback from now on, or only where there is a reason to."""
        self.timing = enabled
        self.timing_until = float("inf") if enabled else 0

    def _timed_call(self):
        """Return when the timed callback that runs began, by the monotonic clock, or 0.0."""
        return self.timed_since

    cdef int run_handle_timed(self, Handle handle) except -1:
        cdef bint persistent = handle.is_persistent
        cdef bint debug = self._debug
        cdef double started = self.begin_timed()
        if debug:
            self._current_handle = handle
        # What is told of it names the callback, so the handle is released only after that.
        handle.is_persistent = True
        try:
            self.run_handle(handle)
            self.end_timed(started, handle, None)
        finally:
            self._current_handle = None
            self.timed_since = 0
            handle.is_persistent = persistent
            if not persistent or handle.is_cancelled:
                handle.release()
        return 0

    cdef double begin_timed(self) noexcept:
        self.timed_since = lf_monotonic()
        return self.timed_since

    cdef int end_timed(self, double started, object subject, str method) except -1:
        cdef double now = lf_monotonic()
        cdef double duration = now - started
        self.timed_since = 0
        # In debug mode as asyncio compares it, whatever it is.
        if (duration >= self.slow_duration) if self._debug else (duration >= self.slow_limit):
            self.slow_count += 1
            self._on_slow_callback(subject, method, started, duration)
        return 0

    cdef int on_stretch(self, double duration, double now) except -1:
        if self._debug:
            # Until the next look, if debug mode is left before. Handles need not wait for this.
            self.timing = True
            self.timing_until = max(self.timing_until, now)
        if duration < self.slow_limit:
            if self.timing and now > self.timing_until:
                self.timing = False
            return 0
        self.stall_count += 1
        self.longest_stall = max(self.longest_stall, duration)
        if not self.timing:
            self.slow_count += 1
            self._on_slow_callback(None, None, now - duration, duration)
            self.timing = now - self.last_stall < TIMING_SPAN
        self.last_stall = now
        self.timing_until = max(self.timing_until, now + TIMING_SPAN)
        return 0

    # ------------------------------------------------------------------------------------------------- timers

    cdef int heap_push(self, TimerHandle timer) except -1:
        timer.sequence = self.timer_sequence
        self.timer_sequence += 1
        return self.heap_place(timer)

    cdef int heap_place(self, TimerHandle timer) except -1:
        cdef Py_ssize_t capacity
        cdef PyObject** heap
        if self.timer_count == self.heap_capacity:
            capacity = self.heap_capacity * 2 if self.heap_capacity else 64
            heap = <PyObject**> realloc(self.heap, capacity * sizeof(PyObject*))
            if heap == NULL:
                raise MemoryError(f"no memory for {capacity} timers")
            self.heap = heap
            self.heap_capacity = capacity
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


cdef int grow_ring(CallbackQueues loop) except -1:
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

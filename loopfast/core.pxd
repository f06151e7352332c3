# The loop's engine: libuv loop and service handles, ready ring, timer heap, wake-up, context, error door.
# Knows nothing of transports, nor of any libuv handle but its own service handles; what lies above is reached through
# the virtual on_* methods.

from cpython.object cimport PyObject
from libc.math cimport isnan
from libc.stdint cimport uint64_t

from loopfast.includes cimport uv
from loopfast.includes.python cimport (
    Py_DECREF, Py_INCREF, Py_TYPE, Py_XDECREF, PyContext_CopyCurrent, PyEval_RestoreThread, PyThreadState, PyTuple_New,
    PyTuple_SET_ITEM, PyTypeObject,
)

cdef enum:
    SPARE_HANDLES = 256
    # Reads of more than glibc's 128 KiB mmap threshold would map and fault fresh pages for every bytes object.
    READ_BUFFER_SIZE = 120 * 1024
    GATHER_BUFFER_SIZE = 64 * 1024
    # Bytes that libuv needs for one datagram, and how many one read may bring.
    DATAGRAM_SIZE = 64 * 1024
    DATAGRAMS_PER_READ = 16


ctypedef struct LoopState:
    # The C half of a loop. Allocated apart from the Python object, because libuv's callbacks may run until
    # uv_loop_close() has succeeded; freed by then and only then. `loop.data` and every service handle's `data` point
    # back here.
    uv.uv_loop_t loop
    uv.uv_async_t wake
    uv.uv_prepare_t before_poll
    uv.uv_check_t after_poll
    uv.uv_timer_t alarm
    # The thread state saved while a blocking poll runs without the GIL; NULL whenever this thread holds the GIL.
    PyThreadState* released
    # The running turn decided to block: before_poll may release the GIL.
    bint may_block
    # True from just before the GIL is released until it is back: only then does a wake-up need uv_async_send.
    bint blocked
    # uv_async_send was called for this blocking poll.
    bint woken
    # `alarm` runs, for the deadline `alarm_deadline`.
    bint alarm_set
    double alarm_deadline
    # Borrowed: the loop that owns this state.
    PyObject* owner


cdef class Handle:
    # A scheduled callback. Not tracked by the cyclic collector: instead it drops callback, arguments and context as
    # soon as it has run or was cancelled, or its loop closed; until then the loop's own traverse vouches for them.
    cdef:
        # The call. All NULL once released.
        PyObject* callback
        PyObject* context
        # args[0] is the spare slot that PY_VECTORCALL_ARGUMENTS_OFFSET asks for; with more than three arguments args[1]
        # is a tuple.
        PyObject* args[4]
        Py_ssize_t nargs
        # Borrowed. Set exactly while the loop's ring, heap or descriptor set holds this handle, so it cannot dangle.
        PyObject* loop
        # Debug mode only: where it was made; how it looked when it was cancelled.
        PyObject* source_traceback
        PyObject* last_repr
        bint is_cancelled
        bint is_running
        bint is_queued
        # Runs more than once (a reader's or a writer's callback): not released after the run.
        bint is_persistent
        object __weakref__

    cdef void release(self) noexcept
    cdef void unschedule(self) noexcept
    cdef int do_cancel(self) except -1


cdef class TimerHandle(Handle):
    cdef:
        # The deadline as the caller gave it, in seconds of loop.time(), and as the heap orders it (NaN is due at once).
        double deadline
        double key
        # Equal deadlines run in the order of creation.
        uint64_t sequence
        # Position in the loop's heap, -1 outside it.
        Py_ssize_t heap_index


# For the modules that make handles and visit them.
cdef int grow_ring(LoopCore loop) except -1
cdef int wake(LoopCore loop) except -1
cdef int remember_source(Handle handle) except -1
cdef PyObject* make_threadsafe_handle(LoopCore loop, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                                      PyObject* context) except NULL
# asyncio has thread-safe handles (Python 3.14).
cdef bint THREAD_SAFE_HANDLES

cdef inline bint polls_elsewhere(LoopCore loop) noexcept:
    # libuv is at work for this loop without the GIL, so the caller is on another thread and must leave libuv alone.
    return loop is not None and loop.state != NULL and loop.state.blocked


cdef inline bint is_plain(PyObject* item) noexcept:
    return Py_TYPE(item) == <PyTypeObject*> Handle or Py_TYPE(item) == <PyTypeObject*> TimerHandle


cdef inline bint is_native(PyObject* item) noexcept:
    # Not a handle that asyncio's own Python code made.
    return is_plain(item) or Py_TYPE(item) == <PyTypeObject*> ThreadSafeHandle


cdef class ThreadSafeHandle(Handle):
    # From Python 3.14 on, what call_soon_threadsafe() returns: cancel() of another thread waits while the callback
    # runs.
    cdef:
        unsigned long runner
        # Locks of the threads that wait, or None.
        list waiters

    cdef int settle(self) except -1
    cdef int run_ended(self) except -1


cdef class LoopObject:
    # Base of all that belongs to one loop and may be called back by it. Lives in the loop's list from attach() to
    # detach().
    cdef:
        # Never cleared before deallocation (no_gc_clear): the loop outlives its objects.
        LoopCore loop
        # Neighbours in the loop's list, borrowed both ways.
        PyObject* next_object
        PyObject* previous_object
        bint is_attached
        # The loop holds one strong reference (see keep()).
        bint is_kept
        # Waits for on_turn_end().
        bint wants_turn_end
        # Waits for on_deferred().
        bint is_deferred

    # Called by subclasses around the life of their libuv handle.
    cdef int attach(self, LoopCore loop) except -1
    cdef void detach(self) noexcept
    # The loop keeps the object alive (it watches a descriptor, a callback will come) until unkeep(). Idempotent.
    cdef void keep(self) noexcept
    cdef void unkeep(self) noexcept
    # From a libuv callback while `loop.deferring`: have on_deferred() called in its turn.
    cdef void defer(self) noexcept
    cdef int on_deferred(self) except -1
    # Upcalls of the loop. on_turn_end: the batch is over, or ran long. on_loop_close: give the libuv handle back.
    # on_fork: this is a child process, and what the kernel keeps for the object is shared with the parent.
    cdef void on_turn_end(self) noexcept
    cdef void on_loop_close(self) noexcept
    cdef void on_fork(self) noexcept


cdef class LoopCore:
    cdef:
        # NULL once closed.
        LoopState* state
        # Lent to a stream during one read callback, copied before it returns. Allocated at the first read.
        char* read_buffer
        # The same for endpoints of datagrams: room for several.
        char* datagram_buffer

        # The bytes object received last if nobody kept it (owned), and the bytes it has memory for.
        PyObject* spare_bytes
        Py_ssize_t spare_bytes_capacity

        # Small writes of the running turn, copied; everything in it has left, or was copied on, when the turn ends.
        char* gather_buffer
        size_t gathered

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
        # Something comes before what the poll that is going on brings: callbacks that were ready, or an event.
        bint deferring
        # The callbacks of the ring that come before this turn's events.
        Py_ssize_t batch

        # Handles that have run and that nobody else refers to, for reuse (owned, empty).
        PyObject* spare[SPARE_HANDLES]
        int spare_count

        # Timers: a 4-ary heap of owned TimerHandles, ordered by (key, sequence).
        PyObject** heap
        Py_ssize_t heap_capacity
        Py_ssize_t timer_count
        uint64_t timer_sequence

        # Objects that asked for on_turn_end() in this turn: owned references.
        PyObject** turn_end
        Py_ssize_t turn_end_capacity
        Py_ssize_t turn_end_count
        double turn_end_since

        # Head of the list of attached LoopObjects (borrowed, but for the kept ones).
        PyObject* objects

        # By descriptor: the transport that owns it (borrowed), so that add_reader() and sock_*() can refuse it.
        PyObject** claims
        int claims_capacity

        # The context that a callback runs in (owned), NULL between callbacks.
        PyObject* entered

        # What a libuv callback raised and the poll must raise on (KeyboardInterrupt, SystemExit, MemoryError).
        object failure

        # Handles that another thread gave up during a poll, and what to close them with.
        uv.uv_handle_t** late
        int late_capacity
        int late_count
        uv.uv_close_cb late_callback

        # How many forks this process had behind it when libuv's loop was made, or made its own again.
        unsigned long forks

        # A turn runs: libuv can neither be entered again nor lose its loop.
        bint in_turn
        # Turns run, for polling now and then while nothing but ourselves is watched.
        uint64_t turns
        unsigned long thread_ident
        # A subclass has a clock of its own: timers go by its time(), not by the monotonic clock.
        bint has_own_clock

    # asyncio's private names for the loop's state: its own methods, which we inherit, read and write them.
    cdef public bint _debug
    cdef public bint _stopping
    cdef public bint _closed
    cdef public object _thread_id
    cdef public object _current_handle
    cdef public object slow_callback_duration
    # The rest of what asyncio's classes store on a loop. As fields they leave the instance dictionary unmade, and
    # without one the interpreter specialises every method call on the loop.
    cdef public object _ready, _scheduled, _timer_cancelled_count, _clock_resolution, _selector, _internal_fds
    cdef public object _default_executor, _executor_shutdown_called, _exception_handler, _task_factory
    cdef public object _asyncgens, _asyncgens_shutdown_called, _old_agen_hooks
    cdef public object _coroutine_origin_tracking_enabled, _coroutine_origin_tracking_saved_depth
    cdef public object _ssock, _csock, _signal_handlers, _transports, _unix_server_sockets
    cdef object __weakref__

    # --- for the modules above
    cdef Handle new_handle(self, PyObject* callback, PyObject** args, Py_ssize_t nargs, PyObject* context)
    cdef Handle schedule(self, object callback, object arg, PyObject* context)
    cdef int push(self, PyObject* handle) except -1
    cdef int push_event(self, PyObject* handle) except -1
    cdef int enter_context(self, PyObject* context) except -1
    cdef int leave_context(self) except -1
    cdef char* borrow_read_buffer(self) except NULL
    cdef char* borrow_datagram_buffer(self) except NULL
    cdef int request_turn_end(self, LoopObject obj) except -1
    cdef int claim_descriptor(self, int fd, LoopObject owner) except -1
    cdef void release_descriptor(self, int fd, LoopObject owner) noexcept
    # From a libuv callback that must not raise: what is still to be raised when the poll returns.
    cdef void fail(self, object exception) noexcept
    cdef int check_open(self) except -1
    # Before anything that would change what the kernel watches for this loop.
    cdef void own_after_fork(self) noexcept
    # Before a new handle: raises where another thread is in libuv.
    cdef int check_not_polling(self) except -1
    # Call `method` on the loop's thread if that is in libuv; return False where it may be done here and now.
    cdef bint left_to_its_thread(self, object method, object argument=*) except -1
    # uv_close(), once the poll of another thread is over.
    cdef void close_late(self, uv.uv_handle_t* handle, uv.uv_close_cb callback) noexcept
    cdef void close_late_handles(self) noexcept

    # --- upcalls
    # The only door to call_exception_handler().
    cdef int report(self, dict context) except -1
    # A sock_*() call waits for `event` of a descriptor, instead of whoever did before.
    cdef int on_descriptor_taken(self, int fd, int event) except -1
    # create_future(), as the interpreter's own or a subclass has it.
    cdef object new_future(self)
    # A listener accepted the connection `fd`; the callee owns the descriptor from here.
    cdef int on_connection(self, LoopObject listener, int fd, void* address, int length) except -1

    # --- the turn
    cdef int run_turn(self) except -1
    cdef int check_not_in_turn(self) except -1
    cdef int run_stages(self, LoopState* state) except -1
    cdef double now(self) except? -1
    cdef int wait(self) except -1
    cdef int wait_finely(self, double deadline) except -1
    cdef int poll(self, uv.uv_run_mode mode) except -1
    cdef int collect_due_timers(self, uint64_t before_turn) except -1
    cdef int collect_around_new_timers(self, uint64_t before_turn, double now) except -1
    cdef int merge_events(self, Py_ssize_t first) except -1
    cdef int heap_place(self, TimerHandle timer) except -1
    cdef int run_ready(self, Py_ssize_t remaining) except -1
    cdef int run_events(self) except -1
    cdef int look_at_the_clock(self) except -1
    cdef int run_unusual(self, PyObject* item) except -1
    cdef int run_handle(self, Handle handle) except -1
    cdef int run_handle_debug(self, Handle handle) except -1
    cdef int on_callback_raised(self, Handle handle) except -1
    cdef int switch_context(self, PyObject* context) noexcept
    cdef int exit_context(self) noexcept
    cdef int raise_failure(self) except -1
    cdef int finish_turn(self) except -1
    cdef object new_call(self, object callback, tuple args, object context, str method, bint check_thread)
    cdef object new_timer(self, double deadline, object callback, tuple args, object context, str method)
    cdef int check_call(self, object callback, str method, bint check_thread) except -1
    cdef int heap_push(self, TimerHandle timer) except -1
    cdef void heap_remove(self, TimerHandle timer) noexcept
    cdef void drop_handles(self) noexcept
    cdef int close_state(self) except -1


cdef void gil_is_back(LoopState* state) noexcept


cdef inline void hold_gil(LoopState* state) noexcept:
    # First statement of every libuv callback that touches Python: take the GIL back if the poll released it.
    cdef PyThreadState* saved = state.released
    if saved != NULL:
        state.released = NULL
        PyEval_RestoreThread(saved)
        gil_is_back(state)


# How a call is stored in a handle: inline here, because every scheduling call of every module does it.

cdef inline int fill_handle(PyObject* item, LoopCore loop, PyObject* callback, PyObject** args, Py_ssize_t nargs,
                            PyObject* context) except -1:
    # Store the call in the fresh handle `item`; without a `context` the current one is copied now, never later.
    cdef Py_ssize_t i
    cdef PyObject* packed = NULL
    if nargs > 3:
        packed = PyTuple_New(nargs)
        if packed == NULL:
            return -1
        for i in range(nargs):
            Py_INCREF(args[i])
            PyTuple_SET_ITEM(packed, i, args[i])
    if context == NULL:
        context = PyContext_CopyCurrent()
        if context == NULL:
            Py_XDECREF(packed)
            return -1
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

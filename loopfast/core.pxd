# The loop's engine: libuv loop and service handles, the turn, wake-up, context, error door.
# Knows nothing of transports, nor of any libuv handle but its own service handles; what lies above is reached through
# the virtual on_* methods.

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from loopfast.buffers cimport LoopBuffers
from loopfast.callbacks cimport Handle, runs_elsewhere
from loopfast.includes cimport uv
from loopfast.includes.platform cimport lf_monotonic
from loopfast.includes.python cimport PyEval_RestoreThread, PyThreadState
from loopfast.includes.threads cimport LF_FREE_THREADED

cdef extern from *:
    # A bint of one byte, for what there is one of for every connection.
    ctypedef bint flag "unsigned char"


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
    # Descriptors of users that are watched: like libuv's own handles, they are something to poll for.
    int watched
    # Borrowed: the DescriptorSet that they are in, which takes itself out; NULL without one.
    PyObject* descriptors
    # Jobs on files that libuv has: closing the loop waits a while for them.
    unsigned int file_jobs
    # By the monotonic clock: when the last blocking poll began, and when the loop last looked at it or was woken.
    double asleep_since
    double awake_since
    # Borrowed: the loop that owns this state.
    PyObject* owner


cdef int wake(LoopCore loop) except -1


cdef inline bint polls_elsewhere(LoopCore loop) noexcept:
    # libuv is at work for this loop without the GIL, so the caller is on another thread and must leave libuv alone. In
    # a build without the GIL: another thread runs the loop, and all of it must be left alone.
    if LF_FREE_THREADED:
        return loop is not None and runs_elsewhere(loop)
    return loop is not None and loop.state != NULL and loop.state.blocked


cdef class LoopObject:
    # Base of all that belongs to one loop and may be called back by it. Lives in the loop's list from attach() to
    # detach().
    cdef:
        # Never cleared before deallocation (no_gc_clear): the loop outlives its objects.
        LoopCore loop
        # Neighbours in the loop's list, borrowed both ways.
        PyObject* next_object
        PyObject* previous_object
        flag is_attached
        # The loop holds one strong reference (see keep()).
        flag is_kept
        # Waits for on_turn_end().
        flag wants_turn_end
        # Waits for on_deferred().
        flag is_deferred

    # Called by subclasses around the life of their libuv handle.
    cdef int attach(self, LoopCore loop) except -1
    cdef void detach(self) noexcept
    cdef void unlink(self) noexcept
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


cdef class LoopCore(LoopBuffers):
    cdef:
        # NULL once closed.
        LoopState* state
        # Something comes before what the poll that is going on brings: callbacks that were ready, or an event.
        bint deferring
        # The callbacks of the ring that come before this turn's events.
        Py_ssize_t batch

        # Objects that asked for on_turn_end() in this turn: owned references.
        PyObject** turn_end
        Py_ssize_t turn_end_capacity
        Py_ssize_t turn_end_count
        double turn_end_since

        # Head of the list of attached LoopObjects (borrowed, but for the kept ones).
        PyObject* objects

        # What a libuv callback raised and the poll must raise on (KeyboardInterrupt, SystemExit, MemoryError).
        object failure

        # Reads of files that were done at once, and in which turn.
        int reads_now
        uint64_t reads_now_turn

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
        # Connections with TLS that servers have accepted, whose handshake is not over.
        int handshakes
        # Seconds in runs that are over, seconds asleep, and when the run that goes on began (0: none does).
        double run_time
        double idle_time
        double running_since
        # Events that libuv had counted when the loop was closed.
        uint64_t closed_events
        # A subclass has a clock of its own: timers go by its time(), not by the monotonic clock.
        bint has_own_clock

    # asyncio's private names for the loop's state: its own methods, which we inherit, read and write them.
    cdef public bint _stopping
    # `_closed`, which every thread asks for.
    cdef bint closed
    # `_thread_id`; 0 stands for None.
    cdef unsigned long running_thread
    # The rest of what asyncio's classes store on a loop. As fields they leave the instance dictionary unmade, and
    # without one the interpreter specialises every method call on the loop.
    cdef public object _ready, _scheduled, _timer_cancelled_count, _clock_resolution, _selector, _internal_fds
    cdef public object _default_executor, _executor_shutdown_called, _exception_handler, _task_factory
    cdef public object _asyncgens, _asyncgens_shutdown_called, _old_agen_hooks
    cdef public object _coroutine_origin_tracking_enabled, _coroutine_origin_tracking_saved_depth
    cdef public object _ssock, _csock, _signal_handlers, _transports, _unix_server_sockets, _watcher
    # What our own Python half stores on it.
    cdef public object _previous_wakeup_fd, _installed_meanwhile, _pidfds, _pipes, _upgrading, _slow_calls, _slow_sample
    cdef public object _endpoint, _executor_chosen
    # What loopfast.uv has on this loop, or None: told when the loop closes.
    cdef public object _binding
    # What statistics() shows: bytes that the kernel gave and took, connections accepted, failures of accept(). Counted
    # where it happens, never reset.
    cdef public uint64_t _bytes_received, _bytes_sent, _accepted, _accept_errors
    cdef object __weakref__

    # --- for the modules above
    cdef int request_turn_end(self, LoopObject obj) except -1
    # From a libuv callback that must not raise: what is still to be raised when the poll returns.
    cdef void fail(self, object exception) noexcept
    # Before anything that would change what the kernel watches for this loop.
    cdef void own_after_fork(self) noexcept
    # This is a child that has not done so yet: what the kernel has is the parent's.
    cdef bint is_forked(self) noexcept
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
    # A transport is made for a descriptor that readers and writers may wait for.
    cdef int on_descriptor_claimed(self, int fd) except -1
    # create_future(), as the interpreter's own or a subclass has it.
    cdef object new_future(self)
    # Takes the data for `protocol`, a FastProtocol; None if data_received() of the protocol does.
    cdef object on_protocol(self, object protocol)
    # A listener accepted the connection `fd`; the callee owns the descriptor from here.
    cdef int on_connection(self, LoopObject listener, int fd, void* address, int length) except -1

    # --- the turn
    cdef int run_turn(self) except -1
    cdef int end_stretch(self, LoopState* state) except -1
    cdef int check_not_in_turn(self) except -1
    cdef int run_stages(self, LoopState* state) except -1
    cdef double now(self) except? -1
    cdef int wait(self) except -1
    cdef int wait_finely(self, double deadline) except -1
    cdef int poll(self, uv.uv_run_mode mode) except -1
    cdef int run_ready(self, Py_ssize_t remaining) except -1
    cdef int run_events(self) except -1
    cdef int look_at_the_clock(self) except -1
    cdef int run_unusual(self, PyObject* item) except -1
    cdef int on_callback_raised(self, Handle handle) except -1
    cdef int raise_failure(self) except -1
    cdef int finish_turn(self) except -1
    cdef void shut(self) noexcept
    cdef PyObject* first_object(self) noexcept
    cdef void drop_handles(self) noexcept
    cdef int close_state(self) except -1


cdef void gil_is_back(LoopState* state) noexcept


cdef inline bint handed_over(LoopObject obj, str method) except -1:
    # left_to_its_thread() for a method of `obj` without arguments, which is bound only where it must be.
    return polls_elsewhere(obj.loop) and obj.loop.left_to_its_thread(getattr(obj, method))


cdef inline bint handed_over_with(LoopObject obj, str method, object argument) except -1:
    return polls_elsewhere(obj.loop) and obj.loop.left_to_its_thread(getattr(obj, method), argument)


cdef inline bint is_for_its_thread(LoopCore loop) noexcept:
    # Where the GIL makes a call from another thread as good as a callback, and without it the loop's thread must make
    # the call.
    return LF_FREE_THREADED and loop is not None and runs_elsewhere(loop)


cdef inline void hold_gil(LoopState* state) noexcept:
    # First statement of every libuv callback that touches Python: take the GIL back if the poll released it.
    cdef PyThreadState* saved = state.released
    if saved != NULL:
        state.released = NULL
        state.awake_since = lf_monotonic()
        PyEval_RestoreThread(saved)
        gil_is_back(state)

"""The loop's engine: one turn of the loop, wake-up from other threads, contexts, objects that belong to the loop.

A turn is: poll (skipped while nothing is watched), due timers, the callbacks that were ready, the end-of-turn work
(gathered writes). ``uv_run`` is called with the GIL held; it is released only around a poll that blocks.
"""

import errno
import os
import sys
import types

cimport cython
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport ceil
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, realloc

from loopfast.buildinfo cimport COUNTERS
from loopfast.callbacks cimport (
    Handle, ThreadSafeHandle, TimerHandle, describe_callback, drop_call, exit_context, give_up_context, is_native,
    is_plain, make_context_to_run, recycle, runs_here, switch_context, take_what_others_scheduled,
)
from loopfast.errors cimport check
from loopfast.includes cimport uv
from loopfast.includes.closing cimport lf_end_left_open, lf_end_loop, lf_forget_left_open, lf_wait_for_jobs
from loopfast.includes.counters cimport LF_UV_HANDLE, lf_freed, lf_made
from loopfast.includes.platform cimport (
    LF_FINE_WAIT, lf_hold_low_descriptors, lf_keep_heap, lf_let_low_descriptors_go, lf_monotonic, lf_pause,
    lf_wait_readable,
)
from loopfast.includes.python cimport (
    Py_DECREF, Py_INCREF, Py_TYPE, Py_XDECREF, PY_VECTORCALL_ARGUMENTS_OFFSET, PyContext_CheckExact, PyErr_CheckSignals,
    PyEval_SaveThread, PyObject_Call, PyTypeObject, call_vector, propagate, set_attribute,
)
from loopfast.includes.threads cimport (
    LF_FREE_THREADED, lf_lend, lf_load_flag, lf_load_runner, lf_lock, lf_reset, lf_store_flag, lf_store_runner,
    lf_try_incref, lf_unlock,
)

cdef extern from "threads.h":
    LoopState* lf_load_state "lf_load"(LoopState** place) noexcept
    void lf_store_state "lf_store"(LoopState** place, LoopState* state) noexcept

cdef enum:
    # With callbacks ready and nothing watched but ourselves, poll only every so many turns.
    TURNS_BETWEEN_POLLS = 61
    # Without sleep, look at the clock every so many turns for whether they took too long: a reading is a hundredth of
    # a turn that runs one callback.
    TURNS_BETWEEN_CLOCKS = 8
    # A long batch looks at the clock every so many callbacks while end-of-turn work waits.
    CALLBACKS_BETWEEN_LOOKS = 8

# Seconds that end-of-turn work (gathered writes) may wait behind a long batch.
cdef double TURN_END_PATIENCE = 0.001
# Seconds below which the alarm, which counts whole milliseconds, is too coarse.
cdef double FINE_WAIT_LIMIT = 0.001
# Seconds; no poll sleeps longer (as asyncio's MAXIMUM_SELECT_TIMEOUT).
cdef double LONGEST_SLEEP = 24 * 3600.0

cdef object NO_ARGUMENT = object()

lf_keep_heap()


# --------------------------------------------------------------------------------------------------------- loop objects

@cython.no_gc_clear
cdef class LoopObject:
    """Base of the extension types that belong to one loop. Not for direct use."""

    cdef int attach(self, LoopCore loop) except -1:
        if loop.state == NULL:
            raise RuntimeError("Event loop is closed")
        self.loop = loop
        self.previous_object = NULL
        lf_lend(<PyObject*> self)
        lf_lock(&loop.mutex)
        self.next_object = loop.objects
        if loop.objects != NULL:
            (<LoopObject> loop.objects).previous_object = <PyObject*> self
        loop.objects = <PyObject*> self
        self.is_attached = True
        lf_unlock(&loop.mutex)
        lf_made(COUNTERS, LF_UV_HANDLE)
        return 0

    cdef void detach(self) noexcept:
        if not self.is_attached:
            return
        lf_lock(&self.loop.mutex)
        self.unlink()
        lf_unlock(&self.loop.mutex)
        lf_freed(COUNTERS, LF_UV_HANDLE)
        self.unkeep()

    cdef void unlink(self) noexcept:
        """Leave the loop's list; the caller has the lock."""
        if self.previous_object != NULL:
            (<LoopObject> self.previous_object).next_object = self.next_object
        else:
            self.loop.objects = self.next_object
        if self.next_object != NULL:
            (<LoopObject> self.next_object).previous_object = self.previous_object
        self.is_attached = False
        self.next_object = self.previous_object = NULL

    cdef void keep(self) noexcept:
        if not self.is_kept and self.is_attached:
            self.is_kept = True
            Py_INCREF(<PyObject*> self)

    cdef void unkeep(self) noexcept:
        if self.is_kept:
            self.is_kept = False
            Py_DECREF(<PyObject*> self)

    cdef void defer(self) noexcept:
        if not self.is_deferred:
            try:
                self.loop.push_event(<PyObject*> self)
                self.is_deferred = True
            except MemoryError as exc:
                self.loop.fail(exc)

    cdef int on_deferred(self) except -1:
        return 0

    cdef void on_turn_end(self) noexcept:
        pass

    cdef void on_loop_close(self) noexcept:
        self.detach()

    cdef void on_fork(self) noexcept:
        pass


# ------------------------------------------------------------------------------------------------ libuv's own callbacks

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
    if (<LoopCore> state.owner).ready_count or (<LoopCore> state.owner).turn_end_count or (
            state.alarm_set and (<LoopCore> state.owner).timer_count
            and (<TimerHandle> (<LoopCore> state.owner).heap[0]).key < state.alarm_deadline):
        # Another prepare or idle callback (made through cffi), or another thread, has scheduled something since the
        # decision.
        uv.uv_async_send(&state.wake)
    (<LoopCore> state.owner).leave_context()
    fall_asleep(state)
    state.released = PyEval_SaveThread()


cdef void after_poll(uv.uv_check_t* handle) noexcept:
    """Take the GIL back if no callback did."""
    hold_gil(<LoopState*> handle.data)


cdef void enter_from_callback(uv.uv_loop_t* loop) noexcept:
    """For callbacks that other modules have put on a loop of ours."""
    hold_gil(<LoopState*> loop.data)


cdef void close_foreign(uv.uv_handle_t* handle, void* arg) noexcept nogil:
    """Close what somebody made on this loop through libuv_get_loop_t_ptr() and left open."""
    if not uv.uv_is_closing(handle):
        uv.uv_close(handle, NULL)


# The forks between the first import of this module and this process.
cdef unsigned long fork_count = 0


def _count_fork():
    global fork_count
    fork_count += 1
    lf_forget_left_open()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)
# Nobody else's to call.
del _count_fork


# ----------------------------------------------------------------------------------------------------------------- loop

cdef class LoopCore(LoopBuffers):
    """The engine below `loopfast.Loop`. Not for direct use."""

    def __cinit__(self, *args, **kwargs):
        cdef LoopState* state
        lf_end_left_open()
        state = <LoopState*> calloc(1, sizeof(LoopState))
        if state == NULL:
            raise MemoryError("no memory for a libuv loop")
        cdef int held = lf_hold_low_descriptors()
        cdef int status = uv.uv_loop_init(&state.loop)
        lf_let_low_descriptors_go(held)
        if status < 0:
            free(state)
            check(status)
        self.state = state
        lf_lend(<PyObject*> self)
        self.forks = fork_count
        state.owner = <PyObject*> self
        state.loop.data = state
        self.slow_callback_duration = 0.1
        self.has_own_clock = type(self).time is not LoopCore.time
        try:
            # Only the wake-up is referenced: it makes the loop sleep rather than return, and counts as the one active
            # handle.
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
        free(self.turn_end)
        free(self.late)

    # ------------------------------------------------------------------------------------------------- closing

    cdef void shut(self) noexcept:
        """Take nothing of other threads any more; what they have scheduled goes into the ring."""
        if not LF_FREE_THREADED:
            return
        lf_lock(&self.mutex)
        self.is_shut = True
        lf_unlock(&self.mutex)
        try:
            take_what_others_scheduled(self)
        except MemoryError:
            # They are never freed.
            pass

    cdef void drop_handles(self) noexcept:
        """Drop every queued callback, so that none keeps its arguments or this loop alive."""
        cdef PyObject* item
        self.shut()
        while self.ready_count:
            item = self.ring[self.ring_head]
            self.ring_head = (self.ring_head + 1) & (self.ring_capacity - 1)
            self.ready_count -= 1
            drop_queued(item)
        while self.event_head < self.event_count:
            item = self.events[self.event_head]
            self.event_head += 1
            drop_queued(item)
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
        Py_XDECREF(self.spare_context)
        self.entered = self.spare_context = NULL

    cdef int close_state(self) except -1:
        """Close every handle on the libuv loop, then the loop. Memory is freed only when libuv has let go of all of
        it."""
        cdef LoopState* state = self.state
        cdef PyObject* obj
        if state == NULL:
            return 0
        lf_end_left_open()
        self.own_after_fork()
        while self.objects != NULL:
            obj = self.first_object()
            if obj == NULL:
                break
            (<LoopObject> obj).on_loop_close()
            (<LoopObject> obj).detach()
            Py_DECREF(obj)
        if self.state == NULL:
            # Code of the user's that ran in the loop above has closed this loop.
            return 0
        self.close_late_handles()
        lf_lock(&self.mutex)
        self.closed_events = uv.lf_loop_events(&state.loop)
        lf_store_state(&self.state, NULL)
        lf_unlock(&self.mutex)
        state.may_block = False
        uv.uv_walk(&state.loop, close_foreign, NULL)
        lf_wait_for_jobs(&state.loop, &state.file_jobs)
        lf_end_loop(&state.loop)
        return 0

    cdef PyObject* first_object(self) noexcept:
        """Return a new reference to an attached object, once those that other threads just deallocate are gone; NULL if
        there is none."""
        cdef PyObject* obj
        while True:
            lf_lock(&self.mutex)
            obj = self.objects
            while obj != NULL and not lf_try_incref(obj):
                obj = (<LoopObject> obj).next_object
            lf_unlock(&self.mutex)
            if obj != NULL or self.objects == NULL:
                return obj
            with nogil:
                lf_pause()

    def _close_core(self):
        """Drop all callbacks and close the libuv loop. Called by `Loop.close` once the rest is down."""
        if self.in_turn:
            # `_thread_id`, which close() looks at, can be set by anybody.
            raise RuntimeError("Cannot close a running event loop")
        if LF_FREE_THREADED and not self.begin_to_run():
            raise RuntimeError("Cannot close a running event loop")
        try:
            self.drop_handles()
            self.close_state()
        finally:
            if LF_FREE_THREADED:
                self.cease_to_run()

    cdef int check_open(self) except -1:
        if lf_load_flag(&self.closed) or lf_load_state(&self.state) == NULL:
            raise RuntimeError("Event loop is closed")
        return 0

    def _check_closed(self):
        self.check_open()

    # ------------------------------------------------------------------------------------------------- other threads
    # libuv knows no locks. While a poll has let go of the GIL, whatever would enter libuv from another thread is
    # refused, or left to the loop's own thread. At all other times the GIL makes such a call as good as one from a
    # callback.

    cdef void own_after_fork(self) noexcept:
        """In a forked child: part from the parent, whose epoll set and wake-up descriptor the child has inherited.

        Where the kernel has none left for this process, the loop counts as closed and its memory is never freed.
        """
        cdef LoopState* state = self.state
        cdef PyObject* obj
        if self.forks == fork_count or state == NULL:
            return
        self.forks = fork_count
        lf_reset(&self.mutex)
        if state.blocked:
            # The thread that was in this poll does not exist here.
            state.blocked = False
            state.released = NULL
            self.in_turn = False
        if uv.lf_loop_fork(&state.loop) < 0:
            self.state = NULL
            return
        obj = self.objects
        while obj != NULL:
            (<LoopObject> obj).on_fork()
            obj = (<LoopObject> obj).next_object

    cdef int check_not_polling(self) except -1:
        if polls_elsewhere(self):
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")
        return 0

    cdef bint left_to_its_thread(self, object method, object argument=NO_ARGUMENT) except -1:
        if not polls_elsewhere(self):
            return False
        if argument is NO_ARGUMENT:
            self.call_soon_threadsafe(method)
        else:
            self.call_soon_threadsafe(method, argument)
        return True

    cdef void close_late(self, uv.uv_handle_t* handle, uv.uv_close_cb callback) noexcept:
        # Without the GIL the caller has the lock.
        cdef int capacity
        cdef uv.uv_handle_t** late
        if self.late_count == self.late_capacity:
            capacity = self.late_capacity * 2 if self.late_capacity else 16
            late = <uv.uv_handle_t**> realloc(self.late, capacity * sizeof(uv.uv_handle_t*))
            if late == NULL:
                # Left open until the loop closes; its memory stays.
                return
            self.late = late
            self.late_capacity = capacity
        self.late[self.late_count] = handle
        self.late_count += 1
        self.late_callback = callback
        if not self.state.woken:
            self.state.woken = True
            uv.uv_async_send(&self.state.wake)

    cdef void close_late_handles(self) noexcept:
        lf_lock(&self.mutex)
        while self.late_count:
            self.late_count -= 1
            uv.uv_close(self.late[self.late_count], self.late_callback)
        lf_unlock(&self.mutex)

    # ------------------------------------------------------------------------------------------------- queues

    def _add_callback(self, handle):
        if not handle._cancelled:
            if isinstance(handle, TimerHandle) and not is_for_its_thread(self):
                (<TimerHandle> handle).unschedule()
            self.push(<PyObject*> handle)

    def _add_callback_signalsafe(self, handle):
        self._add_callback(handle)
        self._write_to_self()

    def _write_to_self(self):
        """Wake the loop from a blocking poll. May be called from any thread."""
        wake(self)

    def time(self) -> float:
        """Return the loop's clock, that of ``time.monotonic()``, in seconds."""
        return lf_monotonic()

    # asyncio asks the loop for the time at each turn: a test that replaces time() on a loop moves its timers.
    def __setattr__(self, name, value):
        set_attribute(<PyObject*> self, <PyObject*> name, <PyObject*> value)
        if name == "time":
            self.has_own_clock = True

    def __delattr__(self, name):
        set_attribute(<PyObject*> self, <PyObject*> name, NULL)
        if name == "time":
            self.has_own_clock = type(self).time is not LoopCore.time

    # ------------------------------------------------------------------------------------------------- the turn

    def _run_once(self):
        """Run one turn of the loop."""
        cdef bint begins
        self.check_open()
        self.check_not_in_turn()
        begins = LF_FREE_THREADED and not runs_here(self)
        if begins and not self.begin_to_run():
            raise RuntimeError("This event loop is already running")
        try:
            self.run_turn()
        finally:
            self.leave_context()
            if begins:
                self.cease_to_run()

    def _run_until_stopped(self):
        """Run turns until `stop()`; at least one. The caller has set the running loop."""
        self.check_open()
        self.check_not_in_turn()
        if LF_FREE_THREADED and not self.begin_to_run():
            raise RuntimeError("This event loop is already running")
        self.running_since = self.state.awake_since = lf_monotonic()
        try:
            while True:
                self.run_turn()
                if self._stopping:
                    break
        finally:
            if self.state != NULL:
                self.end_stretch(self.state)
            self.run_time += lf_monotonic() - self.running_since
            self.running_since = 0
            self.leave_context()
            try:
                if self.turn_end_count:
                    self.finish_turn()
            finally:
                if LF_FREE_THREADED:
                    self.cease_to_run()

    @property
    def _closed(self):
        return bool(lf_load_flag(&self.closed))

    @_closed.setter
    def _closed(self, bint value):
        lf_store_flag(&self.closed, value)

    @property
    def _thread_id(self):
        # A number made for each look: others may look while it changes.
        return lf_load_runner(&self.running_thread) or None

    @_thread_id.setter
    def _thread_id(self, value):
        lf_store_runner(&self.running_thread, 0 if value is None else value)

    cdef int end_stretch(self, LoopState* state) except -1:
        """The loop is about to sleep, or comes round: note if that took long."""
        cdef double now = lf_monotonic()
        cdef double since = state.awake_since
        state.asleep_since = state.awake_since = now
        if self.running_since and (now - since > self.slow_limit or self.timing or self._debug):
            self.on_stretch(now - since, now)
        return 0

    def stop(self):
        """Let the loop finish the current batch of callbacks and then return from ``run_forever``."""
        self._stopping = True

    cdef int check_not_in_turn(self) except -1:
        if self.in_turn:
            # From a callback or from another thread; libuv supports neither.
            raise RuntimeError("This event loop is already running")
        return 0

    cdef int run_turn(self) except -1:
        if self.state == NULL:
            raise RuntimeError("Event loop is closed")
        self.in_turn = True
        try:
            self.run_stages(self.state)
        finally:
            self.in_turn = False
            if self.event_count:
                self.merge_events(min(self.batch, self.ready_count))
        return 0

    cdef int run_stages(self, LoopState* state) except -1:
        """Poll; run what was ready before, what the poll brought, and the timers that are due, in this order.

        With nothing ready before, what the poll brings runs inside it, and what that schedules runs at once, where
        asyncio polls again first.
        """
        cdef uint64_t before_turn = self.timer_sequence
        cdef bint idle
        self.turns += 1
        take_what_others_scheduled(self)
        if self.turns % TURNS_BETWEEN_CLOCKS == 0:
            self.end_stretch(state)
        self.batch = self.ready_count
        self.deferring = self.batch > 0
        if self.ready_count == 0 and not self._stopping:
            self.wait()
        elif watches(state) or self._stopping or self.timing or self.turns % TURNS_BETWEEN_POLLS == 0:
            self.poll(uv.UV_RUN_NOWAIT)
        self.deferring = False
        if self.timer_count:
            self.collect_due_timers(before_turn, self.now())
        PyErr_CheckSignals()
        idle = self.batch == 0
        if not idle:
            self.run_ready(self.batch)
        if self.event_count:
            self.run_events()
        if idle and self.ready_count and not self._stopping:
            self.batch = self.ready_count
            if self.timer_count:
                # Those just made too: this is a turn of its own, but for the poll.
                self.collect_due_timers(self.timer_sequence, self.now())
            self.run_ready(self.batch)
            if self.event_count:
                self.run_events()
        if self.turn_end_count:
            self.finish_turn()
        return 0

    cdef double now(self) except? -1:
        if self.has_own_clock:
            return self.time()
        return lf_monotonic()

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
        remaining = deadline - self.now()
        if not remaining > 0:
            if watches(state) or self.turns % TURNS_BETWEEN_POLLS == 0:
                return self.poll(uv.UV_RUN_NOWAIT)
            return 0
        if LF_FINE_WAIT and remaining < FINE_WAIT_LIMIT:
            return self.wait_finely(deadline)
        # libuv's own notion of now is from the end of the last poll; without this the batch's run time would be slept
        # again.
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
        if (self.ready_count or self.event_count or self.turn_end_count or self._stopping or self.state == NULL
                or not self.timer_count):
            return 0
        remaining = min(deadline, (<TimerHandle> self.heap[0]).key) - self.now()
        if not remaining > 0:
            return 0
        fd = uv.uv_backend_fd(&state.loop)
        self.end_stretch(state)
        fall_asleep(state)
        with nogil:
            lf_wait_readable(fd, remaining)
            state.awake_since = lf_monotonic()
        gil_is_back(state)
        return self.poll(uv.UV_RUN_NOWAIT)

    cdef int poll(self, uv.uv_run_mode mode) except -1:
        cdef LoopState* state = self.state
        self.leave_context()
        if mode == uv.UV_RUN_ONCE:
            self.end_stretch(state)
        if self.forks != fork_count:
            self.own_after_fork()
            if self.state == NULL:
                raise OSError(errno.EMFILE, "no descriptors for the event loop of a forked process")
        state.may_block = mode == uv.UV_RUN_ONCE
        uv.uv_run(&state.loop, mode)
        state.may_block = False
        self.deferring = False
        if self.late_count:
            self.close_late_handles()
        return self.raise_failure()

    cdef int run_ready(self, Py_ssize_t remaining) except -1:
        """Run the first *remaining* callbacks of the ring; what they schedule waits for the next turn."""
        cdef PyObject* item
        while remaining > 0 and self.ready_count:
            remaining -= 1
            self.batch = remaining
            item = self.ring[self.ring_head]
            self.ring_head = (self.ring_head + 1) & (self.ring_capacity - 1)
            self.ready_count -= 1
            run_queued(self, item)
            if self.turn_end_count and remaining % CALLBACKS_BETWEEN_LOOKS == 0:
                self.look_at_the_clock()
        return 0

    cdef int run_events(self) except -1:
        """Run what the poll brought."""
        cdef PyObject* item
        while self.event_head < self.event_count:
            item = self.events[self.event_head]
            self.event_head += 1
            run_queued(self, item)
            if self.turn_end_count and self.event_head % CALLBACKS_BETWEEN_LOOKS == 0:
                self.look_at_the_clock()
        self.event_head = self.event_count = 0
        return 0

    cdef int look_at_the_clock(self) except -1:
        """Send what was gathered if this batch runs long."""
        if lf_monotonic() - self.turn_end_since > TURN_END_PATIENCE:
            self.finish_turn()
        return 0

    cdef int run_unusual(self, PyObject* item) except -1:
        """Run what run_queued() leaves: debug mode, what was deferred, thread-safe handles, those of asyncio's own
        Python code."""
        cdef Handle handle
        if is_native(item):
            handle = <Handle> item
            handle.is_queued = False
            if Py_TYPE(item) == <PyTypeObject*> ThreadSafeHandle:
                if not (<ThreadSafeHandle> handle).run_begins():
                    return 0
            elif handle.callback == NULL:
                return 0
            elif LF_FREE_THREADED and handle.is_cancelled:
                handle.release()
                return 0
            try:
                if self._debug or self.timing:
                    return self.run_handle_timed(handle)
                return self.run_handle(handle)
            finally:
                if Py_TYPE(item) == <PyTypeObject*> ThreadSafeHandle:
                    (<ThreadSafeHandle> handle).run_ended()
        foreign = <object> item
        if isinstance(foreign, LoopObject):
            (<LoopObject> foreign).is_deferred = False
            (<LoopObject> foreign).on_deferred()
            return self.raise_failure()
        # Signal handlers and child watchers.
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
        if not handle.has_table and not PyContext_CheckExact(handle.context):
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
        if handle._source_traceback is not None:
            context["source_traceback"] = handle._source_traceback
        return self.report(context)

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
        # Only a write from another thread finds the loop asleep.
        return wake(self)

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
        sys.unraisablehook(types.SimpleNamespace(
            exc_type=type(exception), exc_value=exception, exc_traceback=exception.__traceback__, object=None,
            err_msg="Exception ignored while another one already ends the event loop's run"))

    # ------------------------------------------------------------------------------------------------- upcalls

    cdef int report(self, dict context) except -1:
        self.call_exception_handler(context)
        return 0

    cdef int on_descriptor_taken(self, int fd, int event) except -1:
        return 0

    cdef int on_descriptor_claimed(self, int fd) except -1:
        return 0

    cdef bint is_forked(self) noexcept:
        return self.forks != fork_count

    cdef object on_protocol(self, object protocol):
        return None

    cdef object new_future(self):
        raise NotImplementedError

    cdef int on_connection(self, LoopObject listener, int fd, void* address, int length) except -1:
        raise NotImplementedError("on_connection() belongs to BaseLoop")

    def libuv_get_loop_t_ptr(self):
        """Return a ``PyCapsule`` with this loop's ``uv_loop_t*`` (the name uvloop gave this method).

        The pointer is valid until the loop is closed.

        Raises:
            RuntimeError: the loop is closed.
        """
        self.check_open()
        # What is made with it is not to change what a forked process's parent watches.
        self.own_after_fork()
        self.check_open()
        return PyCapsule_New(&self.state.loop, NULL, NULL)

    def _libuv_enter_ptr(self):
        """Return a ``PyCapsule`` with the ``void f(uv_loop_t*)`` that libuv callbacks made elsewhere begin with."""
        return PyCapsule_New(<void*> enter_from_callback, NULL, NULL)


# -------------------------------------------------------------------------------------------------------------- helpers

cdef void drop_queued(PyObject* item) noexcept:
    """Drop a handle that a queue held and that will not run."""
    if is_native(item):
        (<Handle> item).is_queued = False
        if not (<Handle> item).is_running and not (<Handle> item).is_persistent:
            (<Handle> item).release()
    elif isinstance(<object> item, LoopObject):
        (<LoopObject> item).is_deferred = False
    Py_DECREF(item)


cdef inline int run_queued(LoopCore loop, PyObject* item) except -1:
    """Run the handle *item* that a queue held; the queue's reference passes to this function."""
    cdef PyObject* result
    cdef PyObject* context
    loop.callback_count += 1
    if loop._debug or loop.timing or not is_plain(item) or (LF_FREE_THREADED and (<Handle> item).is_persistent):
        # The queue's reference becomes this variable's, which every way out of the function drops.
        handle = <object> item
        Py_DECREF(item)
        loop.run_unusual(item)
    elif LF_FREE_THREADED and (<Handle> item).is_cancelled:
        # By another thread.
        drop_call(item)
        recycle(loop, item)
    elif (<Handle> item).is_persistent:
        # A reader's or a writer's.
        handle = <object> item
        Py_DECREF(item)
        (<Handle> item).is_queued = False
        if (<Handle> item).callback != NULL:
            loop.run_handle(<Handle> item)
    elif (<Handle> item).callback != NULL:
        (<Handle> item).is_running = True
        result = call_handle(loop, item)
        if result == NULL:
            handle = <object> item
            Py_DECREF(item)
            loop.on_callback_raised(<Handle> item)
            (<Handle> item).is_running = False
            drop_call(item)
        else:
            Py_DECREF(result)
            (<Handle> item).is_running = False
            context = (<Handle> item).context
            (<Handle> item).context = NULL
            drop_call(item)
            give_up_context(loop, context)
            recycle(loop, item)
    else:
        recycle(loop, item)
    return 0


cdef inline PyObject* call_handle(LoopCore loop, PyObject* item) noexcept:
    """Call the handle *item* in its context; NULL with the exception set."""
    cdef PyObject* result
    if (<Handle> item).has_table and make_context_to_run(loop, item) < 0:
        return NULL
    if switch_context(loop, (<Handle> item).context) < 0:
        return NULL
    if (<Handle> item).nargs <= 3:
        result = call_vector((<Handle> item).callback, &(<Handle> item).args[1],
                             (<Handle> item).nargs | PY_VECTORCALL_ARGUMENTS_OFFSET)
    else:
        result = PyObject_Call((<Handle> item).callback, (<Handle> item).args[1], NULL)
    # At once, although the next callback may well have the same context: the destructors of what this one leaves behind
    # run outside of it, as on asyncio, and may enter it themselves (Task.__del__ reports in the task's context).
    exit_context(loop)
    return result


cdef inline bint watches(LoopState* state) noexcept nogil:
    """True if libuv has anything to look after but our own wake-up."""
    return state.loop.active_handles > 1 or state.watched > 0 or state.loop.active_reqs.count > 0


cdef void gil_is_back(LoopState* state) noexcept:
    """The loop's thread has the GIL again. What other threads have scheduled meanwhile comes before what the poll
    brings: they may have caused that afterwards."""
    cdef LoopCore loop = <LoopCore> state.owner
    lf_lock(&loop.mutex)
    state.blocked = False
    lf_unlock(&loop.mutex)
    loop.idle_time += state.awake_since - state.asleep_since
    if LF_FREE_THREADED:
        take_or_fail(loop)
    if loop.ready_count:
        loop.batch = loop.ready_count
        loop.deferring = True


cdef void take_or_fail(LoopCore loop) noexcept:
    try:
        take_what_others_scheduled(loop)
    except MemoryError as exc:
        loop.fail(exc)


cdef int wake(LoopCore loop) except -1:
    cdef LoopState* state
    cdef int status = 0
    lf_lock(&loop.mutex)
    state = loop.state
    if state != NULL and state.blocked and not state.woken:
        state.woken = True
        status = uv.uv_async_send(&state.wake)
    lf_unlock(&loop.mutex)
    check(status)
    return 0


cdef void fall_asleep(LoopState* state) noexcept:
    """From here until gil_is_back() a wake-up needs uv_async_send."""
    cdef LoopCore loop = <LoopCore> state.owner
    lf_lock(&loop.mutex)
    state.blocked = True
    state.woken = False
    if LF_FREE_THREADED and (loop.foreign_count or loop.late_count):
        # Whoever scheduled that found the loop awake.
        state.woken = True
        uv.uv_async_send(&state.wake)
    lf_unlock(&loop.mutex)

"""Requests on files: libuv's ``uv_fs_t`` and jobs of several calls for its threads, as awaitables and as what a file
object starts and waits for. ``loopfast.fs`` is what users see.

A request is given to libuv when it is first awaited. Giving up (a cancelled task) calls ``uv_cancel()``; where a thread
is at it already, the job goes on without the request, keeps its memory, and closes what it opened.
"""

import asyncio
import os
import shutil
from asyncio import InvalidStateError
from types import GenericAlias

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strlen

from loopfast.buildinfo cimport COUNTERS
from loopfast.core cimport LoopCore, LoopObject, LoopState, hold_gil, is_for_its_thread, polls_elsewhere
from loopfast.includes cimport uv
from loopfast.includes.awaiting cimport sent, throw_here, throw_into
from loopfast.includes.counters cimport LF_WRITE_REQUEST, lf_freed, lf_made
from loopfast.includes.fsjobs cimport (
    LF_BOTH_NAMES, LF_FCHOWN, LF_FINISH, LF_FIRST_NAME, LF_FSTAT, LF_IS_PIPE, LF_LSTAT, LF_OPEN,
    LF_PREAD, LF_PWRITE, LF_READ_WHOLE, LF_READLINK, LF_REALPATH, LF_SAME_FILE, LF_SCAN, LF_SECOND_NAME, LF_SENDFILE,
    LF_STAT, LF_STATVFS, LF_UTIME, LF_WRITE_WHOLE, lf_allow_ring, lf_close, lf_job, lf_job_close,
    lf_job_forget_request, lf_job_start, lf_read_now,
)
from loopfast.includes cimport fsjobs
from loopfast.includes.python cimport (
    _PyBytes_Resize, PYGEN_ERROR, PYGEN_NEXT, Py_DECREF, Py_INCREF, Py_None, Py_XDECREF, PyBytes_AS_STRING,
    PyBytes_FromStringAndSize, PyErr_Clear, PyErr_SetObject, PyErr_WarnFormat, PyErr_WriteUnraisable,
    PyIter_Send, PyTypeObject, propagate,
)
from loopfast.includes.stop cimport lf_forget_value, lf_stop_iteration
from loopfast.includes.threads cimport lf_load_count, lf_store_count

cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(object text)
    str PyUnicode_DecodeFSDefaultAndSize(const char* text, Py_ssize_t size)
    object PyBytes_FromString "PyBytes_FromString"(const char* text)

cdef enum:
    # A read of up to so many bytes is tried at once, from what the kernel has in memory; so many times in one turn of
    # the loop, then the others get theirs.
    LARGEST_READ_NOW = 128 * 1024
    READS_NOW_PER_TURN = 16

STAT = <int> fsjobs.LF_STAT
LSTAT = <int> fsjobs.LF_LSTAT
FSTAT = <int> fsjobs.LF_FSTAT
MKDIR = <int> fsjobs.LF_MKDIR
RMDIR = <int> fsjobs.LF_RMDIR
UNLINK = <int> fsjobs.LF_UNLINK
RENAME = <int> fsjobs.LF_RENAME
LINK = <int> fsjobs.LF_LINK
SYMLINK = <int> fsjobs.LF_SYMLINK
READLINK = <int> fsjobs.LF_READLINK
REALPATH = <int> fsjobs.LF_REALPATH
CHMOD = <int> fsjobs.LF_CHMOD
FCHMOD = <int> fsjobs.LF_FCHMOD
CHOWN = <int> fsjobs.LF_CHOWN
LCHOWN = <int> fsjobs.LF_LCHOWN
FCHOWN = <int> fsjobs.LF_FCHOWN
ACCESS = <int> fsjobs.LF_ACCESS
FSYNC = <int> fsjobs.LF_FSYNC
FDATASYNC = <int> fsjobs.LF_FDATASYNC
FTRUNCATE = <int> fsjobs.LF_FTRUNCATE
SENDFILE = <int> fsjobs.LF_SENDFILE
PREAD = <int> fsjobs.LF_PREAD
PWRITE = <int> fsjobs.LF_PWRITE
OPEN = <int> fsjobs.LF_OPEN
READ_WHOLE = <int> fsjobs.LF_READ_WHOLE
WRITE_WHOLE = <int> fsjobs.LF_WRITE_WHOLE
FINISH = <int> fsjobs.LF_FINISH
SCAN = <int> fsjobs.LF_SCAN
COPY = <int> fsjobs.LF_COPY
UTIME = <int> fsjobs.LF_UTIME
TRUNCATE = <int> fsjobs.LF_TRUNCATE
STATVFS = <int> fsjobs.LF_STATVFS

#: For messages, by kind.
cdef tuple NAMES = (
    "stat", "lstat", "stat", "mkdir", "rmdir", "unlink", "rename", "link", "symlink", "readlink", "realpath", "chmod",
    "chmod", "chown", "chown", "chown", "access", "fsync", "fdatasync", "truncate", "sendfile", "pread", "pwrite",
    "open", "read", "write", "close", "scandir", "copyfile", "utime", "truncate", "statvfs",
)

cdef object get_running_loop = asyncio.get_running_loop
cdef object StatResult = os.stat_result
cdef int STAT_FIELDS = min(StatResult.n_fields, 19)


cdef LoopCore running_loop():
    loop = get_running_loop()
    if not isinstance(loop, LoopCore):
        raise RuntimeError(
            f"loopfast.fs needs a loopfast event loop; the running one is a {type(loop).__module__}."
            f"{type(loop).__qualname__} (use loopfast.run() or loopfast.install())"
        )
    return <LoopCore> loop


cdef int answer(LoopCore loop, object future) except -1:
    """Set the result of *future*, which somebody may have cancelled."""
    try:
        if not future.done():
            future.set_result(None)
    except InvalidStateError:
        pass
    except BaseException as exc:
        # From a future or a call_soon() of the user's.
        loop.fail(exc)
    return 0


# --------------------------------------------------------------------------------------------------------------- jobs

cdef lf_job* new_job(int kind) except NULL:
    cdef lf_job* job = <lf_job*> calloc(1, sizeof(lf_job))
    if job == NULL:
        raise MemoryError("no memory for a request on a file")
    lf_made(COUNTERS, LF_WRITE_REQUEST)
    job.kind = kind
    job.fd = -1
    job.offset = job.position = -1
    job.callback = on_job
    return job


cdef void free_job(lf_job* job) noexcept:
    """Free a job that libuv does not have (any more), with what it opened and keeps."""
    lf_job_forget_request(job)
    lf_job_close(job)
    free(job.found)
    if job.has_view:
        PyBuffer_Release(&job.view)
    Py_XDECREF(job.kept[0])
    Py_XDECREF(job.kept[1])
    Py_XDECREF(job.descriptor)
    lf_freed(COUNTERS, LF_WRITE_REQUEST)
    free(job)


cdef void on_job(lf_job* job) noexcept:
    cdef LoopState* state = <LoopState*> job.uv.any.data
    hold_gil(state)
    cdef PyObject* descriptor
    if goes_on(job):
        return
    if state.file_jobs:
        state.file_jobs -= 1
    descriptor, job.descriptor = job.descriptor, NULL
    if job.owner != NULL:
        (<Request> job.owner).on_job_end()
    else:
        free_job(job)
    if descriptor != NULL:
        try:
            (<Descriptor> descriptor).leave()
        except BaseException as exc:
            (<Descriptor> descriptor).loop.fail(exc)
        Py_DECREF(descriptor)


cdef bint goes_on(lf_job* job) noexcept:
    """Give the job back to libuv if it has done a part only: a write always ends, a read if somebody waits for it."""
    cdef int status
    if job.kind == LF_PWRITE:
        if job.result < 0:
            return False
        job.done += job.result
        if job.offset >= 0:
            job.offset += job.result
        if job.done >= job.size:
            return False
        if job.result == 0:
            job.result = uv.UV_EIO
            return False
    elif job.kind == LF_READ_WHOLE:
        if job.result < 0 or job.is_end or job.owner == NULL:
            return False
        if not grow_buffer(job):
            job.result = uv.UV_ENOMEM
            return False
    else:
        return False
    lf_job_forget_request(job)
    status = lf_job_start(&(<LoopState*> job.uv.any.data).loop, job)
    if status < 0:
        job.result = status
        return False
    return True


cdef bint grow_buffer(lf_job* job) noexcept:
    """Have a bytes object hold what was read so far and room for what is wanted; False without memory."""
    cdef PyObject* data
    if job.kept[0] == NULL:
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> job.wanted)
        if data != NULL and job.done:
            memcpy(PyBytes_AS_STRING(data), job.found, job.done)
        job.kept[0] = data
    else:
        _PyBytes_Resize(&job.kept[0], <Py_ssize_t> job.wanted)
    if job.kept[0] == NULL:
        PyErr_Clear()
        return False
    job.buffer = PyBytes_AS_STRING(job.kept[0])
    job.size = job.wanted
    return True


cdef object take_bytes(lf_job* job):
    """Return what was read, as bytes."""
    cdef PyObject* data
    if job.kept[0] == NULL:
        return (<char*> job.found)[:job.done]
    data, job.kept[0] = job.kept[0], NULL
    if <Py_ssize_t> job.done != <Py_ssize_t> job.size and _PyBytes_Resize(&data, job.done) < 0:
        propagate()
    result = <object> data
    Py_DECREF(data)
    return result


# -------------------------------------------------------------------------------------------------------- descriptors

@cython.final
@cython.no_gc_clear
cdef class Descriptor:
    """An open file of a loop. Not for direct use: see `loopfast.fs.open`.

    Args:
        number: the descriptor.
        is_owned: close it with this object.
    """

    def __cinit__(self):
        self.number = -1

    def __init__(self, int number, bint is_owned):
        if self.loop is not None:
            raise RuntimeError("a descriptor is made once")
        self.number = number
        self.is_owned = is_owned
        self.loop = running_loop()

    def __dealloc__(self):
        # No request is in flight: each holds this object.
        if self.is_owned and self.number >= 0:
            lf_close(self.number)

    def idle(self):
        """Return a future for the time when no request uses the descriptor."""
        if self.loop is None:
            raise RuntimeError("this descriptor was never made")
        future = self.loop.new_future()
        if self.in_flight == 0:
            future.set_result(None)
        else:
            if self.idle_waiters is None:
                self.idle_waiters = []
            self.idle_waiters.append(future)
        return future

    def drop(self):
        """Close it here and now if it is ours and no request uses it; else that comes with the last reference. The
        caller is the only one who can begin another request with it."""
        if lf_load_count(&self.in_flight) == 0 and self.is_owned and self.number >= 0:
            number, self.number = self.number, -1
            lf_close(number)

    def give(self):
        """Return the number for somebody else to close; this object is closed."""
        number, self.number = self.number, -1
        return number

    cdef int leave(self) except -1:
        """A request is over."""
        lf_store_count(&self.in_flight, self.in_flight - 1)
        if self.in_flight == 0 and self.idle_waiters is not None:
            waiters, self.idle_waiters = self.idle_waiters, None
            for future in waiters:
                answer(self.loop, future)
        return 0


# ----------------------------------------------------------------------------------------------------------- requests

@cython.final
@cython.no_gc_clear
cdef class Request(LoopObject):
    """One request on a file: await it once, as a coroutine; or `start` it, and ask for its `outcome`."""

    def __cinit__(self):
        # Until a function below has filled it in.
        self.state = OVER

    def __dealloc__(self):
        if self.state == NEW and PyErr_WarnFormat(
                RuntimeWarning, 1, "coroutine 'loopfast.fs.%U' was never awaited", <PyObject*> NAMES[self.kind]) < 0:
            PyErr_WriteUnraisable(<PyObject*> NAMES[self.kind])
        self.give_up()
        # The result is the caller's alone, and may be a file to be closed when he drops it.
        lf_forget_value()

    # ------------------------------------------------------------------------------------------------- coroutine

    def __await__(self):
        if self.iterator is not None:
            raise RuntimeError("coroutine is being awaited already")
        return self

    def __iter__(self):
        return self

    def __next__(self):
        """Replaced below by an entry that raises StopIteration without a traceback."""
        raise NotImplementedError

    def send(self, value):
        """Continue the call; coroutine protocol."""
        return sent(self.step())

    def throw(self, kind, value=None, traceback=None):
        """Raise an exception where the call waits; coroutine protocol."""
        if self.state == RUNNING and is_for_its_thread(self.loop):
            self.loop.check_not_polling()
        iterator = self.iterator
        self.give_up()
        if iterator is not None:
            throw_into(iterator, kind, value, traceback)
        throw_here(kind, value)

    def close(self):
        """Give the call up; coroutine protocol."""
        if self.state == RUNNING and is_for_its_thread(self.loop) and self.loop.left_to_its_thread(self.close):
            return
        self.give_up()

    @property
    def __name__(self):
        return NAMES[self.kind]

    @property
    def __qualname__(self):
        return NAMES[self.kind]

    def __repr__(self):
        state = ("not awaited", "running", "done", "over")[self.state]
        return f"<loopfast.fs request {NAMES[self.kind]} {state}>"

    cdef PyObject* step(self) noexcept:
        """Return the future to wait for; NULL when the call is over, with StopIteration or another exception, or
        none."""
        cdef PyObject* yielded = NULL
        cdef int status
        lf_forget_value()
        if self.iterator is not None:
            status = PyIter_Send(<PyObject*> self.iterator, Py_None, &yielded)
            if status == PYGEN_NEXT:
                return yielded
            if status == PYGEN_ERROR:
                self.give_up()
                return NULL
            Py_XDECREF(yielded)
            self.future = self.iterator = None
        try:
            yielded = self.go_on()
        except BaseException as exc:
            kind = type(exc)
            self.give_up()
            PyErr_SetObject(<PyObject*> kind, <PyObject*> exc)
            return NULL
        if yielded == NULL:
            result, self.result = self.result, None
            self.give_up()
            if result is not None:
                lf_stop_iteration(<PyObject*> result)
        return yielded

    cdef PyObject* go_on(self) except? NULL:
        """Begin, or see what came of it. Returns the future to wait for; NULL: `result` is there."""
        cdef PyObject* yielded = NULL
        if self.state == OVER or self.is_started:
            raise RuntimeError("cannot reuse already awaited coroutine")
        if self.state == NEW:
            self.begin(running_loop())
        if self.state == RUNNING:
            self.future = self.loop.new_future()
            self.iterator = iter(self.future)
            if PyIter_Send(<PyObject*> self.iterator, Py_None, &yielded) != PYGEN_NEXT:
                Py_XDECREF(yielded)
                raise RuntimeError("a new future is done")
            return yielded
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return NULL

    # ------------------------------------------------------------------------------------------------- for files

    def start(self):
        """Begin; from now on nothing but the end of the loop keeps the request from its end."""
        if self.state != NEW:
            raise RuntimeError("a request is started once")
        self.begin(running_loop())
        self.is_started = True

    def cancel(self):
        """Take a started request out of libuv's queue, if no thread is at it yet: its outcome is then ECANCELED."""
        if self.state == RUNNING and not polls_elsewhere(self.loop):
            uv.uv_cancel(&self.job.uv.any)

    @property
    def done(self):
        """True once there is an outcome."""
        return self.state == DONE

    def wait(self):
        """Return a new future that is set when there is an outcome. To cancel it does nothing to the request."""
        if self.state != RUNNING:
            raise RuntimeError("this request does not run")
        future = self.loop.new_future()
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(future)
        return future

    def outcome(self):
        """Return the result or raise the error of a started request that is done. May be called again."""
        if self.state != DONE:
            raise RuntimeError("Event loop is closed" if self.state == OVER else "this request is not done")
        if self.error is not None:
            raise self.error
        return self.result

    # ------------------------------------------------------------------------------------------------- life

    cdef int begin(self, LoopCore loop) except -1:
        cdef lf_job* job = self.job
        cdef int status
        if self.descriptor is not None:
            if self.descriptor.loop is not loop:
                raise RuntimeError(f"{NAMES[self.kind]}: this file belongs to another event loop")
            if self.descriptor.number < 0:
                raise ValueError(f"{NAMES[self.kind]}: I/O operation on closed file")
            job.fd = self.descriptor.number
        loop.check_open()
        loop.check_not_polling()
        loop.own_after_fork()
        loop.check_open()
        if job.kind == LF_PREAD:
            job.kept[0] = PyBytes_FromStringAndSize(NULL, job.size)
            if job.kept[0] == NULL:
                propagate()
            job.buffer = PyBytes_AS_STRING(job.kept[0])
            if self.read_now():
                return 0
        elif job.kind == LF_READ_WHOLE and job.size:
            job.wanted = job.size
            if not grow_buffer(job):
                raise MemoryError(f"no memory for {job.wanted} bytes of a file")
        elif job.kind == LF_PWRITE and job.size == 0:
            self.result = 0
            self.state = DONE
            return 0
        lf_allow_ring(&loop.state.loop)
        job.uv.any.data = loop.state
        job.owner = <PyObject*> self
        if job.kind == LF_FINISH:
            job.owns_fd = self.descriptor.is_owned
        status = lf_job_start(&loop.state.loop, job)
        if status < 0:
            job.owner = NULL
            job.owns_fd = False
            raise self.make_error(status)
        if job.kind == LF_FINISH:
            self.descriptor.number = -1
        loop.state.file_jobs += 1
        # Nothing of this can fail: the loop is open.
        self.attach(loop)
        self.keep()
        self.state = RUNNING
        if self.descriptor is not None:
            lf_store_count(&self.descriptor.in_flight, self.descriptor.in_flight + 1)
            job.descriptor = <PyObject*> self.descriptor
            Py_INCREF(job.descriptor)
        return 0

    cdef bint read_now(self) except -1:
        """Read without waiting if the kernel has it."""
        cdef lf_job* job = self.job
        cdef LoopCore loop = self.descriptor.loop
        cdef Py_ssize_t n = 0
        if job.size > LARGEST_READ_NOW:
            return False
        if job.size:
            if job.offset < 0:
                return False
            if loop.reads_now_turn != loop.turns:
                loop.reads_now_turn = loop.turns
                loop.reads_now = 0
            loop.reads_now += 1
            if loop.reads_now > READS_NOW_PER_TURN:
                return False
            n = lf_read_now(job.fd, job.buffer, job.size, job.offset)
            if n < 0:
                return False
        job.done = n
        self.result = take_bytes(job)
        self.state = DONE
        return True

    cdef void on_job_end(self) noexcept:
        """libuv is through with the job: keep what came of it, and tell who waits."""
        cdef lf_job* job = self.job
        try:
            self.written = job.done
            if job.result < 0:
                self.error = self.make_error(<int> job.result)
            else:
                self.result = self.make_result()
        except BaseException as exc:
            self.error = exc
        self.job = NULL
        free_job(job)
        self.state = DONE
        Py_INCREF(<PyObject*> self)
        self.detach()
        self.wake()
        Py_DECREF(<PyObject*> self)

    cdef void wake(self) noexcept:
        try:
            if self.future is not None:
                answer(self.loop, self.future)
            if self.waiters is not None:
                waiters, self.waiters = self.waiters, None
                for future in waiters:
                    answer(self.loop, future)
        except BaseException as exc:
            self.loop.fail(exc)

    cdef void give_up(self) noexcept:
        """Nobody wants the outcome."""
        cdef lf_job* job = self.job
        self.job = NULL
        if self.state == RUNNING:
            # libuv has it; the callback frees it.
            job.owner = NULL
            if not self.is_started and not polls_elsewhere(self.loop):
                uv.uv_cancel(&job.uv.any)
        elif job != NULL:
            free_job(job)
        self.state = OVER
        self.future = self.iterator = self.waiters = self.result = self.error = self.descriptor = None
        if self.is_attached:
            self.detach()

    cdef void on_loop_close(self) noexcept:
        self.give_up()

    cdef void on_fork(self) noexcept:
        """The threads that are at it are the parent's: not to be waited for."""
        self.loop.state.file_jobs = 0

    # ------------------------------------------------------------------------------------------------- outcomes

    cdef object make_error(self, int code):
        cdef int about = self.job.about
        name = self.name if about & LF_FIRST_NAME else self.other if about & LF_SECOND_NAME else None
        if code == LF_SAME_FILE:
            return shutil.SameFileError(f"{self.name!r} and {self.other!r} are the same file")
        if code == LF_IS_PIPE:
            return shutil.SpecialFileError(f"{name!r} is a named pipe")
        if about == LF_BOTH_NAMES:
            return OSError(-code, os.strerror(-code), self.name, None, self.other)
        if about:
            return OSError(-code, os.strerror(-code), name)
        return OSError(-code, os.strerror(-code))

    cdef object make_result(self):
        cdef lf_job* job = self.job
        cdef int kind = job.kind
        if kind == LF_PREAD:
            job.done = job.result
            return take_bytes(job)
        if kind == LF_READ_WHOLE:
            return take_bytes(job)
        if kind == LF_PWRITE or kind == LF_WRITE_WHOLE:
            return <Py_ssize_t> job.done
        if kind == LF_STAT or kind == LF_LSTAT or kind == LF_FSTAT:
            return stat_result(&job.uv.fs.statbuf)
        if kind == LF_OPEN:
            return self.opened(job.fd)
        if kind == LF_SCAN:
            return entries_of(job, self.name, self.is_bytes)
        if kind == LF_READLINK or kind == LF_REALPATH:
            return path_of(<const char*> job.uv.fs.ptr, self.is_bytes)
        if kind == LF_SENDFILE:
            return <Py_ssize_t> job.result
        if kind == LF_STATVFS:
            return statvfs_result(job)
        return None

    cdef object opened(self, int fd):
        cdef lf_job* job = self.job
        cdef Descriptor descriptor = self.descriptor
        if descriptor is None:
            descriptor = Descriptor.__new__(Descriptor)
            descriptor.loop = self.loop
            descriptor.number = fd
            descriptor.is_owned = True
            job.owns_fd = False
        return descriptor, job.file_mode, job.file_size, job.position, bool(job.is_terminal)


cdef PyObject* next_step(PyObject* self) noexcept:
    return (<Request> self).step()


# From Cython code StopIteration would get a traceback each time.
(<PyTypeObject*> Request).tp_iternext = next_step


cdef object stat_result(const uv.uv_stat_t* info):
    cdef tuple fields = (
        info.st_mode, info.st_ino, info.st_dev, info.st_nlink, info.st_uid, info.st_gid, info.st_size,
        info.st_atim.tv_sec, info.st_mtim.tv_sec, info.st_ctim.tv_sec,
        info.st_atim.tv_sec + 1e-9 * info.st_atim.tv_nsec, info.st_mtim.tv_sec + 1e-9 * info.st_mtim.tv_nsec,
        info.st_ctim.tv_sec + 1e-9 * info.st_ctim.tv_nsec,
        nanoseconds(&info.st_atim), nanoseconds(&info.st_mtim), nanoseconds(&info.st_ctim),
        info.st_blksize, info.st_blocks, info.st_rdev,
    )
    return StatResult(fields[:STAT_FIELDS])


cdef inline object nanoseconds(const uv.uv_timespec_t* time):
    return <int64_t> time.tv_sec * 1000000000 + time.tv_nsec


cdef object statvfs_result(lf_job* job):
    return os.statvfs_result((
        job.space.f_bsize, job.space.f_frsize, job.space.f_blocks, job.space.f_bfree, job.space.f_bavail,
        job.space.f_files, job.space.f_ffree, job.space.f_favail, job.space.f_flag, job.space.f_namemax,
        job.space.f_fsid,
    ))


cdef object path_of(const char* text, bint is_bytes):
    if is_bytes:
        return <bytes> text
    return PyUnicode_DecodeFSDefaultAndSize(text, strlen(text))


# ------------------------------------------------------------------------------------------------------------ folders

cdef list entries_of(lf_job* job, object folder, bint is_bytes):
    cdef const char* at = job.found
    cdef const char* end = job.found + job.found_size
    cdef list entries = []
    cdef DirEntry entry
    # mode 0: names alone.
    cdef bint names_only = job.mode == 0
    if not names_only:
        folder = os.fspath(folder)
        slash, separator = (b"/", os.sep.encode()) if is_bytes else ("/", os.sep)
        if folder and not folder.endswith(slash) and not folder.endswith(separator):
            folder += separator
    while at < end:
        name = path_of(at + 10, is_bytes)
        if names_only:
            entries.append(name)
        else:
            entry = DirEntry.__new__(DirEntry)
            entry.name = name
            entry.folder = folder
            memcpy(&entry.number, at, 8)
            entry.type = at[8]
            entry.target = at[9]
            entries.append(entry)
        at += 10 + strlen(at + 10) + 1
    return entries


@cython.final
cdef class DirEntry:
    """What `loopfast.fs.scandir` gives: as ``os.DirEntry``, but nothing waits for the disk, and `stat` is awaited.

    Source: https://docs.python.org/3/library/os.html#os.DirEntry
    """

    def __init__(self):
        raise TypeError("cannot create 'loopfast.fs.DirEntry' instances")

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    @property
    def path(self):
        """The folder's path as given, joined with the name."""
        return self.folder + self.name

    def __fspath__(self):
        return self.folder + self.name

    def __repr__(self):
        return f"<DirEntry {self.name!r}>"

    def inode(self):
        """Return the inode of the entry, of a link its own."""
        return self.number

    def is_dir(self, *, bint follow_symlinks=True):
        """Return True if this is a directory, or with *follow_symlinks* a link to one, as of the scan."""
        return (self.target if follow_symlinks and self.type == c"l" else self.type) == c"d"

    def is_file(self, *, bint follow_symlinks=True):
        """Return True if this is a regular file, or with *follow_symlinks* a link to one, as of the scan."""
        return (self.target if follow_symlinks and self.type == c"l" else self.type) == c"f"

    def is_symlink(self):
        """Return True if this is a symbolic link, as of the scan."""
        return self.type == c"l"

    def is_junction(self):
        """Return False: only Windows has junctions."""
        return False

    def stat(self, *, bint follow_symlinks=True):
        """Return an awaitable of the ``os.stat_result``, which is not kept.

        Raises:
            OSError: the entry is gone, or may not be looked at.
        """
        return on_path(<int> LF_STAT if follow_symlinks else <int> LF_LSTAT, self.folder + self.name)


# ---------------------------------------------------------------------------------------------------------- factories
# What is wrong with an argument is said at once, before anything is awaited.

cdef Request new_request(int kind):
    cdef Request request = Request.__new__(Request)
    request.job = new_job(kind)
    request.kind = kind
    request.state = NEW
    return request


cdef bytes encoded(Request request, object path, bint is_first):
    """Return *path* for the system, and note what it is in an error."""
    cdef bytes name
    try:
        if type(path) is not str and type(path) is not bytes:
            path = os.fspath(path)
        name = path if isinstance(path, bytes) else PyUnicode_EncodeFSDefault(path)
        if b"\0" in name:
            raise ValueError(f"{NAMES[request.kind]}: embedded null character in path {path!r}")
    except BaseException:
        # Not to be missed by anybody.
        request.give_up()
        raise
    if is_first:
        request.name = path
        request.is_bytes = isinstance(path, bytes)
    else:
        request.other = path
    return name


cdef int set_path(Request request, object path) except -1:
    cdef bytes name = encoded(request, path, True)
    request.job.kept[1] = <PyObject*> name
    Py_INCREF(<PyObject*> name)
    request.job.path = PyBytes_AS_STRING(<PyObject*> name)
    request.job.about = LF_FIRST_NAME
    return 0


cdef int set_file(Request request, object file, bint is_named) except -1:
    """The descriptor that *file* is: a Descriptor, or a number."""
    if isinstance(file, Descriptor):
        request.descriptor = <Descriptor> file
        return 0
    try:
        request.job.fd = file
    except BaseException:
        request.give_up()
        raise
    if is_named:
        request.name = file
        request.job.about = LF_FIRST_NAME
    return 0


cdef int set_data(Request request, object data) except -1:
    """What is to be written: any object with a buffer, which must not change until the request is over."""
    cdef lf_job* job = request.job
    try:
        PyObject_GetBuffer(data, &job.view, PyBUF_SIMPLE)
    except BaseException:
        request.give_up()
        raise
    job.has_view = True
    job.buffer = <char*> job.view.buf
    job.size = job.view.len
    return 0


def on_path(int kind, path, int mode=0, int flags=0):
    """Return the request *kind* for one path."""
    cdef Request request = new_request(kind)
    set_path(request, path)
    request.job.mode = mode
    request.job.flags = flags
    return request


def on_paths(int kind, path, other, int mode=0, int flags=0):
    """Return the request *kind* for two paths."""
    cdef Request request = new_request(kind)
    cdef bytes second
    set_path(request, path)
    second = encoded(request, other, False)
    request.job.kept[0] = <PyObject*> second
    Py_INCREF(<PyObject*> second)
    request.job.other = PyBytes_AS_STRING(<PyObject*> second)
    request.job.about = LF_BOTH_NAMES
    request.job.mode = mode
    request.job.flags = flags
    return request


def on_file(int kind, file, int mode=0, int64_t offset=-1, Py_ssize_t size=0, bint is_named=False, int flags=0):
    """Return the request *kind* for a `Descriptor` or the number of one; *is_named*: errors name the number."""
    cdef Request request = new_request(kind)
    set_file(request, file, is_named)
    request.job.mode = mode
    request.job.offset = offset
    request.job.size = size
    request.job.flags = flags
    return request


def on_owner(int kind, target, int64_t uid, int64_t gid):
    """Return a request that changes owner and group of a path or descriptor; -1 leaves one as it is."""
    cdef Request request = new_request(kind)
    if kind == LF_FCHOWN:
        set_file(request, target, True)
    else:
        set_path(request, target)
    if not -1 <= uid < 1 << 32 or not -1 <= gid < 1 << 32:
        request.give_up()
        raise OverflowError(f"uid or gid is out of range: {uid}, {gid}")
    request.job.uid = <unsigned int> uid
    request.job.gid = <unsigned int> gid
    return request


def on_times(target, bint is_path, times, int flags):
    """Return a request that sets the times of a path or descriptor: seconds and nanoseconds of both; flags: 1 now,
    2 of a link itself."""
    cdef Request request = new_request(LF_UTIME)
    cdef int i
    if is_path:
        set_path(request, target)
    else:
        set_file(request, target, True)
    for i in range(4):
        request.job.times[i] = times[i]
    request.job.flags = flags
    return request


def on_size(path, int64_t size):
    """Return a request that gives the file *path* another size."""
    cdef Request request = new_request(<int> fsjobs.LF_TRUNCATE)
    set_path(request, path)
    request.job.offset = size
    return request


def writing(int kind, target, data, int64_t offset=-1, int mode=0, int flags=0, int64_t position=-1):
    """Return a request that writes *data*: to a descriptor (and closes it), or to a path that it opens.

    Args:
        kind: `PWRITE`, `FINISH` or `WRITE_WHOLE`.
        target: a `Descriptor`, or the path.
        data: bytes-like; its memory is held until the request is over.
        offset: where in the file; -1 where the descriptor stands.
        mode: permissions of a file that is made.
        flags: as of ``os.open``.
        position: where a descriptor that stays open shall stand.
    """
    cdef Request request = new_request(kind)
    if kind == LF_WRITE_WHOLE:
        set_path(request, target)
    else:
        set_file(request, target, False)
    set_data(request, data)
    request.job.offset = offset
    request.job.mode = mode
    request.job.flags = flags
    request.job.position = position
    return request

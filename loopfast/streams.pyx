"""asyncio's streams without asyncio's Python code for each piece of data.

A stream's state stays where asyncio has it, in the attributes of its ``StreamReader``: what is here reads and writes
the same instance dictionary, so that asyncio's own methods and whoever looks at the attributes see no difference.
Whatever is not the common case (a subclass, a replaced method, an error to be raised) is left to asyncio's own code.
"""

import asyncio
import sys
from asyncio import IncompleteReadError, InvalidStateError, LimitOverrunError
from types import CoroutineType, MethodType

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_CheckExact
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next, PyDict_SetItem
from cpython.object cimport PyObject
from cpython.sequence cimport PySequence_DelSlice

from loopfast.core cimport LoopCore
from loopfast.includes.awaiting cimport throw_here, throw_into
from loopfast.includes.buffer cimport lf_append_bytes, lf_empty_bytearray, lf_lend_memory
from loopfast.includes.python cimport (
    PY_VECTORCALL_ARGUMENTS_OFFSET, PYGEN_ERROR, PYGEN_NEXT, Py_DECREF, Py_False, Py_INCREF, Py_None,
    Py_TPFLAGS_HAVE_VECTORCALL, Py_TPFLAGS_METHOD_DESCRIPTOR, Py_TYPE, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
    PyErr_Clear, PyErr_SetObject, PyErr_WarnFormat, PyErr_WriteUnraisable, PyIter_Send, PyLong_AsSsize_t,
    PyLong_CheckExact, PyObject_GenericGetDict, PyObject_Vectorcall, PyObject_VectorcallMethod, PyTypeObject,
    PyVectorcall_Call, iternextfunc, propagate, vectorcallfunc,
)
from loopfast.includes.stop cimport lf_forget_value, lf_stop_iteration
from loopfast.includes.threads cimport lf_load_number, lf_store_number
from loopfast.transports.base cimport FastProtocol, NativeTransport

cdef object CFuture = asyncio.Future
cdef object SET_RESULT = CFuture.set_result
cdef str SET_RESULT_NAME = sys.intern("set_result")
cdef object InheritedReader = asyncio.StreamReader
cdef object InheritedProtocol = asyncio.StreamReaderProtocol
cdef object InheritedWriter = asyncio.StreamWriter
# Set by use_classes().
cdef object Reader = None
cdef object Protocol = None
cdef object Writer = None

cdef str LOOP = sys.intern("_loop")
cdef str LIMIT = sys.intern("_limit")
cdef str BUFFER = sys.intern("_buffer")
cdef str EOF = sys.intern("_eof")
cdef str WAITER = sys.intern("_waiter")
cdef str EXCEPTION = sys.intern("_exception")
cdef str TRANSPORT = sys.intern("_transport")
cdef str PAUSED = sys.intern("_paused")
cdef str READER_REFERENCE = sys.intern("_stream_reader_wr")
cdef str CONNECTION_LOST = sys.intern("_connection_lost")
cdef str READER = sys.intern("_reader")
cdef str PROTOCOL = sys.intern("_protocol")
cdef str DATA_RECEIVED = sys.intern("data_received")
cdef str DRAIN_HELPER = sys.intern("_drain_helper")
cdef bytes NEWLINE = b"\n"
cdef tuple NAMES = ("read", "readexactly", "readuntil", "readline", "drain")
cdef tuple QUALIFIED_NAMES = (
    "StreamReader.read", "StreamReader.readexactly", "StreamReader.readuntil", "StreamReader.readline",
    "StreamWriter.drain",
)
# The methods of a reader that its other methods call.
cdef tuple INNER_METHODS = tuple(map(sys.intern, (
    "feed_data", "exception", "_wakeup_waiter", "_maybe_resume_transport", "_wait_for_data", "readuntil",
)))


# ------------------------------------------------------------------------------------------------------------- classes
# asyncio's classes may be patched at any time, by tests of applications above all. A class gets another version tag
# when it or one of its bases changes; only then their methods are compared.

cdef unsigned int versions[3]
cdef dict original_methods = {
    kind: {name: getattr(kind, name) for name in dir(kind) if callable(getattr(kind, name)) and name[:2] != "__"}
    for kind in (InheritedReader, InheritedProtocol, InheritedWriter)
}


cdef bint is_asyncios(object function) except -1:
    """Return True if *function* is asyncio's own. What was put in its place before this import is not."""
    for module, neighbour in ((asyncio.streams, asyncio.streams.FlowControlMixin),
                              (asyncio.protocols, asyncio.BaseProtocol)):
        if getattr(function, "__globals__", None) is vars(module):
            source = getattr(neighbour.connection_lost, "__code__", None)
            return source is not None and function.__code__.co_filename == source.co_filename
    return False


cdef bint find_patches() except -1:
    for methods in original_methods.values():
        for method in methods.values():
            if not is_asyncios(method):
                return True
    return False


cdef bint were_patched = find_patches()


def use_classes(reader, protocol, writer):
    """Give the streams of native transports these classes, made of asyncio's own."""
    global Reader, Protocol, Writer
    Reader = reader
    Protocol = protocol
    Writer = writer
    make_methods()


cpdef bint may_be_fast(LoopCore loop) except -1:
    """Return True if streams of *loop* may have these classes now."""
    # In debug mode calls are real coroutines, with frames to be shown.
    return Reader is not None and not loop._debug and classes_are_plain()


cdef inline bint classes_are_plain() except -1:
    """Return True if the classes are as asyncio made them."""
    cdef unsigned int* known = versions
    cdef unsigned int reader = lf_load_number(&known[0])
    cdef unsigned int protocol = lf_load_number(&known[1])
    cdef unsigned int writer = lf_load_number(&known[2])
    if (version_of(Reader) == reader and version_of(Protocol) == protocol and version_of(Writer) == writer
            and reader and protocol and writer):
        return True
    return compare_classes()


cdef inline unsigned int version_of(object kind) noexcept:
    return lf_load_number(&(<PyTypeObject*> kind).tp_version_tag)


cdef bint compare_classes() except -1:
    if were_patched:
        return False
    for kind, methods in original_methods.items():
        for name, method in methods.items():
            if getattr(kind, name, None) is not method:
                return False
    # The interpreter numbers a class when something is looked up in it.
    for i, kind in enumerate((Reader, Protocol, Writer)):
        kind.__name__, getattr(kind, "drain", None)
        lf_store_number(&versions[i], version_of(kind))
    return True


cdef FastProtocol feed_for(LoopCore loop, object protocol):
    cdef StreamFeed feed
    if type(protocol) is not InheritedProtocol and type(protocol) is not Protocol:
        return None
    if not may_be_fast(loop):
        return None
    reader = protocol._stream_reader
    if type(reader) is InheritedReader:
        reader.__class__ = Reader
    elif type(reader) is not Reader:
        return None
    attributes = protocol.__dict__
    if DATA_RECEIVED in attributes or DRAIN_HELPER in attributes:
        return None
    protocol.__class__ = Protocol
    feed = StreamFeed.__new__(StreamFeed)
    feed.protocol = protocol
    feed.reference_place = list(attributes).index(READER_REFERENCE)
    return feed


# ----------------------------------------------------------------------------------------------------------- attributes
# An instance dictionary keeps its order: each attribute of a reader is asked for by its place first, which is twice as
# fast as by its name.

cdef enum:
    LIMIT_PLACE = 0
    LOOP_PLACE = 1
    BUFFER_PLACE = 2
    EOF_PLACE = 3
    WAITER_PLACE = 4
    EXCEPTION_PLACE = 5
    TRANSPORT_PLACE = 6
    PAUSED_PLACE = 7
    # The attributes that StreamReader.__init__() sets: with more, methods may have been replaced on the instance.
    USUAL_ATTRIBUTES = 8


cdef inline dict attributes_of(object thing):
    """Return the instance dictionary of *thing*."""
    cdef PyObject* found = PyObject_GenericGetDict(<PyObject*> thing, NULL)
    if found == NULL:
        propagate()
    attributes = <dict> found
    Py_DECREF(found)
    return attributes


cdef inline PyObject* attribute(dict attributes, Py_ssize_t place, str name) except NULL:
    """Return one of them (borrowed), which is probably at *place*."""
    cdef PyObject* key
    cdef PyObject* value
    if PyDict_Next(attributes, &place, &key, &value) and key == <PyObject*> name:
        return value
    return attribute_by_name(attributes, name)


cdef PyObject* attribute_by_name(dict attributes, str name) except NULL:
    cdef PyObject* found = PyDict_GetItemWithError(attributes, name)
    if found == NULL:
        raise AttributeError(name)
    return found


cdef inline dict state_of(object reader):
    """Return the attributes of *reader*, or None where asyncio's own code must do its work."""
    if type(reader) is not Reader or not classes_are_plain():
        return None
    state = attributes_of(reader)
    if len(state) != USUAL_ATTRIBUTES and has_own_methods(state):
        return None
    return state


cdef inline PyObject* buffer_of(dict state) except? NULL:
    """Return the buffer (borrowed); NULL if it is not asyncio's any more."""
    cdef PyObject* buffer = attribute(state, BUFFER_PLACE, BUFFER)
    return buffer if Py_TYPE(buffer) == <PyTypeObject*> bytearray else NULL


cdef bint has_own_methods(dict state) except -1:
    for name in INNER_METHODS:
        if name in state:
            return True
    return False


# ------------------------------------------------------------------------------------------------------------ receiving

cdef class StreamFeed(FastProtocol):
    """Takes data for a ``StreamReaderProtocol``. Not for direct use."""

    cdef int receive(self, const char* data, Py_ssize_t size) noexcept:
        try:
            self.feed(data, size)
        except BaseException as exc:
            kind = type(exc)
            PyErr_SetObject(<PyObject*> kind, <PyObject*> exc)
            return -1
        return 0

    cdef int feed(self, const char* data, Py_ssize_t size) except -1:
        """``data_received()`` of the protocol and ``feed_data()`` of its reader."""
        cdef dict attributes = attributes_of(self.protocol)
        cdef dict state = None
        cdef PyObject* found = NULL
        cdef PyObject* waiter
        if DATA_RECEIVED not in attributes:
            reference = <object> attribute(attributes, self.reference_place, READER_REFERENCE)
            reader = None if reference is None else reference()
            state = state_of(reader)
        if state is not None and attribute(state, EOF_PLACE, EOF) == Py_False:
            found = buffer_of(state)
        if found == NULL:
            self.protocol.data_received(data[:size])
            return 0
        buffer = <bytearray> found
        lf_append_bytes(found, data, size)
        waiter = attribute(state, WAITER_PLACE, WAITER)
        if waiter != Py_None:
            wake(state, <object> waiter)
        if (is_over_limit(state, PyByteArray_GET_SIZE(buffer)) and attribute(state, PAUSED_PLACE, PAUSED) == Py_False
                and attribute(state, TRANSPORT_PLACE, TRANSPORT) != Py_None):
            pause(state)
        return 0


cdef inline int wake(dict state, object waiter) except -1:
    """Tell whoever waits for data that some has come."""
    cdef PyObject* args[2]
    cdef PyObject* result
    PyDict_SetItem(state, WAITER, None)
    args[0] = <PyObject*> waiter
    args[1] = Py_None
    if type(waiter) is CFuture:
        result = PyObject_Vectorcall(<PyObject*> SET_RESULT, args, 2, NULL)
    else:
        result = PyObject_VectorcallMethod(<PyObject*> SET_RESULT_NAME, args, 2, NULL)
    if result == NULL:
        return ignore_cancellation(waiter)
    Py_DECREF(result)
    return 0


cdef int ignore_cancellation(object waiter) except -1:
    """set_result() has raised what is set: nothing to speak of if whoever waited has given up."""
    try:
        propagate()
    except InvalidStateError:
        if not waiter.cancelled():
            raise
    return 0


cdef inline bint is_over_limit(dict state, Py_ssize_t size) except -1:
    cdef PyObject* limit = attribute(state, LIMIT_PLACE, LIMIT)
    cdef Py_ssize_t number
    if PyLong_CheckExact(limit):
        number = PyLong_AsSsize_t(limit)
        if number != -1:
            # Not twice the limit, which may overflow.
            return size - number > number
        PyErr_Clear()
    return size > 2 * <object> limit


cdef int pause(dict state) except -1:
    transport = <object> attribute(state, TRANSPORT_PLACE, TRANSPORT)
    try:
        transport.pause_reading()
    except NotImplementedError:
        # It cannot; forgotten, it is not asked again.
        state[TRANSPORT] = None
    else:
        state[PAUSED] = True
    return 0


cdef int resume(dict state) except -1:
    state[PAUSED] = False
    (<object> attribute(state, TRANSPORT_PLACE, TRANSPORT)).resume_reading()
    return 0


# ---------------------------------------------------------------------------------------------------------------- calls

@cython.final
@cython.no_gc_clear
@cython.freelist(64)
cdef class StreamCall:
    """One call of a reader's or writer's method: await it once, as a coroutine."""

    def __dealloc__(self):
        if not self.started and PyErr_WarnFormat(
                RuntimeWarning, 1, "coroutine '%U' was never awaited", <PyObject*> QUALIFIED_NAMES[self.kind]) < 0:
            PyErr_WriteUnraisable(<PyObject*> QUALIFIED_NAMES[self.kind])
        if self.stream is not None:
            self.finish()
        lf_forget_value()

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
        cdef PyObject* result = NULL
        cdef bint over = self.step(&result)
        found = <object> result
        Py_DECREF(result)
        if over:
            raise StopIteration(found)
        return found

    def throw(self, kind, value=None, traceback=None):
        """Raise an exception where the call waits; coroutine protocol."""
        self.started = True
        if self.iterator is not None:
            try:
                return throw_into(self.iterator, kind, value, traceback)
            except StopIteration as stop:
                # asyncio's own coroutine, which has caught it.
                self.finish()
                raise StopIteration(stop.value)
            except BaseException:
                self.finish()
                raise
        self.finish()
        throw_here(kind, value)

    def close(self):
        """Give the call up; coroutine protocol."""
        self.started = True
        if self.is_inherited and self.iterator is not None:
            self.iterator.close()
        self.finish()

    @property
    def __name__(self):
        return QUALIFIED_NAMES[self.kind].rpartition(".")[2]

    @property
    def __qualname__(self):
        return QUALIFIED_NAMES[self.kind]

    def __repr__(self):
        return f"<coroutine object {QUALIFIED_NAMES[self.kind]} at {<Py_ssize_t> <PyObject*> self:#x}>"

    cdef void finish(self) noexcept:
        self.finished = True
        if self.state is not None and self.iterator is not None and not self.is_inherited:
            self.stop_waiting()
        # Whoever looks at the task later must not keep the stream alive.
        self.stream = self.state = self.argument = self.iterator = None

    cdef int stop_waiting(self) noexcept:
        cdef Py_ssize_t place = WAITER_PLACE
        cdef PyObject* key
        cdef PyObject* waiter
        self.iterator = None
        if not PyDict_Next(self.state, &place, &key, &waiter) or key != <PyObject*> WAITER:
            # None at all, once the garbage collector has emptied the reader.
            waiter = PyDict_GetItemWithError(self.state, WAITER)
        # As a rule, whoever woke it has done this.
        if waiter != NULL and waiter != Py_None:
            PyDict_SetItem(self.state, WAITER, None)
        return 0

    cdef bint step(self, PyObject** result) except -1:
        """Store the future to wait for; or, if the call is over, its result, and return True."""
        cdef int status
        if self.finished:
            raise RuntimeError("cannot reuse already awaited coroutine")
        # Unless it waits below, it is over: with a result, or with an exception.
        self.started = self.finished = True
        if self.iterator is None:
            self.attempt(result)
        while self.iterator is not None:
            status = PyIter_Send(<PyObject*> self.iterator, Py_None, result)
            if status == PYGEN_NEXT:
                self.finished = False
                return False
            if status == PYGEN_ERROR:
                return self.fail()
            if self.is_inherited:
                break
            # The future's None.
            Py_DECREF(result[0])
            self.stop_waiting()
            self.resumed = True
            self.attempt(result)
        self.finish()
        return True

    cdef int fail(self) except -1:
        """Raise the exception that is set, which what it waited for has raised."""
        try:
            propagate()
        finally:
            self.finish()

    cdef int attempt(self, PyObject** result) except -1:
        """Store the result; or an iterator, of a future or of asyncio's own method, if there is something to wait
        for."""
        cdef dict state
        cdef PyObject* found = NULL
        if self.kind == DRAIN:
            if has_drained(self.stream):
                result[0] = Py_None
                Py_INCREF(Py_None)
            else:
                self.inherit()
            return 0
        state = state_of(self.stream)
        if state is not None:
            found = buffer_of(state)
        if found == NULL or (self.kind != UNTIL and self.kind != LINE and self.size <= 0):
            return self.inherit()
        buffer = <bytearray> found
        self.state = state
        if not self.resumed and attribute(state, EXCEPTION_PLACE, EXCEPTION) != Py_None:
            return self.inherit()
        if self.kind == READ:
            return self.attempt_read(state, buffer, result)
        if self.kind == EXACTLY:
            return self.attempt_exactly(state, buffer, result)
        return self.attempt_until(state, buffer, result)

    cdef int attempt_read(self, dict state, bytearray buffer, PyObject** result) except -1:
        if (PyByteArray_GET_SIZE(buffer) == 0 and not self.resumed
                and attribute(state, EOF_PLACE, EOF) == Py_False):
            return self.wait(state, buffer)
        result[0] = take(state, buffer, self.size)
        return 0

    cdef int attempt_exactly(self, dict state, bytearray buffer, PyObject** result) except -1:
        if PyByteArray_GET_SIZE(buffer) >= self.size:
            result[0] = take(state, buffer, self.size)
            return 0
        if attribute(state, EOF_PLACE, EOF) == Py_False:
            return self.wait(state, buffer)
        partial = bytes(buffer)
        buffer.clear()
        raise IncompleteReadError(partial, self.argument)

    cdef int attempt_until(self, dict state, bytearray buffer, PyObject** result) except -1:
        cdef Py_ssize_t length = PyBytes_GET_SIZE(<PyObject*> self.argument)
        cdef Py_ssize_t filled = PyByteArray_GET_SIZE(buffer)
        cdef Py_ssize_t found = -1
        limit = <object> attribute(state, LIMIT_PLACE, LIMIT)
        # As asyncio does it, what has been searched once is not searched again, even if somebody else took data
        # meanwhile.
        if filled - self.searched >= length:
            found = buffer.find(self.argument, self.searched)
            if found < 0:
                self.searched = filled + 1 - length
                if self.searched > limit:
                    return self.overrun(state, buffer, "Separator is not found, and chunk exceed the limit",
                                        self.searched)
        if found >= 0:
            if found > limit:
                return self.overrun(state, buffer, "Separator is found, but chunk is longer than limit", found)
            result[0] = take(state, buffer, found + length)
            return 0
        if attribute(state, EOF_PLACE, EOF) == Py_False:
            return self.wait(state, buffer)
        partial = bytes(buffer)
        buffer.clear()
        if self.kind == LINE:
            result[0] = <PyObject*> partial
            Py_INCREF(result[0])
            return 0
        raise IncompleteReadError(partial, None)

    cdef int overrun(self, dict state, bytearray buffer, str text, Py_ssize_t consumed) except -1:
        """The limit is exceeded before the separator."""
        if not self.resumed:
            return self.inherit()
        # Not asyncio's own method, which would search again from the front.
        if self.kind == UNTIL:
            raise LimitOverrunError(text, consumed)
        if buffer.startswith(self.argument, consumed):
            del buffer[:consumed + 1]
        else:
            buffer.clear()
        if (attribute(state, PAUSED_PLACE, PAUSED) != Py_False
                and PyByteArray_GET_SIZE(buffer) <= <object> attribute(state, LIMIT_PLACE, LIMIT)):
            resume(state)
        raise ValueError(text)

    cdef int wait(self, dict state, bytearray buffer) except -1:
        """Begin to wait: ``_wait_for_data()`` up to its await."""
        loop = <object> attribute(state, LOOP_PLACE, LOOP)
        if attribute(state, WAITER_PLACE, WAITER) != Py_None or not isinstance(loop, LoopCore):
            return self.inherit()
        if attribute(state, PAUSED_PLACE, PAUSED) != Py_False:
            resume(state)
        waiter = (<LoopCore> loop).new_future()
        PyDict_SetItem(state, WAITER, waiter)
        self.iterator = iter(waiter)
        lf_lend_memory(<PyObject*> buffer)
        return 0

    cdef int inherit(self) except -1:
        """Go on with asyncio's own method."""
        method = inherited_method(self.stream, self.kind)
        call = method() if self.kind == DRAIN or self.kind == LINE else method(self.argument)
        self.iterator = call if isinstance(call, CoroutineType) else call.__await__()
        self.is_inherited = True
        return 0


cdef object inherited_method(object stream, int kind):
    """Return asyncio's own method of *stream*, or what has replaced it."""
    return getattr(super(Writer if kind == DRAIN else Reader, stream), NAMES[kind])


cdef PyObject* next_step(PyObject* self) except? NULL:
    """Return the future to wait for; NULL when the call is over, with StopIteration or another exception, or none."""
    cdef PyObject* result = NULL
    if not (<StreamCall> self).step(&result):
        return result
    if result != Py_None:
        # From Cython code it would get a traceback each time.
        lf_stop_iteration(result)
    Py_DECREF(result)
    return NULL


(<PyTypeObject*> StreamCall).tp_iternext = <iternextfunc> <void*> next_step


cdef PyObject* take(dict state, bytearray buffer, Py_ssize_t size) except NULL:
    """Take up to *size* bytes from the front of the buffer: a new reference."""
    cdef Py_ssize_t filled = PyByteArray_GET_SIZE(buffer)
    cdef PyObject* data = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer), min(size, filled))
    if data == NULL:
        propagate()
    taken = <object> data
    Py_DECREF(data)
    if size >= filled:
        lf_empty_bytearray(<PyObject*> buffer)
    else:
        PySequence_DelSlice(buffer, 0, size)
    if (attribute(state, PAUSED_PLACE, PAUSED) != Py_False
            and PyByteArray_GET_SIZE(buffer) <= <object> attribute(state, LIMIT_PLACE, LIMIT)):
        resume(state)
    Py_INCREF(<PyObject*> taken)
    return <PyObject*> taken


cdef bint has_drained(object writer) except -1:
    """Return True if ``writer.drain()`` has nothing to wait for and nothing to raise."""
    cdef dict attributes
    cdef dict state
    if type(writer) is not Writer or not classes_are_plain():
        return False
    attributes = attributes_of(writer)
    transport = <object> attribute(attributes, 0, TRANSPORT)
    protocol = <object> attribute(attributes, 1, PROTOCOL)
    reader = <object> attribute(attributes, 2, READER)
    if reader is not None:
        if type(reader) is not Reader:
            return False
        state = attributes_of(reader)
        if (attribute(state, EXCEPTION_PLACE, EXCEPTION) != Py_None
                or len(state) != USUAL_ATTRIBUTES and has_own_methods(state)):
            return False
    if (<NativeTransport> transport).closing if isinstance(transport, NativeTransport) else transport.is_closing():
        return False
    if type(protocol) is not Protocol:
        return False
    attributes = attributes_of(protocol)
    return (attribute(attributes, 1, PAUSED) == Py_False and attribute(attributes, 3, CONNECTION_LOST) == Py_False
            and DRAIN_HELPER not in attributes)


# -------------------------------------------------------------------------------------------------------------- methods

@cython.final
cdef class StreamMethod:
    """A method that returns a `StreamCall`: to whoever looks at it, asyncio's own coroutine function."""

    def __get__(self, instance, owner):
        return self if instance is None else MethodType(self, instance)

    def __call__(self, *args, **kwargs):
        """Replaced below by an entry that makes neither tuple nor dict."""
        raise NotImplementedError

    def __getattr__(self, name):
        return getattr(self.function, name)

    def __repr__(self):
        return repr(self.function)

    @property
    def __name__(self):
        return self.function.__name__

    @property
    def __qualname__(self):
        return self.function.__qualname__

    @property
    def __module__(self):
        return self.function.__module__

    @property
    def __doc__(self):
        return self.function.__doc__


cdef PyObject* call_method(PyObject* self, PyObject** args, size_t flags, PyObject* names) except NULL:
    cdef Py_ssize_t count = <Py_ssize_t> (flags & ~PY_VECTORCALL_ARGUMENTS_OFFSET)
    cdef StreamMethod method = <StreamMethod> self
    cdef PyObject* result = begin_call(method, args, count) if names == NULL else NULL
    if result != NULL:
        return result
    if count == 0 or classes_are_plain():
        # Keywords or wrong arguments.
        return PyObject_Vectorcall(<PyObject*> method.function, args, flags, names)
    replaced = inherited_method(<object> args[0], method.kind)
    return PyObject_Vectorcall(<PyObject*> replaced, args + 1, count - 1, names)


cdef inline PyObject* begin_call(StreamMethod method, PyObject** args, Py_ssize_t count) except? NULL:
    """Return a new call; NULL where it must be asyncio's own coroutine."""
    cdef StreamCall call
    cdef PyObject* argument = NULL
    cdef Py_ssize_t size = 0
    cdef int kind = method.kind
    if count == 2 and kind != LINE and kind != DRAIN:
        argument = args[1]
        if kind == UNTIL:
            if not PyBytes_CheckExact(<object> argument) or PyBytes_GET_SIZE(argument) == 0:
                return NULL
        else:
            if not PyLong_CheckExact(argument):
                return NULL
            size = PyLong_AsSsize_t(argument)
            if size <= 0:
                if size == -1:
                    PyErr_Clear()
                return NULL
    elif count != 1 or kind == READ or kind == EXACTLY:
        return NULL
    elif kind == UNTIL or kind == LINE:
        argument = <PyObject*> NEWLINE
    if Py_TYPE(args[0]) != <PyTypeObject*> (Writer if kind == DRAIN else Reader):
        return NULL
    if not classes_are_plain():
        return NULL
    call = StreamCall.__new__(StreamCall)
    call.kind = kind
    call.stream = <object> args[0]
    call.size = size
    if argument != NULL:
        call.argument = <object> argument
    Py_INCREF(<PyObject*> call)
    return <PyObject*> call


cdef make_methods():
    """Put the methods into the classes."""
    cdef StreamMethod method
    for kind in range(DRAIN + 1):
        ours, theirs = (Writer, InheritedWriter) if kind == DRAIN else (Reader, InheritedReader)
        method = StreamMethod.__new__(StreamMethod)
        method.kind = kind
        method.vectorcall = <vectorcallfunc> <void*> call_method
        method.function = getattr(theirs, NAMES[kind])
        setattr(ours, NAMES[kind], method)


# What Cython has no words for: calls without a tuple, and no object for a bound method.
(<PyTypeObject*> StreamMethod).tp_call = PyVectorcall_Call
(<PyTypeObject*> StreamMethod).tp_vectorcall_offset = offset_of_vectorcall(StreamMethod.__new__(StreamMethod))
(<PyTypeObject*> StreamMethod).tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR


cdef Py_ssize_t offset_of_vectorcall(StreamMethod method):
    return <char*> &method.vectorcall - <char*> <PyObject*> method

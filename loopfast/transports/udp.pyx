"""Datagram endpoints over IPv4 and IPv6, on uv_udp_t.

Receiving: libuv reads up to 16 datagrams with one system call, each becomes a ``bytes`` of exactly its size. Sending:
at once, straight on the socket; only what the kernel does not take waits in libuv's queue.
"""

import socket
import sys
from asyncio import selector_events, transports

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from loopfast.buffers cimport DATAGRAM_SIZE, DATAGRAMS_PER_READ
from loopfast.buildinfo cimport COUNTERS
from loopfast.callbacks cimport exit_context, switch_context
from loopfast.core cimport (
    LoopCore, LoopState, handed_over, handed_over_with, hold_gil, is_for_its_thread, polls_elsewhere,
)
from loopfast.errors cimport check, system_error
from loopfast.includes cimport uv
from loopfast.includes.counters cimport LF_WRITE_REQUEST, lf_freed, lf_made
from loopfast.includes.python cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject_VectorcallMethod, propagate
from loopfast.includes.socket cimport (
    AF_INET, lf_address_slot, lf_ip_address, lf_known_address, lf_parse_address, lf_recv_datagram, lf_same_address,
    lf_send_datagram,
    lf_show_address, sockaddr,
)
from loopfast.transports.base cimport NativeTransport, end_name, received_bytes, release_received

cdef str DATAGRAM_RECEIVED = sys.intern("datagram_received")

# What asyncio's own endpoint adds for each waiting datagram, and whether it sends empty ones: both came together.
cdef object sendto_code = selector_events._SelectorDatagramTransport.sendto.__code__
cdef bint COUNTS_HEADERS = 8 in sendto_code.co_consts or "_header_size" in sendto_code.co_names
cdef size_t HEADER_SIZE = 8 if COUNTS_HEADERS else 0
cdef bint SENDS_EMPTY = COUNTS_HEADERS


ctypedef struct SendRequest:
    # One waiting datagram: libuv's request, then its bytes.
    uv.uv_udp_send_t request
    uv.uv_buf_t buf


# ------------------------------------------------------------------------------------------------ libuv's own callbacks

cdef void on_uv_alloc(uv.uv_handle_t* handle, size_t suggested, uv.uv_buf_t* buf) noexcept:
    """Lend the buffer for one read. Touches no Python object."""
    # Only then is it known whether the loop is deferring.
    hold_gil(<LoopState*> handle.loop.data)
    if (handle.data == NULL or (<DatagramEndpoint> handle.data).drained
            or (<DatagramEndpoint> handle.data).loop.deferring):
        # No room ends the read, where libuv would ask the kernel once more to hear that nothing is left.
        return
    (<DatagramEndpoint> handle.data).received = 0
    buf.base = (<DatagramEndpoint> handle.data).loop.datagram_buffer
    buf.len = <size_t> (<DatagramEndpoint> handle.data).room * DATAGRAM_SIZE


cdef void on_uv_datagram(
    uv.uv_udp_t* handle, ssize_t size, const uv.uv_buf_t* buf, const sockaddr* address, unsigned int flags
) noexcept:
    hold_gil(<LoopState*> handle.loop.data)
    if handle.data == NULL:
        return
    cdef DatagramEndpoint endpoint = <DatagramEndpoint> handle.data
    if address != NULL:
        endpoint.received += 1
        guarded_deliver(endpoint, buf.base, size, address)
    elif size < 0 and not uv.uv_is_active(<uv.uv_handle_t*> handle):
        # Not that a read failed: the socket cannot be watched.
        if endpoint.loop.deferring:
            endpoint.unwatched = <int> size
            endpoint.defer()
        else:
            guarded_end(endpoint, <int> size)
    elif endpoint.loop.deferring:
        endpoint.defer()
    elif flags & uv.UV_UDP_MMSG_FREE:
        # The batch is over. Less than there was room for: that was all.
        endpoint.drained = endpoint.received < endpoint.room
        endpoint.room = min(max(2 * endpoint.received, 2), DATAGRAMS_PER_READ)
    elif endpoint.drained:
        endpoint.drained = False
    elif size < 0:
        guarded_error(endpoint, <int> size)


cdef void guarded_deliver(
    DatagramEndpoint endpoint, const char* data, ssize_t size, const sockaddr* address
) noexcept:
    cdef double started
    endpoint.loop._bytes_received += size
    try:
        if endpoint.loop.timing:
            protocol = endpoint.protocol
            started = endpoint.loop.begin_timed()
            endpoint.deliver(data, size, address)
            endpoint.loop.end_timed(started, protocol, DATAGRAM_RECEIVED)
        else:
            endpoint.deliver(data, size, address)
    except BaseException as exc:
        endpoint.loop.fail(exc)
    exit_context(endpoint.loop)


cdef void guarded_error(DatagramEndpoint endpoint, int status) noexcept:
    try:
        endpoint.loop.enter_context(endpoint.context)
        endpoint.on_error(system_error(status))
        endpoint.loop.leave_context()
    except BaseException as exc:
        endpoint.loop.fail(exc)


cdef void guarded_end(DatagramEndpoint endpoint, int status) noexcept:
    try:
        endpoint.loop.enter_context(endpoint.context)
        endpoint.fatal_error(system_error(status), "Fatal read error on datagram transport")
        endpoint.loop.leave_context()
    except BaseException as exc:
        endpoint.loop.fail(exc)


cdef void on_uv_sent(uv.uv_udp_send_t* request, int status) noexcept:
    hold_gil(<LoopState*> request.handle.loop.data)
    cdef size_t size = (<SendRequest*> request).buf.len
    cdef uv.uv_udp_t* handle = request.handle
    lf_freed(COUNTERS, LF_WRITE_REQUEST)
    free(request)
    if handle.data == NULL:
        return
    cdef DatagramEndpoint endpoint = <DatagramEndpoint> handle.data
    try:
        if endpoint.loop.deferring:
            if endpoint.left is None:
                endpoint.left = []
            endpoint.left.append((size, status))
            endpoint.defer()
            return
        endpoint.loop.enter_context(endpoint.context)
        endpoint.on_sent(size, status)
        endpoint.loop.leave_context()
    except BaseException as exc:
        endpoint.loop.fail(exc)


@cython.no_gc_clear
cdef class DatagramEndpoint(NativeTransport):
    """The compiled part of `UDPTransport`. Not for direct use."""

    def __cinit__(self):
        self.room = 2

    def __dealloc__(self):
        cdef int i
        for i in range(KNOWN_ADDRESSES):
            Py_XDECREF(<PyObject*> self.known[i].name)
            Py_XDECREF(<PyObject*> self.known[i].given)

    # ------------------------------------------------------------------------------------------------- opening

    cdef int open_endpoint(self, LoopCore loop, object sock) except -1:
        """Take over the socket *sock*; where this raises, it still belongs to the caller."""
        cdef uv.uv_udp_t* handle
        cdef int fd = sock.fileno()
        cdef int status
        loop.check_open()
        loop.check_not_polling()
        loop.borrow_datagram_buffer()
        loop.reserve_descriptor(fd)
        loop.on_descriptor_claimed(fd)
        self.allocate(sizeof(uv.uv_udp_t))
        handle = <uv.uv_udp_t*> self.handle
        status = uv.uv_udp_init_ex(&loop.state.loop, handle, uv.UV_UDP_RECVMMSG)
        if status < 0:
            self.failed()
            check(status)
        self.opened(loop)
        status = uv.lf_udp_open(handle, fd)
        if status < 0:
            self.close_handle()
            check(status)
        return self.claim(loop, fd, sock)

    cdef int begin(self) except -1:
        """connection_made() has returned: receive, unless it closed the transport."""
        if not self.closing:
            check(uv.uv_udp_recv_start(<uv.uv_udp_t*> self.handle, on_uv_alloc, on_uv_datagram))
            self.reading = True
            self.keep()
        return 0

    # ------------------------------------------------------------------------------------------------- receiving

    cdef int stop_reading(self) except -1:
        if self.reading:
            self.reading = False
            if self.handle != NULL:
                uv.uv_udp_recv_stop(<uv.uv_udp_t*> self.handle)
            if not self.waiting:
                self.unkeep()
        return 0

    cdef int on_deferred(self) except -1:
        """Do now what libuv's callbacks left."""
        cdef char* buffer = self.loop.datagram_buffer
        cdef lf_ip_address sender
        cdef Py_ssize_t size
        cdef int _i
        while self.left and self.handle != NULL:
            sent, status = self.left.pop(0)
            self.loop.enter_context(self.context)
            self.on_sent(sent, status)
            self.loop.leave_context()
        if self.unwatched and self.handle != NULL:
            guarded_end(self, self.unwatched)
        for _i in range(DATAGRAMS_PER_READ):
            if self.handle == NULL or not self.reading or self.loop.failure is not None:
                break
            size = lf_recv_datagram(self.fd, buffer, DATAGRAM_SIZE, &sender)
            if size == -EAGAIN:
                break
            if size < 0:
                guarded_error(self, <int> size)
                break
            guarded_deliver(self, buffer, size, &sender.any)
        return 0

    cdef PyObject* name_of(self, const sockaddr* address) except NULL:
        """Return *address* as Python's socket module writes it (borrowed)."""
        cdef lf_known_address* entry = &self.known[lf_address_slot(address, KNOWN_ADDRESSES)]
        cdef char host[64]
        cdef int port = 0
        cdef unsigned int flow = 0
        cdef unsigned int scope = 0
        cdef lf_ip_address raw
        cdef int length
        given = None
        if entry.length and lf_same_address(address, &entry.raw.any):
            if entry.name != NULL:
                self.peer = entry
                return <PyObject*> entry.name
            given = <object> <PyObject*> entry.given
        check(lf_show_address(address, host, sizeof(host), &port, &flow, &scope))
        if address.sa_family == AF_INET:
            name = (host.decode("ascii"), port)
        else:
            name = (host.decode("ascii"), port, flow, scope)
        length = lf_parse_address(address.sa_family, host, port, flow, scope, &raw)
        self.remember(&raw, length, name, given)
        return <PyObject*> self.peer.name

    cdef int remember(self, lf_ip_address* raw, int length, object name, object given) except -1:
        """Make *raw* the peer, under *name* and *given*, either of which may be None."""
        cdef lf_known_address* entry = &self.known[lf_address_slot(&raw.any, KNOWN_ADDRESSES)]
        cdef PyObject* name_before = <PyObject*> entry.name
        cdef PyObject* given_before = <PyObject*> entry.given
        entry.raw = raw[0]
        entry.length = length
        entry.name = entry.given = NULL
        if name is not None:
            Py_INCREF(<PyObject*> name)
            entry.name = <void*> name
        if given is not None:
            Py_INCREF(<PyObject*> given)
            entry.given = <void*> given
        self.peer = entry
        Py_XDECREF(name_before)
        Py_XDECREF(given_before)
        return 0

    cdef int deliver(self, const char* data, Py_ssize_t size, const sockaddr* address) except -1:
        """Hand one datagram to the protocol, in the endpoint's context."""
        cdef LoopCore loop = self.loop
        cdef PyObject* args[3]
        cdef PyObject* result = NULL
        cdef PyObject* payload
        cdef Py_ssize_t capacity = 0
        # set_protocol() may replace it meanwhile.
        protocol = self.protocol
        name = <object> self.name_of(address)
        payload = received_bytes(loop, data, size, &capacity)
        if payload == NULL:
            return propagate()
        if loop.entered == self.context or switch_context(loop, self.context) == 0:
            args[0] = <PyObject*> protocol
            args[1] = payload
            args[2] = <PyObject*> name
            result = PyObject_VectorcallMethod(<PyObject*> DATAGRAM_RECEIVED, args, 3, NULL)
        release_received(loop, payload, capacity)
        if result != NULL:
            Py_DECREF(result)
            return 0
        try:
            propagate()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report_protocol_error(exc, f"Exception in callback {type(self).__name__}._read_ready()")
        return 0

    cdef int on_error(self, object exception) except -1:
        """Receiving failed, as it does after an ICMP error; the endpoint goes on."""
        if self.conn_lost:
            return 0
        try:
            if isinstance(exception, OSError):
                self.protocol.error_received(exception)
            else:
                self.fatal_error(exception, "Fatal read error on datagram transport")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.report_protocol_error(exc, f"Exception in callback {type(self).__name__}._read_ready()")
        return 0

    # ------------------------------------------------------------------------------------------------- sending

    def sendto(self, data, addr=None):
        """Send *data*, a bytes-like object, as one datagram, without blocking.

        Args:
            addr: the receiver; None, or the remote address, on an endpoint that has one.

        Raises:
            TypeError: *data* is not bytes, bytearray or memoryview.
            ValueError: *addr* is another than the endpoint's remote address.

        Source: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.DatagramTransport.sendto
        """
        cdef Py_buffer view
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not SENDS_EMPTY and not data:
            return
        if is_for_its_thread(self.loop):
            self.loop.call_soon_threadsafe(self.sendto, bytes(data), addr)
            return
        if self.address is not None:
            if addr is not None and addr != self.address:
                raise ValueError(f"Invalid address: must be None or {self.address}")
            addr = self.address
        if self.handle == NULL or (self.conn_lost and self.address is not None):
            self.note_lost_write()
            return
        if type(data) is bytes:
            self.send(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data, addr)
            return
        try:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        except BaseException as exc:
            self.fail_write(exc)
            return
        try:
            self.send(<const char*> view.buf, view.len, data, addr)
        finally:
            PyBuffer_Release(&view)

    cdef int send(self, const char* data, Py_ssize_t size, object data_object, object address) except -1:
        """Send at once, or queue behind what waits. *data_object* is what *data* points into."""
        cdef int status = 0
        if not self.connected and not self.find_address(address):
            # Not a numeric address: Python's own socket resolves it, or says what is wrong with it.
            if not self.waiting:
                try:
                    self.sock.sendto(data_object, address)
                    self.loop._bytes_sent += size
                    return 0
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as exc:
                    self.protocol.error_received(exc)
                    return 0
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    return self.fail_write(exc)
            self.find_address(resolved(self.sock, address))
        elif not self.waiting:
            if self.connected:
                status = lf_send_datagram(self.fd, data, size, NULL, 0)
            else:
                status = lf_send_datagram(self.fd, data, size, &self.peer.raw.any, self.peer.length)
            if status == 0:
                self.loop._bytes_sent += size
                return 0
            if status != -EAGAIN:
                self.protocol.error_received(system_error(status))
                return 0
        if polls_elsewhere(self.loop):
            self.loop.call_soon_threadsafe(self.sendto, data[:size], address)
            return 0
        self.queue(data, size, data_object)
        return self.update_flow()

    cdef int fail_write(self, object exception) except -1:
        if not handed_over_with(self, "_fatal_error", exception):
            self.fatal_error(exception, "Fatal write error on datagram transport")
        return 0

    cdef int find_address(self, object address) except -1:
        """Make *address* the peer; False if it is not numeric, or not an address at all."""
        cdef lf_known_address* entry
        cdef lf_ip_address raw
        cdef int length
        cdef unsigned int flow = 0
        cdef unsigned int scope = 0
        if self.peer != NULL and (<void*> address == self.peer.name or <void*> address == self.peer.given):
            return True
        if type(address) is not tuple or not 2 <= len(address) <= 4 or type(address[0]) is not str:
            return False
        for number in address[1:]:
            if type(number) is not int or not 0 <= number < (1 << 20):
                return False
        if address[1] > 65535 or (self.sock.family == AF_INET and len(address) != 2):
            return False
        if len(address) > 2:
            flow = address[2]
        if len(address) > 3:
            scope = address[3]
        host = (<str> address[0]).encode("utf-8", "replace")
        if b"\0" in host:
            return False
        length = lf_parse_address(self.sock.family, host, address[1], flow, scope, &raw)
        if not length:
            return False
        # An address of IPv4 in numbers can be written in one way only.
        name = address if len(address) == 2 and raw.any.sa_family == AF_INET else None
        entry = &self.known[lf_address_slot(&raw.any, KNOWN_ADDRESSES)]
        if entry.length and entry.name != NULL and lf_same_address(&raw.any, &entry.raw.any):
            name = <object> <PyObject*> entry.name
        self.remember(&raw, length, name, address)
        return True

    cdef int queue(self, const char* data, Py_ssize_t size, object data_object) except -1:
        cdef SendRequest* block = <SendRequest*> malloc(sizeof(SendRequest) + size)
        cdef const sockaddr* address = NULL
        cdef int status
        if block == NULL:
            raise MemoryError(f"no memory for a datagram of {size} bytes")
        if not self.connected:
            address = &self.peer.raw.any
        block.buf.base = <char*> (block + 1)
        block.buf.len = size
        memcpy(block.buf.base, data, size)
        status = uv.uv_udp_send(&block.request, <uv.uv_udp_t*> self.handle, &block.buf, 1, address, on_uv_sent)
        if status < 0:
            free(block)
            self.protocol.error_received(system_error(status))
            return 0
        lf_made(COUNTERS, LF_WRITE_REQUEST)
        if not self.waiting and not self.reading:
            self.keep()
        self.waiting += 1
        self.queued += size + HEADER_SIZE
        return 0

    cdef int on_sent(self, size_t size, int status) except -1:
        """A waiting datagram has left, or failed."""
        self.waiting -= 1
        if status == 0:
            self.loop._bytes_sent += size
        if not self.waiting and not self.reading:
            self.unkeep()
        if self.conn_lost:
            return 0
        self.queued -= size + HEADER_SIZE
        if status < 0:
            self.on_error(system_error(status))
        self.resume_protocol()
        if self.closing and not self.waiting and not self.conn_lost:
            self.schedule_connection_lost(None)
        return 0

    def get_write_buffer_size(self) -> int:
        """Return the bytes of the datagrams that wait to be sent, with 8 more for each from Python 3.13 on."""
        return self.queued

    cdef bint is_sending(self) noexcept:
        return self.waiting > 0

    cdef size_t unsent(self) noexcept:
        return self.queued

    cdef void drop_queue(self) noexcept:
        # libuv keeps the requests until the handle is closed.
        self.queued = 0

    # ------------------------------------------------------------------------------------------------- the end

    def close(self):
        """Close the endpoint once what waits has been sent; ``connection_lost(None)`` follows."""
        if self.closing or self.handle == NULL or handed_over(self, "close"):
            return
        self.closing = True
        self.stop_reading()
        if not self.waiting:
            self.schedule_connection_lost(None)

    @property
    def _address(self):
        return self.address


cdef object resolved(object sock, object address):
    """Return *address*, which the kernel took but had no room for, in numbers."""
    found = socket.getaddrinfo(*address[:2], family=sock.family, type=sock.type, proto=sock.proto)
    return found[0][4]


class _DatagramInterface(transports._FlowControlMixin, transports.DatagramTransport):
    """What `UDPTransport` is to ``isinstance``. A C layout cannot inherit from classes that have slots."""

    __slots__ = ()


_DatagramInterface.__name__ = _DatagramInterface.__qualname__ = "UDPTransport"


class UDPTransport(DatagramEndpoint):
    """The transport of a datagram endpoint: an ``asyncio.DatagramTransport`` to ``isinstance``.

    Attributes can be set and methods replaced, as on asyncio's own transports.
    """

    @property
    def __class__(self):
        return _DatagramInterface


cdef DatagramEndpoint datagram_transport(
    LoopCore loop, object sock, object protocol, object address, object waiter, dict extra
):
    cdef DatagramEndpoint transport = UDPTransport.__new__(UDPTransport)
    transport.open_endpoint(loop, sock)
    transport.address = address or None
    transport.sockname = end_name(sock.getsockname)
    transport.peername = end_name(sock.getpeername)
    transport.connected = bool(transport.peername)
    transport.open_transport(loop, protocol, None, extra, None)
    transport.start(waiter)
    return transport

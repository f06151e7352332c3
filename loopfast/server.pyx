"""The listening side of a server: accepts connections as they come.

asyncio's own ``Server`` object owns the listening sockets; a `Listener` watches one of them.
"""

import errno
import os
from asyncio import constants, trsock

cimport cython
from cpython.object cimport PyObject

from loopfast.core cimport LoopCore
from loopfast.handles.poll cimport UVPoll
from loopfast.includes cimport uv
from loopfast.includes.python cimport Py_INCREF, Py_XDECREF, PyContext_CopyCurrent
from loopfast.includes.socket cimport lf_accept, sockaddr_storage

# accept() has nothing more: the backlog is empty, or its one connection was gone before we came.
cdef frozenset NOTHING_MORE = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ECONNABORTED})
# accept() cannot serve now, but can when something is given back.
cdef frozenset OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

cdef enum:
    # Handshakes under way up to which connections with TLS are accepted as they come. See `handshakes_due`.
    HANDSHAKES_AT_ONCE = 64


@cython.no_gc_clear
cdef class Listener(UVPoll):
    """Watches one listening socket. Not for direct use."""

    def __dealloc__(self):
        Py_XDECREF(self.context)

    cdef int start(self, LoopCore loop, object sock, object protocol_factory, object server, tuple tls, int backlog,
                   object context) except -1:
        if context is None:
            self.context = PyContext_CopyCurrent()
            if self.context == NULL:
                return -1
        else:
            Py_INCREF(<PyObject*> context)
            self.context = <PyObject*> context
            self.shares_context = True
        self.sock = sock
        self.protocol_factory = protocol_factory
        self.server = server
        self.tls = tls
        self.backlog = max(1, backlog)
        name = sock.getsockname()
        if type(name) is not tuple or name[0] not in ("0.0.0.0", "::"):
            self.local_name = name
        self.open(loop, sock.fileno())
        self.keep()
        self.watch(uv.UV_READABLE)
        return 0

    cdef int stop(self) except -1:
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        self.close_handle()
        self.sock = None
        self.server = None
        self.protocol_factory = None
        self.tls = None
        return 0

    cdef void on_loop_close(self) noexcept:
        """The socket goes with the loop, unless somebody else holds it."""
        self.stop()

    cdef int on_poll(self, int status, int events) except -1:
        """Accept what waits, at most a backlog of it, so that a flood does not starve the rest.

        Where connections come one at a time, each second accept() finds nothing, and costs as much as the first: it is
        left to the next turn, which looks for all if the socket is readable still.
        """
        cdef sockaddr_storage address
        cdef int length = 0
        cdef int fd
        cdef int due = self.backlog
        cdef int remaining
        cdef int accepted = 0
        if self.loop.deferring:
            self.defer()
            return 0
        if self.tls is not None:
            due = min(due, self.handshakes_due())
        remaining = due
        if self.comes_singly and self.looked_once != self.loop.turns - 1:
            self.looked_once = self.loop.turns
            remaining = 1
        while remaining and self.handle != NULL and self.retry is None:
            remaining -= 1
            fd = lf_accept(self.fd, &address, &length)
            if fd >= 0:
                accepted += 1
                self.loop._accepted += 1
                self.loop.on_connection(self, fd, &address, length)
            elif -fd in NOTHING_MORE:
                break
            elif -fd in OUT_OF_RESOURCES:
                self.pause(-fd)
            else:
                self.report_error(-fd, "Accepting a connection failed")
                break
        self.comes_singly = accepted == 1 and due > 1
        return 0

    cdef int handshakes_due(self) noexcept:
        """Return how many connections with TLS to accept now: as many as are missing to that many handshakes; or else
        one, and one for each millisecond since the turn before.

        A handshake takes some 45 KiB, which malloc() does not give back. Those of a burst that have begun go on before
        others begin; but clients that are slow, or say nothing, must not keep the others waiting.
        """
        cdef uint64_t now = uv.uv_now(&self.loop.state.loop)
        cdef uint64_t waited = now - self.handshakes_at if self.handshakes_turn == self.loop.turns - 1 else 0
        self.handshakes_at = now
        self.handshakes_turn = self.loop.turns
        return max(HANDSHAKES_AT_ONCE - self.loop.handshakes, 1 + <int> min(waited, <uint64_t> self.backlog))

    cdef int on_unwatched(self, int status) except -1:
        return self.pause(-status)

    cdef int on_deferred(self) except -1:
        return self.on_poll(0, uv.UV_READABLE) if self.handle != NULL else 0

    cdef int report_error(self, int error, str message) except -1:
        self.loop._accept_errors += 1
        return self.loop.report({
            "message": message,
            "exception": OSError(error, os.strerror(error)),
            "socket": trsock.TransportSocket(self.sock),
        })

    cdef int pause(self, int error) except -1:
        """Out of descriptors or memory: the socket stays readable, so stop looking at it for a while."""
        self.watch(0)
        self.retry = self.loop.call_later(constants.ACCEPT_RETRY_DELAY, self.resume)
        return self.report_error(error, "socket.accept() out of system resource")

    def resume(self):
        """Accept again: a timer calls this some time after descriptors or memory ran out."""
        self.retry = None
        if self.handle != NULL:
            try:
                self.watch(uv.UV_READABLE)
            except OSError as exc:
                self.pause(exc.errno)

"""Names: ``uv_getaddrinfo`` in libuv's thread pool, for the lookups that it answers as ``socket.getaddrinfo`` does.

Everything else (other encodings, scopes, many lookups at once) is left to asyncio's executor. No thread of Python's is
woken for a lookup, which is most of what asyncio's way costs.
"""

import os
import socket
import sys

cimport cython
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from loopfast.core cimport LoopCore, LoopObject, LoopState, hold_gil, is_for_its_thread
from loopfast.includes cimport uv
from loopfast.includes.python cimport PyUnicode_IS_ASCII
from loopfast.includes.socket cimport lf_show_address

cdef extern from *:
    """
    #if defined(_WIN32)
    #define lf_gai_error(code) gai_strerrorA(code)
    #define lf_count_lookups(change) ((long)InterlockedExchangeAdd(&lf_lookups, (change)) + (change))
    static volatile LONG lf_lookups;
    #else
    #define lf_gai_error(code) gai_strerror(code)
    #define lf_count_lookups(change) __atomic_add_fetch(&lf_lookups, (change), __ATOMIC_RELAXED)
    static long lf_lookups;
    #endif
    """
    const char* lf_gai_error(int code) nogil
    # Change the number of this process's lookups in libuv's pool and return it.
    long lf_count_lookups(long change) nogil

cdef enum:
    # libuv gives half of its four threads to lookups. Further ones would wait for the slowest, so they go elsewhere.
    MOST_LOOKUPS = 2
    # The longest name that the domain name system has, and the longest part of one (RFC 1035, 2.3.4).
    LONGEST_NAME = 253
    LONGEST_LABEL = 63
    # No family, kind, protocol or flag has more bits.
    LARGEST_NUMBER = 0xFFFF
    # Room for a printed IPv6 address, as INET6_ADDRSTRLEN.
    ADDRESS_SIZE = 46

# What socket.getaddrinfo() makes of the resolver's numbers.
cdef dict FAMILIES = {int(family): family for family in socket.AddressFamily}
cdef dict KINDS = {int(kind): kind for kind in socket.SocketKind}

# With others the resolver has errors that libuv does not know.
cdef int KNOWN_FLAGS = 0
for _name in ("PASSIVE", "CANONNAME", "NUMERICHOST", "NUMERICSERV", "V4MAPPED", "ALL", "ADDRCONFIG"):
    KNOWN_FLAGS |= <int> getattr(socket, "AI_" + _name, 0)
del _name


cdef void on_uv_getaddrinfo(uv.uv_getaddrinfo_t* request, int status, uv.addrinfo* found) noexcept:
    hold_gil(<LoopState*> request.loop.data)
    cdef void* owner = request.data
    free(request)
    lf_count_lookups(-1)
    if owner == NULL:
        uv.uv_freeaddrinfo(found)
        return
    cdef Lookup lookup = <Lookup> owner
    lookup.request = NULL
    lookup.found = found
    lookup.status = status
    if lookup.loop.deferring:
        lookup.defer()
        if lookup.is_deferred:
            return
    try:
        lookup.finish()
    except BaseException as exc:
        lookup.loop.fail(exc)


@cython.no_gc_clear
cdef class Lookup(LoopObject):
    """Wraps ``uv_getaddrinfo_t``: one lookup that goes on. Not for direct use.

    Source: https://docs.libuv.org/en/v1.x/dns.html
    """

    def __dealloc__(self):
        uv.uv_freeaddrinfo(self.found)

    cdef int start(self, LoopCore loop, bytes host, bytes port, const uv.addrinfo* hints) except -1:
        """Return 0 if libuv has not taken it on."""
        cdef const char* node = NULL
        cdef const char* service = NULL
        if host is not None:
            node = host
        if port is not None:
            service = port
        self.future = loop.new_future()
        self.request = <uv.uv_getaddrinfo_t*> malloc(sizeof(uv.uv_getaddrinfo_t))
        if self.request == NULL:
            return 0
        self.request.data = <void*> self
        self.attach(loop)
        if uv.uv_getaddrinfo(&loop.state.loop, self.request, on_uv_getaddrinfo, node, service, hints) < 0:
            free(self.request)
            self.request = NULL
            self.detach()
            return 0
        lf_count_lookups(1)
        self.keep()
        return 1

    cdef int finish(self) except -1:
        try:
            if self.future.done():
                return 0
            if self.status < 0:
                self.future.set_exception(error_of(self.status))
                return 0
            try:
                entries = entries_of(self.found)
            except Exception as exc:
                self.future.set_exception(exc)
            else:
                self.future.set_result(entries)
        finally:
            self.detach()
        return 0

    cdef int on_deferred(self) except -1:
        return self.finish() if self.is_attached else 0

    def cancel(self):
        """Nobody wants the answer: take the lookup out of libuv's queue if it is still there."""
        if is_for_its_thread(self.loop) and self.loop.left_to_its_thread(self.cancel):
            return
        if self.request != NULL:
            self.request.data = NULL
            uv.uv_cancel(<uv.uv_req_t*> self.request)
            self.request = NULL
        self.detach()

    cdef void on_loop_close(self) noexcept:
        self.cancel()


cdef object error_of(int status):
    """Return the exception that ``socket.getaddrinfo`` raises where libuv has this *status*."""
    cdef str name = uv.uv_err_name(status).decode("ascii")
    code = getattr(socket, name, None) if name.startswith("EAI_") else None
    if code is None:
        return OSError(-status, os.strerror(-status))
    return socket.gaierror(code, lf_gai_error(code).decode("utf-8", "replace"))


cdef list entries_of(uv.addrinfo* found):
    """Return the resolver's answer as ``socket.getaddrinfo`` has it."""
    cdef char host[ADDRESS_SIZE]
    cdef int port = 0
    cdef unsigned int flow = 0, scope = 0
    cdef list entries = []
    while found != NULL:
        if lf_show_address(found.ai_addr, host, sizeof(host), &port, &flow, &scope) == 0:
            printed = host.decode("ascii")
            entries.append((
                FAMILIES.get(found.ai_family, found.ai_family), KINDS.get(found.ai_socktype, found.ai_socktype),
                found.ai_protocol, found.ai_canonname.decode() if found.ai_canonname != NULL else "",
                (printed, port) if found.ai_family == socket.AF_INET else (printed, port, flow, scope),
            ))
        found = found.ai_next
    return entries


cdef bint is_plain_name(object host):
    """True for a name that Python's encoding and libuv's leave as it is."""
    cdef Py_ssize_t label = 0
    cdef Py_UCS4 char
    if type(host) is not str or not PyUnicode_IS_ASCII(host) or not 0 < len(<str> host) <= LONGEST_NAME:
        return False
    for char in <str> host:
        if char == u".":
            if label == 0:
                return False
            label = 0
        elif (u"a" <= char <= u"z" or u"A" <= char <= u"Z" or u"0" <= char <= u"9" or char == u"-" or char == u"_"):
            label += 1
            if label > LONGEST_LABEL:
                return False
        else:
            return False
    return True


def look_up(LoopCore loop not None, host, port, family, kind, proto, flags):
    """Start a lookup in libuv's thread pool.

    Args:
        loop: the loop that runs in this thread.
        host, port, family, kind, proto, flags: as ``socket.getaddrinfo`` takes them.

    Returns:
        The lookup, whose ``future`` gets what ``socket.getaddrinfo`` returns or raises; None where libuv's answer could
        be another one or come later than from a thread, and asyncio's way is to be taken.
    """
    cdef uv.addrinfo hints
    cdef Lookup lookup
    for number in (family, kind, proto, flags):
        if not isinstance(number, int) or not 0 <= number <= LARGEST_NUMBER:
            return None
    if not is_plain_name(host) or flags & ~KNOWN_FLAGS or lf_count_lookups(0) >= MOST_LOOKUPS:
        return None
    if type(port) is int and 0 <= port <= 65535:
        service = b"%d" % port
    elif port is None:
        service = None
    elif type(port) is str and PyUnicode_IS_ASCII(port) and "\0" not in port:
        service = (<str> port).encode("ascii")
    else:
        return None
    loop.check_open()
    loop.check_not_polling()
    sys.audit("socket.getaddrinfo", host, port, int(family), int(kind), int(proto))
    loop.check_open()
    memset(&hints, 0, sizeof(hints))
    hints.ai_family = family
    hints.ai_socktype = kind
    hints.ai_protocol = proto
    hints.ai_flags = flags
    lookup = Lookup.__new__(Lookup)
    return lookup if lookup.start(loop, (<str> host).encode("ascii"), service, &hints) else None

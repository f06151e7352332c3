# The compiled half of the asyncio surface. Sees everything below; nobody cimports it.

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from loopfast.callbacks cimport Handle
from loopfast.core cimport LoopCore, LoopObject
from loopfast.handles.poll cimport DescriptorSet
from loopfast.includes.socket cimport sockaddr_storage
from loopfast.server cimport Listener
from loopfast.sockops cimport SocketCall, SocketSet


cdef class BaseLoop(LoopCore):
    cdef:
        # The users' descriptors; None until the first add_reader() or add_writer().
        DescriptorSet descriptors
        # Number -> the object it was registered with, if that was no number: found by identity once it is closed, as
        # selectors do.
        dict watched_objects
        # The sockets of sock_recv() and its kin; None until the first call.
        SocketSet sockets
        # The turn in which connections last stood at once, of which task (borrowed, only compared), and how many.
        uint64_t connected_in
        PyObject* connected_by
        int connected
        # Listening sockets by descriptor.
        dict listeners
        # A subclass overrides create_future().
        bint has_own_futures
        # Where new transports start: False sends each write at once.
        bint gathering

    # The set exists from here on.
    cdef int open_descriptor_set(self) except -1
    cdef Handle watch_descriptor(self, object fd, int event, object callback, tuple args, bint internal,
                                 object context)
    cdef bint forget_descriptor(self, object fd, int event) except -1
    cdef int check_unclaimed(self, object fd) except -1
    cdef int on_tls_connection(self, Listener source, int fd, sockaddr_storage* address, int length,
                               object context) except -1
    cdef SocketCall native_call(self, object sock, int kind, object argument)

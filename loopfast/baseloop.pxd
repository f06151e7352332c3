# The compiled half of the asyncio surface. Sees everything below; nobody cimports it.

from loopfast.core cimport Handle, LoopCore, LoopObject
from loopfast.handles.poll cimport DescriptorSet


cdef class BaseLoop(LoopCore):
    cdef:
        # The users' descriptors; None until the first add_reader() or add_writer().
        DescriptorSet descriptors
        # Number -> the object it was registered with, if that was no number: found by identity once it is closed, as
        # selectors do.
        dict watched_objects
        # Listening sockets by descriptor.
        dict listeners
        # Where new transports start: False sends each write at once.
        bint gathering

    cdef Handle watch_descriptor(self, object fd, int event, object callback, tuple args, bint internal,
                                 object context)
    cdef bint forget_descriptor(self, object fd, int event) except -1
    cdef int check_unclaimed(self, object fd) except -1

"""What there is on a loop just now, and what it has counted: the facts behind ``Loop.statistics()``.

Everything is read under the GIL, and nothing of Python's runs while the objects are counted: so it may be asked from
any thread and of a closed loop.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memset

from loopfast.core cimport LoopCore, LoopObject
from loopfast.handles.base cimport UVHandle
from loopfast.handles.poll cimport DescriptorSet
from loopfast.includes cimport uv
from loopfast.includes.platform cimport lf_monotonic
from loopfast.includes.python cimport PyThread_get_thread_ident
from loopfast.includes.socket cimport AF_INET, AF_INET6
from loopfast.includes.threads cimport lf_load_flag, lf_load_runner, lf_lock, lf_unlock
from loopfast.server cimport Listener
from loopfast.sockops cimport SocketSet
from loopfast.tls cimport TLSEngine
from loopfast.transports.tcp cimport SocketStream
from loopfast.transports.udp cimport DatagramEndpoint

cdef enum:
    # More than libuv has kinds of handles.
    HANDLE_KINDS = 64


ctypedef struct Census:
    # Numbers of what is open.
    int handles[HANDLE_KINDS]
    int tcp
    int tls
    int local
    int udp
    int listeners
    int descriptors
    int socket_calls


cdef int count_stream(SocketStream stream, Census* found) noexcept:
    if stream.conn_lost:
        return 0
    if isinstance(stream.protocol, TLSEngine):
        found.tls += 1
    elif stream.peer.any.sa_family == AF_INET or stream.peer.any.sa_family == AF_INET6:
        found.tcp += 1
    else:
        found.local += 1
    return 0


cdef int count_objects(LoopCore loop, Census* found) noexcept:
    """Walk over the loop's objects. What is used here must make no Python object: a collection may change the list."""
    cdef PyObject* obj
    cdef uv.uv_handle_t* handle
    memset(found, 0, sizeof(Census))
    lf_lock(&loop.mutex)
    obj = loop.objects
    while obj != NULL:
        if isinstance(<LoopObject> obj, UVHandle):
            handle = (<UVHandle> obj).handle
            if handle != NULL and 0 <= <int> handle.type < HANDLE_KINDS:
                found.handles[<int> handle.type] += 1
        if isinstance(<LoopObject> obj, SocketStream):
            count_stream(<SocketStream> obj, found)
        elif isinstance(<LoopObject> obj, DatagramEndpoint):
            found.udp += (<DatagramEndpoint> obj).conn_lost == 0
        elif isinstance(<LoopObject> obj, Listener):
            found.listeners += 1
        elif isinstance(<LoopObject> obj, DescriptorSet):
            found.descriptors += (<DescriptorSet> obj).count - (<DescriptorSet> obj).internal_count
        elif isinstance(<LoopObject> obj, SocketSet):
            found.socket_calls += (<SocketSet> obj).waiting
        obj = (<LoopObject> obj).next_object
    lf_unlock(&loop.mutex)
    return 0


def take_census(LoopCore loop not None):
    """Return what *loop* has and has counted, as a dict whose keys are names of fields of ``LoopStatistics``.

    On the loop's own thread a stretch that already is too long counts as a stall.
    """
    cdef Census found
    cdef double now = lf_monotonic()
    cdef double run_time = loop.run_time
    cdef double idle_time = loop.idle_time
    cdef double asleep_since = -1
    cdef uint64_t events
    cdef int kind
    # Closing the loop takes its state away.
    lf_lock(&loop.mutex)
    events = uv.lf_loop_events(&loop.state.loop) if loop.state != NULL else loop.closed_events
    if loop.state != NULL and loop.state.blocked:
        asleep_since = loop.state.asleep_since
    lf_unlock(&loop.mutex)
    if loop.running_since:
        run_time += now - loop.running_since
        if asleep_since >= 0:
            idle_time += max(0.0, now - asleep_since)
        elif loop.state != NULL and lf_load_runner(&loop.running_thread) == PyThread_get_thread_ident():
            if now - loop.state.awake_since > loop.slow_limit:
                loop.on_stretch(now - loop.state.awake_since, now)
                loop.state.awake_since = now
    count_objects(loop, &found)
    handles = {}
    for kind in range(HANDLE_KINDS):
        if found.handles[kind]:
            handles[uv.uv_handle_type_name(<uv.uv_handle_type> kind).decode("ascii")] = found.handles[kind]
    return {
        "time": now,
        "running": loop.running_since != 0,
        "closed": bool(lf_load_flag(&loop.closed)),
        "debug": bool(loop._debug),
        "timing": bool(loop._debug or loop.timing),
        "run_time": run_time,
        "idle_time": idle_time,
        "iterations": loop.turns,
        "callbacks": loop.callback_count,
        "events": events,
        "ready": loop.ready_count + loop.foreign_count + loop.event_count - loop.event_head,
        "timers": loop.timer_count,
        "handles": handles,
        "transports": {"tcp": found.tcp, "tls": found.tls, "unix": found.local, "udp": found.udp},
        "listeners": found.listeners,
        "descriptors": found.descriptors,
        "socket_calls": found.socket_calls,
        "bytes_received": loop._bytes_received,
        "bytes_sent": loop._bytes_sent,
        "accepted": loop._accepted,
        "accept_errors": loop._accept_errors,
        "slow_callbacks": loop.slow_count,
        "stalls": loop.stall_count,
        "longest_stall": loop.longest_stall,
    }

# The debug build's counters of handles, uv handles and write requests made and freed (counters.h).

cdef extern from "counters.h" nogil:
    ctypedef struct lf_count "struct lf_count":
        long long made
        long long freed

    enum:
        LF_HANDLE
        LF_UV_HANDLE
        LF_WRITE_REQUEST
        LF_COUNTERS
        LF_IS_DEBUG

    void lf_made(lf_count* table, int which)
    void lf_freed(lf_count* table, int which)

# The end of a libuv loop (closing.h). Callbacks of libuv run in the first three, with the GIL.

from loopfast.includes cimport uv

cdef extern from "closing.h":
    void lf_wait_for_jobs(uv.uv_loop_t* loop, const unsigned int* left)
    void lf_end_loop(uv.uv_loop_t* loop)
    void lf_end_left_open()
    void lf_forget_left_open()

/* The end of a libuv loop, also of one with requests that libuv's thread pool has not let go of. */

#ifndef LOOPFAST_CLOSING_H
#define LOOPFAST_CLOSING_H

#include <Python.h>
#include <stdlib.h>
#include <uv.h>

#include "threads.h"

/* Milliseconds that closing a loop waits for jobs on files: the read of a pipe may never end. */
#define LF_CLOSE_PATIENCE 1000

/* Loops that are closed but for such requests (a name that is being looked up). Guarded by the GIL, or by the lock. */
static lf_mutex lf_left_open_lock;
static uv_loop_t **lf_left_open;
static int lf_left_open_count, lf_left_open_capacity;

/* What was begun to be written is there when the loop is closed, and what was opened is closed again. */
static void lf_wait_for_jobs(uv_loop_t *loop, const unsigned int *left) {
    uint64_t deadline = uv_hrtime() + (uint64_t)LF_CLOSE_PATIENCE * 1000000;
    if (*left) uv_run(loop, UV_RUN_NOWAIT);
    while (*left && uv_hrtime() < deadline) {
        Py_BEGIN_ALLOW_THREADS
        uv_sleep(1);
        Py_END_ALLOW_THREADS
        uv_run(loop, UV_RUN_NOWAIT);
    }
}

/* Free the allocation that begins with `loop`, whose handles are closed; with requests left, keep it for later. Without
   memory for that it is never freed, which is safe. */
static void lf_end_loop(uv_loop_t *loop) {
    int attempt, capacity;
    uv_loop_t **larger;
    for (attempt = 0; attempt < 16; attempt++) {
        uv_run(loop, UV_RUN_NOWAIT);
        if (uv_loop_close(loop) == 0) {
            free(loop);
            return;
        }
    }
    lf_lock(&lf_left_open_lock);
    if (lf_left_open_count == lf_left_open_capacity) {
        capacity = lf_left_open_capacity ? 2 * lf_left_open_capacity : 4;
        larger = (uv_loop_t **)realloc(lf_left_open, capacity * sizeof(*larger));
        if (larger != NULL) {
            lf_left_open = larger;
            lf_left_open_capacity = capacity;
        }
    }
    if (lf_left_open_count < lf_left_open_capacity) lf_left_open[lf_left_open_count++] = loop;
    lf_unlock(&lf_left_open_lock);
}

/* Try again with those that were kept. */
static void lf_end_left_open(void) {
    int count, i;
    uv_loop_t **loops;
    lf_lock(&lf_left_open_lock);
    count = lf_left_open_count;
    loops = lf_left_open;
    if (count) {
        lf_left_open = NULL;
        lf_left_open_count = lf_left_open_capacity = 0;
    }
    lf_unlock(&lf_left_open_lock);
    if (count == 0) return;
    for (i = 0; i < count; i++) lf_end_loop(loops[i]);
    free(loops);
}

/* In a forked child: the threads that were to end them are the parent's. */
static void lf_forget_left_open(void) {
    lf_reset(&lf_left_open_lock);
    lf_left_open_count = 0;
}

#endif

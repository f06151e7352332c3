"""Builds loopfast.uv._uv, cffi's API-mode module over the shared libuv. setup.py runs this file; nothing imports it.

Declarations follow libuv's documentation. `...` leaves sizes, offsets and values to the C compiler, so no header is
copied.
"""

from cffi import FFI

CDEF = """
/* Version, of the library that is loaded and of the headers this module was compiled with. */
unsigned int uv_version(void);
const char *uv_version_string(void);
static const unsigned int LOOPFAST_UV_HEADER_VERSION;
static const char *const LOOPFAST_UV_HEADER_VERSION_STRING;

/* Types. */
typedef enum {
    UV_UNKNOWN_HANDLE, UV_ASYNC, UV_CHECK, UV_FS_EVENT, UV_FS_POLL, UV_HANDLE, UV_IDLE, UV_NAMED_PIPE, UV_POLL,
    UV_PREPARE, UV_PROCESS, UV_STREAM, UV_TCP, UV_TIMER, UV_TTY, UV_UDP, UV_SIGNAL, UV_FILE, ...
} uv_handle_type;
typedef enum { UV_RUN_DEFAULT, UV_RUN_ONCE, UV_RUN_NOWAIT, ... } uv_run_mode;
typedef int... uv_os_fd_t;
typedef struct uv_loop_s { void *data; ...; } uv_loop_t;
typedef struct uv_handle_s { void *data; uv_loop_t *loop; uv_handle_type type; ...; } uv_handle_t;
typedef struct uv_timer_s { void *data; uv_loop_t *loop; uv_handle_type type; ...; } uv_timer_t;
typedef struct uv_async_s { void *data; uv_loop_t *loop; uv_handle_type type; ...; } uv_async_t;
typedef struct uv_prepare_s { void *data; uv_loop_t *loop; uv_handle_type type; ...; } uv_prepare_t;
typedef struct uv_check_s { void *data; uv_loop_t *loop; uv_handle_type type; ...; } uv_check_t;
typedef struct uv_idle_s { void *data; uv_loop_t *loop; uv_handle_type type; ...; } uv_idle_t;
typedef void (*uv_walk_cb)(uv_handle_t *handle, void *arg);
typedef void (*uv_close_cb)(uv_handle_t *handle);
typedef void (*uv_timer_cb)(uv_timer_t *handle);
typedef void (*uv_async_cb)(uv_async_t *handle);
typedef void (*uv_prepare_cb)(uv_prepare_t *handle);
typedef void (*uv_check_cb)(uv_check_t *handle);
typedef void (*uv_idle_cb)(uv_idle_t *handle);

/* Errors: every negative result of a libuv function. */
#define UV_EACCES ...
#define UV_EAGAIN ...
#define UV_EBADF ...
#define UV_EBUSY ...
#define UV_ECANCELED ...
#define UV_EINVAL ...
#define UV_ENOENT ...
#define UV_ENOMEM ...
#define UV_ENOTSUP ...
#define UV_EOF ...
const char *uv_strerror(int err);
const char *uv_err_name(int err);
int uv_translate_sys_error(int sys_errno);

/* Loops. A loop that asyncio runs must not be initialised, run, stopped or closed from here; one of your own may. */
size_t uv_loop_size(void);
int uv_loop_init(uv_loop_t *loop);
int uv_loop_close(uv_loop_t *loop);
int uv_run(uv_loop_t *loop, uv_run_mode mode);
void uv_stop(uv_loop_t *loop);
int uv_loop_alive(const uv_loop_t *loop);
int uv_backend_fd(const uv_loop_t *loop);
int uv_backend_timeout(const uv_loop_t *loop);
uint64_t uv_now(const uv_loop_t *loop);
void uv_update_time(uv_loop_t *loop);
uint64_t uv_hrtime(void);
void uv_walk(uv_loop_t *loop, uv_walk_cb walk_cb, void *arg);
void *uv_loop_get_data(const uv_loop_t *loop);

/* Handles of every type. */
size_t uv_handle_size(uv_handle_type type);
uv_handle_type uv_handle_get_type(const uv_handle_t *handle);
const char *uv_handle_type_name(uv_handle_type type);
uv_loop_t *uv_handle_get_loop(const uv_handle_t *handle);
void *uv_handle_get_data(const uv_handle_t *handle);
void uv_handle_set_data(uv_handle_t *handle, void *data);
int uv_is_active(const uv_handle_t *handle);
int uv_is_closing(const uv_handle_t *handle);
int uv_has_ref(const uv_handle_t *handle);
void uv_ref(uv_handle_t *handle);
void uv_unref(uv_handle_t *handle);
int uv_fileno(const uv_handle_t *handle, uv_os_fd_t *fd);
void uv_close(uv_handle_t *handle, uv_close_cb close_cb);

/* Timers: milliseconds. */
int uv_timer_init(uv_loop_t *loop, uv_timer_t *handle);
int uv_timer_start(uv_timer_t *handle, uv_timer_cb cb, uint64_t timeout, uint64_t repeat);
int uv_timer_stop(uv_timer_t *handle);
int uv_timer_again(uv_timer_t *handle);
void uv_timer_set_repeat(uv_timer_t *handle, uint64_t repeat);
uint64_t uv_timer_get_repeat(const uv_timer_t *handle);
uint64_t uv_timer_get_due_in(const uv_timer_t *handle);

/* Wake-up from another thread, and the hooks around the poll. */
int uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb cb);
int uv_async_send(uv_async_t *async);
int uv_prepare_init(uv_loop_t *loop, uv_prepare_t *prepare);
int uv_prepare_start(uv_prepare_t *prepare, uv_prepare_cb cb);
int uv_prepare_stop(uv_prepare_t *prepare);
int uv_check_init(uv_loop_t *loop, uv_check_t *check);
int uv_check_start(uv_check_t *check, uv_check_cb cb);
int uv_check_stop(uv_check_t *check);
int uv_idle_init(uv_loop_t *loop, uv_idle_t *idle);
int uv_idle_start(uv_idle_t *idle, uv_idle_cb cb);
int uv_idle_stop(uv_idle_t *idle);

/* The pointer inside a PyCapsule without a name, given the capsule's address; NULL if it is not one. */
void *loopfast_capsule_pointer(uintptr_t capsule);
"""

SOURCE = """
#include <uv.h>

#define LOOPFAST_UV_HEADER_VERSION ((unsigned int) UV_VERSION_HEX)
#define LOOPFAST_TEXT_(x) #x
#define LOOPFAST_TEXT(x) LOOPFAST_TEXT_(x)
#define LOOPFAST_UV_HEADER_VERSION_STRING                                                                   \\
    LOOPFAST_TEXT(UV_VERSION_MAJOR) "." LOOPFAST_TEXT(UV_VERSION_MINOR)                                     \\
    "." LOOPFAST_TEXT(UV_VERSION_PATCH) UV_VERSION_SUFFIX

/* cffi passes no Python objects: the caller hands over the address of one it keeps alive. cffi lets go of the GIL. */
static void *loopfast_capsule_pointer(uintptr_t capsule)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    void *pointer = NULL;

    if (PyCapsule_IsValid((PyObject *) capsule, NULL))
        pointer = PyCapsule_GetPointer((PyObject *) capsule, NULL);
    PyGILState_Release(gil);
    return pointer;
}
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source("loopfast.uv._uv", SOURCE)

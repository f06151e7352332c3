"""What this build is: compiler, Cython, libuv, debug counters. Refuses to load on another libuv than the one compiled
against."""

from loopfast.includes cimport uv
from loopfast.includes.counters cimport LF_COUNTERS, LF_HANDLE, LF_IS_DEBUG, LF_UV_HANDLE, LF_WRITE_REQUEST, lf_count

cdef extern from *:
    """
    #if defined(__clang__)
    #define LF_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define LF_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define LF_COMPILER_STR(x) #x
    #define LF_COMPILER_NUMBER(x) LF_COMPILER_STR(x)
    #define LF_COMPILER "msvc " LF_COMPILER_NUMBER(_MSC_VER)
    #else
    #define LF_COMPILER "unknown"
    #endif
    #define LF_CYTHON_VERSION CYTHON_HEX_VERSION
    """
    const char* LF_COMPILER
    const unsigned int LF_CYTHON_VERSION

cdef lf_count counter_table[LF_COUNTERS]
COUNTERS = counter_table


def libuv_version() -> str:
    """Return the version of the libuv that is loaded, such as ``"1.52.1"``."""
    return uv.uv_version_string().decode("ascii")


def build_info() -> dict:
    """Return what this build is: libuv loaded and compiled against, Cython, compiler, debug or release."""
    return {
        "libuv_loaded": libuv_version(),
        "libuv_headers": uv.LF_UV_HEADER_VERSION_STRING.decode("ascii"),
        "cython": ".".join(str(LF_CYTHON_VERSION >> shift & 0xff) for shift in (24, 16, 8)),
        "compiler": LF_COMPILER.decode("ascii"),
        "debug": bool(LF_IS_DEBUG),
    }


def debug_counters() -> dict:
    """Return name -> (made, freed) of handles, libuv handles and write requests; all zero on a release build."""
    return {
        "handles": (counter_table[LF_HANDLE].made, counter_table[LF_HANDLE].freed),
        "uv_handles": (counter_table[LF_UV_HANDLE].made, counter_table[LF_UV_HANDLE].freed),
        "write_requests": (counter_table[LF_WRITE_REQUEST].made, counter_table[LF_WRITE_REQUEST].freed),
    }


cdef int check_library() except -1:
    """Refuse to run on another libuv than the one compiled against: a globally loaded one can interpose."""
    if uv.uv_version() != uv.LF_UV_HEADER_VERSION or uv.uv_loop_size() != sizeof(uv.uv_loop_t):
        raise ImportError(
            f"loopfast was compiled against libuv {uv.LF_UV_HEADER_VERSION_STRING.decode('ascii')} (loop of "
            f"{sizeof(uv.uv_loop_t)} bytes), but libuv {libuv_version()} (loop of {uv.uv_loop_size()} bytes) is loaded")
    return 0


check_library()

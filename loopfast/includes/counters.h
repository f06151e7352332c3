/* Counters of what is made and freed, for the debug build only: in a release build every macro is empty.
   The table lives in buildinfo.pyx; other modules reach it through the pointer that it hands out. */
#ifndef LOOPFAST_COUNTERS_H
#define LOOPFAST_COUNTERS_H

enum lf_counter { LF_HANDLE, LF_UV_HANDLE, LF_WRITE_REQUEST, LF_COUNTERS };
struct lf_count { long long made, freed; };

#if defined(LOOPFAST_DEBUG) && defined(Py_GIL_DISABLED)
#define LF_IS_DEBUG 1
#define lf_made(table, which) ((void)__atomic_add_fetch(&(table)[which].made, 1, __ATOMIC_RELAXED))
#define lf_freed(table, which) ((void)__atomic_add_fetch(&(table)[which].freed, 1, __ATOMIC_RELAXED))
#elif defined(LOOPFAST_DEBUG)
#define LF_IS_DEBUG 1
#define lf_made(table, which) ((void)((table)[which].made++))
#define lf_freed(table, which) ((void)((table)[which].freed++))
#else
#define LF_IS_DEBUG 0
#define lf_made(table, which) ((void)0)
#define lf_freed(table, which) ((void)0)
#endif

#endif

from loopfast.includes.counters cimport lf_count

# The debug build's table of things made and freed, indexed by LF_* (includes/counters.h).
cdef lf_count* COUNTERS

/* marks: callgrind client requests for the budget's worker, called through ctypes around each measured section. */
#include <valgrind/callgrind.h>

/* Counting starts here: what came before (interpreter start, imports, warm-up) costs no simulation time. */
void marks_begin(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

/* Writes the counts since the last mark to the next numbered file and starts again from zero. */
void marks_dump(void)
{
    CALLGRIND_DUMP_STATS;
}

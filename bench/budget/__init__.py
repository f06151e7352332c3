"""The cost of each operation, counted: user-space instructions (callgrind) and system calls (strace) per operation."""

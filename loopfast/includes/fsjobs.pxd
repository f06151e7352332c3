# Jobs on files (fsjobs.h).

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from loopfast.includes cimport uv

cdef extern from "fsjobs.h" nogil:
    enum:
        LF_STAT
        LF_LSTAT
        LF_FSTAT
        LF_MKDIR
        LF_RMDIR
        LF_UNLINK
        LF_RENAME
        LF_LINK
        LF_SYMLINK
        LF_READLINK
        LF_REALPATH
        LF_CHMOD
        LF_FCHMOD
        LF_CHOWN
        LF_LCHOWN
        LF_FCHOWN
        LF_ACCESS
        LF_FSYNC
        LF_FDATASYNC
        LF_FTRUNCATE
        LF_SENDFILE
        LF_PREAD
        LF_PWRITE
        LF_OPEN
        LF_READ_WHOLE
        LF_WRITE_WHOLE
        LF_FINISH
        LF_SCAN
        LF_COPY
        LF_UTIME
        LF_TRUNCATE
        LF_STATVFS
        LF_KINDS

        LF_SAME_FILE
        LF_IS_PIPE
        LF_NO_NAME
        LF_FIRST_NAME
        LF_SECOND_NAME
        LF_BOTH_NAMES

    ctypedef union lf_request:
        uv.uv_req_t any
        uv.uv_fs_t fs

    ctypedef struct statvfs_t "struct statvfs":
        unsigned long f_bsize
        unsigned long f_frsize
        unsigned long long f_blocks
        unsigned long long f_bfree
        unsigned long long f_bavail
        unsigned long long f_files
        unsigned long long f_ffree
        unsigned long long f_favail
        unsigned long f_flag
        unsigned long f_namemax
        unsigned long f_fsid

    ctypedef struct lf_job:
        lf_request uv
        int kind
        void (*callback)(lf_job* job) noexcept
        const char* path
        const char* other
        int fd
        int flags
        int mode
        unsigned int uid
        unsigned int gid
        int64_t offset
        char* buffer
        size_t size
        int64_t times[4]
        int64_t result
        size_t done
        int about
        bint owns_fd
        bint is_end
        size_t wanted
        char* found
        size_t found_size
        int64_t file_size
        int64_t position
        int file_mode
        bint is_terminal
        statvfs_t space
        PyObject* owner
        PyObject* descriptor
        PyObject* kept[2]
        Py_buffer view
        bint has_view

    int lf_close(int fd)
    Py_ssize_t lf_read_now(int fd, char* buffer, size_t size, int64_t offset)
    int lf_job_start(uv.uv_loop_t* loop, lf_job* job)
    void lf_job_forget_request(lf_job* job)
    void lf_job_close(lf_job* job)
    void lf_allow_ring(uv.uv_loop_t* loop)

/* Jobs on files: requests of libuv's own where one call is all, and work for its thread pool where several calls belong
   together, so that a small file costs one hop to a thread and not three. Nothing here needs the GIL. */
#ifndef LOOPFAST_FSJOBS_H
#define LOOPFAST_FSJOBS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#if !defined(_WIN32)
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>
#else
/* What os.statvfs_result names. Windows does not answer it. */
struct statvfs {
    unsigned long f_bsize, f_frsize, f_flag, f_namemax, f_fsid;
    unsigned long long f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail;
};
#endif

enum lf_kind {
    /* libuv's own requests. */
    LF_STAT, LF_LSTAT, LF_FSTAT, LF_MKDIR, LF_RMDIR, LF_UNLINK, LF_RENAME, LF_LINK, LF_SYMLINK, LF_READLINK, LF_REALPATH,
    LF_CHMOD, LF_FCHMOD, LF_CHOWN, LF_LCHOWN, LF_FCHOWN, LF_ACCESS, LF_FSYNC, LF_FDATASYNC, LF_FTRUNCATE, LF_SENDFILE,
    LF_PREAD, LF_PWRITE,
    /* Several calls each. */
    LF_OPEN, LF_READ_WHOLE, LF_WRITE_WHOLE, LF_FINISH, LF_SCAN, LF_COPY,
    /* What libuv does not have, or only with less precision. */
    LF_UTIME, LF_TRUNCATE, LF_STATVFS,
    LF_KINDS
};

/* Results beside libuv's codes: the two names of a copy are one file; a name is that of a pipe. */
enum { LF_SAME_FILE = -20001, LF_IS_PIPE = -20002 };

/* Which names an error is about. */
enum { LF_NO_NAME = 0, LF_FIRST_NAME = 1, LF_SECOND_NAME = 2, LF_BOTH_NAMES = 3 };

enum {
    /* Bytes: a whole file up to this is read within the first job, into memory of the job's. */
    LF_SMALL_FILE = 128 * 1024,
    /* What is read at first of a file that claims to be empty, as those of /proc do. */
    LF_FIRST_READ = 16 * 1024,
    LF_COPY_BUFFER = 128 * 1024
};

typedef struct lf_job lf_job;

struct lf_job {
    /* First: libuv's request is the job. libuv's from lf_job_start() until the callback. */
    union { uv_req_t any; uv_fs_t fs; uv_work_t work; } uv;
    int kind;
    void (*callback)(lf_job *job);

    /* What to do. Paths and buffer belong to what is `kept`. */
    const char *path, *other;
    int fd, flags, mode;
    unsigned int uid, gid;
    /* -1: where the file itself stands. */
    int64_t offset;
    char *buffer;
    size_t size;
    int64_t times[4];

    /* What came of it: a count or zero, or a negative code. */
    int64_t result;
    /* Bytes of `buffer` done. */
    size_t done;
    int about;
    /* `fd` was opened by this job, or is to be closed by it. */
    int owns_fd;
    /* LF_READ_WHOLE: there is no more to read. Else a buffer is wanted, at least this large. */
    int is_end;
    size_t wanted;
    /* malloc()ed: what was read or found. */
    char *found;
    size_t found_size, found_room;
    /* LF_OPEN, and LF_READ_WHOLE for itself. */
    int64_t file_size, position;
    int file_mode, is_terminal;
    struct statvfs space;

    /* The module's own. `owner` is borrowed, NULL once nobody waits; the rest is owned. */
    PyObject *owner, *descriptor, *kept[2];
    Py_buffer view;
    int has_view;
};

#if defined(_WIN32)
static void lf_job_work(uv_work_t *req) { ((lf_job *)req)->result = UV_ENOSYS; }
static inline int lf_close(int fd) { (void)fd; return 0; }
static inline void lf_job_close(lf_job *job) { job->owns_fd = 0; }
static inline long long lf_read_now(int fd, char *buffer, size_t size, int64_t offset) {
    (void)fd; (void)buffer; (void)size; (void)offset; return UV_EAGAIN;
}
#else

static inline int lf_close(int fd) {
    /* After EINTR the descriptor is gone, too. */
    return close(fd) < 0 && errno != EINTR && errno != EINPROGRESS ? -errno : 0;
}

/* Reads what the kernel has in memory: UV_EAGAIN where it would have to wait, or cannot tell. */
static inline long long lf_read_now(int fd, char *buffer, size_t size, int64_t offset) {
#if defined(RWF_NOWAIT)
    struct iovec piece;
    ssize_t n;
    piece.iov_base = buffer;
    piece.iov_len = size;
    n = preadv2(fd, &piece, 1, (off_t)offset, RWF_NOWAIT);
    /* Anything else is for the request that follows to say. */
    return n < 0 ? UV_EAGAIN : n;
#else
    (void)fd; (void)buffer; (void)size; (void)offset;
    return UV_EAGAIN;
#endif
}

static inline int lf_open_path(const char *path, int flags, int mode) {
    int fd;
    do fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

static inline long long lf_read_at(int fd, char *buffer, size_t size, int64_t offset) {
    ssize_t n;
    do n = offset < 0 ? read(fd, buffer, size) : pread(fd, buffer, size, (off_t)offset);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline long long lf_write_at(int fd, const char *data, size_t size, int64_t offset) {
    ssize_t n;
    do n = offset < 0 ? write(fd, data, size) : pwrite(fd, data, size, (off_t)offset);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline int lf_write_all(lf_job *job) {
    while (job->done < job->size) {
        long long n = lf_write_at(job->fd, job->buffer + job->done, job->size - job->done, job->offset);
        if (n <= 0) return n < 0 ? (int)n : UV_EIO;
        job->done += (size_t)n;
        if (job->offset >= 0) job->offset += n;
    }
    return 0;
}

static inline void lf_job_close(lf_job *job) {
    if (job->owns_fd) {
        int status = lf_close(job->fd);
        job->owns_fd = 0;
        if (job->result >= 0 && status < 0) job->result = status;
    }
}

static inline void lf_do_open(lf_job *job) {
    struct stat info;
    if (job->path != NULL) {
        job->about = LF_FIRST_NAME;
        job->fd = lf_open_path(job->path, job->flags, job->mode);
        if (job->fd < 0) { job->result = job->fd; return; }
        job->owns_fd = 1;
    }
    if (fstat(job->fd, &info) < 0) job->result = -errno;
    else if (S_ISDIR(info.st_mode)) job->result = UV_EISDIR;
    if (job->result < 0) { lf_job_close(job); return; }
    job->file_mode = (int)info.st_mode;
    job->file_size = (int64_t)info.st_size;
    job->position = (int64_t)lseek(job->fd, 0, job->flags & O_APPEND ? SEEK_END : SEEK_CUR);
    job->is_terminal = S_ISCHR(info.st_mode) && isatty(job->fd);
}

/* New memory for a large file is asked for in pages of 2 MiB where the kernel has them (madvise(2)): most of the time of
   reading such a file into memory goes into the pages. Only whole ones inside of the buffer, so it grows no larger. */
static inline void lf_prefer_large_pages(char *buffer, size_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = (uintptr_t)2 << 20;
    uintptr_t begin = ((uintptr_t)buffer + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)buffer + size) & ~(page - 1);
    if (end > begin) (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)buffer;
    (void)size;
#endif
}

static inline void lf_do_read_whole(lf_job *job) {
    char *to;
    size_t room;
    if (job->path != NULL && !job->owns_fd) {
        job->about = LF_FIRST_NAME;
        job->fd = lf_open_path(job->path, O_RDONLY, 0);
        if (job->fd < 0) { job->result = job->fd; return; }
        job->owns_fd = 1;
    }
    if (job->buffer == NULL) {
        struct stat info;
        int64_t left;
        if (fstat(job->fd, &info) < 0) { job->result = -errno; return; }
        left = S_ISREG(info.st_mode) ? (int64_t)info.st_size - (job->offset > 0 ? job->offset : 0) : 0;
        /* One more than there is: the read that does not fill it has seen the end. */
        room = left > 0 ? (size_t)left + 1 : LF_FIRST_READ;
        if (room > LF_SMALL_FILE) { job->wanted = room; return; }
        job->found = (char *)malloc(room);
        if (job->found == NULL) { job->result = UV_ENOMEM; return; }
        job->found_room = room;
        to = job->found;
    } else {
        to = job->buffer;
        room = job->size;
        lf_prefer_large_pages(to + job->done, room - job->done);
    }
    while (job->done < room) {
        long long n = lf_read_at(job->fd, to + job->done, room - job->done, job->offset);
        if (n < 0) { job->result = n; return; }
        if (n == 0) { job->is_end = 1; break; }
        job->done += (size_t)n;
        if (job->offset >= 0) job->offset += n;
    }
    if (job->is_end) lf_job_close(job);
    else job->wanted = room + room / 8 + LF_SMALL_FILE;
}

static inline void lf_do_write_whole(lf_job *job) {
    job->about = LF_FIRST_NAME;
    job->fd = lf_open_path(job->path, job->flags, job->mode);
    if (job->fd < 0) { job->result = job->fd; return; }
    job->owns_fd = 1;
    job->result = lf_write_all(job);
    lf_job_close(job);
}

static inline void lf_do_finish(lf_job *job) {
    job->result = lf_write_all(job);
    if (job->position >= 0) (void)lseek(job->fd, (off_t)job->position, SEEK_SET);
    lf_job_close(job);
}

static inline char lf_type_of(int mode) {
    return S_ISDIR(mode) ? 'd' : S_ISREG(mode) ? 'f' : S_ISLNK(mode) ? 'l' : 'o';
}

/* Each entry: its inode (8 bytes), what it is, what a link leads to, the name, a zero. */
static inline int lf_add_entry(lf_job *job, uint64_t inode, char type, char target, const char *name) {
    size_t length = strlen(name) + 1;
    char *at;
    if (job->found_room - job->found_size < length + 10) {
        size_t room = job->found_room * 2 + length + 4096;
        char *grown = (char *)realloc(job->found, room);
        if (grown == NULL) return UV_ENOMEM;
        job->found = grown;
        job->found_room = room;
    }
    at = job->found + job->found_size;
    memcpy(at, &inode, 8);
    at[8] = type;
    at[9] = target;
    memcpy(at + 10, name, length);
    job->found_size += length + 10;
    return 0;
}

static inline void lf_do_scan(lf_job *job) {
    struct dirent *entry;
    DIR *folder = opendir(job->path);
    job->about = LF_FIRST_NAME;
    if (folder == NULL) { job->result = -errno; return; }
    while (job->result == 0) {
        struct stat info;
        char type = 0, target = 0;
        errno = 0;
        entry = readdir(folder);
        if (entry == NULL) { job->result = -errno; break; }
        if (entry->d_name[0] == '.' && (!entry->d_name[1] || (entry->d_name[1] == '.' && !entry->d_name[2]))) continue;
#if defined(DT_DIR)
        switch (entry->d_type) {
            case DT_DIR: type = 'd'; break;
            case DT_REG: type = 'f'; break;
            case DT_LNK: type = 'l'; break;
            case DT_UNKNOWN: break;
            default: type = 'o';
        }
#endif
        if (job->mode && type == 0)
            type = fstatat(dirfd(folder), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) < 0 ? 'o' : lf_type_of((int)info.st_mode);
        if (job->mode && type == 'l')
            target = fstatat(dirfd(folder), entry->d_name, &info, 0) < 0 ? 0 : lf_type_of((int)info.st_mode);
        job->result = lf_add_entry(job, (uint64_t)entry->d_ino, type, target, entry->d_name);
    }
    (void)closedir(folder);
}

#if defined(__linux__)
/* Not there before glibc 2.27, which wheels may be built for. */
extern ssize_t copy_file_range(int, loff_t *, int, loff_t *, size_t, unsigned int) __attribute__((weak));
#endif

/* Copies from where both files stand to the end of `from`. */
static inline int lf_copy_data(int from, int to, int64_t size, int *about) {
    char *buffer;
    int status = 0;
    *about = LF_SECOND_NAME;
#if defined(__linux__)
    if (copy_file_range != NULL && size > LF_COPY_BUFFER) {
        int64_t total = 0;
        for (;;) {
            ssize_t n = copy_file_range(from, NULL, to, NULL, (size_t)1 << 30, 0);
            if (n > 0) { total += n; continue; }
            if (n < 0 && errno == EINTR) continue;
            if (n == 0 && total > 0) return 0;
            if (n < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) return -errno;
            break;  /* Not for these two files, or for want of a size: both stand where they are. */
        }
    }
#endif
    buffer = (char *)malloc(LF_COPY_BUFFER);
    if (buffer == NULL) return UV_ENOMEM;
    for (;;) {
        long long left = lf_read_at(from, buffer, LF_COPY_BUFFER, -1), n, done = 0;
        if (left < 0) { *about = LF_FIRST_NAME; status = (int)left; }
        if (left <= 0) break;
        for (; done < left; done += n) {
            n = lf_write_at(to, buffer + done, (size_t)(left - done), -1);
            if (n <= 0) { status = n < 0 ? (int)n : UV_EIO; break; }
        }
        /* A short read of a file that is as long as it says is the end. */
        if (status < 0 || (size > 0 && left == size && left < LF_COPY_BUFFER)) break;
    }
    free(buffer);
    return status;
}

static inline void lf_do_copy(lf_job *job) {
    struct stat from, to;
    int source, target, status;
    job->about = LF_FIRST_NAME;
    /* Not to wait for the other end of a pipe, which is refused below. */
    source = lf_open_path(job->path, O_RDONLY | O_NONBLOCK, 0);
    if (source < 0) { job->result = source; return; }
    if (fstat(source, &from) < 0) { job->result = -errno; (void)lf_close(source); return; }
    if (S_ISDIR(from.st_mode) || S_ISFIFO(from.st_mode)) {
        job->result = S_ISDIR(from.st_mode) ? UV_EISDIR : LF_IS_PIPE;
        (void)lf_close(source);
        return;
    }
    job->about = LF_SECOND_NAME;
    target = lf_open_path(job->other, O_WRONLY | O_CREAT | O_NONBLOCK | job->flags, job->mode ? (int)(from.st_mode & 0777) : 0666);
    if (target < 0) {
        job->result = target == -ENXIO ? LF_IS_PIPE : target;
        (void)lf_close(source);
        return;
    }
    status = fstat(target, &to) < 0 ? -errno : 0;
    if (status == 0 && S_ISFIFO(to.st_mode)) status = LF_IS_PIPE;
    if (status == 0 && from.st_dev == to.st_dev && from.st_ino == to.st_ino) {
        status = LF_SAME_FILE;
        job->about = LF_BOTH_NAMES;
    }
    if (status == 0 && to.st_size > 0 && S_ISREG(to.st_mode)) {
        do status = ftruncate(target, 0) < 0 ? -errno : 0;
        while (status == -EINTR);
    }
    if (status == 0) status = lf_copy_data(source, target, S_ISREG(from.st_mode) ? (int64_t)from.st_size : 0, &job->about);
    if (status == 0 && job->mode && fchmod(target, from.st_mode & 07777) < 0) status = -errno;
    (void)lf_close(source);
    job->result = lf_close(target);
    if (status < 0) job->result = status;
}

static inline void lf_do_utime(lf_job *job) {
    struct timespec times[2];
    int status;
    times[0].tv_sec = (time_t)job->times[0];
    times[0].tv_nsec = (long)job->times[1];
    times[1].tv_sec = (time_t)job->times[2];
    times[1].tv_nsec = (long)job->times[3];
    if (job->path == NULL) status = futimens(job->fd, job->flags & 1 ? NULL : times);
    else status = utimensat(AT_FDCWD, job->path, job->flags & 1 ? NULL : times, job->flags & 2 ? AT_SYMLINK_NOFOLLOW : 0);
    if (status < 0) job->result = -errno;
}

static void lf_job_work(uv_work_t *req) {
    lf_job *job = (lf_job *)req;
    int status = 0;
    switch (job->kind) {
        case LF_OPEN: lf_do_open(job); break;
        case LF_READ_WHOLE: lf_do_read_whole(job); break;
        case LF_WRITE_WHOLE: lf_do_write_whole(job); break;
        case LF_FINISH: lf_do_finish(job); break;
        case LF_SCAN: lf_do_scan(job); break;
        case LF_COPY: lf_do_copy(job); break;
        case LF_UTIME: lf_do_utime(job); break;
        case LF_TRUNCATE:
            do status = truncate(job->path, (off_t)job->offset);
            while (status < 0 && errno == EINTR);
            if (status < 0) job->result = -errno;
            break;
        case LF_STATVFS:
            do status = job->path != NULL ? statvfs(job->path, &job->space) : fstatvfs(job->fd, &job->space);
            while (status < 0 && errno == EINTR);
            if (status < 0) job->result = -errno;
            break;
        default: job->result = UV_ENOSYS;
    }
}
#endif

static void lf_after_fs(uv_fs_t *req) {
    lf_job *job = (lf_job *)req;
    job->result = req->result;
    job->callback(job);
}

static void lf_after_work(uv_work_t *req, int status) {
    lf_job *job = (lf_job *)req;
    /* Cancelled: the work was never begun. */
    if (status < 0) job->result = status;
    job->callback(job);
}

/* Gives the job to libuv. A negative code: it was not taken. */
static inline int lf_job_start(uv_loop_t *loop, lf_job *job) {
    uv_fs_t *fs = &job->uv.fs;
    uv_buf_t piece;
    switch (job->kind) {
        case LF_STAT: return uv_fs_stat(loop, fs, job->path, lf_after_fs);
        case LF_LSTAT: return uv_fs_lstat(loop, fs, job->path, lf_after_fs);
        case LF_FSTAT: return uv_fs_fstat(loop, fs, job->fd, lf_after_fs);
        case LF_MKDIR: return uv_fs_mkdir(loop, fs, job->path, job->mode, lf_after_fs);
        case LF_RMDIR: return uv_fs_rmdir(loop, fs, job->path, lf_after_fs);
        case LF_UNLINK: return uv_fs_unlink(loop, fs, job->path, lf_after_fs);
        case LF_RENAME: return uv_fs_rename(loop, fs, job->path, job->other, lf_after_fs);
        case LF_LINK: return uv_fs_link(loop, fs, job->path, job->other, lf_after_fs);
        case LF_SYMLINK: return uv_fs_symlink(loop, fs, job->path, job->other, job->flags, lf_after_fs);
        case LF_READLINK: return uv_fs_readlink(loop, fs, job->path, lf_after_fs);
        case LF_REALPATH: return uv_fs_realpath(loop, fs, job->path, lf_after_fs);
        case LF_CHMOD: return uv_fs_chmod(loop, fs, job->path, job->mode, lf_after_fs);
        case LF_FCHMOD: return uv_fs_fchmod(loop, fs, job->fd, job->mode, lf_after_fs);
        case LF_CHOWN: return uv_fs_chown(loop, fs, job->path, (uv_uid_t)job->uid, (uv_gid_t)job->gid, lf_after_fs);
        case LF_LCHOWN: return uv_fs_lchown(loop, fs, job->path, (uv_uid_t)job->uid, (uv_gid_t)job->gid, lf_after_fs);
        case LF_FCHOWN: return uv_fs_fchown(loop, fs, job->fd, (uv_uid_t)job->uid, (uv_gid_t)job->gid, lf_after_fs);
        case LF_ACCESS: return uv_fs_access(loop, fs, job->path, job->mode, lf_after_fs);
        case LF_FSYNC: return uv_fs_fsync(loop, fs, job->fd, lf_after_fs);
        case LF_FDATASYNC: return uv_fs_fdatasync(loop, fs, job->fd, lf_after_fs);
        case LF_FTRUNCATE: return uv_fs_ftruncate(loop, fs, job->fd, job->offset, lf_after_fs);
        case LF_SENDFILE: return uv_fs_sendfile(loop, fs, job->mode, job->fd, job->offset, job->size, lf_after_fs);
        case LF_PREAD:
        case LF_PWRITE:
            piece = uv_buf_init(job->buffer + job->done, 0);
            piece.len = job->size - job->done;
            if (job->kind == LF_PREAD) return uv_fs_read(loop, fs, job->fd, &piece, 1, job->offset, lf_after_fs);
            return uv_fs_write(loop, fs, job->fd, &piece, 1, job->offset, lf_after_fs);
        default: return uv_queue_work(loop, &job->uv.work, lf_job_work, lf_after_work);
    }
}

/* Frees what libuv allocated for the request. */
static inline void lf_job_forget_request(lf_job *job) {
    if (job->kind < LF_OPEN) uv_fs_req_cleanup(&job->uv.fs);
}

/* Lets a loop use the kernel's ring for requests, where the environment asks libuv for it (UV_USE_IO_URING=1). */
static inline void lf_allow_ring(uv_loop_t *loop) {
#if defined(UV_LOOP_USE_IO_URING_SQPOLL)
    (void)uv_loop_configure(loop, UV_LOOP_USE_IO_URING_SQPOLL);
#else
    (void)loop;
#endif
}

#endif

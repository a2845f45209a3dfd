// Breaks the n-th call that touches a folder: preloaded into a real run.
//
// FAULT=CALL:N:WHAT   CALL is open, write, sync, rename or unlink, or any of them; WHAT is kill, or the number of an error.
//                     A + behind WHAT breaks the later calls as well.
// FAULT_FOLDER=PATH   calls on files elsewhere are left alone; opening to read is not counted
// FAULT_COUNT=FILE    at its end the process adds the number of counted calls to this file
// FLOCK=ERROR         every flock fails with this error; FLOCK=readonly as on NFS, where an exclusive lock needs a file opened to write
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char* wanted_call = "";
static const char* folder;
static char call[16];
static long wanted, count;
static int error, is_for_good;

__attribute__((constructor)) static void begin(void) {
    char what[16] = "";
    const char* fault = getenv("FAULT");
    folder = getenv("FAULT_FOLDER");
    if (fault && folder && sscanf(fault, "%15[a-z]:%ld:%15s", call, &wanted, what) == 3) {
        wanted_call = call;
        error = strncmp(what, "kill", 4) ? atoi(what) : 0;
        is_for_good = strchr(what, '+') != NULL;
    }
}

__attribute__((destructor)) static void end(void) {
    const char* file = getenv("FAULT_COUNT");
    if (!file) return;
    char text[32];
    int length = snprintf(text, sizeof text, "%ld\n", count), fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (syscall(SYS_write, fd, text, length) != length) abort();
    syscall(SYS_close, fd);
}

static int is_inside(const char* path) {
    char whole[8192];
    if (!folder) return 0;
    if (path[0] == '/') return !strncmp(path, folder, strlen(folder));
    if (!getcwd(whole, 4096)) return 0;
    size_t length = strlen(whole);
    snprintf(whole + length, sizeof whole - length, "/%s", path);
    return !strncmp(whole, folder, strlen(folder));
}

static int is_inside_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlink, link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_inside(path);
}

// Whether this call is to fail; errno says how. Does not return from the one that is to kill.
static int breaks(const char* name) {
    if (!*wanted_call || (strcmp(wanted_call, "any") && strcmp(wanted_call, name))) return 0;
    long at = __sync_add_and_fetch(&count, 1);
    if (at != wanted && !(is_for_good && at > wanted)) return 0;
    if (error == 0) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    errno = error;
    return 1;
}

static int open_at(const char* path, int flags, int mode) {
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is_inside(path) && breaks("open")) return -1;
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char* path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return open_at(path, flags, mode);
}

int open(const char* path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return open_at(path, flags, mode);
}

ssize_t write(int fd, const void* bytes, size_t length) {
    if (is_inside_fd(fd) && breaks("write")) return -1;
    return syscall(SYS_write, fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec* parts, int count_of_parts) {
    if (is_inside_fd(fd) && breaks("write")) return -1;
    return syscall(SYS_writev, fd, parts, count_of_parts);
}

int fsync(int fd) {
    if (is_inside_fd(fd) && breaks("sync")) return -1;
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    if (is_inside_fd(fd) && breaks("sync")) return -1;
    return syscall(SYS_fdatasync, fd);
}

int rename(const char* from, const char* to) {
    if (is_inside(from) && breaks("rename")) return -1;
    return syscall(SYS_rename, from, to);
}

int unlink(const char* path) {
    if (is_inside(path) && breaks("unlink")) return -1;
    return syscall(SYS_unlink, path);
}

int flock(int fd, int operation) {
    const char* mode = getenv("FLOCK");
    if (mode && !strcmp(mode, "readonly")) {
        if ((operation & LOCK_EX) && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY) {
            errno = EBADF;
            return -1;
        }
    } else if (mode) {
        errno = atoi(mode);
        return -1;
    }
    return syscall(SYS_flock, fd, operation);
}

/* A disk, as many in a network, on which the shared index of SQLite's write-ahead log cannot be mapped. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef void *(*mapper)(void *, size_t, int, int, int, off_t);

static int is_index(int file) {
    char link[64], path[4096];
    if (file < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 4) return 0;
    path[length] = 0;
    return strcmp(path + length - 4, "-shm") == 0;
}

static void *map(const char *name, void *at, size_t size, int protection, int flags, int file, off_t offset) {
    if (is_index(file)) {
        errno = ENODEV;
        return MAP_FAILED;
    }
    return ((mapper)dlsym(RTLD_NEXT, name))(at, size, protection, flags, file, offset);
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    return map("mmap", at, size, protection, flags, file, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    return map("mmap64", at, size, protection, flags, file, offset);
}

/* Files that last: what the storage driver opened for this instance, under the paths that the manifest gives them.
 *
 * A file here can't be made, removed or renamed: the driver made it, and it stays. So "it is there" means that it has
 * bytes, or that this process made it (O_CREAT) and did not remove it; removing it leaves no bytes. That is what SQLite
 * asks of its journals: a journal is hot if it is there, and the end of a transaction is its removal.
 *
 * Every open of a path is a dup of one description, as in tmp.c: SQLite reads and writes with offsets of its own.
 */
#include "trap.h"

#ifndef FIONREAD
#define FIONREAD 0x541B
#endif

struct kept kept[MAX_KEPT];
int kept_count;

int kept_find(const char *path, size_t length) {
    for (int i = 0; i < kept_count; i++)
        if (kept[i].length == length && !memcmp(kept[i].path, path, length))
            return i;
    return -1;
}

/* FIONREAD says size less offset, in 32 bits: what is beyond 4 GiB is looked for. */
int64_t kept_size(int index) {
    int fd = kept[index].fd;
    for (;;) {
        uint32_t left = 0;
        char byte;
        word before = sys(SYS_lseek, fd, 0, 1, 0);
        if (before < 0 || sys(SYS_ioctl, fd, FIONREAD, &left, 0) < 0)
            return -1;
        if (before != sys(SYS_lseek, fd, 0, 1, 0))
            continue;
        int64_t size = (uint32_t)(before + left);
        while (sys(SYS_pread64, fd, &byte, 1, size + UINT32_MAX) == 1)
            size += (int64_t)1 << 32;
        return size;
    }
}

int kept_exists(int index) {
    char byte;
    return __atomic_load_n(&kept[index].made, __ATOMIC_ACQUIRE) || sys(SYS_pread64, kept[index].fd, &byte, 1, 0) == 1;
}

word kept_open(int index, const struct path *path, word flags) {
    struct kept *file = &kept[index];
    int exists = kept_exists(index), writing = (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
    if (!exists && !(flags & O_CREAT))
        return -ENOENT;
    if (exists && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
        return -EEXIST;
    if (path->wants_directory || flags & O_DIRECTORY)
        return exists ? -ENOTDIR : -EISDIR;
    if (!file->writable && (writing || !exists))
        return -EACCES;
    if (flags & O_APPEND) /* it would belong to all who have the file open, SQLite too */
        return -EINVAL;
    word fd = marked(SYS_fcntl, file->fd, F_DUPFD_CLOEXEC, 0, 0);
    if (fd < 0)
        return fd;
    if (flags & O_TRUNC)
        sys(SYS_ftruncate, fd, 0, 0, 0);
    if (!exists)
        __atomic_store_n(&file->made, 1, __ATOMIC_RELEASE);
    sys(SYS_lseek, fd, 0, 0, 0);
    fd_is(fd, (struct thing){KEPT, 0, index});
    return fd;
}

/* What was removed must not come back after a power failure: a journal that did would undo what was committed. */
word kept_remove(int index) {
    struct kept *file = &kept[index];
    if (!kept_exists(index))
        return -ENOENT;
    if (!file->writable)
        return -EACCES;
    __atomic_store_n(&file->made, 0, __ATOMIC_RELEASE);
    word failed = sys(SYS_ftruncate, file->fd, 0, 0, 0);
    return failed || file->passing ? failed : sys(SYS_fsync, file->fd, 0, 0, 0);
}

/* The driver opens its files with O_NOFOLLOW, which stays on a description and can't be set: others have it not. */
int kept_is(int fd) {
    word flags = sys(SYS_fcntl, fd, F_GETFL, 0, 0);
    return flags >= 0 && flags & O_NOFOLLOW;
}

/* --- the directories in which they lie, where no pack has them: index of a file, and how much of its path */

#define FOLDER_OF(index, length) ((uint32_t)(index) << 10 | (uint32_t)(length))

static int is_below(const struct kept *file, const char *folder, size_t length) {
    size_t head = length == 1 ? 0 : length; /* "/" ends in its slash */
    return file->length > head + 1 && file->path[head] == '/' && !memcmp(file->path, folder, head);
}

struct thing kept_folder(const char *path, size_t length) {
    for (int i = 0; i < kept_count; i++)
        if (is_below(&kept[i], path, length))
            return (struct thing){FOLDER, 0, FOLDER_OF(i, length)};
    return (struct thing){NOTHING, 0, 0};
}

const char *kept_folder_path(uint32_t index, size_t *length) {
    *length = index & 1023;
    return kept[index >> 10].path;
}

/* Has an earlier file of the table the same name in this directory? Then it was listed. */
static int was_listed(int before, const char *folder, size_t length, const char *name, size_t size) {
    size_t head = length == 1 ? 0 : length;
    for (int i = 0; i < before; i++) {
        const char *other = kept[i].path + head + 1;
        if (is_below(&kept[i], folder, length) && kept[i].length >= head + 1 + size && !memcmp(other, name, size) &&
            (other[size] == '/' || (!other[size] && kept_exists(i))))
            return 1;
    }
    return 0;
}

word kept_list(const char *folder, size_t length, int fd, uint64_t *at, int (*known)(const void *, const char *),
               const void *listing) {
    char name[256];
    word failed = 0;
    for (int i = 0; i < kept_count && !failed; i++) {
        if (!is_below(&kept[i], folder, length))
            continue;
        const char *start = kept[i].path + (length == 1 ? 0 : length) + 1;
        size_t size = 0;
        while (start[size] && start[size] != '/')
            size++;
        int is_folder = start[size] == '/';
        if (size >= sizeof name || (!is_folder && !kept_exists(i)) || was_listed(i, folder, length, start, size))
            continue;
        memcpy(name, start, size);
        name[size] = 0;
        if (!known || !known(listing, name))
            failed = put_dirent(fd, at, KEPT_INODE + i, is_folder ? 4 : 8, name, size);
    }
    return failed;
}

word kept_open_folder(struct thing folder) {
    size_t length;
    const char *path = kept_folder_path(folder.index, &length);
    uint64_t at = 0;
    int fd = new_memfd();
    if (fd < 0)
        return fd;
    word failed = put_dirent(fd, &at, KEPT_INODE + MAX_KEPT, 4, ".", 1);
    if (!failed)
        failed = put_dirent(fd, &at, 1, 4, "..", 2);
    if (!failed)
        failed = kept_list(path, length, fd, &at, NULL, NULL);
    if (!failed)
        failed = seal(fd);
    if (failed) {
        sys(SYS_close, fd, 0, 0, 0);
        return failed;
    }
    fd_is(fd, folder);
    return fd;
}

/* --- what trap.py calls, before the filter is on */

/* fd stays the caller's. passing: what is removed need not be gone after a power failure. 0 or -errno. */
PUBLIC int fildes_trap_add_kept(const char *path, int fd, int writable, int passing) {
    if (kept_count == MAX_KEPT)
        return -EMFILE;
    struct kept *file = &kept[kept_count];
    file->length = strlen(path);
    if (path[0] != '/' || file->length >= sizeof file->path)
        return -ENAMETOOLONG;
    memcpy(file->path, path, file->length + 1);
    file->fd = fd;
    file->writable = writable;
    file->passing = passing;
    fd_is(fd, (struct thing){KEPT, 0, kept_count});
    kept_count++;
    return 0;
}

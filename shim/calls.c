/* The calls about files and descriptors, one function each: `call_…` returns what the system call would. */
#include "trap.h"

#include <linux/stat.h>

#define TMPFS_MAGIC 0x01021994

static word open_device(uint32_t device, word flags) {
    int from = device == NULL_DEVICE       ? null_fd
               : device == RANDOM_DEVICE   ? random_fd
               : device == TERMINAL_DEVICE ? terminal_fd
                                           : (int)(device - STDIN_DEVICE);
    if (from < 0)
        return device == RANDOM_DEVICE ? -EACCES : device == TERMINAL_DEVICE ? -ENXIO : -ENOENT;
    if (flags & O_DIRECTORY)
        return -ENOTDIR;
    word fd = marked(SYS_fcntl, from, F_DUPFD_CLOEXEC, 0, 0);
    if (fd >= 0)
        fd_is(fd, device == NULL_DEVICE ? (struct thing){DEVICE, 0, device} : (struct thing){NOTHING, 0, 0});
    return fd;
}

static word open_secret(uint32_t index) {
    char piece[1024];
    int fd = new_memfd();
    word got = fd;
    for (uint64_t at = 0; fd >= 0; at += got) {
        got = sys(SYS_pread64, secrets[index].fd, piece, sizeof piece, at);
        if (got <= 0)
            break;
        got = sys(SYS_pwrite64, fd, piece, got, at);
        if (got <= 0)
            break;
    }
    if (got == 0)
        got = seal(fd);
    if (got < 0) {
        if (fd >= 0)
            sys(SYS_close, fd, 0, 0, 0);
        return got;
    }
    fd_is(fd, (struct thing){SECRET, 0, index});
    return fd;
}

/* /run/secrets, and /run, which holds it. */
static word open_secrets(struct thing folder) {
    uint64_t at = 0;
    int fd = new_memfd();
    if (fd < 0)
        return fd;
    word failed = put_dirent(fd, &at, 100 + folder.index, 4, ".", 1);
    if (!failed)
        failed = put_dirent(fd, &at, 1, 4, "..", 2);
    if (!failed && folder.index == RUN_FOLDER)
        failed = put_dirent(fd, &at, 100 + SECRETS_FOLDER, 4, "secrets", 7);
    for (int i = 0; i < secret_count && folder.index == SECRETS_FOLDER && !failed; i++)
        failed = put_dirent(fd, &at, 100 + i, 8, secrets[i].name, secrets[i].length);
    if (!failed)
        failed = seal(fd);
    if (failed) {
        sys(SYS_close, fd, 0, 0, 0);
        return failed;
    }
    fd_is(fd, folder);
    return fd;
}

static int in_tmp(const struct path *path) {
    return path->length >= 4 && !memcmp(path->text, TMP, 4) && (path->length == 4 || path->text[4] == '/');
}

word call_open(word dir_fd, const char *given, word flags, word mode) {
    struct path path;
    word failed = path_resolve(dir_fd, given, &path);
    if (failed)
        return failed;
    int writing = (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
    if (in_tmp(&path)) {
        if ((flags & O_TMPFILE) != O_TMPFILE)
            return tmp_open(&path, flags, mode);
        struct thing folder = path_find(path.text, path.length);
        if (folder.kind == NOTHING)
            return path_missing(&path);
        return !thing_is_directory(folder) ? -ENOTDIR : writing ? tmp_open_nameless() : -EINVAL;
    }
    int file = kept_find(path.text, path.length);
    if (file >= 0)
        return kept_open(file, &path, flags);
    struct thing thing = path_find(path.text, path.length);
    if (thing.kind == NOTHING) {
        failed = flags & O_CREAT ? path_parent_missing(&path) : path_missing(&path);
        return failed ? failed : -EROFS;
    }
    int directory = thing_is_directory(thing);
    if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
        return -EEXIST;
    if (!directory && path.wants_directory)
        return -ENOTDIR;
    if (thing.kind == DEVICE)
        return open_device(thing.index, flags);
    if (directory && (flags & O_TMPFILE) == O_TMPFILE)
        return -EROFS;
    if (directory && (writing || flags & O_CREAT))
        return -EISDIR;
    if (!directory && (flags & O_DIRECTORY))
        return -ENOTDIR;
    if (writing)
        return -EROFS;
    if (thing.kind == FOLDER)
        return kept_open_folder(thing);
    if (thing.kind == SECRET)
        return directory ? open_secrets(thing) : open_secret(thing.index);
    return open_packed(thing);
}

static word facts_at(word dir_fd, const char *given, word flags, struct facts *facts) {
    if ((flags & AT_EMPTY_PATH) && (!given || (readable(given, 1) && !*given))) {
        if ((int)dir_fd != AT_FDCWD)
            return facts_of_fd(dir_fd, facts);
        given = ".";
    }
    struct path path;
    word failed = path_resolve(dir_fd, given, &path);
    if (failed)
        return failed;
    struct thing thing = path_find(path.text, path.length);
    if (thing.kind == NOTHING)
        return path_missing(&path);
    if (path.wants_directory && !thing_is_directory(thing))
        return -ENOTDIR;
    return facts_of(thing, facts);
}

static word put_stat(word failed, const struct facts *facts, struct stat *out) {
    if (failed)
        return failed;
    if (!readable(out, sizeof *out))
        return -EFAULT;
    memset(out, 0, sizeof *out);
    out->st_dev = facts->dev;
    out->st_ino = facts->ino;
    out->st_mode = facts->mode;
    out->st_nlink = facts->nlink;
    out->st_uid = facts->uid;
    out->st_gid = facts->gid;
    out->st_rdev = facts->rdev;
    out->st_size = facts->size;
    out->st_blksize = 4096;
    out->st_blocks = (facts->size + 511) / 512;
    out->st_atim.tv_sec = out->st_mtim.tv_sec = out->st_ctim.tv_sec = facts->mtime;
    return 0;
}

word call_statx(word dir_fd, const char *given, word flags, struct statx *out) {
    struct facts facts;
    word failed = facts_at(dir_fd, given, flags, &facts);
    if (failed)
        return failed;
    if (!readable(out, sizeof *out))
        return -EFAULT;
    memset(out, 0, sizeof *out);
    out->stx_mask = STATX_BASIC_STATS;
    out->stx_blksize = 4096;
    out->stx_nlink = facts.nlink;
    out->stx_uid = facts.uid;
    out->stx_gid = facts.gid;
    out->stx_mode = facts.mode;
    out->stx_ino = facts.ino;
    out->stx_size = facts.size;
    out->stx_blocks = (facts.size + 511) / 512;
    out->stx_atime.tv_sec = out->stx_mtime.tv_sec = out->stx_ctime.tv_sec = facts.mtime;
    out->stx_rdev_major = facts.rdev >> 8;
    out->stx_rdev_minor = facts.rdev & 255;
    out->stx_dev_minor = facts.dev;
    return 0;
}

word call_access(word dir_fd, const char *given, word wanted, word flags) {
    struct facts facts;
    if (wanted & ~7)
        return -EINVAL;
    word failed = facts_at(dir_fd, given, flags, &facts);
    if (failed)
        return failed;
    if ((wanted & 2) && !facts.writable)
        return -EROFS;
    return (wanted & 1) && !S_ISDIR(facts.mode) && !(facts.mode & 0111) ? -EACCES : 0;
}

word call_readlink(word dir_fd, const char *given) {
    struct facts facts;
    word failed = facts_at(dir_fd, given, 0, &facts);
    return failed ? failed : -EINVAL; /* a pack holds no symbolic links, and /tmp makes none */
}

static word put_statfs(word failed, word *out) {
    if (failed)
        return failed;
    if (!readable(out, 120))
        return -EFAULT;
    memset(out, 0, 120);
    out[0] = TMPFS_MAGIC;
    out[1] = 4096;
    out[8] = 255; /* f_namelen */
    return 0;
}

/* A change to the tree at `given`: `failed` is what /tmp says to it, everything else is read-only. */
static word changed_outside(const struct path *path) {
    struct thing thing = path_find(path->text, path->length);
    if (thing.kind != NOTHING)
        return -EROFS;
    word failed = path_parent_missing(path);
    return failed ? failed : -EROFS;
}

word call_mkdir(word dir_fd, const char *given, word mode) {
    struct path path;
    word failed = path_resolve(dir_fd, given, &path);
    if (failed)
        return failed;
    if (in_tmp(&path))
        return tmp_make_directory(&path, mode);
    return path_find(path.text, path.length).kind != NOTHING ? -EEXIST : changed_outside(&path);
}

word call_unlink(word dir_fd, const char *given, int directory) {
    struct path path;
    word failed = path_resolve(dir_fd, given, &path);
    if (failed)
        return failed;
    if (in_tmp(&path))
        return tmp_remove(&path, directory);
    int file = kept_find(path.text, path.length);
    if (file >= 0 && !directory)
        return kept_remove(file);
    return path_find(path.text, path.length).kind == NOTHING ? path_missing(&path) : -EROFS;
}

word call_rename(word from_fd, const char *from, word to_fd, const char *to, word flags) {
    struct path source, target;
    word failed = path_resolve(from_fd, from, &source);
    if (!failed)
        failed = path_resolve(to_fd, to, &target);
    if (failed)
        return failed;
    if (in_tmp(&source) && in_tmp(&target))
        return tmp_rename(&source, &target, flags);
    if (path_find(source.text, source.length).kind == NOTHING)
        return path_missing(&source);
    return in_tmp(&target) ? -EXDEV : changed_outside(&target);
}

/* The mode, owner and times of a file that lasts stay what they are, whatever is said; SQLite says it of a new one. */
static word may_change(struct thing thing) {
    return thing.kind == TEMPORARY || (thing.kind == KEPT && kept[thing.index].writable) ? 0 : -EROFS;
}

/* chmod, chown, utimes and truncate by path or (with no path) by descriptor: the thing if it is in /tmp, or lasts. */
static word changeable(word dir_fd, const char *given, struct thing *out) {
    if (!given) {
        *out = fd_thing(dir_fd);
        if (out->kind == NOTHING)
            return sys(SYS_fcntl, dir_fd, F_GETFD, 0, 0) < 0 ? -EBADF : -EPERM;
        return may_change(*out);
    }
    struct path path;
    word failed = path_resolve(dir_fd, given, &path);
    if (failed)
        return failed;
    *out = path_find(path.text, path.length);
    return out->kind == NOTHING ? path_missing(&path) : may_change(*out);
}

word call_chmod(word dir_fd, const char *given, word mode) {
    struct thing thing;
    word failed = changeable(dir_fd, given, &thing);
    return failed || thing.kind == KEPT ? failed : tmp_set_mode(thing.index, mode);
}

word call_chown(word dir_fd, const char *given, word uid, word gid) {
    struct thing thing;
    word failed = changeable(dir_fd, given, &thing);
    if (failed)
        return failed;
    return ((int)uid != -1 && (uint32_t)uid != own_uid) || ((int)gid != -1 && (uint32_t)gid != own_gid) ? -EPERM : 0;
}

word call_utimens(word dir_fd, const char *given, const int64_t *times) {
    enum { NOW = 0x3fffffff, OMIT = 0x3ffffffe };
    struct thing thing;
    word failed = changeable(dir_fd, given, &thing);
    if (failed)
        return failed;
    if (times && !readable(times, 32))
        return -EFAULT;
    if (thing.kind == KEPT || (times && times[3] == OMIT))
        return 0;
    return tmp_set_mtime(thing.index, times && times[3] != NOW ? times[2] : wall_seconds());
}

word call_truncate(const char *given, word length) {
    struct thing thing;
    word failed = changeable(AT_FDCWD, given, &thing);
    if (!failed && thing.kind == KEPT)
        return sys(SYS_ftruncate, kept[thing.index].fd, length, 0, 0);
    return failed ? failed : tmp_truncate(thing.index, length);
}

word call_chdir(word dir_fd, const char *given) {
    struct path path;
    word failed = path_resolve(dir_fd, given, &path);
    if (failed)
        return failed;
    struct thing thing = path_find(path.text, path.length);
    if (thing.kind == NOTHING)
        return path_missing(&path);
    return thing_is_directory(thing) ? path_chdir(path.text, path.length) : -ENOTDIR;
}

/* --- descriptors */

word call_fcntl(int fd, word command, word argument) {
    word result;
    command = (int)command;
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) {
        result = marked(SYS_fcntl, fd, command, argument, 0);
        fd_copied(fd, result);
        return result;
    }
    if ((command < F_GETLK || command > F_SETLKW) && (command < F_OFD_GETLK || command > F_OFD_SETLKW))
        return -EINVAL;
    /* A file that only this process can reach has no other locker. */
    if (sys(SYS_fcntl, fd, F_GET_SEALS, 0, 0) < 0)
        return sys(SYS_fcntl, fd, F_GETFD, 0, 0) < 0 ? -EBADF : -ENOLCK;
    if (command == F_GETLK || command == F_OFD_GETLK) {
        if (!readable((void *)argument, sizeof(struct flock)))
            return -EFAULT;
        ((struct flock *)argument)->l_type = F_UNLCK;
    }
    return 0;
}

word call_dup3(int from, int to, word flags) {
    word result = marked(SYS_dup3, from, to, flags, 0);
    if (result >= 0)
        fd_copied(from, to);
    return result;
}

word call_dup2(int from, int to) {
    if (from != to)
        return call_dup3(from, to, 0);
    return sys(SYS_fcntl, from, F_GETFD, 0, 0) < 0 ? -EBADF : to;
}

word call_stat(word dir_fd, const char *path, word flags, struct stat *out) {
    struct facts facts;
    word failed = facts_at(dir_fd, path, flags, &facts);
    return put_stat(failed, &facts, out);
}

word call_fstat(int fd, struct stat *out) {
    struct facts facts;
    word failed = facts_of_fd(fd, &facts);
    return put_stat(failed, &facts, out);
}

word call_statfs(const char *path, word *out) {
    struct facts facts;
    return put_statfs(facts_at(AT_FDCWD, path, 0, &facts), out);
}

word call_fstatfs(int fd, word *out) {
    return put_statfs(sys(SYS_fcntl, fd, F_GETFD, 0, 0) < 0 ? -EBADF : 0, out);
}

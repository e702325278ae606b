/* /tmp: memory of this process alone, gone with it. A named file is a memfd that is kept here until it is unlinked.
 *
 * The kernel makes a second open file description of a file by path only, and there are no paths. So every open of a
 * named file is a dup: the bytes are always the same ones, but two opens at the same time share one offset, which each open
 * sets to the start. Python's own files in /tmp keep an offset each (files.py), and SQLite reads and writes with
 * offsets of its own. O_APPEND too belongs to what is shared: the last open for writing decides.
 */
#include "trap.h"

static struct tmp_node nodes[MAX_TMP];
static uint32_t last_inode = 1; /* 1 is /tmp */
static int highest;             /* nodes from here on were never used */
int tree_lock;
int tmp_first_fd = 512;

static const struct tmp_node root = {1, S_IFDIR | 01777, -1, 0, 4, TMP};

static struct tmp_node *by_path(const char *path, size_t length) {
    for (int i = 0; i < highest; i++)
        if (nodes[i].inode && nodes[i].length == length && !memcmp(nodes[i].path, path, length))
            return &nodes[i];
    return NULL;
}

static struct tmp_node *by_inode(uint32_t inode) {
    for (int i = 0; i < highest; i++)
        if (nodes[i].inode == inode)
            return &nodes[i];
    return NULL;
}

static int inside(const struct tmp_node *node, const char *folder, size_t length) {
    return node->inode && node->length > length && node->path[length] == '/' && !memcmp(node->path, folder, length);
}

static int is_root(const struct path *path) {
    return path->length == root.length;
}

uint32_t tmp_find(const char *path, size_t length) {
    if (length == root.length)
        return root.inode;
    lock(&tree_lock);
    const struct tmp_node *node = by_path(path, length);
    uint32_t inode = node ? node->inode : 0;
    unlock(&tree_lock);
    return inode;
}

int tmp_copy(uint32_t inode, struct tmp_node *out) {
    if (inode == root.inode) {
        *out = root;
        return 1;
    }
    lock(&tree_lock);
    const struct tmp_node *node = by_inode(inode);
    if (node)
        *out = *node;
    unlock(&tree_lock);
    return node != NULL;
}

/* With the lock held. */
static struct tmp_node *new_node(const struct path *path, uint32_t mode, word *failed) {
    if (path->length >= TMP_PATH) {
        *failed = -ENAMETOOLONG;
        return NULL;
    }
    size_t head = path->length;
    while (path->text[head - 1] != '/')
        head--;
    const struct tmp_node *above = head - 1 == root.length ? &root : by_path(path->text, head - 1);
    if (!above || above->fd >= 0) {
        *failed = above ? -ENOTDIR : -ENOENT;
        return NULL;
    }
    struct tmp_node *node = by_inode(0);
    if (!node && highest < MAX_TMP)
        node = &nodes[highest++];
    if (!node) {
        *failed = -ENOSPC;
        return NULL;
    }
    node->inode = ++last_inode;
    node->mode = mode;
    node->fd = -1;
    node->mtime = wall_seconds();
    node->length = path->length;
    memcpy(node->path, path->text, path->length);
    return node;
}

word tmp_open_nameless(void) {
    int fd = new_memfd();
    if (fd >= 0) {
        uint32_t inode = __atomic_add_fetch(&last_inode, 1, __ATOMIC_RELAXED);
        fd_is(fd, (struct thing){TEMPORARY, 0, inode});
    }
    return fd;
}

static word create(const struct path *path, word mode) {
    word failed = 0;
    struct tmp_node *node = new_node(path, S_IFREG | (mode & 0777), &failed);
    if (!node)
        return failed;
    word fd = new_memfd();
    word kept = fd < 0 ? fd : marked(SYS_fcntl, fd, F_DUPFD_CLOEXEC, tmp_first_fd, 0);
    if (kept < 0) {
        if (fd >= 0)
            sys(SYS_close, fd, 0, 0, 0);
        node->inode = 0;
        return kept;
    }
    node->fd = kept;
    fd_is(kept, (struct thing){TEMPORARY, 0, node->inode});
    fd_is(fd, (struct thing){TEMPORARY, 0, node->inode});
    return fd;
}

word tmp_open(const struct path *path, word flags, word mode) {
    int writing = (flags & O_ACCMODE) != O_RDONLY;
    uint32_t directory = is_root(path) ? root.inode : 0;
    word fd = 0;
    lock(&tree_lock);
    struct tmp_node *node = directory ? NULL : by_path(path->text, path->length);
    if (node && node->fd < 0)
        directory = node->inode;
    if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL) && (node || directory))
        fd = -EEXIST;
    else if (directory)
        fd = writing || flags & O_CREAT ? -EISDIR : 0;
    else if (node && (path->wants_directory || flags & O_DIRECTORY))
        fd = -ENOTDIR;
    else if (node) {
        fd = marked(SYS_fcntl, node->fd, F_DUPFD_CLOEXEC, 0, 0);
        if (fd >= 0) {
            if (writing && flags & O_TRUNC)
                sys(SYS_ftruncate, fd, 0, 0, 0);
            if (writing)
                node->mtime = wall_seconds();
            fd_is(fd, (struct thing){TEMPORARY, 0, node->inode});
            sys(SYS_lseek, fd, 0, 0, 0);
        }
    } else if (!(flags & O_CREAT))
        fd = -ENOENT;
    else
        fd = path->wants_directory ? -EISDIR : create(path, mode);
    if (fd >= 0 && !directory && writing)
        sys(SYS_fcntl, fd, F_SETFL, flags & O_APPEND, 0);
    unlock(&tree_lock);
    if (fd < 0 || !directory)
        return fd == -ENOENT ? path_missing(path) : fd;
    fd = new_memfd();
    if (fd < 0)
        return fd;
    word failed = tmp_list(directory, fd);
    if (!failed)
        failed = seal(fd);
    if (failed) {
        sys(SYS_close, fd, 0, 0, 0);
        return failed;
    }
    fd_is(fd, (struct thing){TEMPORARY, 0, directory});
    return fd;
}

word tmp_list(uint32_t inode, int fd) {
    struct tmp_node folder;
    if (!tmp_copy(inode, &folder))
        return -ENOENT;
    uint64_t at = 0;
    word failed = put_dirent(fd, &at, inode, 4, ".", 1);
    if (!failed)
        failed = put_dirent(fd, &at, 1, 4, "..", 2);
    lock(&tree_lock);
    for (int i = 0; i < highest && !failed; i++) {
        if (!inside(&nodes[i], folder.path, folder.length))
            continue;
        const char *name = nodes[i].path + folder.length + 1;
        size_t length = nodes[i].length - folder.length - 1;
        if (!memchr(name, '/', length))
            failed = put_dirent(fd, &at, nodes[i].inode, nodes[i].fd < 0 ? 4 : 8, name, length);
    }
    unlock(&tree_lock);
    return failed;
}

word tmp_make_directory(const struct path *path, word mode) {
    word failed = 0;
    lock(&tree_lock);
    if (is_root(path) || by_path(path->text, path->length))
        failed = -EEXIST;
    else
        new_node(path, S_IFDIR | (mode & 0777), &failed);
    unlock(&tree_lock);
    return failed == -ENOENT ? path_missing(path) : failed;
}

/* With the lock held: nobody refers to the name any more; what is open stays open. */
static void forget(struct tmp_node *node) {
    if (node->fd >= 0)
        sys(SYS_close, node->fd, 0, 0, 0);
    node->inode = 0;
}

static int is_empty(const struct tmp_node *folder) {
    for (int i = 0; i < highest; i++)
        if (inside(&nodes[i], folder->path, folder->length))
            return 0;
    return 1;
}

word tmp_remove(const struct path *path, int directory) {
    if (is_root(path))
        return directory ? -EBUSY : -EISDIR;
    word failed = 0;
    lock(&tree_lock);
    struct tmp_node *node = by_path(path->text, path->length);
    if (!node)
        failed = -ENOENT;
    else if ((node->fd < 0) != directory)
        failed = directory ? -ENOTDIR : -EISDIR;
    else if (path->wants_directory && !directory)
        failed = -ENOTDIR;
    else if (directory && !is_empty(node))
        failed = -ENOTEMPTY;
    else
        forget(node);
    unlock(&tree_lock);
    return failed == -ENOENT ? path_missing(path) : failed;
}

/* With the lock held: 0 if `from`, a node, may take the path `to`. */
static word may_rename(const struct tmp_node *from, const struct path *to, const struct tmp_node *target, word flags) {
    if (to->length >= TMP_PATH)
        return -ENAMETOOLONG;
    if (flags & ~1)
        return -EINVAL; /* RENAME_EXCHANGE, RENAME_WHITEOUT */
    if (target && flags & 1)
        return -EEXIST; /* RENAME_NOREPLACE */
    if (from->fd < 0 && to->length > from->length && to->text[from->length] == '/' &&
        !memcmp(to->text, from->path, from->length))
        return -EINVAL; /* into itself */
    if (target && (target->fd < 0) != (from->fd < 0))
        return target->fd < 0 ? -EISDIR : -ENOTDIR;
    if (target && target->fd < 0 && !is_empty(target))
        return -ENOTEMPTY;
    for (int i = 0; i < highest; i++)
        if (inside(&nodes[i], from->path, from->length) && nodes[i].length - from->length + to->length >= TMP_PATH)
            return -ENAMETOOLONG;
    return 0;
}

word tmp_rename(const struct path *from, const struct path *to, word flags) {
    if (is_root(from) || is_root(to))
        return -EBUSY;
    word failed = path_parent_missing(to);
    if (failed)
        return failed;
    lock(&tree_lock);
    struct tmp_node *node = by_path(from->text, from->length);
    struct tmp_node *target = by_path(to->text, to->length);
    failed = node ? may_rename(node, to, target, flags) : -ENOENT;
    if (!failed && node != target) {
        if (target)
            forget(target);
        size_t old = node->length;
        for (int i = 0; i < highest; i++) {
            if (&nodes[i] == node || !inside(&nodes[i], node->path, old))
                continue;
            memmove(nodes[i].path + to->length, nodes[i].path + old, nodes[i].length - old);
            memcpy(nodes[i].path, to->text, to->length);
            nodes[i].length = nodes[i].length - old + to->length;
        }
        memcpy(node->path, to->text, to->length);
        node->length = to->length;
    }
    unlock(&tree_lock);
    return failed == -ENOENT ? path_missing(from) : failed;
}

word tmp_set_mode(uint32_t inode, uint32_t mode) {
    lock(&tree_lock);
    struct tmp_node *node = by_inode(inode);
    if (node)
        node->mode = (node->mode & S_IFMT) | (mode & 0777);
    unlock(&tree_lock);
    return 0;
}

word tmp_set_mtime(uint32_t inode, int64_t mtime) {
    lock(&tree_lock);
    struct tmp_node *node = by_inode(inode);
    if (node)
        node->mtime = mtime;
    unlock(&tree_lock);
    return 0;
}

word tmp_truncate(uint32_t inode, word length) {
    lock(&tree_lock);
    struct tmp_node *node = by_inode(inode);
    word result = !node ? -ENOENT : node->fd < 0 ? -EISDIR : sys(SYS_ftruncate, node->fd, length, 0, 0);
    unlock(&tree_lock);
    return result;
}

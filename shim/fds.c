/* Descriptors: making them, knowing later what they are of, and what stat says about them.
 *
 * A descriptor's thing is noted in a table by number. close(2) is not trapped (it is on the path of every request), so a
 * note may be stale: the number was closed and given out again by accept, recvmsg or epoll_create. It is therefore
 * believed only if the descriptor still looks like what was noted: a memfd with our seals that ends where and as
 * it should. The table follows dup. An OFD lock on each would say it without a table, but a lock on
 * /dev/null, say, is seen by every tenant that holds it: locks are not let through to the kernel.
 */
#include "trap.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif
#define MFD_CLOEXEC_ 1u
#define MFD_ALLOW_SEALING_ 2u
/* SEAL, SHRINK, GROW, FUTURE_WRITE. Not WRITE: for that the kernel waits until no CPU has the pages in hand, 20 µs. */
#define SEALS_PACKED 0x17
#define SEAL_EXEC 0x20
#ifndef FIONREAD
#define FIONREAD 0x541B
#endif
#define F_GETPIPE_SZ_ 1032
#define SO_TYPE_ 3
#define TIOCGWINSZ_ 0x5413

#define KNOWN_FDS 65536
static uint32_t table[KNOWN_FDS]; /* kind (3 bits), pack (2), index (27) */
uint32_t own_uid, own_gid;
static int no_exec_seal = 1; /* MFD_NOEXEC_SEAL is known from 6.3 on */

void fd_is(int fd, struct thing thing) {
    if (fd >= 0 && fd < KNOWN_FDS)
        __atomic_store_n(&table[fd], (uint32_t)thing.kind << 29 | thing.pack << 27 | thing.index, __ATOMIC_RELEASE);
}

void fd_copied(int from, int to) {
    if (from >= 0 && from < KNOWN_FDS && to >= 0 && to < KNOWN_FDS)
        __atomic_store_n(&table[to], __atomic_load_n(&table[from], __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
}

int new_memfd(void) {
    word fd = -EINVAL;
    if (no_exec_seal) {
        fd = marked(SYS_memfd_create, "file", MFD_CLOEXEC_ | MFD_ALLOW_SEALING_ | MFD_NOEXEC_SEAL, 0, 0);
        if (fd == -EINVAL)
            no_exec_seal = 0;
    }
    if (fd == -EINVAL)
        fd = marked(SYS_memfd_create, "file", MFD_CLOEXEC_ | MFD_ALLOW_SEALING_, 0, 0);
    if (fd >= 0)
        fd_is(fd, (struct thing){NOTHING, 0, 0});
    return fd;
}

word seal(int fd) {
    return sys(SYS_fcntl, fd, F_ADD_SEALS, SEALS_PACKED, 0);
}

word write_all(int fd, const void *data, uint64_t size) {
    for (uint64_t at = 0; at < size;) {
        uint64_t piece = size - at < (1u << 30) ? size - at : 1u << 30;
        word done = sys(SYS_pwrite64, fd, (const char *)data + at, piece, at);
        if (done <= 0)
            return done ? done : -EIO;
        at += done;
    }
    return 0;
}

/* The size without moving the offset, which other threads may be using: FIONREAD is the size less the offset. */
int64_t fd_size(int fd) {
    for (;;) {
        int left = 0;
        word before = sys(SYS_lseek, fd, 0, 1, 0);
        if (before < 0 || sys(SYS_ioctl, fd, FIONREAD, &left, 0) < 0)
            return -1;
        if (before == sys(SYS_lseek, fd, 0, 1, 0))
            return before + left;
    }
}

/* Do the contents end like this, and there? One call says both. */
static int ends_like(int fd, const uint8_t *data, uint64_t size) {
    uint8_t found[64];
    word tail = size < 48 ? size : 48;
    return sys(SYS_pread64, fd, found, sizeof found, size - tail) == tail && !memcmp(found, data + size - tail, tail);
}

struct thing fd_thing(int fd) {
    struct thing nothing = {NOTHING, 0, 0};
    if (fd < 0 || fd >= KNOWN_FDS)
        return nothing;
    uint32_t noted = __atomic_load_n(&table[fd], __ATOMIC_ACQUIRE);
    struct thing thing = {noted >> 29, noted >> 27 & 3, noted & 0x7ffffff};
    if (thing.kind == NOTHING)
        return nothing;
    word seals = sys(SYS_fcntl, fd, F_GET_SEALS, 0, 0);
    if (thing.kind == DEVICE)
        return sys(SYS_lseek, fd, 0, 1, 0) == 0 && seals < 0 && fd_size(fd) < 0 ? thing : nothing;
    if (thing.kind == KEPT)
        return kept_is(fd) ? thing : nothing;
    if (seals < 0)
        return nothing;
    seals &= ~SEAL_EXEC;
    if (thing.kind == TEMPORARY) /* sealed: a listing of a directory */
        return seals == 0 || seals == SEALS_PACKED ? thing : nothing;
    if (seals != SEALS_PACKED)
        return nothing;
    if (thing.kind == SECRET || thing.kind == FOLDER)
        return thing;
    const struct pack *pack = &packs[thing.pack];
    const struct entry *entry = &pack->entries[thing.index];
    const uint8_t *data = pack->base + entry->data_off;
    uint64_t inode;
    if (S_ISDIR(entry->mode)) /* "." comes first; the end may be another pack's */
        return sys(SYS_pread64, fd, &inode, sizeof inode, 0) == sizeof inode && inode == thing.index + 1u ? thing : nothing;
    return ends_like(fd, data, entry->size) ? thing : nothing;
}

/* --- what stat says */

enum { DEV_PACK = 0xf0, DEV_TMP = 0xf8, DEV_OTHER = 0xf9, DEV_KEPT = 0xfa };

static void facts_clear(struct facts *out, uint32_t mode) {
    *out = (struct facts){.dev = DEV_OTHER, .ino = 1, .mode = mode, .nlink = 1, .uid = own_uid, .gid = own_gid,
                           .writable = 1};
}

word facts_of(struct thing thing, struct facts *out) {
    struct tmp_node node;
    facts_clear(out, S_IFREG | 0600);
    switch (thing.kind) {
    case PACKED: {
        const struct entry *entry = &packs[thing.pack].entries[thing.index];
        out->dev = DEV_PACK + thing.pack;
        out->ino = (uint64_t)thing.index + 1;
        out->mode = entry->mode;
        out->nlink = S_ISDIR(entry->mode) ? 2 : 1;
        out->uid = out->gid = 0;
        out->writable = 0;
        out->size = entry->size;
        out->mtime = entry->mtime;
        return 0;
    }
    case TEMPORARY:
        if (!tmp_copy(thing.index, &node))
            return -ENOENT;
        out->dev = DEV_TMP;
        out->ino = node.inode;
        out->mode = node.mode;
        out->nlink = node.fd < 0 ? 2 : 1;
        out->mtime = node.mtime;
        out->size = node.fd < 0 ? 0 : fd_size(node.fd);
        return 0;
    case DEVICE:
        out->mode = S_IFCHR | 0666;
        out->ino = thing.index;
        out->rdev = thing.index == NULL_DEVICE ? 0x103 : thing.index == RANDOM_DEVICE ? 0x109 : 0x8800 + thing.index;
        return 0;
    case SECRET:
        out->mode = S_IFREG | 0400;
        out->writable = 0;
        out->ino = 100 + thing.index;
        if (thing_is_directory(thing)) {
            out->mode = S_IFDIR | 0500;
            out->nlink = 2;
        } else
            out->size = fd_size(secrets[thing.index].fd);
        return 0;
    case KEPT:
        out->dev = DEV_KEPT;
        out->ino = KEPT_INODE + thing.index;
        out->writable = kept[thing.index].writable;
        out->mode = S_IFREG | (out->writable ? 0600 : 0400);
        out->size = kept_size(thing.index);
        return 0;
    case FOLDER:
        out->dev = DEV_KEPT;
        out->ino = KEPT_INODE + MAX_KEPT;
        out->mode = S_IFDIR | 0700;
        out->nlink = 2;
        return 0;
    default:
        return -ENOENT;
    }
}

/* A descriptor that came from elsewhere: its type is told by what it can do. Times are told to nobody. */
static word facts_of_stranger(int fd, struct facts *out) {
    int type, length = sizeof type;
    uint16_t window[4];
    word offset = sys(SYS_lseek, fd, 0, 1, 0);
    if (offset == -EBADF)
        return -EBADF;
    facts_clear(out, 0600);
    out->ino = 1000 + fd;
    if (offset >= 0) {
        out->size = fd_size(fd);
        if (out->size >= 0)
            out->mode |= S_IFREG;
        else /* an epoll, a timer, …: the kernel gives those no type either */
            out->size = 0;
    } else if (sys(SYS_fcntl, fd, F_GETPIPE_SZ_, 0, 0) > 0)
        out->mode |= S_IFIFO;
    else if (sys6(SYS_getsockopt, fd, 1, SO_TYPE_, (word)&type, (word)&length, 0) == 0)
        out->mode = S_IFSOCK | 0777;
    else if (sys(SYS_ioctl, fd, TIOCGWINSZ_, window, 0) == 0) { /* a terminal: of commands only */
        out->mode = S_IFCHR | 0620;
        out->rdev = 0x8800;
    }
    return 0;
}

word facts_of_fd(int fd, struct facts *out) {
    struct thing thing = fd_thing(fd);
    if (thing.kind == NOTHING)
        return facts_of_stranger(fd, out);
    word failed = facts_of(thing, out);
    if (failed && thing.kind == TEMPORARY) { /* it has no name any more, or never had one */
        facts_clear(out, S_IFREG | 0600);
        out->dev = DEV_TMP;
        out->ino = thing.index;
        out->nlink = 0;
        out->size = fd_size(fd);
        return 0;
    }
    return failed;
}

/* --- files and directories of a pack */

word put_dirent(int fd, uint64_t *at, uint64_t inode, int type, const char *name, size_t length) {
    struct {
        uint64_t inode;
        int64_t next;
        uint16_t size;
        uint8_t type;
        char name[277];
    } record;
    size_t size = (19 + length + 1 + 7) / 8 * 8;
    memset(&record, 0, size);
    record.inode = inode;
    record.next = *at + size;
    record.size = size;
    record.type = type;
    memcpy(record.name, name, length);
    word done = sys(SYS_pwrite64, fd, &record, size, *at);
    *at += size;
    return done == (word)size ? 0 : done < 0 ? done : -EIO;
}

static int listed(const uint8_t *data, uint64_t size, const char *name) {
    for (uint64_t at = 0; at < size;) {
        uint16_t length;
        memcpy(&length, data + at + 16, 2);
        if (!strcmp((const char *)data + at + 19, name))
            return 1;
        at += length;
    }
    return 0;
}

struct listing {
    const uint8_t *data;
    uint64_t size;
};

/* Is `name` in the listing of a directory of a pack? */
static int listed_in(const void *entry_, const char *name) {
    const struct listing *entry = entry_;
    return listed(entry->data, entry->size, name);
}

/* What the other packs have in the directory of the same name; and /tmp in the root. */
static word add_from_others(struct thing thing, int fd) {
    const struct pack *first = &packs[thing.pack];
    const struct entry *entry = &first->entries[thing.index];
    const uint8_t *own = first->base + entry->data_off;
    const char *path = first->names + entry->name_off;
    uint64_t end = entry->size;
    word failed = 0;
    for (int i = thing.pack + 1; i < pack_count && !failed; i++) {
        uint32_t index;
        const struct entry *other = pack_find(i, path, entry->name_len, &index);
        if (!other || !S_ISDIR(other->mode))
            continue;
        const uint8_t *data = packs[i].base + other->data_off;
        for (uint64_t at = 0; at < other->size && !failed;) {
            uint64_t inode;
            uint16_t length;
            memcpy(&inode, data + at, 8);
            memcpy(&length, data + at + 16, 2);
            const char *name = (const char *)data + at + 19;
            if (!listed(own, entry->size, name))
                failed = put_dirent(fd, &end, inode, data[at + 18], name, strlen(name));
            at += length;
        }
    }
    if (!failed)
        failed = kept_list(path, entry->name_len, fd, &end, listed_in, &(struct listing){own, entry->size});
    if (!failed && entry->name_len == 1 && !listed(own, entry->size, "tmp"))
        failed = put_dirent(fd, &end, 1, 4, "tmp", 3);
    return failed;
}

word open_packed(struct thing thing) {
    const struct pack *pack = &packs[thing.pack];
    const struct entry *entry = &pack->entries[thing.index];
    int fd = new_memfd();
    if (fd < 0)
        return fd;
    word failed = write_all(fd, pack->base + entry->data_off, entry->size);
    if (!failed && S_ISDIR(entry->mode))
        failed = add_from_others(thing, fd);
    if (!failed)
        failed = seal(fd);
    if (failed) {
        sys(SYS_close, fd, 0, 0, 0);
        return failed;
    }
    fd_is(fd, thing);
    return fd;
}

word read_directory(int fd, char *buffer, size_t size) {
    struct thing thing = fd_thing(fd);
    if (thing.kind == TEMPORARY ? (sys(SYS_fcntl, fd, F_GET_SEALS, 0, 0) & SEALS_PACKED) == 0
                                : thing.kind != FOLDER && ((thing.kind != PACKED && thing.kind != SECRET) || !thing_is_directory(thing)))
        return sys(SYS_fcntl, fd, F_GETFD, 0, 0) < 0 ? -EBADF : -ENOTDIR;
    word offset = sys(SYS_lseek, fd, 0, 1, 0);
    word got = sys(SYS_pread64, fd, buffer, size, offset);
    if (got <= 0)
        return got;
    word whole = 0;
    while (got - whole >= 24) {
        uint16_t length;
        memcpy(&length, buffer + whole + 16, 2);
        if (length < 24 || length > got - whole)
            break;
        whole += length;
    }
    if (whole == 0)
        return -EINVAL;
    sys(SYS_lseek, fd, offset + whole, 0, 0);
    return whole;
}

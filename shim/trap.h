/* What the parts of the trap share. README.md says what it is for.
 *
 * Everything here runs inside a signal handler, at any point of the program: no C library function with a lock or
 * errno, no allocation, no call into Python. System calls are made by `sys`, which touches nothing else.
 */
#ifndef FILDES_TRAP_H
#define FILDES_TRAP_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

typedef long word;
#define PUBLIC __attribute__((visibility("default"))) /* called by trap.py; everything else is hidden */

/* The filter lets some calls pass with this in their sixth argument, and traps them without: so the handler can do what
 * it is asked to do. It is no secret and guards nothing: what a call so marked does, the filter allows to anybody. */
#define MAGIC 0x46494c44

#if defined(__x86_64__)
static inline word sys6(word nr, word a, word b, word c, word d, word e, word f) {
    word result;
    register word r10 __asm__("r10") = d;
    register word r8 __asm__("r8") = e;
    register word r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline word sys6(word nr, word a, word b, word c, word d, word e, word f) {
    register word x8 __asm__("x8") = nr;
    register word x0 __asm__("x0") = a;
    register word x1 __asm__("x1") = b;
    register word x2 __asm__("x2") = c;
    register word x3 __asm__("x3") = d;
    register word x4 __asm__("x4") = e;
    register word x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "Fildes knows x86_64 and aarch64"
#endif
#define sys(nr, a, b, c, d) sys6(nr, (word)(a), (word)(b), (word)(c), (word)(d), 0, 0)
/* With the mark. In the signal handler only, which puts all registers back: left in the sixth argument's register by a
 * function that returns, it would mark the program's next call. */
#define marked(nr, a, b, c, d) sys6(nr, (word)(a), (word)(b), (word)(c), (word)(d), 0, MAGIC)

/* --- pack.c: the mapped packs. The layout is that of src/fildes/pack/format.py. */

struct entry {
    uint32_t name_off, name_len, mode, parent;
    uint64_t data_off, size;
    int64_t mtime;
    uint64_t reserved;
    uint8_t etag[16];
};

struct pack {
    const uint8_t *base;
    const struct entry *entries;
    const char *names;
    uint64_t size;
    uint32_t count;
};

#define MAX_PACKS 4
extern struct pack packs[MAX_PACKS];
extern int pack_count;

const struct entry *pack_find(int pack, const char *path, size_t length, uint32_t *index);

/* --- paths.c: from what a program says to a thing that can be served. */

enum kind { NOTHING, PACKED, TEMPORARY, DEVICE, SECRET, KEPT, FOLDER };

/* index: of the entry, the inode of the temporary file, the device, the secret or the kept file. pack: of PACKED only. */
struct thing {
    enum kind kind;
    uint32_t pack, index;
};

#define PATH_ROOM 4096
struct path {
    size_t length;
    int wants_directory; /* it ended in a slash or a dot */
    char text[PATH_ROOM]; /* absolute, normal: no "//", ".", ".."; terminated */
};

enum { NULL_DEVICE = 1, RANDOM_DEVICE, STDIN_DEVICE, STDOUT_DEVICE, STDERR_DEVICE, TERMINAL_DEVICE };

word path_resolve(word dir_fd, const char *given, struct path *out); /* 0 or -errno */
struct thing path_find(const char *path, size_t length);
int thing_is_directory(struct thing thing);
word path_missing(const struct path *path); /* -ENOENT or -ENOTDIR, for a path that path_find did not find */
word path_parent_missing(const struct path *path); /* 0 if the directory it would be made in is there */
word path_getcwd(char *buffer, size_t size);
word path_chdir(const char *path, size_t length);
int readable(const void *address, size_t length);

/* --- tmp.c: /tmp. */

#define TMP "/tmp"
#define MAX_TMP 1024
#define TMP_PATH 256
struct tmp_node {
    uint32_t inode; /* 0: free */
    uint32_t mode;
    int fd; /* -1: a directory */
    int64_t mtime;
    uint16_t length;
    char path[TMP_PATH];
};

extern int tmp_first_fd; /* the kept descriptors of named files are numbered from here */

uint32_t tmp_find(const char *path, size_t length);                  /* an inode or 0 */
int tmp_copy(uint32_t inode, struct tmp_node *out);                  /* 1 if it has a name */
word tmp_open(const struct path *path, word flags, word mode);
word tmp_open_nameless(void);
word tmp_make_directory(const struct path *path, word mode);
word tmp_remove(const struct path *path, int directory);
word tmp_rename(const struct path *from, const struct path *to, word flags);
word tmp_set_mode(uint32_t inode, uint32_t mode);
word tmp_set_mtime(uint32_t inode, int64_t mtime);
word tmp_truncate(uint32_t inode, word length);
word tmp_list(uint32_t inode, int fd);

/* --- kept.c: files that last. */

#define MAX_KEPT 128
#define KEPT_INODE 5000
#define KEPT_PATH 512
struct kept {
    int fd, writable, passing, made;
    size_t length;
    char path[KEPT_PATH];
};

extern struct kept kept[MAX_KEPT];
extern int kept_count;

int kept_find(const char *path, size_t length); /* -1: no such path was granted */
int kept_exists(int index);
int64_t kept_size(int index);
int kept_is(int fd);
word kept_open(int index, const struct path *path, word flags);
word kept_remove(int index);
struct thing kept_folder(const char *path, size_t length);
const char *kept_folder_path(uint32_t index, size_t *length);
word kept_open_folder(struct thing folder);
word kept_list(const char *folder, size_t length, int fd, uint64_t *at, int (*known)(const void *, const char *),
               const void *listing);

/* --- fds.c: which thing a descriptor is of, and what stat says. */


struct facts {
    uint64_t dev, ino, rdev;
    uint32_t mode, nlink, uid, gid;
    int64_t size, mtime;
    int writable;
};

int new_memfd(void); /* or -errno */
word seal(int fd);
word write_all(int fd, const void *data, uint64_t size);
void fd_is(int fd, struct thing thing);
void fd_copied(int from, int to);
struct thing fd_thing(int fd); /* NOTHING if it is no longer what it was */
int64_t fd_size(int fd);
word facts_of(struct thing thing, struct facts *out);
word facts_of_fd(int fd, struct facts *out);
word open_packed(struct thing thing);
word put_dirent(int fd, uint64_t *at, uint64_t inode, int type, const char *name, size_t length);
word read_directory(int fd, char *buffer, size_t size);
extern uint32_t own_uid, own_gid;

/* --- calls.c: what each call about files and descriptors answers. */

struct statx;
word call_open(word dir_fd, const char *path, word flags, word mode);
word call_stat(word dir_fd, const char *path, word flags, struct stat *out);
word call_fstat(int fd, struct stat *out);
word call_statx(word dir_fd, const char *path, word flags, struct statx *out);
word call_access(word dir_fd, const char *path, word wanted, word flags);
word call_readlink(word dir_fd, const char *path);
word call_statfs(const char *path, word *out);
word call_fstatfs(int fd, word *out);
word call_chdir(word dir_fd, const char *path);
word call_mkdir(word dir_fd, const char *path, word mode);
word call_unlink(word dir_fd, const char *path, int directory);
word call_rename(word from_fd, const char *from, word to_fd, const char *to, word flags);
word call_chmod(word dir_fd, const char *path, word mode); /* path NULL: of the descriptor itself; so are the next two */
word call_chown(word dir_fd, const char *path, word uid, word gid);
word call_utimens(word dir_fd, const char *path, const int64_t *times);
word call_truncate(const char *path, word length);
word call_fcntl(int fd, word command, word argument);
word call_dup2(int from, int to);
word call_dup3(int from, int to, word flags);

/* --- ambient.c: time, randomness, names. */

extern int null_fd, random_fd, terminal_fd;
#define MAX_SECRETS 32
#define SECRETS "/run/secrets"
enum { SECRETS_FOLDER = MAX_SECRETS, RUN_FOLDER }; /* indices of SECRET, where there are any */
extern struct secret {
    char name[64];
    size_t length;
    int fd;
} secrets[MAX_SECRETS];
extern int secret_count;

int64_t wall_seconds(void); /* 0 without a clock */
int64_t coarse_ns(void);
void measure_clock(void); /* before the filter is on */
word clock_now(word clock, int64_t *nanoseconds);
word clock_get(word clock, int64_t *out);
word clock_resolution(word clock, int64_t *out);
word gettimeofday_(int64_t *tv, int32_t *tz);
word random_fill(char *buffer, size_t size, word flags);
word uname_(char *out);

extern int serving; /* shortcut.c: the handler is installed */

/* --- a lock: futex(2), never held while the program's code runs. */

void lock(int *at);
void unlock(int *at);
extern int tree_lock; /* of /tmp and of the working directory */

#endif

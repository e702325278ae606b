/* Paths: from what a program says, by way of its working directory or a directory's descriptor, to a thing. */
#include "trap.h"

static char cwd[PATH_ROOM] = "/app";
static size_t cwd_length = 4;

/* rt_sigprocmask(2) with an impossible first argument reads its second one, and changes nothing. */
int readable(const void *address, size_t length) {
    uintptr_t at = (uintptr_t)address & ~(uintptr_t)7, end = (uintptr_t)address + length;
    if (end < at || at < 4096) /* NULL it would not read */
        return 0;
    for (; at < end; at = (at | 4095) + 1)
        if (marked(SYS_rt_sigprocmask, -1, at, 0, 8) == -EFAULT)
            return 0;
    return 1;
}

static int is(const char *path, size_t length, const char *text) {
    return length == strlen(text) && !memcmp(path, text, length);
}

static int below(const char *path, size_t length, const char *text) {
    size_t size = strlen(text);
    return length > size && !memcmp(path, text, size) && path[size] == '/';
}

struct thing path_find(const char *path, size_t length) {
    struct thing found = {NOTHING, 0, 0};
    if (is(path, length, TMP) || below(path, length, TMP)) {
        found.index = tmp_find(path, length);
        found.kind = found.index ? TEMPORARY : NOTHING;
        return found;
    }
    if (below(path, length, "/dev")) {
        if (is(path, length, "/dev/null"))
            found.index = NULL_DEVICE;
        else if (is(path, length, "/dev/urandom") || is(path, length, "/dev/random"))
            found.index = RANDOM_DEVICE;
        else if (is(path, length, "/dev/stdin"))
            found.index = STDIN_DEVICE;
        else if (is(path, length, "/dev/stdout"))
            found.index = STDOUT_DEVICE;
        else if (is(path, length, "/dev/stderr"))
            found.index = STDERR_DEVICE;
        else if (is(path, length, "/dev/tty"))
            found.index = TERMINAL_DEVICE;
        found.kind = found.index ? DEVICE : NOTHING;
        return found;
    }
    if (secret_count && is(path, length, SECRETS))
        return (struct thing){SECRET, 0, SECRETS_FOLDER};
    if (below(path, length, SECRETS)) {
        for (int i = 0; i < secret_count; i++)
            if (is(path + 13, length - 13, secrets[i].name))
                return (struct thing){SECRET, 0, i};
        return found;
    }
    int file = kept_find(path, length);
    if (file >= 0)
        return kept_exists(file) ? (struct thing){KEPT, 0, file} : found;
    for (int i = 0; i < pack_count; i++)
        if (pack_find(i, path, length, &found.index))
            return (struct thing){PACKED, i, found.index};
    found = kept_folder(path, length);
    return found.kind == NOTHING && secret_count && is(path, length, "/run") ? (struct thing){SECRET, 0, RUN_FOLDER} : found;
}

int thing_is_directory(struct thing thing) {
    struct tmp_node node;
    if (thing.kind == PACKED)
        return S_ISDIR(packs[thing.pack].entries[thing.index].mode);
    if (thing.kind == SECRET)
        return thing.index >= MAX_SECRETS;
    return thing.kind == FOLDER || (thing.kind == TEMPORARY && tmp_copy(thing.index, &node) && node.fd < 0);
}

static size_t without_last(const char *path, size_t length) {
    while (length > 1 && path[length - 1] != '/')
        length--;
    return length > 1 ? length - 1 : 1;
}

word path_missing(const struct path *path) {
    for (size_t length = path->length; length > 1;) {
        length = without_last(path->text, length);
        struct thing above = path_find(path->text, length);
        if (above.kind != NOTHING)
            return thing_is_directory(above) ? -ENOENT : -ENOTDIR;
    }
    return -ENOENT;
}

word path_parent_missing(const struct path *path) {
    struct thing above = path_find(path->text, without_last(path->text, path->length));
    if (above.kind == NOTHING)
        return path_missing(path);
    return thing_is_directory(above) ? 0 : -ENOTDIR;
}

/* The directory that relative paths start from. */
static word start_at(word dir_fd, struct path *out) {
    if ((int)dir_fd == AT_FDCWD) {
        lock(&tree_lock);
        memcpy(out->text, cwd, cwd_length);
        out->length = cwd_length;
        unlock(&tree_lock);
        return 0;
    }
    struct thing thing = fd_thing(dir_fd);
    struct tmp_node node;
    if (thing.kind == PACKED && thing_is_directory(thing)) {
        const struct pack *pack = &packs[thing.pack];
        out->length = pack->entries[thing.index].name_len;
        memcpy(out->text, pack->names + pack->entries[thing.index].name_off, out->length);
        return 0;
    }
    if (thing.kind == FOLDER) {
        memcpy(out->text, kept_folder_path(thing.index, &out->length), thing.index & 1023);
        return 0;
    }
    if (thing.kind == SECRET && thing_is_directory(thing)) {
        out->length = thing.index == RUN_FOLDER ? 4 : sizeof SECRETS - 1;
        memcpy(out->text, SECRETS, out->length);
        return 0;
    }
    if (thing.kind == TEMPORARY) {
        if (!tmp_copy(thing.index, &node))
            return -ENOENT;
        if (node.fd < 0) {
            out->length = node.length;
            memcpy(out->text, node.path, node.length);
            return 0;
        }
    }
    return sys(SYS_fcntl, dir_fd, F_GETFD, 0, 0) < 0 ? -EBADF : -ENOTDIR;
}

word path_resolve(word dir_fd, const char *given, struct path *out) {
    if (!readable(given, 1))
        return -EFAULT;
    out->wants_directory = 0;
    if (given[0] == 0)
        return -ENOENT;
    if (given[0] == '/') {
        out->text[0] = '/';
        out->length = 1;
    } else {
        word failed = start_at(dir_fd, out);
        if (failed)
            return failed;
    }
    const char *at = given;
    while (*at) {
        const char *name = at;
        for (; *at && *at != '/'; at++) {
            if (((uintptr_t)at & 4095) == 4095 && !readable(at + 1, 1))
                return -EFAULT;
            if (at - given >= PATH_ROOM - 1)
                return -ENAMETOOLONG;
        }
        size_t size = at - name;
        out->wants_directory = *at == '/' || (size == 1 && name[0] == '.');
        for (; *at == '/'; at++) {
            if (((uintptr_t)at & 4095) == 4095 && !readable(at + 1, 1))
                return -EFAULT;
            if (at - given >= PATH_ROOM - 1)
                return -ENAMETOOLONG;
        }
        if (size == 0 || (size == 1 && name[0] == '.'))
            continue;
        if (size > 255)
            return -ENAMETOOLONG;
        if (size == 2 && name[0] == '.' && name[1] == '.') {
            struct thing here = path_find(out->text, out->length);
            if (here.kind == NOTHING)
                return path_missing(out);
            if (!thing_is_directory(here))
                return -ENOTDIR;
            out->length = without_last(out->text, out->length);
            out->wants_directory = 1;
            continue;
        }
        if (out->length + 1 + size >= PATH_ROOM)
            return -ENAMETOOLONG;
        if (out->length > 1)
            out->text[out->length++] = '/';
        memcpy(out->text + out->length, name, size);
        out->length += size;
    }
    out->text[out->length] = 0;
    return 0;
}

word path_getcwd(char *buffer, size_t size) {
    lock(&tree_lock);
    word result = cwd_length + 1;
    if (size < (size_t)result)
        result = -ERANGE;
    else {
        memcpy(buffer, cwd, cwd_length);
        buffer[cwd_length] = 0;
    }
    unlock(&tree_lock);
    return result;
}

PUBLIC void fildes_trap_set_directory(const char *path) {
    if (path[0] == '/' && strlen(path) < PATH_ROOM)
        path_chdir(path, strlen(path));
}

word path_chdir(const char *path, size_t length) {
    lock(&tree_lock);
    memcpy(cwd, path, length);
    cwd_length = length;
    unlock(&tree_lock);
    return 0;
}

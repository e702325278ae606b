/* The mapped packs: checked once when they are added, searched by halves, never copied. */
#include "trap.h"

#include <sys/mman.h>

struct header {
    char magic[8];
    uint32_t version, count;
    uint64_t entries_off, names_off, names_len, data_off, total_size, pad;
};

#define MAX_MEMBERS (1u << 20)

struct pack packs[MAX_PACKS];
int pack_count;

static const char *name_of(const struct pack *pack, const struct entry *entry) {
    return pack->names + entry->name_off;
}

static int compare(const char *a, size_t a_length, const char *b, size_t b_length) {
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

const struct entry *pack_find(int number, const char *path, size_t length, uint32_t *index) {
    const struct pack *pack = &packs[number];
    uint32_t low = 0, high = pack->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct entry *entry = &pack->entries[middle];
        int order = compare(path, length, name_of(pack, entry), entry->name_len);
        if (order == 0) {
            *index = middle;
            return entry;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static int normal(const char *path, size_t length) {
    if (length == 0 || length >= PATH_ROOM || path[0] != '/')
        return 0;
    if (length == 1)
        return 1;
    for (size_t start = 1; start <= length;) {
        size_t end = start;
        while (end < length && path[end] != '/')
            if (path[end++] == 0)
                return 0;
        size_t size = end - start;
        if (size == 0 || size > 255 || (path[start] == '.' && (size == 1 || (size == 2 && path[start + 1] == '.'))))
            return 0;
        start = end + 1;
    }
    return 1;
}

static int listing_is_sound(const uint8_t *data, uint64_t size) {
    for (uint64_t at = 0; at < size;) {
        if (size - at < 24)
            return 0;
        uint64_t next;
        uint16_t length;
        memcpy(&next, data + at + 8, 8);
        memcpy(&length, data + at + 16, 2);
        if (length < 24 || length % 8 || length > size - at || next != at + length)
            return 0;
        if (memchr(data + at + 19, 0, length - 19) == NULL)
            return 0;
        at += length;
    }
    return size >= 48; /* "." and ".." */
}

/* 0, or the number of the rule that the pack breaks. */
static int check(const struct pack *pack, const struct header *header) {
    if (memcmp(header->magic, "FILDPAK1", 8) || header->version != 1)
        return 1;
    if (header->total_size != pack->size || header->count == 0 || header->count > MAX_MEMBERS)
        return 2;
    if (header->entries_off != sizeof *header ||
        header->names_off != sizeof *header + (uint64_t)header->count * sizeof(struct entry) ||
        header->names_off > pack->size || header->names_len > pack->size - header->names_off ||
        header->names_off + header->names_len > header->data_off || header->data_off > pack->size)
        return 3;
    for (uint32_t i = 0; i < header->count; i++) {
        const struct entry *entry = &pack->entries[i];
        if ((uint64_t)entry->name_off + entry->name_len > header->names_len)
            return 4;
        const char *name = name_of(pack, entry);
        if (!normal(name, entry->name_len))
            return 5;
        if (i == 0 ? entry->name_len != 1 || !S_ISDIR(entry->mode)
                   : compare(name, entry->name_len, name_of(pack, entry - 1), entry[-1].name_len) <= 0)
            return 6;
        if (entry->mode & ~0170777u || !(S_ISREG(entry->mode) || S_ISDIR(entry->mode)))
            return 7;
        if (entry->data_off % 16 || entry->data_off < header->data_off || entry->data_off > pack->size ||
            entry->size > pack->size - entry->data_off || entry->mtime < 0 || entry->mtime > (int64_t)1 << 40)
            return 8;
        if (i) {
            if (entry->parent >= i)
                return 9;
            const struct entry *parent = &pack->entries[entry->parent];
            size_t head = entry->name_len;
            while (name[head - 1] != '/')
                head--;
            head = head > 1 ? head - 1 : 1;
            if (!S_ISDIR(parent->mode) || compare(name, head, name_of(pack, parent), parent->name_len))
                return 9;
        } else if (entry->parent)
            return 9;
        if (S_ISDIR(entry->mode) && !listing_is_sound(pack->base + entry->data_off, entry->size))
            return 10;
    }
    return 0;
}

/* 0 and *out filled, -errno, or the rule (> 0) that the pack breaks. */
static int map(int fd, struct pack *out) {
    struct stat info;
    if (fstat(fd, &info) < 0)
        return -errno;
    if (info.st_size < (off_t)sizeof(struct header))
        return 2;
    void *base = mmap(NULL, info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    const struct header *header = base;
    *out = (struct pack){
        .base = base,
        .entries = (const void *)(header + 1),
        .names = (const char *)base + header->names_off,
        .size = info.st_size,
        .count = header->count,
    };
    int broken = check(out, header);
    if (broken)
        munmap(base, info.st_size);
    return broken;
}

/* --- what trap.py calls, before the filter is on */

/* Serve from the pack in `fd`, which stays the caller's. Returns as `map` does. */
PUBLIC int fildes_trap_add_pack(int fd) {
    if (pack_count == MAX_PACKS)
        return -EMFILE;
    int broken = map(fd, &packs[pack_count]);
    if (!broken)
        pack_count++;
    return broken;
}

/* As fildes_trap_add_pack, but it serves nothing from it. */
PUBLIC int fildes_trap_check_pack(int fd) {
    struct pack pack;
    int broken = map(fd, &pack);
    if (!broken)
        munmap((void *)pack.base, pack.size);
    return broken;
}

/* How a zygote's memory lies: what a fork costs is the number of its mappings (0.5 us each, 1 us where they were written
 * to) and of its pages (25 us for each 2 MB in small ones, 1 us in a large one).
 *
 * So the interpreter's arenas of 1 MB come from one piece of address space and not from between the libraries, the holes
 * of the heap are filled (an instance's memory then comes from its end, together), whole pieces become large pages, and
 * the read-only parts of a library become one mapping with its code, as they were before linkers set them apart. */
#include "trap.h"

#include <link.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* 6.1 */
#endif
#define HUGE ((size_t)2 << 20)
#define ARENA ((size_t)1 << 20) /* ARENA_SIZE of obmalloc, 3.10 on */
#define ARENAS 1024

static char *region, *unused; /* of ARENAS arenas, aligned to HUGE; from `unused` on none was given out */
static char *returned[ARENAS];
static int returned_count;

static void *arena_alloc(void *context, size_t size) {
    (void)context;
    if (size == ARENA && returned_count)
        return returned[--returned_count];
    if (size == ARENA && unused < region + ARENAS * ARENA) {
        unused += ARENA;
        return unused - ARENA;
    }
    void *other = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return other == MAP_FAILED ? NULL : other;
}

static void arena_free(void *context, void *arena, size_t size) {
    (void)context;
    if ((char *)arena < region || (char *)arena >= region + ARENAS * ARENA)
        munmap(arena, size);
    else {
        madvise(arena, size, MADV_DONTNEED);
        returned[returned_count++] = arena;
    }
}

/* What PyObject_SetArenaAllocator takes. */
struct arena_allocator {
    void *context;
    void *(*alloc)(void *, size_t);
    void (*free)(void *, void *, size_t);
};

/* NULL: there is not so much address space. */
PUBLIC const struct arena_allocator *fildes_memory_arenas(void) {
    static const struct arena_allocator allocator = {NULL, arena_alloc, arena_free};
    if (!region) {
        char *found = mmap(NULL, ARENAS * ARENA + HUGE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found == MAP_FAILED)
            return NULL;
        region = unused = (char *)(((uintptr_t)found + HUGE - 1) & ~(HUGE - 1));
        munmap(found, region - found);
        munmap(region + ARENAS * ARENA, found + HUGE - region);
    }
    return &allocator;
}

/* Use up what lies free in malloc(3)'s heap, for good. */
PUBLIC void fildes_memory_fill(void) {
    for (size_t size = 1 << 16; size >= 24; size -= size > 4096 ? size / 8 : 16) {
        struct mallinfo2 before = mallinfo2();
        const char *end = (const char *)sbrk(0) - before.keepcost; /* of what is in use */
        for (size_t room = before.fordblks - before.keepcost + before.fsmblks; room >= size; room -= size) {
            char *block = malloc(size);
            if (!block || (block >= end && block < end + before.keepcost + ARENA)) {
                free(block);
                break;
            }
        }
    }
}

/* How many large pages there are now. What can't be done is left as it is. */
PUBLIC int fildes_memory_collapse(void) {
    int count = 0;
    struct mallinfo2 used = mallinfo2();
    const char *end = sbrk(0), *heap = end - used.arena, *heap_end = end - used.keepcost;
    for (char *at = region; at && at + HUGE <= unused; at += HUGE)
        count += madvise(at, HUGE, MADV_COLLAPSE) == 0;
    for (char *at = (char *)(((uintptr_t)heap + HUGE - 1) & ~(HUGE - 1)); at + HUGE <= heap_end; at += HUGE)
        count += madvise(at, HUGE, MADV_COLLAPSE) == 0;
    return count;
}

/* A fork copies the page tables of what was written to, and leaves those of a file to faults, of 2 us for 16 pages. Of
 * large code much is used at once: one byte of it written, the same as it was, has its tables copied. */
#define LARGE ((size_t)256 << 10)

static void have_tables_copied(uintptr_t code, uintptr_t end) {
    volatile char *at = (char *)code;
    if (end - code < LARGE || mprotect((void *)code, end - code, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
        return;
    *at = *at;
    mprotect((void *)code, end - code, PROT_READ | PROT_EXEC);
}

static int join(struct dl_phdr_info *object, size_t size, void *count) {
    (void)size;
    uintptr_t page = sysconf(_SC_PAGESIZE);
    const ElfW(Phdr) *code = NULL;
    for (int i = 0; i < object->dlpi_phnum; i++)
        if (object->dlpi_phdr[i].p_type == PT_LOAD && object->dlpi_phdr[i].p_flags & PF_X)
            code = &object->dlpi_phdr[i];
    if (!code)
        return 0;
    uintptr_t first = object->dlpi_addr + code->p_vaddr, last = first + code->p_memsz;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        /* At the same distance in the file and in memory, or they would stay two mappings. */
        if (part->p_type != PT_LOAD || part->p_flags != PF_R || part->p_vaddr - part->p_offset != code->p_vaddr - code->p_offset)
            continue;
        uintptr_t start = object->dlpi_addr + part->p_vaddr, end = start + part->p_filesz;
        if (mprotect((void *)(start & ~(page - 1)), end - (start & ~(page - 1)), PROT_READ | PROT_EXEC) < 0)
            continue;
        *(int *)count += 1;
        first = start < first ? start : first;
        last = end > last ? end : last;
    }
    have_tables_copied(first & ~(page - 1), last);
    return 0;
}

/* While code may still be mapped. How many parts were joined to their library's code. */
PUBLIC int fildes_memory_join(void) {
    int count = 0;
    dl_iterate_phdr(join, &count);
    return count;
}

/* Event loops ask for the time twice a turn, and a trap costs as much as ten calls. So clock_gettime(3) is replaced, in the
 * import tables of every library that is loaded, by a function that answers as the trap would, without one.
 * Who calls it in another way (a raw system call, the C library itself) is trapped as before, and gets the same answer. */
#include "trap.h"

#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
enum { JUMP_SLOT = R_X86_64_JUMP_SLOT, GLOB_DAT = R_X86_64_GLOB_DAT };
#else
enum { JUMP_SLOT = R_AARCH64_JUMP_SLOT, GLOB_DAT = R_AARCH64_GLOB_DAT };
#endif

int serving; /* until then, the kernel is asked */

static int answer_time(clockid_t clock, struct timespec *out) {
    int64_t now;
    word failed = serving ? clock_now(clock, &now) : sys(SYS_clock_gettime, clock, out, 0, 0);
    if (failed) {
        errno = -failed;
        return -1;
    }
    if (serving) {
        out->tv_sec = now / 1000000000;
        out->tv_nsec = now % 1000000000;
    }
    return 0;
}

struct tables {
    const ElfW(Rela) *relocations[2];
    size_t counts[2];
    const ElfW(Sym) *symbols;
    const char *names;
};

/* The dynamic linker has made addresses of these; where it has not, they are offsets. */
static const void *at(const struct dl_phdr_info *object, ElfW(Addr) address) {
    return (const void *)(address < object->dlpi_addr ? address + object->dlpi_addr : address);
}

static int read_tables(const struct dl_phdr_info *object, const ElfW(Dyn) *dynamic, struct tables *out) {
    memset(out, 0, sizeof *out);
    for (; dynamic->d_tag != DT_NULL; dynamic++)
        switch (dynamic->d_tag) {
        case DT_JMPREL:
            out->relocations[0] = at(object, dynamic->d_un.d_ptr);
            break;
        case DT_PLTRELSZ:
            out->counts[0] = dynamic->d_un.d_val / sizeof(ElfW(Rela));
            break;
        case DT_RELA:
            out->relocations[1] = at(object, dynamic->d_un.d_ptr);
            break;
        case DT_RELASZ:
            out->counts[1] = dynamic->d_un.d_val / sizeof(ElfW(Rela));
            break;
        case DT_SYMTAB:
            out->symbols = at(object, dynamic->d_un.d_ptr);
            break;
        case DT_STRTAB:
            out->names = at(object, dynamic->d_un.d_ptr);
            break;
        }
    return out->symbols && out->names;
}

static int in_relro(const struct dl_phdr_info *object, uintptr_t address) {
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &object->dlpi_phdr[i];
        uintptr_t start = object->dlpi_addr + header->p_vaddr;
        if (header->p_type == PT_GNU_RELRO && address >= start && address < start + header->p_memsz)
            return 1;
    }
    return 0;
}

static int put(const struct dl_phdr_info *object, uintptr_t address) {
    uintptr_t size = sysconf(_SC_PAGESIZE), page = address & ~(size - 1);
    int read_only = in_relro(object, address);
    if (*(void **)address == (void *)answer_time)
        return 0;
    if (read_only && mprotect((void *)page, size, PROT_READ | PROT_WRITE) < 0)
        return 0;
    *(void **)address = (void *)answer_time;
    if (read_only)
        mprotect((void *)page, size, PROT_READ);
    return 1;
}

static int visit(struct dl_phdr_info *object, size_t size, void *count) {
    (void)size;
    struct tables tables;
    const ElfW(Dyn) *dynamic = NULL;
    for (int i = 0; i < object->dlpi_phnum; i++)
        if (object->dlpi_phdr[i].p_type == PT_DYNAMIC)
            dynamic = (const void *)(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr);
    if (!dynamic || strstr(object->dlpi_name, "vdso") || !read_tables(object, dynamic, &tables))
        return 0;
    for (int which = 0; which < 2; which++)
        for (size_t i = 0; tables.relocations[which] && i < tables.counts[which]; i++) {
            const ElfW(Rela) *relocation = &tables.relocations[which][i];
            unsigned type = ELF64_R_TYPE(relocation->r_info);
            const ElfW(Sym) *symbol = &tables.symbols[ELF64_R_SYM(relocation->r_info)];
            if ((type == JUMP_SLOT || type == GLOB_DAT) && !strcmp(tables.names + symbol->st_name, "clock_gettime"))
                *(int *)count += put(object, object->dlpi_addr + relocation->r_offset);
        }
    return 0;
}

/* In the zygote, when the libraries are loaded; again for those that came later. How many places were changed. */
PUBLIC int fildes_trap_shortcut(void) {
    int count = 0;
    dl_iterate_phdr(visit, &count);
    return count;
}

/* What programs ask of the machine out of habit: the time, random numbers, its name. Answered from grants, or not. */
#include "trap.h"

#include <limits.h>
#include <sys/mman.h>
#include <time.h>

int null_fd = -1, random_fd = -1, terminal_fd = -1;
struct secret secrets[MAX_SECRETS];
int secret_count;

/* The wall time is what it was at tick 0, by the clock driver's page, and the ticks of a timerfd since then. The driver
 * writes the page anew when the machine's clock is set, with an odd count while it does. A read of the timer
 * takes its ticks, so they are added up here; capabilities/clock/face.py says more. */
struct clock_page {
    int64_t seconds, nanoseconds, monotonic_seconds, monotonic_nanoseconds;
    uint64_t writes;
};
#define TICK_NS 1000000
static const struct clock_page *page;
static int timer_fd = -1;
static int64_t ticks;
static int64_t resolution_ns = 4000000;

enum { REALTIME, MONOTONIC, PROCESS_CPU, THREAD_CPU, MONOTONIC_RAW, REALTIME_COARSE, MONOTONIC_COARSE, BOOTTIME,
       REALTIME_ALARM, BOOTTIME_ALARM, TAI = 11 };

int64_t coarse_ns(void) {
    int64_t now[2];
    if (sys(SYS_clock_gettime, MONOTONIC_COARSE, now, 0, 0) < 0)
        return 0;
    return now[0] * 1000000000 + now[1];
}

/* Nanoseconds since 1970, or -1 without a clock. */
static int64_t wall_ns(void) {
    int fd = __atomic_load_n(&timer_fd, __ATOMIC_ACQUIRE);
    if (fd < 0)
        return -1;
    uint64_t new_ticks = 0;
    if (sys(SYS_read, fd, &new_ticks, sizeof new_ticks, 0) == sizeof new_ticks)
        __atomic_add_fetch(&ticks, (int64_t)new_ticks, __ATOMIC_RELAXED);
    int64_t began = 0;
    for (int tries = 0; tries < 1000; tries++) {
        uint64_t before = __atomic_load_n(&page->writes, __ATOMIC_ACQUIRE);
        began = page->seconds * 1000000000 + page->nanoseconds;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(before & 1) && before == __atomic_load_n(&page->writes, __ATOMIC_RELAXED))
            break;
    }
    return began + __atomic_load_n(&ticks, __ATOMIC_RELAXED) * TICK_NS;
}

int64_t wall_seconds(void) {
    int64_t now = wall_ns();
    return now < 0 ? 0 : now / 1000000000;
}

static int is_wall(word clock) {
    return clock == REALTIME || clock == REALTIME_COARSE || clock == REALTIME_ALARM || clock == TAI;
}

static int is_monotonic(word clock) {
    return clock == MONOTONIC || clock == MONOTONIC_RAW || clock == MONOTONIC_COARSE || clock == BOOTTIME ||
           clock == BOOTTIME_ALARM;
}

word clock_now(word clock, int64_t *nanoseconds) {
    clock = (int)clock;
    if (is_wall(clock))
        *nanoseconds = wall_ns();
    else if (is_monotonic(clock))
        /* Rounded up, not down: a sleep until now + d must not be shorter than d. */
        *nanoseconds = coarse_ns() + (clock == MONOTONIC_COARSE ? 0 : resolution_ns);
    else
        return clock == PROCESS_CPU || clock == THREAD_CPU || clock < 0 ? -EPERM : -EINVAL;
    return *nanoseconds < 0 ? -EPERM : 0;
}

word clock_get(word clock, int64_t *out) {
    int64_t now;
    word failed = clock_now(clock, &now);
    if (failed)
        return failed;
    if (!readable(out, 16))
        return -EFAULT;
    out[0] = now / 1000000000;
    out[1] = now % 1000000000;
    return 0;
}

word clock_resolution(word clock, int64_t *out) {
    clock = (int)clock;
    if (!is_wall(clock) && !is_monotonic(clock))
        return clock == PROCESS_CPU || clock == THREAD_CPU || clock < 0 ? -EPERM : -EINVAL;
    if (is_wall(clock) && timer_fd < 0)
        return -EPERM;
    if (!out)
        return 0;
    if (!readable(out, 16))
        return -EFAULT;
    out[0] = 0;
    out[1] = is_wall(clock) ? TICK_NS : resolution_ns;
    return 0;
}

word gettimeofday_(int64_t *tv, int32_t *tz) {
    int64_t now = wall_ns();
    if (now < 0)
        return -EPERM;
    if ((tv && !readable(tv, 16)) || (tz && !readable(tz, 8)))
        return -EFAULT;
    if (tv) {
        tv[0] = now / 1000000000;
        tv[1] = now % 1000000000 / 1000;
    }
    if (tz)
        tz[0] = tz[1] = 0;
    return 0;
}

/* EACCES, not EPERM or ENOSYS: those two make CPython, Rust and glibc fall back on opening /dev/urandom, whose failure
 * they then report as something else, or abort. */
word random_fill(char *buffer, size_t size, word flags) {
    if (flags & ~7)
        return -EINVAL;
    if (random_fd < 0)
        return -EACCES;
    if (size > INT_MAX)
        size = INT_MAX;
    size_t filled = 0;
    while (filled < size) {
        word got = sys(SYS_read, random_fd, buffer + filled, size - filled, 0);
        if (got <= 0)
            return filled ? (word)filled : got ? got : -EIO;
        filled += got;
    }
    return filled;
}

word uname_(char *out) {
#if defined(__x86_64__)
    static const char machine[] = "x86_64";
#else
    static const char machine[] = "aarch64";
#endif
    static const char *const fields[] = {"Linux", "fildes", "6.1.0", "#1 Fildes", machine, "(none)"};
    if (!readable(out, 6 * 65))
        return -EFAULT;
    memset(out, 0, 6 * 65);
    for (int i = 0; i < 6; i++)
        memcpy(out + 65 * i, fields[i], strlen(fields[i]));
    return 0;
}

/* --- what trap.py calls, before the filter is on */

/* timer: non-blocking, one tick a millisecond; page_fd: what to add them to. Both are borrowed. 0 or -errno. */
PUBLIC int fildes_trap_set_clock(int timer, int page_fd) {
    void *mapped = mmap(NULL, sizeof(struct clock_page), PROT_READ, MAP_SHARED, page_fd, 0);
    if (mapped == MAP_FAILED)
        return -errno;
    page = mapped;
    timer_fd = timer;
    return 0;
}

PUBLIC void fildes_trap_set_random(int fd) {
    random_fd = fd;
}

PUBLIC void fildes_trap_set_terminal(int fd) {
    terminal_fd = fd;
}

PUBLIC int fildes_trap_add_secret(const char *name, int fd) {
    if (secret_count == MAX_SECRETS)
        return -EMFILE;
    struct secret *secret = &secrets[secret_count];
    secret->length = strlen(name);
    if (secret->length >= sizeof secret->name)
        return -ENAMETOOLONG;
    memcpy(secret->name, name, secret->length + 1);
    secret->fd = fd;
    secret_count++;
    return 0;
}

void measure_clock(void) {
    struct timespec resolution;
    if (clock_getres(CLOCK_MONOTONIC_COARSE, &resolution) == 0)
        resolution_ns = resolution.tv_sec * 1000000000 + resolution.tv_nsec;
}

/* The wall time in nanoseconds since 1970; -1 without a clock. From anywhere, at any time. */
PUBLIC int64_t fildes_trap_wall_ns(void) {
    return wall_ns();
}

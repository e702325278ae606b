/* The handler: a call that the filter answered with SECCOMP_RET_TRAP did not run; its registers are here, and what is
 * put into the result's register is what the program gets (seccomp(2), sigaction(2)). README.md: what is answered how. */
#include "trap.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1
#endif
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_faccessat2
#define SYS_faccessat2 439
#endif

static uint64_t answered;

/* --- signals: SIGSYS and SIGSEGV stay unblocked, or the next trap would be fatal */

#define BIT(signal) ((uint64_t)1 << ((signal) - 1))

static word signal_mask(word how, const uint64_t *set, uint64_t *old, word size, ucontext_t *context) {
    uint64_t mask, given = 0;
    memcpy(&mask, &context->uc_sigmask, sizeof mask);
    if (size != sizeof mask)
        return -EINVAL;
    if ((set && !readable(set, 8)) || (old && !readable(old, 8)))
        return -EFAULT;
    uint64_t before = mask;
    if (set) {
        given = *set & ~(BIT(SIGSYS) | BIT(SIGSEGV) | BIT(SIGKILL) | BIT(SIGSTOP));
        if (how == SIG_BLOCK)
            mask |= given;
        else if (how == SIG_UNBLOCK)
            mask &= ~*set;
        else if (how == SIG_SETMASK)
            mask = given;
        else
            return -EINVAL;
        memcpy(&context->uc_sigmask, &mask, sizeof mask);
    }
    if (old)
        *old = before;
    return 0;
}

/* What rt_sigaction(2) takes, unlike sigaction(3). */
struct kernel_action {
    void (*handler)(int, siginfo_t *, void *);
    uint64_t flags, restorer, mask;
};
#define NO_HANDLER ((void (*)(int, siginfo_t *, void *))1) /* SIG_IGN; SIG_DFL is NULL */

static struct kernel_action programs_segv; /* what the program wants done about SIGSEGV */
static void on_sigsegv(int number, siginfo_t *info, void *context);

/* SIGSYS stays ours whatever the program says. SIGSEGV too, but what it says is done when the fault is not ours. */
static word signal_action(word number, const struct kernel_action *set, struct kernel_action *old) {
    if ((set && !readable(set, sizeof *set)) || (old && !readable(old, sizeof *old)))
        return -EFAULT;
    struct kernel_action given = {0}, before = {0};
    if (set)
        given = *set;
    if (number == SIGSEGV)
        before = programs_segv;
    if (old)
        *old = before;
    if (given.handler == on_sigsegv) /* saved when it was enabled, and put back: faulthandler does */
        given.handler = NULL;
    if (set && number == SIGSEGV)
        programs_segv = given;
    return 0;
}

/* --- the time-stamp counter: it was switched off (PR_SET_TSC), so that rdtsc faults; libraries that use it at their
 * start, OpenBLAS for one, get the coarse clock instead */

static void on_sigsegv(int number, siginfo_t *info, void *context_) {
#if defined(__x86_64__)
    greg_t *r = ((ucontext_t *)context_)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)r[REG_RIP];
    if (info->si_code == SI_KERNEL && readable(code, 3)) {
        int length = code[0] == 0x0f && code[1] == 0x31 ? 2 : code[0] == 0x0f && code[1] == 0x01 && code[2] == 0xf9 ? 3 : 0;
        if (length) {
            uint64_t now = coarse_ns();
            r[REG_RAX] = (uint32_t)now;
            r[REG_RDX] = now >> 32;
            if (length == 3) /* rdtscp says which CPU, too */
                r[REG_RCX] = 0;
            r[REG_RIP] += length;
            return;
        }
    }
#endif
    if (programs_segv.handler && programs_segv.handler != NO_HANDLER) {
        programs_segv.handler(number, info, context_);
        return;
    }
    /* Nobody's: with the default action the same instruction faults again, and ends the process. */
    struct kernel_action end = {0};
    marked(SYS_rt_sigaction, SIGSEGV, &end, 0, 8);
}

/* --- the table of contents */

static word answer(word nr, const word *a, ucontext_t *context) {
    switch (nr) {
#ifdef SYS_open
    case SYS_open:
        return call_open(AT_FDCWD, (char *)a[0], a[1], a[2]);
    case SYS_creat:
        return call_open(AT_FDCWD, (char *)a[0], O_CREAT | O_WRONLY | O_TRUNC, a[1]);
    case SYS_stat:
    case SYS_lstat:
        return call_stat(AT_FDCWD, (char *)a[0], 0, (struct stat *)a[1]);
    case SYS_access:
        return call_access(AT_FDCWD, (char *)a[0], a[1], 0);
    case SYS_readlink:
        return call_readlink(AT_FDCWD, (char *)a[0]);
    case SYS_mkdir:
        return call_mkdir(AT_FDCWD, (char *)a[0], a[1]);
    case SYS_unlink:
    case SYS_rmdir:
        return call_unlink(AT_FDCWD, (char *)a[0], nr == SYS_rmdir);
    case SYS_rename:
        return call_rename(AT_FDCWD, (char *)a[0], AT_FDCWD, (char *)a[1], 0);
    case SYS_chmod:
        return call_chmod(AT_FDCWD, (char *)a[0], a[1]);
    case SYS_chown:
    case SYS_lchown:
        return call_chown(AT_FDCWD, (char *)a[0], a[1], a[2]);
    case SYS_dup2:
        return call_dup2(a[0], a[1]);
    case SYS_time: {
        int64_t now[2];
        word failed = clock_get(0, now);
        if (!failed && a[0] && !readable((void *)a[0], 8))
            return -EFAULT;
        if (!failed && a[0])
            *(int64_t *)a[0] = now[0];
        return failed ? failed : now[0];
    }
    case SYS_link:
    case SYS_symlink:
        return -EPERM;
#endif
    case SYS_openat:
        return call_open(a[0], (char *)a[1], a[2], a[3]);
    case SYS_openat2: {
        const uint64_t *how = (uint64_t *)a[2];
        if (a[3] < 24)
            return -EINVAL;
        return readable(how, 24) ? call_open(a[0], (char *)a[1], how[0], how[1]) : -EFAULT;
    }
    case SYS_fstat:
        return call_fstat(a[0], (struct stat *)a[1]);
    case SYS_newfstatat:
        return call_stat(a[0], (char *)a[1], a[3], (struct stat *)a[2]);
    case SYS_statx:
        return call_statx(a[0], (char *)a[1], a[2], (struct statx *)a[4]);
    case SYS_faccessat:
        return call_access(a[0], (char *)a[1], a[2], 0);
    case SYS_faccessat2:
        return call_access(a[0], (char *)a[1], a[2], a[3]);
    case SYS_readlinkat:
        return call_readlink(a[0], (char *)a[1]);
    case SYS_getdents64:
        return readable((void *)a[1], 1) ? read_directory(a[0], (char *)a[1], a[2]) : -EFAULT;
    case SYS_getcwd:
        return readable((void *)a[0], 1) ? path_getcwd((char *)a[0], a[1]) : -EFAULT;
    case SYS_chdir:
        return call_chdir(AT_FDCWD, (char *)a[0]);
    case SYS_fchdir:
        return call_chdir(a[0], ".");
    case SYS_statfs:
        return call_statfs((char *)a[0], (word *)a[1]);
    case SYS_fstatfs:
        return call_fstatfs(a[0], (word *)a[1]);
    case SYS_mkdirat:
        return call_mkdir(a[0], (char *)a[1], a[2]);
    case SYS_unlinkat:
        return call_unlink(a[0], (char *)a[1], !!(a[2] & AT_REMOVEDIR));
#ifdef SYS_renameat
    case SYS_renameat:
        return call_rename(a[0], (char *)a[1], a[2], (char *)a[3], 0);
#endif
    case SYS_renameat2:
        return call_rename(a[0], (char *)a[1], a[2], (char *)a[3], a[4]);
    case SYS_linkat:
    case SYS_symlinkat:
    case SYS_mknodat:
        return -EPERM;
    case SYS_fchmod:
        return call_chmod(a[0], NULL, a[1]);
    case SYS_fchmodat:
    case SYS_fchmodat2:
        return call_chmod(a[0], (char *)a[1], a[2]);
    case SYS_fchown:
        return call_chown(a[0], NULL, a[1], a[2]);
    case SYS_fchownat:
        return call_chown(a[0], (char *)a[1], a[2], a[3]);
    case SYS_utimensat:
        return call_utimens(a[0], (char *)a[1], (int64_t *)a[2]);
    case SYS_truncate:
        return call_truncate((char *)a[0], a[1]);

    case SYS_fcntl:
        return call_fcntl(a[0], a[1], a[2]);
    case SYS_flock:
        return call_fcntl(a[0], F_SETLK, 0);
    case SYS_dup: {
        word fd = marked(SYS_fcntl, a[0], F_DUPFD, 0, 0);
        fd_copied(a[0], fd);
        return fd;
    }
    case SYS_dup3:
        return call_dup3(a[0], a[1], a[2]);
    case SYS_memfd_create: {
        word fd = marked(SYS_memfd_create, a[0], a[1], 0, 0);
        fd_is(fd, (struct thing){NOTHING, 0, 0});
        return fd;
    }

    case SYS_clock_gettime:
        return clock_get(a[0], (int64_t *)a[1]);
    case SYS_clock_getres:
        return clock_resolution(a[0], (int64_t *)a[1]);
    case SYS_gettimeofday:
        return gettimeofday_((int64_t *)a[0], (int32_t *)a[1]);
    case SYS_getrandom:
        return random_fill((char *)a[0], a[1], a[2]);
    case SYS_uname:
        return uname_((char *)a[0]);
    case SYS_sysinfo:
        return -EPERM;
    case SYS_socket:
    case SYS_connect:
        return -EACCES;

    case SYS_rt_sigprocmask:
        return signal_mask((int)a[0], (uint64_t *)a[1], (uint64_t *)a[2], a[3], context);
    case SYS_rt_sigaction:
        return signal_action((int)a[0], (struct kernel_action *)a[1], (struct kernel_action *)a[2]);
    default:
        return -ENOSYS;
    }
}

static void on_sigsys(int number, siginfo_t *info, void *context_) {
    ucontext_t *context = context_;
    (void)number;
    if (info->si_code != SYS_SECCOMP)
        return; /* somebody's kill: no call of ours waits for an answer */
    __atomic_add_fetch(&answered, 1, __ATOMIC_RELAXED);
#if defined(__x86_64__)
    greg_t *r = context->uc_mcontext.gregs;
    const word a[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    r[REG_RAX] = answer(info->si_syscall, a, context);
#else
    unsigned long long *r = context->uc_mcontext.regs;
    const word a[6] = {r[0], r[1], r[2], r[3], r[4], r[5]};
    r[0] = answer(info->si_syscall, a, context);
#endif
}

/* --- a lock */

void lock(int *at) {
    int expected = 0;
    if (__atomic_compare_exchange_n(at, &expected, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return;
    while (__atomic_exchange_n(at, 2, __ATOMIC_ACQUIRE))
        sys(SYS_futex, at, 128 /* FUTEX_WAIT_PRIVATE */, 2, 0);
}

void unlock(int *at) {
    if (__atomic_exchange_n(at, 0, __ATOMIC_RELEASE) == 2)
        sys(SYS_futex, at, 129 /* FUTEX_WAKE_PRIVATE */, 1, 0);
}

/* --- what trap.py calls, before the filter is on */

/* In the zygote, once rdtsc faults. 0 or -errno. */
PUBLIC int fildes_trap_hide_tsc(void) {
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_sigsegv;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK; /* as faulthandler wants it, whose handler it may call */
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGSEGV, &action, &before) < 0)
        return -errno;
    if (before.sa_sigaction != on_sigsegv)
        programs_segv.handler = before.sa_sigaction;
    return 0;
}

/* null: an open /dev/null, or -1. first_fd: named files of /tmp are kept at descriptors from this one on. 0 or -errno. */
PUBLIC int fildes_trap_activate(int null, int first_fd) {
    struct sigaction action;
    null_fd = null;
    tmp_first_fd = first_fd;
    own_uid = getuid();
    own_gid = getgid();
    fd_is(null, (struct thing){DEVICE, 0, NULL_DEVICE});
    measure_clock();
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_sigsys;
    /* Not SA_ONSTACK: a program's alternative stack (faulthandler's, say) is too small, and may be in use.
     * Every other signal waits until the answer is there, as it would for the call; but those of a fault. */
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
    sigfillset(&action.sa_mask);
    sigdelset(&action.sa_mask, SIGSYS);
    sigdelset(&action.sa_mask, SIGSEGV);
    sigdelset(&action.sa_mask, SIGBUS);
    sigdelset(&action.sa_mask, SIGFPE);
    sigdelset(&action.sa_mask, SIGILL);
    if (sigaction(SIGSYS, &action, NULL) < 0)
        return -errno;
    int failed = fildes_trap_hide_tsc(); /* again: the program may have put its own there */
    if (failed)
        return failed;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSYS);
    serving = 1;
    return sigprocmask(SIG_UNBLOCK, &set, NULL) < 0 ? -errno : 0;
}

/* How many calls were answered so far. */
PUBLIC uint64_t fildes_trap_answered(void) {
    return __atomic_load_n(&answered, __ATOMIC_RELAXED);
}

/* A zygote waits here for orders, forks, and takes a new instance's first steps: everything up to its filter.
 *
 * In C because of what Python costs in a process that has just been forked: each object it touches is a page to be
 * copied, 2 us and 4 kB. An order that is no plain start, and everything else that is rare, goes to Python
 * (src/fildes/zygote/server.py, which says what is handed to whom). The process is the tenant's, as all of the trap is:
 * nothing here is a boundary, and what it is told comes from the orchestrator.
 *
 * fork(3), not _Fork(2): the handlers of pthread_atfork(3) run, on which hangs what libraries keep of their random
 * numbers. Those of the interpreter do not: zygote/forking.py says when that is right. */
#include "trap.h"

#include <linux/filter.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_MESSAGE (128 * 1024) /* wire/zygote.py */
#define MAX_ORDER_FDS 64
#define MAX_CHILDREN 1024
#define NAME 64
#define EX_OSERR 71

int fildes_trap_activate(int null, int first_fd); /* trap.c */

/* What an event loop holds, at its number, and an instance has to have of its own: runtime/renew.py. */
enum { EVENTFD = 1, PIPE, PAIR, EPOLL, WATCH };
struct holding {
    int kind, one, other, more; /* PIPE: reader, writer, bytes in it. WATCH: epoll, descriptor, events */
};

/* As in server.py. What is lent stays where it is until the process ends. */
struct setting {
    int control;
    int holding_count;
    const struct holding *holdings;
    int closing_count;
    const int *closing; /* what only a zygote needs */
    int null_fd, first_fd; /* for the trap; -1: there is none */
    struct sock_fprog filter;
};
static struct setting setting;

struct order {
    int kind; /* below */
    int pid, status;                /* ENDED */
    int conveyor, handle, channel;  /* INSTANCE; conveyor -1: it was forked ahead */
    int locked;                     /* INSTANCE: the trap and the filter are on */
    int fd_count, fds[MAX_ORDER_FDS]; /* as they came, -1: used up */
    int length;                     /* of the message */
};
enum { INSTANCE, MESSAGE, ENDED, OVER, INTERRUPTED };

static struct order last;
static char message[MAX_MESSAGE + 1];
static struct child {
    int pid;
    char name[NAME];
} children[MAX_CHILDREN];
static int child_count;
static sigset_t with_sigchld, without_sigchld;

static volatile sig_atomic_t somebody_ended;
static void on_sigchld(int number) {
    (void)number;
    somebody_ended = 1;
}

static void say_exited(const char *name, int status) {
    char text[160];
    int length = snprintf(text, sizeof text, "{\"is\":\"exited\",\"instance\":\"%s\",\"status\":%d}", name, status);
    while (send(setting.control, text, length, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

/* 1: somebody ended whom Python forked. */
static int reap(struct order *out) {
    int status;
    pid_t pid;
    while ((pid = wait4(-1, &status, WNOHANG, NULL)) > 0) {
        int i = 0;
        while (i < child_count && children[i].pid != pid)
            i++;
        if (i == child_count) {
            out->kind = ENDED;
            out->pid = pid;
            out->status = status;
            return 1;
        }
        say_exited(children[i].name, status);
        children[i] = children[--child_count];
    }
    return 0;
}

/* 1: a message is there; 0: none yet; OVER; -errno. */
static int receive(struct order *out) {
    struct iovec room = {message, MAX_MESSAGE};
    union {
        char bytes[CMSG_SPACE(MAX_ORDER_FDS * sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct msghdr header = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(setting.control, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : errno == ECONNRESET ? OVER : -errno;
    out->fd_count = 0;
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&header); one; one = CMSG_NXTHDR(&header, one))
        if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == SCM_RIGHTS) {
            int count = (one->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(out->fds + out->fd_count, CMSG_DATA(one), count * sizeof(int));
            out->fd_count += count;
        }
    out->length = length;
    message[length] = 0;
    if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        return -EMSGSIZE;
    return length ? 1 : OVER;
}

static void fail(const char *what) {
    char text[160];
    int length = snprintf(text, sizeof text, "fildes: an instance can't start: %s: %s\n", what, strerror(errno));
    if (write(2, text, length) < 0)
        _exit(EX_OSERR);
    _exit(EX_OSERR);
}

static void move(int from, int to) {
    if (from < 0 || dup3(from, to, O_CLOEXEC) < 0)
        fail("its event loop's descriptors");
    close(from);
}

static int is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

/* The same as Holdings.renew in renew.py, which says why. */
static void renew(const struct holding *one) {
    int pair[2];
    struct epoll_event event = {.events = one->more, .data.fd = one->other};
    switch (one->kind) {
    case EVENTFD:
        move(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), one->one);
        break;
    case PIPE:
        if (!is_open(one->one) || !is_open(one->other))
            break; /* libuv's lock, which libuv moved */
        if (pipe2(pair, O_CLOEXEC | (one->more ? 0 : O_NONBLOCK)) < 0)
            fail("a pipe of its event loop's");
        for (int i = 0; i < one->more; i++)
            if (write(pair[1], "*", 1) < 0)
                fail("a pipe of its event loop's");
        move(pair[0], one->one);
        move(pair[1], one->other);
        break;
    case PAIR:
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
            fail("a socket of its event loop's");
        move(pair[0], one->one);
        move(pair[1], one->other);
        break;
    case EPOLL:
        move(epoll_create1(EPOLL_CLOEXEC), one->one);
        break;
    case WATCH:
        if (epoll_ctl(one->one, EPOLL_CTL_ADD, one->other, &event) < 0)
            fail("what its event loop watches");
        break;
    }
}

/* The n-th part of the order, which is: "S1", the instance's name, then a name for each descriptor. */
static const char *part(const struct order *order, int n) {
    const char *at = message, *end = message + order->length;
    while (n-- && at < end)
        at += strlen(at) + 1;
    return at < end ? at : "";
}

/* A start in which nothing but what is done here is asked for; -1 for every other message. Else how many grants.
 * Without a conveyor it is one ahead: see fildes_fork_conveyor. */
static int plain_start(const struct order *order) {
    int grants = 0, known = 0, conveyors = 0, i = 0;
    if (order->length < 4 || memcmp(message, "S1", 3) || strlen(part(order, 1)) >= NAME)
        return -1;
    for (const char *at = part(order, 2); *at; at += strlen(at) + 1, i++) {
        if (!strncmp(at, "grant:", 6))
            grants++;
        else if (!strcmp(at, "conveyor"))
            conveyors++;
        else if (!strcmp(at, "handle") || !strcmp(at, "channel"))
            known++;
        else if (strcmp(at, "cgroup"))
            return -1;
    }
    return known == 2 && conveyors <= 1 && i == order->fd_count ? grants : -1;
}

static void lock_down(struct order *order) {
    int failed = setting.first_fd < 0 ? 0 : fildes_trap_activate(setting.null_fd, setting.first_fd);
    if (failed) {
        errno = -failed;
        fail("the trap");
    }
    if (syscall(SYS_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, 0, &setting.filter))
        fail("its filter");
    order->locked = 1;
}

static void say_up(int handle) {
    if (send(handle, "U", 1, MSG_NOSIGNAL) < 0)
        fail("the orchestrator is gone");
}

/* In the child. Its descriptors keep the numbers at which they came. */
static void become_instance(struct order *order, int grants) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(SIGCHLD, &action, NULL);
    for (int i = 0; i < setting.holding_count; i++)
        renew(&setting.holdings[i]);
    for (int i = 0; i < setting.closing_count; i++)
        close(setting.closing[i]);
    close(setting.control);
    const char *at = part(order, 2);
    order->conveyor = -1;
    for (int i = 0; i < order->fd_count; i++, at += strlen(at) + 1) {
        int *fd = &order->fds[i];
        if (!strcmp(at, "cgroup")) { /* itself, and only itself: kernel/cgroups.py */
            if (write(*fd, "0", 1) < 0)
                fail("its cgroup");
            close(*fd);
            *fd = -1;
        } else if (!strcmp(at, "conveyor"))
            order->conveyor = *fd;
        else if (!strcmp(at, "handle"))
            order->handle = *fd;
        else if (!strcmp(at, "channel"))
            order->channel = *fd;
    }
    if (order->conveyor >= 0)
        say_up(order->handle);
    if (!grants)
        lock_down(order);
    sigprocmask(SIG_SETMASK, &without_sigchld, NULL);
}

static void start(struct order *order, int grants) {
    const char *name = part(order, 1);
    pid_t pid = child_count < MAX_CHILDREN ? fork() : (errno = EAGAIN, -1);
    if (pid == 0) {
        become_instance(order, grants);
        return;
    }
    for (int i = 0; i < order->fd_count; i++)
        close(order->fds[i]);
    if (pid < 0)
        say_exited(name, 255 << 8);
    else {
        children[child_count].pid = pid;
        strcpy(children[child_count++].name, name);
    }
    order->kind = pid; /* anything but INSTANCE */
}

/* --- what server.py calls, in the zygote */

/* `given` and what it points to are lent for good. 0 or -errno. */
PUBLIC int fildes_fork_prepare(const struct setting *given) {
    struct sigaction action = {.sa_handler = on_sigchld};
    setting = *given;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGCHLD, &action, NULL) < 0 ? -errno : 0;
}

/* Of the last `next`. Not in the interpreter's memory: each write of a zygote to that is a copy, once it has forked. */
PUBLIC struct order *fildes_fork_order(void) {
    return &last;
}

/* Wait for what Python has to look at, or until this process is a new instance. 0 or -errno. */
PUBLIC int fildes_fork_next(void) {
    struct order *out = &last;
    sigprocmask(SIG_BLOCK, NULL, &without_sigchld);
    with_sigchld = without_sigchld;
    sigaddset(&with_sigchld, SIGCHLD);
    sigdelset(&without_sigchld, SIGCHLD);
    sigprocmask(SIG_SETMASK, &with_sigchld, NULL);
    int result = 0;
    for (;;) {
        struct pollfd waiting = {setting.control, POLLIN, 0};
        out->locked = 0;
        if (reap(out))
            break;
        somebody_ended = 0;
        if (ppoll(&waiting, 1, NULL, &without_sigchld) < 0) {
            if (errno != EINTR) {
                result = -errno;
                break;
            }
            if (somebody_ended)
                continue;
            out->kind = INTERRUPTED; /* Python may have a handler for it */
            break;
        }
        int got = receive(out);
        if (got == 0)
            continue;
        if (got != 1) {
            out->kind = OVER;
            result = got < 0 ? got : 0;
            break;
        }
        int grants = plain_start(out);
        if (grants < 0) {
            out->kind = MESSAGE;
            break;
        }
        out->kind = INSTANCE;
        start(out, grants);
        if (out->kind == INSTANCE)
            return 0;
    }
    sigprocmask(SIG_SETMASK, &without_sigchld, NULL);
    return result;
}

/* The last message, `length` bytes. */
PUBLIC const char *fildes_fork_message(void) {
    return message;
}

/* In an instance that was forked ahead: wait until somebody needs it. Who closes the other end of its handle does not
 * want it any more. */
PUBLIC int fildes_fork_conveyor(int handle) {
    for (;;) {
        struct pollfd waiting = {handle, POLLIN, 0};
        char word[8];
        struct iovec room = {word, sizeof word};
        union {
            char bytes[CMSG_SPACE(sizeof(int))];
            struct cmsghdr aligned;
        } control;
        struct msghdr header = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        if (poll(&waiting, 1, -1) < 0 && errno != EINTR)
            _exit(EX_OSERR);
        ssize_t length = recvmsg(handle, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (length < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        struct cmsghdr *one = length > 0 ? CMSG_FIRSTHDR(&header) : NULL;
        if (!one || word[0] != 'G' || one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS)
            _exit(0);
        int conveyor;
        memcpy(&conveyor, CMSG_DATA(one), sizeof conveyor);
        say_up(handle);
        return conveyor;
    }
}

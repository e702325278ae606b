"""What an operator runs: asks on a terminal, copies bytes, shows its surroundings."""

import getpass
import os
import signal
import sys
import time


def ask():
    name = input("Name: ")
    first, second = getpass.getpass("Password: "), getpass.getpass("Password (again): ")
    print(f"made {name}: {'the same' if first == second else 'not the same'}, {len(first)} letters")
    sys.exit(3)


def show():
    import clerk

    import __main__

    print("argv", sys.argv)
    print("file", __file__, __name__, __main__.show is show)
    print("where", os.getcwd(), sys.path[0])
    print("program", clerk.READY)
    print("env", os.environ["TITLE"], os.environ.get("TERM"))
    print("terminals", *[os.isatty(number) for number in range(3)])


def copy():
    sys.stdout.buffer.write(sys.stdin.buffer.read())
    print("copied", file=sys.stderr)


def window():
    changed = []
    signal.signal(signal.SIGWINCH, lambda *_: changed.append(os.get_terminal_size()))
    print(*os.get_terminal_size(), flush=True)
    while not changed:
        time.sleep(0.02)
    print("now", *changed[-1])


def wait():
    try:
        print("waiting", flush=True)
        while True:  # a signal just before one long sleep would be noticed after it
            time.sleep(0.02)
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(9)


def stubborn():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    print("ignoring", flush=True)
    time.sleep(600)


def lines():
    for line in sys.stdin:
        print("read", line.strip(), flush=True)
    print("end of file")


def eat():
    data = []
    while True:
        data.append(b"x" * (1 << 20))


def boom():
    raise ValueError("bang")


def reach():
    """What a hostile command would try with its terminal."""
    import fcntl
    import termios

    for name, request, argument in (
        ("TIOCSTI", termios.TIOCSTI, b"x"),
        ("TIOCSCTTY", termios.TIOCSCTTY, 0),
        ("TIOCSWINSZ", termios.TIOCSWINSZ, b"\0" * 8),
        ("TIOCGPTPEER", 0x5441, 2),
    ):
        try:
            fcntl.ioctl(0, request, argument)
        except OSError as error:
            print(name, error.strerror)
        else:
            print(name, "went through")


if __name__ == "__main__":
    globals()[sys.argv[1]]()

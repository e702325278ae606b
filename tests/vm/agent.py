"""Runs in the guest as root: each line that comes over the serial port is a command, each line back is how it ended.

Request: {"id": 7, "command": "uname -r", "timeout": 60}; answer: {"id": 7, "status": 0, "output": "…"}. Once after each
boot it says {"boot": "<boot id>"}. Standard library only.
"""

import json
import subprocess
import sys
import termios
import tty


def answer(request: dict) -> dict:
    """The exit status (124 after the timeout) and what was printed, both streams as one."""
    try:
        done = subprocess.run(
            ["bash", "-c", request["command"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=request["timeout"],
            check=False,
        )
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        status, output = 124, late.stdout or b""
    return {"id": request["id"], "status": status, "output": output.decode("utf-8", "replace")[-60000:]}


def main(port: str) -> None:
    with open(port, "r+b", buffering=0) as line:
        tty.setraw(line.fileno(), termios.TCSANOW)
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            said: dict = {"boot": file.read().strip()}
        text = b""
        while True:
            line.write(json.dumps(said).encode() + b"\n")
            while b"\n" not in text:
                text += line.read(4096)
            request, _, text = text.partition(b"\n")
            said = answer(json.loads(request))


if __name__ == "__main__":
    main(sys.argv[1])

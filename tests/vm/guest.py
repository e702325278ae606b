"""A Debian 12 in QEMU without KVM, and how to run commands in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

QEMU = "qemu-system-x86_64"
BOOT_TIME = 240.0  # seconds; a quiet machine takes 30
SLACK = 30.0  # seconds beyond a command's own limit


class Ended(NamedTuple):
    status: int
    output: str


class Guest:
    """One virtual machine: the image stays as it is, what the guest writes goes with it."""

    def __init__(self, image: Path, folder: Path, payload: Path, *, memory: int = 2048, cpus: int = 2) -> None:
        """`image`: what scripts/vm-image.sh made; `payload`: a file system, seen as /payload; `folder`: for scratch."""
        self._next = 0
        self._text = b""
        self.console = folder / "console.log"
        disk, port = folder / "disk.qcow2", folder / "agent"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image / "disk.ext4"), str(disk)],
            check=True,
            timeout=60,
        )
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(port))
        listening.listen(1)
        listening.settimeout(30)
        command = [
            *(QEMU, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", str(cpus), "-m", str(memory)),
            *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img")),
            *("-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=false"),
            *("-drive", f"file={disk},if=virtio,format=qcow2,cache=unsafe"),
            *("-drive", f"file={payload},if=virtio,format=raw,readonly=on"),
            *("-device", "virtio-rng-pci"),
            *(
                "-serial",
                f"file:{self.console}",
                "-chardev",
                f"socket,id=agent,path={port}",
                "-serial",
                "chardev:agent",
            ),
        ]
        self._qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            with listening:
                self._port, _ = listening.accept()
            self.boot = self.wait_for_boot()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the machine as by its power switch."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._qemu.pid, signal.SIGKILL)
        self._qemu.wait(30)
        if port := getattr(self, "_port", None):
            port.close()

    def wait_for_boot(self) -> str:
        """Until the guest is there; its boot id, a new one each time. Raises TimeoutError with the console's end."""
        deadline = time.monotonic() + BOOT_TIME
        while "boot" not in (said := self._read(deadline)):
            pass
        boot: str = said["boot"]
        return boot

    def run(self, command: str, *, timeout: float = 60) -> Ended:
        """`command` by bash as root in the guest."""
        self._next += 1
        request = {"id": self._next, "command": command, "timeout": timeout}
        self._port.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + timeout + SLACK
        while (said := self._read(deadline)).get("id") != self._next:
            pass
        return Ended(said["status"], said["output"])

    def ok(self, command: str, *, timeout: float = 60) -> str:
        """What it printed; AssertionError unless it ended with 0."""
        ended = self.run(command, timeout=timeout)
        assert ended.status == 0, f"in the guest: {command}: status {ended.status}\n{ended.output}"
        return ended.output

    def until(self, command: str, *, timeout: float = 60) -> str:
        """`ok`, tried again until it ends with 0 or `timeout` is over."""
        deadline = time.monotonic() + timeout
        while (ended := self.run(command, timeout=timeout)).status and time.monotonic() < deadline:
            time.sleep(0.3)  # each try costs the guest a shell
        assert ended.status == 0, f"in the guest: {command}: status {ended.status} to the end\n{ended.output}"
        return ended.output

    def reboot(self) -> None:
        """`systemctl reboot`, and wait for the machine to be there again."""
        self.run("systemd-run --quiet --on-active=1 systemctl reboot")
        before, self.boot = self.boot, self.wait_for_boot()
        assert self.boot != before

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._text:
            left = deadline - time.monotonic()
            self._port.settimeout(max(left, 0.01))
            try:
                text = self._port.recv(65536) if left > 0 else b""
            except TimeoutError:
                text = b""
            if not text:
                raise TimeoutError(f"the guest says nothing; its console: {self.last_words()}")
            self._text += text
        line, _, self._text = self._text.partition(b"\n")
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:  # noise of the port at boot
            return {}
        return said

    def last_words(self) -> str:
        with contextlib.suppress(OSError):
            return self.console.read_text("utf-8", "replace")[-2000:]
        return ""


def missing() -> str:
    """The programs that are needed and not installed, as one line; empty if all are there."""
    needed = {QEMU: "qemu-system-x86", "qemu-img": "qemu-utils", "mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs"}
    return " ".join(package for program, package in needed.items() if not shutil.which(program))

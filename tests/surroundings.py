"""Users, homes and disks as they are found in containers and on clusters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

UID = 12345  # that no list of users has
ROOT = Path(__file__).resolve().parents[1]
_SHIM = """
#include <errno.h>
#include <stdarg.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>
int flock(int fd, int op) { errno = ERROR; return -1; }
#ifdef NO_FCNTL
static int answer(int fd, int command, void *argument) {
    if (command == F_OFD_SETLK || command == F_OFD_SETLKW) { errno = ERROR; return -1; }
    return syscall(SYS_fcntl, fd, command, argument);
}
int fcntl(int fd, int command, ...) {
    va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list);
    return answer(fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
    va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list);
    return answer(fd, command, argument);
}
#endif
"""


@cache
def _prefix() -> tuple[str, ...]:
    """A command that runs another one as a user without an entry, or a skip with the reason."""
    if not shutil.which("setpriv") or os.geteuid() != 0:
        pytest.skip("only root can become another user, with setpriv")
    become = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
    # Python may lie below a folder that is closed to others: then the user is let read there, but not write. Without
    # the secure bit, `os.access` would ask without that right and say that nothing is there.
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--securebits=+no_setuid_fixup")
    check = "import numpy, os, sys; sys.exit(not os.access(numpy.__path__[0], os.R_OK))"
    for prefix in (become, (*become, *reading)):
        bare = [*prefix, "env", "-i", sys.executable, "-c", check]
        tried = subprocess.run(bare, cwd="/", capture_output=True)
        if tried.returncode == 0:
            return prefix
    pytest.skip(f"another user cannot run {sys.executable}")


def as_unknown_user(
    folder: Path, *arguments: str, timeout: int = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python as a user without an entry, as `docker --user` does: no HOME, and nothing else but what is given."""
    given = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **variables}
    bare = ["env", "-i", *(f"{name}={value}" for name, value in given.items() if value)]
    return subprocess.run(
        [*_prefix(), *bare, sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=timeout
    )


def open_to_all(folder: Path) -> Path:
    """Let every user come to a folder below pytest's own, and write in it."""
    for place in (folder, *folder.parents):
        if place.stat().st_uid == os.geteuid() and place != Path(place.anchor):
            place.chmod(place.stat().st_mode | 0o055)
    folder.chmod(0o777)
    return folder


def without_flock(folder: Path, error: str = "ENOSYS", also_fcntl: bool = False) -> dict[str, str]:
    """Variables under which a process finds no `flock`, and on demand no other lock of open files."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux")
    source, shim = folder / "shim.c", folder / f"shim-{error}-{also_fcntl}.so"
    source.write_text(_SHIM)
    options = [f"-DERROR={error}", *(["-DNO_FCNTL"] if also_fcntl else [])]
    subprocess.run([compiler, "-D_GNU_SOURCE", "-shared", "-fPIC", *options, "-o", shim, source], check=True)
    return {"LD_PRELOAD": str(shim)}

"""A private SLURM of one node with two processors, whose jobs run as a user other than root."""

from __future__ import annotations

import os
import pwd
import random
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

USER, MUNGE_USER = "nobody", "munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "setpriv")
ROOT = Path(__file__).resolve().parents[2]
_PYTHONPATH = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
_SECONDS = 30  # for a start; two are usual
# Neither cgroups nor systemd nor an accounting database.
_CONFIGURATION = """\
ClusterName=bhsearch
SlurmctldHost={host}
SlurmctldAddr=127.0.0.1
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/socket/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
ReturnToService=2
KillWait=20
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class NoSlurmError(Exception):
    """There can be no SLURM on this machine; the message is the reason."""


class Slurm:
    """A running SLURM; see `slurm`.

    Attributes:
        folder: Holds keys, state and logs; its subfolder `work` belongs to `USER`.
        work: Working directory for `USER`.
        python: Interpreter that `USER` can run.
    """

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.work, self.python = folder, folder / "work", python
        self._daemons: list[subprocess.Popen[bytes]] = []

    def environment(self, **more: str) -> dict[str, str]:
        """Variables of a user's login, without those of this process."""
        given = {"PATH": "/usr/bin:/bin", "PYTHONPATH": _PYTHONPATH, "HOME": str(self.work), "COLUMNS": "200"}
        return {**given, "SLURM_CONF": str(self.folder / "slurm.conf"), "TF_CPP_MIN_LOG_LEVEL": "3", **more}

    def popen(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command as `USER` in `work`."""
        return subprocess.Popen(
            [*_as(USER), *words],
            cwd=self.work,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as `USER` in `work`."""
        with self.popen(*words, **variables) as process:
            output = process.communicate(timeout=240)[0]
        return subprocess.CompletedProcess(words, process.returncode, output)

    def states(self) -> dict[str, str]:
        """States of all jobs that SLURM lists by id, such as `{"13_0": "RUNNING"}`."""
        done = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%i %T")
        return dict(line.split() for line in done.stdout.splitlines())

    def start_now(self, job: str) -> None:
        """Let a requeued job start, which SLURM delays by two minutes."""
        command = ["scontrol", "update", f"jobid={job}", "starttime=now"]
        subprocess.run(command, env=self.environment(), check=True, timeout=_SECONDS)  # as root

    def start(self) -> None:
        """Start the daemons, and return when the node is idle."""
        folder, host = self.folder, socket.gethostname().partition(".")[0]
        for name, user in {"munge": MUNGE_USER, "socket": MUNGE_USER, "work": USER}.items():
            (folder / name).mkdir(mode=0o700 if name == "munge" else 0o755)
            shutil.chown(folder / name, user)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        shutil.chown(key, MUNGE_USER)
        ports = random.sample(range(20000, 32000), 2)
        names = {"host": host, "folder": folder, "controller_port": ports[0], "node_port": ports[1]}
        (folder / "slurm.conf").write_text(_CONFIGURATION.format(**names))
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        munge = [f"--key-file={key}", f"--socket={folder}/socket/munge", f"--pid-file={folder}/munge/pid"]
        munge += [f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed"]
        self._daemon(*_as(MUNGE_USER), "munged", "--foreground", *munge)
        self._wait(lambda: (folder / "socket" / "munge").exists())
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D", "-N", host)
        self._wait(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T").stdout)

    def stop(self) -> None:
        """End the jobs, then the daemons; no process is left."""
        with suppress(Exception):
            self.run("scancel", f"--user={USER}")
        for daemon in reversed(self._daemons):
            with suppress(psutil.NoSuchProcess):
                steps = psutil.Process(daemon.pid).children(recursive=True)
                daemon.terminate()
                for step in steps:
                    with suppress(psutil.NoSuchProcess):
                        step.kill()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(3)
            daemon.kill()
            daemon.wait()
        for process in psutil.process_iter(["environ"]):  # job steps are no children of slurmd
            found = process.info["environ"] or {}
            if found.get("SLURM_CONF") == str(self.folder / "slurm.conf"):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def _daemon(self, *words: str) -> None:
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SLURM_CONF": str(self.folder / "slurm.conf")}
        with (self.folder / "daemons.log").open("ab") as log:
            dying = ["setpriv", "--pdeathsig", "KILL", "--", *words] if words[0] != "setpriv" else words
            self._daemons.append(
                subprocess.Popen(
                    dying, env=variables, stdout=log, stderr=log, cwd=self.folder, stdin=subprocess.DEVNULL
                )
            )

    def _wait(self, what) -> None:
        end = time.monotonic() + _SECONDS
        while not what():
            ended = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if ended or time.monotonic() > end:
                said = (self.folder / "daemons.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"SLURM did not start ({ended}):\n{said}")
            time.sleep(0.1)


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A running SLURM; daemons, jobs and files are gone at the end.

    Raises:
        NoSlurmError: With the reason why there can be none.
    """
    python = _interpreter()
    folder = Path(tempfile.mkdtemp(prefix="bhsearch-slurm-"))  # not in pytest's folder, which is the owner's alone
    folder.chmod(0o755)
    cluster = Slurm(folder, python)
    try:
        cluster.start()
        yield cluster
    finally:
        try:
            cluster.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _as(user: str) -> list[str]:
    entry = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--pdeathsig", "KILL"]


def _interpreter() -> str:
    """Return a Python that `USER` can run with the packages of the tests: this one may lie in the home of root.

    Raises:
        NoSlurmError: If there is none, or SLURM cannot be started.
    """
    if os.geteuid() != 0:
        raise NoSlurmError("only root can start SLURM")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        raise NoSlurmError(f"not installed: {', '.join(missing)} (Debian: slurm-wlm munge util-linux)")
    for user in (USER, MUNGE_USER):
        try:
            pwd.getpwnam(user)
        except KeyError:
            raise NoSlurmError(f"there is no user {user}") from None
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        # Through a shell, as in a job: setpriv itself would still start it with the rights of root.
        command = [*_as(USER), "bash", "-c", f"{shlex.quote(python)} -c 'import bhsearch, json, numpy'"]
        variables = {"PYTHONPATH": _PYTHONPATH, "PATH": "/usr/bin:/bin"}
        if subprocess.run(command, cwd="/", env=variables, capture_output=True, check=False).returncode == 0:
            return python
    raise NoSlurmError(f"the user {USER} cannot run {sys.executable} with the packages of the tests")

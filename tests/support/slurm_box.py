"""A real Slurm on this machine alone: controller and two nodes with a made-up GPU each, started and stopped by a test.

The GPUs are Gres of a type whose device file is /dev/null: Slurm hands them out, and nothing can compute on them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
NODES = {"n1": "h100", "n2": "h100"}  # the type of each node's GPU
PATIENCE_S = 240.0


def missing() -> str | None:
    """Why no Slurm can be started here; None if one can."""
    if absent := [name for name in PROGRAMS if not shutil.which(name)]:
        return f"{absent[0]} is not here: Debian's slurmctld, slurmd, slurm-client and munge bring it"
    return None if os.geteuid() == 0 else "slurmd asks for root"


class Box:
    """Slurm in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", "log", *NODES):
            (folder / name).mkdir(parents=True)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        host, (control, *ports) = socket.gethostname().partition(".")[0], _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={name} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} CPUs=8 RealMemory=1000"
            f" Gres=gpu:{kind}:4"
            for (name, kind), port in zip(NODES.items(), ports, strict=True)
        )
        (folder / "slurm.conf").write_text(
            f"""ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/log/ctld
SlurmdLogFile={folder}/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=15
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES State=UP
"""
        )
        files = "null,zero,full,random"
        (folder / "gres.conf").write_text(
            "".join(
                f"NodeName={name} Name=gpu Type={kind} File=/dev/{device}\n"
                for name, kind in NODES.items()
                for device in files.split(",")
            )
        )
        self.environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start everything, and wait until both nodes are idle."""
        self._start(
            *("munged", "munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key"),
            *(f"--socket={self.folder}/munge.sock", f"--pid-file={self.folder}/munged.pid"),
            *(f"--log-file={self.folder}/log/munged", f"--seed-file={self.folder}/munge.seed"),
        )
        self.wait_for(lambda: (self.folder / "munge.sock").exists(), "munged")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_for(
            lambda: self.say("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(NODES), "idle nodes"
        )

    def stop(self) -> None:
        """End all jobs, then everything."""
        if "slurmctld" in self._running:
            subprocess.run(["scancel", "--user=root"], env=self.environ, capture_output=True, check=False)
            deadline = time.monotonic() + 15
            while self.queue() and time.monotonic() < deadline:
                time.sleep(0.5)
        for name in reversed(list(self._running)):
            self.kill(name, signal.SIGTERM)

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D")

    def start_node(self, name: str) -> None:
        self._start(name, "slurmd", "-D", "-N", name)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a daemon."""
        process = self._running.pop(name)
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill_node(self, name: str, job: int) -> None:
        """A node dies with a job on it: its daemon, the job's step, and the job's process of this number."""
        step = int(Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[1])
        assert Path(f"/proc/{step}/comm").read_text().strip() == "slurmstepd"
        self.kill(name)
        for process in (step, job):
            os.kill(process, signal.SIGKILL)

    def say(self, *command: str) -> str:
        """The output of a command of Slurm's."""
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False).stdout

    def queue(self) -> list[str]:
        """Name and state of every job that has not ended."""
        return self.say("squeue", "-h", "-r", "-o", "%j %K %T").splitlines()

    def wait_for(self, is_so: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + patience_s
        while not is_so():
            assert time.monotonic() < deadline, (
                f"no {what} in {patience_s:.0f} s; the queue is {self.queue()}"
            )
            time.sleep(0.3)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            self._running[name] = subprocess.Popen(command, env=self.environ, stdout=out, stderr=out)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports

"""A real SLURM on this host alone: munge, a controller, and one daemon a virtual node, in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests import HANG

SYSTEM_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "setpriv")
# torch has to resolve the name of the first node; loopback addresses resolve to themselves.
NODES = ("127.0.0.1", "127.0.0.2")
# Declared, not measured (config_overrides): what fairchem asks for by default fits.
CPUS, MEMORY = 16, 262144

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
# A requeued job may start when the credential of its first start has expired.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
PlugStackConfig={folder}/plugstack.conf
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
# Otherwise a request that no node can satisfy waits for ever.
EnforcePartLimits=ALL
KillWait=2
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
PartitionName=ordinary Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def missing() -> list[str]:
    """Return the programs of SLURM and munge that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]


class Cluster:
    """Two virtual nodes without GPUs, and two partitions of which ``urgent`` preempts ``ordinary``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PATH": SYSTEM_PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        # The plugin has to reach a job by itself.
        self.environment.pop("PYTHONPATH", None)
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons and wait until a step has run on every node."""
        self._configure()
        # Forced, since others may not enter this folder.
        files = (
            ("key-file", "key"),
            ("socket", "socket"),
            ("pid-file", "pid"),
            ("seed-file", "seed"),
            ("log-file", "log"),
        )
        options = [f"--{option}={self.folder}/munge.{ending}" for option, ending in files]
        self._start("munged", "--foreground", "--force", "--num-threads=2", *options)
        until((self.folder / "munge.socket").exists, "munged does not start")
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        until(lambda: self.run("sinfo", "-h", "-t", "idle", "-p", "urgent", "-o", "%D", check=False) == "2",
              "the nodes do not become idle")  # fmt: skip
        self.run("srun", "--quiet", "--nodes=2", "--ntasks=2", "--time=1", "true")

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        if len(self._daemons) == 2 + len(NODES):
            self.run("scancel", "--quiet", f"--user={os.getuid()}", check=False)
            # What runs a job's step outlives its node's daemon.
            until(lambda: not self.run("squeue", "-h", check=False), None, 30)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def run(self, *words: object, check: bool = True) -> str:
        """Run a command of SLURM; return what it printed."""
        done = subprocess.run(
            list(map(str, words)),
            env=self.environment, capture_output=True, text=True, timeout=HANG, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """Return what the controller says of a job: ``JobState``, ``Restarts``, ``ExitCode``, …"""
        fields = self.run("scontrol", "-o", "show", "job", number).split()
        return dict(reversed([field.split("=", 1) for field in fields if "=" in field]))

    def wait(self, number: str, state: str = "COMPLETED") -> None:
        """Wait until a job ends, in the state that is expected."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE"}
        until(lambda: self.job(number)["JobState"] in ended, f"job {number} does not end", HANG)
        job = self.job(number)
        assert job["JobState"] == state, f"{job['JobState']}: {Path(job['StdErr']).read_text()[-2000:]}"

    def _configure(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        (self.folder / "plugstack.conf").touch()
        host, (port, *ports) = socket.gethostname().split(".")[0], free_ports(1 + len(NODES))
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        text = CONFIGURATION.format(host=host, port=port, user=user, folder=self.folder)
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} Boards=1 "
            f"SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEMORY} State=UNKNOWN\n"
            for name, port in zip(NODES, ports, strict=True)
        ]
        # Partitions come after the nodes that they name.
        general, partitions = text.split("PartitionName", 1)
        Path(self.environment["SLURM_CONF"]).write_text(
            general + "".join(nodes) + "PartitionName" + partitions
        )

    def _start(self, program: str, *options: str) -> None:
        with (self.folder / f"{program}-{len(self._daemons)}.out").open("wb") as output:
            # Should the tests be killed, the daemons end too.
            command = ["setpriv", "--pdeathsig", "TERM", program, *options]
            daemon = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        self._daemons.append(daemon)


def until(condition: Callable[[], object], complaint: str | None, seconds: float = HANG / 4) -> None:
    """Wait for a condition; fail with the complaint, if there is one, when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            assert complaint is None, complaint
            return
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing on this host listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports

"""Which processes a run consists of: one, several that rgbt starts, or those that torchrun or SLURM started."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import Logger
from lightning.fabric.plugins import MixedPrecision
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from data.errors import DataError
from export.cores import cores

LAUNCHERS: dict[str, type[ClusterEnvironment]] = {
    "torchrun": TorchElasticEnvironment,
    "SLURM": SLURMEnvironment,
    "LSF": LSFEnvironment,
    "MPI": MPIEnvironment,
}
"""Name → how Fabric recognises it; the first that is there counts, in Fabric's own order."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_PER_NODE = {"torchrun": "LOCAL_WORLD_SIZE", "SLURM": "SLURM_NTASKS_PER_NODE"}
"""Launcher → the variable in which it says how many processes it started on each node."""
_PATIENCE_S = 5.0
_GRACE_S = 60.0
"""Time for this process to end by itself after one that it started has failed."""


class RawInputMixed(MixedPrecision):  # type: ignore[misc]  # mypy sees nothing of Lightning
    """Autocast over what is handed in as it is; Fabric's own would round raw values to half precision first.

    A thermal count of 51241 is 51200 as bfloat16, so that a narrow span would come down to a few steps. The model
    normalises in fp32, and autocast halves from the first convolution on.
    """

    def convert_input(self, inputs: Any) -> Any:  # noqa: ANN401 - as Fabric declares it
        """Hand on."""
        return inputs


@dataclass(frozen=True)
class Processes:
    """The processes of a run, one for each device, and which of them this is."""

    devices: int
    """On each node."""
    nodes: int
    rank: int
    """Of this process, from 0; rank 0 alone talks and writes."""
    environment: ClusterEnvironment
    launcher: str | None
    """Who started them; None: rgbt itself."""

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    @property
    def leads(self) -> bool:
        """Whether this is the one that talks and writes."""
        return self.rank == 0


def find_processes(devices: int | None = None, nodes: int | None = None) -> Processes:
    """The processes that a launcher started, or else ``devices`` on each of ``nodes``.

    Args:
        devices: On each node; None: as many as the launcher started, else one.
        nodes: None: as many as the launcher uses, else one.

    Raises:
        DataError: what was asked for is not what the launcher started, or nobody said where the other nodes are.
    """
    for name, value in (("devices", devices), ("nodes", nodes)):
        if value is not None and value < 1:
            raise DataError(f"--{name} {value}: expected 1 or more")
    launcher = next((name for name, kind in LAUNCHERS.items() if kind.detect()), None)
    if launcher is not None:
        environment = _environment(launcher)
        world = environment.world_size()
        if world > 1:  # a job of one task may still start processes of its own
            return _launched(launcher, environment, world, devices, nodes)
    devices, nodes, own = devices or 1, nodes or 1, LightningEnvironment()
    if nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= set(os.environ):
        raise DataError(
            f"--nodes {nodes}: nothing says where the other nodes are; start it by torchrun or SLURM, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK on each node"
        )
    local = own.local_rank() if devices * nodes > 1 else 0
    return Processes(devices, nodes, own.node_rank() * devices + local if nodes > 1 else local, own, None)


def _environment(launcher: str) -> ClusterEnvironment:
    try:
        return LAUNCHERS[launcher]()
    except RuntimeError as error:  # SLURM's variables contradict each other
        raise DataError(f"{launcher}: {str(error).splitlines()[0]}") from None


def _launched(
    launcher: str, environment: ClusterEnvironment, world: int, devices: int | None, nodes: int | None
) -> Processes:
    said = os.environ.get(_PER_NODE.get(launcher, ""), "")
    told = int(said) if said.isdigit() else 0
    here = told or devices or max(1, world // (nodes or 1))
    found = (here, max(1, world // here))
    asked = (devices or here, nodes or found[1])
    if found[0] * found[1] != world or asked != found:
        each = f", {told} on each node" if told else ""
        raise DataError(
            f"--devices {asked[0]} --nodes {asked[1]}: {launcher} started {world} processes{each}; leave --devices and "
            "--nodes out, and it decides"
        )
    return Processes(*found, environment.global_rank(), environment, launcher)


def make_fabric(processes: Processes, accelerator: str, precision: str, loggers: Sequence[Logger] = ()) -> Fabric:
    """The Fabric of these processes, not launched yet.

    Raises:
        DataError: there are fewer devices than asked for, or they cannot compute in ``precision``.
    """
    kind = _accelerator(accelerator)
    found = {"cpu": cores(), "cuda": torch.cuda.device_count(), "mps": 1}[kind]
    if processes.devices > found:
        things = {"cpu": "processor cores", "cuda": "CUDA devices", "mps": "MPS device"}[kind]
        raise DataError(
            f"--devices {processes.devices}: asked for {processes.devices} on each node, found {found} {things}; say "
            f"--devices {found}"
        )
    if precision == "16-mixed" and kind != "cuda":
        raise DataError(f"--precision 16-mixed: needs a CUDA device, found {kind}; say bf16-mixed or 32-true")
    if processes.world > 1:
        _require_own_program(processes)
    for room in ("fabric", "pytorch"):  # each has a level of its own
        logging.getLogger(f"lightning.{room}").setLevel(logging.WARNING)
    plugins: list[Any] = [processes.environment]
    if precision != "32-true":
        half: Any = precision
        plugins.append(RawInputMixed(half, kind))
    return Fabric(
        accelerator=kind,
        devices=processes.devices,
        num_nodes=processes.nodes,
        strategy="ddp" if processes.world > 1 else "auto",
        plugins=plugins,
        loggers=list(loggers),
    )


def _accelerator(asked: str) -> str:
    """The accelerator by name; one that is not there is an error, never quietly the CPU."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return next(kind for kind, usable in there.items() if usable)
    if not there[asked]:
        others = " or ".join(kind for kind, usable in there.items() if usable)
        raise DataError(f"--accelerator {asked}: no usable device of that kind here, found {others}; see rgbt doctor")
    return asked


def _require_own_program(processes: Processes) -> None:
    """Fabric starts its processes by running the program again: that program must be rgbt."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    ours = spec.name == "pipelines.cli" if spec is not None else Path(sys.argv[0]).stem.startswith("rgbt")
    if processes.launcher is None and not ours:
        raise DataError(
            f"--devices {processes.devices}: several processes are started by running rgbt again; call the command "
            "rgbt, or start your own program by torchrun"
        )


@contextlib.contextmanager
def watched(fabric: Fabric) -> Iterator[None]:
    """While it is open: when a process that this one started has failed, this one has a minute to end by itself.

    Lightning's own observer looks every few seconds and kills this process at once, before it can say what happened.
    """
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined] # nothing to observe: it ends at its next look
    over = threading.Event()
    threading.Thread(target=_watch, args=(_started(fabric), over), daemon=True, name="process-watch").start()
    try:
        yield
    finally:
        over.set()


def _watch(processes: "list[subprocess.Popen[bytes]]", over: threading.Event) -> None:
    codes: list[int | None] = [None]
    while None in codes and not any(codes):
        if over.wait(1.0):
            return
        codes = [process.poll() for process in processes]
    if any(codes) and not over.wait(_GRACE_S):  # a collective that waits for a lost partner may never return
        for process in processes:
            _kill(process)
        os.kill(os.getpid(), signal.SIGKILL)


def end_processes(fabric: Fabric, failed: bool) -> None:
    """Wait for the processes that this one started; after a failure they are killed, for they may wait for ever."""
    for process in _started(fabric):
        if failed and process.poll() is None:
            _kill(process)
        process.wait()


def failed_process(fabric: Fabric) -> bool:
    """Whether a process that this one started ended by itself as failed; one that is about to end is waited for."""
    codes = []
    for process in _started(fabric):
        with contextlib.suppress(subprocess.TimeoutExpired):
            codes.append(process.wait(_PATIENCE_S))
    return any(code > 0 for code in codes)


def _started(fabric: Fabric) -> "list[subprocess.Popen[bytes]]":
    started: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    return started


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process after its workers: each would have much to say about the other's death."""
    process.send_signal(signal.SIGSTOP)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")  # Linux; elsewhere the workers find out
    for worker in children.read_text().split() if children.exists() else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(worker), signal.SIGKILL)
    process.kill()


def lost_partner(error: RuntimeError) -> bool:
    """Whether an error only tells that another process of the run has gone."""
    distributed = (torch.distributed.DistError,) if torch.distributed.is_available() else ()
    return isinstance(error, distributed) or any(
        word in str(error).lower() for word in ("gloo", "connection closed by peer", "connection reset by peer")
    )

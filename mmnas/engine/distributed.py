"""Processes and devices: one process per device, or the group that torchrun has started.

One device needs no process group. Objects and flags travel over a gloo group on the CPU, so that nothing
waits for a GPU.
"""

import contextlib
import logging
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmnas.engine.stopping import SIGNALS, LostProcess, StopSignal
from mmnas.errors import ConfigError, MMNasError, one_line

Main = Callable[..., int]
FILES = 64  # open files that a process takes at most, without those of its workers
GRACE = 3.0  # seconds that processes have to end by themselves once one of them has


@dataclass(frozen=True)
class Group:
    """This process among those of the run; `control` is None for a single process."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    control: dist.ProcessGroup | None = None

    def gather(self, rows: list[Any]) -> list[Any]:
        """Return the rows of all processes, those of rank 0 first."""
        if self.control is None:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows, group=self.control)
        return [row for part in parts for row in part]

    def any(self, flag: bool) -> bool:
        """Return whether any process gives a true flag; all of them must ask."""
        if self.control is None:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, self.control)
        return bool(flags)

    def from_first(self, value: Any) -> Any:
        """Return the value that rank 0 gives."""
        return self.gather([value])[0]

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors on the device by their means over the processes, all in one exchange."""
        if self.control is None:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def parse_devices(text: str | None) -> list[torch.device]:
    """Read `--GPU`: ids such as "0, 1", or "cpu"; None takes the first GPU, else the CPU.

    "cpu, cpu" starts two processes on the CPU. Raises `ConfigError` for an id that does not exist.
    """
    count = torch.cuda.device_count()
    if text is None:
        return [torch.device("cuda", 0) if count else torch.device("cpu")]
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not names or ("cpu" in names and set(names) != {"cpu"}):
        raise ConfigError(f"--GPU='{text}' is neither GPU ids such as '0, 1' nor 'cpu'")
    for position, name in enumerate(names):
        if name != "cpu" and (not name.isdecimal() or int(name) >= count or name in names[:position]):
            there = f"this machine has {', '.join(map(str, range(count)))}" if count else "this machine has none"
            raise ConfigError(f"--GPU='{text}': no GPU '{name}' to use; {there}; --GPU=cpu runs without")
    return [torch.device("cpu") if name == "cpu" else torch.device("cuda", int(name)) for name in names]


def launch(main: Main, devices: str | None, *arguments: Any) -> int:
    """Call `main(group, *arguments)` in every process of the run and return its exit code.

    Under torchrun, or srun with the variables that torchrun sets, this process joins the given group; otherwise one
    process per device is started when there is more than one.
    """
    if "RANK" in os.environ:
        local, rank, size = _given_place()
        everywhere = ",".join(map(str, range(torch.cuda.device_count()))) or "cpu"
        own = parse_devices(devices or everywhere)
        if own[0].type == "cuda" and len(own) > 1 and local >= len(own):
            raise ConfigError(f"torchrun started more processes than GPUs; use --nproc_per_node={len(own)}")
        try:  # a launcher may show each process its own GPU alone
            return _join(rank, size, own[local % len(own)], main, *arguments)
        except MMNasError:
            time.sleep(rank and 1.0)  # rank 0 has mostly met the same error, and torchrun ends the others
            raise
    own = parse_devices(devices)
    if len(own) == 1:
        _use(own[0])
        return main(Group(device=own[0]), *arguments)
    return _spawn(own, main, *arguments)


def _given_place() -> tuple[int, int, int]:
    """Return local rank, rank and number of processes. Raises `ConfigError` unless the environment has all."""
    values = {"LOCAL_RANK": "0", **os.environ}
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        value = values.get(name, "")
        if not value or (name != "MASTER_ADDR" and not re.fullmatch(r"[0-9]{1,9}", value)):
            raise ConfigError(
                f"RANK is set, as by torchrun, but {name} is {repr(value[:20]) if value else 'not'}: "
                "start with torchrun, or unset RANK"
            )
    local, rank, size = (int(values[name]) for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"))
    if rank >= size:
        raise ConfigError(f"RANK={rank} must be less than WORLD_SIZE={size}: start with torchrun, or unset RANK")
    return local, rank, size


def _spawn(devices: list[torch.device], *work: Any) -> int:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    try:
        errors = mp.get_context("spawn").SimpleQueue()
    except OSError as exception:
        raise _not_started(exception.strerror) from None
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # also in the children, until they can handle them
    context = mp.spawn(_child, (devices, address, errors, *work), nprocs=len(devices), join=False)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it tells of each child it ends
    with _PassedSignal(context.pids()) as passed:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            while not context.join(grace_period=GRACE):
                pass
        except mp.ProcessExitedException as exception:
            if exception.exit_code < 0 and not passed.number:  # the others' errors only follow from it
                raise MMNasError(
                    f"process {exception.error_index} of the run died ({exception.signal_name}), the others are "
                    "stopped; checkpoints are intact, resume with --RESUME"
                ) from None
            if not errors.empty():
                raise MMNasError(errors.get()) from None
            return 128 + passed.number if passed.number else exception.exit_code
    return 0


class _PassedSignal(StopSignal):
    """Passes `SIGNALS` on to the children, which save and stop; this process waits."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__()
        self.pids = pids

    def _receive(self, number: int, _: object) -> None:
        self.number = number
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def lacking_files(needed: int) -> str:
    """Say that the system lets this process open fewer files; nothing where it does not."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{needed} open files are needed, {limit} allowed" if 0 <= limit < needed else ""  # negative: no limit


def _not_started(reason: object) -> MMNasError:
    return MMNasError(
        f"processes cannot be started ({reason}): they need open files (ulimit -n) and a writable /dev/shm; raise "
        "the limit, or use one device"
    )


def _child(rank: int, devices: list[torch.device], address: dict[str, str], errors: Any, *work: Any) -> None:
    """Do the work, a function and its arguments; a user's error goes to the parent, which says the first."""
    os.environ.update({**address, **os.environ})  # what the user has set holds
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(devices)))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        code = _join(rank, len(devices), devices[rank], *work)
    except (MMNasError, OSError, MemoryError, RuntimeError) as exception:
        if isinstance(exception, LostProcess):
            time.sleep(1.0)  # the parent is to find the process that was lost first, and ends this one
        errors.put(one_line(exception))
        code = 2
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    if code:
        sys.exit(code)


def _join(rank: int, size: int, device: torch.device, main: Main, *arguments: Any) -> int:
    if lacking := lacking_files(FILES):
        raise _not_started(lacking)
    _use(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=rank, world_size=size, init_method="env://")
    except (RuntimeError, OSError) as exception:  # torch raises several kinds
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConfigError(
            f"process {rank} cannot meet the others at {address} ({str(exception).splitlines()[0][:200]}): "
            "choose a free port by MASTER_PORT"
        ) from None
    try:
        group = Group(rank, size, device, dist.new_group(backend="gloo"))
        _require_own_gpu(group)
        code = main(group, *arguments)
    finally:
        dist.destroy_process_group()
    if code and rank:  # the first process says why it stops, before whoever started them ends the others
        time.sleep(1.0)
    return code


def _require_own_gpu(group: Group) -> None:
    """Raise `ConfigError` if two processes have the same GPU, whatever each of them calls it."""
    if group.device.type == "cuda":
        uuid = str(getattr(torch.cuda.get_device_properties(group.device), "uuid", group.rank))
        if len(set(group.gather([uuid]))) < group.size:
            raise ConfigError("several processes have the same GPU: start as many on each machine as it has GPUs")


def _use(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

"""Process groups over gloo: what several processes compute is what one computes."""

import signal
import socket
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmnas.engine import distributed
from mmnas.engine.checkpoint import load_checkpoint
from mmnas.engine.distributed import Group, launch, parse_devices
from mmnas.errors import ConfigError
from tests.stand_in import fixture, fixture_batch, fixture_network

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def base(trained) -> str:
    return f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"


@pytest.mark.parametrize("launcher", ["--GPU=cpu, cpu", "torchrun"])
def test_two_processes_score_exactly_as_one(trained, place, run, launcher):
    flags = ["--RUN=val", base(trained), "--BS=50"]  # four batches, the last one short
    assert run(place, *flags, "--VERSION=one").code == 0
    own = {"launcher": TORCHRUN} if launcher == "torchrun" else {}
    process = place.script(*flags, "--VERSION=two", *([] if own else [launcher]), **own)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert place.result("val", "two") == place.result("val", "one")
    assert place.result("val", "two", "metrics.json") == place.result("val", "one", "metrics.json")


def _save_gradients(group: Group, folder: str) -> int:
    """Backward the fixture's loss over this process's share of its batch, data parallel."""
    data = fixture("vqa")
    network = DistributedDataParallel(fixture_network(data)) if group.size > 1 else fixture_network(data)
    batch = fixture_batch(data)
    rows = slice(group.rank, None, group.size)
    logits = network({name: value[rows] for name, value in batch.items()})
    targets = torch.tensor(data["targets"]["answer_scores"])[rows]
    nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum").backward()
    gradients = {name.removeprefix("module."): value.grad for name, value in network.named_parameters()}
    torch.save(gradients, f"{folder}/{group.size}_{group.rank}.pt")
    return 0


def test_averaged_gradients_equal_the_mean_over_the_halves(tmp_path):
    assert launch(_save_gradients, "cpu, cpu", str(tmp_path)) == 0
    halves = []
    for rank in range(2):
        data, half = fixture("vqa"), slice(rank, None, 2)
        network = fixture_network(data)
        logits = network({name: value[half] for name, value in fixture_batch(data).items()})
        targets = torch.tensor(data["targets"]["answer_scores"])[half]
        nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum").backward()
        halves.append({name: value.grad for name, value in network.named_parameters()})
    for rank in range(2):
        averaged = torch.load(tmp_path / f"2_{rank}.pt", weights_only=True)
        for name, gradient in averaged.items():
            mean = (halves[0][name] + halves[1][name]) / 2
            torch.testing.assert_close(gradient, mean, rtol=1e-4, atol=1e-5 * float(mean.abs().max() + 1))


def test_two_processes_train_and_write_once(place):
    process = place.script(*place.train_flags("pair", "--MAX_EPOCH=1"), launcher=TORCHRUN)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    checkpoint = load_checkpoint(place.checkpoint("pair", "epoch1.pkl"))
    assert (checkpoint.processes, checkpoint.steps_per_epoch) == (2, 5)  # 576 samples, 2 x 64 per step
    assert output.count("epoch 1: loss") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_stops_all_processes_with_a_checkpoint(place, number):
    process = place.script(*place.train_flags("pair", "--MAX_EPOCH=50", "--BS=8"), "--GPU=cpu,cpu")
    log = place.folder / "logs/log/log_run_pair.txt"
    end = time.monotonic() + 240
    while not (log.exists() and "epoch 1: loss" in log.read_text()):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, output
    assert "--RESUME" in output


def test_an_error_in_a_child_is_one_line_and_exit_code_2(place):
    (place.folder / "small.yml").write_text(
        "training: {batch_size: 100000, epochs: 1}\ndata: {answer_min_count: 9999}"
    )
    process = place.script(*place.train_flags("pair"), "--GPU=cpu,cpu")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert output.count("error: no answer occurs more than 9999 times") == 1
    assert "Traceback" not in output


def test_device_names():
    assert [device.type for device in parse_devices("cpu, cpu")] == ["cpu", "cpu"]
    assert parse_devices("CPU") == [torch.device("cpu")]
    for wrong in ("cpu, 0", "", "x", "-1"):
        with pytest.raises(ConfigError, match="--GPU"):
            parse_devices(wrong)
    with pytest.raises(ConfigError, match="--GPU=cpu runs without"):
        parse_devices(str(torch.cuda.device_count()))


# What launchers set

GIVEN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def launched(monkeypatch):
    """Set what a launcher sets, with changes; None removes a variable."""

    def call(**changes):
        for name, value in {**GIVEN, **changes}.items():
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    return call


@pytest.mark.parametrize("name", ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
@pytest.mark.parametrize("value", [None, "", "x"])
def test_a_launcher_s_variables_are_all_there_and_whole(launched, name, value):
    if (name, value) == ("MASTER_ADDR", "x"):
        return  # may be a host
    launched(**{name: value})
    with pytest.raises(ConfigError, match=f"RANK is set, as by torchrun, but {name} is .*unset RANK"):
        launch(lambda group: 0, "cpu")


def test_a_rank_beyond_the_processes_is_refused(launched):
    launched(RANK="2", WORLD_SIZE="2")
    with pytest.raises(ConfigError, match="RANK=2 must be less than WORLD_SIZE=2"):
        launch(lambda group: 0, "cpu")


def test_a_port_in_use_is_one_line(launched):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        launched(MASTER_PORT=port)
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} .*choose a free port by MASTER_PORT") as caught:
            launch(lambda group: 0, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("visible", "local", "device"), [(1, 3, "cuda:0"), (4, 3, "cuda:3"), (1, 0, "cuda:0"), (2, 3, None)]
)
def test_a_launcher_may_show_each_process_its_own_gpu_alone(launched, monkeypatch, visible, local, device):
    """As srun does with --gpus-per-task=1, whatever the local rank."""
    launched(RANK=str(local), LOCAL_RANK=str(local), WORLD_SIZE="4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(distributed, "_join", lambda rank, size, device, *_: (rank, size, str(device)))
    if device is None:
        with pytest.raises(ConfigError, match="--nproc_per_node=2"):
            launch(lambda group: 0, None)
    else:
        assert launch(lambda group: 0, None) == (local, 4, device)


@pytest.mark.parametrize("uuids", [["a", "b"], ["a", "a"]])
def test_two_processes_never_share_a_gpu(monkeypatch, uuids):
    class Both(Group):
        def gather(self, rows):
            assert rows == uuids[:1]
            return uuids

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuids[0]))
    group = Both(size=2, device=torch.device("cuda", 0))
    if uuids == ["a", "b"]:
        distributed._require_own_gpu(group)
    else:
        with pytest.raises(ConfigError, match="several processes have the same GPU"):
            distributed._require_own_gpu(group)

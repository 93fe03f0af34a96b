"""Networks, training and precision on a real GPU: `make gpu`. The other tests run Triton in its interpreter."""

import os
import signal
import socket
from pathlib import Path

import pytest
import torch

from tests.experiments.processes import TINY, finished, train
from tests.experiments.test_resume import assert_same, content
from tests.on_second_device import ARMS, NETWORKS, parts, small, step
from tests.on_second_device import assert_same as assert_same_numbers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.cuda.is_available() or os.environ["TRITON_INTERPRET"] != "0",
        reason="needs a GPU, and make gpu",
    ),
]
GPU = ["trainer.accelerator=gpu", "trainer.deterministic=true"]
EACH = pytest.mark.parametrize("network", NETWORKS)


@EACH
@pytest.mark.parametrize("arm", ARMS)
def test_all_numbers_are_those_of_the_cpu(network, arm):
    """Training step, optimizer, validation with all metrics, H for users, start density, edges in chunks."""
    model, graph = small(network, arm)
    expected = {name: part(model, graph) for name, part in parts(model).items()}
    expected = {name: {key: x.clone() for key, x in values.items()} for name, values in expected.items()}
    model, graph = model.to("cuda"), graph.to("cuda")
    for name, part in parts(model).items():
        assert_same_numbers(name, part(model, graph), expected[name])


@EACH
def test_sums_are_the_same_in_every_run(network):
    """A resumed training ends with the same weights only if gradients do not depend on the order of threads."""
    model, graph = small(network, "tracegrad")
    model, graph = model.float().to("cuda"), graph.to("cuda").apply(_single)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        first = {name: x.clone() for name, x in step(model, graph).items()}
        for name, x in step(model, graph).items():
            assert torch.equal(x, first[name]), name
    finally:
        torch.use_deterministic_algorithms(False)


@EACH
@pytest.mark.parametrize(("precision", "bound"), [("tf32", 5e-3), ("bf16", 0.1)])
def test_errors_of_lower_precision_are_bounded(network, precision, bound):
    """Errors of H relative to its largest element; random weights, which amplify more than trained ones."""
    model, graph = small(network, "tracegrad")
    model, graph = model.float().to("cuda"), graph.to("cuda").apply(_single)
    with torch.inference_mode():
        expected = model(graph).blocks["edge"]
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
        try:
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                found = model(graph).blocks["edge"]
        finally:
            torch.set_float32_matmul_precision(before)
    assert found.dtype == expected.dtype
    assert float((found - expected).abs().max() / expected.abs().max()) < bound


def test_a_killed_training_ends_bitwise_the_same(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finished(straight, *GPU)
    (done,) = train(killed, *GPU, stop_after=7)
    assert done.returncode == -signal.SIGKILL
    assert "resuming from" in finished(killed, *GPU)
    assert_same(content(straight), content(killed))


def test_one_process_of_a_distributed_training_computes_the_same(tmp_path):
    """Gradients pass through NCCL."""
    finished(tmp_path / "alone", *GPU)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "test",
        "GROUP_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
    }
    settings = [*TINY, "trainer=ddp", "trainer.devices=1"]
    finished(tmp_path / "nccl", *GPU, settings=settings, environment=environment)
    alone, other = (content(Path(tmp_path / name))["state_dict"] for name in ("alone", "nccl"))
    for name, x in alone.items():
        torch.testing.assert_close(other[name], x, rtol=1e-5, atol=1e-7, msg=name)


def _single(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.complex64) if x.is_complex() else x.float() if x.is_floating_point() else x

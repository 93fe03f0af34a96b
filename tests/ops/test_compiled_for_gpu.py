"""Triton's compiler accepts the kernels that the other tests run in its interpreter."""

import json
import os
import subprocess
import sys

import pytest

from tracegrad.ops.gpu import triton


@pytest.mark.slow
def test_the_kernels_of_training_steps_compile():
    if triton() is None:
        pytest.skip("no Triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.compiled_for_gpu", "float32", "float64"],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [kernel for kernel in kernels if "error" in kernel]
    assert {"couple_out", "spread", "products", "graph_norm_gradients", "rotate", "pulled_silu_gradient"} <= {
        kernel["kernel"] for kernel in kernels
    }

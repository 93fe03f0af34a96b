import os

import pytest

from tests import forked


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["1", "0"])
def test_tables_of_a_prediction_work_in_training(kernels: str) -> None:
    """A tensor of inference mode cannot be saved for a backward pass, so that no cache may keep one."""
    done = forked.run(
        "tests.numerics.inference_tables", environment={**os.environ, "TRACEGRAD_NATIVE": kernels}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""

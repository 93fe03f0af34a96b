import torch

from tracegrad.numerics.constants import Constant


def test_a_table_made_in_inference_mode_works_in_training():
    """Tables are made once, on first use, which may be a prediction."""
    with torch.inference_mode():
        table = Constant(torch.arange(3))
        table(torch.zeros(1))
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(3, dtype=dtype, requires_grad=True)
        (table(x) * x).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [0, 1, 2]


def test_a_table_is_exact_in_every_precision():
    exact = torch.tensor([1 / 3], dtype=torch.float64)
    table = Constant(exact)
    assert table(torch.zeros(1)) == exact.float()
    assert table(torch.zeros(1, dtype=torch.float64)) == exact

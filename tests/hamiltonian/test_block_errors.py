"""Sums of errors: the kernel and the plain form against loops over the elements of each block."""

import pytest
import torch
from torch import Tensor

from tracegrad.hamiltonian.block_errors import block_errors
from tracegrad.ops import native

ATOMS, DIM = 4, 21
KERNEL = pytest.mark.parametrize("kernel", ["1", "0"])
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.complex128, torch.float32, torch.complex64], ids=str
)
NAMES = ["mae", "mse"]


def make(dtype: torch.dtype, items: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    blocks, labels = torch.randn(2, items, DIM, DIM, dtype=dtype, generator=generator)
    labels[:, 0] = blocks[:, 0]  # where |d| has no derivative
    present = (torch.rand(ATOMS, DIM, generator=generator) < 0.7).to(blocks.real.dtype)
    return blocks.requires_grad_(), labels, present, torch.randint(ATOMS, (2, items), generator=generator)


def literal(name: str, blocks: Tensor, labels: Tensor, present: Tensor, ends: Tensor) -> list[float]:
    sums = []
    for block, label, row, column in zip(blocks.detach(), labels, *ends.tolist(), strict=True):
        total = 0.0
        for i in present[row].nonzero().flatten().tolist():
            for j in present[column].nonzero().flatten().tolist():
                modulus = abs(complex(block[i, j]) - complex(label[i, j]))
                total += modulus**2 if name == "mse" else modulus
        sums.append(total)
    return sums


@KERNEL
@DTYPES
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_a_loop(dtype, kernel, threads, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernel)
    monkeypatch.setattr(native, "SMALLEST_SHARE", 1)
    torch.set_num_threads(threads)
    given = make(dtype)
    for name, found in zip(NAMES, block_errors(*given, NAMES), strict=True):
        expected = torch.tensor(literal(name, *given), dtype=found.dtype)
        torch.testing.assert_close(
            found.detach(), expected, rtol=1e-13 if found.dtype.itemsize == 8 else 1e-5, atol=0
        )


@DTYPES
@pytest.mark.parametrize("names", [["mse"], ["mae"], NAMES], ids=str)
def test_gradients_are_those_of_the_plain_form(dtype, names, monkeypatch):
    blocks, *rest = make(dtype)
    before = native.used()

    def gradient() -> Tensor:
        sums = torch.stack(block_errors(blocks, *rest, names))
        return torch.autograd.grad((sums * torch.arange(1, sums.numel() + 1).view_as(sums)).sum(), blocks)[0]

    found = gradient()
    assert native.used() == before + 2
    monkeypatch.setenv(native.SWITCH, "0")
    expected = gradient()
    assert native.used() == before + 2
    atol = 1e-12 if found.real.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    assert not found[:, 0].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_second_derivatives(dtype):
    blocks, labels, present, ends = make(dtype, items=2)
    blocks = blocks.detach()[:, 1:5, 1:5].contiguous().requires_grad_()
    rest = (labels[:, 1:5, 1:5], torch.ones_like(present[:, 1:5]), ends, NAMES)
    assert torch.autograd.gradcheck(lambda x: tuple(block_errors(x, *rest)), blocks)
    assert torch.autograd.gradgradcheck(lambda x: tuple(block_errors(x, *rest)), blocks)


def test_labels_may_have_a_gradient():
    blocks, labels, *rest = make(torch.float64)
    labels.requires_grad_()
    total = sum(sums.sum() for sums in block_errors(blocks, labels, *rest, ["mse"]))
    of_blocks, of_labels = torch.autograd.grad(total, [blocks, labels])
    assert of_labels.any()
    torch.testing.assert_close(of_labels, -of_blocks, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("unchecked")
def test_blocks_of_wrong_shapes_are_refused():
    blocks, labels, present, ends = make(torch.float64)
    with pytest.raises(ValueError, match="labels: a tensor of shape"):
        block_errors(blocks, labels[:-1], present, ends, NAMES)
    with pytest.raises(ValueError, match="orbitals: a tensor of shape"):
        block_errors(blocks, labels, present[:, 1:], ends, NAMES)
    with pytest.raises(IndexError, match=r"ends: an entry is .* within 0 \.\. 3"):
        block_errors(blocks, labels, present, ends + 4, NAMES)


def test_no_blocks():
    found = block_errors(*make(torch.complex128, items=0), NAMES)
    assert [x.tolist() for x in found] == [[], []]


def test_complex_and_real_numbers_together():
    real, complex_ = make(torch.float32), make(torch.complex64)
    for blocks, labels in ((real[0], complex_[1]), (complex_[0], real[1])):
        for name, found in zip(NAMES, block_errors(blocks, labels, *real[2:], NAMES), strict=True):
            expected = torch.tensor(literal(name, blocks, labels, *real[2:]))
            torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=0)


@KERNEL
def test_views_that_conjugate_or_negate(kernel, monkeypatch):
    monkeypatch.setenv(native.SWITCH, kernel)
    blocks, labels, *rest = make(torch.complex128)
    for view in (blocks.conj(), torch._neg_view(blocks)):
        expected = block_errors(view.resolve_conj().resolve_neg(), labels, *rest, NAMES)
        for found, one in zip(block_errors(view, labels, *rest, NAMES), expected, strict=True):
            torch.testing.assert_close(found, one)


@KERNEL
def test_differences_whose_squares_overflow(kernel, monkeypatch):
    """The derivative of |d| is its sign at any size, so that a diverging run still has gradients."""
    monkeypatch.setenv(native.SWITCH, kernel)
    blocks = torch.tensor([[[1e30, -1e30], [1e-30, torch.nan]]], requires_grad=True)
    ends = torch.zeros(2, 1, dtype=torch.long)
    (found,) = block_errors(blocks, torch.zeros(1, 2, 2), torch.ones(1, 2), ends, ["mae"])
    assert found.isnan().all()
    (of_blocks,) = torch.autograd.grad(found.sum(), blocks)
    assert of_blocks.flatten()[:3].tolist() == [1, -1, 1]

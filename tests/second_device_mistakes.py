"""What the second device refuses and counts: `python -m tests.second_device_mistakes`."""

import pytest
import torch

from tests import second_device

if __name__ == "__main__":
    second_device.start()
    here = torch.randn(3, 3)
    there = here.to(second_device.DEVICE).requires_grad_()
    for mistake in (
        lambda: there + here,
        lambda: there @ here,
        lambda: there.index_add(0, torch.tensor([0, 1, 2]), there),
        lambda: torch.cat([there, here]),
        lambda: there.numpy(),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            mistake()
    with second_device.counting() as counts:
        y = (there @ there.T).exp().sum() * torch.tensor(0.5)
        y.backward()
    assert counts.launches == counts.operations.total()
    assert dict(counts.operations) == {"mm": 3, "exp": 1, "sum": 1, "mul": 3, "ones_like": 1, "add": 1}
    assert not counts.waits
    assert not counts.transfers
    assert counts.bytes > 0
    assert there.grad is not None
    x = here.clone().requires_grad_()
    ((x @ x.T).exp().sum() * 0.5).backward()
    assert torch.equal(there.grad.cpu(), x.grad)
    with second_device.counting() as counts:
        there.detach()[[0, 2]].tolist()
        there.sum().item()
        there.detach()[there.detach() > 0]
        torch.as_tensor(0.5, device=second_device.DEVICE)
    assert counts.waits.total() == 3
    assert counts.transfers.total() == 2

import torch

from tracegrad.nn.item_first.edge_softmax import edge_softmax

NODE = torch.tensor([0, 2, 0, 2, 2, 1, 0, 4])
TAKING_PART = torch.tensor([True, True, True, False, True, True, True, False])


def test_against_the_softmax_of_each_node():
    logits = 30 * torch.randn(8, 3, dtype=torch.float64)
    weights = edge_softmax(logits, NODE, 5, TAKING_PART)
    expected = torch.zeros_like(logits)
    for node in range(5):
        of_node = TAKING_PART & (node == NODE)
        expected[of_node] = torch.softmax(logits[of_node], dim=0)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-14)
    assert torch.equal(weights[5], torch.ones(3, dtype=torch.float64))  # the only one of its node


def test_gradients_are_those_of_softmax_and_finite_without_edges():
    logits = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: edge_softmax(x, NODE, 5, TAKING_PART), logits)


def test_large_logits_do_not_overflow():
    weights = edge_softmax(torch.full((8, 1), 1e4), NODE, 5, TAKING_PART)
    torch.testing.assert_close(weights[0, 0], torch.tensor(1 / 3))

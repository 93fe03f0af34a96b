"""Batches of loader processes travel in one piece.

Between processes torch passes each tensor by a shared file of its own, which the receiver asks for over a socket:
a millisecond for each of the twenty tensors of a batch. Here all tensors lie in one, and come out as views of it.
"""

import io
import pickle
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import get_worker_info
from torch_geometric.data import Batch

from tracegrad.hamiltonian.graph import HamiltonianGraph, collate

ALIGNED = 64  # bytes
Place = tuple[int, torch.dtype, torch.Size]  # first byte, dtype and shape of a tensor


def collate_for_transport(graphs: list[HamiltonianGraph]) -> "Batch | Parcel":
    """The batch of these graphs; in a loader process a `Parcel` that arrives as the batch."""
    batch = collate(graphs)
    return batch if get_worker_info() is None else Parcel(batch)


class Parcel:
    """Anything with tensors; what arrives in another process is the thing itself."""

    def __init__(self, content: Any):
        self.content = content

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        file = io.BytesIO()
        packer = _Packer(file)
        packer.dump(self.content)
        buffer = torch.empty(packer.size, dtype=torch.uint8)
        for (start, _, _), tensor in zip(packer.places, packer.tensors, strict=True):
            numbers = tensor.detach().contiguous().view(-1).view(torch.uint8)
            buffer[start : start + len(numbers)] = numbers
        return _unpacked, (file.getvalue(), packer.places, buffer)


class _Packer(pickle.Pickler):
    """Leaves out tensors and says where they shall lie."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.places: list[Place] = []
        self.tensors: list[Tensor] = []
        self.size = 0

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) is not Tensor:
            return None
        self.places.append((self.size, obj.dtype, obj.shape))
        self.tensors.append(obj)
        self.size += -(-obj.numel() * obj.element_size() // ALIGNED) * ALIGNED
        return len(self.tensors) - 1


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, places: list[Place], buffer: UInt8[Tensor, " bytes"]):
        super().__init__(file)
        self.places, self.buffer = places, buffer

    def persistent_load(self, number: int) -> Tensor:
        start, dtype, shape = self.places[number]
        numbers = self.buffer[start : start + shape.numel() * dtype.itemsize]
        return numbers.view(dtype).view(shape)


def _unpacked(content: bytes, places: list[Place], buffer: UInt8[Tensor, " bytes"]) -> Any:
    """Comes from a process of our own, as all that loaders send."""
    return _Unpacker(io.BytesIO(content), places, buffer).load()

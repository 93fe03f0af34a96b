"""Parcels: fast transport of batches from the worker processes of a DataLoader to the training process.

Between processes torch puts each tensor into a separate block of shared memory, whose descriptor is passed over a
socket: about a millisecond for each of the twenty tensors of a batch. A parcel is a batch whose tensors are copied
into one byte buffer, which is sent as one tensor; the receiver gets the batch back with tensors that are views of
this buffer.

    batch  {numbers, positions, edge_index, ...}      pickled without tensors + [start, dtype, shape] of each tensor
    buffer |numbers....|positions....|edge_index....  one uint8 tensor; each tensor starts at a multiple of 64 bytes
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

ALIGNMENT = 64  # bytes
TensorPlace = tuple[int, torch.dtype, torch.Size]  # first byte in the buffer, dtype and shape of a tensor


def collate_for_transport(graphs: list[HamiltonianGraph]) -> "Batch | Parcel":
    """The batch of these graphs; in a worker process of a DataLoader a `Parcel` that arrives as the batch."""
    batch = collate(graphs)
    return batch if get_worker_info() is None else Parcel(batch)


class Parcel:
    """Wrapper of an object with tensors; when it is sent to another process, the object itself arrives there."""

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
        return _unpack, (file.getvalue(), packer.places, buffer)


class _Packer(pickle.Pickler):
    """Pickles an object without its tensors and assigns each of them a place in the buffer."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.places: list[TensorPlace] = []
        self.tensors: list[Tensor] = []
        self.size = 0

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) is not Tensor:
            return None
        self.places.append((self.size, obj.dtype, obj.shape))
        self.tensors.append(obj)
        self.size += -(-obj.numel() * obj.element_size() // ALIGNMENT) * ALIGNMENT
        return len(self.tensors) - 1


class _Unpacker(pickle.Unpickler):
    """Inserts views of the buffer as tensors."""

    def __init__(self, file: io.BytesIO, places: list[TensorPlace], buffer: UInt8[Tensor, " bytes"]):
        super().__init__(file)
        self.places, self.buffer = places, buffer

    def persistent_load(self, number: int) -> Tensor:
        start, dtype, shape = self.places[number]
        numbers = self.buffer[start : start + shape.numel() * dtype.itemsize]
        return numbers.view(dtype).view(shape)


def _unpack(content: bytes, places: list[TensorPlace], buffer: UInt8[Tensor, " bytes"]) -> Any:
    """The object of a parcel. Unpickling is safe: parcels come only from worker processes of this program."""
    return _Unpacker(io.BytesIO(content), places, buffer).load()

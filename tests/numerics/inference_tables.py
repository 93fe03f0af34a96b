"""Prints the tensors that stay after predictions in inference mode: `python -m tests.numerics.inference_tables`."""

import gc
import warnings

import torch

from tests.on_second_device import NETWORKS, small


def predict(network: str) -> None:
    """One prediction; nothing but tables that are kept outlives it."""
    model, batch = small(network, "tracegrad")
    with torch.inference_mode():
        model(batch)


if __name__ == "__main__":
    for name in NETWORKS:
        predict(name)
    gc.collect()
    with warnings.catch_warnings(action="ignore"):  # of modules that warn when they are looked at
        for kept in gc.get_objects():
            if isinstance(kept, torch.Tensor) and kept.is_inference():
                print(tuple(kept.shape), kept.dtype)

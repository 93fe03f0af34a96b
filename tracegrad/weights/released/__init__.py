"""Released weights of the authors' QHNet and DeepH-E3, converted to the networks of this package."""

from tracegrad.weights.released.deeph_e3 import export_deeph_e3, load_released_deeph_e3
from tracegrad.weights.released.deeph_e3_folder import load_deeph_e3_folder
from tracegrad.weights.released.loading import ReleasedNetwork, load_released
from tracegrad.weights.released.qhnet import load_released_qhnet

__all__ = [
    "ReleasedNetwork",
    "export_deeph_e3",
    "load_deeph_e3_folder",
    "load_released",
    "load_released_deeph_e3",
    "load_released_qhnet",
]

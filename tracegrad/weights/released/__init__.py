"""Released weights of other codes, loaded into the models of this one."""

from tracegrad.weights.released.deeph_e3 import export_deeph_e3, load_released_deeph_e3
from tracegrad.weights.released.deeph_e3_folder import load_deeph_e3_folder
from tracegrad.weights.released.loading import Released, load_released
from tracegrad.weights.released.qhnet import load_released_qhnet

__all__ = [
    "Released",
    "export_deeph_e3",
    "load_deeph_e3_folder",
    "load_released",
    "load_released_deeph_e3",
    "load_released_qhnet",
]

"""Released weights of other codes, loaded into the models of this one."""

from tracegrad.interop.deeph_e3 import export_deeph_e3, load_released_deeph_e3
from tracegrad.interop.deeph_e3_folder import load_deeph_e3_folder
from tracegrad.interop.qhnet import load_released_qhnet
from tracegrad.interop.released import Released, load_released

__all__ = [
    "Released",
    "export_deeph_e3",
    "load_deeph_e3_folder",
    "load_released",
    "load_released_deeph_e3",
    "load_released_qhnet",
]

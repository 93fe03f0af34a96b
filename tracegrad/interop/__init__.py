"""Released weights of other codes, loaded into the models of this one."""

from tracegrad.interop.deeph_e3 import export_deeph_e3, load_released_deeph_e3
from tracegrad.interop.qhnet import load_released_qhnet

__all__ = ["export_deeph_e3", "load_released_deeph_e3", "load_released_qhnet"]

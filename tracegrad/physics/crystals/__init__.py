"""DFT of crystals with OpenMX: structures of layers and twisted bilayers, calculations, databases."""

from tracegrad.extras import require

require("ase")  # its structures are those of ASE

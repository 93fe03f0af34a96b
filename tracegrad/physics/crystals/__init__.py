"""DFT of crystals with OpenMX: structures of layers and twisted bilayers, calculations, databases."""

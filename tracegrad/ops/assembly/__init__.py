"""The operator that assembles dense matrices from blocks: definition, C++ form and Triton form."""

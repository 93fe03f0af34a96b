"""The operator of errors of blocks: definition, C++ form and Triton form."""

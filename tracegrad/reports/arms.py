"""The arms of the ablation (Appendix H), in the order of the tables."""

# Each with what it switches on: (trace, grad).
ARMS = {"none": (False, False), "trace": (True, False), "grad": (False, True), "tracegrad": (True, True)}
# The plain backbone, which relative changes and differences are taken against.
BASELINE = "none"

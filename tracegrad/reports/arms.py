"""The arms of the ablation (Appendix H), in the order of the tables."""

# arm -> (trace supervision, gradient branch)
ARMS = {"none": (False, False), "trace": (True, False), "grad": (False, True), "tracegrad": (True, True)}
# The plain backbone, the reference of relative changes and differences.
BASELINE = "none"

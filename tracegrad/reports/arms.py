"""The arms of the ablation (Appendix H), in the order of the tables."""

# arm -> (trace supervision, gradient branch)
ARMS = {"none": (False, False), "trace": (True, False), "grad": (False, True), "tracegrad": (True, True)}
# What an arm adds to the name of the backbone.
ARM_LABELS = {"none": "", "trace": "+Trace", "grad": "+Grad", "tracegrad": "+TraceGrad"}
# The plain backbone, the reference of relative changes and differences.
BASELINE = "none"


def arm_name(arm: str) -> str:
    """Name of an arm where the backbone is not named: "baseline" or what it adds."""
    return ARM_LABELS[arm] or "baseline"

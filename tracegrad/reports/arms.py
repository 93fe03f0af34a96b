"""The arms of the ablation (Appendix H) and the lean block, in the order of the tables."""

# arm -> (trace supervision, gradient branch)
ARMS = {"none": (False, False), "trace": (True, False), "grad": (False, True), "tracegrad": (True, True)}
# +TraceGrad with the lean block, which is no arm of the paper.
LEAN = "lean"
# What an arm adds to the name of the backbone.
ARM_LABELS = {
    "none": "",
    "trace": "+Trace",
    "grad": "+Grad",
    "tracegrad": "+TraceGrad",
    LEAN: "+TraceGrad (lean)",
}
# The plain backbone, the reference of relative changes and differences.
BASELINE = "none"


def arm_name(arm: str) -> str:
    """Name of an arm where the backbone is not named: "baseline" or what it adds."""
    return ARM_LABELS[arm] or "baseline"


def arm_of(*, trace: bool, grad: bool, lean: bool = False) -> str:
    """The arm with these switches of `tracegrad.nn.invariant.tracegrad.TraceGrad`."""
    if trace and grad and lean:
        return LEAN
    return next(arm for arm, switches in ARMS.items() if switches == (trace, grad))

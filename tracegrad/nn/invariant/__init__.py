"""What TraceGrad adds: invariants u and z of a feature, and the gradient v of z."""

"""Background work: units along the curve, leases and progress."""

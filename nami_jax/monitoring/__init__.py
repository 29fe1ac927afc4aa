"""What can be observed of a run: metrics, events, traces, floating-point operations."""

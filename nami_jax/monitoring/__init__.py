"""What is seen of a run: metrics, events, traces, floating-point operations."""

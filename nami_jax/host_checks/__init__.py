"""What `nami_jax.preflight` checks on each host before a run, and how the hosts' findings become one table."""

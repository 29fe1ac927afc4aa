"""What `nami_jax.preflight` looks at on each host before a run, and how the hosts' findings become one table."""

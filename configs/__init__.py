"""Configurations of `python -m thermo_jax.main --config=...`, installed as `thermo_jax.configs`."""

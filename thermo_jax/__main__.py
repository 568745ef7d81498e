"""`python -m thermo_jax`, which is the same as the command `thermo_jax`."""

from thermo_jax.main import main

main()

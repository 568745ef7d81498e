"""Breast thermography in JAX: a CUTS encoder learned without labels, U-Net decoders on its latents.

After "Leveraging Latents for Efficient Thermography Classification and Segmentation"
(Shor, Baskin, Bronstein 2024, arXiv 2404.06589). Importing the package imports nothing else:
take what you need from its modules, for example `from thermo_jax.models import cuts`.
"""

__version__ = "0.1.0"

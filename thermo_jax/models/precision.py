"""The compute type of a run (`config.model.dtype`): the type of arrays and of their products.

| name | arrays of the layers | products on a GPU | products on a TPU |
|---|---|---|---|
| float32 | float32 | float32 | float32 (6 passes of bfloat16) |
| tensorfloat32 | float32 | TF32, where the GPU has it | 3 passes of bfloat16 |
| bfloat16 | bfloat16 | bfloat16, sums in float32 | bfloat16, sums in float32 |

By default, JAX rounds float32 numbers before it multiplies them: to TF32 (10 bits) on NVIDIA's GPUs
since Ampere, to bfloat16 (7 bits) on TPUs. On a CPU, it never does. Parameters, statistics and
losses are float32 with every compute type.
"""

from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np

from thermo_jax.errors import UserError

NAMES = ("auto", "float32", "tensorfloat32", "bfloat16")
_AMPERE = 8  # compute capability of NVIDIA's first GPUs that multiply bfloat16
# JAX's names for the precision of products; None leaves its default.
_PRODUCTS = {"float32": "highest", "tensorfloat32": "tensorfloat32", "bfloat16": None}


def choose_dtype(name: str, *, device: jax.Device) -> str:
    """Returns the compute type that "auto" means on a device; any other name is returned as it is.

    It is bfloat16 on TPUs and GPUs, and float32 on CPUs and on NVIDIA's GPUs before Ampere, such as
    the T4, which emulate bfloat16.

    Raises:
      UserError: an unknown name.
    """
    if name not in NAMES:
        raise UserError(f"compute type {name!r} is unknown: choose one of {', '.join(NAMES)}")
    if name != "auto":
        return name
    if device.platform == "cpu":
        return "float32"
    generation = str(getattr(device, "compute_capability", "")).partition(".")[0]
    emulates = generation.isdigit() and int(generation) < _AMPERE  # AMD's value is "gfx942"
    return "float32" if emulates else "bfloat16"


def array_dtype(name: str) -> np.dtype:
    """Returns the type of the layers' arrays for a name that `choose_dtype` returned."""
    return jnp.dtype("float32" if name == "tensorfloat32" else name)


def matmul_precision(name: str, *, platform: str) -> AbstractContextManager:
    """Returns a context (or decorator) in which JAX traces products with this type's precision.

    Convolutions are products, too. Operations that specify a precision of their own keep it.

    Args:
      name: as `choose_dtype` returned it.
      platform: "gpu", "tpu" or "cpu"; for "cpu" nothing changes.
    """
    products = _PRODUCTS[name]
    if products is None or platform == "cpu":  # the user's, such as JAX_DEFAULT_MATMUL_PRECISION
        products = jax.config.jax_default_matmul_precision
    return jax.default_matmul_precision(products)

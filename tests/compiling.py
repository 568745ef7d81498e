"""XLA compiles the programs of a test quickly; the programs are slower."""

from collections.abc import Callable

import jax
from jax._src import compiler  # JAX has no public option for all programs

# XLA's older code generator, and modules that are not split for parallel compilation.
QUICK_OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
# For separate processes on one device. The options above are missing, because a JAX that does not
# know an option in XLA_FLAGS does not start.
QUICK_COMPILATION = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": ""}


def quick_compilation(*, emitters: bool = False):
    """A module's fixture: XLA compiles in a fifth of the time, and programs are slower.

    With `emitters` of fused loops, compilation takes twice as long, and sums are the usual ones.
    """
    compile_as_usual = compile_quickly(emitters=emitters)
    yield
    compile_as_usual()


def compile_quickly(*, emitters: bool = False) -> Callable[[], None]:
    """Compile quickly from now on; return a function that ends this."""
    original = compiler.get_compile_options
    quick = QUICK_OPTIONS | {"xla_cpu_use_fusion_emitters": emitters}
    try:
        jax.jit(lambda: 0, compiler_options=quick)()
    except jax.errors.JaxRuntimeError:  # this version of XLA lacks an option
        quick = {}

    def get_compile_options(*args, env_options_overrides=None, **options):
        overrides = quick | (env_options_overrides or {})
        return original(*args, env_options_overrides=overrides, **options)

    def undo() -> None:
        jax.config.update("jax_disable_most_optimizations", False)
        compiler.get_compile_options = original

    jax.config.update("jax_disable_most_optimizations", True)
    compiler.get_compile_options = get_compile_options
    return undo

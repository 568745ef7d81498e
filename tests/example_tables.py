"""Small tables of examples for tests that need no real images."""

from collections.abc import Sequence

import numpy as np

from thermo_jax.data.examples import Examples


def table(patients: Sequence[str], *, names: Sequence[str] | None = None, **columns) -> Examples:
    """Returns a table with one black heatmap per entry of `patients`, plus the given columns."""
    count = len(patients)
    return Examples(
        data_type="heat",
        names=names or [f"image{i}" for i in range(count)],
        patients=patients,
        views=np.ones(count, np.int32),
        protocols=["S"] * count,
        dates=["2012-10-08"] * count,
        mean_temperatures=np.full(count, np.nan),
        columns={"images": np.zeros((count, 4, 4, 3), np.uint8), **columns},
    )

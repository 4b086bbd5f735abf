"""Plots of several curves, whatever the data."""

import math

import numpy as np

from stableanimator_core.video.curves import Curve, plot_curves


def test_plots_of_odd_data():
    for curves in ([], [Curve("one", [2], [3])], [Curve("nothing", [1, 2], [math.nan, math.nan])]):
        picture = plot_curves(curves, "x", "y")
        assert picture.dtype == np.uint8 and picture.shape[1:] == (960, 3)
    drawn = plot_curves([Curve("a" * 80, [1, 10], [0, 1]), Curve("b" * 80, [1, 10], [1, 0])], "x", "y", log_x=True)
    assert len(drawn) > len(plot_curves([Curve("a", [1, 10], [0, 1])], "x", "y", log_x=True)), "long legends wrap"

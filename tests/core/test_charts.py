"""Charts: data lie where the axes say, curves break at gaps, numbers are round, text is on the picture."""

import numpy as np
import pytest

from stableanimator_core.video.charts import DARK, Chart, ticks, widest, write

RED = (255, 0, 0)


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0, 199, 10, [0, 20, 40, 60, 80, 100, 120, 140, 160, 180]),
        (0, 0.9, 4, [0, 0.2, 0.4, 0.6, 0.8]),
        (3, 17, 3, [5, 10, 15]),
        (0, 1, 10, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low, high, count, expected):
    assert ticks(low, high, count) == pytest.approx(expected)


def test_corners_of_the_data_are_corners_of_the_chart():
    chart = Chart(400, 300, (2, 4), (-1, 1))
    assert chart.place(2, -1).tolist() == [chart.left, chart.bottom]
    assert chart.place(4, 1).tolist() == [chart.right, chart.top]
    middle = [(chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2]
    assert chart.place(np.array([3.0]), np.array([0.0]))[0].tolist() == pytest.approx(middle, abs=1)


def test_curve_breaks_where_nothing_is_known():
    chart = Chart(400, 300, (0, 9), (0, 1))
    y = np.full(10, 0.5)
    y[4:6] = np.nan
    chart.curve(np.arange(10.0), y, RED)
    red = (chart.picture == RED).all(-1)
    for x, drawn in ((1.5, True), (3.5, False), (4.5, False), (5.5, False), (7.5, True)):
        column, row = chart.place(x, 0.5)
        assert red[row, column] == drawn, x
    rows, columns = np.nonzero(red)
    assert np.ptp(rows) <= 2 and columns.min() >= chart.left - 2, "lines to nowhere"


def test_dot_and_its_label_stay_on_the_picture():
    chart = Chart(400, 300, (0, 1), (0, 1), DARK)
    chart.dot(1, 0.5, RED, "the last one of all")
    red = (chart.picture == RED).all(-1)
    column, row = chart.place(1, 0.5)
    assert red[row, column]
    label = chart.picture[row - 25 : row - 8, :, 0] > 150
    assert label[:, column - 40 : column].any() and not label[:, column + 5 :].any()


def test_write_anchors_the_text_and_measures_it():
    picture = np.zeros((60, 300, 3), np.uint8)
    write(picture, "frame 12", 20, 30, size=20, colour=(255, 255, 255), anchor="lm")
    rows, columns = np.nonzero(picture.any(-1))
    assert 20 <= columns.min() < 24 and abs(columns.max() - 20 - widest(["frame 12"], 20)) < 4
    assert abs((rows.min() + rows.max()) / 2 - 30) < 4

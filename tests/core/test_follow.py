"""Who is who: known people walk, cross, vanish and come back; every one keeps the track that is theirs."""

from itertools import permutations

import numpy as np
import pytest
from scripted_people import HEIGHT, WIDTH, nobody_sure, somebody

from stableanimator_core.pose.follow import _cheapest_pairs, follow


def centres(track):
    return np.array([(person.box[0] + person.box[2]) / 2 for person in track.people])


def shuffled(frames, seed=0):
    rng = np.random.default_rng(seed)
    return [[people[i] for i in rng.permutation(len(people))] for people in frames]


def test_two_people_who_stand_apart():
    frames = shuffled([[somebody(150 + i), somebody(500 - i, height=200)] for i in range(20)])
    large, small = follow(frames, WIDTH, HEIGHT)
    assert large.frames == small.frames == tuple(range(20))
    np.testing.assert_allclose(centres(large), 150 + np.arange(20), atol=1)
    np.testing.assert_allclose(centres(small), 500 - np.arange(20), atol=1)


@pytest.mark.parametrize("speed", [4, 9, 20])
@pytest.mark.parametrize("hidden", [0, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_people_who_cross_keep_their_tracks(speed, hidden, seed):
    """Two walkers pass one another; near the crossing only one is found, whose frames may go to either."""
    rng = np.random.default_rng(seed)
    half = 200 // speed
    frames = []
    for i in range(-half, half + 1):
        right = somebody(320 + speed * i, stride=0.4 * i, noise=1.5, rng=rng)
        left = somebody(320 - speed * i, y=250, stride=0.4 * i + 1, noise=1.5, rng=rng)
        frames.append([right] if abs(i) <= hidden // 2 and hidden else [right, left])
    tracks = follow(shuffled(frames, seed), WIDTH, HEIGHT)
    assert len(tracks) == 2
    for track in tracks:
        way = np.diff(centres(track))
        assert (way > 0).all() or (way < 0).all(), "two people changed tracks"
        assert len(track.frames) >= len(frames) - hidden


@pytest.mark.parametrize("hidden", [3, 5, 7])
def test_people_who_cross_behind_a_pillar_keep_their_tracks(hidden):
    frames = []
    for i in range(-12, 13):
        pair = [somebody(320 + 16 * i), somebody(320 - 16 * i)]
        frames.append([] if abs(i) <= hidden // 2 else pair)
    tracks = follow(shuffled(frames), WIDTH, HEIGHT)
    assert len(tracks) == 2
    for track in tracks:
        way = np.diff(centres(track))
        assert (way > 0).all() or (way < 0).all(), "two people changed tracks"


def test_two_people_in_one_place_stay_two():
    """In the middle frame both have the very same joints."""
    frames = [[somebody(320 + 8 * i), somebody(320 - 8 * i)] for i in range(-10, 11)]
    assert [len(track.frames) for track in follow(shuffled(frames), WIDTH, HEIGHT)] == [21, 21]


def test_a_stranger_after_two_people_is_a_third():
    frames = [[somebody(200), somebody(450)]] * 20 + [[]] * 120 + [[somebody(320)]] * 20
    assert sorted(len(track.frames) for track in follow(frames, WIDTH, HEIGHT)) == [20, 20, 20]


def test_somebody_who_leaves_and_comes_back():
    frames = [[somebody(320), somebody(560 + 8 * i, height=200)] for i in range(10)]
    frames += [[somebody(320)] for _ in range(25)]
    frames += [[somebody(320), somebody(630 - 8 * i, height=200)] for i in range(10)]
    main, other = follow(frames, WIDTH, HEIGHT)
    assert main.frames == tuple(range(45))
    assert other.frames == (*range(10), *range(35, 45))


def test_flickering_detections_stay_one_track():
    rng = np.random.default_rng(1)
    seen = rng.uniform(size=60) > 0.4
    frames = [[somebody(200 + 5 * i), *([somebody(450, height=220)] if seen[i] else [])] for i in range(60)]
    tracks = follow(shuffled(frames), WIDTH, HEIGHT)
    assert [len(track.frames) for track in tracks] == [60, seen.sum()]


def test_second_boxes_of_one_person_are_left_out():
    frames = []
    for i in range(12):
        whole = somebody(320 + 3 * i, noise=1, rng=np.random.default_rng(i))
        upper = whole._replace(score=0.5, box=np.array([*whole.box[:3], whole.box[1:4:2].mean()]))
        blurred = upper.body.copy()
        blurred[8:14, 2] = 0.1
        frames.append([upper._replace(body=blurred), whole])
    [track] = follow(frames, WIDTH, HEIGHT)
    assert all(person.score == 0.9 for person in track.people)


def test_two_people_side_by_side_are_not_one():
    frames = [[somebody(300), somebody(345)] for _ in range(5)]
    assert len(follow(frames, WIDTH, HEIGHT)) == 2


def test_unsure_people_and_flicker_are_left_out():
    frames = [[somebody(320), nobody_sure(somebody(100))] for _ in range(30)]
    frames[7].append(somebody(550))
    frames[20].append(somebody(60))
    [track] = follow(frames, WIDTH, HEIGHT)
    assert track.frames == tuple(range(30))
    assert follow([[nobody_sure(somebody(320))]] * 3, WIDTH, HEIGHT) == []
    assert follow([[], []], WIDTH, HEIGHT) == follow([], WIDTH, HEIGHT) == []


def test_a_lone_dancer_stays_one_person_over_cuts_and_absences():
    frames = (
        [[somebody(120, height=250)]] * 10 + [[]] * 120 + [[somebody(520)]] * 10 + [[somebody(200, height=460)]] * 9
    )
    [track] = follow(frames, WIDTH, HEIGHT)
    assert track.frames == (*range(10), *range(130, 149))


def test_the_main_person_is_large_present_and_central():
    main = [somebody(320, height=300) for _ in range(40)]
    crowd = [somebody(80, height=300) for _ in range(40)]
    far = [somebody(480, height=150) for _ in range(40)]
    guest = [somebody(560, height=330) for _ in range(8)]
    frames = [[crowd[i], far[i], main[i], *guest[i : i + 1]] for i in range(40)]
    tracks = follow(frames, WIDTH, HEIGHT)
    assert [round(float(centres(track)[0])) for track in tracks] == [320, 80, 480, 560]
    reordered = follow([people[::-1] for people in frames], WIDTH, HEIGHT)
    assert [track.frames for track in reordered] == [track.frames for track in tracks]
    for one, other in zip(tracks, reordered):
        np.testing.assert_array_equal(centres(one), centres(other))


def test_a_still_picture():
    tracks = follow([[somebody(100, height=200), somebody(400)]], WIDTH, HEIGHT)
    assert [track.frames for track in tracks] == [(0,), (0,)]
    assert centres(tracks[0])[0] == pytest.approx(400, abs=1)


def test_a_jump_of_the_detector_starts_no_theft():
    """A's detection fails for a frame, when a false person appears elsewhere: A does not jump there."""
    frames = [[somebody(200), somebody(500, height=220)] for _ in range(20)]
    frames[10] = [somebody(350, height=220), somebody(500, height=220)]
    main, other = follow(frames, WIDTH, HEIGHT)[:2]
    assert np.ptp(centres(main)) < 1
    assert np.ptp(centres(other)) < 1
    assert 10 not in main.frames


def test_cheapest_pairs_against_all_permutations():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows, columns = map(int, rng.integers(0, 6, 2))
        costs = rng.uniform(0, 1.3, (rows, columns))
        pairs = _cheapest_pairs(costs)
        assert all(costs[row, column] < 1 for column, row in pairs)
        total = sum(costs[row, column] for column, row in pairs) + min(rows, columns) - len(pairs)
        tall = np.minimum(costs if rows <= columns else costs.T, 1)
        best = min(
            sum(tall[i, choice[i]] for i in range(tall.shape[0]))
            for choice in permutations(range(tall.shape[1]), tall.shape[0])
        )
        assert total == pytest.approx(best)

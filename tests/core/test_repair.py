"""Repair against known truths: noise shrinks, motion stays, errors go, and nothing is made up."""

from dataclasses import replace

import numpy as np
import pytest
from scripted_people import HEIGHT, WIDTH, somebody

from stableanimator_core.errors import PoseError
from stableanimator_core.keypoints import Poses
from stableanimator_core.pose.repair import repair_poses
from stableanimator_core.skeleton import MIRROR

FPS = 25
R_WRIST, L_WRIST, R_KNEE, L_KNEE = 4, 7, 9, 12


def clip(shifts, score: float = 0.9) -> Poses:
    """Somebody whose body moves rigidly: shifts [F, 2] px."""
    person = somebody(0, 0)
    shifts = np.asarray(shifts, dtype=float) + (WIDTH / 2, HEIGHT / 2)
    frames = len(shifts)
    return Poses(
        body=person.body[None, None, :, :2] + shifts[:, None, None], body_score=np.full((frames, 1, 18), score),
        face=person.face[None, None, :, :2] + shifts[:, None, None], face_score=np.full((frames, 1, 68), score),
        hands=person.hands[None, None, ..., :2] + shifts[:, None, None, None],
        hands_score=np.full((frames, 1, 2, 21), score), width=WIDTH, height=HEIGHT,
    )  # fmt: skip


def still(frames: int = 20) -> Poses:
    return clip(np.zeros((frames, 2)))


def wave(hz: float, frames: int = 100, amplitude: float = 40) -> Poses:
    turn = 2 * np.pi * hz * np.arange(frames) / FPS
    return clip(amplitude * np.column_stack([np.sin(turn), np.cos(turn)]))


def noisy(poses: Poses, noise: float, seed: int = 0) -> Poses:
    rng = np.random.default_rng(seed)
    return replace(poses, **{n: getattr(poses, n) + rng.normal(0, noise, getattr(poses, n).shape)
                             for n in ("body", "face", "hands")})  # fmt: skip


def changed(poses: Poses, name: str, index, value) -> Poses:
    array = getattr(poses, name).copy()
    array[index] = value
    return replace(poses, **{name: array})


def error(poses: Poses, truth: Poses, name: str = "body") -> float:
    return float(np.sqrt(((getattr(poses, name) - getattr(truth, name)) ** 2).sum(-1).mean()))


def assert_same(poses: Poses, other: Poses, atol: float = 1e-8) -> None:
    for name in ("body", "face", "hands"):
        np.testing.assert_allclose(getattr(poses, name), getattr(other, name), atol=atol, err_msg=name)
        np.testing.assert_allclose(getattr(poses, f"{name}_score"), getattr(other, f"{name}_score"), atol=atol)


@pytest.mark.parametrize("smooth", [0, 0.5, 1])
def test_still_and_steadily_moving_people_are_unchanged(smooth):
    assert_same(repair_poses(still(), smooth=smooth), still())
    steady = clip(np.arange(30)[:, None] * (3.0, -1.5))
    assert_same(repair_poses(steady, smooth=smooth), steady)


def test_switched_off_changes_nothing():
    shaky = noisy(wave(1), 2)
    result = repair_poses(shaky, smooth=0)
    np.testing.assert_array_equal(result.body, shaky.body)
    np.testing.assert_array_equal(result.body_score, shaky.body_score)


@pytest.mark.parametrize(("hz", "share"), [(0, 0.5), (0.25, 0.5), (0.5, 0.5), (1, 0.85), (2, 0.85)])
@pytest.mark.parametrize("name", ["body", "face", "hands"])
def test_noise_gets_smaller(hz, share, name):
    truth = wave(hz)
    shaky = noisy(truth, 2)
    assert error(repair_poses(shaky), truth, name) < share * error(shaky, truth, name)


@pytest.mark.parametrize(("smooth", "loss"), [(0.5, 0.02), (1, 0.05)])
def test_fast_motion_keeps_its_reach_and_its_time(smooth, loss):
    truth = wave(2)
    result = repair_poses(noisy(truth, 1), smooth=smooth)
    centre = np.array([WIDTH / 2, HEIGHT / 2]) + somebody(0, 0).body[:, :2]
    moved, true = result.body[:, 0] - centre, truth.body[:, 0] - centre
    assert (moved * true).sum() / (true * true).sum() > 1 - loss
    lags = [np.mean(np.sum(np.roll(moved, lag, 0) * true, -1)[2:-2]) for lag in (-1, 0, 1)]
    assert lags[1] == max(lags)
    assert lags[0] == pytest.approx(lags[2], rel=0.02)  # no delay: early and late are equally wrong


@pytest.mark.parametrize("hz", [0.5, 1, 2, 3])
def test_a_clean_clip_hardly_changes(hz):
    assert error(repair_poses(wave(hz)), wave(hz)) < 0.03 * 40


def test_one_sudden_gesture_stays():
    """A punch: out and back within a third of a second, after and before standing still."""
    shifts = np.zeros((40, 2))
    shifts[16:25, 0] = 90 * (1 - np.cos(2 * np.pi * np.arange(9) / 8)) / 2
    truth = changed(still(40), "body", np.s_[:, 0, R_WRIST], clip(shifts).body[:, 0, R_WRIST])
    assert np.abs(repair_poses(truth).body - truth.body).max() < 0.1 * 90


def test_a_quick_move_to_another_place_stays():
    place = still().body[:, 0, R_WRIST].copy()
    place[9] += (0.8 * 120, 0)
    place[10:] += (120, 0)
    truth = changed(still(), "body", np.s_[:, 0, R_WRIST], place)
    assert_same(repair_poses(truth, smooth=0), truth)


def test_doubled_frames_are_no_spikes():
    """15 frames a second in a file of 30: every other step is 0, and turning points look sudden."""
    turn = 2 * np.pi * 2 * (np.arange(60) // 2) / 15
    place = still(60).body[:, 0, R_WRIST] + 60 * np.cos(turn)[:, None] * (1, 0)
    truth = changed(still(60), "body", np.s_[:, 0, R_WRIST], place)
    assert_same(repair_poses(truth, smooth=0), truth)


@pytest.mark.parametrize("at", [1, 2, 17, 18])
def test_spikes_near_the_ends_are_removed(at):
    broken = changed(still(), "body", np.s_[at, 0, R_WRIST], (5.0, 5.0))
    assert_same(repair_poses(changed(broken, "body_score", np.s_[at, 0, R_WRIST], 0.9), smooth=0).slice(0, at),
                still().slice(0, at))  # fmt: skip
    score = repair_poses(broken, smooth=0, fill_gap=0).body_score[:, 0, R_WRIST]
    assert np.flatnonzero(score == 0).tolist() == [at]


def test_two_spikes_with_a_frame_between():
    broken = changed(still(), "body", np.s_[8:11:2, 0, R_WRIST], (5.0, 5.0))
    assert np.abs(repair_poses(broken).body - still().body).max() < 1e-6


def test_weak_points_are_dropped():
    poses = still(5)
    for name in ("body", "face", "hands"):
        for index, score in ((0, 0.3), (1, 0.05), (2, 0.31)):
            poses = changed(poses, f"{name}_score", np.s_[..., index], score)
    result = repair_poses(poses)
    for name in ("body", "face", "hands"):
        score, points = getattr(result, f"{name}_score"), getattr(result, name)
        assert not score[..., :2].any()
        assert not points[..., :2, :].any()
        assert (score[..., 2] == 0.31).all()
    assert (repair_poses(poses, min_score=0.1).body_score[..., 0] == 0.3).all()


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize(("name", "index", "jump"), [
    ("body", np.s_[R_WRIST], 60), ("body", np.s_[R_KNEE], -45), ("hands", np.s_[0, 8], 40), ("face", np.s_[30], 30),
])  # fmt: skip
@pytest.mark.parametrize("hz", [0, 1])
def test_spikes_are_removed(length, name, index, jump, hz):
    truth = wave(hz, 40)
    broken = getattr(noisy(truth, 0.5), name).copy()
    index = index if isinstance(index, tuple) else (index,)
    broken[(slice(20, 20 + length), 0, *index)] += (jump, jump)
    result = repair_poses(replace(truth, **{name: broken}))
    off = np.linalg.norm(getattr(result, name) - getattr(truth, name), axis=-1)[(slice(17, 25), 0, *index)]
    assert off.max() < 0.15 * abs(jump)
    dropped = repair_poses(replace(truth, **{name: broken}), fill_gap=0, smooth=0)
    score = getattr(dropped, f"{name}_score")[(slice(None), 0, *index)]
    assert np.flatnonzero(score == 0).tolist() == list(range(20, 20 + length))


@pytest.mark.parametrize("length", [1, 2])
def test_swapped_sides_are_repaired(length):
    truth = wave(0.5, 40)
    body = truth.body.copy()
    body[20 : 20 + length] = body[20 : 20 + length][:, :, list(MIRROR)]
    hands = truth.hands.copy()
    hands[20 : 20 + length] = hands[20 : 20 + length, :, ::-1]
    result = repair_poses(replace(truth, body=body, hands=hands), smooth=0, fill_gap=0)
    assert_same(result, truth)


def test_a_swapped_limb_is_repaired_with_its_scores():
    truth = changed(still(), "body_score", np.s_[..., R_WRIST], 0.5)
    body, score = truth.body.copy(), truth.body_score.copy()
    body[10, :, [R_WRIST, L_WRIST]] = body[10, :, [L_WRIST, R_WRIST]]
    score[10, :, [R_WRIST, L_WRIST]] = score[10, :, [L_WRIST, R_WRIST]]
    assert_same(repair_poses(replace(truth, body=body, body_score=score), smooth=0), truth)


def test_crossed_arms_are_not_a_swap():
    """Hands that pass one another keep their sides."""
    x = np.linspace(-60, 60, 41)
    truth = still(41)
    for joint, sign in ((R_WRIST, 1), (L_WRIST, -1)):
        place = np.column_stack([WIDTH / 2 + sign * x, np.full(41, 250.0)])
        truth = changed(truth, "body", np.s_[:, 0, joint], place)
    assert_same(repair_poses(truth), truth, atol=1e-6)


@pytest.mark.parametrize("smooth", [0, 0.5])
def test_gaps_are_filled_exactly_where_motion_is_linear(smooth):
    truth = clip(np.arange(30)[:, None] * (3.0, -1.5))
    holes = truth
    for name in ("body", "face", "hands"):
        holes = changed(holes, f"{name}_score", np.s_[10:18], 0)
    result = repair_poses(holes, smooth=smooth)
    np.testing.assert_allclose(result.body, truth.body, atol=1e-8)
    np.testing.assert_allclose(result.hands, truth.hands, atol=1e-8)
    assert (result.body_score[10:18] > 0.3).all()
    assert (result.body_score[10:18] < 0.9).all()
    assert (repair_poses(changed(holes, "body_score", np.s_[:10], 0.31)).body_score[10:18] > 0.3).all()


def test_nothing_is_made_up():
    """Long gaps and both ends of the clip stay empty, and smoothing does not reach across."""
    truth = clip(np.arange(40)[:, None] * (3.0, 0.0))
    holes = changed(truth, "body_score", np.s_[:4], 0)
    holes = changed(holes, "body_score", np.s_[12:21], 0)
    holes = changed(holes, "body_score", np.s_[37:], 0)
    result = repair_poses(holes, fill_gap=8, smooth=1)
    np.testing.assert_array_equal(result.body_score, holes.body_score)
    far = changed(holes, "body", np.s_[21:], holes.body[21:] + 50)
    np.testing.assert_array_equal(repair_poses(far, smooth=1).body[:12], result.body[:12])
    brief = changed(truth, "body_score", np.s_[20:22], 0)
    far = changed(brief, "body", np.s_[22:], brief.body[22:] + 50)
    before = [repair_poses(noisy(poses, 1), fill_gap=0, smooth=1).body[:20] for poses in (brief, far)]
    np.testing.assert_allclose(*before, atol=1e-9)
    assert repair_poses(holes, fill_gap=9).body_score[12:21].all()
    assert not repair_poses(changed(holes, "body_score", np.s_[5:12], 0), fill_gap=0).body_score[5:21].any()


@pytest.mark.parametrize("missing", [0, 3])
def test_nothing_is_joined_across_a_cut(missing):
    shifts = np.zeros((30, 2))
    shifts[15:] = (-250, 0)
    truth = clip(shifts)
    holes = changed(truth, "body_score", np.s_[15 : 15 + missing], 0)
    result = repair_poses(holes, smooth=1)
    np.testing.assert_array_equal(result.body_score, holes.body_score)
    np.testing.assert_allclose(result.body, holes.body, atol=1e-8)
    closer = truth.body.copy()
    closer[:] = still(30).body
    closer[15:] = (closer[15:] - (WIDTH / 2, HEIGHT / 2)) * 2 + (WIDTH / 2, HEIGHT / 2)
    zoom = replace(truth, body=closer)
    np.testing.assert_allclose(repair_poses(zoom, smooth=1).body, closer, atol=1e-8)


def test_people_are_repaired_each_by_themselves():
    one, two = noisy(wave(1, 30), 1), noisy(still(30), 1, seed=1)
    names = ("body", "body_score", "face", "face_score", "hands", "hands_score")
    both = replace(one, **{n: np.concatenate([getattr(one, n), getattr(two, n)], axis=1) for n in names})
    result = repair_poses(both)
    assert_same(result.person(0), repair_poses(one))
    assert_same(result.person(1), repair_poses(two))


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_very_short_clips(frames):
    poses = noisy(still(frames), 1)
    result = repair_poses(poses, smooth=1)
    np.testing.assert_array_equal(result.body_score, poses.body_score)
    assert error(result, poses) < 2
    assert repair_poses(Poses.empty(frames, 9, 9, people=1)).frames == frames
    assert repair_poses(Poses.empty(frames, 9, 9)).people == 0


def test_the_input_is_left_alone():
    poses = noisy(wave(1, 30), 2)
    before = poses.body.copy()
    repair_poses(poses)
    np.testing.assert_array_equal(poses.body, before)


@pytest.mark.parametrize(("setting", "message"), [
    ({"min_score": 1.1}, "min_score is 1.1, need a number from 0 to 1"),
    ({"min_score": float("nan")}, "min_score is nan"),
    ({"fill_gap": -1}, "fill_gap is -1 frames, need 0 or more"),
    ({"smooth": 1.5}, "smooth is 1.5, need a number from 0"),
])  # fmt: skip
def test_settings_are_checked(setting, message):
    with pytest.raises(PoseError, match=message):
        repair_poses(still(), **setting)

"""Motions of performers: written ones, recorded ones, and putting them on other bones."""

from __future__ import annotations

import numpy as np
import pytest

from stableanimator_core.errors import InputError
from stableanimator_core.performers import FAMILIES, HELD_OUT, MotionClip, choreograph, load_mocap, make_clip
from stableanimator_core.performers.choreography import TRAINING, random_family, rotation
from stableanimator_core.performers.mocap import Bones, random_window, retarget, trunk_yaw, turned_to_camera

BONES = Bones(
    shoulder=0.15, hip=0.08, torso=0.38, upper_arm=0.22, forearm=0.2, thigh=0.26, shank=0.25, ankle=0.065
)  # fmt: skip


def write_mocap(path, **changes):
    """A tiny file in the layout of the recordings: two clips of 40 and 30 frames."""
    rng = np.random.default_rng(0)
    joints = np.concatenate([choreograph("walk", 40, 15, rng), choreograph("kick", 30, 15, rng)]).astype(np.float32)
    arrays = {"joints": joints, "clip_start": np.array([0, 40, 70], np.int32), "fps": np.int32(15), **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize("name", [*FAMILIES, "wave+squat"])
def test_families_keep_bones_rigid_and_move_smoothly(name):
    joints = choreograph(name, 60, 15, np.random.default_rng(1))
    assert joints.shape == (60, 18, 3) and np.isfinite(joints).all()
    for a, b in ((2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13), (8, 11), (16, 17), (0, 14)):
        assert np.ptp(np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)) < 1e-6
    assert np.abs(np.diff(joints, axis=0)).max() < 0.35
    assert joints[:, [10, 13], 1].min() > 0.0


def test_rest_faces_the_camera_with_the_left_side_at_positive_x():
    joints = choreograph("idle", 20, 15, np.random.default_rng(0))
    assert (joints[:, 5, 0] > joints[:, 2, 0]).all() and (joints[:, 0, 2] > joints[:, 16, 2]).all()
    assert np.abs(trunk_yaw(joints)).max() < 10


def test_equal_generators_give_equal_motions():
    first, again = (choreograph("disco", 8, 15, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)


def test_unknown_motions_and_lengths_are_named():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="motion 'wave[+]hop' is unknown"):
        choreograph("wave+hop", 4, 15, rng)
    with pytest.raises(InputError, match="0 frames at 15 fps"):
        choreograph("wave", 0, 15, rng)


def test_the_random_family_is_never_held_out():
    rng = np.random.default_rng(0)
    drawn = {part for _ in range(600) for part in random_family(rng).split("+")}
    assert drawn == set(TRAINING) and not drawn & set(HELD_OUT)


def test_retargeting_gives_the_wanted_bones_and_puts_the_feet_on_the_ground():
    joints = choreograph("squat", 30, 15, np.random.default_rng(2))
    motion = retarget(joints, BONES)
    for a, b, length in ((2, 3, 0.22), (6, 7, 0.2), (8, 9, 0.26), (12, 13, 0.25), (8, 11, 0.16), (2, 5, 0.3)):
        assert np.allclose(np.linalg.norm(motion.joints[:, a] - motion.joints[:, b], axis=-1), length)
    assert np.isclose(motion.joints[:, [10, 13], 1].min(), BONES.ankle)
    assert np.allclose(motion.head @ motion.head.swapaxes(1, 2), np.eye(3))
    assert np.allclose(np.linalg.det(motion.head), 1)


def test_the_heads_orientation_follows_the_motion_but_stays_near_the_camera():
    joints = choreograph("idle", 1, 15, np.random.default_rng(0))
    turned = {}
    for angle in (-60, -10, 10, 60):
        forward = retarget(joints @ rotation(1, np.asarray(angle)).T, BONES).head[0, :, 2]
        turned[angle] = np.rad2deg(np.arctan2(forward[0], forward[2]))
    assert turned[-60] < turned[-10] < turned[10] < turned[60]
    assert max(abs(yaw) for yaw in turned.values()) <= 30


def test_turning_sets_the_mean_heading_and_limits_travel():
    joints = choreograph("walk", 30, 15, np.random.default_rng(2)) @ rotation(1, np.asarray(140)).T
    joints = joints + np.linspace(0, 3, 30)[:, None, None] * [1, 0, 0]
    turned = turned_to_camera(joints, 20)
    assert abs(trunk_yaw(turned).mean() - 20) < 1
    hips = (turned[:, 8] + turned[:, 11]) / 2
    assert np.abs(hips[:, [0, 2]]).max() <= 0.3501


def test_recordings_are_read_clip_by_clip(tmp_path):
    clips = load_mocap(write_mocap(tmp_path / "motion.npz"))
    assert [clip.joints.shape for clip in clips] == [(40, 18, 3), (30, 18, 3)]
    assert clips[0].fps == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": np.zeros((70, 17, 3))}, r"joints has shape \[70, 17, 3\]"),
        ({"joints": np.full((70, 18, 3), np.nan)}, "not finite"),
        ({"fps": None}, "has no fps"),
        ({"fps": np.float32(0)}, "fps must be one positive number"),
        ({"clip_start": np.array([0, 50, 90])}, "clip_start must rise"),
        ({"clip_start": np.array([0, 40, 40])}, "clip_start must rise"),
    ],
)
def test_wrong_recordings_are_named_in_one_line(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        load_mocap(write_mocap(tmp_path / "motion.npz", **changes))
    assert "\n" not in str(error.value) and "motion.npz" in str(error.value)


def test_missing_and_foreign_files_are_named_in_one_line(tmp_path):
    with pytest.raises(InputError, match="not found"):
        load_mocap(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no arrays here")
    with pytest.raises(InputError, match="is no readable .npz"):
        load_mocap(tmp_path / "text.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(InputError, match="single.npy"):
        load_mocap(tmp_path / "single.npy")
    np.savez(tmp_path / "pickled.npz", joints=np.array([{}], dtype=object), clip_start=[0, 1], fps=15)
    with pytest.raises(InputError, match="is no readable .npz"):
        load_mocap(tmp_path / "pickled.npz")


def test_windows_are_consecutive_frames_at_the_wanted_rate():
    joints = np.arange(40.0)[:, None, None] * np.ones((40, 18, 3))
    clips = [MotionClip(joints, 15.0), MotionClip(joints[:5], 15.0)]
    for fps, step in ((15, 1), (7.5, 2)):
        window = random_window(clips, 16, fps, np.random.default_rng(0))
        assert np.array_equal(np.diff(window[:, 0, 0]), np.full(15, step))
    assert random_window(clips, 41, 15, np.random.default_rng(0)) is None


def test_recordings_are_used_for_most_training_clips(tmp_path):
    clips = load_mocap(write_mocap(tmp_path / "motion.npz"))
    names = [make_clip(seed, size=32, frames=4, mocap=clips).motion for seed in range(60)]
    assert 0.4 < names.count("mocap") / len(names) < 0.8

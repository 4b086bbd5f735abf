"""Rendered data sets: files, progress, and the same pictures as rendering in place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stableanimator_core.errors import InputError
from stableanimator_core.face import face_boxes
from stableanimator_core.performers import (
    FACE_SCALE,
    crop_face,
    make_clip,
    open_clips,
    render_dataset,
    render_views,
    rendered,
)
from stableanimator_core.pose.draw import draw_poses


def test_a_data_set_holds_what_make_clip_makes(tmp_path):
    seen = []
    stored = render_dataset(
        tmp_path, 3, seed=20, size=64, frames=2, workers=1, on_progress=lambda done, all_: seen.append((done, all_))
    )
    assert stored.frames.shape == stored.pose_images.shape == (3, 3, 64, 64, 3)
    assert rendered(tmp_path) == 3 and seen == [(3, 3)]
    clip = make_clip(21, size=64, frames=2)
    assert np.array_equal(stored.frames[1, 0], clip.reference)
    assert np.array_equal(stored.frames[1, 1:], clip.frames)
    assert np.array_equal(stored.pose_images[1, 1:], draw_poses(clip.poses, 64, 64, canvas_short_side=512))
    boxes = face_boxes(clip.poses, scale=FACE_SCALE)
    assert np.allclose(stored.face_boxes[1, 1:][boxes.found], boxes.boxes[boxes.found], atol=1e-3)
    points = stored.keypoints[1, 1:]
    assert np.allclose(points[:, :18], np.dstack([clip.poses.body[:, 0], clip.poses.body_score[:, 0]]), atol=1e-3)
    assert np.allclose(points[:, 18:86, :2], clip.poses.face[:, 0], atol=1e-3)
    assert np.allclose(points[:, 107:, :2], clip.poses.hands[:, 0, 1], atol=1e-3)
    meta = json.loads((tmp_path / "dataset.json").read_text())
    assert (meta["seed"], meta["size"], meta["frames"], meta["clips"]) == (20, [64, 64], 2, 3)


def test_joints_are_lost_in_the_pictures_of_the_poses_alone(tmp_path):
    given = dict(seed=20, size=64, frames=6, workers=1)
    whole, poorer = (render_dataset(tmp_path / f"{lost}", 2, lost=lost, **given) for lost in (0.0, 1.0))
    for name in ("frames", "face_boxes", "keypoints"):
        assert np.array_equal(getattr(whole, name), getattr(poorer, name), equal_nan=True)
    assert np.array_equal(whole.pose_images[:, 0], poorer.pose_images[:, 0]), "the reference's pose is whole"
    drawn = [(clips.pose_images[:, 1:] > 0).any(-1).mean((1, 2, 3)) for clips in (whole, poorer)]
    assert (drawn[1] < 0.95 * drawn[0]).all() and (drawn[1] > 0).all()


def test_a_data_set_without_keypoints_is_read(tmp_path):
    render_dataset(tmp_path, 1, seed=20, size=64, frames=1, workers=1)
    (tmp_path / "keypoints.npy").unlink()
    assert open_clips(tmp_path).keypoints is None and len(open_clips(tmp_path).frames) == 1
    (tmp_path / "frames.npy").unlink()
    with pytest.raises(InputError, match="holds no rendered clips"):
        open_clips(tmp_path)


def test_views_are_face_crops_of_every_identity(tmp_path):
    crops = render_views(tmp_path, 2, seed=5, views=3, size=96, crop=32, workers=1)
    assert crops.shape == (2, 3, 32, 32, 3) and rendered(tmp_path) == 2
    assert crops.reshape(6, -1).std(1).min() > 10


def test_crop_face_maps_the_box_onto_the_whole_crop():
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[10:30, 10:20], picture[10:30, 20:30] = 200, 100
    crop = crop_face(picture, np.array([10, 10, 30, 30]), 20)
    assert (crop[:, :10] == 200).all() and (crop[:, 10:] == 100).all()


def test_wrong_requests_are_named(tmp_path):
    with pytest.raises(InputError, match="0 clips asked for"):
        render_dataset(tmp_path, 0, seed=0)
    with pytest.raises(InputError, match="not found"):
        render_dataset(tmp_path, 1, seed=0, mocap_path=tmp_path / "absent.npz")
    with pytest.raises(InputError, match="holds no rendered clips"):
        open_clips(tmp_path / "nothing")
    with pytest.raises(InputError, match="0 identities asked for"):
        render_views(tmp_path, 0, seed=0)
    assert rendered(tmp_path / "nothing") == 0

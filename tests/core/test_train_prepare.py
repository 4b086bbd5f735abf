"""Preparing clips: what is found, what is bad and why, what is written, and that it goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stableanimator_core import cli
from stableanimator_core.errors import InputError, PoseError, WeightsError
from stableanimator_core.face import DetectedFace, face_boxes
from stableanimator_core.keypoints import Poses
from stableanimator_core.performers import make_clip
from stableanimator_core.training import prepare as preparing
from stableanimator_core.training.prepare import PrepareSettings, find_cut, find_sources, mask_box, prepare_clips
from stableanimator_core.training.prepared import read_prepared
from stableanimator_core.video import write_image, write_video
from stableanimator_core.weights import read_config

FRAMES = 6


@pytest.fixture(scope="module")
def clip():
    """A performer of 96 x 64 px whose face shows."""
    for seed in range(20):
        made = make_clip(seed, size=(96, 64), frames=FRAMES)
        if all(face_boxes(made.poses, scale=1.5, crop=crop).found.all() for crop in ("box", "arcface")):
            return made
    raise AssertionError("nobody looks at the camera")


@pytest.fixture
def settings(tiny_model):
    return PrepareSettings.for_model(read_config(tiny_model), least=4)


def nothing(*_):
    raise WeightsError("no network is here")


def prepared(data, out, settings, **finders):
    return prepare_clips(data, out, settings, **dict(find_poses=nothing, find_faces=nothing) | finders)


def write_clip(folder, clip, name="dance", poses=None):
    """A folder of pictures in images/, which keeps every pixel, and its poses beside it."""
    (folder / name).mkdir(parents=True)
    write_video(folder / name / "images.png", clip.frames, 7)
    (poses or clip.poses).save(folder / f"{name}.json")
    return folder / name


def pictures(folder, count=FRAMES):
    return np.stack([np.array(Image.open(folder / f"frame_{f}.png").convert("RGB")) for f in range(count)])


# --- what is written ------------------------------------------------------------------------------------------------


def test_a_clip_becomes_the_published_layout(clip, settings, tmp_path):
    write_clip(tmp_path / "data", clip)
    result = prepared(tmp_path / "data", tmp_path / "out", settings)
    assert (result.clips, result.frames, result.bad) == (1, FRAMES, {})
    folder = tmp_path / "out" / "dance"
    assert (tmp_path / "out" / "video_rec_path.txt").read_text() == "dance\n"
    images, poses, masks = (pictures(folder / name) for name in ("images", "poses", "faces"))
    assert images.shape == poses.shape == masks.shape == (FRAMES, 64, 64, 3)
    left = [int(x) for x in range(33) if (images == clip.frames[:, :, x : x + 64]).all()]
    assert len(left) == 1, "64 of the 96 columns, unchanged"
    assert poses.max() > 100
    [one] = read_prepared(tmp_path / "out")[1]
    boxes = one.boxes()
    expected = face_boxes(clip.poses, scale=1.5).boxes - torch.tensor([left[0], 0, left[0], 0])
    torch.testing.assert_close(boxes, expected, atol=0.6, rtol=0)
    for mask, box in zip(masks, boxes):
        np.testing.assert_allclose(mask_box(mask), box.round().clamp(0, 64), atol=1)


def test_faces_are_aligned_for_embedders_that_want_it(clip, settings, tmp_path):
    write_clip(tmp_path / "data", clip)
    prepared(tmp_path / "data", tmp_path / "out", replace(settings, face_crop="arcface", width=96))
    [one] = read_prepared(tmp_path / "out")[1]
    faces, expected = one.faces(), face_boxes(clip.poses, scale=1.5, crop="arcface")
    assert faces.found.all()
    torch.testing.assert_close(faces.templates, expected.templates, atol=0.02, rtol=0.02)
    torch.testing.assert_close(faces.boxes, expected.boxes, atol=0.5, rtol=0)


def test_a_prepared_folder_can_be_prepared_again_for_another_size(clip, settings, tmp_path):
    """It is the published layout: drawn poses and face masks are taken as they are."""
    write_clip(tmp_path / "data", clip)
    prepared(tmp_path / "data", tmp_path / "first", settings)
    larger = replace(settings, width=128, height=128)
    result = prepared(tmp_path / "first", tmp_path / "second", larger)
    assert (result.clips, result.bad) == (1, {})
    before, after = (read_prepared(tmp_path / name)[1][0] for name in ("first", "second"))
    torch.testing.assert_close(after.boxes(), 2 * before.boxes(), atol=2, rtol=0)
    large = map(Image.fromarray, pictures(after.folder / "poses"))
    small = np.stack([np.array(picture.resize((64, 64))) for picture in large])
    assert np.abs(small.astype(int) - pictures(before.folder / "poses")).mean() < 3


def test_published_clips_are_aligned_by_the_face_detector(clip, settings, tmp_path):
    write_clip(tmp_path / "data", clip)
    prepared(tmp_path / "data", tmp_path / "first", settings)
    [one] = read_prepared(tmp_path / "first")[1]
    box = one.boxes()[0].numpy()
    five = np.float32([(0.34, 0.46), (0.65, 0.46), (0.5, 0.64), (0.37, 0.82), (0.63, 0.82)])

    def find_faces(frame):
        assert frame.shape == (256, 256, 3)
        x0, y0, x1, y1 = 4 * box
        landmarks = five * (x1 - x0, y1 - y0) + (x0, y0)
        elsewhere = DetectedFace(np.float32([-400, -400, 200, 10]), landmarks * 0.1, 0.99)
        return [elsewhere, DetectedFace(np.float32([x0, y0, x1, y1]), landmarks, 0.9)]

    aligned = replace(settings, face_crop="arcface", width=256, height=256)
    assert prepared(tmp_path / "first", tmp_path / "second", aligned, find_faces=find_faces).bad == {}
    [one] = read_prepared(tmp_path / "second")[1]
    middle = one.faces().boxes[0].reshape(2, 2).mean(0)
    torch.testing.assert_close(middle, torch.from_numpy(4 * box).reshape(2, 2).mean(0), atol=12, rtol=0)

    nobody = prepared(tmp_path / "first", tmp_path / "third", aligned, find_faces=lambda frame: [])
    assert nobody.bad == {}, "the loss still knows where the face is"
    assert not read_prepared(tmp_path / "third")[1][0].faces().found.any()


def test_poses_are_found_where_there_are_none(clip, settings, tmp_path):
    write_clip(tmp_path / "data", clip)
    (tmp_path / "data" / "dance.json").unlink()
    seen = []

    def find_poses(frames):
        seen.extend(frames)
        return clip.poses

    assert prepared(tmp_path / "data", tmp_path / "out", settings, find_poses=find_poses).clips == 1
    np.testing.assert_array_equal(np.stack(seen), clip.frames)
    with pytest.raises(WeightsError, match="no network is here"):
        prepared(tmp_path / "data", tmp_path / "other", settings)


def test_it_goes_on_where_it_stopped(clip, settings, tmp_path):
    for name in "abc":
        write_clip(tmp_path / "data", clip, name)
    short = replace(clip, frames=clip.frames[:2])
    write_clip(tmp_path / "data", short, "b2", clip.poses.slice(0, 2))
    shown = []

    def stop(done, count, name):
        shown.append((done, count, name))
        if name == "b2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path / "data", tmp_path / "out", settings, on_clip=stop)
    assert shown == [(1, 4, "a"), (2, 4, "b"), (3, 4, "b2")]
    stamp = (tmp_path / "out" / "a" / "clip.json").stat().st_mtime_ns
    (tmp_path / "out" / "b" / "clip.json").unlink()
    write = preparing._prepare
    again = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_prepare", lambda source, *rest: (again.append(source.name), write(source, *rest)))
        result = prepared(tmp_path / "data", tmp_path / "out", settings)
    assert again == ["b", "c"]
    assert (tmp_path / "out" / "a" / "clip.json").stat().st_mtime_ns == stamp
    assert result.clips == 3 and list(result.bad.values()) == ["2 frames, need 4"]


# --- what is bad ----------------------------------------------------------------------------------------------------


def several(clip):
    body = [np.concatenate([getattr(clip.poses, name)] * 2, axis=1) for name in ("body", "body_score")]
    rest = {
        name: np.concatenate([getattr(clip.poses, name)] * 2, axis=1)
        for name in ("face", "face_score", "hands", "hands_score")
    }
    return Poses(*body, **rest, width=96, height=64)


def hidden(clip, frames, part):
    score = getattr(clip.poses, part).copy()
    score[frames] = 0
    names = {"body_score": ("body_score", "face_score"), "face_score": ("face_score",)}[part]
    return replace(clip.poses, **{name: score if name == part else getattr(clip.poses, name) * 0 for name in names})


@pytest.mark.parametrize(
    "poses, reason",
    [
        (several, "several people in 6 of 6 frames"),
        (lambda clip: clip.poses.slice(0, 5), "6 frames and poses for 5; find the poses of this clip again"),
        (lambda clip: hidden(clip, slice(0, 2), "body_score"), "nobody in 2 of 6 frames"),
        (lambda clip: Poses.empty(6, 96, 64), "nobody in 6 of 6 frames"),
        (lambda clip: clip.poses.resized(64, 64), "frames of 96x64 and poses on a canvas of 64x64"),
    ],
)
def test_bad_poses(clip, settings, tmp_path, poses, reason):
    folder = write_clip(tmp_path / "data", clip, poses=poses(clip))
    result = prepared(tmp_path / "data", tmp_path / "out", settings)
    assert result == (0, 0, {str(folder): reason})
    assert (tmp_path / "out" / "bad.txt").read_text() == f"{folder}\t{reason}\n"


def test_a_clip_without_faces_is_bad(clip, settings, tmp_path):
    seen = clip.poses.body_score.copy()
    seen[1:, :, [0, 14, 15, 16, 17]] = 0
    points = clip.poses.face_score * (np.arange(FRAMES) < 1)[:, None, None]
    faceless = replace(clip.poses, body_score=seen, face_score=points)
    folder = write_clip(tmp_path / "data", clip, poses=faceless)
    assert prepared(tmp_path / "data", tmp_path / "out", settings).bad == {str(folder): "a face in 1 of 6 frames only"}


def test_nobody_found_and_broken_videos(clip, settings, tmp_path):
    folder = write_clip(tmp_path / "data", clip)
    (tmp_path / "data" / "dance.json").unlink()
    (tmp_path / "data" / "broken.mp4").write_bytes(b"no video")

    def find_poses(frames):
        list(frames)
        raise PoseError("nobody found in any of 6 frames")

    bad = prepared(tmp_path / "data", tmp_path / "out", settings, find_poses=find_poses).bad
    assert bad[str(folder)] == "nobody found in any of 6 frames"
    assert "is not a video that can be read" in bad[str(tmp_path / "data" / "broken.mp4")]


def test_a_cut_is_found_and_motion_is_none():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 255, (2, 24, 24, 3))
    noise = rng.integers(-6, 6, (12, 24, 24, 3))
    still = (one + noise).clip(0, 255).astype(np.uint8)
    assert find_cut(still) is None
    cut = np.concatenate([still[:7], (other + noise[:5]).clip(0, 255).astype(np.uint8)])
    assert find_cut(cut) == 7
    wild = rng.integers(0, 255, (12, 24, 24, 3), dtype=np.uint8)
    assert find_cut(wild) is None, "everything moves all the time"
    assert find_cut(still[:2]) is None


def test_a_clip_with_a_cut_is_bad(clip, settings, tmp_path):
    other = replace(clip, frames=np.concatenate([clip.frames[:4], 255 - clip.frames[4:]]))
    folder = write_clip(tmp_path / "data", other)
    result = prepared(tmp_path / "data", tmp_path / "out", settings)
    assert result.bad == {str(folder): "a cut before frame 4; split it there"}


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda folder: (folder / "poses" / "frame_5.png").unlink(), "6 pictures in images/, 5 in poses/, 6 in faces/"),
        (lambda folder: None, "its drawn poses are 64x64, another shape than 128x64"),
    ],
)
def test_bad_published_clips(clip, settings, tmp_path, spoil, reason):
    write_clip(tmp_path / "data", clip)
    prepared(tmp_path / "data", tmp_path / "first", settings)
    spoil(tmp_path / "first" / "dance")
    result = prepared(tmp_path / "first", tmp_path / "out", replace(settings, width=128))
    assert list(result.bad.values()) == [reason]


@pytest.mark.parametrize("white", [0, 255])
def test_a_mask_that_shows_no_face(white):
    assert np.isnan(mask_box(np.full((8, 8, 3), white, np.uint8))).all()


# --- what is found --------------------------------------------------------------------------------------------------


def test_lists_name_the_clips_wherever_they_were_written(clip, tmp_path):
    data = tmp_path / "data"
    for name in ("rec/00001", "rec/00002", "vec/00001"):
        write_clip(data, clip, name)
    (data / "video_rec_path.txt").write_text("/home/somebody/animation_data/rec/00001\n\nrec/00009\n")
    (data / "video_vec_path.txt").write_text("animation_data/vec/00001\n")
    sources, missing = find_sources(data, tmp_path / "out")
    assert [source.name for source in sources] == ["rec__00001", "vec__00001"]
    assert missing == {"rec/00009": "is named in video_rec_path.txt and not there"}


def test_videos_and_folders_are_found(clip, tmp_path):
    data = tmp_path / "data"
    write_clip(data, clip, "b")
    (data / "sub").mkdir()
    write_video(data / "sub" / "a b.mp4", clip.frames, 7)
    (data / "notes.txt").write_text("")
    (tmp_path / "poses" / "sub").mkdir(parents=True)
    clip.poses.save(tmp_path / "poses" / "sub" / "a b.json")
    write_image(data / "b" / "thumbnail.png", clip.frames[0])
    sources, missing = find_sources(data, data / "out", tmp_path / "poses")
    assert [source.name for source in sources] == ["b", "sub__a_b.mp4"]
    assert [source.pose_file.name for source in sources] == ["b.json", "a b.json"]
    assert not missing
    [alone], _ = find_sources(data / "sub" / "a b.mp4", data / "out")
    assert (alone.name, alone.pose_file) == ("a_b.mp4", None)
    [alone], _ = find_sources(data / "b", data / "out")
    assert (alone.name, alone.frames) == ("b", data / "b" / "images")


def test_what_cannot_be_prepared(clip, settings, tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist; check --data"):
        prepared(tmp_path / "nowhere", tmp_path / "out", settings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no clips; give videos"):
        prepared(tmp_path / "empty", tmp_path / "out", settings)
    write_clip(tmp_path / "data", clip)
    write_clip(tmp_path / "poses", clip)
    with pytest.raises(InputError, match="is no folder; give the folder of the clips' POSES.json files"):
        prepared(tmp_path / "data", tmp_path / "out", settings, poses=tmp_path / "none")
    with pytest.raises(InputError, match="poses: holds other things; give an empty or a new folder"):
        prepared(tmp_path / "data", tmp_path / "poses", settings)
    prepared(tmp_path / "data", tmp_path / "out", settings)
    with pytest.raises(InputError, match="out: was prepared with other settings; give the same ones, or another --out"):
        prepared(tmp_path / "data", tmp_path / "out", replace(settings, width=128))
    with pytest.raises(InputError, match="clip.json: is a file; give a folder for the clips"):
        prepared(tmp_path / "data", tmp_path / "out" / "dance" / "clip.json", settings)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command(clip, tiny_model, tmp_path, capsys):
    write_clip(tmp_path / "data", clip)
    (tmp_path / "data" / "broken.mp4").write_bytes(b"no video")
    argv = ["train", "prepare", "--data", tmp_path / "data", "--out", tmp_path / "out", "--model", tiny_model]
    argv = [str(word) for word in [*argv, "--least", 4, "--frames", 5]]
    clip.poses.save(tmp_path / "data" / "broken.json")
    assert cli.main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["clips"], result["frames"], len(result["bad"])) == (1, 5, 1)
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert "bad: " in said and "1 clips, 5 frames, 1 bad ones" in said


def test_without_dwpose_the_command_says_what_to_do(clip, tiny_model, tmp_path, capsys):
    write_clip(tmp_path / "data", clip)
    (tmp_path / "data" / "dance.json").unlink()
    argv = ["train", "prepare", "--data", tmp_path / "data", "--out", tmp_path / "out", "--model", tiny_model]
    assert cli.main([str(word) for word in [*argv, "--models", tmp_path / "none"]]) == 2
    said = capsys.readouterr().err
    assert "finding poses needs DWPose" in said and said.strip().endswith("or give --poses FOLDER")

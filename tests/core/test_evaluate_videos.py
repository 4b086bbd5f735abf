"""People's own videos as material, and the command that evaluates on them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from stableanimator_core import cli
from stableanimator_core.cli import evaluate
from stableanimator_core.errors import InputError, PoseError
from stableanimator_core.evaluation import animation
from stableanimator_core.evaluation import videos as material
from stableanimator_core.evaluation.animation import CEILING, FLOOR, MADE, ROWS, ClipResult
from stableanimator_core.evaluation.material import Case, Footage
from stableanimator_core.evaluation.sheets import DIFFERENCE_GAIN, LINES, clip_sheet, identity_chart
from stableanimator_core.evaluation.videos import body_size, find_tiktok, find_videos, misaligned_cases, video_cases
from stableanimator_core.keypoints import Poses
from stableanimator_core.video import write_video
from stableanimator_core.weights import read_config

SIZE = (64, 64)


def pictures(frames: int, seed: int, width: int = 64, height: int = 64) -> np.ndarray:
    """Frames that all differ: [F, H, W, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)


def write_frames(folder, frames: int, seed: int, **size) -> np.ndarray:
    made = pictures(frames, seed, **size)
    write_video(folder.with_name(f"{folder.name}.png"), made, 7)
    return made


def scaled(people: list[dict], scale: float) -> list[dict]:
    """POSE_KEYPOINT frames of somebody who is `scale` times as big, about the picture's middle."""
    for frame in people:
        numbers = np.array(frame["people"][0]["pose_keypoints_2d"]).reshape(-1, 3)
        middle = np.array([frame["canvas_width"], frame["canvas_height"]]) / 2
        numbers[:, :2] = (numbers[:, :2] - middle) * scale + middle
        frame["people"][0]["pose_keypoints_2d"] = numbers.ravel().tolist()
    return people


@pytest.fixture(scope="module")
def config(tiny_model):
    return read_config(tiny_model)


@pytest.fixture
def folder(tmp_path, stick_figure):
    """Three people's videos, with poses beside them; sizes 1, 0.6 and 0.8."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for index, (name, scale) in enumerate((("ann", 1.0), ("bob", 0.6), ("cid", 0.8))):
        write_frames(videos / name, 5, index)
        (videos / f"{name}.json").write_text(json.dumps(scaled(stick_figure(5), scale)))
    return videos


def poses_beside(path, most):
    return Poses.load(path.with_suffix(".json")).slice(0, most)


@pytest.fixture
def read(folder, config):
    return lambda: material.read_videos(find_videos(folder), config, frames=3, poses_of=poses_beside)


def test_videos_and_folders_of_pictures_are_found(folder):
    write_video(folder / "dan.mp4", pictures(2, 9), 7)
    (folder / "notes.txt").write_text("")
    (folder / "empty").mkdir()
    found = find_videos(folder)
    assert list(found) == ["ann", "bob", "cid", "dan.mp4"]
    assert found["dan.mp4"] == folder / "dan.mp4"


def test_the_clip_is_what_follows_the_reference(read):
    videos, notes = read()
    assert notes == []
    cases = [make() for make in video_cases(videos, SIZE, seed=2)]
    for index, case in enumerate(cases):
        truth = pictures(5, index)
        assert case.known
        assert (case.reference == truth[0]).all()
        assert (case.own.frames == truth[1:4]).all()
        assert (case.other.frames == pictures(5, (index + 1) % 3)[1:4]).all()
        assert case.driving.frames == case.own.poses.frames == 3
        assert case.reference_pose.frames == 1
        assert case.seed == 20_000 + index


def test_the_reference_is_the_first_frame_with_a_face(folder, read, stick_figure):
    hidden = stick_figure(5)
    for frame in hidden[:2]:
        frame["people"] = []
    (folder / "ann.json").write_text(json.dumps(hidden))
    videos, notes = read()
    assert (videos[0].reference, videos[0].frames) == (2, 2)
    assert notes == ["ann gives 2 frames, 3 were asked for"]
    case = video_cases(videos, SIZE, seed=0)[0]()
    assert (case.reference == pictures(5, 0)[2]).all()
    assert (case.own.frames == pictures(5, 0)[3:]).all()


def test_what_cannot_serve_is_left_out_with_a_reason(folder, read, stick_figure):
    faceless = stick_figure(5)
    for frame in faceless:
        frame["people"][0]["pose_keypoints_2d"][:3] = [0, 0, 0]  # no nose
    (folder / "ann.json").write_text(json.dumps(faceless))
    (folder / "bob.json").write_text(json.dumps(stick_figure(5, 64, 128)))
    (folder / "cid.json").write_text(json.dumps(stick_figure(1)))
    write_frames(folder / "dan", 2, 7)
    (folder / "dan.json").write_text("[]")
    videos, notes = read()
    assert videos == []
    assert notes[0].startswith("ann is left out: none of its first 4 frames shows a usable face (the last: ")
    assert "reference_pose: no face in its keypoints" in notes[0]
    assert notes[1] == "bob is left out: its poses are on a canvas of 64x128, its frames are 64x64; give its own poses"
    assert notes[2] == "cid is left out: it has 1 frames, need 2"
    assert notes[3].startswith("dan is left out: ")
    assert not any("\n" in note for note in notes)


def test_a_video_is_named_once(folder, config):
    def nobody(path, most):
        raise PoseError(f"{path}: nobody was found")

    _, notes = material.read_videos(find_videos(folder), config, frames=3, poses_of=nobody)
    assert notes == [f"{name} is left out: nobody was found" for name in ("ann", "bob", "cid")]


def test_frames_and_poses_are_cropped_alike(tmp_path, config, stick_figure):
    """A tall video for a square output: what the crop shows is where the poses say."""
    tall = np.zeros((3, 128, 64, 3), np.uint8)
    poses = stick_figure(3, 64, 128, step=1)
    nose = Poses.from_openpose(poses).body[:, 0, 0]
    for frame, (x, y) in zip(tall, nose.round().astype(int)):
        frame[y - 2 : y + 2, x - 2 : x + 2] = 255
    (tmp_path / "tall").mkdir()
    write_video(tmp_path / "tall.png", tall, 7)
    (tmp_path / "tall.json").write_text(json.dumps(poses))
    [video], _ = material.read_videos({"tall": tmp_path / "tall"}, config, frames=2, poses_of=poses_beside)
    shot = material._shoot(video, (96, 96))
    assert shot.reference.shape == (64, 64, 3), "the reference keeps its pixels"
    assert shot.footage.frames.shape == (2, 96, 96, 3)
    for frame, (x, y) in zip(shot.footage.frames, shot.footage.poses.body[:, 0, 0]):
        rows, columns = np.nonzero(frame.mean(-1) > 128)
        assert abs(rows.mean() + 0.5 - y) < 1.5, "one of its own pixels"
        assert abs(columns.mean() + 0.5 - x) < 1.5


def test_misaligned_pairs_differ_in_size_and_everybody_drives_once(read):
    videos, _ = read()
    assert body_size(videos[1].poses) == pytest.approx(0.6 * body_size(videos[0].poses))
    cases = [make() for make in misaligned_cases(videos, SIZE, seed=0)]
    assert [case.name for case in cases] == [
        "ann driven by bob, 0.60 times as big", "bob driven by cid, 1.33 times as big",
        "cid driven by ann, 1.25 times as big",
    ]  # fmt: skip
    first = cases[0]
    assert not first.known
    assert (first.driving.body == videos[1].clip.body).all()
    assert (first.own.frames == pictures(5, 0)[1:4]).all()
    assert (first.other.frames == pictures(5, 1)[1:4]).all()


def test_body_size_needs_a_body():
    with pytest.raises(PoseError, match="no frame shows two of nose, neck and shoulders"):
        body_size(Poses.empty(2, 64, 64, people=1))


def make_tiktok(root, numbers, poses):
    for number in numbers:
        images = root / f"{number:05d}" / "images"
        images.mkdir(parents=True)
        for kind in ("masks", "densepose"):
            (images.parent / kind).mkdir()
            Image.fromarray(pictures(1, 99)[0]).save(images.parent / kind / "0001.png")
        for index, picture in enumerate(pictures(4, number), 1):
            Image.fromarray(picture).save(images / f"{index:04d}.png")
        (images.parent / "images.json").write_text(json.dumps(poses))


@pytest.mark.parametrize("inner", ["", "TikTok_dataset", "TikTok_dataset/TikTok_dataset"])
def test_tiktoks_layout(tmp_path, inner, config, stick_figure):
    make_tiktok(tmp_path / inner, (1, 335, 336), stick_figure(4))
    assert list(find_tiktok(tmp_path)) == ["00001", "00335", "00336"]
    found = find_tiktok(tmp_path, (335, 340))
    assert list(found) == ["00335", "00336"]
    assert list(find_tiktok(tmp_path, (1, 335))) == ["00001", "00335"], "both ends belong"
    videos, notes = material.read_videos(found, config, frames=3, poses_of=poses_beside)
    assert notes == []
    assert (video_cases(videos, SIZE, seed=0)[0]().own.frames == pictures(4, 335)[1:]).all()


def test_tiktok_refusals(tmp_path):
    with pytest.raises(InputError, match="is no folder; check --tiktok"):
        find_tiktok(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no NNNNN/images folders as the TikTok dataset has; check --tiktok"):
        find_tiktok(tmp_path)
    make_tiktok(tmp_path, (1, 2), [])
    with pytest.raises(InputError, match="--sequences 335:340: .* has 00001 to 00002; choose among these"):
        find_tiktok(tmp_path, (335, 340))
    with pytest.raises(InputError, match="has no videos .* check --videos"):
        find_videos(tmp_path / "00001" / "masks")


def result_of(known=True, frames=4) -> ClipResult:
    truth, made = pictures(frames, 0), pictures(frames, 1)
    poses = Poses.empty(frames, *SIZE)
    case = Case("somebody", truth[0], poses.slice(0, 1), poses, Footage(truth, poses), Footage(made, poses), 0, known)
    csim = {row: np.linspace(0.9, 0.1, frames) for row in ROWS}
    return ClipResult(case, made, made, truth, csim, {}, {})


def test_a_sheet_shows_the_difference_where_the_truth_is_known():
    known, unknown = clip_sheet(result_of()), clip_sheet(result_of(known=False))
    assert known.shape[0] > unknown.shape[0] + 100
    still = result_of()
    still.made[:] = still.case.own.frames
    dark = clip_sheet(still)
    below = slice(unknown.shape[0] + 2, None)
    assert (dark[below] == 0).sum() > (known[below] == 0).sum()
    assert DIFFERENCE_GAIN > 1


def test_the_chart_has_a_line_for_every_row_and_breaks_where_no_face_is():
    rows = {row: np.full(8, 0.2 + 0.1 * index) for index, row in enumerate(ROWS)}
    chart = identity_chart([rows, rows])
    for _, _, colour in LINES:
        assert (chart[:, 400:] == colour).all(-1).any(), colour
    rows[CEILING] = np.full(8, np.nan)
    rows[FLOOR] = np.full(3, -0.3)
    broken = identity_chart([rows])
    colours = {row: colour for row, _, colour in LINES}
    assert not (broken[:, 400:] == colours[CEILING]).all(-1).any()
    assert (broken[:, 400:] == colours[MADE]).all(-1).any()


@pytest.fixture
def run(capsys):
    def call(*argv) -> tuple[int, str, str]:
        status = cli.main([str(argument) for argument in argv])
        return status, *capsys.readouterr()

    return call


FAST = ("--device", "cpu", "--frames", 2, "--hjb-iterations", 0)


def test_command_on_videos_writes_what_can_be_looked_at(run, tiny_model, folder, tmp_path):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    argv = ("evaluate", "animation", "--model", tiny_model, *FAST, "--videos", folder, "--out", tmp_path / "looks")
    status, out, err = run(*argv, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert (result["clips"], result["misaligned"], result["size"]) == (3, False, [64, 64])
    assert (result["align"], result["proportions"]) == ("none", False)
    assert isinstance(result["l1"], float)
    assert result["fvd"] is None
    assert {file.name for file in (tmp_path / "looks").iterdir()} == {
        "001_ann.png", "002_bob.png", "003_cid.png", "identity.png"
    }  # fmt: skip
    assert result["out"] == str(tmp_path / "looks")


def test_command_misaligned_is_judged_by_identity_alone(run, tiny_model, folder):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    argv = ("evaluate", "animation", "--model", tiny_model, *FAST, "--videos", folder, "--misalign", "--align", "svd")
    status, out, err = run(*argv)
    assert status == 0, err
    lines = {line[:26].strip(): line[26:].split() for line in out.splitlines()}
    assert lines["L1 to the truth"] == ["-"] * 6
    assert "-" not in lines["identity (CSIM)"]
    assert "the truth itself" in out
    status, out, err = run(*argv, "--proportions", "--clips", 2, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert (result["align"], result["proportions"]) == ("svd", True)
    assert [row["name"] for row in result["per_clip"]] == [
        "ann driven by bob, 0.60 times as big", "bob driven by ann, 1.67 times as big"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "method", "proportions"),
    [((), "none", False), (("--misalign",), "learned", False), (("--misalign", "--align", "v1"), "v1", False),
     (("--misalign", "--proportions"), "learned", True)],
)  # fmt: skip
def test_drivers_of_other_bodies_are_aligned(run, tiny_model, monkeypatch, given, method, proportions):
    told = {}

    def stop(*_, **options):
        told.update(options)
        raise InputError("enough")

    monkeypatch.setattr(animation, "evaluate_cases", stop)
    assert run("evaluate", "animation", "--model", tiny_model, *FAST, *given)[0] == 2
    assert (told["align"], told["proportions"]) == (method, proportions)


def test_command_refusals(run, tiny_model, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("STABLEANIMATOR_MODELS", str(tmp_path / "models"))
    command = ("evaluate", "animation", "--model", tiny_model, *FAST)

    def refused(*argv) -> str:
        status, out, err = run(*command, *argv)
        assert (status, out) == (2, "")
        assert err.rstrip().count("\n") == 0, err
        return err

    assert "--sequences 1:2 chooses from --tiktok; give that, too" in refused("--sequences", "1:2")
    assert "--proportions is for drivers of other bodies; give --misalign, too" in refused("--proportions")
    for method in ("v1", "affine", "homography", "none"):
        told = refused("--misalign", "--align", method, "--proportions")
        assert f"--align {method} fits no similarity; take --align svd or learned" in told
    assert "2:1 is not FIRST:LAST" in refused("--sequences", "2:1")
    assert "not allowed with argument" in refused("--videos", folder, "--tiktok", folder)
    assert "needs multiples of 32" in refused("--size", "65x64")
    assert "there are 2 denoising steps" in refused("--hjb-steps", "8:9", "--videos", folder)
    assert "missing in" in refused("--model", "v1", "--videos", folder)
    (folder / "ann.json").unlink()
    error = refused("--videos", folder)
    assert "finding poses needs DWPose" in error
    assert "put the poses beside each video: NAME.json" in error


def test_less_than_two_usable_videos(run, tiny_model, folder, stick_figure):
    for name in ("ann", "bob"):
        (folder / f"{name}.json").write_text(json.dumps(stick_figure(1)))
    status, _, err = run("evaluate", "animation", "--model", tiny_model, *FAST, "--videos", folder)
    assert status == 2
    assert "1 usable videos in" in err
    assert "ann is left out: it has 1 frames, need 2; bob is left out" in err


def test_sequences():
    assert evaluate.sequences("335:340") == (335, 340)

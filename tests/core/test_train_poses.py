"""Training the built-in pose estimator: its data against pictures, its losses against known truths, and resuming."""

from __future__ import annotations

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from stableanimator_core import cli
from stableanimator_core.errors import InputError
from stableanimator_core.models.pose_estimator import DETECTOR_SIZE, KEYPOINT_SIZE, PoseEstimator, Reading
from stableanimator_core.performers import clip_keypoints, make_clip, render_dataset
from stableanimator_core.pose import dwpose
from stableanimator_core.pose.detector import Person
from stableanimator_core.training import pose_estimator as training
from stableanimator_core.training import pose_pictures as pictures
from stableanimator_core.training.loop import Budget
from stableanimator_core.training.pose_estimator import EstimatorRecipe
from stableanimator_core.training.pose_pictures import Batch, Material

pytest.importorskip("onnx", reason="the package onnx, which writes the networks' files, is not installed")

SIDE = 128  # px of the drawn frames
RECIPE = EstimatorRecipe(batch=3, clips=2, frames=1, size=64, validation_clips=1, validate_every=100)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of two rendered clips."""
    folder = tmp_path_factory.mktemp("clips")
    render_dataset(folder, 2, seed=1, size=64, frames=1, workers=1)
    return folder


@pytest.fixture
def plain(monkeypatch):
    """Pictures stay as they are: no other light, no noise."""
    monkeypatch.setattr(pictures, "degrade", lambda frames, generator: frames)


def dotted(people: int = 24) -> Material:
    """Dark frames with a grey box, and one bright dot in it: point 40 of a person who has no other."""
    rng = np.random.default_rng(5)
    frames = np.zeros((people, SIDE, SIDE, 3), np.uint8)
    low = rng.integers(10, 50, (people, 2))
    boxes = np.concatenate([low, low + rng.integers(40, 70, (people, 2))], axis=1)
    points = np.zeros((people, 133, 2), np.float32)
    for frame, box, point in zip(frames, boxes, points[:, 40]):
        point[:] = rng.integers(box[:2] + 8, box[2:] - 8)
        frame[box[1] : box[3], box[0] : box[2]] = 60, 80, 100
        cv2.circle(frame, tuple(int(v) for v in point), 3, (255, 255, 255), -1)
    seen = np.zeros((people, 133), np.float32)
    seen[:, 40] = 1
    return Material(frames, points, seen, boxes.astype(np.float32))


def draw(material: Material, seed: int = 0, batch: int = 24) -> pictures.Draw:
    return pictures.draw_step(material, batch, np.random.default_rng(seed))


def test_wholebody_order_is_what_dwpose_reads():
    keypoints = clip_keypoints(make_clip(3, size=96, frames=2).poses)
    points, score = dwpose.to_openpose(*pictures.to_wholebody(keypoints))
    body = [joint for joint in range(18) if joint != 1]  # the neck is the shoulders' middle there
    for part, stored in ((points[:, body], keypoints[:, body]), (points[:, 24:], keypoints[:, 18:])):
        np.testing.assert_allclose(part, stored[..., :2], atol=1e-4)
    np.testing.assert_allclose(score[:, 24:], keypoints[:, 18:, 2])
    assert (score[:, 18:24] == 0).all()  # feet


def test_boxes_hold_the_person_and_end_with_the_picture():
    clip = make_clip(3, size=160, frames=4)
    keypoints = clip_keypoints(clip.poses)
    boxes = pictures.person_boxes(keypoints, 160, 160)
    seen = keypoints[..., 2] > 0
    for box, points, shown in zip(boxes, keypoints[..., :2], seen):
        assert (points[shown] >= box[:2] - 0.01).all() and (points[shown] <= box[2:] + 0.01).all()
        face = points[18:86]
        assert box[1] < face[:, 1].min() - 0.3 * np.ptp(face[:, 1])  # hair
    assert (boxes >= 0).all() and (boxes <= 160).all()
    keypoints[:, 18:86, 2] = 0  # nobody's face: still a box
    assert np.isfinite(pictures.person_boxes(keypoints, 160, 160)).all()


def test_pictures_are_moved_as_opencv_does():
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3)).astype(np.uint8), (0, 0), 2)
    centre, size = dwpose.crop_region(np.array([20.0, 5.0, 50.0, 70.0]), 48, 64)
    matrix = dwpose.crop_matrix(centre, size, 48, 64)
    wanted = cv2.warpAffine(picture, matrix, (48, 64), flags=cv2.INTER_LINEAR)
    inverse = torch.from_numpy(cv2.invertAffineTransform(matrix)).float()[None]
    pixels = torch.from_numpy(picture).permute(2, 0, 1).float()[None]
    moved = pictures._warp(pixels, inverse, (64, 48), "zeros")[0].permute(1, 2, 0).numpy()
    assert np.abs(moved - wanted)[1:-1, 1:-1].max() < 3  # its fractions are rounded


def test_points_stay_on_what_they_mark(plain):
    drawn = draw(dotted(), seed=2, batch=64)
    batch = pictures.make_batch(drawn)
    assert batch.crops.shape[2:] == KEYPOINT_SIZE
    turned = drawn.crop[:, 0, 1].abs() > 1e-3
    assert turned.any() and not turned.all()
    white = (255 - torch.tensor(dwpose.MEAN_RGB)) / torch.tensor(dwpose.STD_RGB)
    hidden = 0
    for crop, point, seen in zip(batch.crops, batch.points[:, 40], batch.seen[:, 40]):
        bright = ((crop - white[:, None, None]).abs().amax(0) < 0.3).nonzero().float()  # y x
        if not seen:
            hidden += 1
            assert len(bright) == 0 or (bright.flip(1) - point).norm(dim=1).max() < 12  # its edge, cut off
        elif len(bright) > 40:
            assert (bright.mean(0).flip(0) - point).norm() < 2.5
    assert 2 < hidden < 24  # behind the picture's edge
    assert batch.seen[:, :40].sum() == batch.seen[:, 41:].sum() == 0  # nobody else's points


def test_colours_reach_each_network_in_its_order(plain):
    batch = pictures.make_batch(draw(dotted()))
    bgr = batch.canvases.permute(0, 2, 3, 1)
    assert ((bgr - torch.tensor([100.0, 80, 60])).abs().amax(-1) < 1).any(-1).any(-1).float().mean() > 0.9
    rgb = batch.crops.permute(0, 2, 3, 1) * torch.tensor(dwpose.STD_RGB) + torch.tensor(dwpose.MEAN_RGB)
    assert ((rgb - torch.tensor([60.0, 80, 100])).abs().amax(-1) < 1).any(-1).any(-1).all()


def test_boxes_stay_around_what_they_mark(plain):
    drawn = draw(dotted(), batch=64)
    batch = pictures.make_batch(drawn)
    two = batch.boxes[:, 1].isfinite().all(-1)
    assert 5 < two.sum() < 35
    checked = 0
    for canvas, boxes, split in zip(batch.canvases, batch.boxes, drawn.split):
        body = ((canvas - torch.tensor([100.0, 80, 60])[:, None, None]).abs().amax(0) < 45) | (canvas.amin(0) > 200)
        for box, left, right in zip(boxes, (0, int(split.ceil())), (int(split.ceil()), DETECTOR_SIZE[1])):
            if box.isnan().any():
                continue
            y, x = body[:, left:right].nonzero().T
            extent = torch.stack([x.min() + left, y.min(), x.max() + left + 1, y.max() + 1])
            assert (extent - box).abs().max() < 4, (extent, box)
            checked += 1
    assert checked > 50
    width, height = drawn.extent[0].int().tolist()
    assert (batch.canvases[0, :, height:] == dwpose.PAD_GREY).all()
    assert (batch.canvases[0, :, :, width:] == dwpose.PAD_GREY).all()


def test_who_is_hardly_in_the_picture_is_not_to_be_found():
    """Two people side by side cut each other off: what is left of one must be worth finding."""
    box = np.array([10.0, 50, 150, 110], dtype=np.float32)  # wide: a cut takes much of it
    nothing = np.zeros((1, 133), np.float32)
    material = Material(np.zeros((1, 160, 160, 3), np.uint8), np.zeros((1, 133, 2), np.float32), nothing, box[None])
    drawn = pictures.draw_step(material, 600, np.random.default_rng(0))
    shares = []
    for matrices, shown in ((drawn.canvas, drawn.boxes[:, 0]), (drawn.beside, drawn.boxes[:, 1])):
        whole = (box[2] - box[0]) * (box[3] - box[1]) / matrices[:, 0, 0].numpy() ** 2  # px of the canvas
        shares.append(((shown[:, 2] - shown[:, 0]) * (shown[:, 3] - shown[:, 1])).numpy() / whole)
    share = np.concatenate(shares)  # nan where nobody is to be found
    assert np.isnan(share).any() and pictures.SHOWN < np.nanmin(share) < 0.5


def test_steps_follow_from_seed_step_and_process(clips):
    material = pictures.load_material(clips)

    def step(first: int, process: int = 0, seed: int = 1) -> Batch:
        steps = pictures.draw_steps(material, RECIPE.batch, first, seed=seed, process=process)
        if first == 0:
            next(steps), next(steps)
        return pictures.make_batch(next(steps))

    same = [torch.equal(one, other) for one, other in zip(step(0), step(2))]
    assert all(same) or torch.allclose(step(0).boxes, step(2).boxes, equal_nan=True)
    assert torch.equal(step(0).crops, step(2).crops) and torch.equal(step(0).canvases, step(2).canvases)
    for other in (step(3), step(2, process=1), step(2, seed=2)):
        assert not torch.equal(step(2).crops, other.crops)


def truth(points: torch.Tensor) -> Reading:
    """What a network that knows the points would say."""
    curves = []
    for axis, side in ((0, KEYPOINT_SIZE[1]), (1, KEYPOINT_SIZE[0])):
        away = torch.arange(2 * side) - 2 * points[..., axis, None]
        curves.append(-0.5 * (away / EstimatorRecipe().spread).square())
    return Reading(*curves, torch.full(points.shape[:2], 9.0))


def test_the_keypoints_loss_is_least_at_the_truth():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 133, 2, generator=generator) * torch.tensor([KEYPOINT_SIZE[1], KEYPOINT_SIZE[0]])
    seen = torch.ones(2, 133)
    batch = Batch(None, None, None, points, seen)
    best, sure = training.keypoint_loss(truth(points), batch, EstimatorRecipe())
    assert sure < 0.01
    for shift in ([1.0, 0], [0, -1.0]):
        assert training.keypoint_loss(truth(points + torch.tensor(shift)), batch, EstimatorRecipe())[0] > best + 0.01
    seen[:, 90:] = 0  # what is not seen has no place
    points[:, 90:] = 0
    batch = Batch(None, None, None, points, seen)
    one, unsure = training.keypoint_loss(truth(points), batch, EstimatorRecipe())
    moved = points.clone()
    moved[:, 90:] += 30
    assert training.keypoint_loss(truth(moved), batch, EstimatorRecipe())[0] == one and unsure > 1


def raw_of(boxes: list[list[float]]) -> torch.Tensor:
    """[1, A, 5]: every cell says its nearest box, in YOLOX's way, and is sure where it should be."""
    cells, strides = (torch.from_numpy(part) for part in dwpose.cell_grid(*DETECTOR_SIZE))
    given = torch.tensor(boxes)[None]
    owner = training.assign_cells(cells, strides[:, 0], given)[0]
    box = given[0, owner.clamp_min(0)]
    centre, size = (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]
    sure = torch.where(owner >= 0, 12.0, -12.0)
    return torch.cat([centre / strides - cells, (size / strides).log(), sure[:, None]], dim=1)[None]


def test_the_boxes_loss_is_least_at_the_truth():
    boxes = [[20.0, 30, 120, 230], [150.0, 100, 190, 160]]
    raw, given = raw_of(boxes), torch.tensor(boxes)[None]
    overlap, objectness = training.box_loss(raw, given)
    assert overlap < 1e-4 and objectness < 1e-2
    decoded, _ = dwpose.decode_boxes(
        torch.cat([raw, torch.ones_like(raw[..., :1])], -1)[0].numpy(), *DETECTOR_SIZE, 1.0
    )
    kept = decoded[dwpose.nms(decoded[raw[0, :, 4] > 0], raw[0, raw[0, :, 4] > 0, 4].numpy())[:1]]
    assert len(kept) == 1
    found = decoded[raw[0, :, 4].numpy() > 0]
    for box in boxes:
        assert np.abs(found - box).max(1).min() < 0.01
    off = raw.clone()
    off[..., 0] += 1
    assert training.box_loss(off, given)[0] > 0.1
    off = raw.clone()
    off[..., 4] *= -1
    assert training.box_loss(off, given)[1] > 5
    nobody = torch.full((1, 2, 4), torch.nan)
    overlap, objectness = training.box_loss(raw, nobody)
    assert overlap == 0 and objectness > 5


def test_people_are_found_by_grids_of_their_size():
    cells, strides = (torch.from_numpy(part) for part in dwpose.cell_grid(*DETECTOR_SIZE))
    small, large = [100.0, 100, 120, 130], [20.0, 10, 200, 250]
    for box, finest, coarsest in ((small, 8, 8), (large, 32, 32)):
        owner = training.assign_cells(cells, strides[:, 0], torch.tensor([[box, [torch.nan] * 4]]))[0]
        used = strides[owner >= 0, 0]
        assert used.min() == finest and used.max() == coarsest and 4 <= len(used) <= 9
    both = training.assign_cells(cells, strides[:, 0], torch.tensor([[large, [40.0, 10, 220, 250]]]))[0]
    assert {0, 1} <= set(both.tolist())  # each has cells of its own


def test_losses_teach(clips):
    material = pictures.load_material(clips)
    recipe = replace(RECIPE, batch=4)
    torch.manual_seed(0)
    net = PoseEstimator()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for step, drawn in zip(range(20), pictures.draw_steps(material, recipe.batch, 0, seed=recipe.seed, process=0)):
        loss, parts = training.estimator_loss(net, pictures.make_batch(drawn), recipe)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append({name: float(value.detach()) for name, value in parts.items()})
        assert all(np.isfinite(list(losses[step].values())))
    for name in ("places", "seen", "objectness"):
        assert np.mean([row[name] for row in losses[-4:]]) < 0.9 * np.mean([row[name] for row in losses[:4]]), name


def test_a_killed_run_goes_on_to_the_same_weights(clips, tmp_path):
    def weights(out) -> dict:
        return torch.load(out / training.CHECKPOINT, weights_only=True)["network"]

    train = dict(data=clips, device="cpu")
    training.train_estimator(tmp_path / "whole", Budget(4), RECIPE, **train)
    # the learning rate follows the budget, so a run that is cut short has the same one
    stop = replace(RECIPE, checkpoint_seconds=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "estimator_loss", killed_after(2))
        with pytest.raises(KeyboardInterrupt):
            training.train_estimator(tmp_path / "parts", Budget(4), stop, **train)
    with pytest.raises(InputError, match="go on with --resume"):
        training.train_estimator(tmp_path / "parts", Budget(4), RECIPE, **train)
    scores = training.train_estimator(tmp_path / "parts", Budget(4), RECIPE, resume=True, **train)
    torch.testing.assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert scores["step"] == 4 and scores["detected"] == 0
    written = {path.name for path in (tmp_path / "parts").iterdir()}
    assert {"person_detector.onnx", "keypoint_detector.onnx", "README.md", "checkpoint.pt"} <= written
    with pytest.raises(InputError, match="other settings"):
        training.train_estimator(tmp_path / "parts", Budget(4), replace(RECIPE, batch=2), resume=True, **train)


def killed_after(steps: int):
    """estimator_loss that is interrupted after so many steps."""
    real, count = training.estimator_loss, iter(range(100))

    def loss(*given):
        if next(count) == steps:
            raise KeyboardInterrupt
        return real(*given)

    return loss


class Oracle:
    """A detector that knows the truth, `shift` px to the right."""

    notes = ()

    def __init__(self, clip, shift: float = 0.0, blind: int = 0):
        self.clip, self.shift, self.blind, self.frame = clip, shift, blind, -1

    def detect(self, frames, *, min_person_score):
        return [self._see() for _ in frames]

    def _see(self) -> list[Person]:
        self.frame += 1
        if self.frame < self.blind:
            return []
        poses, f = self.clip.poses, self.frame

        def part(name):
            xy = getattr(poses, name)[f, 0] + [self.shift, 0]
            return np.concatenate([xy, getattr(poses, f"{name}_score")[f, 0][..., None]], axis=-1)

        return [Person(np.array([10.0, 10, 150, 150]), 0.9, part("body"), part("face"), part("hands"))]


def test_measure_knows_right_from_wrong():
    clip = make_clip(4, size=160, frames=4, split="held_out")
    right = training.measure(Oracle(clip), [clip])
    assert right["detected"] == right["recall"] == 1 and right["body"] < 1e-6 and right["hands"] < 1e-6
    shifted = training.measure(Oracle(clip, shift=3), [clip])
    joints = np.where(clip.poses.body_score[:, 0, :, None] > 0, clip.poses.body[:, 0], np.nan)
    height = (np.nanmax(joints, 1) - np.nanmin(joints, 1)).max(-1)
    assert shifted["face"] == pytest.approx(np.mean(300 / height), rel=0.02)
    assert training.measure(Oracle(clip, blind=1), [clip])["detected"] == 0.75
    nobody = training.measure(Oracle(clip, blind=4), [clip])
    assert nobody["detected"] == nobody["recall"] == 0 and np.isnan(nobody["body"])


def test_data_that_do_not_serve_are_named(clips, tmp_path):
    with pytest.raises(InputError, match="holds no rendered clips"):
        pictures.load_material(tmp_path / "nothing")
    folder = shutil.copytree(clips, tmp_path / "clips")
    np.save(folder / "frames.npy", np.load(folder / "frames.npy")[:, :, :48])
    with pytest.raises(InputError, match="64 x 48 px; square ones"):
        pictures.load_material(folder)
    (folder / "progress").write_text("0")
    with pytest.raises(InputError, match="0 of 2 clips are rendered"):
        pictures.load_material(folder)
    (folder / "keypoints.npy").unlink()
    with pytest.raises(InputError, match="before keypoints were kept"):
        pictures.load_material(folder)


def test_the_command_trains(clips, tmp_path, capsys):
    out = tmp_path / "poses"
    argv = ["train", "poses", "--out", str(out), "--data", str(clips), "--quick", "--json"]
    assert cli.main(argv) == 0
    assert '"detected": 0.0' in capsys.readouterr().out
    assert (out / "keypoint_detector.onnx").stat().st_size > 1e6 and "held out" in (out / "README.md").read_text()
    assert cli.main(argv) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert cli.main([*argv, "--clips", "3"]) == 2
    assert "are for rendering" in capsys.readouterr().err
    assert cli.main(["train", "poses", "--out", str(tmp_path / "no" / "where")]) == 2
    assert "does not exist; create it" in capsys.readouterr().err

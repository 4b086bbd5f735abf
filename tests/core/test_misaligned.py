"""Misaligned pairs: known truths of bodies, postures, cameras and what a detector sees."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stableanimator_core.draws import Draws
from stableanimator_core.errors import InputError
from stableanimator_core.performers import MotionClip, choreograph
from stableanimator_core.skeleton import MIRROR
from stableanimator_core.training import bodies, cameras, misaligned
from stableanimator_core.training.bodies import COLUMN, COLUMNS, MID_HIP, POSTURES
from stableanimator_core.training.misaligned import (
    FRAMINGS,
    KINDS,
    Handheld,
    Motions,
    Pairs,
    PairSettings,
    Shapes,
    Steep,
    make_pairs,
)

PLAIN = dict(p_child=0.0, p_heavy=0.0, p_stylised=0.0, bone_jitter=0.0)
EXACT = dict(noise=(0.0, 0.0), slow_noise=0.0, p_swap=0.0, missing=(0.0, 0.0), p_turned_face=0.0)
LEVEL = dict(pitch=0.0, roll=0.0)
NO_KIND = dict(p_same_pose=0.0, p_other_pose=0.0, p_sit=0.0, p_crouch=0.0, p_kneel=0.0, p_turn=0.0)
FULL_BODY = (1.0, 0.0, 0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(seed: int = 0) -> Draws:
    return Draws(seeded(seed), "cpu")


@pytest.fixture(scope="module")
def motions() -> Motions:
    rng = np.random.default_rng(0)
    names = ("walk", "kick", "disco", "wave", "idle")
    return Motions.of([MotionClip(choreograph(name, 70, 15, rng), 15.0) for name in names])


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return Shapes.adults()


def pairs_of(motions: Motions, shapes: Shapes, batch: int = 64, seed: int = 0, **settings) -> Pairs:
    return make_pairs(motions, shapes, replace(PairSettings(frames=12), **settings), batch, generator=seeded(seed))


def standing(count: int, motions: Motions, shapes: Shapes) -> tuple[torch.Tensor, torch.Tensor]:
    """People of the first clip's frames on random bodies: nodes [count, 20, 3] and rows [count, 14]."""
    rows = shapes.rows[:count]
    joints = motions.joints[:count, None]
    return bodies.on_body(joints, motions.lengths[:1].expand(count, -1), rows)[:, 0], rows


# Bodies


def test_motions_get_exactly_the_lengths_of_the_row(motions, shapes):
    rows = shapes.rows[:5]
    window = torch.stack([motions.joints[a : a + 20] for a in motions.starts[:5]])
    nodes = bodies.on_body(window, motions.lengths, rows)  # [5, 20, 20, 3]

    def length(a: int, b: int) -> torch.Tensor:
        return (nodes[:, :, a] - nodes[:, :, b]).norm(dim=-1)

    for a, b, name in (
        (2, 3, "upper_arm"), (6, 5, "upper_arm"), (3, 4, "forearm"), (6, 7, "forearm"), (8, 9, "thigh"),
        (11, 12, "thigh"), (9, 10, "shank"), (12, 13, "shank"), (8, 11, "hip_width"), (16, 17, "ear_width"),
    ):  # fmt: skip
        wanted = rows[:, COLUMN[name], None].expand(-1, 20)
        assert torch.allclose(length(a, b), wanted, atol=2e-4), name
    torso = length(1, MID_HIP).median(1).values
    assert torch.allclose(torso, rows[:, COLUMN["torso"]], rtol=0.02)


def test_directions_of_bones_survive(motions, shapes):
    joints = motions.joints[None, :20]
    nodes = bodies.on_body(joints, motions.lengths[:1], shapes.rows[:1])
    for a, b in ((2, 3), (8, 9), (9, 10), (1, 2), (16, 17), (14, 15)):
        was, now = (bodies.unit(points[:, :, b] - points[:, :, a]) for points in (joints, nodes))
        assert torch.allclose(was, now, atol=1e-4)


def test_feet_stand_on_the_floor_and_do_not_sink(motions, shapes):
    window = torch.stack([motions.joints[a : a + 30] for a in motions.starts[:5]])
    rows = bodies.draw_bodies(shapes, 5, draws(), child=0.5, heavy=0.0, stylised=0.5, jitter=0.02)
    ankles = bodies.on_body(window, motions.lengths, rows)[:, :, [10, 13], 1].amin((1, 2))
    assert torch.allclose(ankles, rows[:, COLUMN["ankle_height"]], atol=1e-5)


def test_a_longer_leg_walks_farther(motions, shapes):
    row = shapes.rows[:1]
    legs = torch.ones_like(row)
    legs[:, [COLUMN["thigh"], COLUMN["shank"]]] = 1.5
    path = [
        bodies.on_body(motions.joints[None, :30], motions.lengths[:1], rows)[0, :, MID_HIP, [0, 2]]
        for rows in (row, bodies.resized(row, legs))
    ]
    assert torch.allclose(1.5 * (path[0] - path[0][0]), path[1] - path[1][0], atol=1e-5)


def test_real_rows_stay_as_they_are_and_others_have_their_proportions(shapes):
    options = dict(child=0.0, heavy=0.0, stylised=0.0, jitter=0.0)
    adults = bodies.draw_bodies(shapes, 200, draws(), **options)
    assert torch.cdist(adults, shapes.rows, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max() < 1e-6
    made = {
        kind: bodies.draw_bodies(shapes, 200, draws(), **options | {kind: 1.0})
        for kind in ("child", "heavy", "stylised", "cartoon")
    }

    def share(rows: torch.Tensor, *names: str) -> torch.Tensor:
        return rows[:, [COLUMN[name] for name in names]].sum(1) / rows[:, COLUMN["stature"]]

    stature = made["child"][:, COLUMN["stature"]]
    assert 0.949 < stature.min() < 1.0 and 1.4 < stature.max() < 1.451
    assert (share(made["child"], "head_length") > share(adults, "head_length").max()).float().mean() > 0.9
    assert share(made["child"], "thigh", "shank").mean() < share(adults, "thigh", "shank").mean() - 0.01
    for name in ("shoulder_width", "hip_width"):
        assert 1.1 < share(made["heavy"], name).mean() / share(adults, name).mean() < 1.45
    head = made["stylised"][:, COLUMN["head_length"]] / adults[:, COLUMN["head_length"]].mean()
    assert head.min() > 1.2 and head.max() > 2.2
    crown = bodies.crown_height(made["stylised"]) / made["stylised"][:, COLUMN["head_length"]]
    assert 0.5 < crown.min() and crown.max() < 0.8  # as large for the head as anybody's
    broad = made["cartoon"][:, COLUMN["ear_width"]] / made["cartoon"][:, COLUMN["torso"]]
    assert broad.min() < 1.13 and broad.max() > 1.71  # as far as the built-in performers go
    for rows in made.values():
        upright = rows[:, [COLUMN[name] for name in bodies.UPRIGHT]].sum(1)
        assert (rows[:, 1:] > 0).all() and (upright < rows[:, COLUMN["stature"]]).all()


def test_built_in_adults_look_like_adults(shapes):
    rows = shapes.rows
    assert rows.shape[1] == len(COLUMNS) and torch.equal(rows, Shapes.adults().rows)
    assert 1.35 < rows[:, 1].min() and rows[:, 1].max() < 2.05
    leg = rows[:, COLUMN["thigh"]] + rows[:, COLUMN["shank"]]
    assert 0.5 < torch.corrcoef(torch.stack([leg, rows[:, 1]]))[0, 1] < 0.98


def test_broken_shape_files_are_named(tmp_path, shapes):
    path = tmp_path / "shapes.npz"
    with pytest.raises(InputError, match="shapes.npz: not found"):
        Shapes.load(path)
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="no readable .npz"):
        Shapes.load(path)
    columns, rows = np.array(COLUMNS), shapes.rows[:3].numpy()
    for arrays, message in (
        ({"train": rows}, "has no columns"),
        ({"train": rows, "columns": columns[::-1]}, "columns are head_length"),
        ({"train": rows[:, :5], "columns": columns}, r"shape \[3, 5\]"),
        ({"train": -rows, "columns": columns}, "not positive"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=message):
            Shapes.load(path)
    np.savez(path, train=rows, columns=columns)
    assert torch.equal(Shapes.load(path).rows, shapes.rows[:3])
    with pytest.raises(InputError, match="has no val"):
        Shapes.load(path, "val")


def test_motion_files_come_with_the_lengths_of_each_clip(tmp_path, motions):
    path = tmp_path / "motion.npz"
    with pytest.raises(InputError, match="motion.npz: not found"):
        Motions.load(path)
    np.savez(path, joints=motions.joints.numpy(), clip_start=motions.starts.numpy().astype(np.int32), fps=15)
    loaded = Motions.load(path)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(loaded, motions, strict=True))


# Postures


@pytest.mark.parametrize("name", POSTURES)
def test_lowered_people_touch_the_floor_with_bones_as_long_as_before(name, motions, shapes):
    upright, rows = standing(60, motions, shapes)
    posture = torch.full((60,), list(POSTURES).index(name))
    low = bodies.on_floor(bodies.in_posture(upright, posture, draws()), rows)
    before, after = (bodies.bone_vectors(nodes)[:, :MID_HIP].norm(dim=-1) for nodes in (upright, low))
    assert torch.allclose(before, after, atol=1e-5)
    sides = (bodies.unit(nodes[:, 11] - nodes[:, 8]) for nodes in (upright, low))
    assert torch.linalg.vecdot(*sides).min() > 0.7
    was, now = upright[:, MID_HIP, 1], low[:, MID_HIP, 1]
    assert (now < 0.93 * was).all() and now.min() > 0.04
    not_hands = [joint for joint in range(20) if joint not in (4, 7)]
    assert (low[:, not_hands, 1] > 0).all() and (low[:, [9, 10, 12, 13], 1].amin(1) < 0.2).all()


def test_each_posture_has_its_own_legs(motions, shapes):
    upright, rows = standing(60, motions, shapes)

    def lowered(name: str) -> torch.Tensor:
        posture = torch.full((60,), list(POSTURES).index(name))
        return bodies.on_floor(bodies.in_posture(upright, posture, draws()), rows)

    chair, squat, knees = lowered("on a chair"), lowered("a squat"), lowered("on both knees")
    leg = rows[:, COLUMN["thigh"]]
    for nodes in (chair, squat):
        thigh = nodes[:, 9] - nodes[:, 8]
        yaw = bodies.heading(upright)
        forward = torch.stack([yaw.sin(), torch.zeros_like(yaw), yaw.cos()], -1)
        assert ((thigh * forward).sum(-1) > 0.4 * leg).all()
    assert (chair[:, MID_HIP, 1] > 0.3).all() and squat[:, MID_HIP, 1].mean() < chair[:, MID_HIP, 1].mean() - 0.05
    kneeling = knees[:, [9, 12], 1]
    assert torch.allclose(kneeling.amin(1), bodies.KNEE_CLEARANCE * rows[:, COLUMN["stature"]], atol=0.12)
    assert (kneeling.amax(1) < 0.25).all() and (knees[:, [10, 13], 1] > 0.04).all()
    assert ((knees[:, 8, 1] - knees[:, 9, 1]) > 0.9 * leg).all()


# Cameras


def test_a_known_point_lands_on_a_known_pixel():
    axes = cameras._axes(torch.tensor([0.0]), torch.tensor([0.0]))
    eye, centre = torch.tensor([[0.0, 1.0, 4.0]]), torch.tensor([[320.0, 240.0]])
    camera = cameras.Camera(eye, axes, torch.tensor([800.0]), centre)
    px, depth = camera.project(torch.tensor([[[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.5, 2.0], [0.0, 1.0, 5.0]]]))
    assert torch.allclose(px[0, :3], torch.tensor([[320.0, 240.0], [520.0, 240.0], [320.0, 40.0]]))
    assert torch.allclose(depth[0], torch.tensor([4.0, 4.0, 2.0, -1.0])) and px.isfinite().all()


def test_a_camera_that_looks_down_stands_higher_and_aims_at_the_same_point():
    tilt = torch.tensor([0.3])
    axes = cameras._axes(tilt, torch.tensor([0.05]))
    assert torch.allclose(axes[0] @ axes[0].T, torch.eye(3), atol=1e-6) and torch.linalg.det(axes[0]) > 0
    aim = torch.tensor([[0.2, 1.0, -0.4]])
    camera = cameras.Camera(aim - 3 * axes[:, 2], axes, torch.tensor([500.0]), torch.tensor([[50.0, 60.0]]))
    assert camera.eye[0, 1] > 1.5
    assert torch.allclose(camera.project(aim[:, None])[0][0, 0], torch.tensor([50.0, 60.0]), atol=1e-3)


@pytest.mark.parametrize("framing", range(len(FRAMINGS)))
def test_the_framing_fits_into_the_picture(framing, motions, shapes):
    table = tuple(float(number == framing) for number in range(3))
    pairs = pairs_of(motions, shapes, 200, driver_framing=table, reference_framing=table, **EXACT)
    points = [joint for joint in cameras._FRAMED[framing] if joint < 18]
    assert pairs.driving_seen[:, 0, points].all() and pairs.reference_seen[:, points].all()
    assert (pairs.framing == framing).all()
    if framing:
        assert not pairs.reference_seen[:, [10, 13]].any(1).all()  # the legs are cut off in some


def test_following_the_whole_clip_keeps_everything_in_the_picture(motions, shapes):
    pairs = pairs_of(motions, shapes, 200, driver_framing=FULL_BODY, p_whole_clip=1.0, **EXACT)
    assert pairs.driving_seen.all()


def test_pictures_have_the_sizes_and_shapes_asked_for(motions, shapes):
    pairs = pairs_of(motions, shapes, 500)
    for size in (pairs.driving_size, pairs.reference_size):
        longer, ratio = size.amax(1), size[:, 0] / size[:, 1]
        assert 479 < longer.min() < 600 and 1600 < longer.max() < 1921 and (size == size.round()).all()
        assert 0.55 < ratio.min() < 0.65 and 1.5 < ratio.max() < 1.79


def test_doubling_the_pictures_doubles_all_pixels(motions, shapes):
    square = dict(aspect=(1.0, 1.0))
    small = pairs_of(motions, shapes, side=(480.0, 480.0), **square)
    large = pairs_of(motions, shapes, side=(960.0, 960.0), **square)
    for name in ("driving", "reference", "clean", "truth", "height", "driving_size"):
        assert torch.allclose(2 * getattr(small, name), getattr(large, name), rtol=1e-3, atol=0.05), name
    assert torch.equal(small.driving_seen, large.driving_seen)


# Steep and moving cameras


def test_steep_cameras_stand_close_and_look_down_or_up(motions, shapes):
    rows = shapes.rows[:200]
    nodes = bodies.on_body(motions.joints[:1, None].expand(200, -1, -1, -1), motions.lengths[:1].expand(200, -1), rows)
    people, held = cameras.outline(nodes, rows), torch.ones(200, 1, dtype=torch.bool)
    size = torch.tensor([[640.0, 640.0]]).expand(200, 2)
    options = dict(focal=(1.0, 5.0), height=(0.5, 2.0), pitch=20.0, roll=0.0, closest=0.7, offset=1.0)
    given = people, held, nodes[..., 2].amax((1, 2)), torch.zeros(200, dtype=torch.long), size
    steep, plain = (cameras.draw_cameras(*given, draws(), **options, steep=part) for part in (Steep(), None))
    tilt = -steep.axes[:, 2, 1].asin().rad2deg()  # downwards
    assert 24.9 < tilt.abs().min() < 27 and 48 < tilt.abs().max() < 50.1 and 0.35 < (tilt > 0).float().mean() < 0.65
    assert (plain.axes[:, 2, 1].asin().rad2deg().abs() <= 20.1).all()
    distance = [(camera.eye - people.mean((1, 2))).norm(dim=-1).median() for camera in (steep, plain)]
    assert distance[0] < 0.6 * distance[1]


def test_a_moving_camera_begins_where_it_stands_and_strays_no_farther_than_asked(motions, shapes):
    options = EXACT | dict(p_turned_face=0.0)
    still, moving = (pairs_of(motions, shapes, **options, handheld=part) for part in (None, Handheld()))
    assert torch.allclose(moving.clean[:, 0], still.clean[:, 0], atol=1e-2)
    for name in ("truth", "reference", "height", "yaw"):
        assert torch.equal(getattr(moving, name), getattr(still, name)), name
    centre, focal = torch.tensor([[320.0, 240.0]]), torch.tensor([800.0])
    eye, axes = torch.tensor([[0.0, 1.0, 4.0]]), cameras._axes(torch.tensor([0.1]), torch.tensor([0.05]))
    camera = cameras.Camera(eye, axes, focal, centre)
    one = dict(pan=0.0, zoom=0.0, walk=0.0, roll=0.0, period=(20.0, 20.0))
    tall = torch.tensor([300.0])

    def moved(**changes):
        return cameras.handheld(camera, 60, tall, Handheld(**one | changes), draws(1))

    for part, other in zip(moved(), camera.of_frames(60), strict=True):
        assert torch.allclose(part, other, atol=1e-6)
    ahead = (eye + 4 * axes[:, 2])[:, None].expand(60, 1, 3)
    pan = moved(pan=0.5)
    assert torch.allclose(pan.axes @ pan.axes.mT, torch.eye(3).expand(60, 3, 3), atol=1e-5)
    path = pan.project(ahead)[0][:, 0] - centre
    assert 5 < path.abs().max() < 0.5 * 300 * 1.1 and path.diff(dim=0).norm(dim=-1).max() < 0.5 * 300 * 0.5
    zoom = moved(zoom=0.3).focal / focal
    assert 1.01 < zoom.log().abs().max().exp() < math.exp(0.3) and zoom[0] == 1
    walk = (moved(walk=0.2).eye - eye).norm(dim=-1)
    assert 0.01 < walk.max() < 0.2 * 4 * math.sqrt(3)
    lean = moved(roll=10.0).axes[:, 0] @ axes[0, 0]
    assert 0.2 < lean.clamp(-1, 1).acos().rad2deg().max() < 10


def test_the_heading_is_told(motions, shapes):
    pairs = pairs_of(motions, shapes, 200, **EXACT, **LEVEL, driver_framing=FULL_BODY, p_any_yaw=1.0)
    to_the_right = pairs.clean[:, 0, 5, 0] - pairs.clean[:, 0, 2, 0]  # left shoulder from right one: who faces us
    clear = pairs.yaw.cos().abs() > 0.5
    assert ((to_the_right > 0) == (pairs.yaw.cos() > 0))[clear].float().mean() > 0.97
    nose = pairs.clean[:, 0, 0, 0] - pairs.clean[:, 0, [16, 17], 0].mean(1)
    clear = pairs.yaw.sin().abs() > 0.7  # to their left is to the right of the picture
    assert ((nose > 0) == (pairs.yaw.sin() > 0))[clear].float().mean() > 0.9


# Truth


def test_alike_bodies_cameras_and_poses_need_no_alignment(motions, shapes, monkeypatch):
    monkeypatch.setattr(cameras, "_FILLS", ((0.7, 0.7),) * 3)
    alike = dict(
        aspect=(1.0, 1.0), side=(640.0, 640.0), focal=(2.0, 2.0), offset=0.0, p_whole_clip=0.0, drift=0,
        driver_framing=FULL_BODY, reference_framing=FULL_BODY,
    )  # fmt: skip
    one = Shapes(shapes.rows[:1])
    pairs = pairs_of(motions, one, **PLAIN, **EXACT, **LEVEL, **NO_KIND | {"p_same_pose": 1.0}, **alike)
    assert torch.allclose(pairs.clean, pairs.truth, atol=0.01)
    assert torch.allclose(pairs.reference, pairs.truth[:, 0], atol=0.01)
    assert torch.allclose(pairs.driving, pairs.clean * pairs.driving_seen[..., None])
    assert pairs.clean.std() > 50
    other = pairs_of(motions, shapes, **PLAIN, **EXACT, **LEVEL, **NO_KIND | {"p_same_pose": 1.0}, **alike)
    assert not torch.allclose(other.clean, other.truth, atol=2.0)


def test_the_truth_begins_over_the_references_spot_with_the_drivers_heading(motions, shapes):
    settings = PairSettings(frames=8)
    rows = [bodies.draw_bodies(shapes, 64, draws(n), child=0.3, heavy=0.2, stylised=0.3, jitter=0.03) for n in (1, 2)]
    window, lengths = misaligned._windows(motions, 64, settings, draws())
    yaw = misaligned._yaw(64, settings, draws())
    driver, truth = (misaligned._placed(bodies.on_body(window, lengths, row), yaw) for row in rows)
    for nodes in (driver, truth):
        assert torch.allclose((bodies.heading(nodes[:, 0]) - yaw).cos(), torch.ones(64), atol=1e-5)
        assert nodes[:, 0, MID_HIP, [0, 2]].abs().max() < 1e-5
    kind = torch.arange(64) % len(KINDS)
    reference = misaligned._reference(motions, truth, rows[1], kind, settings, draws())
    assert reference[:, MID_HIP, [0, 2]].abs().max() < 1e-5
    turned = bodies.heading(reference).rad2deg().abs()
    assert (turned[kind == misaligned.AWAY] >= 59.9).all()
    assert (turned[(kind != misaligned.AWAY) & (kind != misaligned.SAME)] <= 60.1).all()
    low = (kind == misaligned.SIT) | (kind == misaligned.CROUCH) | (kind == misaligned.KNEEL)
    ratio = reference[:, MID_HIP, 1] / (rows[1][:, COLUMN["thigh"]] + rows[1][:, COLUMN["shank"]])
    assert (ratio[low] < 0.95).all() and ratio[low].mean() < 0.65 and (ratio[kind == misaligned.OTHER] > 0.8).all()


@pytest.mark.parametrize("kind", ["p_sit", "p_crouch", "p_kneel"])
def test_in_the_picture_a_lowered_reference_has_its_hips_below_the_truths(kind, motions, shapes):
    pairs = pairs_of(
        motions, shapes, 100, **PLAIN, **EXACT, **LEVEL, **NO_KIND | {kind: 1.0}, reference_framing=FULL_BODY
    )
    hips, wanted = pairs.reference[:, [8, 11]].mean(1), pairs.truth[:, 0, [8, 11]].mean(1)
    apart = (hips - wanted) / pairs.height[:, None]
    assert apart[:, 0].abs().max() < 0.02  # over the same spot
    assert apart[:, 1].min() > 0.0 and apart[:, 1].mean() > 0.1


def test_height_is_that_of_the_body_standing_there(motions, shapes):
    upright = NO_KIND | {"p_same_pose": 1.0}
    pairs = pairs_of(motions, shapes, 100, **PLAIN, **EXACT, **LEVEL, **upright, focal=(8.0, 8.0))
    tall = pairs.truth[:, 0, [10, 13], 1].amax(1) - pairs.truth[:, 0, [14, 15], 1].amin(1)  # eyes to ankles
    assert 0.75 < (tall / pairs.height).median() < 0.95


# Motion windows


def test_windows_stay_in_their_clip_and_short_clips_repeat_their_end():
    clips = []
    for number, frames in enumerate((6, 40, 90)):
        joints = np.zeros((frames, 18, 3))
        joints[..., 0], joints[:, :, 1] = 1000 * (number + 1), np.arange(frames)[:, None]
        clips.append(MotionClip(joints, 15.0))
    motions = Motions.of(clips)
    settings = PairSettings(frames=32, p_mirror=0.0)
    window, _ = misaligned._windows(motions, 4000, settings, draws())
    assert (window[..., 0] == window[:, :1, :, 0]).all()
    time = window[:, :, 0, 1]
    steps = time.diff(dim=1)
    long, middle, short = (window[:, 0, 0, 0] == 1000 * n for n in (3, 2, 1))
    assert set(steps[long].unique().tolist()) == {1.0, 2.0} and set(steps[middle].unique().tolist()) == {1.0}
    assert (time[short, 0] == 0).all() and (time[short, 5:] == 5).all()
    assert time[long, -1].max() == 89 and time[long, 0].min() == 0
    assert 0.6 < long.float().mean() < 0.72


def test_mirrored_motions_change_sides():
    joints = torch.randn(1, 3, 18, 3)
    out, lengths = misaligned._mirrored(joints, torch.arange(20.0)[None], 1.0, draws())
    assert torch.equal(out[0, :, 4], joints[0, :, 7] * torch.tensor([-1.0, 1.0, 1.0]))
    assert lengths[0, 4] == 7 and lengths[0, 19] == 19


# What is seen


def test_unseen_joints_are_zero_and_seen_ones_lie_in_the_picture(motions, shapes):
    pairs = pairs_of(motions, shapes, 500)
    assert all(part.isfinite().all() for part in pairs)
    assert not pairs.driving[~pairs.driving_seen].any() and not pairs.reference[~pairs.reference_seen].any()
    for points, seen, size in (
        (pairs.driving, pairs.driving_seen, pairs.driving_size[:, None, None].expand_as(pairs.driving)),
        (pairs.reference, pairs.reference_seen, pairs.reference_size[:, None].expand_as(pairs.reference)),
    ):
        assert (points[seen] > 0).all() and (points[seen] < size[seen]).all()
    assert pairs.driving_seen.dtype == torch.bool and pairs.kind.dtype == torch.int64
    assert set(pairs.kind.tolist()) == set(range(len(KINDS)))


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.7, 0.97])
def test_the_share_of_lost_joints_is_as_asked_and_a_fit_still_exists(missing, motions, shapes):
    whole = dict(driver_framing=FULL_BODY, reference_framing=FULL_BODY, p_whole_clip=1.0, p_turned_face=0.0)
    pairs = pairs_of(motions, shapes, 400, missing=(missing, missing), noise=(0.0, 0.0), slow_noise=0.0, **whole)
    assert 1 - pairs.driving_seen.float().mean() == pytest.approx(missing, abs=0.01)
    assert 1 - pairs.reference_seen.float().mean() == pytest.approx(min(missing, 0.5), abs=0.01)
    shared = pairs.driving_seen[:, :5] & pairs.reference_seen[:, None]
    assert (shared.sum(-1).amax(1) >= 4).all() and (pairs.reference_seen.sum(1) >= 4).all()


def test_joints_are_lost_one_by_one_and_as_limbs(motions, shapes):
    seen = pairs_of(motions, shapes, 400, missing=(0.4, 0.4), driver_framing=FULL_BODY, p_whole_clip=1.0).driving_seen
    arm = seen[..., [2, 3, 4]].sum(-1)
    whole = ((arm == 0) | (arm == 3)).float().mean()
    assert 0.35 < whole < 0.95  # 0.28 if joints were lost by chance alone
    assert (seen.sum(-1) == 0).any()  # some frames lose everybody
    flicker = (seen[:, 1:] != seen[:, :-1]).float().mean()
    assert 0.05 < flicker < 0.4  # 0.48 by chance alone


def test_sides_change_places_as_often_as_asked(motions, shapes):
    options = dict(EXACT) | {"driver_framing": FULL_BODY, "p_whole_clip": 1.0}
    assert pairs_of(motions, shapes, **options).driving.sub(pairs_of(motions, shapes, **options).clean).abs().max() == 0
    pairs = pairs_of(motions, shapes, 400, **options | {"p_swap": 1.0})
    moved = (pairs.driving - pairs.clean).abs().amax(-1) > 0  # [B, F, 18]
    mirrored = pairs.clean[:, :, MIRROR]
    assert torch.equal(pairs.driving[moved], mirrored[moved])
    assert moved.any(-1).any(-1).all()  # in every clip
    assert not moved[..., 1].any()
    frames = moved.any(-1).sum(1)
    assert (frames == 1).any() and (frames > 3).any() and frames.max() <= 7
    some = pairs_of(motions, shapes, 400, **options | {"p_swap": 0.3})
    assert ((some.driving - some.clean).abs().amax((1, 2, 3)) > 0).float().mean() == pytest.approx(0.3, abs=0.08)


def test_noise_has_the_strength_asked_for(motions, shapes):
    options = EXACT | {"noise": (0.01, 0.01)}
    pairs = pairs_of(motions, Shapes(shapes.rows[:1]), 200, **PLAIN, **options, driver_framing=FULL_BODY, focal=(8, 8))
    error = (pairs.driving - pairs.clean)[pairs.driving_seen]
    tall = pairs.clean[:, 0, [10, 13], 1].amax(1) - pairs.clean[:, 0, [14, 15], 1].amin(1)
    assert 0.008 < error.std() / (tall.square().mean().sqrt() / 0.87) < 0.012
    same = NO_KIND | {"p_same_pose": 1.0, "drift": 0}
    pairs = pairs_of(motions, shapes, 200, **options | same)
    error = (pairs.reference - pairs.truth[:, 0]) / pairs.height[:, None, None]
    assert error[pairs.reference_seen].std() == pytest.approx(0.01, rel=0.1)
    slow = pairs_of(motions, shapes, 200, **EXACT | {"slow_noise": 0.02})
    error = (slow.driving - slow.clean)[..., 0]
    both = slow.driving_seen[:, 1:] & slow.driving_seen[:, :-1]
    assert error.diff(dim=1)[both].std() < 0.4 * error[:, 1:][both].std()


def test_faces_that_turn_away_are_not_seen(motions, shapes):
    away = EXACT | NO_KIND | {"p_turn": 1.0, "turn": (170.0, 180.0), "p_turned_face": 1.0, "yaw": 10.0, "p_any_yaw": 0}
    pairs = pairs_of(motions, shapes, 100, **away)
    assert pairs.reference_seen[:, [0, 14, 15]].float().mean() < 0.1 and pairs.reference_seen[:, 1].all()
    assert pairs.driving_seen[:, 0, [0, 14, 15]].float().mean() > 0.9
    side = pairs_of(motions, shapes, 100, **away | {"turn": (85.0, 95.0)})
    assert side.reference_seen[:, [16, 17]].sum(1).float().mean() < 1.3  # one ear
    shown = side.reference_seen[:, [0, 1]].all(1)
    to_the_right = (side.reference[:, 0, 0] > side.reference[:, 1, 0])[shown]  # of the picture: its right ear is near
    ears = side.reference_seen[shown][:, [16, 17]]
    assert ears[to_the_right, 0].float().mean() > 0.9 and ears[~to_the_right, 1].float().mean() > 0.9
    assert pairs_of(motions, shapes, 100, **away | {"p_turned_face": 0.0}).reference_seen.all(1).any()


# Settings and generators


def test_equal_generators_give_equal_pairs_and_leave_the_global_one_alone(motions, shapes):
    state = torch.get_rng_state()
    first, again, other = (pairs_of(motions, shapes, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.truth, other.truth)
    assert torch.equal(state, torch.get_rng_state())


def test_shapes_and_settings_of_the_result(motions, shapes):
    pairs = pairs_of(motions, shapes, 7, frames=1)
    assert pairs.driving.shape == (7, 1, 18, 2) and pairs.reference.shape == (7, 18, 2)
    assert pairs.truth.shape == pairs.clean.shape == (7, 1, 18, 2) and pairs.driving.dtype == torch.float32
    assert pairs.height.shape == pairs.kind.shape == (7,) and pairs.framing.shape == (7, 2)
    assert pairs_of(motions, shapes, 1, frames=100).clean.shape == (1, 100, 18, 2)
    for wrong in (
        dict(frames=0), dict(most_stride=0), dict(missing=(0.5, 0.2)), dict(missing=(0.0, 1.5)), NO_KIND,
        dict(p_child=0.5, p_heavy=0.6), dict(p_stylised=0.5, p_cartoon=0.6),
    ):  # fmt: skip
        with pytest.raises(InputError, match="pair settings: "):
            PairSettings(**wrong)


def test_hardly_any_pair_has_to_be_replaced(motions, shapes):
    pairs = pairs_of(motions, shapes, 2000, missing=(0.9, 0.9))
    different = torch.unique(pairs.height)
    assert len(different) > 1900 and (pairs.height > 20).all()
    shared = pairs.driving_seen[:, :5] & pairs.reference_seen[:, None]
    assert (shared.sum(-1).amax(1) >= 4).all()

"""A kept run: what is run again after a change, and that it comes out as a whole run does."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from stableanimator_core import pipeline
from stableanimator_core.denoiser import make_denoiser
from stableanimator_core.hjb_settings import HJBConfig, StepSettings
from stableanimator_core.keypoints import Poses
from stableanimator_core.pipeline import Hooks, SamplingConfig, find_face, plan_sampling, sample
from stableanimator_core.pose.telling import telling_frames
from stableanimator_core.sampling import karras_sigmas
from stableanimator_core.trail import Course, Plan, Trail, key_of
from stableanimator_core.video import read_image
from stableanimator_core.weights import load_models

OFF = HJBConfig(iterations=0)
STEPS = 5


class Desk:
    """What is tuned: everything but the face optimisation stays."""

    def __init__(self, models, reference, poses, face):
        self.models, self.reference, self.poses, self.face = models, reference, poses, face
        self.settings = SamplingConfig.for_model(models.config, steps=STEPS)

    def arguments(self, hjb, **changed):
        names = ("models", "reference", "poses", "face", "settings")
        return (*(changed.get(name, getattr(self, name)) for name in names), hjb)

    def sample(self, hjb, trail=None, hooks=None, measure=False, **changed):
        with torch.no_grad():
            return sample(*self.arguments(hjb, **changed), trail=trail, hooks=hooks, measure=measure)

    def plan(self, trail, hjb, **changed):
        return plan_sampling(trail, *self.arguments(hjb, **changed))


@pytest.fixture(scope="module")
def models(tiny_model):
    return load_models(tiny_model)


@pytest.fixture
def desk(models, material):
    reference, pose = read_image(material / "reference.png"), Poses.load(material / "reference.json")
    with torch.no_grad():
        face = find_face(models, reference, pose)
    return Desk(models, reference, Poses.load(material / "driving.json"), face)


def hjb(first, last, **more) -> HJBConfig:
    return HJBConfig(**{"iterations": 2, "first_step": first, "last_step": last, "lr": 0.3} | more)


def test_a_resumed_run_is_the_whole_run_bit_for_bit(desk):
    """After a change the same latents come out, and only the steps that the change touches were run."""
    trail = Trail()
    for options, first in (
        (hjb(3, 4), 0),  # nothing kept yet
        (hjb(3, 4, iterations=1), 3),
        (hjb(2, 4, iterations=1), 2),
        (hjb(2, 3, iterations=1), 4),  # the last step alone
        (hjb(2, 3, iterations=1, stop="adaptive"), 2),
        (OFF, 2),
        (hjb(4, 4, strength=((0.0, 0.5),)), 4),
        (hjb(4, 4, strength=((0.0, 0.5),)), STEPS),  # nothing at all
        (hjb(0, 4), 0),
    ):
        ran = []
        planned = desk.plan(trail, options)
        made = desk.sample(options, trail, Hooks(on_step=lambda i, x0, x, n, ran=ran: ran.append(i)))
        assert (planned.first, made.resumed_at, ran) == (first, first, list(range(first, STEPS))), options
        whole = desk.sample(options)
        assert whole.resumed_at == 0
        assert made.latents.equal(whole.latents), options


def test_a_forgotten_end_is_run_again(desk):
    trail, options = Trail(), hjb(2, 3)
    whole = desk.sample(options, trail).latents
    trail.forget_from(4)
    assert desk.plan(trail, options).first == 4 and len(trail.seconds) == 4
    assert (desk.sample(options, trail).latents == whole).all()
    assert desk.plan(trail, options).first == STEPS


def test_anything_else_starts_anew(desk, models):
    """Every input beside the face optimisation belongs to the key."""
    trail, options = Trail(), hjb(4, 4)
    settings, face = desk.settings, desk.face
    brighter = desk.reference.copy()
    brighter[0, 0] ^= 1
    for change in (
        {"settings": replace(settings, seed=1)},
        {"settings": replace(settings, guidance=(1.5, 2.0))},
        {"settings": replace(settings, steps=STEPS + 1)},
        {"reference": brighter},
        {"poses": desk.poses.transformed(lambda points: points + 0.25)},
        {"face": face._replace(embedding=face.embedding * 1.001)},
        {"face": None},
    ):
        desk.sample(options, trail)
        assert desk.plan(trail, options).first == STEPS
        assert desk.plan(trail, options, **change).first == 0, change
        desk.sample(options, trail, **change)
        assert desk.plan(trail, options).first == 0, f"{change}: the other run was forgotten"


def test_another_models_weights_are_another_key(desk, models):
    before = key_of(models)
    assert key_of(models) == before
    weight = models.unet.conv_out.weight
    with torch.no_grad():
        weight += 1e-3
    try:
        assert key_of(models) != before
    finally:
        with torch.no_grad():
            weight -= 1e-3


def test_what_norms_counted_belongs_to_the_key(models):
    before = key_of(models)
    norm = next(part for part in models.face_embedder.modules() if isinstance(part, torch.nn.BatchNorm2d))
    norm.running_mean += 1e-3
    try:
        assert key_of(models) != before
    finally:
        norm.running_mean -= 1e-3


def test_half_precision_tensors_have_a_key(models):
    one = torch.tensor([0.5, 1.0])
    keys = {key_of(models, one.to(dtype)) for dtype in (torch.bfloat16, torch.float16, torch.float32)}
    assert len(keys) == 3 and key_of(models, one.bfloat16()) in keys
    assert key_of(models, (one + 0.25).bfloat16()) not in keys


def test_pose_pictures_belong_to_the_key(desk):
    drawn = desk.sample(OFF).pose_images
    assert key_of(desk.models, drawn) != key_of(desk.models, 255 - drawn)


def test_little_room_keeps_fewer_latents_evenly(desk):
    each = desk.sample(OFF).latents.nbytes
    for room, restarts in ((5 * each, [0, 1, 2, 3, 4]), (2 * each, [0, 0, 0, 3, 3]), (each - 1, [0, 0, 0, 0, 0])):
        trail = Trail(limit_bytes=room)
        desk.sample(OFF, trail)
        assert [desk.plan(trail, hjb(first, 4)).first for first in range(STEPS)] == restarts
        assert desk.sample(hjb(4, 4), trail).latents.equal(desk.sample(hjb(4, 4)).latents)


def test_no_room_keeps_nothing(desk):
    trail = Trail(limit_bytes=0)
    desk.sample(OFF, trail)
    assert desk.plan(trail, OFF).first == 0


def test_a_cancelled_run_keeps_what_it_has(desk):
    def cancel(i, *_):
        if i == 3:
            raise InterruptedError

    trail = Trail()
    desk.sample(hjb(0, 4), trail)  # what it kept must not be taken for what comes now
    with pytest.raises(InterruptedError):
        desk.sample(hjb(1, 4), trail, Hooks(on_step=cancel))
    made = desk.sample(hjb(1, 4), trail)
    assert made.resumed_at == 3
    assert made.latents.equal(desk.sample(hjb(1, 4)).latents)


def test_measuring_changes_no_latents(desk):
    seen = []
    measured = desk.sample(hjb(2, 3), hooks=Hooks(on_identity=seen.append), measure=True)
    assert measured.latents.equal(desk.sample(hjb(2, 3)).latents)
    told = [(like.step, like.iteration, like.refined, like.last) for like in seen]
    alone = [(step, 0, False, True) for step in range(STEPS)]
    refined = [(step, k, True, k == 2) for step in (2, 3) for k in (0, 1, 2)]
    assert told == [*alone[:2], *refined, *alone[4:]]
    assert all(like.csim.isfinite().all() and like.faces.shape == (3, 3, 32, 32) for like in seen)
    for step in (2, 3):
        before, after = (like.csim.mean() for like in seen if like.step == step and like.iteration in (0, 2))
        assert after > before


def test_measuring_without_optimisation(desk):
    seen = []
    desk.sample(OFF, hooks=Hooks(on_identity=seen.append), measure=True)
    assert [like.step for like in seen] == list(range(STEPS))


def test_an_estimate_needs_measured_steps(desk):
    trail = Trail()
    assert desk.plan(trail, OFF).seconds is None
    desk.sample(OFF, trail)
    assert len(trail.seconds) == STEPS and all(took.iterations == 0 for took in trail.seconds)
    assert desk.plan(trail, OFF).seconds == 0
    assert desk.plan(trail, hjb(3, 4)).seconds is None, "no iteration was measured yet"
    desk.sample(hjb(3, 4), trail)
    assert [took.iterations for took in trail.seconds] == [0, 0, 0, 2, 2]
    few, many = (desk.plan(trail, hjb(0, 4, iterations=count)).seconds for count in (1, 10))
    assert 0 < few < many
    other = replace(desk.settings, seed=1)
    desk.sample(OFF, trail, settings=other)
    assert desk.plan(trail, hjb(0, 4), settings=other).seconds is None, "what was measured of another run is forgotten"


ADAPTIVE = StepSettings(10, 0.1, 2, "face", 8, 1.2)
COUNT = ADAPTIVE._replace(sharpest=None)


def test_an_estimate_counts_what_was_taken_and_measuring():
    """Of 10 iterations at most 2 were taken; steps that are left alone are measured."""
    trail, taken = Trail(), {1: 2}

    def refine(x0, i):
        time.sleep(0.04)
        if i in taken:
            trail.note_iterations(taken[i])
        return x0

    noise = torch.ones(1, 4, 2, 2)
    trail.sample(Course("a", (None, ADAPTIVE, None, None)), lambda x, sigma: x, noise, karras_sigmas(4), refine=refine)
    assert [took.iterations for took in trail.seconds] == [0, 2, 0, 0]

    def seconds(*steps):
        return trail.plan(Course("a", (COUNT._replace(lr=9.0), *steps))).seconds  # the first one differs: all are run

    refined = seconds()
    assert refined == pytest.approx(10 * 0.02, rel=0.3)
    assert seconds(None, None) - refined == pytest.approx(2 * 0.04, rel=0.3), "measuring"
    assert seconds(ADAPTIVE) - refined == pytest.approx(2 * 0.02, rel=0.3), "as many as adaptive steps took"


def test_adaptive_steps_say_how_many_iterations_they_took(desk):
    trail, seen = Trail(), []
    desk.sample(hjb(2, 3, iterations=30, stop="adaptive"), trail, Hooks(on_identity=seen.append))
    last = [max(like.iteration for like in seen if like.step == step) for step in (2, 3)]
    assert [took.iterations for took in trail.seconds] == [0, 0, *last, 0]
    assert max(last) < 30


def test_a_plan_in_words():
    assert Plan(10, 25, 12.3).text() == "steps 0 to 9 are kept, 10 to 24 will be run, about 12 s"
    assert Plan(10, 25, None).text() == "steps 0 to 9 are kept, 10 to 24 will be run"
    assert Plan(0, 25, 0.2).text() == "steps 0 to 24 will be run, about 1 s"
    assert Plan(25, 25, 0.0).text() == "all 25 steps are kept, nothing is run"


# --- a few frames of a whole motion -----------------------------------------------------------------------------------


def test_chosen_frames_are_made_as_they_are_in_the_whole(desk, monkeypatch, stick_figure):
    """The crop follows the median face of all frames, guidance runs from the first of all to the last of all."""
    first = Poses.from_openpose(stick_figure(5, step=4))
    poses = first.transformed(lambda points: points, width=2 * first.width)  # wide: it has to be cropped
    settings = replace(desk.settings, guidance=(1.0, 3.0))
    seen = []

    def run(poses=poses, **more):
        began = []
        hooks = Hooks(on_step=lambda i, x0, x, n: began.append(x))
        made = sample(desk.models, desk.reference, poses, desk.face, settings, OFF, hooks=hooks, **more)
        return made, began[0]

    def noted(unet, cond, guidance, windows, **more):
        seen.append(guidance.tolist())
        return make_denoiser(unet, cond, guidance, windows, **more)

    monkeypatch.setattr(pipeline, "make_denoiser", noted)
    chosen = [0, 1, 4]
    with torch.no_grad():
        (whole, noise), (draft, start) = run(), run(chosen=chosen)
        given, _ = run(chosen=chosen, pose_images=255 - whole.pose_images)
        alone, _ = run(poses=poses.picked(chosen))
    assert seen[:2] == [[1.0, 1.5, 2.0, 2.5, 3.0], [1.0, 1.5, 3.0]]
    assert start.equal(noise[chosen]) and len(draft.latents) == 3
    np.testing.assert_array_equal(draft.poses.body, whole.poses.body[chosen])
    np.testing.assert_array_equal(draft.pose_images, whole.pose_images[chosen])
    np.testing.assert_array_equal(given.pose_images, 255 - whole.pose_images[chosen])
    assert draft.faces.boxes.equal(whole.faces.boxes[chosen])
    assert (alone.poses.body != draft.poses.body).any(), "their own median face is elsewhere"


def test_chosen_frames_belong_to_the_key(desk):
    trail = Trail()
    with torch.no_grad():
        sample(*desk.arguments(OFF), trail=trail, chosen=[0, 2])
    plans = [plan_sampling(trail, *desk.arguments(OFF), chosen=chosen).first for chosen in ([0, 2], [0, 1], None)]
    assert plans == [STEPS, 0, 0]


# --- a few frames first -----------------------------------------------------------------------------------------------


def test_telling_frames_are_the_different_ones(stick_figure):
    poses = Poses.from_openpose(stick_figure(12))
    body = poses.body.copy()
    body[7, 0, 4] -= (0, 30)  # an arm goes up
    body[3, 0, 7] -= (0, 20)
    poses = replace(poses, body=body)
    assert telling_frames(poses, 1) == [0]
    assert telling_frames(poses, 2) == [0, 7]
    assert telling_frames(poses, 3) == [0, 3, 7]
    moved = poses.transformed(lambda points: points * 3 + 40, width=400, height=400)
    assert telling_frames(moved, 3) == [0, 3, 7], "wherever bodies are and how large"


def test_frames_with_a_face_tell_more(stick_figure):
    poses = Poses.from_openpose(stick_figure(6))
    body, score = poses.body.copy(), poses.body_score.copy()
    body[4, 0, 4] -= (0, 30)
    score[4, 0, 0] = 0
    body[2, 0, 4] -= (0, 9)
    poses = replace(poses, body=body, body_score=score)
    assert telling_frames(poses, 2) == [0, 2]
    assert 4 in telling_frames(poses, 6)
    assert len(telling_frames(poses, 5)) == 5


@pytest.mark.parametrize("count, expected", [(0, 4), (-1, 4), (4, 4), (9, 4), (3, 3)])
def test_counts_of_frames(stick_figure, count, expected):
    poses = Poses.from_openpose(stick_figure(4))
    assert len(set(telling_frames(poses, count))) == expected
    assert telling_frames(Poses.empty(4, 8, 8), 2) == [0, 3]


def test_picked_frames(stick_figure):
    poses = Poses.from_openpose(stick_figure(5, step=1))
    picked = poses.picked([4, 1])
    assert picked.frames == 2 and (picked.body[0] == poses.body[4]).all() and (picked.body[1] == poses.body[1]).all()

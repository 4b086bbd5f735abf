"""A report before a long run: work, memory and time of a job, and what stands in its way."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stableanimator_core import preflight
from stableanimator_core.evaluation import estimate
from stableanimator_core.evaluation.estimate import (
    Job,
    check_hjb_memory,
    describe_memory,
    describe_work,
    duration,
    hjb_gib,
    largest_window,
    networks_gib,
    refined_steps,
    report_job,
    try_job,
)
from stableanimator_core.face import FaceBoxes, ReferenceFace
from stableanimator_core.hjb import CURVES, HJBConfig, Window
from stableanimator_core.performers import make_clip
from stableanimator_core.pipeline import SamplingConfig, find_face
from stableanimator_core.weights import V1_CONFIG, Places, load_models
from stableanimator_core.weights.networks import Models

NOWHERE = Places(models=(Path("nowhere"),), insightface=(), checkpoints=())


@pytest.fixture(scope="module")
def models(tiny_model):
    return load_models(tiny_model)


@pytest.fixture(scope="module")
def clip():
    return make_clip(0, size=(64, 64), frames=6, family="wave")


@pytest.fixture
def job(clip):
    return Job(reference=clip.reference, reference_pose=clip.reference_pose, driving=clip.poses)


@pytest.fixture
def published(models, monkeypatch):
    """A model whose decoder passes for the published one in half precision, with networks of 4 GiB."""
    vae = models.vae.half()
    monkeypatch.setattr(vae.config, "block_out_channels", [128, 256, 512, 512])
    monkeypatch.setattr(estimate, "networks_gib", lambda _: 4.0)
    yield replace(models, config=V1_CONFIG)
    vae.float()


def settings(models: Models, **given) -> SamplingConfig:
    return SamplingConfig.for_model(models.config, **given)


@pytest.fixture
def sound(monkeypatch):
    """Pretend that nothing is wrong with this installation."""
    empty = preflight.Installation((), {"name": "cpu"}, None, {}, {}, {})
    monkeypatch.setattr(estimate, "check_installation", lambda places: empty)


def test_a_job_that_is_ready(models, job, sound):
    verdict, work, memory, time = report_job(models, job, NOWHERE).splitlines()[:4]
    assert verdict.startswith("ready to run, ")
    assert work == (
        "work: model 'tiny', 64x64, 6 frames in 2 windows, 2 denoising steps, "
        "1 face iterations in each of the steps 1 to 1"
    )
    assert memory.startswith("memory: networks ") and memory.endswith("MiB, finished frames 0.3 MiB of main memory")
    assert time == "time: not known for this machine; switch measure on for a short trial"


def test_nothing_but_a_model(models, sound):
    assert report_job(models, Job(), NOWHERE).splitlines()[0] == "ready to run, 0 notes"


def test_problems_come_before_notes_with_what_mends_them(models, job, sound):
    nobody = replace(job.driving, body_score=np.zeros_like(job.driving.body_score))
    lines = report_job(models, replace(job, driving=nobody, sampling={"width": 96}), NOWHERE).splitlines()
    assert lines[0] == "not ready: 1 problem, 1 note"
    assert [line.partition(":")[0] for line in lines[4::2]] == ["PROBLEM", "note"]
    assert lines[4] == "PROBLEM: driving: no person in any of 6 frames" and lines[5] == "    fix: give other poses"


def test_a_size_that_cannot_be_made_is_one_problem(models, sound):
    lines = report_job(models, Job(sampling={"width": 70}), NOWHERE).splitlines()
    assert lines[0] == "not ready: 1 problem, 0 notes"
    assert lines[1].startswith("PROBLEM: size 70 x 64: model 'tiny' needs multiples of 32") and len(lines) == 3


def test_published_files_count_for_the_published_model_alone(models, monkeypatch):
    asked = []
    empty = preflight.Installation((), {"name": "cpu"}, None, {}, {}, {})
    monkeypatch.setattr(estimate, "check_installation", lambda places: asked.append(places) or empty)
    report_job(models, Job(), NOWHERE)
    report_job(replace(models, config=V1_CONFIG), Job(), NOWHERE)
    assert asked == [None, NOWHERE]


def test_a_trial_tells_the_time(models, job, sound):
    forwards = []
    time = report_job(models, job, NOWHERE, measure=True, on_forward=lambda: forwards.append(1)).splitlines()[3]
    assert (
        time.startswith("time: about ")
        and "s a denoising step with the identity scope on, " in time
        and time.endswith(", as just tried")
    )
    assert len(forwards) >= estimate.TRIAL_STEPS * 2, "two windows in every step"


def test_a_trial_without_material_or_face_says_so(models, job, sound):
    report = report_job(models, Job(), NOWHERE, measure=True)
    assert "time: not measured" in report and "note: time: a trial needs a picture and a motion" in report
    hidden = replace(job.reference_pose, body_score=np.zeros((1, 1, 18)), face_score=np.zeros((1, 1, 68)))
    assert "face iteration," not in report_job(models, replace(job, reference_pose=hidden), NOWHERE, measure=True)


def test_a_trial_that_runs_out_of_memory_is_a_problem(models, job, sound, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(estimate, "sample", full)
    lines = report_job(models, job, NOWHERE, measure=True).splitlines()
    assert lines[4] == "PROBLEM: memory: a trial of this job ran out of the card's memory"


def test_the_total_is_reckoned_from_its_parts(models, clip):
    hjb, given = HJBConfig(iterations=5, first_step=0, last_step=9), settings(models, steps=20)
    face = find_face(models, clip.reference, clip.reference_pose)
    tried = try_job(models, clip.reference, clip.poses, face, given, hjb)
    assert min(tried.setup_s, tried.step_s, tried.decode_s) > 0 and tried.peak_gib is None
    parts = tried.setup_s + 20 * tried.step_s + 50 * tried.iteration_s + tried.decode_s
    assert tried.total_s == pytest.approx(parts)
    plain = try_job(models, clip.reference, clip.poses, None, given, hjb)
    assert plain.iteration_s == 0


def test_what_the_scope_looks_at_is_tried_too(models, clip):
    """Two plain steps are looked at once, the refined one before and after its iteration; each look can be stopped."""
    face = find_face(models, clip.reference, clip.reference_pose)

    def calls(face: ReferenceFace | None) -> int:
        count, hjb = itertools.count(), HJBConfig(iterations=1)
        try_job(models, clip.reference, clip.poses, face, settings(models), hjb, on_forward=lambda: next(count))
        return next(count)

    assert calls(face) - calls(None) == 4


def test_refined_steps_are_those_within_the_schedule_that_have_strength():
    hjb = HJBConfig(iterations=4, first_step=8, last_step=99)
    assert list(refined_steps(hjb, 10)) == [8, 9] and not refined_steps(hjb, 5)
    rising = HJBConfig(iterations=4, first_step=0, last_step=3, strength=CURVES["rising"])
    assert list(refined_steps(rising, 10)) == [1, 2, 3]


def test_steps_without_strength_are_no_work(models, clip):
    rising = HJBConfig(iterations=4, first_step=0, last_step=3, strength=CURVES["rising"])
    told = describe_work(models.config, settings(models, steps=10), rising, None)
    assert told.endswith("4 face iterations in each of the steps 1 to 3")
    face = find_face(models, clip.reference, clip.reference_pose)
    tried = try_job(models, clip.reference, clip.poses, face, settings(models, steps=10), rising)
    parts = tried.setup_s + 10 * tried.step_s + 12 * tried.iteration_s + tried.decode_s
    assert tried.total_s == pytest.approx(parts)


def test_face_iterations_that_sample_would_refuse_are_a_problem(models, sound):
    late = Job(sampling={"steps": 15}, hjb={"first_step": 20, "last_step": 30})
    lines = report_job(models, late, NOWHERE).splitlines()
    assert lines[0] == "not ready: 1 problem, 0 notes"
    assert lines[1] == "PROBLEM: hjb-steps 20:30 start after the last sampling step, 14"
    off = replace(late, hjb=late.hjb | {"iterations": 0})
    assert report_job(models, off, NOWHERE).startswith("ready to run")


def boxes(*corners: tuple[float, float], side: float = 100) -> FaceBoxes:
    """A face of so many px in every frame, at these corners."""
    found = torch.tensor([(x, y, x + side, y + side) for x, y in corners])
    return FaceBoxes(found, torch.ones(len(found), dtype=torch.bool))


def test_memory_of_the_face_optimisation_fits_the_records(published):
    """tests/benchmarks/2026-11-22-v1-full-size.md: the largest windows of its motion, 8 faces, in cells of 8 px."""
    given = settings(published)
    for rows, columns, gib in ((32, 36, 11.83), (56, 62, 35.56)):
        window = Window(list(range(8)), (slice(0, rows), slice(9, 9 + columns)), boxes())
        assert hjb_gib(published, given, HJBConfig(), window) == pytest.approx(gib, rel=0.005)


def test_memory_that_was_never_measured_is_not_told(published):
    given, faces = settings(published), boxes((200, 100))
    window = largest_window(published, given, HJBConfig(), faces)
    assert hjb_gib(published, given, HJBConfig(), window) > 0
    for hjb in (HJBConfig(decode="full"), HJBConfig(iterations=0), HJBConfig(first_step=90, last_step=99)):
        assert hjb_gib(published, given, hjb, window) is None
    nobody = faces._replace(found=torch.zeros(1, dtype=torch.bool))
    assert hjb_gib(published, given, HJBConfig(), largest_window(published, given, HJBConfig(), nobody)) is None
    published.vae.float()
    assert hjb_gib(published, given, HJBConfig(), window) is None


def test_a_face_that_moves_takes_more(published):
    """16 px of margin on each side of 100 px: the window holds all places that the faces of a chunk have."""
    given = settings(published, width=512, height=512)
    still, moving = boxes(*[(104, 104)] * 8), boxes(*((104 + 8 * i, 104) for i in range(8)))

    def gib(faces: FaceBoxes, chunk: int) -> float:
        hjb = HJBConfig(chunk=chunk)
        return hjb_gib(published, given, hjb, largest_window(published, given, hjb, faces))

    assert gib(moving, 8) == pytest.approx(gib(still, 8) * (136 + 56) / 136)
    assert gib(moving, 1) == gib(still, 1) == pytest.approx(gib(still, 8) / 8)
    last = boxes(*[(104, 104)] * 9, side=50)
    last.boxes[8] = torch.tensor((200.0, 200, 500, 500))
    assert largest_window(published, given, HJBConfig(), last).frames == [8], "the largest, not the first"


def test_a_cropped_motion_has_larger_faces(published, clip, sound):
    """The canvas is twice as wide as the output's: half of it is cut off, and the rest is as large as without."""
    reports = [
        report_job(published, Job({"width": 512, "height": 512}, driving=poses), NOWHERE).splitlines()
        for poses in (clip.poses, replace(clip.poses, width=128))
    ]
    plain, cropped = (
        next(line for line in lines if line.startswith("memory: ")).split(" more for ")[0].split() for lines in reports
    )
    assert plain[-1] == cropped[-1] == "GiB" and float(cropped[-2]) == pytest.approx(float(plain[-2]), rel=0.15)


def test_a_card_too_small_is_noted_with_the_chunk_that_fits(published):
    given, faces = settings(published, width=512, height=512), boxes(*[(104, 104)] * 8)
    needed = hjb_gib(published, given, HJBConfig(), largest_window(published, given, HJBConfig(), faces))
    assert not check_hjb_memory(published, given, HJBConfig(), faces, 5.1 + needed)
    assert not check_hjb_memory(published, given, HJBConfig(), None, 5.1)
    (finding,) = check_hjb_memory(published, given, HJBConfig(), faces, 5.1 + needed / 2)
    assert finding.level == "note" and finding.fix == "set chunk to 4 in HJB Options; the result differs a little"
    assert f"takes about {needed:.1f} GiB, the networks 4.0 GiB; the card has" in finding.what
    (finding,) = check_hjb_memory(published, given, HJBConfig(), faces, 5.0)
    assert "make a smaller video, or switch the face optimisation off" in finding.fix
    told = describe_memory(published, given, HJBConfig(), faces)
    assert f"face optimisation about {needed:.1f} GiB more for 8 faces in 136x136 px at once, finished" in told


def test_the_chunk_that_fits_knows_that_smaller_ones_have_smaller_windows(published):
    given, faces = settings(published, width=512, height=512), boxes(*((104 + 24 * i, 104) for i in range(8)))
    four = hjb_gib(published, given, HJBConfig(chunk=4), largest_window(published, given, HJBConfig(chunk=4), faces))
    (finding,) = check_hjb_memory(published, given, HJBConfig(), faces, 5.0 + 1.01 * four)
    assert finding.fix.startswith("set chunk to 4 ")


def test_work_without_a_motion_and_without_hjb(models):
    told = describe_work(models.config, settings(models, steps=1), HJBConfig(iterations=0), None)
    assert told == "work: model 'tiny', 64x64, 1 denoising step, no face optimisation"


def test_networks_are_weighed(models):
    numbers = sum(weight.numel() for part in models.parts().values() for weight in part.parameters())
    assert networks_gib(models) == pytest.approx(4 * numbers / 2**30)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (89 * 60, "89 min"), (7500, "2 h 05 min")]
)
def test_durations_as_people_say_them(seconds, told):
    assert duration(seconds) == told

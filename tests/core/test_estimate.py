"""A report before a long run: work, memory and time of a job, and what stands in its way."""

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
    face_rounds,
    hjb_gib,
    largest_face,
    networks_gib,
    report_job,
    try_job,
)
from stableanimator_core.hjb import HJBConfig
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
    assert time.startswith("time: about ") and "s a denoising step, " in time and time.endswith(", as just tried")
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


def test_face_rounds_are_those_within_the_schedule():
    hjb = HJBConfig(iterations=4, first_step=8, last_step=99)
    assert face_rounds(hjb, 10) == 8 and face_rounds(hjb, 5) == 0


def test_memory_of_the_face_optimisation_fits_the_records(published):
    """tests/benchmarks/2026-11-22-v1-full-size.md: 16 faces, 8 at once, margin of 2 cells."""
    for face_px, gib in ((206, 11.83), (386, 35.56)):
        assert hjb_gib(published, HJBConfig(), face_px) == pytest.approx(gib, rel=0.02)
    assert hjb_gib(published, HJBConfig(chunk=1), 206) == pytest.approx(11.83 / 8, rel=0.02)


def test_memory_that_was_never_measured_is_not_told(models, published):
    for hjb in (HJBConfig(decode="full"), HJBConfig(iterations=0)):
        assert hjb_gib(published, hjb, 206) is None
    assert hjb_gib(published, HJBConfig(), 0) is None
    published.vae.float()
    assert hjb_gib(published, HJBConfig(), 206) is None


def test_a_card_too_small_is_noted_with_the_chunk_that_fits(published, clip):
    given = settings(published, width=512, height=512)
    face_px = largest_face(V1_CONFIG, clip.poses, 512)
    assert face_px == pytest.approx(8 * largest_face(V1_CONFIG, clip.poses, 64))
    needed = hjb_gib(published, HJBConfig(), face_px)
    assert not check_hjb_memory(published, given, HJBConfig(), clip.poses, 5.1 + needed)
    (finding,) = check_hjb_memory(published, given, HJBConfig(), clip.poses, 5.1 + needed / 2)
    assert finding.level == "note" and finding.fix == "set chunk to 4 in HJB Options; the result is the same"
    assert f"takes about {needed:.1f} GiB, the networks 4.0 GiB; the card has" in finding.what
    (finding,) = check_hjb_memory(published, given, HJBConfig(), clip.poses, 5.0)
    assert "make a smaller video, or switch the face optimisation off" in finding.fix
    assert f"face optimisation about {needed:.1f} GiB more" in describe_memory(
        published, given, HJBConfig(), clip.poses
    )


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

"""What Sample tells its identity scope, and what it runs again when only the face optimisation changes."""

from __future__ import annotations

import base64
import io
import json
import time

import numpy as np
import pytest
from material import prompt, standing
from PIL import Image

from stableanimator_core.video import read_image

EVENT = "stableanimator.identity"
STEPS = 5


def scoped(seed: int, frames: int = 3, **hjb) -> dict:
    """A run of 5 steps, the face optimised in steps 2 and 3."""
    options = {"iterations": 3, "first_step": 2, "last_step": 3} | hjb
    return prompt(frames=frames, steps=STEPS, seed=seed, hjb=options)


def likenesses(events: list[dict]) -> list[tuple[int, int, str]]:
    return [(event["step"], event["iteration"], event["phase"]) for event in events if event["kind"] == "likeness"]


def test_every_step_is_measured_and_refined_ones_before_and_after(server):
    run = server.run(scoped(seed=401))
    assert run.succeeded, run.error
    start, *told, end = run.of(EVENT)
    refined = ["before", "refining", "refining", "after"]
    expected = [(step, 0, "alone") for step in (0, 1)]
    expected += [(step, iteration, phase) for step in (2, 3) for iteration, phase in enumerate(refined)]
    assert likenesses(told) == [*expected, (4, 0, "alone")]
    assert (start["steps"], start["first"]) == (STEPS, 0)
    assert start["hjb"] == {"iterations": 3, "steps": [2, 3], "lr": 0.1, "strength": "falling", "stop": "count"}
    assert start["frames"] == [0, 1, 2] and end["seconds"] >= 0
    assert {event["node"] for event in run.of(EVENT)} == {"sample"}
    for event in told:
        assert len(event["csim"]) == 3 and event["mean"] == pytest.approx(np.mean(event["csim"]), abs=2e-3)
        assert event["worst"]["csim"] == min(event["csim"]) == event["csim"][event["worst"]["frame"]]


def test_faces_are_sent_once_a_step_beside_the_references(server):
    start, *told, _ = server.run(scoped(seed=402)).of(EVENT)
    assert [event["step"] for event in told if event["worst"].get("face")] == list(range(STEPS))
    for url in (start["face"], told[-1]["worst"]["face"]):
        head, _, content = url.partition(",")
        assert head == "data:image/jpeg;base64" and len(content) < 8000
        assert np.ptp(np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))) > 0


def test_frames_without_a_face_have_no_similarity(server):
    poses = standing(3)
    poses.face_score[1], poses.body_score[1, :, [0, 14, 15, 16, 17]] = 0, 0
    run = server.run(prompt(frames=3, steps=2, seed=403, driving=poses))
    told = [event for event in run.of(EVENT) if event["kind"] == "likeness"]
    assert told and all([value is None for value in event["csim"]] == [False, True, False] for event in told)


def test_long_clips_are_told_as_64_columns_of_their_worst_frames(server):
    off = {"enabled": False}
    run = server.run(prompt(frames=65, steps=1, seed=404, driving=standing(65, sway=3.0), context_frames=65, hjb=off))
    start, told, _ = run.of(EVENT)
    assert len(told["csim"]) == len(start["frames"]) == 64 and start["frames"][-1] == 64
    assert min(told["csim"]) == told["worst"]["csim"]


def test_output_repeats_the_events_when_nothing_had_to_run(server):
    first, again = (server.run(scoped(seed=405)) for _ in range(2))
    events = first.outputs["sample"]["identity"]
    assert likenesses(events) == likenesses(first.of(EVENT))
    assert [event["kind"] for event in events][:: len(events) - 1] == ["start", "end"]
    assert not again.of(EVENT) and again.outputs["sample"]["identity"] == events
    assert sum(bool(event.get("worst", {}).get("face")) for event in events) == 1
    inner = [event for event in events if event.get("phase") == "refining"]
    assert inner and not any("csim" in event for event in inner), "only their means are drawn"


def test_a_change_of_the_face_optimisation_runs_the_tail_alone_and_gives_the_same_video(server):
    server.run(scoped(seed=406))
    changed = scoped(seed=406, first_step=3)
    run = server.run(changed)
    start, *told, _ = run.of(EVENT)
    assert (start["first"], start["hjb"]["steps"]) == (2, [3, 3])
    assert start["seconds"] >= 1, "an estimate, from the first run"
    assert {step for step, _, _ in likenesses(told)} == {2, 3, 4}
    assert likenesses(start["kept"]) == [(0, 0, "alone"), (1, 0, "alone")]
    assert {data["max"] for data in run.of("progress") if data["node"] == "sample"} == {3 + 3}
    server.free()  # nothing is kept any more
    whole = server.run(changed)
    assert whole.of(EVENT)[0]["first"] == 0
    pair = [np.stack([read_image(path) for path in server.saved(each)]) for each in (run, whole)]
    assert (pair[0] == pair[1]).all()
    shown = [each.outputs["sample"]["identity"][1:-1] for each in (run, whole)]
    assert [event["mean"] for event in shown[0]] == [event["mean"] for event in shown[1]]


def test_another_seed_or_clip_keeps_nothing(server):
    server.run(scoped(seed=407))
    for other in (scoped(seed=408), scoped(seed=407, frames=2)):
        start = server.run(other).of(EVENT)[0]
        assert start["first"] == 0 and start["kept"] == []


def unseen(seed: int, **hjb) -> dict:
    nodes = scoped(seed, **hjb)
    nodes["sample"]["inputs"]["identity_scope"] = False
    return nodes


def test_the_last_step_is_run_again_to_be_measured_when_the_scope_is_switched_on(server):
    server.run(scoped(seed=409))
    run = server.run(unseen(seed=410))
    assert not run.of(EVENT) and "identity" not in run.outputs.get("sample", {})
    seen = server.run(scoped(seed=410))
    start, *told, _ = seen.of(EVENT)
    assert start["first"] == STEPS - 1 and start["kept"] == []
    assert likenesses(told) == [(STEPS - 1, 0, "alone")]
    pair = [np.stack([read_image(path) for path in server.saved(each)]) for each in (run, seen)]
    assert (pair[0] == pair[1]).all()


def test_nothing_is_run_again_where_no_frame_shows_a_face(server):
    behind = standing(3)
    behind.face_score[:], behind.body_score[:, :, [0, 14, 15, 16, 17]] = 0, 0
    nodes = prompt(frames=3, steps=STEPS, seed=419, driving=behind)
    for seen in (False, True):
        nodes["sample"]["inputs"]["identity_scope"] = seen
        run = server.run(nodes)
        assert run.succeeded, run.error
    start, end = run.of(EVENT)
    assert start["first"] == STEPS and end["kind"] == "end" and start["hjb"] == {"off": "face"}


def test_steps_between_two_measured_ones_may_be_without(server):
    server.run(scoped(seed=418))
    server.run(unseen(seed=418, first_step=1))
    start, *told, _ = server.run(scoped(seed=418, first_step=1, last_step=4)).of(EVENT)
    assert start["first"] == 4 and likenesses(start["kept"]) == [(0, 0, "alone")]
    assert {step for step, _, _ in likenesses(told)} == {4}


def test_nothing_is_measured_where_no_page_listens(server):
    _, queued = server.post("/prompt", {"prompt": scoped(seed=417)})
    deadline = time.monotonic() + 60
    while not (history := server.get(f"/history/{queued['prompt_id']}")) and time.monotonic() < deadline:
        time.sleep(0.1)
    (done,) = history.values()
    assert done["status"]["status_str"] == "success" and "identity" not in done["outputs"]["sample"]
    assert done["outputs"]["sample"]["text"] == ["HJB: 3 iterations, steps 2 to 3, rate 0.1, falling"]
    start = server.run(scoped(seed=417, iterations=2)).of(EVENT)[0]
    assert start["first"] == 2 and start["kept"] == [], "what is kept was not measured"


def test_without_the_scope_a_text_says_what_is_kept(server):
    server.run(scoped(seed=411))
    changed = scoped(seed=411, iterations=1)
    changed["sample"]["inputs"]["identity_scope"] = False
    assert any(text.startswith("steps 0 to 1 are kept, 2 to 4 will be run") for text in server.run(changed).notes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "HJB: 1 iteration, steps 2 to 4, rate 0.1, falling"),
        ({"hjb": {"enabled": False}}, "HJB: off"),
        ({"face": None}, "HJB: off, there is no face to work on"),
    ],
)
def test_without_the_scope_notes_say_what_was_left_to_the_model(server, given, said):
    """The tiny model optimises once in the second of two steps, which of five are the third to the fifth."""
    run = server.run(prompt(frames=2, steps=STEPS, seed=420, identity_scope=False, **given))
    assert run.succeeded, run.error
    assert run.outputs["sample"]["text"][0].split("\n")[-1] == said
    live = [data["text"] for data in run.of("stableanimator.text") if data["node"] == "sample"]
    assert live[0] == said, "from the beginning"


def test_without_a_face_there_is_no_identity_to_follow(server):
    start, end = server.run(prompt(frames=2, steps=2, seed=412, face=None)).of(EVENT)
    assert start["hjb"] == {"off": "face"} and start["face"] is None
    assert end["kind"] == "end"


def test_a_draft_makes_a_few_telling_frames(server):
    run = server.run(prompt(frames=9, steps=1, seed=413, draft=2, driving=standing(9, sway=9.0)))
    assert run.succeeded, run.error
    assert len(server.saved(run)) == 2
    frames = run.of(EVENT)[0]["frames"]
    assert frames[0] == 0 and len(frames) == 2
    assert any(text.startswith(f"a draft of frames 0, {frames[1]} of 0 to 8") for text in run.notes)


@pytest.mark.parametrize(
    ("changed", "given"),
    [
        ({}, {}),
        (
            {"iterations": 0, "decode": "full", "chunk": 8, "stop": "adaptive", "sharpest": 1.5, "strength": "even"},
            {"iterations": 0, "decode": "full", "chunk": 8, "stop": "adaptive", "sharpest": 1.5}
            | {"strength": [[0.0, 1.0]]},
        ),
    ],
)
def test_options_left_as_they_are_leave_the_model_its_own(server, changed, given):
    widgets = server.get("/object_info/StableAnimatorHJBOptions")["StableAnimatorHJBOptions"]["input"]
    inputs = {name: settings["default"] for kind in widgets.values() for name, (_, settings) in kind.items()} | changed
    nodes = {"hjb": {"class_type": "StableAnimatorHJBOptions", "inputs": inputs}}
    nodes["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["hjb", 0]}}
    run = server.run(nodes)
    assert run.succeeded, run.error
    assert json.loads(run.outputs["show"]["text"][0]) == given


@pytest.mark.parametrize("options", [{"stop": "adaptive"}, {"strength": "rising"}])
def test_options_of_the_face_optimisation_reach_it(server, options):
    usual, other = server.run(scoped(seed=414)), server.run(scoped(seed=414, **options))
    assert other.succeeded, other.error
    pair = [np.stack([read_image(path) for path in server.saved(run)]) for run in (usual, other)]
    assert (pair[0] != pair[1]).any()


def test_sweep_tries_every_setting_and_hands_on_the_one_it_recommends(server):
    nodes = scoped(seed=415, frames=4)
    given = nodes["sample"]["inputs"]
    inputs = {name: given[name] for name in ("model", "reference", "poses", "face", "seed", "width", "height")}
    inputs |= {"iterations": "0, 2", "hjb_steps": "1:1, 0:1", "draft": 2, "steps": 2}
    nodes["sweep"] = {"class_type": "StableAnimatorHJBSweep", "inputs": inputs}
    nodes["report"] = {"class_type": "PreviewAny", "inputs": {"source": ["sweep", 3]}}
    given |= {"hjb": ["sweep", 2], "steps": 2}
    del nodes["hjb"]
    run = server.run(nodes)
    assert run.succeeded, run.error
    (report,) = run.outputs["sweep"]["text"]
    assert report.startswith("recommended: ") and report == run.outputs["report"]["text"][0]
    assert "a draft of frames 0, " in report
    for name in ("off", "2 iterations, steps 1:1", "2 iterations, steps 0:1"):
        assert any(line.startswith(f"{name}  ") for line in report.splitlines()), name
    taken = run.of(EVENT)[0]  # the model's own would be 1 iteration
    assert taken["hjb"].get("iterations", 0) == (0 if report.startswith("recommended: off: ") else 2)
    sheet, plot = (read_image(path) for path in server.shown(run, "sweep"))
    assert np.ptp(sheet) > 100 and np.ptp(plot) > 100
    progress = [data for data in run.of("progress") if data["node"] == "sweep"]
    assert progress[-1]["value"] == progress[-1]["max"] == 3 * 2


@pytest.mark.parametrize(("widget", "text"), [("iterations", "four"), ("hjb_steps", "9:1")])
def test_sweep_says_what_is_wrong_with_its_lists_before_anything_runs(server, widget, text):
    nodes = scoped(seed=416)
    lists = {"iterations": "0, 4", "hjb_steps": "", widget: text}
    kept = {name: nodes["sample"]["inputs"][name] for name in ("model", "reference", "poses", "face", "seed", "steps")}
    inputs = kept | lists | {"draft": 2, "width": 0, "height": 0}
    nodes["sweep"] = {"class_type": "StableAnimatorHJBSweep", "inputs": inputs}
    errors = server.node_errors({name: node for name, node in nodes.items() if name != "save"})["sweep"]["errors"]
    assert all(f'"{text}"' in error["details"] for error in errors)

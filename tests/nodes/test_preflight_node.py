"""Preflight in ComfyUI: a report whatever is connected."""

from __future__ import annotations

from material import extract, literal, standing


def prompt(**given) -> dict:
    inputs = {
        "model": ["load", 0], "steps": 0, "width": 0, "height": 0, "context_frames": 0, "measure": False,
    } | given  # fmt: skip
    return {
        "load": {"class_type": "StableAnimatorLoadModel", "inputs": {"model": "tiny", "dtype": "fp32"}},
        "image": {"class_type": "LoadImage", "inputs": {"image": "person.png"}},
        "hjb": {
            "class_type": "StableAnimatorHJBOptions",
            "inputs": {
                "enabled": True, "iterations": 3, "first_step": 0, "last_step": 1, "learning_rate": 0.1,
                "decode": "face", "scope": "face", "chunk": 8,
            },
        },
        "check": {"class_type": "StableAnimatorPreflight", "inputs": inputs},
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["check", 0]}},
    }  # fmt: skip


MATERIAL = {
    "reference": ["image", 0], "reference_pose": literal(standing(1)), "driving": literal(standing(6)),
    "hjb": ["hjb", 0],
}  # fmt: skip


def report_of(server, **given) -> str:
    run = server.run(prompt(**given))
    assert run.succeeded, run.error
    (report,) = run.outputs["check"]["text"]
    assert run.outputs["text"]["text"] == [report]
    return report


def test_a_model_alone_is_enough(server):
    report = report_of(server)
    assert "work: model 'tiny', 64x64, 2 denoising steps, 1 face iterations" in report


def test_a_whole_job_is_looked_at(server):
    several = standing(6).to_openpose()
    several[2]["people"] *= 2
    several[4]["people"] = []
    report = report_of(server, **MATERIAL | {"driving": literal(several)}, width=96, context_frames=4)
    assert "work: model 'tiny', 96x96, 6 frames in 2 windows, 2 denoising steps, 3 face iterations" in report
    assert "driving: nobody in 1 of 6 frames, first in frame 4" in report
    assert "driving: up to 2 people in a frame" in report
    assert "was not trained at 96x96" in report
    assert "size 96x96: the height follows from the picture's shape" in report
    assert "switch measure on" in report


def test_a_trial_tells_the_time(server):
    report = report_of(server, **MATERIAL | {"driving": literal(standing(3))}, measure=True)
    assert "time: about " in report and "as just tried" in report


def test_it_looks_again_each_time(server):
    """Files and packages change without a widget."""
    runs = [server.run(prompt()) for _ in range(2)]
    assert ["check" in run.of("execution_cached")[0]["nodes"] for run in runs] == [False, False]


def test_a_size_that_cannot_be_made_is_a_finding(server):
    report = report_of(server, width=72)
    assert report.startswith("not ready: ") and "PROBLEM: size 72 x 64: model 'tiny' needs multiples of 32" in report


def published(**load) -> dict:
    """The whole way with the published model, whose files are not here."""
    nodes = prompt(driving=["poses", 0], reference=["image", 0])
    nodes["load"]["inputs"] |= {"model": "v1", "download": False} | load
    nodes["poses"] = extract(["image", 0])
    return nodes


def test_missing_files_are_reported_where_nothing_can_be_loaded(server):
    run = server.run(published())
    assert run.succeeded, run.error
    (report,) = run.outputs["check"]["text"]
    assert report.startswith("not ready: ")
    folder, lines = server.base / "other_disk" / "models", report.split("\n")
    for file, node, size, count in (
        ("Animation/unet.pth, 6.20 GB", "Load Model", "9.61 GB", "6 of 6"),
        ("DWPose/yolox_l.onnx, 0.22 GB", "Extract Poses", "0.35 GB", "2 of 2"),
    ):
        assert f"PROBLEM: {node}: {size} to download, {count} files missing in {folder}" in lines
        (line,) = [line for line in lines if file in line]
        assert line.startswith("    ") and ": https://huggingface.co/FrancisRing/StableAnimator/blob/main/" in line
        assert f"switch download on in {node}" in report
    assert "weights download v1" in report and "weights download poses" in report
    assert "work: model 'v1', 512x512, 25 denoising steps" in report and "denoising about " in report
    assert "load" not in {data["node"] for data in run.of("executing")}, "nothing was loaded"


def test_poses_that_cannot_be_found_for_want_of_files_are_not_said_to_be_unconnected(server):
    nodes = published()
    nodes["pose"] = extract(["image", 0])
    nodes["check"]["inputs"] |= {"reference_pose": ["pose", 0], "measure": True}
    (report,) = server.run(nodes).outputs["check"]["text"]
    assert "note: driving and reference_pose: could not be found without the missing files" in report
    assert "its pose is missing" not in report and "connect" not in report
    assert "time: not measured before the missing files are here" in report


def test_what_is_missing_is_said_though_another_node_stops_the_run(server):
    nodes = published()
    nodes["face"] = {
        "class_type": "StableAnimatorEncodeFace", "inputs": {"model": ["load", 0], "reference": ["image", 0]},
    }  # fmt: skip
    nodes["worn"] = {"class_type": "PreviewAny", "inputs": {"source": ["face", 0]}}
    run = server.run(nodes)
    assert not run.succeeded and run.error["node_id"] == "load"
    assert any(note.startswith("PROBLEM: Load Model: 9.61 GB to download, ") for note in run.notes)


def test_files_that_will_be_downloaded_are_no_problem(server):
    nodes = published(download=True)
    del nodes["check"]["inputs"]["driving"], nodes["poses"]
    run = server.run(nodes)
    (report,) = run.outputs["check"]["text"]
    assert report.startswith("ready to run") and "note: Load Model downloads " in report


def test_a_model_is_only_loaded_to_measure(server):
    assert "load" not in {data["node"] for data in server.run(prompt()).of("executing")}
    runs = server.run(prompt(**MATERIAL | {"driving": literal(standing(3))}, measure=True, steps=3))
    (report,) = runs.outputs["check"]["text"]
    assert "as just tried" in report

"""Downloads from a hub on this machine: whole, interrupted, wrong, impossible."""

import errno
import hashlib
import json
import shutil
import socket
import sys
from collections import namedtuple
from pathlib import Path

import huggingface_hub
import huggingface_hub.file_download
import numpy as np
import pytest
from hub_server import COMMIT, Hub, serve

from stableanimator_core.errors import WeightsError
from stableanimator_core.weights import download as module
from stableanimator_core.weights.download import download, plan_download
from stableanimator_core.weights.places import Places
from stableanimator_core.weights.registry import FILES, REPO, V1
from stableanimator_core.weights.verify import read_records

NET = FILES["pose_net"]
SIZE = 10_000


@pytest.fixture
def hub(monkeypatch):
    """A hub with every registered file (random bytes) and some that nobody needs."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    random = np.random.default_rng(0)
    hub = Hub(REPO)
    for path in (*(file.remote for file in FILES.values()), "README.md", "SVD/svd_xt.safetensors"):
        hub.files[path] = random.bytes(SIZE)
    with serve(hub):
        yield hub


@pytest.fixture
def places(tmp_path):
    return Places((tmp_path / "models",))


def fails(hub, places, key="pose_net", **options) -> str:
    """Download what can't be; returns the one line."""
    with pytest.raises(WeightsError) as caught:
        download([key], places, **{"endpoint": hub.endpoint, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_of_a_model_arrives_and_nothing_else(hub, places):
    seen = []
    result = download(
        V1, places, endpoint=hub.endpoint, on_progress=lambda file, *bytes: seen.append((file.key, *bytes))
    )
    for key in V1:
        file = FILES[key]
        assert result.paths[key] == places.find(key) == places.models[0] / file.path
        assert result.paths[key].read_bytes() == hub.files[file.remote]
        told = [done for name, done, total in seen if name == key]
        assert told == sorted(told)
        assert (told[-2:], len(told)) == ([SIZE, SIZE], SIZE // 1000 + 1)  # the last one while it is checked
    asked = {request.path.partition(f"/resolve/{COMMIT}/")[2] for request in hub.requests} - {""}
    assert asked == {FILES[key].remote for key in V1}
    assert sorted(path.name for path in places.models[0].rglob("*.part")) == []


def test_revision_and_checksum_are_recorded(hub, places):
    result = download(["pose_net"], places, endpoint=hub.endpoint)
    assert read_records(places.models[0]) == {
        NET.path: {
            "repo": REPO,
            "remote": NET.remote,
            "revision": COMMIT,
            "size": SIZE,
            "sha256": hashlib.sha256(hub.files[NET.remote]).hexdigest(),
        }
    }
    assert "newer file than this version knows" in result.notes[0]  # random bytes are not the published file


def test_what_is_complete_is_left_alone(hub, places):
    download(["pose_net"], places, endpoint=hub.endpoint)
    download(["pose_net", "unet"], places, endpoint=hub.endpoint)
    assert len(hub.asked_for(NET.remote)) == 1

    (places.models[0] / "revisions.json").unlink()  # copied by hand: the checksum is computed
    assert plan_download(["pose_net"], places, endpoint=hub.endpoint)[0].there == places.models[0] / NET.path
    download(["pose_net"], places, endpoint=hub.endpoint)
    assert len(hub.asked_for(NET.remote)) == 1
    assert NET.path in read_records(places.models[0])


def test_another_spelling_is_taken_as_it_is(hub, tmp_path):
    single = tmp_path / "checkpoints" / "svd" / "svd_xt.safetensors"
    single.parent.mkdir(parents=True)
    single.write_bytes(b"mine")
    places = Places((tmp_path / "models",), checkpoints=(tmp_path / "checkpoints",))
    assert download(["vae"], places, endpoint=hub.endpoint).paths == {"vae": single}
    assert not hub.asked_for(FILES["vae"].remote)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("content", [b"too short", b"x" * SIZE, b"version https://git-lfs.github.com/spec/v1\n"])
def test_another_file_of_that_name_is_kept_beside_and_said_so(hub, places, content):
    path = places.models[0] / NET.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    result = download(["pose_net"], places, endpoint=hub.endpoint)
    assert path.read_bytes() == hub.files[NET.remote]
    aside = path.with_name("pose_net.pth.before")
    if content.startswith(b"version"):  # a Git LFS pointer is nobody's work
        assert not aside.exists() and not any("kept as" in note for note in result.notes)
    else:
        assert f"{path} is not the hub's file" in result.notes[0] and "kept as pose_net.pth.before" in result.notes[0]
        assert aside.read_bytes() == content


def test_an_interrupted_download_goes_on_where_it_stopped(hub, places):
    hub.cut[NET.remote] = 4000

    def break_down(file, done, total):
        hub.status[NET.remote] = 503

    assert "run the command again, it goes on where it stopped" in fails(hub, places, on_progress=break_down)
    part = next((places.models[0] / "Animation").glob("*.part"))
    assert part.stat().st_size == 4000
    assert places.find("pose_net") is None

    hub.status.clear()
    hub.requests.clear()
    item = plan_download(["pose_net"], places, endpoint=hub.endpoint)[0]
    assert item.remaining == SIZE - 4000
    download(["pose_net"], places, endpoint=hub.endpoint)
    asked = [(request.range, request.sent) for request in hub.asked_for(NET.remote) if request.sent]
    assert asked == [("bytes=4000-", SIZE - 4000)]
    assert places.find("pose_net").read_bytes() == hub.files[NET.remote]
    assert not part.exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ArithmeticError])
def test_cancelling_keeps_what_arrived(hub, places, stop):
    """The callback may raise anything: Ctrl-C, or ComfyUI's own exception."""

    def cancel(file, done, total):
        if done >= 3000:
            raise stop

    with pytest.raises(stop):
        download(["pose_net"], places, endpoint=hub.endpoint, on_progress=cancel)
    download(["pose_net"], places, endpoint=hub.endpoint)
    assert hub.asked_for(NET.remote)[-1].range == "bytes=3000-"
    assert places.find("pose_net").read_bytes() == hub.files[NET.remote]


def test_a_part_of_another_revision_is_not_continued(hub, places):
    stale = places.models[0] / "Animation" / "pose_net.pth.aaaaaaaaaaaa.part"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"x" * 5000)
    download(["pose_net"], places, endpoint=hub.endpoint)
    assert hub.asked_for(NET.remote)[0].range is None
    assert not stale.exists()


def test_a_part_that_is_too_long_is_started_anew(hub, places):
    part = plan_download(["pose_net"], places, endpoint=hub.endpoint)[0].part
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (SIZE + 1))
    download(["pose_net"], places, endpoint=hub.endpoint)
    assert places.find("pose_net").read_bytes() == hub.files[NET.remote]


def test_wrong_checksum(hub, places):
    hub.sums[NET.remote] = "ab" * 32
    assert "does not have the hub's checksum and was removed; run the command again" in fails(hub, places)
    assert not list((places.models[0] / "Animation").iterdir())
    assert not read_records(places.models[0])


def test_a_damaged_part_does_not_pass(hub, places):
    part = plan_download(["pose_net"], places, endpoint=hub.endpoint)[0].part
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 5000)
    assert "checksum" in fails(hub, places)
    download(["pose_net"], places, endpoint=hub.endpoint)
    assert places.find("pose_net").read_bytes() == hub.files[NET.remote]


def test_no_space_is_said_before_anything_is_fetched(hub, places, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, module.SPARE + SIZE - 1))
    message = fails(hub, places)
    assert "0.0 MB are still to fetch and 0.20 GB are free; make room" in message
    assert not hub.asked_for(NET.remote)
    assert not places.models[0].exists()


def test_the_disk_fills_up_on_the_way(hub, places, monkeypatch):
    whole = module._Told.write

    def full(self, data):
        if self.tell() >= 2000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, data)

    monkeypatch.setattr(module._Told, "write", full)
    assert "the disk is full" in fails(hub, places)
    monkeypatch.setattr(module._Told, "write", whole)
    download(["pose_net"], places, endpoint=hub.endpoint)
    assert hub.asked_for(NET.remote)[-1].range == "bytes=2000-"


def test_no_network(hub, places):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        message = fails(hub, places, endpoint=endpoint)
    assert f"no connection to {endpoint} for {REPO} at revision main" in message
    assert "HF_ENDPOINT" in message


def test_endpoint_is_no_hub(hub, places):
    hub.describe = list
    assert "does not answer like a Hugging Face hub; check --endpoint" in fails(hub, places)


def test_endpoint_is_no_address(hub, places):
    assert "not-an-address" in fails(hub, places, endpoint="not-an-address")


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "HF_TOKEN"), (403, "accept its terms"), (404, "check --revision"), (429, "wait"), (500, "later")],
)
def test_the_hub_refuses(hub, places, status, advice):
    hub.status[""] = status
    message = fails(hub, places)
    assert f"{hub.endpoint} answered {status} for {REPO} at revision main" in message
    assert advice in message


def test_unknown_revision(hub, places):
    assert "answered 404 for FrancisRing/StableAnimator at revision v9" in fails(hub, places, revision="v9")


def test_offline_is_respected(hub, places, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in fails(hub, places)
    assert not hub.requests


def test_without_huggingface_hub(hub, places, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install huggingface_hub" in fails(hub, places)


def test_a_moved_folder_is_found(hub, places):
    face = FILES["face_detector"]
    hub.files["antelopev2/scrfd_10g_bnkps.onnx"] = hub.files.pop(face.remote)
    path = download(["face_detector"], places, endpoint=hub.endpoint).paths["face_detector"]
    assert path == places.models[0] / face.path
    assert path.read_bytes() == hub.files["antelopev2/scrfd_10g_bnkps.onnx"]


def test_a_moved_folder_whose_file_has_a_common_name(hub, places):
    data = hub.files.pop(FILES["vae"].remote)
    hub.files |= {
        "SVD/unet/diffusion_pytorch_model.safetensors": b"no",
        "SVD/vae/diffusion_pytorch_model.safetensors": data,
    }
    path = download(["vae"], places, endpoint=hub.endpoint).paths["vae"]
    assert path.read_bytes() == data


def test_a_file_that_is_gone(hub, places):
    del hub.files[NET.remote]
    assert f"{REPO} at {COMMIT[:12]} has no {NET.remote}" in fails(hub, places)
    hub.files |= {"a/pose_net.pth": b"", "b/pose_net.pth": b""}
    assert "no single pose_net.pth" in fails(hub, places)


def test_a_folder_that_cannot_be_made(hub, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Animation").write_text("a file")
    assert "choose another --models" in fails(hub, Places((tmp_path / "models",)))


def test_records_that_cannot_be_read_are_none(tmp_path):
    for text in ("{", "[]", '{"files": 3}', json.dumps({"files": {"a": 1}})):
        (tmp_path / "revisions.json").write_text(text)
        assert read_records(tmp_path) == {}
    assert read_records(Path("nowhere")) == {}

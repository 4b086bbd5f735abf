"""`weights list`, `download` and `verify`."""

import io
import json
import os
import pickle as plain_pickle
import struct
import zipfile

import huggingface_hub
import numpy as np
import pytest
from hub_server import COMMIT, Hub, serve

from stableanimator_core import cli
from stableanimator_core.errors import WeightsError
from stableanimator_core.weights.registry import FACES, FILES, REPO, V1
from stableanimator_core.weights.verify import LEGACY_PICKLE, check_structure


def safetensors(data: bytes = b"\0" * 8) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def pickle(name: str = "archive/data.pkl") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, plain_pickle.dumps({"weights": 20 * [1.0]}))
    return buffer.getvalue()


def pickle_of_code() -> bytes:
    """A file of torch.save that would run a command, were it unpickled."""
    import torch

    class Code:
        def __reduce__(self):
            return (os.system, ("echo run > harm",))

    buffer = io.BytesIO()
    torch.save({"weight": Code()}, buffer)
    return buffer.getvalue()


def onnx(graph: bytes = b"\0" * 300) -> bytes:
    """Fields 1 (version, 8) and 7 (graph, 300 bytes) of a ModelProto."""
    return b"\x08\x08" + b"\x3a\xac\x02" + graph


WHOLE = {".safetensors": safetensors(), ".pth": pickle(), ".onnx": onnx()}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub = Hub(REPO)
    for file in FILES.values():
        hub.files[file.remote] = WHOLE["." + file.path.rsplit(".")[-1]]
    with serve(hub):
        yield hub


@pytest.fixture
def weights(capsys, tmp_path):
    """Run `weights ACTION ... --models <a new folder>`; returns status, stdout and stderr."""

    def run(action: str, *argv) -> tuple[int, str, str]:
        status = cli.main(["weights", action, *map(str, argv), "--models", str(tmp_path / "models")])
        return (status, *capsys.readouterr())

    return run


def test_list_says_what_is_here_and_what_is_missing(weights, hub, tmp_path):
    status, out, _ = weights("list", "--json")
    result = json.loads(out)
    assert status == 0
    assert result["groups"]["v1"]["missing"] == list(V1)
    assert result["to_download_bytes"] == sum(file.size for file in FILES.values())
    assert result["command"].startswith("python -m stableanimator_core weights download v1 poses faces --models ")

    weights("download", "poses", "unet", "--endpoint", hub.endpoint)
    result = json.loads(weights("list", "--json")[1])
    files = {file["key"]: file for file in result["files"]}
    assert result["groups"]["poses"]["missing"] == []
    assert "unet" not in result["groups"]["v1"]["missing"]
    assert files["unet"]["revision"] == COMMIT
    assert files["unet"]["found"] == str(tmp_path / "models" / "Animation" / "unet.pth")
    assert files["vae"]["found"] is None
    text = weights("list")[1]
    assert f"unet.pth (revision {COMMIT[:12]})" in text
    assert "MISSING, belongs at " in text
    assert "non-commercial research only" in text
    assert f"\n{'':32}https://huggingface.co/" in text and FILES["vae"].page in text
    assert FILES["unet"].page not in text, "it is here"
    assert files["vae"]["page"] == FILES["vae"].page


def test_list_when_all_is_here(weights, hub):
    weights("download", "all", "--endpoint", hub.endpoint)
    assert "everything is here" in weights("list")[1]
    assert json.loads(weights("list", "--json")[1])["command"] is None


def test_a_conversion_keeps_its_revision(weights, hub, tmp_path):
    weights("download", "unet", "--endpoint", hub.endpoint)
    (tmp_path / "models/Animation/unet.safetensors").write_bytes(safetensors())
    files = {file["key"]: file for file in json.loads(weights("list", "--json")[1])["files"]}
    assert files["unet"]["found"].endswith("unet.safetensors")
    assert files["unet"]["revision"] == COMMIT
    verified = json.loads(weights("verify", "unet", "--json")[1])["files"]
    assert [(file["path"][-4:], file["checksum"]) for file in verified] == [("sors", "unknown"), (".pth", "matches")]


def test_download_fetches_what_was_asked_for(weights, hub, tmp_path):
    status, out, err = weights("download", "faces", "vae", "--endpoint", hub.endpoint, "--json")
    result = json.loads(out)
    assert status == 0
    assert [(file["key"], file["fetched"]) for file in result["files"]] == [("face_detector", True), ("vae", True)]
    assert result["revision"] == COMMIT
    assert (tmp_path / "models/antelopev2/scrfd_10g_bnkps.onnx").is_file()
    assert "1/1 MB of SVD/vae/diffusion_pytorch_model.safetensors" in err
    assert "vae: " in (text := weights("download", "vae", "--endpoint", hub.endpoint)[1])
    assert "was here already" in text


def test_dry_run_fetches_nothing(weights, hub, tmp_path):
    _, out, _ = weights("download", "--endpoint", hub.endpoint, "--dry-run", "--json")
    result = json.loads(out)
    assert [file["key"] for file in result["files"]] == [*V1, *FACES]
    assert result["to_download_bytes"] == sum(len(hub.files[FILES[key].remote]) for key in (*V1, *FACES))
    assert not (tmp_path / "models").exists()
    assert "to fetch, 0.0 MB" in weights("download", "--endpoint", hub.endpoint, "--dry-run")[1]


def test_unknown_name(weights):
    status, out, err = weights("download", "v2")
    assert (status, out) == (2, "")
    assert "no weights called 'v2'; there are v1, poses, faces, all, image_encoder, vae" in err
    assert err.count("\n") == 1


def test_failures_are_one_line(weights, hub):
    hub.status[""] = 403
    status, out, err = weights("download", "faces", "--endpoint", hub.endpoint)
    assert (status, out) == (2, "")
    assert "answered 403" in err
    assert err.count("\n") == 1


def test_verify_whole_files(weights, hub):
    weights("download", "all", "--endpoint", hub.endpoint)
    status, out, _ = weights("verify", "--json")
    result = json.loads(out)
    assert (status, result["missing"]) == (0, [])
    assert {file["checksum"] for file in result["files"]} == {"matches"}
    assert "unet: ok, its checksum too" in weights("verify")[1]


def test_verify_names_bad_files(weights, hub, tmp_path):
    weights("download", "v1", "--endpoint", hub.endpoint)
    (tmp_path / "models/Animation/unet.pth").write_bytes(pickle().replace(b"weights", b"Weights"))  # of the same size
    vae = tmp_path / "models/SVD/vae/diffusion_pytorch_model.safetensors"
    vae.write_bytes(safetensors()[:-1])
    status, out, err = weights("verify")
    assert status == 2
    assert "face_encoder: ok" in out
    assert "unet: BAD" in out
    assert "2 of 7 files are bad" in err
    assert "unet.pth: no whole .pth file (Bad CRC-32" in out
    assert f"{vae}: no whole .safetensors file" in out
    assert "(vae unet): delete " in err and "then: python -m stableanimator_core weights download v1" in err


def test_a_file_of_ones_own_has_no_record(weights, hub, tmp_path):
    weights("download", "unet", "--endpoint", hub.endpoint)
    buffer = io.BytesIO(pickle())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/0", b"fine-tuned")
    (tmp_path / "models/Animation/unet.pth").write_bytes(buffer.getvalue())
    files = {file["key"]: file for file in json.loads(weights("list", "--json")[1])["files"]}
    assert files["unet"]["revision"] is None
    status, out, _ = weights("verify", "unet", "--json")
    assert (status, json.loads(out)["files"][0]["checksum"]) == (0, "unknown")


def test_verify_without_records(weights, tmp_path):
    path = tmp_path / "models/DWPose/yolox_l.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(onnx())
    status, out, _ = weights("verify", "poses")
    assert status == 0
    assert "person_detector: its structure is whole; no checksum to compare with" in out
    assert "keypoint_detector: missing" in out


def test_verify_knows_the_published_sums(weights, tmp_path, monkeypatch):
    from stableanimator_core.weights import registry, verify

    known = registry.WeightFile("unet", "Animation/unet.pth", "x", REPO, len(pickle()), "ab" * 32, "", "")
    monkeypatch.setitem(verify.FILES, "unet", known)
    path = tmp_path / "models/Animation/unet.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle())
    assert "published is abababababab..." in weights("verify", "unet")[1]


@pytest.mark.parametrize("name", [*WHOLE, "legacy.pth", "other.bin"])
def test_structure_of_whole_files(tmp_path, name):
    path = tmp_path / f"file{name}"
    path.write_bytes({"legacy.pth": LEGACY_PICKLE + b"...", "other.bin": b"?"}.get(name) or WHOLE[name])
    check_structure(path)


@pytest.mark.parametrize(
    ("suffix", "data", "message"),
    [
        (".safetensors", b"", "is empty"),
        (".safetensors", safetensors()[:20], "cut off"),
        (".safetensors", safetensors() + b"\0", "its header speaks of"),
        (".safetensors", struct.pack("<Q", 4) + b"nope", "no whole .safetensors file"),
        (".safetensors", struct.pack("<Q", 2) + b"[]", "lists no tensors"),
        (".safetensors", struct.pack("<Q", 8) + b'{"a": 3}', "lists no tensors"),
        (".pth", pickle()[:-30], "no whole .pth file"),
        (".pth", pickle("readme.txt"), "not one of torch's"),
        (".pth", b"<html>not found</html>", "is a web page"),
        (".pth", pickle_of_code(), "asks for code: .*system"),
        (".onnx", onnx()[:-1], "cut off after"),
        (".onnx", onnx()[:4], "cut off"),
        (".onnx", b"", "is empty"),
        (".onnx", b"\x08\x08", "no ONNX graph"),
        (".onnx", b"<html>not found</html>", "is a web page"),
        (".onnx", b"\xff" * 20, "no ONNX model"),
        (".pth", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_structure_of_broken_files(tmp_path, suffix, data, message):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        check_structure(path)


def test_structure_of_real_files(tmp_path):
    import torch
    from safetensors.torch import save_file

    state = {"a": torch.from_numpy(np.arange(6.0)), "b": torch.zeros(0)}
    save_file(state, tmp_path / "a.safetensors", metadata={"source": "test"})
    torch.save(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        check_structure(path)

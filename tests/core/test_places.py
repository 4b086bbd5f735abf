"""Where weights are looked for: every accepted spelling, several folders, and what is said when nothing is there."""

import importlib.util
import sys
from pathlib import Path

import pytest

from stableanimator_core.errors import WeightsError
from stableanimator_core.files import is_lfs_pointer
from stableanimator_core.weights import places as module
from stableanimator_core.weights.places import Places
from stableanimator_core.weights.registry import FILES, V1

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def put(folder: Path, *names: str, content: str = "weights") -> Path:
    """Write files below a folder; returns the last."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return path


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """No settings of this machine's user."""
    for name in ("STABLEANIMATOR_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    return tmp_path


@pytest.fixture
def comfy(clean, monkeypatch):
    """A ComfyUI in which this pack lies."""
    put(clean, "ComfyUI/folder_paths.py")
    monkeypatch.setattr(module, "PACK", clean / "ComfyUI" / "custom_nodes" / "pack")
    return clean / "ComfyUI"


@pytest.mark.parametrize(
    ("key", "spellings"),
    [
        ("unet", ["Animation/unet.safetensors", "Animation/unet.pth"]),
        ("pose_net", ["Animation/pose_net.safetensors", "Animation/pose_net.pth"]),
        (
            "face_embedder",
            ["Animation/glintr100_torch.safetensors", "Animation/glintr100_torch.pth", "antelopev2/glintr100.onnx"],
        ),
        (
            "vae",
            [
                "SVD/vae/diffusion_pytorch_model.safetensors",
                "SVD/vae/diffusion_pytorch_model.fp16.safetensors",
                "SVD/stable-video-diffusion-img2vid-xt/vae/diffusion_pytorch_model.safetensors",
                "stable-video-diffusion-img2vid-xt/vae/diffusion_pytorch_model.fp16.safetensors",
                "SVD/svd_xt.safetensors",
                "svd_xt.safetensors",
            ],
        ),
        ("image_encoder", ["SVD/image_encoder/model.safetensors", "SVD/image_encoder/model.fp16.safetensors"]),
        ("person_detector", ["DWPose/yolox_l.onnx"]),
        (
            "face_detector",
            [
                "antelopev2/scrfd_10g_bnkps.onnx",
                "antelopev2/antelopev2/scrfd_10g_bnkps.onnx",
                "models/antelopev2/scrfd_10g_bnkps.onnx",
            ],
        ),
    ],
)
def test_every_spelling_is_found_the_preferred_first(tmp_path, key, spellings):
    places = Places((tmp_path,))
    assert places.find(key) is None
    for spelling in reversed(spellings):
        put(tmp_path, spelling)
        assert places.find(key) == tmp_path / spelling


def test_what_is_fetched_is_found(tmp_path):
    for key, file in FILES.items():
        assert Places((tmp_path,)).find(key) is None
        assert Places((tmp_path,)).find(key) is None
        put(tmp_path, file.path)
        assert Places((tmp_path,)).find(key) == tmp_path / file.path


def test_first_folder_wins(tmp_path):
    places = Places((tmp_path / "a", tmp_path / "b"))
    second = put(tmp_path / "b", "Animation/unet.safetensors")
    assert places.find("unet") == second
    first = put(tmp_path / "a", "Animation/unet.pth")
    assert places.find("unet") == first


@pytest.mark.parametrize("below", ["models/antelopev2", "models/antelopev2/antelopev2", "antelopev2"])
def test_insightface_folders(tmp_path, below):
    places = Places((tmp_path / "nothing",), insightface=(tmp_path / "insightface",))
    detector = put(tmp_path / "insightface", f"{below}/scrfd_10g_bnkps.onnx")
    embedder = put(tmp_path / "insightface", f"{below}/glintr100.onnx")
    assert places.require("face_detector", "face_embedder") == {"face_detector": detector, "face_embedder": embedder}
    assert places.find("face_encoder") is None


def test_single_file_in_checkpoints(tmp_path):
    places = Places((tmp_path / "nothing",), checkpoints=(tmp_path / "checkpoints",))
    put(tmp_path / "checkpoints", "z/svd_xt.safetensors", "a/b/svd_xt.safetensors", "svd.safetensors")
    assert places.find("vae") == tmp_path / "checkpoints/z/svd_xt.safetensors"
    put(tmp_path / "checkpoints", "m/svd_xt.safetensors")
    assert places.find("vae") == tmp_path / "checkpoints/m/svd_xt.safetensors"
    put(tmp_path / "checkpoints", "svd_xt.safetensors")
    assert places.find("image_encoder") == tmp_path / "checkpoints/svd_xt.safetensors"
    assert places.find("unet") is None


def test_require_names_every_file_the_folder_and_the_command(tmp_path):
    put(tmp_path, *(FILES[key].path for key in V1[2:]))
    with pytest.raises(WeightsError) as caught:
        Places((tmp_path,)).require(*V1, "face_detector")
    message = str(caught.value)
    assert message == (
        f"missing in {tmp_path}: Animation/unet.pth, Animation/pose_net.pth, antelopev2/scrfd_10g_bnkps.onnx; "
        f'fetch with: python -m stableanimator_core weights download v1 faces --models "{tmp_path}"'
    )


def test_the_command_is_short_for_the_default_folder(clean):
    assert Places.default().fetch_command(["unet"]) == "python -m stableanimator_core weights download v1"


def test_a_git_lfs_pointer_is_no_weights(tmp_path):
    path = put(tmp_path, "Animation/unet.pth", content=POINTER)
    assert is_lfs_pointer(path)
    assert Places((tmp_path,)).find("unet") is None
    with pytest.raises(WeightsError, match="unet.pth is a Git LFS pointer, not the weights") as caught:
        Places((tmp_path,)).require("unet")
    assert str(path) in str(caught.value)
    assert not is_lfs_pointer(put(tmp_path, "big", content=POINTER + " " * 2000))
    assert not is_lfs_pointer(tmp_path / "nothing")


def test_default_is_the_given_folder_then_the_environment_then_the_cache(clean, monkeypatch):
    assert Places.default(clean / "mine").models == (clean / "mine",)
    assert Places.default() == Places((clean / "home/.cache/stableanimator/models",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(clean / "cache"))
    assert Places.default().models == (clean / "cache/stableanimator/models",)
    monkeypatch.setenv("STABLEANIMATOR_MODELS", str(clean / "models"))
    assert Places.default().models == (clean / "models",)
    assert Places.default(clean / "mine").models == (clean / "mine",)


def test_cache_on_windows(clean, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(clean / "Local"))
    assert Places.default().models == (clean / "Local/stableanimator/models",)


def test_a_file_is_no_folder(clean, monkeypatch):
    path = put(clean, "unet.pth")
    with pytest.raises(WeightsError, match="unet.pth is no folder; --models takes the folder"):
        Places.default(path)
    monkeypatch.setenv("STABLEANIMATOR_MODELS", str(path))
    with pytest.raises(WeightsError, match="STABLEANIMATOR_MODELS takes"):
        Places.default()


def test_default_in_comfyui(comfy, clean):
    models = comfy / "models"
    expected = Places((models / "stableanimator",), (models / "insightface",), (models / "checkpoints",))
    assert Places.default() == expected
    put(comfy, "extra_model_paths.yaml", content="# nothing but a comment\n")
    assert Places.default() == expected


def test_extra_model_paths(comfy, clean, monkeypatch):
    monkeypatch.setenv("STUDIO", str(clean / "studio"))
    settings = """
    server:
        base_path: $STUDIO
        checkpoints: |
            one
            two/
        loras: loras
    other:
        base_path: ../beside
        is_default: true
        stableanimator: stable
    plain:
        insightface: faces
    empty:
    """
    put(comfy, "extra_model_paths.yaml", content=settings)
    places = Places.default()
    assert places.models == (clean / "beside/stable", comfy / "models/stableanimator")
    assert places.insightface == (comfy / "models/insightface", comfy / "faces")
    assert places.checkpoints == (comfy / "models/checkpoints", clean / "studio/one", clean / "studio/two")
    assert places.notes == ()


@pytest.mark.parametrize("broken", ["a: [1\nb: }", "- a\n- b", "just words"])
def test_broken_extra_model_paths_are_ignored_with_a_note(comfy, broken):
    path = put(comfy, "extra_model_paths.yaml", content=broken)
    places = Places.default()
    assert places.models == (comfy / "models/stableanimator",)
    assert len(places.notes) == 1
    assert places.notes[0].startswith(f"{path} cannot be read and is ignored (")
    assert "\n" not in places.notes[0]


def test_insightfaces_embedder_counts_where_it_can_be_read(tmp_path, monkeypatch):
    """Without the package onnx its .onnx would be found, never read, and keep the other file from being fetched."""
    folder = tmp_path / "insightface" / "models" / "antelopev2"
    folder.mkdir(parents=True)
    (folder / "glintr100.onnx").write_bytes(b"network")
    places = Places((tmp_path,), insightface=(tmp_path / "insightface",))
    assert places.find("face_embedder") == folder / "glintr100.onnx"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert places.find("face_embedder") is None
    (folder / "glintr100.safetensors").write_bytes(b"made of it before")
    assert places.find("face_embedder") == folder / "glintr100.safetensors"

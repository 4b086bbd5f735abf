"""The registry names each file once, and only what the published model and its detectors need."""

from pathlib import PurePosixPath

from stableanimator_core.weights.networks import OPTIONAL, PARTS
from stableanimator_core.weights.registry import FACES, FILES, GROUPS, POSES, V1, size_of, size_text


def test_groups_hold_every_file_once():
    assert sorted(key for keys in GROUPS.values() for key in keys) == sorted(FILES)
    assert (GROUPS["v1"], GROUPS["poses"], GROUPS["faces"]) == (V1, POSES, FACES)
    assert all(key == file.key for key, file in FILES.items())


def test_v1_is_every_network_of_a_model():
    assert set(V1) == set(PARTS) - OPTIONAL


def test_paths_are_plain():
    for file in FILES.values():
        for path in (file.path, file.remote):
            assert "\\" not in path
            assert not PurePosixPath(path).is_absolute()
        assert PurePosixPath(file.path).suffix == PurePosixPath(file.remote).suffix
    assert len({file.path for file in FILES.values()}) == len(FILES)


def test_only_what_is_needed():
    """About 10 GB, without Stable Video Diffusion's UNet (6 GB) and its single files (9.5 GB each)."""
    assert 9e9 < sum(file.size for file in FILES.values()) < 11e9
    assert [key for key, file in FILES.items() if "unet" in file.remote] == ["unet"]


def test_checksums_look_like_sha256():
    for file in FILES.values():
        assert file.sha256 is None or (len(file.sha256) == 64 and int(file.sha256, 16))
        assert file.licence
        assert file.purpose


def test_pages_are_those_of_the_hub_or_of_its_mirror(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    page = "FrancisRing/StableAnimator/blob/main/models/antelopev2/scrfd_10g_bnkps.onnx"
    assert FILES["face_detector"].page == f"https://huggingface.co/{page}"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.invalid/")
    assert FILES["face_detector"].page == f"https://mirror.invalid/{page}"


def test_sizes_as_people_say_them():
    assert [size_text(size) for size in (829_269, 134_399_116, 6_201_376_518)] == ["0.8 MB", "0.13 GB", "6.20 GB"]
    assert size_of(["unet", "vae"]) == "6.59 GB"

"""The tables agree with the joint names they index."""

import colorsys

from stableanimator_core import skeleton


def names(*indices):
    return [skeleton.JOINTS[i] for i in indices]


def test_mirror_swaps_left_and_right_names():
    swap = {"L": "R", "R": "L"}
    for name, mirrored in zip(skeleton.JOINTS, names(*skeleton.MIRROR), strict=True):
        assert mirrored == (name if name in ("Nose", "Neck") else swap[name[0]] + name[1:])


def test_named_groups():
    assert names(*skeleton.HEAD) == ["Nose", "REye", "LEye", "REar", "LEar"]
    assert names(skeleton.RIGHT_EYE, skeleton.LEFT_EYE) == ["REye", "LEye"]


def test_limbs_span_the_body_as_a_tree():
    reached = {skeleton.JOINTS.index("Neck")}
    for a, b in skeleton.LIMBS:
        assert a in reached and b not in reached, names(a, b)
        reached.add(b)
    assert reached == set(range(skeleton.BODY_POINTS))


def test_limbs_stay_on_their_side():
    for a, b in skeleton.LIMBS:
        mirrored = {skeleton.MIRROR[a], skeleton.MIRROR[b]}
        assert mirrored in [set(limb) for limb in skeleton.LIMBS], names(a, b)


def test_eighteen_colours_go_round_the_hue_circle():
    assert len(skeleton.COLOURS) == skeleton.BODY_POINTS
    hues = [colorsys.rgb_to_hsv(*(channel / 255 for channel in colour)) for colour in skeleton.COLOURS]
    for i, (hue, saturation, value) in enumerate(hues):
        assert abs(hue - i / 18) < 1e-9 and saturation == value == 1


def test_hand_is_five_chains_of_four_bones():
    assert len(skeleton.HAND_EDGES) == 20
    assert sorted(b for _, b in skeleton.HAND_EDGES) == list(range(1, 21))
    for a, b in skeleton.HAND_EDGES:
        assert a == (0 if b in (1, 5, 9, 13, 17) else b - 1)


def test_body_25_map_skips_the_mid_hip_and_the_feet():
    body_25 = (
        "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist MidHip RHip RKnee RAnkle LHip LKnee LAnkle "
        "REye LEye REar LEar LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel"
    ).split()
    assert tuple(body_25[i] for i in skeleton.FROM_BODY_25) == skeleton.JOINTS

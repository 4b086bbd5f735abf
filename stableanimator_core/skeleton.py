"""Tables of the OpenPose-18 body and the 21-point hand: names, bones, colours, left and right.

Left and right are the person's own. A bone is a pair of indices into the joint names, 0-based.
"""

JOINTS = (
    "Nose", "Neck",
    "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist",
    "RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle",
    "REye", "LEye", "REar", "LEar",
)  # fmt: skip

BODY_POINTS = len(JOINTS)
FACE_POINTS = 68
HAND_POINTS = 21

HEAD = (0, 14, 15, 16, 17)
TORSO = (1, 2, 5, 8, 11)
RIGHT_EYE, LEFT_EYE = 14, 15

# In drawing order: a later limb covers an earlier one.
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7),
    (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip

# RGB around the hue circle. Limb i and joint i share colour i; the eighteenth belongs to LEar alone.
COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip

# Five fingers from the wrist (0), thumb first, four bones each.
HAND_EDGES = tuple(
    (0 if bone == 0 else 4 * finger + bone, 4 * finger + bone + 1) for finger in range(5) for bone in range(4)
)

# MIRROR[i] is the joint on the other side: flipped = points[..., MIRROR, :] with x -> width - x.
MIRROR = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)

# Row i: which point of OpenPose's BODY_25 (which has a MidHip and feet) is joint i.
FROM_BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)

# FACE_MIRROR[i] is the point on the other side of the face, of the 68 points in iBUG order.
FACE_MIRROR = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip

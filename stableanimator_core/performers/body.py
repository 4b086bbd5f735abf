"""A performer's trunk, limbs, hands and clothes as shapes in groups that are sorted by depth."""

from __future__ import annotations

import numpy as np

from .ink import Ink, capsule, smooth
from .mocap import Motion
from .person import Body, Colour, Person, outline, shade
from .scene import Camera

ARMS = ((2, 3, 4), (5, 6, 7))  # right, left: shoulder, elbow, wrist
LEGS = ((8, 9, 10), (11, 12, 13))  # right, left: hip, knee, ankle
_EDGE = 0.012  # metres of outline
_LOGOS = {
    "circle": [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 14, endpoint=False)],
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "star": [(r * np.sin(i * np.pi / 5), -r * np.cos(i * np.pi / 5)) for i, r in enumerate((1.2, 0.5) * 5)],
    "heart": [(0, 1.1), (-1.1, 0.0), (-1.1, -0.6), (-0.6, -1.0), (0, -0.55), (0.6, -1.0), (1.1, -0.6), (1.1, 0.0)],
    "bolt": [(0.2, -1.3), (-0.8, 0.2), (-0.1, 0.2), (-0.3, 1.3), (0.8, -0.3), (0.1, -0.3)],
}  # fmt: skip


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def hand_points(motion: Motion, body: Body) -> np.ndarray:
    """Both hands as world points [F, 2 (left, right), 21, 3]: flat mittens that follow the forearms."""
    joints = motion.joints
    across = _unit(joints[:, 5] - joints[:, 2])
    facing = np.cross(across, _unit(joints[:, 1] - (joints[:, 8] + joints[:, 11]) / 2))
    rows = [(0.0, 0.0)]
    rows += [(0.2, 0.22), (0.36, 0.38), (0.5, 0.5), (0.62, 0.58)]
    for side in (0.2, 0.07, -0.07, -0.2):
        reach = 1.0 - 0.12 * abs(side) / 0.2
        rows += [(along * reach, side) for along in (0.5, 0.7, 0.86, 1.0)]
    grid = np.array(rows) * body.hand  # [21, 2] along, towards the thumb
    hands = []
    for sign, (_, elbow, wrist) in ((1, ARMS[1]), (-1, ARMS[0])):
        along = _unit(joints[:, wrist] - joints[:, elbow])
        inwards = facing * 0.7 - sign * across * 0.8
        thumb = _unit(inwards - (inwards * along).sum(-1, keepdims=True) * along)
        hands.append(joints[:, wrist, None] + grid[:, :1] * along[:, None] + grid[:, 1:] * thumb[:, None])
    return np.stack(hands, axis=1)


class BodyShapes:
    """Ink groups of one clip and their order in each frame."""

    def __init__(self, person: Person, motion: Motion, head_centre: np.ndarray, camera: Camera) -> None:
        self.person, self.camera, self.head_centre = person, camera, head_centre
        self.joints = motion.joints
        self.px = camera.project(motion.joints)  # [F, 18, 2]
        self.scale = camera.scale(motion.joints)  # [F, 18] px per metre
        self.unit = float(np.median(self.scale[:, 1]))
        self.hands = hand_points(motion, person.body)
        self._measure_trunk()
        self.trunk, self.hip_cloth, self.skirt = Ink(self.unit), Ink(self.unit), Ink(self.unit)
        self._draw_trunk()
        self._draw_hips()
        self.arms = [self._draw_arm(side) for side in range(2)]
        self.legs = [self._draw_leg(side) for side in range(2)]
        self._sort()

    def _measure_trunk(self) -> None:
        """The trunk's outline half widths and axes in pixels."""
        joints, bones, body = self.joints, self.person.body.bones, self.person.body
        middle = (joints[:, 8] + joints[:, 11]) / 2
        self.top, self.bottom = self.px[:, 1], self.camera.project(middle)
        spine = _unit(self.bottom - self.top)
        normal = np.stack([spine[:, 1], -spine[:, 0]], axis=-1)  # towards the character's left when seen from ahead
        towards = _unit(self.camera.position - joints[:, 1])
        self.axes, self.narrow = [], []
        for right, left in ((2, 5), (8, 11)):
            across = _unit(joints[:, left] - joints[:, right])
            sine = (across * towards).sum(-1)  # how far this side of the body turns to the camera
            self.narrow.append(np.sqrt(np.clip(1 - sine**2, 0, 1) + 0.45 * sine**2))
            self.axes.append(_unit(0.65 * _unit(self.px[:, left] - self.px[:, right]) + 0.35 * normal))
            if right == 2:
                self.chest_shift = -0.55 * sine * bones.shoulder
        arm, leg = body.arm_radius, body.leg_radius
        self.profile = [  # along the spine (0 neck, 1 hips), half width in metres
            (-0.05, 0.45 * bones.shoulder), (0.0, 0.8 * bones.shoulder), (0.07, bones.shoulder + 0.55 * arm),
            (0.3, bones.shoulder + 0.15 * arm), (0.62, max(body.waist, 0.8 * bones.shoulder)),
            (0.9, max(bones.hip + 0.95 * leg, 0.95 * body.waist)), (1.0, bones.hip + 1.0 * leg),
        ]  # fmt: skip

    def _on_trunk(self, along: float | np.ndarray, aside: float | np.ndarray) -> np.ndarray:
        """Pixels [F, K, 2] at `along` the spine and `aside` metres towards the character's left."""
        along, aside = np.broadcast_arrays(np.atleast_1d(along), np.atleast_1d(aside))
        spine = self.top[:, None] + along[:, None] * (self.bottom - self.top)[:, None]
        share = np.clip(along, 0, 1)[:, None]
        axis = _unit((1 - share) * self.axes[0][:, None] + share * self.axes[1][:, None])
        narrow = (1 - share[:, 0]) * self.narrow[0][:, None] + share[:, 0] * self.narrow[1][:, None]
        return spine + axis * (aside * narrow * self.scale[:, 1:2])[..., None]

    def _trunk_outline(self, start: float, stop: float) -> np.ndarray:
        """Closed outline [F, K, 2] of the trunk between two heights."""
        t = np.array([p[0] for p in self.profile])
        half = np.array([p[1] for p in self.profile])
        inside = t[(t > start) & (t < stop)]
        along = np.concatenate([[start], inside, [stop]])
        width = np.interp(along, t, half)
        return np.concatenate([self._on_trunk(along, -width), self._on_trunk(along[::-1], width[::-1])], axis=1)

    def _draw_trunk(self) -> None:
        outfit, body, head = self.person.outfit, self.person.body, self.person.head
        ink, colour = self.trunk, outfit.top_colour
        line = outline(colour)
        hem = 1.0 if outfit.bottom in ("trousers", "shorts", "skirt") else 0.95
        shape = smooth(self._trunk_outline(-0.05, hem), 2)
        ink.fill(shape, colour)
        self._draw_print(ink)
        self._draw_fold(ink, colour, hem)
        ink.line(shape, line, _EDGE, closed=True)
        neck_radius = 0.36 * body.bones.shoulder * np.ones(len(self.px)) * self.scale[:, 1]
        skin = shade(head.skin, 0.86)
        neck = self._on_trunk(0.02, 0.0)[:, 0]
        ink.fill(capsule(neck, self.camera.project(self.head_centre), neck_radius, neck_radius), skin, convex=True)
        if outfit.top == "collar":
            for side in (-1, 1):
                flap = self._on_trunk(
                    np.array([-0.08, 0.03, 0.26, 0.1]),
                    side * np.array([0.36, 0.62, 0.34, 0.0]) * body.bones.shoulder,
                )
                ink.fill(flap, outfit.second_colour, edge=outline(outfit.second_colour), width=0.009)

    def _draw_print(self, ink: Ink) -> None:
        outfit, bones = self.person.outfit, self.person.body.bones
        second = outfit.second_colour
        shift = (self.chest_shift * self.scale[:, 1])[:, None, None] * self.axes[0][:, None]
        if outfit.top == "stripes":
            for k in range(outfit.stripes):
                start = 0.22 + 0.72 * k / outfit.stripes
                ink.fill(self._trunk_outline(start, start + 0.34 / outfit.stripes), second)
        elif outfit.top == "logo":
            size = 0.36 * bones.shoulder + 0.028
            shape = np.array(_LOGOS[outfit.logo]) * size
            ink.fill(self._on_trunk(0.5 + shape[:, 1] / bones.torso, shape[:, 0]) + shift, second)
        elif outfit.top == "jacket":
            half = 0.36 * bones.shoulder
            strip = np.array([(0.0, -half), (1.02, -0.75 * half), (1.02, 0.75 * half), (0.0, half)])
            ink.fill(
                self._on_trunk(strip[:, 0], strip[:, 1]) + shift, second, edge=outline(outfit.top_colour), width=0.01
            )
        elif outfit.top == "vest":
            ink.fill(self._trunk_outline(0.7, 1.0), second)

    def _draw_fold(self, ink: Ink, colour: Colour, hem: float) -> None:
        """Shade along the side away from the light and under the chin."""
        t, half = np.array(self.profile)[1:].T
        keep = t <= hem
        t, half = t[keep], half[keep]
        side = [self._on_trunk(t, 0.98 * half), self._on_trunk(t[::-1], half[::-1] - 0.045)]
        ink.fill(np.concatenate(side, axis=1), shade(colour, 0.84))

    def _draw_hips(self) -> None:
        """What joins the legs (behind the shirt's hem), and skirts over the thighs."""
        outfit, body = self.person.outfit, self.person.body
        colour = outfit.bottom_colour
        half = body.bones.hip + body.leg_radius
        block = np.array([(0.8, -0.9 * half), (1.0, -half), (1.14, -0.7 * half), (1.18, 0), (1.14, 0.7 * half),
                          (1.0, half), (0.8, 0.9 * half)])  # fmt: skip
        self.hip_cloth.fill(self._on_trunk(block[:, 0], block[:, 1]), colour)
        if outfit.bottom not in ("skirt", "dress"):
            if outfit.belt:
                self.trunk.fill(self._trunk_outline(0.9, 1.0), shade(colour, 0.6))
            return
        hems = [self.px[:, hip] + 0.78 * (self.px[:, knee] - self.px[:, hip]) for hip, knee, _ in LEGS]
        middle, spread = (hems[0] + hems[1]) / 2, np.linalg.norm(hems[1] - hems[0], axis=-1) / 2
        flare = (body.leg_radius * 1.5 + 0.02) * self.scale[:, 1]
        axis = self.axes[1]
        reach = (np.minimum(spread, 1.9 * flare) + flare)[:, None] * axis
        drop = 0.025 * self.scale[:, 1, None] * np.array([0, 1.0])
        waist = self._trunk_outline(0.8, 0.96)  # [F, 2 + .., 2], right side first
        count = waist.shape[1] // 2
        right, left = waist[:, :count], waist[:, count:]
        hem = np.stack(
            [middle - reach, middle - 0.5 * reach + drop, middle + 0.5 * reach + drop, middle + reach], axis=1
        )
        skirt = np.concatenate([right, hem, left], axis=1)
        self.skirt.fill(skirt, colour, edge=outline(colour), width=_EDGE)
        if outfit.bottom == "dress":
            self.skirt.fill(self._trunk_outline(0.84, 0.96), outfit.second_colour)

    def _limb(self, joint: int, end: int, start_radius: float, end_radius: float, stop: float = 1.0) -> np.ndarray:
        """Capsule [F, K, 2] along a bone (or its first part, up to `stop`); radii in metres."""
        tip = self.px[:, joint] + stop * (self.px[:, end] - self.px[:, joint])
        return capsule(self.px[:, joint], tip, start_radius * self.scale[:, joint], end_radius * self.scale[:, end])

    def _draw_arm(self, side: int) -> list[Ink]:
        """Outline and filling of the upper arm, then of the forearm with the hand."""
        shoulder, elbow, wrist = ARMS[side]
        outfit, radius = self.person.outfit, self.person.body.arm_radius
        skin = self.person.head.skin
        sleeve = outfit.top_colour
        upper_edge, upper, fore_edge, fore = (Ink(self.unit) for _ in range(4))
        covered = {"none": 0.0, "short": 0.62, "long": 2.0}["none" if outfit.top == "vest" else outfit.sleeves]
        wide = radius * (1.16 if covered else 1.0)
        upper_edge.fill(
            self._limb(shoulder, elbow, wide - 0.002, radius * (1.1 if covered > 1 else 0.95) + _EDGE),
            outline(sleeve if covered else skin), convex=True,
        )  # fmt: skip
        if covered > 1:
            upper.fill(self._limb(shoulder, elbow, wide, radius * 1.1), sleeve, convex=True)
            fore_edge.fill(
                self._limb(elbow, wrist, radius * 1.1 + _EDGE, radius * 1.05 + _EDGE, 0.92),
                outline(sleeve),
                convex=True,
            )
        else:
            upper.fill(self._limb(shoulder, elbow, radius, radius * 0.95), skin, convex=True)
            fore_edge.fill(
                self._limb(elbow, wrist, radius * 0.95 + _EDGE, radius * 0.8 + _EDGE), outline(skin), convex=True
            )
            fore.fill(self._limb(elbow, wrist, radius * 0.95, radius * 0.8), skin, convex=True)
            if covered:
                upper.fill(self._limb(shoulder, elbow, wide, wide * 1.05, covered), sleeve, convex=True)
        self._draw_hand(side, fore_edge, fore)
        if covered > 1:
            fore.fill(self._limb(elbow, wrist, radius * 1.1, radius * 1.05, 0.92), sleeve, convex=True)
        return [upper_edge, upper, fore_edge, fore]

    def _draw_hand(self, side: int, edge: Ink, fill: Ink) -> None:
        points = self.camera.project(self.hands[:, 1 - side])  # [F, 21, 2], row 0 of hands is the left one
        size = self.person.body.hand * self.scale[:, ARMS[side][2]]
        skin = self.person.head.skin
        line, rim = outline(skin), _EDGE * self.scale[:, ARMS[side][2]]
        root = points[:, 0] + 0.3 * (points[:, 9] - points[:, 0])
        tip = points[:, 10] + 0.3 * (points[:, 11] - points[:, 10])
        edge.fill(capsule(root, tip, 0.27 * size + rim, 0.29 * size + rim), line, convex=True)
        edge.fill(capsule(points[:, 1], points[:, 4], 0.13 * size + rim, 0.12 * size + rim), line, convex=True)
        fill.fill(capsule(root, tip, 0.27 * size, 0.29 * size), skin, convex=True)
        fill.fill(capsule(points[:, 1], points[:, 4], 0.13 * size, 0.12 * size), skin, convex=True)

    def _draw_leg(self, side: int) -> Ink:
        hip, knee, ankle = LEGS[side]
        outfit, radius = self.person.outfit, self.person.body.leg_radius
        skin, cloth = self.person.head.skin, outfit.bottom_colour
        ink = Ink(self.unit)
        trousers = outfit.bottom == "trousers"
        colour: Colour = cloth if trousers else skin
        grow = 1.12 if trousers else 0.95
        knee_radius, ankle_radius = radius * 0.85 * grow, radius * (0.82 if trousers else 0.62)
        line = outline(colour)
        ink.fill(self._limb(hip, knee, radius * grow + _EDGE / 2, knee_radius + _EDGE), line, convex=True)
        ink.fill(self._limb(knee, ankle, knee_radius + _EDGE, ankle_radius + _EDGE), line, convex=True)
        self._draw_shoe(ink, ankle, side)
        ink.fill(self._limb(knee, ankle, knee_radius, ankle_radius), colour, convex=True)
        ink.fill(self._limb(hip, knee, radius * grow, knee_radius), colour, convex=True)
        if outfit.bottom == "shorts":
            ink.fill(
                self._limb(hip, knee, radius * 1.12 + _EDGE / 2, radius * 1.12 + _EDGE, 0.86),
                outline(cloth),
                convex=True,
            )
            ink.fill(self._limb(hip, knee, radius * 1.12, radius * 1.12, 0.86), cloth, convex=True)
        return ink

    def _draw_shoe(self, ink: Ink, ankle: int, side: int) -> None:
        joints, body, outfit = self.joints, self.person.body, self.person.outfit
        across = _unit(joints[:, 11] - joints[:, 8])
        ahead = _unit(np.cross(across, [0.0, 1.0, 0.0]) + (0.35 if side else -0.35) * across)
        shank = _unit(joints[:, ankle] - joints[:, ankle - 1])
        ahead = _unit(ahead - 0.85 * (ahead * shank).sum(-1, keepdims=True) * shank)
        radius = 0.058
        heel = joints[:, ankle] + 0.012 * shank
        toe = heel + (body.foot - radius) * ahead
        toe[:, 1] = np.maximum(toe[:, 1], radius * 0.8)
        heel_px, toe_px = self.camera.project(heel), self.camera.project(toe)
        size = self.scale[:, ankle]
        colour = outfit.shoe_colour
        ink.fill(
            capsule(heel_px, toe_px, (radius * 0.95 + _EDGE) * size, (radius + _EDGE) * size),
            outline(colour),
            convex=True,
        )
        ink.fill(capsule(heel_px, toe_px, radius * 0.95 * size, radius * size), colour, convex=True)

    def _sort(self) -> None:
        """Finds in which frames the halves of an arm are ahead of the trunk or head, and a raised leg of the trunk."""
        camera, joints, head = self.camera, self.joints, self.person.head
        trunk = camera.depth((joints[:, 2] + joints[:, 5]) / 4 + (joints[:, 8] + joints[:, 11]) / 4)
        self.upper_ahead, self.fore_ahead, self.before_head = [], [], []
        for shoulder, elbow, wrist in ARMS:
            lower = (camera.depth(joints[:, elbow]) + camera.depth(joints[:, wrist])) / 2
            near = (camera.depth(joints[:, shoulder]) + camera.depth(joints[:, elbow])) / 2
            self.upper_ahead.append(near < trunk + 0.09)
            self.fore_ahead.append(lower < trunk + 0.07)
            self.before_head.append(
                camera.depth(joints[:, wrist]) < camera.depth(self.head_centre) - 0.45 * head.half_depth
            )
        knees = camera.depth(joints[:, [9, 12]])
        self.far_leg = np.argmax(knees, axis=1)
        thigh = self.person.body.bones.thigh
        raised = joints[:, [9, 12], 1] > joints[:, [8, 11], 1] - 0.55 * thigh
        ahead = knees < camera.depth(joints[:, [8, 11]]) - 0.6 * thigh
        self.leg_ahead = raised & ahead

    def layers(self, frame: int) -> tuple[list[Ink], list[Ink]]:
        """Groups to draw before and after the head, in order."""
        behind: list[Ink] = []
        middle: list[Ink] = []
        after: list[Ink] = []
        nearest_last = sorted((0, 1), key=lambda s: -self.camera.depth(self.joints[frame, ARMS[s][2]]))
        for side in nearest_last:
            upper_edge, upper, fore_edge, fore = self.arms[side]
            fore_place = middle if self.fore_ahead[side][frame] else behind
            if self.before_head[side][frame]:
                fore_place = after
            upper_place = middle if self.upper_ahead[side][frame] else behind
            if fore_place is upper_place:
                fore_place += [upper_edge, fore_edge, upper, fore]
            else:
                upper_place += [upper_edge, upper]
                fore_place += [fore_edge, fore]
        far = int(self.far_leg[frame])
        legs = [leg for leg in (far, 1 - far) if not self.leg_ahead[frame, leg]]
        raised = [leg for leg in (far, 1 - far) if self.leg_ahead[frame, leg]]
        lower = [self.legs[leg] for leg in legs] + [self.hip_cloth, self.skirt]
        return behind + lower + [self.trunk] + [self.legs[leg] for leg in raised] + middle, after

"""The images of the synthetic rig: RGB and depth, rendered from one 3-D scene by analytic ray casting in numpy.

A scene is a hand made of ellipsoids that shows one of four signs. Behind it are a box and a tilted wall; sometimes a
bar is in front of it. Everything but the sign is drawn at random, and the hand and the bar move
slowly. A pinhole camera looks along +z (x right, y down, metres); a ray is ``t * (x, y, 1)``, so t is depth itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

SIZE = 64
_HALF_FIELD = 0.21  # tangent of half the field of view
_FAR_M = 3.6  # the range of a time-of-flight camera

# Which fingers are stretched, per class: thumb, index, middle, ring, little.
SIGNS = {
    "stop": (True, True, True, True, True),
    "go": (False, True, False, False, False),
    "left": (True, True, False, False, False),
    "right": (False, True, True, False, False),
}

# Colours of bar, wall and box.
_ROOM = np.array([[0.25, 0.30, 0.38], [0.62, 0.64, 0.60], [0.30, 0.42, 0.34]], np.float32)

# The hand in its own axes, metres: palm centre at the origin, fingers up (-y), back of the hand away (+z).
_FINGER_BASE = np.array(
    [
        [-0.036, 0.004, -0.004],
        [-0.027, -0.036, 0.0],
        [-0.009, -0.040, 0.0],
        [0.009, -0.039, 0.0],
        [0.026, -0.034, 0.0],
    ],
    np.float32,
)
_FINGER_LENGTH = (0.058, 0.070, 0.076, 0.070, 0.056)
_FINGER_LEAN = (-1.05, -0.10, -0.02, 0.07, 0.20)  # radians from straight up, within the palm's plane


@dataclass(frozen=True)
class Motion:
    """A slow sinusoidal movement of several coordinates around their rest: ``rest + swing sin(2 pi f t + phase)``."""

    rest: Array
    swing: Array
    frequency_hz: Array
    phase: Array

    def at(self, t: float) -> Array:
        """The coordinates at t seconds."""
        moved: Array = self.rest + self.swing * np.sin(2 * np.pi * self.frequency_hz * t + self.phase)
        return moved.astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """One moment's scene; what does not move is drawn once.

    Attributes:
        centres, radii, axes: (K, 3), (K, 3), (K, 3, 3) ellipsoids of the hand in its own axes; rows of ``axes`` are
            each ellipsoid's directions.
        angles: pitch, yaw, roll of the hand in radians.
        position: of the palm, in metres.
        bar: position of the occluding bar's centre (x, y, z) and its roll; far behind the camera if there is none.
        bar_half: (3,) half sizes of the bar.
        wall: (3,) plane n with depth = 1 / (n . (x, y, 1)).
        box_centre, box_half, box_axes: the box before the wall; the rows of box_axes are its directions.
        albedo: (4, 3) of hand, bar, wall, box.
        texture: (4, 3) wave vectors in 1/m, ``texture_gain`` (4,) their contrast.
        light: (3,) unit vector towards the light; ``light_colour`` (3,) its gain, exposure included.
        ambient: share of light that comes from everywhere.
        rgb_noise: standard deviation at mid grey, in 0..255.
        hole_blobs: share of the image that lies in blobs without reading; ``hole_phase`` draws where.
        hole_phase: (6, 3) plane waves (kx, ky, phase) whose sum shapes the blobs.
        depth_noise: standard deviation in mm at 1 m; grows with the square of distance.
    """

    centres: Array
    radii: Array
    axes: Array
    angles: Motion
    position: Motion
    bar: Motion
    bar_half: Array
    wall: Array
    box_centre: Array
    box_half: Array
    box_axes: Array
    albedo: Array
    texture: Array
    texture_gain: Array
    light: Array
    light_colour: Array
    ambient: float
    rgb_noise: float
    hole_blobs: float
    hole_phase: Array
    depth_noise: float


@dataclass(frozen=True)
class Surface:
    """What every pixel sees: (64, 64) depth in metres, (64, 64, 3) normals and points, (64, 64) body 0..3.

    Bodies: 0 hand, 1 bar, 2 wall, 3 box. Points are in the body's own axes where it moves, so texture sticks to it.
    """

    depth: Array
    normal: Array
    point: Array
    body: npt.NDArray[np.int64]


def _rays() -> Array:
    line = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE * 2 - 1
    y, x = np.meshgrid(line * _HALF_FIELD, line * _HALF_FIELD, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.ones(SIZE * SIZE)]).astype(np.float32)


_RAYS = _rays()  # (3, P)


def rotation(pitch: float, yaw: float, roll: float) -> Array:
    """(3, 3) rotation matrix ``Rz(roll) Ry(yaw) Rx(pitch)``."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in (pitch, yaw, roll))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turned: Array = (about_z @ about_y @ about_x).astype(np.float32)
    return turned


def _motion(rng: np.random.Generator, rest: npt.ArrayLike, swing: float) -> Motion:
    start = np.asarray(rest, np.float32)
    return Motion(
        start,
        (swing * rng.uniform(0.3, 1.0, start.shape)).astype(np.float32),
        rng.uniform(0.1, 0.5, start.shape).astype(np.float32),
        rng.uniform(0, 2 * np.pi, start.shape).astype(np.float32),
    )


def _hand(sign: tuple[bool, ...], rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Ellipsoids (centres, radii, axes) of a hand with some fingers stretched; proportions vary."""
    centres = [np.zeros(3), np.array([0.0, 0.085, 0.004])]
    radii = [np.array([0.038, 0.044, 0.016]), np.array([0.026, 0.062, 0.022])]
    axes = [np.eye(3), np.eye(3)]
    for finger, stretched in enumerate(sign):
        thumb = finger == 0
        length = _FINGER_LENGTH[finger] * rng.uniform(0.85, 1.15)
        lean = _FINGER_LEAN[finger] + rng.normal(0, 0.10)
        # Bent towards the camera: a little when stretched, folded over the palm when not.
        bend = abs(rng.normal(0, 0.25)) if stretched else rng.uniform(1.3, 2.1)
        if not stretched:
            length *= 0.55
            lean = rng.normal(0.5, 0.15) if thumb else lean
        direction = np.array([np.sin(lean) * np.cos(bend), -np.cos(lean) * np.cos(bend), -np.sin(bend)])
        across = np.cross(direction, [0.3, 0.2, 1.0])
        across /= np.linalg.norm(across)
        thickness = (0.0115 if thumb else 0.0105) * rng.uniform(0.9, 1.15)
        centres.append(_FINGER_BASE[finger] + direction * length / 2)
        radii.append(np.array([length * 0.62, thickness, thickness]))
        axes.append(np.stack([direction, across, np.cross(direction, across)]))
    scale = rng.uniform(0.85, 1.15)
    return (
        (np.stack(centres) * scale).astype(np.float32),
        (np.stack(radii) * scale).astype(np.float32),
        np.stack(axes).astype(np.float32),
    )


def draw_scene(sign: str, rng: np.random.Generator) -> Scene:
    """A scene that shows a sign; everything else at random.

    Raises:
        KeyError: a sign that is not in ``SIGNS``.
    """
    centres, radii, axes = _hand(SIGNS[sign], rng)
    depth = rng.uniform(0.55, 0.85)
    centre = rng.normal(0, 0.018, 2)
    angles = rng.normal(0, 1, 3) * (0.14, 0.18, 0.15)
    occluded = rng.random() < 0.25
    bar_at = (
        (*(centre + rng.normal(0, 0.045, 2)), depth - rng.uniform(0.10, 0.2)) if occluded else (0, 0, -1.0)
    )
    skin = np.array([0.85, 0.62, 0.50]) * rng.uniform(0.6, 1.1) + rng.normal(0, 0.04, 3)
    # The colours of the room lean towards the colour of the hand, so that its outline is not easy to see in RGB.
    others = (_ROOM + rng.normal(0, 0.10, (3, 3))) * 0.75 + np.clip(skin, 0.1, 0.9) * 0.25
    light = np.array([rng.normal(0, 0.5), rng.normal(-0.4, 0.4), -1.0])
    wall_depth = depth + rng.uniform(0.3, 0.9)
    wall_tilt = rng.normal(0, 0.15, 2)
    return Scene(
        centres=centres,
        radii=radii,
        axes=axes,
        angles=_motion(rng, angles, 0.16),
        position=_motion(rng, [*centre, depth], 0.010),
        bar=_motion(rng, [*bar_at, rng.uniform(0, np.pi)], 0.012),
        bar_half=np.array([0.4, rng.uniform(0.005, 0.020), 0.01], np.float32),
        wall=(np.array([*wall_tilt, 1.0]) / wall_depth).astype(np.float32),
        box_centre=np.array([*rng.normal(0, 0.12, 2), depth + rng.uniform(0.1, 0.35)], np.float32),
        box_half=rng.uniform(0.02, 0.09, 3).astype(np.float32),
        box_axes=rotation(*rng.uniform(-0.8, 0.8, 3)),
        albedo=np.clip(np.vstack([skin, others]), 0.05, 1.0).astype(np.float32),
        texture=(rng.normal(0, 1, (4, 3)) * [[220], [150], [25], [60]]).astype(np.float32),
        texture_gain=rng.uniform(0.03, 0.14, 4).astype(np.float32),
        light=(light / np.linalg.norm(light)).astype(np.float32),
        light_colour=(rng.uniform(0.45, 1.1) * rng.uniform(0.9, 1.1, 3)).astype(np.float32),
        ambient=float(rng.uniform(0.2, 0.6)),
        rgb_noise=float(rng.uniform(3, 9)),
        hole_blobs=float(rng.uniform(0.02, 0.12)),
        hole_phase=np.column_stack([rng.normal(0, 9, (6, 2)), rng.uniform(0, 2 * np.pi, 6)]).astype(
            np.float32
        ),
        depth_noise=float(rng.uniform(2.0, 7.0)),
    )


def cast(scene: Scene, t: float) -> Surface:
    """What the camera sees of a scene at t seconds."""
    turn, position = rotation(*scene.angles.at(t)), scene.position.at(t)
    centres = scene.centres @ turn.T + position
    # Ellipsoid k is |matrix_k (p - centre_k)| = 1.
    matrices = (scene.axes @ turn.T) / scene.radii[:, :, None]
    hand, part = _ellipsoids(matrices, centres)
    bar = scene.bar.at(t)
    bar_axes = rotation(0.0, 0.0, float(bar[3]))
    bar_depth, bar_normal = _box(bar[:3], scene.bar_half, bar_axes)
    box_depth, box_normal = _box(scene.box_centre, scene.box_half, scene.box_axes)
    wall = scene.wall @ _RAYS
    # A wall that tilts away behind the camera is not seen.
    wall_depth = np.where(wall > 1e-3, 1.0 / np.maximum(wall, 1e-3), 1e3).astype(np.float32)

    depths = np.stack([hand, bar_depth, wall_depth, box_depth])
    body = depths.argmin(axis=0)
    depth = depths.min(axis=0)
    points = (_RAYS * depth).T
    normal = np.empty_like(points)
    normal[:] = scene.wall / np.linalg.norm(scene.wall)
    for index, normals in ((1, bar_normal), (3, box_normal)):
        normal[body == index] = normals[body == index]
    on_hand = body == 0
    matrix = matrices[part[on_hand]]
    gradient = np.einsum(
        "pji,pjk,pk->pi", matrix, matrix, points[on_hand] - centres[part[on_hand]], optimize=True
    )
    normal[on_hand] = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    # Normals point towards the camera, whichever way the plane was given.
    normal *= -np.sign((normal * points).sum(axis=1, keepdims=True))
    points[on_hand] = (points[on_hand] - position) @ turn
    on_bar = body == 1
    points[on_bar] -= bar[:3]
    shape = (SIZE, SIZE)
    return Surface(
        depth.reshape(shape), normal.reshape(*shape, 3), points.reshape(*shape, 3), body.reshape(shape)
    )


def _ellipsoids(matrices: Array, centres: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Depth of the nearest ellipsoid along every ray (1e3 where none), and which one it is."""
    rays = matrices @ _RAYS  # (K, 3, P)
    offset = np.einsum("kij,kj->ki", matrices, centres)
    a = np.einsum("kip,kip->kp", rays, rays)
    b = np.einsum("kip,ki->kp", rays, offset)
    c = (offset * offset).sum(axis=1, keepdims=True) - 1
    inside = b * b - a * c
    t = np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, np.float32(1e3))
    part = t.argmin(axis=0)
    return np.take_along_axis(t, part[None], axis=0)[0], part


def _box(centre: Array, half: Array, axes: Array) -> tuple[Array, Array]:
    """Depth (P,) of a box along every ray (1e3 where none or behind) and the normals (P, 3) of the faces met."""
    rays = axes @ _RAYS
    start = -(axes @ centre)[:, None]
    safe = np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)
    near = (-np.sign(safe) * half[:, None] - start) / safe
    far = (np.sign(safe) * half[:, None] - start) / safe
    face = near.argmax(axis=0)
    enter, leave = near.max(axis=0), far.min(axis=0)
    hit = (enter < leave) & (enter > 0)
    return np.where(hit, enter, np.float32(1e3)).astype(np.float32), axes[face]


def shade(scene: Scene, surface: Surface, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The colour image: Lambert shading under one light and ambience, texture, shot and read noise.

    Returns:
        (64, 64, 3) uint8.
    """
    lambert = np.maximum(surface.normal @ scene.light, 0)
    wave = np.sin((surface.point * scene.texture[surface.body]).sum(axis=-1))
    albedo = scene.albedo[surface.body] * (1 + scene.texture_gain[surface.body] * wave)[..., None]
    light = (scene.ambient + (1 - scene.ambient) * lambert)[..., None] * scene.light_colour
    colour = 255 * np.clip(albedo * light, 0, 1) ** (1 / 1.8)
    # Shot noise grows with the square root of the signal, read noise is always there.
    spread = scene.rgb_noise * np.sqrt(0.3 + colour / 180)
    noisy = colour + spread * rng.standard_normal(colour.shape, np.float32)
    image: npt.NDArray[np.uint8] = np.clip(noisy + 0.5, 0, 255).astype(np.uint8)
    return image


def measure_depth(scene: Scene, surface: Surface, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """The depth image: noise that grows with distance, and holes.

    Holes (0) are where the surface is seen at a grazing angle, at most edges, in blobs, at random pixels, and beyond
    the camera's reach.

    Returns:
        (64, 64) uint16 millimetres.
    """
    depth = surface.depth
    metres = np.minimum(depth, 10.0)
    noise = (0.001 * scene.depth_noise) * metres**2 * rng.standard_normal(depth.shape, np.float32)
    view = (_RAYS / np.linalg.norm(_RAYS, axis=0)).T.reshape(SIZE, SIZE, 3)
    grazing = np.abs((surface.normal * view).sum(axis=-1)) < 0.25
    step = np.zeros_like(depth)
    step[:, 1:] = np.abs(np.diff(depth, axis=1))
    step[1:] = np.maximum(step[1:], np.abs(np.diff(depth, axis=0)))
    dice = rng.random(depth.shape, np.float32)
    edge = (step > 0.03) & (dice < 0.6)
    speckle = dice > 0.985
    x, y = _RAYS[0].reshape(SIZE, SIZE) / _HALF_FIELD, _RAYS[1].reshape(SIZE, SIZE) / _HALF_FIELD
    waves = sum(np.sin(kx * x / 2 + ky * y / 2 + phase) for kx, ky, phase in scene.hole_phase)
    # The sum of six such waves has a standard deviation of sqrt(3); a quantile of the normal law is close enough.
    blob = waves > np.sqrt(3) * 1.7 * (1 - 2 * scene.hole_blobs)
    hole = grazing | edge | speckle | blob | (depth > _FAR_M)
    return np.where(hole, 0, np.clip((depth + noise) * 1000, 1, 65535)).astype(np.uint16)

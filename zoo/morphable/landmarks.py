"""Fits of a morphable model to the landmarks of pictures: camera, shape and expression.

Sources: Blanz, Vetter, "A Morphable Model for the Synthesis of 3D Faces", 1999; Huber et al., "A Multiresolution 3D
Morphable Face Model and Fitting Framework", 2016.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalities.meshes.geometry import vertex_normals
from zoo.morphable.camera import Camera, fit_camera, turn
from zoo.morphable.conditioning import coefficient_rows
from zoo.morphable.model import MorphableModel
from zoo.morphable.segments import check_vertices

FACING = 0.1
"""The least cosine between a normal and the direction to the viewer at which a landmark of the outline counts."""


class LandmarkFit(NamedTuple):
    """A face that was fitted to pictures of one person."""

    coefficients: Tensor
    """For `decode`, one row a picture, shape [pictures, K]: the shape is shared, the expression is the picture's own,
    the colour the mean's."""
    cameras: list[Camera]
    """One a picture, float64."""
    used: Tensor
    """Which landmarks counted in the end, shape [pictures, landmarks], bool."""
    residuals: Tensor
    """How far the fitted landmarks are from those of the picture, pixels, shape [pictures, landmarks]; NaN where the
    landmark is unknown."""


@torch.no_grad()
def fit_landmarks(
    model: MorphableModel,
    points: Tensor | Sequence[Tensor],
    vertices: Tensor | None = None,
    *,
    noise: float = 3**0.5,
    contour: Sequence[int] | None = None,
) -> LandmarkFit:
    """The most probable shape, expressions and cameras given landmarks in one or several pictures of one person.

    Arguments:
        points: the landmarks in pixels (right, down), shape [landmarks, 2], a tensor for each picture; rows of NaN are
            unknown. At least 4 must be known in every picture.
        vertices: which vertices they mark, shape [landmarks]; None takes the model's own `landmarks`.
        noise: the standard deviation of a coordinate in pixels; the model's own `noise` is added.
        contour: which landmarks are seen on the outline of a face that is turned, wherever that is, and not at their
            vertex; None takes the jaw line, 0 to 16, of 68 landmarks. They count only while their vertex faces the
            viewer.

    It minimises sum |point - projection|^2 / noise^2 + |z|^2, coefficients of shape and expression in standard
    deviations, by Gauss-Newton steps over cameras and coefficients together, from the mean face. As a scaled
    orthographic camera cannot tell a small near face from a large far one, size comes from the prior alone.

    On generated faces turned by 40 degrees the vertices are 2.4 mm off on average, 2.7 mm without the jaw line at all,
    and 13 mm with all of it; moving the hidden landmarks along the outline gains nothing beyond that.
    """
    pictures = [points] if isinstance(points, Tensor) else list(points)
    if vertices is None:
        if not len(model.landmarks):
            raise ValueError("the model has no landmarks of its own: say which vertices the points mark")
        vertices = model.landmarks
    vertices = check_vertices(vertices, model.modality.vertices, "vertices")
    if not pictures:
        raise ValueError("a fit needs the landmarks of at least one picture")
    for picture in pictures:
        if tuple(picture.shape) != (len(vertices), 2):
            raise ValueError(
                f"expected {len(vertices)} landmarks, shape [{len(vertices)}, 2], got {list(picture.shape)}"
            )
        if picture.isinf().any():
            raise ValueError("landmarks must be finite pixels, or NaN where unknown")
        known = picture[~picture.isnan().any(1)]
        if len(known) and (known.amax(0) - known.amin(0)).max() < 2:
            raise ValueError("landmarks are in pixels, and all of these are in one: multiply by the width and height")
        if (known == 0).all(1).sum() > 1:
            raise ValueError("several landmarks lie at (0, 0): put NaN where one was not found")
    if not noise > 0:
        raise ValueError(f"noise must be above 0 pixels, got {noise!r}")
    if contour is None:
        contour = range(17) if len(vertices) == 68 else ()
    outline = torch.zeros(len(vertices), dtype=torch.bool)
    if not all(0 <= place < len(vertices) for place in contour):
        raise ValueError(f"contour names landmarks, 0 to {len(vertices) - 1}, got {list(contour)}")
    outline[list(contour)] = True

    fit = _Alignment(model, vertices, [picture.detach().cpu().double().numpy() for picture in pictures], noise)
    fit.use(fit.known & ~outline.numpy())
    fit.descend()
    normals = _normals(model, vertices[outline]).numpy()
    for _ in range(5 if outline.any() else 0):
        facing = np.ones_like(fit.known)
        facing[:, outline] = [normals @ rotation[2] > FACING for rotation in fit.rotations]
        if not fit.use(fit.known & facing):
            break
        fit.descend()
    z = torch.from_numpy(fit.coefficients()).to(model.mean)
    distances = torch.from_numpy(np.linalg.norm(fit.residuals(), axis=2)).to(model.mean)
    return LandmarkFit(model.join(*z.split(model.sizes[:2], 1)), fit.cameras(), torch.from_numpy(fit.used), distances)


def _normals(model: MorphableModel, vertices: Tensor) -> Tensor:
    """The normals of the mean mesh at some vertices, shape [n, 3]."""
    if not len(vertices):
        return torch.zeros(0, 3)
    faces = model.modality.triangles.cpu()
    near = faces[torch.isin(faces, vertices).any(1)]
    return vertex_normals(model.mean[:, :3].double().cpu(), near)[vertices]


class _Alignment:
    """Cameras and coefficients that move together, in NumPy's float64: the matrices are small.

    Pictures have y up here. The unknowns stand in the order shape, expression of each picture, and for each picture a
    turn about the three axes, the logarithm of the scale and a shift.
    """

    def __init__(self, model: MorphableModel, vertices: Tensor, points: list[np.ndarray], noise: float) -> None:
        self.mean = model.mean[vertices.to(model.device), :3].double().cpu().numpy()
        self.rows = coefficient_rows(model, vertices).numpy()
        self.points = np.stack(points) * (1, -1)
        self.known = ~np.isnan(self.points).any(2)
        self.used = np.zeros_like(self.known)
        self.noise, self.own = noise, float(model.noise)
        self.shared = np.zeros(model.sizes.shape)
        self.expressions = np.zeros((len(points), model.sizes.expression))

    def use(self, landmarks: np.ndarray) -> bool:
        """Count these landmarks [pictures, landmarks] from now on; whether that is a change. At first, the cameras
        start from them."""
        # A picture with fewer than 4 needs the others too.
        used = np.where((landmarks.sum(1) < 4)[:, None], self.known, landmarks)
        if not self.used.any():
            cameras = [
                fit_camera(torch.from_numpy(self.mean[chosen]), torch.from_numpy(seen[chosen] * (1, -1)))
                for chosen, seen in zip(used, self.points, strict=True)
            ]
            self.rotations = [camera.rotation.numpy() for camera in cameras]
            self.scales = [float(camera.scale) for camera in cameras]
            self.shifts = [camera.translation.numpy() * (1, -1) for camera in cameras]
            self.weights = np.array([(self.noise**2 + self.own * scale**2) ** -0.5 for scale in self.scales])
        changed = bool((used != self.used).any())
        self.used = used
        return changed

    def coefficients(self) -> np.ndarray:
        """Shape and expression for each picture, [pictures, k]."""
        return np.concatenate([np.tile(self.shared, (len(self.points), 1)), self.expressions], 1)

    def cameras(self) -> list[Camera]:
        """The cameras, for pictures with y down."""
        poses = zip(self.rotations, self.scales, self.shifts, strict=True)
        return [
            Camera(torch.from_numpy(r.copy()), torch.tensor(s, dtype=torch.float64), torch.from_numpy(t * (1, -1)))
            for r, s, t in poses
        ]

    def _views(self) -> list[np.ndarray]:
        """Turned and scaled landmarks of each picture, [landmarks, 3], before the shift."""
        positions = self.mean + np.einsum("lck,pk->plc", self.rows, self.coefficients())
        return [s * x @ r.T for x, r, s in zip(positions, self.rotations, self.scales, strict=True)]

    def residuals(self) -> np.ndarray:
        """From the projected landmarks to those of the pictures, pixels, [pictures, landmarks, 2]."""
        shifted = [view[:, :2] + shift for view, shift in zip(self._views(), self.shifts, strict=True)]
        return self.points - np.stack(shifted)

    def objective(self) -> float:
        """Squared distances over the noise and squared coefficients."""
        errors = np.square(self.residuals() * self.weights[:, None, None])[self.used].sum()
        return float(errors + np.square(self.shared).sum() + np.square(self.expressions).sum())

    def _step(self) -> np.ndarray:
        """The step to the minimum of the linearised objective.

        By QR of the rows and the prior's rows on top of each other: their products would lose what small noise leaves.
        """
        pictures, landmarks, shape, free = len(self.points), len(self.mean), len(self.shared), self.expressions.shape[1]
        k = shape + pictures * free
        jacobian = np.zeros((pictures, landmarks, 2, k + 6 * pictures))
        for i, view in enumerate(self._views()):
            modes = self.scales[i] * np.einsum("dc,lck->ldk", self.rotations[i][:2], self.rows)
            jacobian[i, ..., :shape] = modes[..., :shape]
            jacobian[i, ..., shape + i * free : shape + (i + 1) * free] = modes[..., shape:]
            jacobian[i, ..., k + 6 * i : k + 6 * (i + 1)] = _pose_jacobian(view)
        weights = self.weights[:, None, None]
        upper = (jacobian * weights[..., None])[self.used].reshape(-1, k + 6 * pictures)
        values = (self.residuals() * weights)[self.used].reshape(-1)
        now = np.concatenate([self.shared, self.expressions.reshape(-1)])
        stacked = np.concatenate([upper, np.eye(k, k + 6 * pictures)])
        target = np.concatenate([values, -now])[:, None]
        return torch.linalg.lstsq(torch.from_numpy(stacked), torch.from_numpy(target), driver="gels")[0].numpy()[:, 0]

    def _moved(self, step: np.ndarray) -> "_Alignment":
        other = copy.copy(self)
        shape, k = len(self.shared), len(step) - 6 * len(self.points)
        other.shared = self.shared + step[:shape]
        other.expressions = self.expressions + step[shape:k].reshape(self.expressions.shape)
        poses = step[k:].reshape(-1, 6)
        other.rotations = [turn(p[:3]) @ r for p, r in zip(poses, self.rotations, strict=True)]
        other.scales = [s * float(np.exp(np.clip(p[3], -1, 1))) for p, s in zip(poses, self.scales, strict=True)]
        other.shifts = [t + p[4:] for p, t in zip(poses, self.shifts, strict=True)]
        return other

    def descend(self) -> None:
        """Gauss-Newton steps, halved where the objective would rise, until it falls no further."""
        now = self.objective()
        for _ in range(50):
            step = self._step()
            for length in 0.5 ** np.arange(8):
                moved = self._moved(length * step)
                tried = moved.objective()
                if tried < now:
                    break
            else:
                return
            settled = now - tried < 1e-9 * now
            now = tried
            self.__dict__.update(moved.__dict__)
            if settled:
                return


def _pose_jacobian(view: np.ndarray) -> np.ndarray:
    """How points (right, up) move with a turn about the three axes of the view, the logarithm of the scale and a shift,
    shape [n, 2, 6]; `view` holds the scaled and turned positions [n, 3]."""
    jacobian = np.zeros((len(view), 2, 6))
    jacobian[:, 0, 1], jacobian[:, 0, 2] = view[:, 2], -view[:, 1]
    jacobian[:, 1, 0], jacobian[:, 1, 2] = -view[:, 2], view[:, 0]
    jacobian[:, :, 3] = view[:, :2]
    jacobian[:, 0, 4] = jacobian[:, 1, 5] = 1
    return jacobian

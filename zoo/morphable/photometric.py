"""Refinement of a fitted face by the colours of its picture.

Sources: Blanz, Vetter, "A Morphable Model for the Synthesis of 3D Faces", 1999, for the objective and the random
triangles; Ramamoorthi, Hanrahan, "An Efficient Representation for Irradiance Environment Maps", 2001, for the light.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modalities.meshes.geometry import triangle_normals, vertex_normals
from zoo.model import check_count
from zoo.morphable.camera import Camera, check_picture, sample_picture
from zoo.morphable.landmarks import LandmarkFit
from zoo.morphable.model import PARTS, MorphableModel
from zoo.morphable.visibility import visible

REFRESH = 25
"""After how many steps visibility and light are found anew."""
GRAZING = 0.2
"""The least cosine to the viewer of a triangle whose colour counts."""

FEWEST = 30
"""Triangles that must be seen."""


class PhotometricFit(NamedTuple):
    """A face whose colours agree with a picture."""

    coefficients: Tensor
    """For `decode`, shape [1, K]: shape, expression and colour."""
    camera: Camera
    """Float64."""
    light: Tensor
    """Irradiance in the view's frame, in the order of `harmonics`, times red, green and blue, shape [9, 3]."""
    error: float
    """The root of the mean squared difference of colours in [0, 1], over the visible triangles."""


def harmonics(normals: Tensor) -> Tensor:
    """Spherical harmonics up to the second degree, without their constants, of unit normals [n, 3], shape [n, 9]."""
    x, y, z = normals.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1], -1)


def refine(
    model: MorphableModel,
    picture: Tensor,
    fit: LandmarkFit,
    points: Tensor | None = None,
    *,
    noise: float = 0.2,
    pixels: float = 3.0,
    triangles: int = 1000,
    steps: int = 300,
    generator: torch.Generator | None = None,
) -> PhotometricFit:
    """Move pose, shape, expression and colour until the lit colours of the model are those of the picture.

    Arguments:
        model: with colours.
        picture: in [-1, 1], shape [3, height, width].
        fit: where to start: of this picture alone.
        points: the landmarks that `fit` was found with, the model's own, in pixels, shape [landmarks, 2]; None leaves
            them out.
        noise: the standard deviation of a colour in [0, 1] at a triangle. It counts triangles as independent; where the
            model is wrong (hair, shadows, a hand) neighbours err together, so it is wider than one triangle's error.
        pixels: the standard deviation of a landmark's coordinate.
        triangles: how many, drawn anew in each step, count.
        steps: of Adam, whose rate falls to 0.

    The objective is sum |picture - colour|^2 / noise^2 at the projected centres of visible triangles, plus
    sum |point - projection|^2 / pixels^2, plus |z|^2. The colour of a triangle is the mean colour of its corners times
    the light on its normal, spherical harmonics with 9 coefficients for each of red, green and blue, by linear least
    squares. There are no cast shadows and no highlights, and outlines have no gradient: the fit must be near already.

    Raises ValueError for a model without colours and a face outside the picture.
    """
    if not model.modality.colours:
        raise ValueError("the colours of a picture say nothing to a model without colours")
    check_picture(picture)
    check_count(triangles, "triangles")
    check_count(steps, "steps")
    if len(fit.cameras) != 1:
        raise ValueError(f"a refinement starts from the fit of one picture, got one of {len(fit.cameras)}")
    if not (noise > 0 and pixels > 0):
        raise ValueError(f"noise and pixels must be above 0, got {noise!r} and {pixels!r}")
    face = _Face(model, picture, fit)
    marks = None
    if points is not None:
        vertices = model.landmarks.long().cpu()
        if tuple(points.shape) != (len(vertices), 2):
            raise ValueError(f"expected the model's {len(vertices)} landmarks, got points {list(points.shape)}")
        counted = fit.used[0] & ~points.isnan().any(1)
        marks = vertices[counted], points[counted].detach().to(face.z)
    groups = [([face.z], 0.05), ([face.axis, face.growth], 0.002), ([face.shift], 0.2)]
    optimizer = torch.optim.Adam([{"params": parameters, "lr": rate} for parameters, rate in groups], betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for step in range(steps):
            if step % REFRESH == 0:
                face.look()
            draw = torch.randint(len(face.seen), (triangles,), generator=generator)
            seen, shown = face.compare(face.seen[draw.to(face.seen.device)])
            loss = (seen - shown).square().sum() / noise**2 + face.z.square().sum()
            if marks is not None:
                loss = loss + (face.project(face.positions(marks[0])) - marks[1]).square().sum() / pixels**2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        face.look()
        seen, shown = face.compare(face.seen)
        return PhotometricFit(
            face.z.detach()[None].to(model.mean),
            face.camera(),
            face.light,
            float((seen - shown).square().mean().sqrt()),
        )


class _Face:
    """What is refined, and what it looks like."""

    def __init__(self, model: MorphableModel, picture: Tensor, fit: LandmarkFit) -> None:
        self.model, self.picture = model, (picture / 2 + 0.5).to(model.mean)
        self.faces = model.modality.triangles.to(model.device)
        self.start = fit.cameras[0]
        self.z = fit.coefficients[0].detach().clone().to(model.mean).requires_grad_()
        self.axis, self.shift = (torch.zeros(n, device=model.device, requires_grad=True) for n in (3, 2))
        self.growth = torch.zeros((), device=model.device, requires_grad=True)
        self.light = torch.zeros(9, 3, device=model.device)
        self.seen = torch.empty(0)
        self.scaled = [(axes.variance.sqrt(), axes.basis.unflatten(1, (-1, 3))) for axes in map(model.axes, PARTS)]

    def positions(self, vertices: Tensor) -> Tensor:
        """Of some vertices, millimetres, shape [n, 3]."""
        return self._parts(vertices)[:, :3]

    def _parts(self, vertices: Tensor) -> Tensor:
        """Positions and colours of some vertices, shape [n, 6]."""
        offsets = [
            torch.tensordot(z * deviation, basis[:, vertices], 1)
            for z, (deviation, basis) in zip(self.model.split(self.z), self.scaled, strict=True)
        ]
        return self.model.mean[vertices] + torch.cat([offsets[0] + offsets[1], offsets[2]], 1)

    def rotation(self) -> Tensor:
        """The start's, turned about the view's axes."""
        x, y, z = self.axis.unbind()
        zero = torch.zeros_like(x)
        cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
        return torch.linalg.matrix_exp(cross) @ self.start.rotation.to(self.z)

    def project(self, positions: Tensor) -> Tensor:
        """Pixels, shape [n, 2]."""
        view = positions @ self.rotation().T
        scale = self.start.scale.to(self.z) * self.growth.exp()
        return scale * view[:, :2] * view.new_tensor([1, -1]) + self.start.translation.to(self.z) + self.shift

    def camera(self) -> Camera:
        """As it is now, float64; made orthonormal again, since its numbers were float32."""
        u, _, vt = torch.linalg.svd(self.rotation().detach().double().cpu())
        scale = self.start.scale.double().cpu() * self.growth.detach().double().cpu().exp()
        return Camera(u @ vt, scale, self.start.translation.double().cpu() + self.shift.detach().double().cpu())

    def _triangles(self, triangles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The colours of the picture [n, 3], those of the model without light [n, 3], and the harmonics of the normals
        [n, 9] at triangles."""
        corners = self._parts(self.faces[triangles].flatten()).unflatten(0, (-1, 3))
        places, albedo = corners[..., :3], corners[..., 3:].mean(1)
        normals = torch.nn.functional.normalize(triangle_normals(places), dim=1, eps=1e-12) @ self.rotation().T
        return sample_picture(self.picture, self.project(places.mean(1))), albedo, harmonics(normals)

    def compare(self, triangles: Tensor) -> tuple[Tensor, Tensor]:
        """The colours of the picture and of the lit model at triangles, both [n, 3]."""
        seen, albedo, basis = self._triangles(triangles)
        return seen, albedo * (basis @ self.light)

    @torch.no_grad()
    def look(self) -> None:
        """Find the visible triangles inside the picture, and the light on them."""
        parts = self._parts(torch.arange(self.model.modality.vertices, device=self.model.device))
        camera = self.camera()
        positions = parts[:, :3]
        sees = visible(positions, camera, self.faces)
        points = self.project(positions)
        height, width = self.picture.shape[1:]
        sees &= ((points >= 0) & (points <= points.new_tensor([width, height]))).all(1)
        cosine = camera.view(vertex_normals(positions, self.faces))[:, 2]
        sees &= cosine > GRAZING
        self.seen = torch.nonzero(sees[self.faces].all(1))[:, 0]
        if len(self.seen) < FEWEST:
            raise ValueError(f"{len(self.seen)} triangles of the face are seen in the picture: the fit is elsewhere")
        seen, albedo, basis = (part.double() for part in self._triangles(self.seen))
        rows = albedo.T[..., None] * basis
        # A small ridge, where the normals do not determine every harmonic.
        products = rows.mT @ rows / len(seen) + 1e-4 * torch.eye(9).to(rows)
        goal = rows.mT @ seen.T[..., None] / len(seen)
        self.light = torch.linalg.solve(products, goal)[..., 0].T.to(self.z)

"""Refinement of a fitted face by the colours of its picture.

Sources: Blanz, Vetter, "A Morphable Model for the Synthesis of 3D Faces", 1999, for the objective and the random
triangles; Ramamoorthi, Hanrahan, "An Efficient Representation for Irradiance Environment Maps", 2001, for the light.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modalities.meshes.geometry import triangle_normals
from zoo.model import check_count
from zoo.morphable.camera import Camera, check_picture, sample_picture
from zoo.morphable.colour import read_colours
from zoo.morphable.landmarks import LandmarkFit
from zoo.morphable.model import PARTS, MorphableModel

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
            loss = face.differences(face.seen[draw.to(face.seen.device)]).square().sum() / noise**2
            loss = loss + face.z.square().sum()
            if marks is not None:
                places = face.camera().project(face.parts(marks[0])[:, :3])
                loss = loss + (places - marks[1]).square().sum() / pixels**2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        face.look()
        error = float(face.differences(face.seen).square().mean().sqrt())
        return PhotometricFit(face.z.detach()[None].to(model.mean), face.camera(), face.light, error)


class _Face:
    """What is refined, and what it looks like."""

    def __init__(self, model: MorphableModel, picture: Tensor, fit: LandmarkFit) -> None:
        self.model, self.picture = model, picture.to(model.mean)
        self.faces = model.modality.triangles.to(model.device)
        self.start = fit.cameras[0]
        self.z = fit.coefficients[0].detach().clone().to(model.mean).requires_grad_()
        self.axis, self.growth, self.shift = (
            torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((3,), (), (2,))
        )
        self.light, self.seen = torch.zeros(9, 3, device=model.device), torch.empty(0)
        self.scaled = [(axes.variance.sqrt(), axes.basis.unflatten(1, (-1, 3))) for axes in map(model.axes, PARTS)]

    def parts(self, vertices: Tensor) -> Tensor:
        """Positions and colours of some vertices, shape [n, 6]."""
        shape, expression, colour = (
            torch.tensordot(z * deviation, basis[:, vertices], 1)
            for z, (deviation, basis) in zip(self.model.split(self.z), self.scaled, strict=True)
        )
        return self.model.mean[vertices] + torch.cat([shape + expression, colour], 1)

    def camera(self) -> Camera:
        """The start's, turned about the view's axes, grown and shifted; float64, on the CPU."""
        x, y, z = self.axis.unbind()
        zero = torch.zeros_like(x)
        cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
        rotation = torch.linalg.matrix_exp(cross) @ self.start.rotation.double().cpu()
        scale = self.start.scale.double().cpu() * self.growth.exp()
        return Camera(rotation, scale, self.start.translation.double().cpu() + self.shift)

    def _triangles(self, triangles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The colours of the picture [n, 3], those of the model without light [n, 3], and the harmonics of the normals
        [n, 9] at triangles."""
        corners, camera = self.parts(self.faces[triangles].flatten()).unflatten(0, (-1, 3)), self.camera()
        places, albedo = corners[..., :3], corners[..., 3:].mean(1)
        normals = camera.view(torch.nn.functional.normalize(triangle_normals(places), dim=1, eps=1e-12))
        seen = sample_picture(self.picture, camera.project(places.mean(1))) / 2 + 0.5
        return seen, albedo, harmonics(normals)

    def differences(self, triangles: Tensor) -> Tensor:
        """The colours of the picture less those of the lit model at triangles, shape [n, 3]."""
        seen, albedo, basis = self._triangles(triangles)
        return seen - albedo * (basis @ self.light)

    @torch.no_grad()
    def look(self) -> None:
        """Find the visible triangles inside the picture, and the light on them."""
        positions = self.parts(torch.arange(self.model.modality.vertices, device=self.model.device))[:, :3]
        sees = read_colours(self.picture, positions, self.camera(), self.faces).weights > GRAZING
        self.seen = torch.nonzero(sees[self.faces].all(1))[:, 0]
        if len(self.seen) < FEWEST:
            raise ValueError(f"{len(self.seen)} triangles of the face are seen in the picture: the fit is elsewhere")
        seen, albedo, basis = (part.double() for part in self._triangles(self.seen))
        rows = albedo.T[..., None] * basis
        # A small ridge, where the normals do not determine every harmonic.
        products = rows.mT @ rows / len(seen) + 1e-4 * torch.eye(9).to(rows)
        goal = rows.mT @ seen.T[..., None] / len(seen)
        self.light = torch.linalg.solve(products, goal)[..., 0].T.to(self.z)

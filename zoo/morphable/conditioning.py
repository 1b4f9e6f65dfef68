"""Gaussian conditioning of morphable models, and the parts of a model: posterior, completion, marginal, truncation.

Source: Albrecht, Luthi, Gerig, Vetter, "Posterior Shape Models", 2013.
"""

import warnings

import torch
from torch import Tensor

from modalities.meshes import Meshes
from zoo.morphable.model import PARTS, MorphableModel
from zoo.morphable.modes import Axes, principal
from zoo.morphable.segments import check_vertices, vertex_mask

STRANGE = 25.0
"""How many times the expected sum of squares positions may need without a warning: five standard deviations each."""


@torch.no_grad()
def posterior(model: MorphableModel, vertices: Tensor, positions: Tensor, noise: float | Tensor) -> MorphableModel:
    """The model of all meshes in which some vertices lie near given positions; it can be sampled as any other.

    Arguments:
        vertices: the numbers of the observed vertices, each once, shape [n].
        positions: where they are, millimetres, shape [n, 3].
        noise: how far the observations may be off, besides the model's own `noise`: the standard deviation of every
            coordinate in millimetres, or the covariance matrices of the points in square millimetres, shape [n, 3, 3].

    positions = mean + modes^T a with a ~ N(0, I), seen through y = positions + N(0, noise), has the posterior
    a ~ N(M^-1 B y, M^-1), M = I + B B^T with the observed columns of the modes over the noise. Small noise
    interpolates, large noise gives the model back.

    The modes of expression merge with those of shape: all are modes of `shape`, by falling variance. Colours, segments
    and landmarks stay; attributes are left out, since their directions may be known now.

    Raises ValueError for vertices out of range or given twice, positions that are not finite and noise that is no
    covariance. Warns of positions that no likely mesh has.
    """
    vertices, positions, root = _observations(model, vertices, positions, noise)
    rows = torch.linalg.solve_triangular(root, coefficient_rows(model, vertices), upper=False)
    away = positions - model.mean[vertices, :3].double().cpu()
    values = torch.linalg.solve_triangular(root, away[..., None], upper=False)
    rows, values = rows.flatten(0, 1), values.flatten()
    found, factor = _condition(rows, values)
    surplus = ((values - rows @ found).square().sum() + found.square().sum()).item() / len(values)
    if surplus > STRANGE:
        warnings.warn(
            f"no likely mesh has its vertices there: the squares are {surplus:.0f} times those that the noise leads to "
            "expect; are the positions in millimetres, placed as the model is, each for its own vertex, and is their "
            "error no larger than noise?",
            stacklevel=3,
        )
    shape, expression = model.axes("shape"), model.axes("expression")
    mix, spread = _orthogonal(shape, expression)
    covariance = spread @ factor
    variance, vectors = torch.linalg.eigh(covariance @ covariance.T)
    deviation = torch.cat([shape.variance, expression.variance]).double().cpu().sqrt()
    mean = model.mean.clone()
    mean[:, :3] += _product((deviation * found)[None], shape.basis, expression.basis).view(-1, 3)
    basis = _product(vectors.flip(1).T @ mix, shape.basis, expression.basis)
    axes = Axes(basis, variance.flip(0).clamp(min=0).to(basis))
    return model.with_parts(mean=mean, shape=axes, expression=None, attributes=None)


def complete(model: MorphableModel, mesh: Tensor, noise: float | Tensor = 1.0) -> MorphableModel:
    """The model of all meshes that agree with a partial one: its `mean` is the completed mesh, its samples others.

    Arguments:
        mesh: positions in millimetres, shape [vertices, 3]; rows of NaN are unknown.
        noise: as in `posterior`; covariances for the known vertices alone, in their order.
    """
    if tuple(mesh.shape) != (model.modality.vertices, 3):
        raise ValueError(f"expected positions of shape [{model.modality.vertices}, 3], got {list(mesh.shape)}")
    known = ~mesh.isnan().any(1)
    if not known.any():
        raise ValueError("no vertex of the mesh is known: all have NaN")
    vertices = known.nonzero()[:, 0]
    return posterior(model, vertices, mesh[vertices], noise)


def _observations(
    model: MorphableModel, vertices: Tensor, positions: Tensor, noise: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The vertices and their positions, checked, and the Cholesky factors of their covariances [n or 1, 3, 3]."""
    vertices = check_vertices(vertices, model.modality.vertices, "vertices")
    if len(vertices.unique()) < len(vertices):
        values, counts = vertices.unique(return_counts=True)
        raise ValueError(f"every vertex is observed once; given twice: {values[counts > 1][:5].tolist()}")
    positions = torch.as_tensor(positions).detach().cpu().double()
    if tuple(positions.shape) != (len(vertices), 3):
        raise ValueError(f"expected a position for each of {len(vertices)} vertices, got {list(positions.shape)}")
    if not positions.isfinite().all():
        wrong = vertices[~positions.isfinite().all(1)][:5].tolist()
        raise ValueError(f"positions must be finite numbers; those of the vertices {wrong} are not")
    covariance = torch.as_tensor(noise).detach().cpu().double()
    if covariance.ndim == 0:
        covariance = covariance.square() * torch.eye(3, dtype=torch.float64)[None]
    elif tuple(covariance.shape) != (len(vertices), 3, 3):
        raise ValueError(
            "noise is a standard deviation in millimetres or a covariance for each point, shape "
            f"[{len(vertices)}, 3, 3]; got shape {list(covariance.shape)}"
        )
    covariance = covariance + float(model.noise) * torch.eye(3, dtype=torch.float64)
    root, failed = torch.linalg.cholesky_ex(covariance)
    if failed.any() or not covariance.isfinite().all():
        raise ValueError("noise must be above 0, and covariances symmetric and positive definite")
    return vertices, positions, root


def coefficient_rows(model: MorphableModel, vertices: Tensor) -> Tensor:
    """How some vertices move by one standard deviation of each coefficient, float64, shape [n, 3, k]."""
    parts = []
    for axes in (model.axes("shape"), model.axes("expression")):
        rows = axes.basis.unflatten(1, (-1, 3))[:, vertices.to(axes.basis.device)].double().cpu()
        parts.append(axes.variance.double().cpu().sqrt()[:, None, None] * rows)
    return torch.cat(parts).permute(1, 2, 0)


def _condition(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a ~ N(0, I) given values = rows a + N(0, I), rows of shape [m, k], and F with F F^T the covariance.

    The singular values tell what the rows leave open to any precision, however small the noise that they were divided
    by. Many more rows than coefficients leave nothing open, and their products are enough.
    """
    m, k = rows.shape
    if m <= 4 * k:
        u, s, vt = torch.linalg.svd(rows, full_matrices=m < k)
        seen = len(s)
        mean = vt[:seen].T @ (s / (1 + s.square()) * (u.T[:seen] @ values))
        return mean, vt.T / torch.cat([1 + s.square(), s.new_ones(k - seen)]).sqrt()
    one = torch.eye(k, dtype=rows.dtype)
    factor = torch.linalg.cholesky(rows.T @ rows + one)
    mean = torch.cholesky_solve((rows.T @ values)[:, None], factor)[:, 0]
    return mean, torch.linalg.solve_triangular(factor.T, one, upper=True)


def _orthogonal(shape: Axes, expression: Axes) -> tuple[Tensor, Tensor]:
    """Orthonormal axes of shape and expression together, as `mix` [r, k] times both bases, and the `spread` [r, k] that
    turns coefficients into coordinates along them."""
    deviation = torch.cat([shape.variance, expression.variance]).double().cpu().sqrt()
    k, first = len(deviation), len(shape.basis)
    if first == k:
        mix = torch.eye(k, dtype=torch.float64)
        return mix, mix * deviation
    products = torch.eye(k, dtype=torch.float64)
    products[:first, first:] = (shape.basis @ expression.basis.T).double().cpu()
    products[first:, :first] = products[:first, first:].T
    values, vectors = torch.linalg.eigh(products)
    # Directions that both bases hold leave none for the other side.
    kept = values > 1e-5
    values, vectors = values[kept].sqrt(), vectors[:, kept]
    return (vectors / values).T, (vectors * values).T * deviation


def _product(mix: Tensor, *bases: Tensor) -> Tensor:
    """Rows of several bases, mixed, shape [r, 3 * vertices]."""
    parts = mix.to(bases[0]).split([len(basis) for basis in bases], 1)
    total = parts[0] @ bases[0]
    for part, basis in zip(parts[1:], bases[1:], strict=True):
        total.addmm_(part, basis)
    return total


def truncate(
    model: MorphableModel, shape: int | None = None, expression: int | None = None, colour: int | None = None
) -> MorphableModel:
    """The model with the first modes only; None keeps all. The variance of positions that goes joins `noise`."""
    kept = [size if k is None else k for size, k in zip(model.sizes, (shape, expression, colour), strict=True)]
    for name, size, k in zip(PARTS, model.sizes, kept, strict=True):
        if not isinstance(k, int) or not (name == "shape") <= k <= size:
            raise ValueError(f"the model has {size} modes of {name}, and keeps {int(name == 'shape')} or more: {k}")
    axes = {name: Axes(*(part[:k] for part in model.axes(name))) for name, k in zip(PARTS, kept, strict=True)}
    gone = sum(model.axes(name).variance[k:].double().sum() for name, k in zip(PARTS[:2], kept, strict=False))
    noise = model.noise.double() + gone / (3 * model.modality.vertices)
    every = torch.eye(sum(model.sizes), dtype=torch.float64, device=model.device).split(model.sizes)
    rows = torch.cat([part[:k] for part, k in zip(every, kept, strict=True)])
    return model.with_parts(**axes, noise=float(noise), attributes=_turned(model, rows))


def marginal(model: MorphableModel, vertices: Tensor) -> MorphableModel:
    """The model of some vertices alone, their numbers or a mask, and of the triangles among them.

    It has the same distribution there; its coefficients are others, and fewer where the vertices have less freedom.
    Landmarks stay if all are among the vertices.
    """
    medium, device = model.modality, model.device
    mask = vertex_mask(vertices, medium.vertices, "vertices").to(device)
    chosen = mask.nonzero()[:, 0] if vertices.dtype == torch.bool else vertices.to(device).long()
    if len(chosen) < 3 or len(chosen.unique()) < len(chosen):
        raise ValueError(f"expected at least 3 vertices, each once, got {len(chosen)}")
    number = torch.full_like(mask, -1, dtype=torch.long)
    number[chosen] = torch.arange(len(chosen), device=device)
    triangles = number[medium.triangles.to(device)].cpu()
    coordinates = (3 * chosen[:, None] + torch.arange(3, device=device)).flatten()
    axes, turns = {}, []
    for name in PARTS:
        part, turned = principal(model.axes(name).scaled[:, coordinates])
        axes[name] = Axes(part.basis.to(model.mean), part.variance.to(model.mean))
        turns.append(turned)
    landmarks = number[model.landmarks.long()]
    return model.with_parts(
        medium=Meshes(
            len(chosen),
            medium.colours,
            triangles[(triangles >= 0).all(1)],
            None if medium.uv is None else medium.uv[chosen.cpu()],
        ),
        mean=model.mean[chosen],
        **axes,
        segments=dict(zip(model.segments, model.weights[:, chosen], strict=True)),
        attributes=_turned(model, torch.block_diag(*turns)),
        landmarks=None if (landmarks < 0).any() else landmarks,
    )


def _turned(model: MorphableModel, turned: Tensor) -> dict[str, Tensor]:
    """The attributes' directions in other coefficients, turned z, of which there may be fewer.

    The slope of a label in z is step / |step|^2, and turns as z does.
    """
    directions = model.directions.double()
    slopes = directions @ turned.T / directions.square().sum(1, keepdim=True)
    steps = slopes / slopes.square().sum(1, keepdim=True)
    return dict(zip(model.attributes, steps.to(model.mean), strict=True))

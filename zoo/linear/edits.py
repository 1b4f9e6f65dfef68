"""What edits of meshes need: the step that changes an attribute, and the smooth borders of a segment."""

import warnings

import numpy as np
import torch
from torch import Tensor


def minimal_step(z: Tensor, labels: Tensor, name: str = "labels") -> Tensor:
    """The most probable step in standard normal coefficients that raises a label by one, shape [K].

    With the regression label = slope . z + c that is slope / |slope|^2: of all steps with this effect the one of least
    Mahalanobis length. The ridge of the regression is the one of least leave-one-out error, so that few labels do, and
    that a step is long enough where its direction is uncertain; the limit of a large one is Blanz and Vetter's sum of
    label-weighted deviations from the mean. Labels that no ridge predicts are warned of.

    Arguments:
        z: coefficients, shape [n, K].
        labels: numbers, shape [n].
        name: of the labels, for errors.

    Raises ValueError for fewer than 3 labels, for NaN and for labels that are all equal.

    Sources: Blanz, Vetter, "A Morphable Model for the Synthesis of 3D Faces", 1999; for the leave-one-out error Allen,
    "The Relationship between Variable Selection and Data Augmentation and a Method for Prediction", 1974.
    """
    if len(labels) < 3 or not torch.isfinite(labels).all():
        raise ValueError(f"{name}: expected at least 3 finite numbers, got {labels.tolist()!s:.60}")
    y = labels.to(z.device).double()
    y = y - y.mean()
    if y.abs().max() <= torch.finfo(torch.float32).eps * labels.abs().max():
        raise ValueError(f"{name}: all labels are equal: an attribute that never changes has no direction")
    centred = z.double() - z.double().mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    live = s > 1e-7 * s[0]
    if not live.any():
        raise ValueError(f"{name}: all meshes are equal: no direction leads from one to another")
    u, s, v = u[:, live], s[live], v[live]
    scores = u.T @ y
    beyond = (1 - 1 / len(y) - u.square().sum(1)).clamp(min=0)
    best, slope = torch.inf, v[0]
    for ridge in s[0] ** 2 * torch.logspace(-8, 3, 45, dtype=torch.float64, device=s.device):
        lost = ridge / (s.square() + ridge)
        residual = y - u @ ((1 - lost) * scores)
        error = (residual / (beyond + u.square() @ lost)).square().sum().item()
        if error < best:
            best, slope = error, v.T @ (s / (s.square() + ridge) * scores)
    length = torch.linalg.vector_norm(slope)
    if best > 0.99 * (y * len(y) / (len(y) - 1)).square().sum() or not length > 0:
        warnings.warn(
            f"{name}: these labels cannot be told from the meshes: their direction means little", stacklevel=2
        )
        # A slope near 0 would make an endless step. It is no longer than this.
        slope = (slope / length if length > 0 else v[0]) * y.std()
    return (slope / slope.square().sum()).to(z)


def diffuse(values: Tensor, positions: Tensor, faces: Tensor, width: float) -> Tensor:
    """Smooth values of vertices, shape [rows, vertices], as heat spreads over the surface; float64.

    Three implicit steps of the heat equation with finite elements, nearly a Gaussian of standard deviation `width`, in
    the units of the positions [vertices, 3]. Values stay within their range, and rows that sum to 1 still do. Vertices
    in one place count as joined, so that seams of a texture are no borders.

    Source: Desbrun, Meyer, Schroeder, Barr, "Implicit Fairing of Irregular Meshes using Diffusion and Curvature Flow",
    1999.
    """
    from scipy import sparse
    from scipy.sparse.linalg import splu

    steps = 3
    points, place = np.unique(positions.double().numpy(), axis=0, return_inverse=True)
    place = place.reshape(-1)
    corners = place[faces.long().numpy()]
    shape = (len(points), len(points))
    stiffness, mass = sparse.csc_matrix(shape), np.zeros(len(points))
    for turn in range(3):
        a, b, c = np.roll(corners, turn, 1).T
        left, right = points[b] - points[a], points[c] - points[a]
        double_area = np.linalg.norm(np.cross(left, right), axis=1)
        np.add.at(mass, a, double_area / 6)
        # Obtuse and flat corners would give weights below zero or without bound, and values outside their range.
        cotangent = (left * right).sum(1) / np.maximum(double_area, np.finfo(float).tiny)
        stiffness += sparse.csc_matrix((np.clip(cotangent, 0, 100) / 2, (b, c)), shape)
    stiffness += stiffness.T
    mass[mass == 0] = 1.0
    laplacian = sparse.diags(np.asarray(stiffness.sum(1)).ravel()) - stiffness
    solver = splu((sparse.diags(mass) + width**2 / (2 * steps) * laplacian).tocsc(), permc_spec="MMD_AT_PLUS_A")
    shared = sparse.csr_matrix((np.ones(len(place)), (place, np.arange(len(place)))), (len(points), len(place)))
    smooth = shared @ values.double().numpy().T / np.bincount(place)[:, None]
    for _ in range(steps):
        smooth = solver.solve(mass[:, None] * smooth)
    return torch.from_numpy(np.ascontiguousarray(smooth[place].T))

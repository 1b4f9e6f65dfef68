"""Procrustes alignment: known motions come back, reflections do not, and what has no answer is refused."""

import math

import pytest
import torch

from modalities import MediaError
from modalities.meshes.alignment import align, align_to_mean, find_similarity, procrustes_mean


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotations(n: int) -> torch.Tensor:
    q = torch.linalg.qr(normal(n, 3, 3, seed=1)).Q
    return q * torch.linalg.det(q)[:, None, None]


@pytest.mark.parametrize("shape", ["body", "plane", "sliver"])
def test_known_motions_come_back(shape):
    target = 50 * normal(30, 3) + 100
    if shape != "body":
        target[:, 2] = 0.2 * target[:, 0] if shape == "plane" else 1e-3 * target[:, 1]
    rotation, factor, shift = rotations(5), torch.linspace(0.5, 2, 5, dtype=torch.float64), 10 * normal(5, 3, seed=2)
    x = (target - shift[:, None]) @ rotation / factor[:, None, None]
    motion = find_similarity(x, target, scale=True)
    assert torch.allclose(motion.scale, factor) and torch.allclose(motion.rotation, rotation)
    assert torch.allclose(motion.translation, shift)
    assert torch.allclose(align(x, target, scale=True), target.expand(5, -1, -1))
    # A rigid motion keeps sizes.
    rigid = align(x, target)
    distances = [(points[:, None] - points[:, :, None]).norm(dim=-1) for points in (rigid, x)]
    assert torch.allclose(*distances)
    assert torch.allclose(find_similarity(x, target).rotation, rotation)
    assert torch.allclose(align(x.float(), target.float(), scale=True), target.float().expand(5, -1, -1), atol=1e-3)


def test_the_motion_is_the_best_one():
    x, target = normal(1, 20, 3), normal(20, 3, seed=3)

    def error(points: torch.Tensor) -> float:
        return float((points - target).square().sum())

    best = find_similarity(x, target, True)
    least = error(best.apply(x))
    for i in range(60):
        step = 1e-2 * normal(7, seed=10 + i)
        turn = torch.linalg.matrix_exp(
            torch.tensor([[0, -step[2], step[1]], [step[2], 0, -step[0]], [-step[1], step[0], 0]])
        )
        other = best._replace(
            scale=best.scale * torch.exp(step[6]),
            rotation=turn @ best.rotation,
            translation=best.translation + step[3:6],
        )
        assert error(other.apply(x)) > least


def test_reflections_are_not_undone():
    target = normal(20, 3) * torch.tensor([3, 2, 1])
    motion = find_similarity(target[None] * torch.tensor([-1, 1, 1]), target)
    assert torch.linalg.det(motion.rotation[0]) == pytest.approx(1)
    # The mirror image of least spread is the nearest one: turned by half around the second axis.
    assert motion.rotation[0, 1, 1] > 0.9
    # A mirrored regular body is as near in several directions.
    cube = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1, 1) for z in (-1, 1)])
    with pytest.raises(MediaError, match="mirror image"):
        find_similarity(cube[None], -cube)
    assert torch.allclose(align(cube[None], cube)[0], cube, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0, 1000])
def test_points_on_a_line_or_in_one_place_are_refused(dtype, shift):
    body = (50 * normal(10, 3) + shift).to(dtype)
    line = (torch.linspace(-70, 70, 10, dtype=torch.float64)[:, None] * torch.tensor([1, 0.3, -0.7]) + shift).to(dtype)
    place = torch.full((10, 3), 3.3, dtype=dtype)
    for bad in (line, place):
        with pytest.raises(MediaError, match="no rotation of mesh 1 is the nearest: .* on one line or in one place"):
            align(torch.stack([body, bad]), body)
        with pytest.raises(MediaError, match="no rotation of mesh 0"):
            align(torch.stack([body, body]), bad, scale=True)


def test_colours_pass_through_and_large_batches_are_split():
    target = normal(8, 3).float()
    motion = rotations(130).float()
    x = torch.cat([target @ motion, torch.rand(130, 8, 3)], dim=-1)
    aligned = align(x, target)
    assert aligned.dtype == torch.float32 and torch.equal(aligned[..., 3:], x[..., 3:])
    assert torch.allclose(aligned[..., :3], target.expand(130, -1, -1), atol=1e-5)
    # A target for each.
    assert torch.allclose(align(x, x.flip(0))[..., :3], x.flip(0)[..., :3], atol=1e-5)


@pytest.mark.parametrize("scale", [False, True])
def test_meshes_are_aligned_to_their_own_mean(scale):
    base, modes = 50 * normal(40, 3), normal(20, 40, 3, seed=4)
    shapes = base + 3 * modes
    moved = shapes @ rotations(20) + 100 * normal(20, 1, 3, seed=6)
    if scale:
        moved = moved * torch.linspace(0.8, 1.25, 20, dtype=torch.float64)[:, None, None]
    x = torch.cat([moved, torch.rand(20, 40, 3, dtype=torch.float64)], dim=-1)
    aligned, mean = align_to_mean(x, scale)
    assert torch.allclose(aligned.mean(0), mean)
    assert torch.equal(aligned[..., 3:], x[..., 3:])

    def sizes(points: torch.Tensor) -> torch.Tensor:
        return (points[..., :3] - points[..., :3].mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt()

    if scale:
        assert float(sizes(aligned).mean()) == pytest.approx(float(sizes(x).mean()), rel=1e-6)
        assert sizes(aligned).std() / sizes(aligned).mean() < 0.01
    else:
        assert torch.allclose(sizes(aligned), sizes(x))
    # What is left is the shapes' own variation, without the little of it that is a motion.
    spread = [float((points - points.mean(0)).square().sum(-1).mean()) for points in (aligned[..., :3], shapes)]
    assert spread[0] < spread[1] * (1.1 if scale else 1)
    # The first mesh stays where it was.
    assert math.dist(mean[:, :3].mean(0), x[0, :, :3].mean(0)) < 1e-6
    motion = find_similarity(x[:1], aligned[0], scale)
    assert torch.allclose(motion.rotation[0], torch.eye(3, dtype=torch.float64), atol=1e-9)
    again, _ = align_to_mean(aligned, scale)
    assert torch.allclose(again[..., :3], aligned[..., :3], atol=1e-3)


def test_bad_input():
    x = normal(2, 5, 3)
    for bad, target, message in [
        (x[0], x[0], r"meshes of shape \[n, vertices, 3 or 6\], got \[5, 3\]"),
        (x[..., :2], x[0], r"got \[2, 5, 2\]"),
        (x, x[0, :4], r"expected a target of shape \[5, 3\] or \[2, 5, 3\], got \[4, 3\]"),
        (x, normal(3, 5, 3), r"expected a target of shape .*, got \[3, 5, 3\]"),
        (x * torch.tensor(float("nan")), x[0], "NaN"),
        (x, x[0] / 0, "NaN or infinite"),
        (x[:, :2], x[0, :2], "at least 3 vertices, got 2"),
    ]:
        with pytest.raises(MediaError, match=message):
            align(bad, target)
    with pytest.raises(MediaError, match="after 1 iterations"):
        procrustes_mean(x, iterations=1)
    with pytest.raises(MediaError, match=r"got \[0, 5, 3\]"):
        align_to_mean(x[:0])

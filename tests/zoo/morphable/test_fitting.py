"""Morphable models under observations, against dense Gaussian conditioning and faces whose coefficients are known."""

import pytest
import torch

from modalities.meshes import Meshes
from modalities.meshes.alignment import align
from modalities.meshes.geometry import vertex_normals
from modalities.meshes.sets import sphere
from zoo import load
from zoo.morphable.camera import Camera, fit_camera, rotation_matrix
from zoo.morphable.colour import read_colours
from zoo.morphable.conditioning import complete, posterior
from zoo.morphable.landmarks import fit_landmarks
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes
from zoo.morphable.photometric import harmonics, refine
from zoo.morphable.registration import fit_mesh
from zoo.morphable.visibility import visible


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def toy(vertices=10, shape=6, expression=3, noise=0.0, dtype=torch.float64):
    """A model of random directions; those of shape and expression are not orthogonal."""
    random = generator()

    def axes(k, largest):
        rows = torch.linalg.qr(torch.randn(3 * vertices, k, dtype=torch.float64, generator=random))[0].T
        return Axes(rows.to(dtype), torch.linspace(largest, 9, k).to(dtype))

    faces = torch.randint(vertices, (12, 3), generator=random)
    mean = 50 * torch.randn(vertices, 3, dtype=torch.float64, generator=random).to(dtype)
    return MorphableModel.assemble(
        Meshes(vertices).on(faces),
        mean,
        axes(shape, 900),
        axes(expression, 300) if expression else None,
        noise=noise,
        landmarks=torch.arange(min(8, vertices)),
    )


def covariance(model):
    """Of all coordinates, shape [3 * vertices, 3 * vertices]."""
    modes = torch.cat([model.axes("shape").scaled, model.axes("expression").scaled])
    return modes.T @ modes


def observed(model, count=3):
    """Some vertices and where they might be."""
    random = generator(1)
    vertices = torch.tensor([7, 1, 4, 0, 9])[:count]
    return vertices, model.mean[vertices] + 5 * torch.randn(count, 3, dtype=torch.float64, generator=random)


def camera(yaw=30.0, pitch=10.0, scale=1.7):
    return Camera(rotation_matrix(yaw, pitch, 5.0), torch.tensor(scale).double(), torch.tensor([100.0, 120.0]).double())


@pytest.mark.parametrize("expression", [0, 3])
@pytest.mark.parametrize("own", [0.0, 0.5])
@pytest.mark.parametrize("noise, count", [("deviation", 3), ("covariances", 3), ("deviation", 40)])
def test_the_posterior_model_is_dense_conditioning(expression, own, noise, count):
    model = toy(vertices=40, expression=expression, noise=own)
    vertices = torch.randperm(40, generator=generator(1))[:count]
    positions = model.mean[vertices] + 5 * torch.randn(count, 3, dtype=torch.float64, generator=generator(1))
    root = torch.randn(count, 3, 3, dtype=torch.float64, generator=generator(2))
    given = 1.5 if noise == "deviation" else root @ root.mT + 0.1 * torch.eye(3)
    blocks = [1.5**2 * torch.eye(3)] * count if noise == "deviation" else list(given)
    columns = (3 * vertices[:, None] + torch.arange(3)).flatten()
    prior = covariance(model)
    seen = prior[columns][:, columns] + torch.block_diag(*blocks) + own * torch.eye(3 * count)
    gain = torch.linalg.solve(seen, prior[columns]).T
    mean = model.mean.flatten() + gain @ (positions - model.mean[vertices]).flatten()
    found = posterior(model, vertices, positions, given)
    torch.testing.assert_close(found.mean.flatten(), mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(covariance(found), prior - gain @ prior[columns], rtol=0, atol=1e-8)
    basis = found.shape_basis
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), rtol=0, atol=1e-10)
    assert (found.shape_variance.diff() <= 0).all()


def test_small_noise_interpolates_and_large_noise_gives_the_prior():
    model = toy()
    vertices, positions = observed(model, 2)
    for noise in (1e-2, 1e-4, 1e-7):
        exact = posterior(model, vertices, positions, noise)
        assert (exact.mean[vertices] - positions).abs().max() < noise / 2
        samples = exact.sample(50, generator=generator())
        assert 0.5 * noise < samples[:, vertices].std(0).mean() < 1.5 * noise
        assert samples.std(0)[5].min() > 1
    vague = posterior(model, vertices, positions, 1e7)
    assert torch.allclose(vague.mean, model.mean, rtol=0, atol=1e-6)
    assert torch.allclose(covariance(vague), covariance(model), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_partial_mesh_is_completed_and_one_that_cannot_be_is_warned_of():
    model = toy(vertices=60, dtype=torch.float32)
    face = model.sample(1, generator=generator(3))[0]
    partial = face.clone()
    partial[20:] = torch.nan
    completed = complete(model, partial, 1e-3)
    assert (completed.mean - face).norm(dim=1).max() < 0.05 < (model.mean - face).norm(dim=1).max()
    with pytest.warns(UserWarning, match="no likely mesh has its vertices there.*in millimetres"):
        complete(model, partial / 1000)
    with pytest.raises(ValueError, match="all have NaN"):
        complete(model, partial * torch.nan)
    with pytest.raises(ValueError, match=r"\[60, 3\]"):
        complete(model, partial[:5])


def test_observations_are_checked():
    model = toy()
    vertices, positions = observed(model)
    cases = [
        ((torch.tensor([0, 1, 10]), positions, 1.0), r"0 to 9, got \[10\]"),
        ((torch.tensor([0, -1, 3]), positions, 1.0), r"0 to 9, got \[-1\]"),
        ((torch.tensor([4, 1, 4]), positions, 1.0), r"given twice: \[4\]"),
        ((vertices, positions[:2], 1.0), "each of 3 vertices"),
        ((vertices, positions.clone().index_fill_(0, torch.tensor(1), torch.nan), 1.0), r"vertices \[1\] are not"),
        ((vertices, positions, 0.0), "above 0"),
        ((vertices, positions, torch.nan), "above 0"),
        ((vertices, positions, -torch.eye(3).repeat(3, 1, 1)), "positive definite"),
        ((vertices, positions, torch.eye(3)), r"\[3, 3, 3\]"),
        ((vertices.double(), positions, 1.0), "whole numbers"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            posterior(model, *arguments)


@pytest.mark.parametrize("yaw", [0.0, 35.0, -90.0, 170.0])
def test_a_camera_is_recovered(yaw):
    positions = 40 * torch.randn(4, 3, dtype=torch.float64, generator=generator())
    truth = camera(yaw)
    points = torch.cat([truth.project(positions), torch.full((1, 2), torch.nan)])
    found = fit_camera(torch.cat([positions, positions[:1]]), points)
    assert torch.allclose(found.rotation, truth.rotation, rtol=0, atol=1e-6)
    assert torch.allclose(found.scale, truth.scale, rtol=0, atol=1e-6)
    assert torch.allclose(found.translation, truth.translation, rtol=0, atol=1e-4)


def test_pictures_have_y_down_and_are_not_mirrored():
    upright = Camera(torch.eye(3), torch.tensor(2.0), torch.tensor([100.0, 120.0]))
    left_eye, crown = torch.tensor([30.0, 0.0, 50.0]), torch.tensor([0.0, 90.0, 0.0])
    assert upright.project(left_eye).tolist() == [160, 120] and upright.project(crown).tolist() == [100, -60]
    turned = Camera(rotation_matrix(90.0).float(), torch.tensor(2.0), torch.tensor([100.0, 120.0]))
    nose = turned.project(torch.tensor([0.0, 0.0, 80.0]))
    assert torch.allclose(nose, torch.tensor([260.0, 120.0]))


def test_noisy_points_give_the_least_error_of_all_cameras():
    random = generator()
    positions = 40 * torch.randn(12, 3, dtype=torch.float64, generator=random)
    points = camera().project(positions) + 8 * torch.randn(12, 2, dtype=torch.float64, generator=random)
    found = fit_camera(positions, points)
    least = (found.project(positions) - points).square().sum()
    around = torch.cat([torch.eye(6), -torch.eye(6), 10 * torch.randn(50, 6, generator=random)])
    for step in 1e-3 * around.double():
        rotation = rotation_matrix(*(57 * step[:3]).tolist()) @ found.rotation
        other = Camera(rotation, found.scale * step[3].exp(), found.translation + step[4:])
        assert (other.project(positions) - points).square().sum() > least


def test_coplanar_points_fit_exactly_and_keep_to_the_front():
    positions = 40 * torch.randn(8, 3, dtype=torch.float64, generator=generator())
    positions[:, 2] = 5 + 0.2 * positions[:, 0]
    for yaw in (15.0, -25.0):
        points = camera(yaw).project(positions)
        found = fit_camera(positions, points)
        assert (found.project(positions) - points).abs().max() < 1e-8
        assert found.rotation.trace() >= camera(yaw).rotation.trace() - 1e-9
    noisy = points + 0.1 * torch.randn(8, 2, dtype=torch.float64, generator=generator(1))
    assert (fit_camera(positions, noisy).project(positions) - points).abs().max() < 0.5


def test_cameras_refuse_what_cannot_be_solved():
    line = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None] * torch.tensor([10.0, 20.0, 30.0])
    spread = 40 * torch.randn(6, 3, dtype=torch.float64, generator=generator())
    for positions, points, message in (
        (line, camera().project(line), "collinear"),
        (spread[:3], camera().project(spread[:3]), "at least 4 points, got 3"),
        (spread, torch.ones(6, 2), "one line or are one"),
        (spread, torch.ones(5, 2), r"\[6, 3\] and \[5, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_camera(positions, points)
    for rotation, scale, message in (
        (torch.eye(3) * torch.tensor([1, 1, -1.0]), 1.0, "determinant 1"),
        (torch.eye(3), 0.0, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Camera(rotation, torch.tensor(scale), torch.zeros(2))


@pytest.mark.parametrize("pictures", [1, 3])
def test_landmarks_give_back_pose_and_coefficients(pictures):
    model = toy(vertices=60, shape=8, expression=4)
    vertices = torch.arange(40)
    z = torch.randn(pictures, 12, dtype=torch.float64, generator=generator())
    z[:, :8] = z[0, :8].clone()
    cameras = [camera(*angles) for angles in ((30, 10), (-40, 5), (5, -20))][:pictures]
    points = [c.project(x[vertices]) for c, x in zip(cameras, model.decode(z).mean, strict=True)]
    points[0][3] = torch.nan
    fit = fit_landmarks(model, points if pictures > 1 else points[0], vertices, noise=1e-5)
    assert torch.allclose(fit.coefficients, z, rtol=0, atol=1e-4)
    assert fit.residuals.isnan().sum() == 1 and fit.residuals.nan_to_num().max() < 1e-3
    for found, truth in zip(fit.cameras, cameras, strict=True):
        assert torch.allclose(found.rotation, truth.rotation, rtol=0, atol=1e-5)
        assert torch.allclose(found.translation, truth.translation, rtol=0, atol=1e-3)


def test_a_landmark_fit_is_the_most_probable_and_shrinks_with_noise():
    model = toy(vertices=60, shape=8, expression=4, noise=0.5)
    random = generator(1)
    z = torch.randn(1, 12, dtype=torch.float64, generator=random)
    points = camera().project(model.decode(z).mean[0, :8])
    points += 3 * torch.randn(8, 2, dtype=torch.float64, generator=random)
    norms = [fit_landmarks(model, points, noise=noise).coefficients.norm() for noise in (0.1, 1.0, 10.0, 1e3)]
    assert norms == sorted(norms, reverse=True) and norms[-1] < 1e-2

    fit = fit_landmarks(model, points, noise=2.0)

    def objective(z, camera):
        own = 0.5 * camera.scale.square()
        errors = camera.project(model.decode(z).mean[0, :8]) - points
        return (errors.square() / (4 + own)).sum() + z.square().sum()

    # The gradient vanishes but for the scale, which the weights take from the first camera.
    with torch.enable_grad():
        found = fit.coefficients.clone().requires_grad_()
        (slope,) = torch.autograd.grad(objective(found, fit.cameras[0]), found)
    assert slope.norm() < 0.1 * 2 * found.norm()


def test_landmark_fits_are_checked():
    model = toy(vertices=20)
    points = camera().project(model.mean[:8])
    few, lost = points.clone(), points.clone()
    few[3:], lost[2] = torch.nan, -1
    for given, options, message in (
        (few, {}, "at least 4 points, got 3"),
        (points[:7], {}, r"8 landmarks, shape \[8, 2\], got \[7, 2\]"),
        (points, {"vertices": torch.arange(13, 21)}, "0 to 19"),
        (torch.cat([points, points[:, :1]], 1), {}, "leave out depths and confidences"),
        (points / 500, {}, "multiply fractions of the picture by its width and height"),
        (lost, {}, r"number 2, lie at exactly \(0, 0\) or \(-1, -1\): put NaN"),
        (points, {"noise": 0.0}, "above 0 pixels"),
        (points, {"contour": [8]}, "contour names landmarks"),
        ([], {}, "at least one picture"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_landmarks(model, given, **options)
    with pytest.raises(ValueError, match="no landmarks of its own"):
        fit_landmarks(model.with_parts(landmarks=None), points)


@pytest.mark.filterwarnings("error")
def test_landmarks_that_no_face_has_are_refused_or_warned_of():
    model = load("morphable-faces")
    face = model.sample(1, generator=generator())[0, model.face_landmarks, :3].double()
    seen = Camera(rotation_matrix(20.0, 5.0), torch.tensor(1.5).double(), torch.tensor([150.0, 200.0]).double())
    points = seen.project(face) + torch.randn(68, 2, dtype=torch.float64, generator=generator(1))
    fit = fit_landmarks(model, points.numpy())
    assert torch.equal(fit_landmarks(model, points[None]).coefficients, fit.coefficients)
    for wrong in (points.flip(1), points * torch.tensor([1, -1]) + torch.tensor([0, 400])):
        with pytest.raises(ValueError, match="seen from behind: are x and y swapped, does y grow upwards"):
            fit_landmarks(model, wrong)
    lost = points.clone()
    lost[30] = torch.tensor([0.5, 0.5])
    for wrong, message in (
        (lost, "no likely face has these landmarks within noise=1.73 pixels"),
        (points.flip(0), "order"),
    ):
        with pytest.warns(UserWarning, match=message):
            fit_landmarks(model, wrong)
    lost[30] = torch.nan
    assert (fit_landmarks(model, lost).coefficients - fit.coefficients).norm() < 1


def ball(vertices=1154, radius=50.0):
    """A sphere and its triangles, counter-clockwise from outside."""
    points, faces = sphere(vertices)
    return radius * torch.from_numpy(points).float(), torch.from_numpy(faces)


@pytest.mark.parametrize("yaw", [0.0, 50.0, 180.0])
def test_what_is_turned_away_or_behind_something_is_hidden(yaw):
    vertices, faces = ball()
    small, more = ball(radius=15.0)
    viewer = camera(yaw, pitch=0.0).rotation[2].float()
    both = torch.cat([vertices, small + 100 * viewer])
    triangles = torch.cat([faces, more + len(vertices)])
    seen = visible(both, camera(yaw, pitch=0.0), triangles)
    towards = vertices @ viewer
    aside = (vertices - towards[:, None] * viewer).norm(dim=1)
    on_ball = seen[: len(vertices)]
    assert not on_ball[towards < -1].any() and not on_ball[aside < 14].any()
    assert on_ball[(towards > 3) & (aside > 16.5)].all()
    assert seen[len(vertices) :][small @ viewer > 0.5].all()


def test_colours_are_read_from_a_picture():
    vertices, faces = ball()
    height, width = 200, 300
    down, right = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    picture = torch.stack([right / width, down / height, torch.full_like(right, 0.25)]) * 2 - 1
    front = Camera(torch.eye(3), torch.tensor(2.0), torch.tensor([60.0, 100.0]))
    found = read_colours(picture, vertices, front, faces)
    points = front.project(vertices)
    inside = points[:, 0] > 0
    assert (found.weights[~inside] == 0).all() and (found.weights[vertices[:, 2] < -1.5] == 0).all()
    kept = found.weights > 0
    assert kept.sum() > 0.25 * len(vertices)
    expected = torch.stack([points[:, 0] / width, points[:, 1] / height, torch.full((len(points),), 0.25)], 1)
    edge = (points[:, 0] > 1) & (points[:, 1] > 1) & (points[:, 1] < height - 1)
    assert torch.allclose(found.colours[kept & edge], expected[kept & edge], rtol=0, atol=1e-5)
    assert torch.allclose(found.weights[kept], vertices[kept, 2] / 50, rtol=0, atol=0.03)
    for wrong, message in ((picture[:1], r"\[3, height, width\]"), (127.5 * (picture + 1), r"\[-1, 1\], got")):
        with pytest.raises(ValueError, match=message):
            read_colours(wrong, vertices, front, faces)
    with pytest.raises(ValueError, match="name vertices that do not exist"):
        visible(vertices[:10], front, faces)


def test_the_far_side_of_the_outline_does_not_count():
    vertices, faces = ball()
    bases = torch.linalg.qr(torch.randn(len(vertices) * 3, 3, generator=generator()))[0].T
    model = MorphableModel.assemble(Meshes(len(vertices)).on(faces), vertices, Axes(bases, torch.full((3,), 1e3)))
    viewer = rotation_matrix(40.0)[2].float()
    marks = torch.nonzero(vertices @ viewer > 10)[::25, 0]
    outline = [int((vertices @ torch.tensor([side, 0, 0.2])).argmax()) for side in (-1.0, 1.0)]
    places = torch.tensor([*outline, *marks.tolist()])
    points = camera(40.0, 0.0).project(vertices)[places]
    points[1] += 30
    fit = fit_landmarks(model, points, places, contour=[0, 1])
    assert fit.used.tolist() == [[True, False, *[True] * len(marks)]]
    assert fit.residuals[0, 1] > 40 and fit.residuals[0, 0] < 0.1


def bumpy(vertices=514, colours=False):
    """A model of lumps: an ellipsoid with a nose, and five modes that are waves along its normals; with colours, spots
    and three modes."""
    vertices, faces = ball(vertices)
    normals = vertices / 50
    nose = 20 * (-((vertices - torch.tensor([0.0, 5.0, 50.0])) / 15).square().sum(1)).exp()
    mean = vertices * torch.tensor([1.0, 1.3, 0.8]) + nose[:, None] * torch.tensor([0.0, 0.2, 1.0])
    u, v, w = normals.T
    waves = torch.stack([torch.ones_like(u), v, u**2 - w**2, v**2 * w, (3 * u).sin() * v])
    modes = (waves[:, :, None] * normals).flatten(1)
    _, variance, basis = torch.linalg.svd(modes, full_matrices=False)
    axes = Axes(basis, 9.0 * variance.square())
    marks = [int((mean @ torch.tensor(d)).argmax()) for d in ([0.0, 0, 1], [1.0, 0, 0], [0.0, 1, 0], [-1.0, -0.5, 0.5])]
    colour = None
    if colours:
        spots = 0.5 + 0.25 * torch.stack([(9 * u).sin(), (8 * v + u).sin(), (7 * u - 9 * v).cos()], 1)
        mean = torch.cat([mean, spots], 1)
        modes = torch.stack([torch.stack([w, w**2, v], 1), torch.stack([u, -u, v], 1), torch.stack([v * u, v, u], 1)])
        _, variance, basis = torch.linalg.svd(modes.flatten(1), full_matrices=False)
        colour = Axes(basis, 0.05**2 * variance.square())
    medium = Meshes(len(vertices), colours).on(faces)
    return MorphableModel.assemble(medium, mean, axes, colour=colour, landmarks=torch.tensor(marks))


@pytest.mark.parametrize("kind", ["cloud", "mesh", "inches"])
def test_a_mesh_without_correspondence_gives_back_shape_and_pose(kind):
    model = bumpy()
    random = generator()
    # The landmarks of the mean tell the scale, so those of the face must not be larger; the rest is noise.
    noise = (5.0, 1.0) if kind == "inches" else (5.0, 0.1)
    z = torch.randn(1, 5, generator=random) * (0.2 if kind == "inches" else 1.0)
    face = model.decode(z).mean[0]
    rotation = rotation_matrix(6.0, -4.0, 3.0).float()
    unit = 25.4 if kind == "inches" else 1.0
    target = (face @ rotation.T + torch.tensor([3.0, -2.0, 2.0])) / unit
    order = torch.randperm(len(face), generator=random)
    landmarks = (model.landmarks, target[model.landmarks]) if kind == "inches" else None
    if kind == "cloud":
        fit = fit_mesh(model, target[order[:300]], noise=noise)
    else:
        faces = order.argsort()[model.modality.triangles][
            torch.randperm(len(model.modality.triangles), generator=random)
        ]
        fit = fit_mesh(model, target[order], faces, landmarks=landmarks, scale=kind == "inches", noise=noise)
    found = fit.pose.apply(model.decode(fit.coefficients).mean)[0]
    assert (found - target).norm(dim=1).mean() * unit < (1.0 if kind == "inches" else 0.1)
    assert fit.mean < fit.percentile95 < 0.3 and fit.distances.isnan().float().mean() < 0.05
    if kind != "inches":
        assert torch.allclose(fit.pose.rotation[0].float(), rotation, rtol=0, atol=0.01)
        assert torch.allclose(fit.coefficients, z, rtol=0, atol=0.1)


def test_a_part_of_a_mesh_is_enough_and_strangers_do_not_count():
    model = bumpy()
    z = torch.randn(1, 5, generator=generator(1))
    face = model.decode(z).mean[0]
    front = face[face[:, 2] > -5]
    shelf = torch.rand(150, 3, generator=generator(2)) * 60 + torch.tensor([80.0, 0, 0])
    fit = fit_mesh(model, torch.cat([front, shelf]), noise=(5.0, 0.1))
    assert (model.decode(fit.coefficients).mean[0] - face).norm(dim=1).mean() < 0.5
    assert fit.distances[len(front) :].isnan().all() and fit.distances[: len(front)].isnan().float().mean() < 0.1


def test_points_beyond_the_rim_of_the_model_do_not_count():
    model = bumpy()
    front = model.modality.triangles[(model.mean[model.modality.triangles, 2] > -4).all(1)]
    half = MorphableModel.assemble(Meshes(len(model.mean)).on(front), model.mean, model.axes("shape"))
    inside = torch.zeros(len(model.mean), dtype=torch.bool).index_fill(0, front.flatten().long(), True)
    fit = fit_mesh(half, model.mean, model.modality.triangles, noise=(5.0, 2.0))
    assert fit.distances[~inside].isnan().float().mean() > 0.99  # in a bay of the rim one may be above a triangle
    assert fit.distances[inside & (model.mean[:, 2] > 5)].max() < 0.1


def test_targets_are_checked():
    model = bumpy(74)
    points = model.mean
    for given, options, message in (
        (points[:2], {}, "at least 3 points"),
        (torch.where(points > 64, torch.nan, points), {}, "1 of the target's 74 points are NaN or infinite"),
        (points + 1000, {}, "0 of 74 points of the target have a counterpart within 15 mm"),
        (points / 1000, {}, "it spans 0.128, and the model 128 mm"),
        (
            points / 25.4,
            {"landmarks": (model.landmarks, points[model.landmarks] / 25.4)},
            "0.0394 times as large.*scale=True",
        ),
        (points, {"scale": True}, "other units needs landmarks"),
        (points, {"landmarks": (torch.tensor([0, 1]), points[:2])}, "at least 3 vertices and as many"),
        (points, {"noise": (1.0, 0.0)}, "above 0"),
        (points, {"faces": model.modality.triangles + 1}, "name vertices"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_mesh(model, given, **options)


def draw(mesh, camera, faces, light, side=160):
    """A picture [3, side, side] by dense points on the lit triangles, the nearest last."""
    weights = torch.rand(150, 3, generator=generator()) ** 2
    weights = weights / weights.sum(1, keepdim=True)
    normals = camera.view(vertex_normals(mesh[:, :3], faces))
    lit = mesh[:, 3:] * (harmonics(normals) @ light)
    points, colours, facing = (
        torch.einsum("wc,fcd->fwd", weights, part[faces]).flatten(0, 1) for part in (mesh[:, :3], lit, normals)
    )
    points, colours = points[facing[:, 2] > 0], colours[facing[:, 2] > 0]
    order = camera.view(points)[:, 2].argsort()
    pixels = camera.project(points)[order].long().clamp(0, side - 1).numpy()
    picture = torch.full((side, side, 3), 0.1).numpy()
    picture[pixels[:, 1], pixels[:, 0]] = colours[order].numpy()
    return torch.from_numpy(picture).permute(2, 0, 1) * 2 - 1


def test_colours_of_a_picture_refine_a_fit():
    model = bumpy(1154, colours=True)
    faces = model.modality.triangles
    z = torch.tensor([[0.8, -1.0, 1.2, -0.7, 0.9, 1.0, -1.0, 0.5]])
    mesh = model.decode(z).mean[0]
    truth = Camera(rotation_matrix(12.0, 5.0), torch.tensor(1.0).double(), torch.tensor([80.0, 80.0]).double())
    light = torch.zeros(9, 3)
    light[0], light[1], light[3] = torch.tensor([0.7, 0.65, 0.6]), 0.2, 0.3
    picture = draw(mesh, truth, faces, light)
    points = truth.project(mesh[model.landmarks.long(), :3])
    start = fit_landmarks(model, points, noise=2.0, contour=())
    fit = refine(model, picture, start, points, noise=0.05, triangles=300, steps=120, generator=generator())

    def error(fit):
        """Of the shape: a picture does not tell size."""
        found = model.decode(fit.coefficients).mean[..., :3]
        return (align(found, mesh[:, :3], scale=True)[0] - mesh[:, :3]).norm(dim=1).mean()

    assert error(fit) < 0.5 * error(start)
    colours = model.decode(fit.coefficients).mean[0, :, 3:]
    assert fit.error < 0.03
    assert (colours - mesh[:, 3:]).abs().mean() < 0.7 * (model.mean[:, 3:] - mesh[:, 3:]).abs().mean()
    vague = refine(model, picture, start, noise=1e3, triangles=50, steps=40)
    assert vague.coefficients.norm() < 0.3 * start.coefficients.norm()
    away = start._replace(cameras=[Camera(truth.rotation, truth.scale, truth.translation + 1000)])
    for given, message in (
        ((bumpy(), picture, start), "without colours"),
        ((model, picture, away), "seen in the picture"),
        ((model, picture, start, points[:3]), "4 landmarks"),
    ):
        with pytest.raises(ValueError, match=message):
            refine(*given)

"""Morphable models: what a fit finds, segments that do not tear, attributes, parts of a model, and refusals."""

import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modalities.data import Arrays
from modalities.meshes import Meshes
from modalities.meshes.alignment import align_to_mean, find_similarity
from modalities.meshes.geometry import heat_diffusion, triangle_normals
from tests import toys
from zoo.configuration import CheckpointError
from zoo.hub import load, save
from zoo.morphable.attributes import ridge_direction
from zoo.morphable.conditioning import marginal, truncate
from zoo.morphable.evaluation import compactness
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes
from zoo.showcase import draw as draw_exhibits

ROWS, COLUMNS = 12, 18
VERTICES = ROWS * COLUMNS
SHEET, FACES = toys.grid(ROWS, COLUMNS, spacing=5.0)
EDGES = torch.cat([FACES[:, :2], FACES[:, 1:], FACES[:, ::2]]).T
MEDIUM, PAINTED = Meshes(VERTICES).on(FACES), Meshes(VERTICES, colours=True).on(FACES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def waves(modes, seed=0):
    """Smooth orthonormal directions on the sheet, shape [modes, 3 * vertices]."""
    x, y = (SHEET[:, 0] / SHEET[:, 0].max(), SHEET[:, 1] / SHEET[:, 1].max())
    places = [torch.cos(math.pi * i * x) * torch.cos(math.pi * j * y) for i in range(5) for j in range(5)][1:]
    mixed = torch.randn(modes, len(places), 3, generator=generator(seed))
    fields = torch.einsum("kpc,pv->kvc", mixed, torch.stack(places)).flatten(1)
    return torch.linalg.qr(fields.T)[0].T.contiguous()


def truth(shape=6, expression=0, colour=0, **parts):
    """A known model on the sheet, its modes some millimetres large."""
    medium = PAINTED if colour else MEDIUM
    mean = torch.cat([SHEET, torch.full_like(SHEET, 0.5)], 1) if colour else SHEET

    def axes(modes, size, seed):
        return Axes(waves(modes, seed), size * VERTICES * 0.6 ** torch.arange(modes)) if modes else None

    return MorphableModel.assemble(
        medium, mean, axes(shape, 9.0, 0), axes(expression, 2.0, 1), axes(colour, 0.01, 2), **parts
    )


def draw(model, n, seed=0):
    """Meshes and their coefficients, of variance 1 in the sample and without correlation."""
    z = torch.randn(n, sum(model.sizes), generator=generator(seed), dtype=torch.float64)
    z = torch.linalg.qr(z - z.mean(0))[0] * math.sqrt(n - 1)
    return model.decode(z.float()).mean, z.float()


def scaled_modes(model):
    """How positions move with each coefficient of shape and expression."""
    return torch.cat([model.axes("shape").scaled, model.axes("expression").scaled])


def turns(n):
    """Random rotations, shape [n, 3, 3]."""
    found = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator(3)))[0]
    return found * torch.linalg.det(found)[:, None, None]


def cosine(a, b):
    return torch.cosine_similarity(a.double(), b.double(), dim=0).item()


class TestFit:
    def test_finds_the_modes_of_shape_and_colour(self):
        source = truth(shape=4, colour=3)
        x, _ = draw(source, 40)
        model = MorphableModel.fit(x, PAINTED, shape=4, colour=3, landmarks=torch.tensor([3, 1]))
        assert torch.allclose(model.mean, source.mean, atol=1e-3)
        for part in ("shape", "colour"):
            found, true = model.axes(part), source.axes(part)
            assert torch.allclose(found.variance, true.variance, rtol=1e-3)
            assert torch.allclose((found.basis @ true.basis.T).abs(), torch.eye(len(true.basis)), atol=1e-2)
        assert model.noise < 1e-4 and model.count == 40 and model.landmarks.tolist() == [3, 1]
        assert torch.allclose(model.reconstruct(x), x, atol=1e-2)

    def test_noise_is_the_mean_variance_of_a_coordinate_left_out(self):
        x, _ = draw(truth(shape=4), 300)
        x = x + 0.5 * torch.randn(x.shape, generator=generator(1))
        model = MorphableModel.fit(x, MEDIUM, shape=4)
        assert model.noise.item() == pytest.approx(0.25, rel=0.05)
        whole = x.flatten(1).double().var(0).sum()
        shares = compactness(model, range(1, 5))
        assert torch.allclose(shares * whole, model.shape_variance.double().cumsum(0), rtol=1e-4)
        assert shares[-1].item() == pytest.approx(1 - (model.noise * 3 * VERTICES / whole).item(), abs=1e-4)

    def test_a_fraction_of_variance_takes_the_fewest_modes(self):
        x, _ = draw(truth(shape=6), 40)
        shares = compactness(truth(shape=6), range(1, 7))
        model = MorphableModel.fit(x, MEDIUM, shape=(shares[2] + shares[3]).item() / 2)
        assert model.sizes == (4, 0, 0)
        assert MorphableModel.fit(x, MEDIUM, shape=1 - 1e-9).sizes[0] <= 8  # not 39: the rest is rounding

    def test_a_data_set_gives_the_same_model_as_a_tensor(self):
        x, _ = draw(truth(shape=4, colour=2), 30)
        whole = MorphableModel.fit(x, PAINTED, shape=4, colour=2)
        for data in (list(zip(x, range(30), strict=True)), Arrays(x, torch.arange(30))):
            streamed = MorphableModel.fit(data, PAINTED, shape=4, colour=2)
            assert torch.allclose(streamed.mean, whole.mean, atol=1e-4)
            assert torch.allclose(streamed.shape_variance, whole.shape_variance, rtol=1e-3)
            assert torch.allclose(streamed.colour_basis, whole.colour_basis, atol=1e-3)
            labels = {"size": x[:, :, 2].mean(1)}
            labelled = streamed.with_attributes(data, labels)
            assert cosine(labelled.directions[0], whole.with_attributes(x, labels).directions[0]) > 0.999

    def test_expressions_are_offsets_about_the_neutral_mesh(self):
        source = truth(shape=4, expression=3)
        people, z = draw(truth(shape=4), 30)
        weights = torch.rand(50, 3, generator=generator(2)) + 0.5  # expressions have a mean of their own
        subject = torch.arange(50) % 30
        both = torch.cat([z[subject], weights], 1)
        pairs = (source.decode(both).mean, people[subject])
        model = MorphableModel.fit(people, MEDIUM, shape=4, expression=3, expressions=pairs)
        assert torch.allclose(model.mean, SHEET, atol=1e-2)
        offsets = (pairs[0] - pairs[1]).flatten(1).double()
        second = torch.linalg.eigvalsh(offsets @ offsets.T)[-3:].flip(0)
        total = offsets.square().sum() / 49
        assert model.expression_variance.sum().item() == pytest.approx(total.item(), rel=0.03)
        assert torch.allclose(model.expression_variance.double() * 49, second, rtol=0.05)
        assert torch.allclose(model.reconstruct(pairs[0]), pairs[0], atol=0.02)
        assert model.encode(people).mean[:, 4:].abs().max() < 1e-2  # a neutral mesh has no expression
        fewer = MorphableModel.fit(people, MEDIUM, shape=4, expression=1, expressions=pairs)
        left = model.expression_variance.sum() - fewer.expression_variance[0]
        assert fewer.noise.item() == pytest.approx(left.item() / (3 * VERTICES), rel=0.01)
        again = MorphableModel.fit(people, MEDIUM, shape=4, expression=3, expressions=Arrays(*pairs))
        assert torch.equal(again.expression_basis, model.expression_basis)

    @pytest.mark.parametrize("align", ["rigid", "similarity"])
    def test_alignment_takes_out_how_meshes_lie(self, align):
        source = truth(shape=2)
        x, _ = draw(source, 20)
        rotations = turns(20)
        sizes = torch.linspace(0.8, 1.25, 20)[:, None, None] if align == "similarity" else 1.0
        placed = sizes * x @ rotations + 100 * torch.randn(20, 1, 3, generator=generator(4))
        model = MorphableModel.fit(placed, MEDIUM, shape=0.99, align=align)
        assert model.sizes[0] <= 3  # turns and places alone would take more
        aligned, mean = align_to_mean(placed, scale=align == "similarity")
        assert torch.allclose(model.mean, mean, atol=0.01) and torch.allclose(aligned.mean(0), mean, atol=0.01)
        assert model.reconstruct(aligned).sub(aligned).square().mean() < 3 * model.noise + 0.01

    @pytest.mark.parametrize("align", ["rigid", "similarity"])
    def test_expressions_are_aligned_with_their_own_neutral_mesh(self, align):
        people, _ = draw(truth(shape=2), 20)
        smile = 30 * waves(1, seed=9)[0].reshape(-1, 3)
        strength = torch.linspace(-1, 1, 20)[:, None, None]
        expressive = (people + strength * smile) @ turns(1)[0] + 70
        size = torch.linspace(0.8, 1.25, 20)[:, None, None] if align == "similarity" else 1.0
        pairs = (size * expressive, size * people)
        model = MorphableModel.fit(size * people, MEDIUM, shape=2, expression=1, expressions=pairs, align=align)
        still = find_similarity(people + strength * smile, people).apply(people + strength * smile) - people
        expected = still.square().sum((1, 2)).sum() / 19
        assert model.expression_variance.item() == pytest.approx(expected.item(), rel=0.1)
        assert cosine(model.expression_basis[0].abs(), still[-1].flatten().abs()) > 0.9

    @pytest.mark.filterwarnings("error")
    def test_without_numbers_of_modes_it_takes_what_the_meshes_have(self):
        x, _ = draw(truth(shape=6, colour=2), 12)
        assert MorphableModel.fit(x, PAINTED).sizes == (6, 0, 2)
        assert MorphableModel.fit(x[:5], PAINTED).sizes == (4, 0, 2)
        grey = torch.cat([x[:, :, :3], torch.full_like(x[:, :, 3:], 0.5)], 2)
        model = MorphableModel.fit(grey, PAINTED)
        assert model.sizes == (6, 0, 0) and torch.equal(model.mean[:, 3:], torch.full_like(SHEET, 0.5))

    def test_what_is_doubtful_about_meshes_is_said(self):
        x, _ = draw(truth(shape=4), 10)
        shifted = (x @ turns(10)) + 200 * torch.randn(10, 1, 3, generator=generator())
        one = x.clone()
        one[3] *= 25.4
        for meshes, message in (
            (shifted, r'9\d% of the variance is how the meshes are shifted and turned, not their shape: align="rigid"'),
            (one, "1 of 10 meshes differ in size by far, such as number 3 from 0 on, 25.5 times"),
            (x / 1000, "the meshes span 0.0916 mm: lengths are millimetres"),
        ):
            with pytest.warns(UserWarning) as said:
                MorphableModel.fit(meshes, MEDIUM, shape=2)
            assert any(re.search(message, str(warning.message)) for warning in said)

    @pytest.mark.parametrize(
        "change, message",
        [
            (dict(shape=40), "39 components|1 to 39"),
            (dict(shape=10), "vary in 4 directions of shape, fewer than 10"),
            (dict(shape=4, colour=2), "need meshes with colours"),
            (dict(shape=4, expression=2), "pairs in expressions"),
            (dict(shape=4, align="affine"), "none, rigid or similarity"),
            (dict(shape=4, landmarks=torch.tensor([VERTICES])), f"0 to {VERTICES - 1}"),
            (dict(data=lambda x: x[:1]), "at least 2 items, got 1"),
            (dict(data=lambda x: x[:1].expand(5, -1, -1)), "are equal"),
            (dict(data=lambda x: x[:, 1:]), rf"\[batch, {VERTICES}, 3\], got \[40, {VERTICES - 1}, 3\]"),
            (dict(data=lambda x: torch.where(x == x.max(), math.nan, x)), "NaN"),
            (dict(medium=Meshes(VERTICES)), "no topology"),
        ],
    )
    def test_refuses(self, change, message):
        x, _ = draw(truth(shape=4), 40)
        given = {"medium": MEDIUM, "shape": 1, "data": lambda x: x} | change
        with pytest.raises(ValueError, match=message):
            MorphableModel.fit(**given | {"data": given["data"](x)})


class TestCoefficients:
    def test_decoding_and_encoding_return_them(self):
        model = truth(shape=6, expression=3, colour=2)
        z = torch.randn(5, 11, generator=generator())
        assert torch.allclose(model.encode(model.decode(z).mean).mean, z, atol=1e-5)

    def test_noise_shrinks_them_to_the_mean_of_the_posterior(self):
        model = truth(shape=3, noise=4.0)
        z = torch.randn(5, 3, generator=generator())
        shrunk = z * model.shape_variance / (model.shape_variance + 4.0)
        assert torch.allclose(model.encode(model.decode(z).mean).mean, shrunk, atol=1e-4)

    def test_modes_without_variance_get_nothing(self):
        model = MorphableModel.assemble(MEDIUM, SHEET, Axes(waves(3), torch.tensor([900.0, 100.0, 0.0])))
        z = model.encode(SHEET[None] + waves(3)[2].reshape(1, -1, 3)).mean
        assert torch.equal(z[:, 2], torch.zeros(1)) and z.abs().max() < 1e-4

    def test_samples_vary_at_every_vertex_as_the_model_does(self):
        model = truth(shape=6, expression=3, colour=2)
        x = model.sample(6000, generator=generator()).double()
        positions = scaled_modes(model).square().sum(0).reshape(-1, 3)
        colours = (model.colour_variance[:, None] * model.colour_basis.square()).sum(0).reshape(-1, 3).double()
        expected = torch.cat([positions, colours], 1)
        assert ((x.var(0) - expected).abs() < 0.1 * expected + 1e-9).all()
        assert ((x.mean(0) - model.mean).abs() < 0.06 * expected.sqrt() + 1e-6).all()

    def test_a_traversal_moves_the_first_modes(self):
        model = truth(shape=10)
        x = model.traverse()
        assert x.shape == (1, 8, 7, VERTICES, 3)
        for mode in range(8):
            step = model.shape_variance[mode].sqrt() * model.shape_basis[mode].reshape(-1, 3)
            assert torch.allclose(x[0, mode, -1], SHEET + 3 * step, atol=1e-3)
            assert torch.allclose(x[0, mode, 3], SHEET, atol=1e-3)

    def test_wrong_shapes_are_refused(self):
        model = truth(shape=3).with_segments({"nose": torch.arange(20)})
        for shape in ((2, 4), (2, 3, 3), (3,)):
            with pytest.raises(ValueError, match="coefficients of shape"):
                model.decode(torch.zeros(shape))


class TestSegments:
    REGIONS = {"left": SHEET[:, 0] < 25, "corner": torch.tensor([COLUMNS - 1, 2 * COLUMNS - 1, 2 * COLUMNS - 2])}

    def model(self, width=12.0):
        return truth(shape=6, colour=2).with_segments(self.REGIONS, width)

    def test_weights_sum_to_one_and_fall_smoothly(self):
        model = self.model()
        assert model.segments == ("left", "corner", "surrounding")
        assert torch.allclose(model.weights.sum(0), torch.ones(VERTICES), atol=1e-6)
        assert model.weights.min() >= -1e-6 and model.weights[0, SHEET[:, 0] == 0].min() > 0.9
        steps = (model.weights[:, EDGES[0]] - model.weights[:, EDGES[1]]).abs().max()
        assert steps < 0.25  # 5 mm of a Gaussian of 12 mm have at most 0.17

    def test_the_falloff_is_a_gaussian_of_the_given_width(self):
        positions, faces = toys.grid(5, 201)
        for stretch in (1.0, 0.5):  # the width is in millimetres, not in edges
            x = stretch * positions[:, 0]
            weights = heat_diffusion((x < stretch * 99.5).double()[:, None], stretch * positions, faces, 8.0)[:, 0]
            expected = torch.special.ndtr((stretch * 99.5 - x.double()) / 8.0)
            assert (weights - expected)[(x > 20 * stretch) & (x < 180 * stretch)].abs().max() < 0.03

    def test_a_segment_follows_its_own_coefficients(self):
        model = self.model()
        z = torch.zeros(1, 3, 8)
        z[0, 0] = 1.0
        moved = model.decode(z).mean[0] - model.mean
        expected = model.weights[0][:, None] * (model.decode(z[:, 0]).mean[0] - model.mean)
        assert torch.allclose(moved, expected, atol=1e-4) and expected[:, :3].abs().max() > 3

    def test_borders_do_not_tear(self):
        def stretch(width, segmented=True):
            x = self.model(width).sample(40, generator=generator(), segmented=segmented)[:, :, :3]
            return torch.linalg.vector_norm(x[:, EDGES[0]] - x[:, EDGES[1]], dim=2).max() / 5.0

        assert stretch(12.0) < 1.2 * stretch(12.0, segmented=False)
        assert stretch(0.01) > 1.5 * stretch(12.0, segmented=False)  # a hard border does

    def test_segmented_samples_differ_between_segments(self):
        x = self.model().sample(2000, generator=generator(), segmented=True).double()
        left, right = x[:, 5 * COLUMNS, 2], x[:, 6 * COLUMNS - 1, 2]
        whole = self.model().sample(2000, generator=generator()).double()
        assert abs(torch.corrcoef(torch.stack([left, right]))[0, 1]) < 0.08
        assert x[:, 5 * COLUMNS].std(0)[2].item() == pytest.approx(whole[:, 5 * COLUMNS].std(0)[2].item(), rel=0.1)
        assert torch.equal(x[:2], self.model().sample(2000, generator=generator(), segmented=True)[:2].double())

    def test_seams_and_single_vertices_are_no_borders(self):
        positions, faces = toys.grid(3, 11)
        half = positions[:, 0] <= 5
        # The right half on vertices of its own: column 5 exists twice, in the same place; one vertex is in no triangle.
        apart = torch.cat([positions, positions[positions[:, 0] == 5], torch.tensor([[99.0, 0, 0]])])
        twin = torch.arange(33)
        twin[positions[:, 0] == 5] = torch.arange(33, 36)
        right = (positions[faces][:, :, 0] >= 5).all(1)
        split = torch.where(right[:, None], twin[faces], faces)
        values = half.double()
        joined = heat_diffusion(values[:, None], positions, faces, 2.0)[:, 0]
        torn = heat_diffusion(torch.cat([values, torch.ones(3), torch.zeros(1)])[:, None], apart, split, 2.0)[:, 0]
        assert torch.allclose(torn[:33], joined, atol=1e-9) and torch.allclose(
            torn[33:36], joined[positions[:, 0] == 5]
        )
        assert torn[36] == 0

    def test_a_blend_takes_a_segment_from_another_mesh(self):
        model = self.model()
        x, other = draw(model, 20)[0][:2].split(1)
        detail = 0.3 * torch.randn(x.shape, generator=generator())
        mixed = model.blend(x + detail, other, "left")
        weight = model.weights[0][:, None]
        assert torch.allclose(mixed - detail, (1 - weight) * x + weight * other, atol=0.2)
        assert torch.allclose(model.blend(x, other, ["left", "corner", "surrounding"]), other, atol=1e-2)

    def test_refuses(self):
        model = self.model()
        for message, wrong in {
            "did you mean corner": lambda: model.blend(model.mean[None], model.mean[None], "cornr"),
            "no segments; make some": lambda: truth().sample(2, segmented=True),
            "no segments;": lambda: truth().decode(torch.zeros(1, 2, 6)),
            "'ear' are numbers of vertices, 0 to": lambda: model.with_segments({"ear": torch.tensor([VERTICES])}),
            "'ear'.*no vertex": lambda: model.with_segments({"ear": torch.zeros(VERTICES, dtype=torch.bool)}),
            "width": lambda: model.with_segments(self.REGIONS, width=0),
        }.items():
            with pytest.raises(ValueError, match=message):
                wrong()


class TestAttributes:
    def test_the_step_is_the_shortest_that_raises_the_label_by_one(self):
        slope = torch.tensor([0.5, -1.0, 2.0, 0.0])
        z = torch.randn(400, 4, generator=generator())
        step = ridge_direction(z, z @ slope + 7)
        assert torch.allclose(step, slope / slope.square().sum(), atol=1e-4)

    def test_the_step_is_long_enough_where_its_direction_is_uncertain(self):
        for n, tolerance in ((50, 0.2), (200, 0.05)):  # labels of 30 modes
            raised = []
            for seed in range(12):
                slope = torch.randn(30, generator=generator(seed))
                z = torch.randn(n, 30, generator=generator(100 + seed))
                step = ridge_direction(z, z @ slope + 3 * torch.randn(n, generator=generator(200 + seed)))
                raised.append((step @ slope).item())
            assert sorted(raised)[6] == pytest.approx(1.0, abs=tolerance)

    def test_labels_that_mean_nothing_are_warned_of(self):
        z = torch.randn(40, 10, generator=generator(1), dtype=torch.float64)
        labels = torch.randn(40, generator=generator(2), dtype=torch.float64)
        labels = labels - z @ torch.linalg.lstsq(torch.cat([z, torch.ones(40, 1)], 1), labels).solution[:10]
        with pytest.warns(UserWarning, match="age: these labels cannot be told"):
            step = ridge_direction(z, labels, "age")
        assert step.norm().item() == pytest.approx(1 / labels.std().item(), rel=1e-6)  # not endless

    SLOPE = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0])

    def aged(self):
        """A model whose faces grow older along SLOPE, and meshes."""
        x, z = draw(truth(shape=5), 60)
        return truth(shape=5).with_attributes(x, {"age": 40 + z @ self.SLOPE, "group": (z[:, 1] > 0).int()}), x

    def test_an_edit_raises_the_label_and_keeps_what_the_modes_cannot_show(self):
        model, x = self.aged()
        assert model.attributes == ("age", "group") and cosine(model.direction("age"), self.SLOPE) > 0.99
        rough = x[:2] + torch.randn(2, VERTICES, 3, generator=generator())
        older = model.edit(rough, "age", 10.0)
        change = model.encode(older).mean - model.encode(rough).mean
        assert torch.allclose(change @ self.SLOPE, torch.full((2,), 10.0), atol=0.01)
        assert torch.allclose(older - model.reconstruct(older), rough - model.reconstruct(rough), atol=1e-2)
        each = model.edit(rough, "age", torch.tensor([10.0, 0.0]))
        assert torch.allclose(each[0], older[0]) and torch.allclose(each[1], rough[1])
        swept = model.traverse(x[:2], along=[model.direction("age")], values=[10.0])[:, 0, 0]
        assert torch.allclose(swept, model.edit(x[:2], "age", 10.0), atol=1e-2)
        replaced = model.with_attributes(x, {"age": -(model.encode(x).mean @ self.SLOPE)})
        assert replaced.attributes == ("age", "group")
        assert torch.allclose(replaced.direction("age"), -model.direction("age"), atol=1e-5)

    def test_caricatures(self):
        model, x = self.aged()
        assert torch.allclose(model.caricature(x, 2.0), 2 * x - SHEET, atol=1e-3)
        across = torch.tensor([4.0, 1.0, 3.0, -2.0, 1.0])  # at right angles to the slope
        before = model.encode(x).mean
        for factor in (2.0, 0.0):
            after = model.encode(model.caricature(x, factor, "age")).mean
            assert torch.allclose(after @ self.SLOPE, factor * before @ self.SLOPE, atol=0.01)
            assert torch.allclose(after @ across, before @ across, atol=0.01)

    def test_refuses(self):
        model = truth(shape=4)
        x, z = draw(model, 20)
        with pytest.raises(ValueError, match="no attribute is called 'aeg'; did you mean age"):
            model.with_attributes(x, {"age": z[:, 0]}).edit(x, "aeg", 1.0)
        with pytest.raises(ValueError, match="no attribute.*none is there"):
            model.caricature(x, 2.0, "age")
        for meshes, labels, message in (
            (x, torch.full((20,), 7.0), "age: all labels are equal"),
            (x, z[1:, 0], r"age: expected one label a mesh, shape \[20\], got \[19\]"),
            (x, torch.full((20,), math.nan), "age: expected at least 3 finite"),
            (x[:1].expand(20, -1, -1), z[:, 0], "all meshes are equal"),
        ):
            with pytest.raises(ValueError, match=message):
                model.with_attributes(meshes, {"age": labels})


class TestParts:
    def whole(self):
        model = truth(shape=6, expression=3, colour=2, noise=0.5, landmarks=torch.tensor([40, 30]), count=9)
        model = model.with_segments({"left": SHEET[:, 0] < 25})
        x, z = draw(model, 60)
        return model.with_attributes(x, {"age": z @ torch.arange(11.0)})

    def test_truncation_moves_variance_to_the_noise(self):
        model = self.whole()
        small = truncate(model, shape=4, expression=1)
        assert small.sizes == (4, 1, 2) and small.segments == model.segments and small.count == 9
        before = scaled_modes(model).square().sum() + 3 * VERTICES * model.noise
        assert torch.allclose(scaled_modes(small).square().sum() + 3 * VERTICES * small.noise, before, rtol=1e-5)
        z = torch.randn(2, 7, generator=generator())
        padded = torch.cat([z[:, :4], torch.zeros(2, 2), z[:, 4:5], torch.zeros(2, 2), z[:, 5:]], 1)
        assert torch.allclose(small.decode(z).mean, model.decode(padded).mean, atol=1e-4)
        slope = torch.arange(11.0)[[0, 1, 2, 3, 6, 9, 10]]
        assert torch.allclose(small.direction("age"), slope / slope.square().sum(), atol=2e-3)
        for wrong in (dict(shape=0), dict(shape=7), dict(colour=3), dict(expression=-1)):
            with pytest.raises(ValueError, match="modes of"):
                truncate(model, **wrong)

    def test_modes_attributes_and_segments_are_exhibited(self):
        model = self.whole()
        shown = {exhibit.title: x for exhibit, x in draw_exhibits(model, temperature=0.7)}
        assert shown.keys() == {"Samples", "Temperature", "Interpolation", "Modes", "Attributes", "Segments"}
        modes = shown["Modes"].unflatten(0, (-1, 3))
        assert len(modes) == 6  # two of each part
        torch.testing.assert_close(modes[:, 1], model.mean.expand(6, -1, -1))
        step = 3 * model.expression_variance[1].sqrt() * model.expression_basis[1].view(-1, 3)
        torch.testing.assert_close(modes[3, 2, :, :3] - SHEET, step, atol=1e-3, rtol=0)
        less, same, more = shown["Attributes"]
        torch.testing.assert_close(more - same, same - less, atol=1e-3, rtol=0)
        assert len(shown["Segments"]) == 2 + len(model.segments)
        assert [exhibit.title for exhibit in truth().exhibits()][-1] == "Modes"

    def test_a_marginal_has_the_same_distribution_there(self):
        model = self.whole()
        chosen = torch.arange(VERTICES).reshape(ROWS, COLUMNS)[2:6, 3:9].flatten().flip(0)
        part = marginal(model, chosen)
        assert part.modality.shape == (24, 6) and part.sizes == model.sizes and part.noise == model.noise
        rows = (3 * chosen[:, None] + torch.arange(3)).flatten()
        modes = scaled_modes(model)[:, rows]
        assert torch.allclose(scaled_modes(part).T @ scaled_modes(part), modes.T @ modes, atol=1e-3)
        assert torch.allclose(part.shape_basis @ part.shape_basis.T, torch.eye(6), atol=1e-5)
        assert len(part.modality.triangles) == 2 * 3 * 5  # the triangles of a patch of 4 x 6 vertices
        areas = triangle_normals(part.mean[part.modality.triangles, :3]).norm(dim=1)
        assert torch.allclose(areas, torch.full((30,), 25.0))
        assert torch.allclose(part.weights, model.weights[:, chosen]) and len(part.landmarks) == 0
        x = model.sample(3, generator=generator())
        edited = part.edit(x[:, chosen], "age", 2.0)
        assert torch.allclose(edited, model.edit(x, "age", 2.0)[:, chosen], atol=1e-3)
        mask = torch.zeros(VERTICES, dtype=torch.bool)
        mask[chosen] = mask[30] = mask[40] = True
        marked = marginal(model, mask)
        assert torch.equal(marked.mean[marked.landmarks.long()], model.mean[[40, 30]])

    def test_a_marginal_of_few_vertices_has_fewer_modes(self):
        part = marginal(self.whole(), torch.tensor([5, 50, 80]))
        assert part.sizes == (6, 3, 2) and part.modality.triangles.shape == (0, 3)
        wide = marginal(truth(shape=12), torch.tensor([5, 50, 80]))
        assert wide.sizes == (9, 0, 0)
        for wrong in ([1, 2], [1, 2, 2], [0.0, 1, 2], [-1, 2, 3]):
            with pytest.raises(ValueError, match="vertices"):
                marginal(self.whole(), torch.tensor(wrong))

    def test_half_precision_keeps_what_rounding_would_show(self, tmp_path):
        model = self.whole()
        model.shape_variance *= 100  # beyond float16, as real models are
        folder = save(model, tmp_path / "face", half=True)
        loaded = load(folder)
        assert loaded.modality == model.modality and loaded.mean.dtype == torch.float32
        assert torch.equal(loaded.mean, model.mean) and torch.equal(loaded.weights, model.weights)
        assert torch.equal(loaded.modality.triangles, model.modality.triangles)
        assert torch.equal(loaded.shape_basis, model.shape_basis.half().float())
        first, again = (m.sample(5, generator=generator()) for m in (model, loaded))
        assert (first - again).abs().max() < 0.05 and first.std() > 20
        assert torch.allclose(loaded.edit(first, "age", 1.0), model.edit(first, "age", 1.0), atol=0.01)
        size = (folder / "model.safetensors").stat().st_size
        assert size < 2 * 3 * VERTICES * 11 + 60 * VERTICES + 6000

    def test_a_model_of_half_precision_samples_what_the_whole_one_does(self):
        whole = load("morphable-faces").sample(2, generator=generator())
        for dtype, near in ((torch.float16, 0.01), (torch.bfloat16, 0.2)):
            model = load("morphable-faces", dtype=dtype)
            assert model.shape_basis.dtype == dtype and model.shape_variance.dtype == torch.float32
            x = model.sample(2, generator=generator())
            torch.testing.assert_close(x, whole, atol=near, rtol=0)
            torch.testing.assert_close(
                model.edit(model.reconstruct(x), "age", 1.0), model.edit(x, "age", 1.0), atol=0.5, rtol=0
            )

    def test_a_checkpoint_of_version_0_1_0_has_its_triangles_among_the_weights(self):
        folder = Path(__file__).parents[1] / "old_checkpoints"
        model, expected = load(folder / "morphable-model"), load_file(folder / "morphable-model.safetensors")
        assert torch.equal(model.modality.triangles, expected["faces"])
        assert torch.equal(model.modality.uv, expected["uv"])
        assert torch.equal(model.sample(4, generator=generator()), expected["sample"])

    def test_unsound_weights_are_refused(self, tmp_path):
        for name, value, message in (
            ("shape_variance", -1.0, "variance of shape is -1 somewhere"),
            ("noise", -1.0, "noise is -1"),
            ("weights", 2.0, "sum to 1"),
            ("colour_basis", 1.0, "modes of colour must have length 1"),
            ("count", -1, "count is a number of meshes"),
            ("landmarks", VERTICES, f"landmarks are numbers of vertices, 0 to {VERTICES - 1}"),
        ):
            model = self.whole()
            getattr(model, name).fill_(value)
            with pytest.raises(CheckpointError, match=message):
                load(save(model, tmp_path / "face"))

    @pytest.mark.parametrize(
        "change, message",
        [
            (dict(mean=SHEET[1:]), "mean: expected shape"),
            (dict(shape=Axes(waves(3)[:, 3:], torch.ones(3))), "basis of shape: expected shape"),
            (dict(shape=Axes(waves(3), torch.ones(1))), "variance of shape: expected shape"),
            (dict(shape=Axes(waves(3), -torch.ones(3))), "variance of shape is -1 somewhere"),
            (dict(segments={"a": torch.full((VERTICES,), 0.5)}), "sum to 1"),
            (dict(attributes={"age": torch.ones(4)}), "direction of 'age': expected shape"),
            (dict(landmarks=torch.tensor([-1])), "landmarks are numbers of vertices"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, change, message):
        parts = dict(medium=MEDIUM, mean=SHEET, shape=Axes(waves(3), torch.ones(3)))
        with pytest.raises(ValueError, match=message):
            MorphableModel.assemble(**parts | change)

    def test_sizes_that_do_not_fit_are_refused(self):
        for modes, names, message in ((10, [], "at most 9 modes"), (0, [], "positive"), (2, ["a", "a"], "names")):
            with pytest.raises(ValueError, match=message):
                MorphableModel(Meshes(3), modes, segments=names)

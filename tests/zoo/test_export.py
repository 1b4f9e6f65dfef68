"""Exported parts give what the models give, for any batch size."""

import numpy as np
import pytest
import torch

from modalities.images import Images
from modalities.meshes import Meshes
from modalities.signals import Signals
from tests import toys
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.cli import main
from zoo.conditions import Classes
from zoo.export import export
from zoo.hub import load
from zoo.latent_prior import LatentPrior
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.morphable.model import MorphableModel
from zoo.variational.autoencoder import Autoencoder
from zoo.variational.nvae import NVAE
from zoo.variational.vae import VAE
from zoo.variational.vq import VQVAE

BINARY, SERIES = Images(1, 8, 8, 2), Signals(1, 16)
SIZES = {"latent": 3, "width": 4, "blocks": 0, "hidden": 8}
MODELS = {
    "vae": lambda: VAE(BINARY, **SIZES),
    "conditional vae": lambda: VAE(SERIES, **SIZES, condition=Classes(("a", "b"))),
    "autoencoder": lambda: Autoencoder(BINARY, **SIZES),
    "vq-vae": lambda: VQVAE(BINARY, codes=8, dimensions=4, downsampling=4, width=4, blocks=0),
    "nvae": lambda: NVAE(BINARY, (1, 1), latent=2, width=4, blocks=0, block_cells=1, cells=1, expansion=1),
    "pca": lambda: PCA.fit(torch.randn(30, 1, 16), SERIES, components=3),
    "probabilistic pca": lambda: ProbabilisticPCA.fit(torch.randn(30, 1, 16), SERIES, components=3),
}


def cases(name, part, n):
    """A model, the inputs of a part by name, and what it has to give."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    labels = torch.arange(n) % 2 if model.condition else None
    x = model.sample(n, condition=labels)
    q = model.encode(x, condition=labels)
    z = (q.mean,) if isinstance(q.mean, torch.Tensor) else q.mean
    if part == "encoder":
        inputs, outputs = {"x": x}, [*z, *([q.std] if hasattr(q, "std") else [])]
    else:
        names = [f"{'z' if part == 'decoder' else 'noise'}{i if len(z) > 1 else ''}" for i in range(len(z))]
        latents = q.mean if part == "decoder" else model.prior(labels, n=n).reparameterise(q.mean)
        inputs, outputs = dict(zip(names, z, strict=True)), [model.decode(latents, condition=labels).mean]
    return model, inputs | ({} if labels is None else {"class": labels}), outputs


@pytest.mark.parametrize("part", ["decoder", "encoder", "sampler"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_program_gives_what_the_model_gives_for_any_batch_size(name, part, tmp_path):
    if (name, part) == ("vq-vae", "sampler"):  # its prior is over codes
        with pytest.raises(ValueError, match="the prior of VQVAE takes no noise"):
            export(MODELS[name](), tmp_path / "part.pt2", part)
        return
    model, _, _ = cases(name, part, 2)
    program = torch.export.load(export(model, tmp_path / "part.pt2", part)).module()
    for n in (1, 5):
        _, inputs, outputs = cases(name, part, n)
        for found, expected in zip(program(*inputs.values()), outputs, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "part"),
    [("conditional vae", "encoder"), ("conditional vae", "decoder"), ("vq-vae", "decoder"), ("nvae", "sampler")],
)
@torch.no_grad()
def test_an_onnx_runtime_gives_what_the_model_gives(name, part, tmp_path):
    onnxruntime, _ = pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    model, _, _ = cases(name, part, 2)
    path = export(model, tmp_path / "new" / "part.onnx", part)
    assert [file.name for file in path.parent.iterdir()] == ["part.onnx"]  # weights and all
    session = onnxruntime.InferenceSession(path)
    for n in (1, 5):
        _, inputs, outputs = cases(name, part, n)
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        for some, expected in zip(found, outputs, strict=True):
            np.testing.assert_allclose(some, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert [one.name for one in session.get_inputs()] == list(inputs)


def test_the_command_writes_what_the_function_writes(tmp_path, capsys):
    assert main(["export", "vae-points", "--part", "encoder", "-o", str(tmp_path / "part.pt2")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "part.pt2")
    mean, std = torch.export.load(tmp_path / "part.pt2").module()(torch.zeros(3, 2))
    expected = load("vae-points").encode(torch.zeros(3, 2))
    torch.testing.assert_close(mean, expected.mean)
    torch.testing.assert_close(std, expected.std)
    assert main(["export", "gated-pixelcnn-mnist", "-o", str(tmp_path / "part.pt2")]) == 2
    assert "has no decoder to export: it has no latent space" in capsys.readouterr().err


def test_the_model_stays_as_it_was(tmp_path):
    model = MODELS["vae"]().double().train()
    export(model, tmp_path / "part.pt2")
    assert model.training and model.dtype == torch.float64


def test_what_cannot_be_exported_is_refused(tmp_path):
    vae = MODELS["vae"]()
    codes = GatedPixelCNN(MODELS["vq-vae"]().latents(), 4, 1, 3, 3, 4, likelihood="categorical", embedding=4)
    scans = Meshes(60).dataset("synthetic-heads")
    morphable = MorphableModel.fit(scans, scans.medium, shape=3)
    for model, path, part, message in (
        (vae, "model.bin", "decoder", "must end with .onnx or .pt2"),
        (vae, "model.pt2", "prior", "part is decoder, encoder, sampler; got 'prior'"),
        (toys.make("pixelcnn"), "model.pt2", "decoder", "has no decoder to export: it has no latent space"),
        (LatentPrior(MODELS["vq-vae"](), codes), "model.pt2", "sampler", "the prior of LatentPrior takes no noise"),
        (morphable, "model.pt2", "encoder", "the encoder of MorphableModel cannot be exported"),
    ):
        with pytest.raises(ValueError, match=message):
            export(model, tmp_path / path, part)
    assert not list(tmp_path.iterdir())

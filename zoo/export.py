"""Encoders and decoders for programs without this package: as ONNX, or as a program of `torch.export`."""

import copy
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from modalities.files import write_aside
from zoo.distributions import DiagonalGaussian
from zoo.model import GenerativeModel, Latent
from zoo.walks import Z

Part = Literal["decoder", "encoder", "sampler"]
"""decoder: z to the mean of p(x given z). encoder: x to the mean of q(z given x), and to its standard deviation where z
is one tensor with a spread. sampler: standard normal noise of the shape of z, through the prior and the decoder, to the
mean of p(x given z)."""
FORMATS = (".onnx", ".pt2")


def export(model: GenerativeModel, path: str | Path, part: Part = "decoder") -> Path:
    """Write a part of a model with a latent space for any batch size, in single precision; the path is handed back.

    Inputs and outputs have the batch first and the medium's units. They are called "x", "z", "noise", "mean" and "std";
    of a hierarchy "z0", "z1" and so on, a tensor a group; a class-conditional model takes "class" besides, whole numbers
    [batch]. What a program is given is not looked at: other sizes are refused by the runtime, values are not.

    Arguments:
        path: ends with .onnx, for any ONNX runtime (writing it takes `pip install latent-zoo[onnx]`), or with .pt2, for
            `torch.export.load`.
        part: see `Part`.

    Raises ValueError for a model without a latent space, a medium whose items differ in length, and conditions that are
    no classes.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} must end with {' or '.join(FORMATS)}, which says what is written")
    if part not in get_args(Part):
        raise ValueError(f"part is {', '.join(get_args(Part))}; got {part!r}")
    if not isinstance(model, Latent) or model.modality.ragged:
        why = "its items differ in length" if model.modality.ragged else "it has no latent space"
        raise ValueError(f"{type(model).__name__} has no {part} to export: {why}")
    with torch.no_grad():
        module = _Part(copy.deepcopy(model).float().cpu().eval(), part)
        inputs = module.examples()
        batch = torch.export.Dim("batch", min=1)
        shapes = (tuple({0: batch} for _ in inputs),)
        program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as aside:
        if path.suffix == ".pt2":
            torch.export.save(program, aside)
        else:
            _write_onnx(program, aside, list(inputs), module.outputs)
    return path


def _write_onnx(program: torch.export.ExportedProgram, path: Path, inputs: list[str], outputs: list[str]) -> None:
    try:
        torch.onnx.export(
            program, f=path, input_names=inputs, output_names=outputs, external_data=False, verbose=False, dynamo=True
        )
    except ModuleNotFoundError as error:
        raise ValueError(f"writing ONNX needs the package {error.name}: pip install latent-zoo[onnx]") from error


class _Part(nn.Module):
    """A part of a model as a function of tensors: its inputs in their order, the class last."""

    def __init__(self, model: Latent, part: Part):
        super().__init__()
        self.model, self.part = model, part
        self.outputs: list[str] = []

    def examples(self) -> dict[str, Tensor]:
        """A batch of two of every input by its name."""
        model = self.model
        condition = model.prepare_condition(None, 2)
        if condition is not None and not isinstance(condition, Tensor):
            raise ValueError(f"{type(model).__name__} is told a {model.condition and model.condition.noun}, no class")
        x = torch.zeros(2, *model.modality.shape)
        z = model.encode(x, condition=condition).mean
        name = {"encoder": "x", "decoder": "z", "sampler": "noise"}[self.part]
        inputs = {"x": x} if self.part == "encoder" else _named(name, z)
        self.grouped = not isinstance(z, Tensor) and self.part != "encoder"
        self.outputs = list(_named("mean", z)) if self.part == "encoder" else ["x"]
        if self.part == "encoder" and isinstance(model.encode(x, condition=condition), DiagonalGaussian):
            self.outputs.append("std")
        return inputs if condition is None else inputs | {"class": condition}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        condition = None if self.model.condition is None else inputs[-1]
        given: Z = inputs if condition is None else inputs[:-1]
        if not self.grouped:
            given = given[0]
        if self.part == "encoder":
            q = self.model.encode(given, condition=condition)
            means = (q.mean,) if isinstance(q.mean, Tensor) else tuple(q.mean)
            return (*means, q.std) if "std" in self.outputs else means
        if self.part == "sampler":
            given = self.model.prior(condition, n=inputs[0].shape[0]).reparameterise(given)
        return (self.model.decode(given, condition=condition).mean,)


def _named(name: str, z: Z) -> dict[str, Tensor]:
    """A tensor under its name, or those of a tuple numbered."""
    return {name: z} if isinstance(z, Tensor) else {f"{name}{i}": part for i, part in enumerate(z)}

"""Encoders and decoders for programs without this package: as ONNX, or as a program of `torch.export`."""

import copy
import warnings
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from modalities.files import write_aside
from zoo.distributions import DiagonalGaussian
from zoo.hierarchy import TopDown
from zoo.model import GenerativeModel, Latent
from zoo.walks import Z, groups

Part = Literal["decoder", "encoder", "sampler"]
"""decoder: z to the mean of p(x given z). encoder: x to the mean of q(z given x), and to its standard deviation where z
is one tensor with a spread. sampler: standard normal noise of the shape of z, through the prior and the decoder, to the
mean of p(x given z)."""
FORMATS = (".onnx", ".pt2")


def export(model: GenerativeModel, path: str | Path, part: Part = "decoder") -> Path:
    """Write a part of a model with a latent space for any batch size, in single precision; the path is handed back.

    Inputs and outputs have the batch first and the medium's units. They are called "x", "z", "noise", "mean" and "std";
    of a hierarchy "z0", "z1" and so on, a tensor a group; a class-conditional model takes "class" besides, whole
    numbers [batch]. Other sizes are refused by the runtime; values are not looked at.

    Arguments:
        path: ends with .onnx, for any ONNX runtime (writing it takes `pip install latent-zoo[onnx]`), or with .pt2, for
            `torch.export.load`.
        part: see `Part`.

    Raises ValueError for a model without a latent space, a medium whose items differ in length, conditions that are no
    classes, a sampler whose prior is not normal, and what branches on values, as the encoder of a morphable model does.
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
        module = _Part(copy.deepcopy(model).float().cpu().eval().requires_grad_(False), part)
        inputs = module.examples()
        shapes = (tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs),)
        try:
            program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)
        except RuntimeError as error:
            why = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"the {part} of {type(model).__name__} cannot be exported for any batch size: {why}"
            ) from error
    with write_aside(path) as aside:
        if path.suffix == ".pt2":
            torch.export.save(program, aside)
        else:
            _write_onnx(program, aside, list(inputs), module.outputs)
    return path


def _write_onnx(program: torch.export.ExportedProgram, path: Path, inputs: list[str], outputs: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of its own parts
        try:
            torch.onnx.export(program, (), path, input_names=inputs, output_names=outputs, external_data=False)
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
        model, told = self.model, self.model.condition
        condition = None if told is None else model.prepare_condition(told.examples(2), 2)
        if told is not None and not isinstance(condition, Tensor):
            raise ValueError(f"{type(model).__name__} is told a {told.noun}, and only classes are exported")
        x = torch.full((2, *model.modality.shape), 0.0 if model.modality.levels is None else -1.0)
        q = model.encode(x, condition=condition)
        if self.part == "encoder":
            inputs, self.grouped = {"x": x}, False
            self.outputs = [*_named("mean", q.mean), *(["std"] if isinstance(q, DiagonalGaussian) else [])]
        else:
            if self.part == "sampler" and not isinstance(model.prior(condition, n=2), (DiagonalGaussian, TopDown)):
                raise ValueError(f"the prior of {type(model).__name__} takes no noise: it is not normal")
            inputs = _named("z" if self.part == "decoder" else "noise", q.mean)
            self.outputs, self.grouped = ["x"], not isinstance(q.mean, Tensor)
        return inputs | ({"class": condition} if isinstance(condition, Tensor) else {})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        condition = None if self.model.condition is None else inputs[-1]
        if self.part == "encoder":
            q = self.model.encode(inputs[0], condition=condition)
            means = tuple(groups(q.mean))
            return (*means, q.std) if isinstance(q, DiagonalGaussian) else means
        given = inputs if condition is None else inputs[:-1]
        z: Z = given if self.grouped else given[0]
        if self.part == "sampler":
            z = self.model.prior(condition, n=inputs[0].shape[0]).reparameterise(z)
        return (self.model.decode(z, condition=condition).mean,)


def _named(name: str, z: Z) -> dict[str, Tensor]:
    """A tensor under its name, or those of a tuple numbered."""
    return {name: z} if isinstance(z, Tensor) else {f"{name}{i}": part for i, part in enumerate(z)}

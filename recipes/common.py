"""What every recipe's command line shares: presets, and where results go."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from zoo.autoregressive.model import Autoregressive

Config = TypeVar("Config")


def run(main: Callable[[Config], Any], presets: Mapping[str, tuple[str, Config]]) -> None:
    """Read the command line, `[preset] [--field value ...]`, and start the recipe; the preset is laptop by default.

    Every field of the configuration is a flag; `--help` after a preset's name shows them with that preset's values.
    Mistakes of the user (a missing file, an unsuitable value) are one sentence and exit code 2.
    """
    import tyro

    from modalities import MediaError
    from zoo.checkpoint import CheckpointError
    from zoo.training import TrainingError

    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in [*presets, "-h", "--help"]:
        arguments = ["laptop", *arguments]
    config = tyro.extras.overridable_config_cli(dict(presets), args=arguments, description=main.__doc__)
    try:
        main(config)
    except (MediaError, CheckpointError, TrainingError, FileNotFoundError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    finally:
        import torch

        if torch.distributed.is_initialized():  # or its threads may still run when the interpreter ends, which aborts
            torch.distributed.destroy_process_group()


def machine() -> str:
    """The processor and, where there is one, the card, for figures that depend on them."""
    import os
    import platform

    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = torch.get_num_threads()
    return f"{cores} of {os.cpu_count()} cores of {names[0] if names else platform.processor() or 'a processor'}"


def write_figures(figures: Mapping[str, Any], output: Path) -> None:
    """Print measured figures, and keep them beside the pictures."""
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def completions(model: "Autoregressive", x: "torch.Tensor", times: int, generator: "torch.Generator") -> "torch.Tensor":
    """Images, the same with their lower halves hidden in grey, and so many rows of completions of what is left."""
    import torch

    known = torch.arange(x.shape[2])[:, None] < x.shape[2] // 2
    drawn = model.complete(x.repeat(times, 1, 1, 1), known, generator=generator).cpu()
    return torch.cat([x, torch.where(known, x, 0.0), drawn.to(x.dtype)])


def draw_pixel_model(
    model: "Autoregressive", x: "torch.Tensor", receptive_field: "Image", folder: Path, generator: "torch.Generator"
) -> "Image":
    """Write samples, completions of the first images of `x` and the given picture; return the samples."""
    columns = min(10, len(x))
    pictures = {
        "samples": model.modality.show(model.sample(60, generator=generator), 10),
        "completions": model.modality.show(completions(model, x[:columns], 4, generator), columns),
        "receptive_field": receptive_field,
    }
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    return pictures["samples"]


def influence(model: "Autoregressive", x: "torch.Tensor", row: int, column: int) -> "torch.Tensor":
    """The mean absolute derivative of a pixel's numbers with respect to every pixel, shape [height, width]."""
    import copy

    import torch

    model = copy.deepcopy(model).double()  # in single precision a faint path may give exactly zero
    x = x.to(model.device, torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(model.outputs(x)[:, :, row, column].sum(), x)
    return gradient.abs().mean((0, 1)).cpu()

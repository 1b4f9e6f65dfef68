"""What every recipe's command line shares: presets, and where results go."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    pass

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

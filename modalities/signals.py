"""Signals: real-valued series of one length and one or more channels, such as electrocardiograms and sensor data."""

import dataclasses
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from modalities.data import Arrays, Files, Items
from modalities.drawing import render
from modalities.files import write_aside
from modalities.modality import MediaError, Modality
from modalities.sources import Listing, list_files, read_table, split_source, to_numbers, write_table

if TYPE_CHECKING:
    from PIL.Image import Image

NAMED = ("synthetic-beats",)

EVERY = 5
"""Every fifth signal is for tests where nothing else is said."""

WAVES = ("P", "Q", "R", "S", "T")

NORMAL_BEAT = (
    (0.22, 0.025, 0.15),
    (0.375, 0.010, -0.12),
    (0.40, 0.011, 1.10),
    (0.43, 0.012, -0.25),
    (0.66, 0.045, 0.30),
)
"""Centre and width in parts of the beat, and height in millivolts, of the waves of a normal beat."""

WIDE_BEAT = ((0.22, 0.025, 0.0), (0.33, 0.025, -0.15), (0.40, 0.045, 1.30), (0.50, 0.045, -0.40), (0.70, 0.060, -0.35))
"""The same for a beat that starts in a ventricle: no P wave, a wide QRS complex, an inverted T wave."""


@dataclasses.dataclass(frozen=True)
class Signals(Modality):
    """Series of shape [channels, time], real numbers in the unit of the recording.

    Without a network, `dataset` knows the generated "synthetic-beats".

    Arguments:
        channels: channels of a series.
        length: steps of a series.
        rate: steps a second; None if unknown.
        unit: name of the unit, such as "mV".
    """

    channels: int = 1
    length: int = 140
    rate: float | None = None
    unit: str = ""
    kind: ClassVar[str] = "signals"
    suffix: ClassVar[str] = ".csv"
    sheet: ClassVar[int] = 16
    metrics: ClassVar[tuple[str, ...]] = ("distances", "RMSE")

    def __post_init__(self) -> None:
        if self.channels < 1 or self.length < 1:
            raise ValueError(f"signals have at least 1 channel and 1 step, got {self.channels!r} and {self.length!r}")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"rate is the steps a second, above 0, or None; got {self.rate!r}")

    @property
    def shape(self) -> tuple[int, int]:
        return self.channels, self.length

    def load(self, path: str | Path) -> Tensor:
        """Read a series, a tensor of shape [channels, time].

        A .csv file has one row a step and one column a channel, with or without a header. A .npy file holds numbers of
        shape [channels, time], or [time] for one channel. Raises `MediaError` that names the file if it is missing or
        broken, if it has other channels or another length (series are never cut or stretched silently), and on NaN,
        infinities and texts, with their row and column.
        """
        path = Path(path)
        if path.suffix.lower() == ".npy":
            x = _read_npy(path)
        elif path.suffix.lower() == ".csv":
            names, rows = read_table(path)
            x = to_numbers(path, names, rows).T
        else:
            raise MediaError(f"{path}: signals are read from .csv and .npy files, not from {path.suffix or 'others'}")
        return self._checked(x[None], path)[0]

    def _checked(self, x: np.ndarray, source: str | Path) -> Tensor:
        """Numbers [items, channels, time] of a source as a tensor, if they are finite and of this medium's shape."""
        if x.shape[1:] != self.shape:
            raise MediaError(
                f"{source} has {x.shape[1]} channels of {x.shape[2]} steps, expected {self.channels} of {self.length}; "
                f"cut or resample it, or use Signals(channels={x.shape[1]}, length={x.shape[2]})"
            )
        bad = np.argwhere(~np.isfinite(x))
        if len(bad):
            item, channel, step = bad[0]
            raise MediaError(f"{source}, item {item}, channel {channel}, step {step}: got {x[item, channel, step]}")
        return torch.from_numpy(np.array(x, np.float32))

    def save(self, x: Tensor, path: str | Path) -> None:
        """Write a series [channels, time] or a batch of them.

        The suffix of `path` picks the format: .csv (one series; a header, a row a step) or .npy, both exact. A path
        without a suffix is a folder, which gets one numbered .csv file a series. Raises `MediaError` on a batch for one
        .csv file and on other suffixes.
        """
        path = Path(path)
        if self.save_apart(x, path):
            return
        single = x.ndim == 2
        batch = self.check(x[None] if single else x).detach().float().cpu().numpy()
        if path.suffix.lower() not in (".csv", ".npy"):
            raise MediaError(f"{path}: signals are written as .csv or .npy, not {path.suffix}")
        if path.suffix.lower() == ".npy":
            with write_aside(path) as part, part.open("wb") as file:
                np.save(file, batch[0] if single else batch)
        elif single:
            unit = f" ({self.unit})" if self.unit else ""
            write_table(path, [f"channel {i}{unit}" for i in range(self.channels)], batch[0].T)
        else:
            raise MediaError(f"{path}: a .csv file holds one series, got a batch; name a folder or a .npy file")

    @property
    def steps(self) -> int:
        return 5  # axes that can be read

    def show(self, x: Tensor, columns: int | None = None) -> "Image":
        """Line plots of a batch [batch, channels, time] on common axes, one panel a series, one line a channel."""
        from matplotlib.figure import Figure

        batch = self.drawable(x).numpy()
        columns = min(columns or math.ceil(math.sqrt(len(batch))), len(batch))
        rows = math.ceil(len(batch) / columns)
        figure = Figure(figsize=(max(2.2 * columns, 4) + 0.6, max(1.4 * rows, 2.2) + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        time = np.arange(self.length) / (self.rate or 1)
        for panel, item in zip(panels, batch, strict=False):
            panel.plot(time, item.T, linewidth=1)
            panel.tick_params(labelsize=7)
            panel.spines[["top", "right"]].set_visible(False)
        for panel in panels[len(batch) :]:
            panel.set_axis_off()
        figure.supxlabel("time in s" if self.rate else "step", fontsize=9)
        figure.supylabel(self.unit, fontsize=9)
        return render(figure)

    def dataset(
        self, source: str | Path, split: str = "train", labels: bool = False, classes: Sequence[str] | None = None
    ) -> Items:
        """A named set, an archive or a folder, as items of `shape`, or with `labels` as pairs with class numbers.

        `source` is one of:
            "synthetic-beats": 2,000 generated heartbeats of any size (see `synthetic_beats`), class 0 normal, class 1
                wide. Needs no network.
            an .npz file with arrays x, [items, time] or [items, channels, time], and y for labels.
            an .npz file with arrays beats, units_per_mV and beats_symbol, which becomes millivolts.
            "file.npz:NAME": the arrays NAME_train_x, NAME_train_y, NAME_test_x, NAME_test_y of a file of several sets.
            any folder of .csv and .npy files, each one series, with its subfolders; a file's label is the name of its
                folder under the top, or under train/ and test/.
        `split` is "train", "test" or "all". Where nothing says which series is which, every fifth is for tests. Classes
        count from 0 in the order of their numbers or names, or of `classes` where they are given.

        A folder's files are listed now and read when they are asked for, and a broken one raises `MediaError` then.
        Raises `MediaError` if there is no such source, if it is of another shape, holds NaN or infinities, or has no
        labels where they are asked for.
        """
        if source == "synthetic-beats":
            series, wide = synthetic_beats(2000, self.length, self.channels, torch.Generator().manual_seed(0))
            x, listing = series.numpy(), Listing(_numbered(2000), ["wide" if i else "normal" for i in wide])
        else:
            path, selector = split_source(source, NAMED)
            if path.suffix.lower() != ".npz" or not path.is_file():
                listing = list_files(path, (".csv", ".npy"))
                chosen, numbers, about = listing.choose(path, split, EVERY, labels, classes)
                return Files(self.load, [listing.items[i] for i in chosen], numbers).describe(about)
            x, listing = _read_npz(path, selector)
        chosen, numbers, about = listing.choose(source, split, EVERY, labels, classes)
        return Arrays(self._checked(x, source)[chosen], torch.tensor(numbers) if labels else None).describe(about)


def recorded_step(x: Tensor) -> float:
    """The step between the levels that a converter recorded; 0 where hardly two values are equal."""
    levels = x.unique()
    return 0.0 if 10 * len(levels) > x.numel() else levels.diff().median().item()


def dequantised(x: Tensor, step: float) -> Arrays:
    """A data set of series whose values are spread evenly over their level, anew at every visit; with a step of 0 the
    series themselves. A model that hits recorded levels exactly would have any density it likes."""
    noise = lambda x, generator: x + step * (torch.rand(x.shape, generator=generator) - 0.5)  # noqa: E731
    return Arrays(x, noise=noise if step else None)


def synthetic_beats(
    n: int, length: int, channels: int = 1, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Heartbeats like an electrocardiogram's: their series [n, channels, length] in millivolts and classes [n].

    A beat is the sum of five Gaussian waves (P, Q, R, S, T), as in the model of McSharry, Clifford, Tarassenko and
    Smith, "A Dynamical Model for Generating Synthetic Electrocardiogram Signals", 2003. Four beats of five are normal
    (class 0), the others wide (class 1). In each beat the waves' heights and widths vary by a log-normal factor of
    about 20 % and 10 %, their centres by 1 % of the beat, the tempo around the R wave by 8 %, and the electrodes add a
    slow baseline of up to 0.05 mV and noise of 0.02 mV. Channel c sees the waves at 0.7^c of their height, and every
    second channel the T wave inverted.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    classes = (torch.rand(n, generator=generator) < 0.2).long()
    waves = torch.tensor([NORMAL_BEAT, WIDE_BEAT])[classes]
    r_wave = NORMAL_BEAT[WAVES.index("R")][0]
    centre = r_wave + (waves[..., 0] + 0.01 * normal(n, 5) - r_wave) * torch.exp(0.08 * normal(n, 1))
    width = waves[..., 1] * torch.exp(0.1 * normal(n, 5))
    height = waves[..., 2] * torch.exp(0.2 * normal(n, 5))

    lead = 0.7 ** torch.arange(channels)
    gain = lead[:, None].repeat(1, 5)
    gain[1::2, WAVES.index("T")] *= -1
    time = (torch.arange(length) + 0.5) / length
    bumps = torch.exp(-0.5 * ((time - centre[..., None]) / width[..., None]) ** 2)
    clean = torch.einsum("cw,nw,nwt->nct", gain, height, bumps)
    baseline = 0.05 * torch.sin(2 * math.pi * (time + torch.rand(n, 1, 1, generator=generator)))
    return clean + baseline + 0.02 * normal(n, channels, length), classes


def _read_npy(path: Path) -> np.ndarray:
    try:
        x = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MediaError(f"{path} cannot be read as an array of numbers: {error}") from error
    if x.ndim not in (1, 2) or x.dtype.kind not in "fiu":
        raise MediaError(f"{path}: expected real numbers of shape [channels, time], got {x.dtype} of {list(x.shape)}")
    return np.atleast_2d(x)


def _read_npz(path: Path, selector: str | None) -> tuple[np.ndarray, Listing]:
    """The series of an archive, [items, channels, time], and what it says of them."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MediaError(f"{path} cannot be read as an archive of arrays: {error}") from error
    sets = sorted(name.removesuffix("_train_x") for name in arrays if name.endswith("_train_x"))
    splits: list[str] = []
    if selector is not None or sets:
        if selector not in sets:
            raise MediaError(f"{path} holds the sets {', '.join(sets) or 'none'}; name one of them as {path.name}:NAME")
        x, y = (np.concatenate([arrays[f"{selector}_{part}_{a}"] for part in ("train", "test")]) for a in "xy")
        train = len(arrays[f"{selector}_train_x"])
        splits = ["train"] * train + ["test"] * (len(x) - train)
    elif "beats" in arrays:
        x, y = arrays["beats"] / float(arrays["units_per_mV"]), arrays["beats_symbol"]
    elif "x" in arrays:
        x, y = arrays["x"], arrays.get("y", np.array([]))
    else:
        raise MediaError(f"{path} holds {', '.join(arrays)}; expected arrays x and y, or beats")
    x = x[:, None] if x.ndim == 2 else x
    if x.ndim != 3 or x.dtype.kind not in "fiu" or len(y) not in (0, len(x)):
        raise MediaError(
            f"{path}: expected real numbers of shape [items, channels, time] and a label an item, "
            f"got {x.dtype} of {list(x.shape)} and {len(y)} labels"
        )
    return x, Listing(_numbered(len(x)), [str(name) for name in y], splits)


def _numbered(n: int) -> list[str]:
    return [f"series {i}" for i in range(n)]

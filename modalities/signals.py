"""Signals: real-valued series of one length and one or more channels, such as electrocardiograms and sensor data."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from modalities.arrays import read_npy
from modalities.data import Arrays, Files, Items
from modalities.drawing import render
from modalities.files import write_aside
from modalities.modality import MediaError, Modality
from modalities.signal_sets import EVERY, SUFFIXES, Columns, holds_series, read_series, read_windows, suitable_fields
from modalities.sources import Listing, is_named, list_files, main_suffix, split_source
from modalities.tables import read_table, to_float32, to_numbers, write_table

if TYPE_CHECKING:
    from PIL.Image import Image

NAMED = ("synthetic-beats",)

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
        super().__post_init__()
        if self.channels < 1 or self.length < 1:
            raise ValueError(f"signals have at least 1 channel and 1 step, got {self.channels!r} and {self.length!r}")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"rate is the steps a second, above 0, or None; got {self.rate!r}")

    @property
    def shape(self) -> tuple[int, int]:
        return self.channels, self.length

    @classmethod
    def suiting(cls, source: str | Path, **fields: Any) -> Self | None:
        """Series of an archive or a table, as they are, or windows of a recording: of 128 steps, or fewer where that
        leaves less than 20 of them."""
        if is_named(source, NAMED):
            return cls(**dict[str, Any](length=256, rate=360.0, unit="mV") | fields)
        path, selector = split_source(source, NAMED)
        if main_suffix(path) not in (*SUFFIXES, ".npz", ".ts"):
            return None
        return cls(**suitable_fields(path, selector) | fields)

    def load(self, path: str | Path) -> Tensor:
        """Read a series, a tensor of shape [channels, time].

        A .csv, .tsv or .txt file has one row a step and one column a channel, with or without a header (see
        `modalities.tables.read_table`). A .npy file holds numbers of
        shape [channels, time], or [time] for one channel. Raises `MediaError` that names the file if it is missing or
        broken, if it has other channels or another length (series are never cut or stretched silently), and on NaN,
        infinities and texts, with their row and column.
        """
        path = Path(path)
        if path.suffix.lower() == ".npy":
            x = np.atleast_2d(read_npy(path))
            if x.ndim != 2 or x.dtype.kind not in "fiu":
                shape = f"{x.dtype} of {list(x.shape)}"
                raise MediaError(f"{path}: expected real numbers of shape [channels, time], got {shape}")
        elif path.suffix.lower() in SUFFIXES:
            names, rows = read_table(path)
            x = to_numbers(path, names, rows).T
        else:
            read = ", ".join(SUFFIXES)
            raise MediaError(f"{path}: signals are read from {read} files, not from {path.suffix or 'others'}")
        return self._checked(to_float32(path, x)[None], path)[0]

    def _checked(self, x: np.ndarray, source: str | Path) -> Tensor:
        """Numbers [items, channels, time] of a source as a tensor, if they are finite and of this medium's shape."""
        if x.shape[1:] != self.shape:
            raise MediaError(
                f"{source} has {x.shape[1]} channels of {x.shape[2]} steps, expected {self.channels} of {self.length}; "
                f"cut it by a `stride`, resample it, or use Signals(channels={x.shape[1]}, length={x.shape[2]})"
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
        self,
        source: str | Path,
        split: str = "train",
        labels: bool = False,
        *,
        classes: Sequence[str] | None = None,
        groups: str | None = None,
        stride: int | None = None,
    ) -> Items:
        """A named set or the user's own files, as items of `shape`, or with `labels` as pairs with class numbers.

        `source` is one of:
            "synthetic-beats": 2,000 generated heartbeats of any size (see `synthetic_beats`), class 0 normal, class 1
                wide. Needs no network.
            an .npz file with arrays x, [items, time] or [items, channels, time], and y for labels, also for each split
                or for several sets (see `modalities.arrays.read_items`); a .npy file of one such array with `stride`
                None.
            an .npz file with arrays beats, units_per_mV and beats_symbol, which becomes millivolts.
            a .ts file, or a table (.csv, .tsv, .txt) with a row a series of one channel, whose further column, if there
                is one, holds labels; a folder with two such files NAME_TRAIN and NAME_TEST.
            "recording.csv:temperature,humidity": one long recording, a row a step, cut to windows of this length; the
                columns by name or by number from 1, or without them all columns of numbers. See
                `modalities.signal_sets.read_recording` for times, gaps and labels.
            any folder of tables and .npy files, each one series, with its subfolders; a file's label is the name of its
                folder under the top, or under the folders of the splits, such as train/ and test/.
            with `stride`, such a folder of recordings, also as "folder:temperature,humidity".
        `split` is "train", "test" or "all". Where nothing says which series is which, every fifth is for tests, or with
        `groups` every fifth group, and the last fifth of every recording. Classes count from 0 in the order of their
        numbers or names, or of `classes` where they are given; `groups` is as in `Modality.dataset`.

        Windows begin every `stride` steps, by default side by side; they lie within one split, and never span a gap or
        a missing value. What does not fill a window is left out.

        A folder of series is listed now and its files are read when they are asked for, and a broken one raises
        `MediaError` then. Raises `MediaError` if there is no such source, if it is of another shape, holds NaN or
        infinities, or has no labels where they are asked for.
        """
        if stride is not None and stride < 1:
            raise ValueError(f"stride is the steps between windows, at least 1, or None; got {stride!r}")
        x: Sequence[np.ndarray] | np.ndarray
        if is_named(source, NAMED):
            series, wide = synthetic_beats(2000, self.length, self.channels, torch.Generator().manual_seed(0))
            x, listing = series.numpy(), Listing(["a beat"] * 2000, ["wide" if i else "normal" for i in wide])
        else:
            path, selector = split_source(source, NAMED)
            whole = stride is None and (selector is None or path.suffix.lower() == ".npz")
            if whole and holds_series(path, *self.shape):
                x, listing = read_series(path, selector, groups, self.length)
            elif whole and path.is_dir():
                listing = list_files(path, SUFFIXES, groups)
                chosen, numbers, about = listing.choose(path, split, EVERY, labels, classes)
                return Files(self.load, [listing.items[i] for i in chosen], numbers).describe(about)
            else:
                columns = Columns(selector, self.channels, self.rate, labels, groups)
                x, listing = read_windows(path, columns, self.length, stride or self.length, split)
        chosen, numbers, about = listing.choose(source, split, EVERY, labels, classes)
        items = self._checked(np.stack([x[i] for i in chosen]), source)
        return Arrays(items, None if numbers is None else torch.tensor(numbers)).describe(about)


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

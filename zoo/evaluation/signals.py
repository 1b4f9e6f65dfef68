"""Series beside real ones: their level, their spectrum, their highest peak, and the nearest training series."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modalities.signals import Signals
from zoo.evaluation.neighbours import nearest

if TYPE_CHECKING:
    from PIL.Image import Image


def spectrum(x: Tensor) -> Tensor:
    """The mean power of series [n, channels, time] at every frequency above 0, in dB, shape [frequencies]."""
    window = torch.hann_window(x.shape[-1])
    power = torch.fft.rfft((x - x.mean(-1, keepdim=True)) * window).abs().square()
    return 10 * torch.log10(power.mean((0, 1))[1:] + 1e-12)


def peak_height(x: Tensor) -> Tensor:
    """How far the highest step of series [n, channels, time] is above their median, first channel, shape [n]: of
    heartbeats the height of the R wave."""
    return x[:, 0].amax(-1) - x[:, 0].median(-1).values


def compare(real: Mapping[str, Tensor], drawn: Mapping[str, Tensor], unit: str) -> dict[str, float | str]:
    """Level, highest peak, spectrum and distance to the training series, of samples and, as a yardstick, of real ones.

    Arguments: series [n, channels, time] by their names, the real ones "training" and "test"; the unit of their values.
    """
    found: dict[str, float | str] = {}
    for name, x in {**real, **drawn}.items():
        level, height = (x - x.mean(-1, keepdim=True)).square().mean((1, 2)).sqrt(), peak_height(x)
        what = f"{name} (mean ± standard deviation, {unit})"
        found[f"level around the mean, {what}"] = f"{level.mean():.4f} ± {level.std():.4f}"
        found[f"height of the highest peak, {what}"] = f"{height.mean():.3f} ± {height.std():.3f}"
    for name, x in {"training": real["training"], **drawn}.items():
        difference = (spectrum(x) - spectrum(real["test"])).abs().mean().item()
        found[f"spectrum, {name} against test (mean difference over frequencies, dB)"] = difference
    for name, x in {"test": real["test"], **drawn}.items():
        distance = nearest(x, real["training"]).distance.median() / x[0].numel() ** 0.5
        found[f"distance to the nearest training series, {name} (median, RMS {unit})"] = distance.item()
    return found


def draw_ensembles(medium: Signals, x: Tensor, rows: Mapping[str, tuple[int, Tensor]]) -> "Image":
    """For each row and series of x, [n, channels, time], many ways in which it might have been: blue, x dotted, and
    solid up to the step that is known. A row, by its title, has that step and series [draws, n, channels, time]."""
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

    drawing = Drawing(figsize=(2.4 * len(x) + 1, 2 * len(rows) + 0.6), layout="constrained")
    panels = drawing.subplots(len(rows), len(x), sharex=True, sharey=True, squeeze=False)
    time = torch.arange(medium.length) / (medium.rate or 1)
    for row, (title, (start, drawn)) in zip(panels, rows.items(), strict=True):
        joint = max(0, start - 1)
        for i, panel in enumerate(row):
            panel.plot(time[joint:], drawn[:, i, 0, joint:].T, color="tab:blue", linewidth=0.7, alpha=0.7)
            panel.plot(time, x[i, 0], color="black", linewidth=0.9, linestyle=":")
            panel.plot(time[:start], x[i, 0, :start], color="black", linewidth=1.2)
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize=7)
        row[0].set_ylabel(title, fontsize=8)
    drawing.supxlabel("time in s" if medium.rate else "step", fontsize=9)
    drawing.supylabel(medium.unit, fontsize=9)
    return render(drawing)


def draw_spectra(medium: Signals, series: Mapping[str, Tensor]) -> "Image":
    """Mean and spread over time of "test" and "samples", and the mean spectra of all series."""
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

    drawing = Drawing(figsize=(11, 3.8), layout="constrained")
    left, right = drawing.subplots(1, 2)
    time = torch.arange(medium.length) / (medium.rate or 1)
    frequency = torch.fft.rfftfreq(medium.length, 1 / (medium.rate or 1))[1:]
    for name, x in series.items():
        if name in ("test", "samples"):
            mean, std = x[:, 0].mean(0), x[:, 0].std(0)
            left.plot(time, mean, label=name)
            left.fill_between(time, mean - 2 * std, mean + 2 * std, alpha=0.2)
        right.plot(frequency, spectrum(x), label=name, linewidth=1)
    left.set(
        xlabel="time in s" if medium.rate else "step", ylabel=medium.unit, title="mean and two standard deviations"
    )
    right.set(xlabel="frequency in Hz" if medium.rate else "cycles a step", ylabel="dB", title="mean power")
    for panel in (left, right):
        panel.legend(fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    return render(drawing)

"""What a person sees of a run: the progress bar, and TensorBoard."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch import nn

from zoo.model import GenerativeModel
from zoo.showcase import draw, samples_exhibit

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Log:
    """Progress bar and TensorBoard of one process; silent where `shown` is False.

    Arguments: `output`, where the log goes, None for the bar alone; `steps` of the run, and at which `step` it is.
    """

    def __init__(self, model: nn.Module, output: Path | None, steps: int, step: int, shown: bool):
        self.model, self.output, self.steps, self.step, self.shown = model, output, steps, step, shown
        self.writer: SummaryWriter | None = None
        self.losses: dict[str, str] = {}

    def __enter__(self) -> Self:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self.progress = Progress(*columns, TextColumn("{task.fields[loss]}"), disable=not self.shown)
        self.task = self.progress.add_task("", total=self.steps, completed=self.step, loss="")
        self.progress.start()
        if self.shown and self.output is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.output / "logs"), purge_step=self.step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def advance(self) -> None:
        """One step is done."""
        self.step += 1
        self.progress.update(self.task, completed=self.step)

    def scalars(self, scalars: dict[str, float]) -> None:
        """Show the newest losses, of training and of validation, and write the scalars."""
        for name, words in (("loss", "loss"), ("validation_loss", "validation")):
            if name in scalars:
                self.losses[words] = f"{words} {scalars[name]:.4g}"
        self.progress.update(self.task, loss=", ".join(self.losses.values()))
        if self.writer is not None:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, self.step)

    def say(self, sentence: str) -> None:
        """Tell the person a sentence, above the bar."""
        if self.shown:
            self.progress.console.print(sentence, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def picture(self) -> None:
        """Write a picture of samples with the present weights, if the model can be sampled."""
        if self.writer is None or not isinstance(self.model, GenerativeModel):
            return
        import numpy

        model = self.model.eval()
        [(samples, x)] = draw(model, [samples_exhibit(model)])
        image = model.modality.show(x, samples.columns)
        model.train()
        self.writer.add_image("samples", numpy.asarray(image.convert("RGB")), self.step, dataformats="HWC")

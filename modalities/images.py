"""Images: grey or colour pictures of one size, as tensors in [-1, 1]."""

import dataclasses
import functools
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from modalities import image_sets
from modalities.data import Arrays, Files, Items, Noise
from modalities.drawing import contact_sheet, save_picture
from modalities.modality import MediaError, Modality, check_file
from modalities.sources import is_named, main_suffix, split_source

if TYPE_CHECKING:
    from PIL.Image import Image


SIDE = 64
"""The longest side of pictures whose size is guessed."""
LARGEST = 2**29
"""The most bytes of a picture in an archive: 179 million pixels, of which Pillow reads no more, in three of them."""


@dataclasses.dataclass(frozen=True)
class Images(Modality):
    """Images of shape [channels, height, width] with values in [-1, 1]; channels are 1 (grey) or 3 (red, green, blue).

    `levels` is the number of values of a pixel, evenly spaced over [-1, 1]: 256, 32 (the upper five bits) or 2 (black,
    -1, and white, 1). Without a network, `dataset` knows "digits" and "photographs"; see there.
    """

    channels: int = 1
    height: int = 28
    width: int = 28
    levels: int = 256
    kind: ClassVar[str] = "images"
    suffix: ClassVar[str] = ".png"
    metrics: ClassVar[tuple[str, ...]] = ("SSIM",)
    task: ClassVar[str | None] = "unconditional-image-generation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels not in (1, 3):
            raise ValueError(f"channels of images are 1 (grey) or 3 (colour), got {self.channels!r}")
        if self.levels not in (2, 32, 256):
            raise ValueError(f"levels of images are 2, 32 or 256, got {self.levels!r}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"images are at least 1 x 1, got {self.height!r} x {self.width!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @classmethod
    def suiting(cls, source: str | Path, **fields: Any) -> Self | None:
        """Pictures of 256 levels: grey where all that are looked at are, and as high and as wide as they are, or, where
        they differ or are larger, with no side above 64."""
        if is_named(source, image_sets.NAMED):
            channels, height, width = image_sets.SHAPES[str(source)]
        else:
            path, selector = split_source(source, image_sets.NAMED)
            suffix = main_suffix(path)
            if path.suffix.lower() in (".npy", ".npz") and not path.is_dir():
                shape = image_sets.array_shape(path, selector)
            elif suffix in image_sets.SUFFIXES or (path / "images.zip").is_file():
                archive, listing = image_sets.listing(path, selector, None)
                shape = None if archive else _common_shape(listing.items)
                shape = shape or (3, SIDE, SIDE)
            else:
                found = image_sets.idx(path, "train") if path.is_dir() else None
                shape = None if found is None else (1, *found[0].shape[1:3])
            if shape is None:
                return None
            channels, height, width = shape
            scale = min(1.0, SIDE / max(height, width))
            height, width = max(1, round(scale * height)), max(1, round(scale * width))
        return cls(**{"channels": channels, "height": height, "width": width} | fields)

    def load(self, path: str | Path) -> Tensor:
        """Read a picture, a tensor of shape [channels, height, width].

        PNG, JPEG, WebP, GIF, BMP, TIFF and PPM (also PGM and PBM), by their content, whatever the suffix; of animations
        the first frame; bilevel, palette, 16-bit and CMYK ones too, upright by their EXIF tag. Transparent parts show
        white, colour profiles are not applied. Colour becomes grey by the luma of ITU-R BT.601, grey becomes colour by
        three equal channels. A picture of another size is cropped around its centre to the aspect ratio and resized
        with an antialiasing (Lanczos) filter.

        Raises `MediaError` that names the file and the reason if it is missing, empty, truncated, no picture, or so
        large that Pillow takes it for a decompression bomb (more than 179 million pixels).
        """
        return _values(self._fit(_read_picture(path, str(path))), self.levels)

    def read(self, file: str | Path | BinaryIO, name: str = "") -> Tensor:
        """Read a picture as an item of a data set: as `load`, but grey where it is still to be binarised.

        `file` is a path, or an open file whose `name` is for messages.
        """
        return _values(self._fit(_read_picture(file, name or str(file))), self._grey_levels)

    def _fit(self, picture: "Image") -> np.ndarray:
        from PIL import Image, ImageOps

        picture = _convert(picture, "L" if self.channels == 1 else "RGB")
        picture = ImageOps.fit(picture, (self.width, self.height), Image.Resampling.LANCZOS)
        return np.array(picture).reshape(self.height, self.width, self.channels).transpose(2, 0, 1)

    def save(self, x: Tensor, path: str | Path) -> None:
        """Write an image [channels, height, width] as a picture, or a batch as a contact sheet.

        The suffix of `path` picks the format: .png keeps every pixel, .jpg and .webp are lossy. A path without a suffix
        is a folder, which gets one numbered PNG file an image. Values beyond [-1, 1] are clamped.
        """
        path = Path(path)
        if self.save_apart(x, path):
            return
        if path.suffix.lower() not in image_sets.SUFFIXES:
            raise MediaError(f"{path}: images are written as {', '.join(image_sets.SUFFIXES)}, not {path.suffix}")
        save_picture(_picture(_tiles(self.check(x[None]))[0]) if x.ndim == 3 else self.show(x), path)

    def show(self, x: Tensor, columns: int | None = None) -> "Image":
        """A contact sheet of a batch [batch, channels, height, width], row by row; small images are enlarged."""
        return contact_sheet(_tiles(self.drawable(x)), columns)

    def dataset(
        self,
        source: str | Path,
        split: str = "train",
        labels: bool = False,
        *,
        classes: Sequence[str] | None = None,
        groups: str | None = None,
        flips: bool = False,
    ) -> Items:
        """A named set or the user's own pictures, as items of `shape`, or with `labels` as pairs with a class number.

        `source` is one of:
            "digits": scikit-learn's 8 x 8 digits, resized: 1,500 to train, 297 to test. Needs no network.
            "photographs": patches of this size from scikit-learn's two sample photographs. Needs no network.
            "mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100": downloaded once by torchvision.
            a folder with MNIST's four idx files (also compressed, also in torchvision's MNIST/raw).
            a folder with labels.csv, which has a column "file", maybe "split", and maybe "label", and with these files
                in images.zip; "folder:column" takes another column's values as labels, of loose files too.
            a .npy file of pictures, or an .npz file with arrays x and y, or x_train, y_train, x_test and y_test (see
                `modalities.arrays.read_items`; for the numbers' scale, `modalities.image_sets.to_bytes`).
            any folder of pictures, with its subfolders; a file's label is the name of its folder under the top, or
                under the folders of the splits, such as train/ and test/ (see `modalities.sources.SPLITS`).
        `split` is "train", "test" or "all", or "val" where there is one. Where a source does not say which item is
        which, every tenth is for tests, or with `groups` every tenth group. Classes count as the set numbers them, else
        in the order of their numbers or names, or of `classes` if given; `groups` is as in `Modality.dataset`.

        Idx and array files and named sets are held in memory; other files are listed now and read when they are asked
        for, and a broken one raises `MediaError` then. With 2 levels, items keep their grey values and the set's
        `randomise` draws every pixel anew at each visit, white with the probability of its grey value (Salakhutdinov
        and Murray, "On the Quantitative Analysis of Deep Belief Networks", 2008); with `flips`, it mirrors half of the
        items left to right, which is for training. Raises `MediaError` if there is no such set or folder, if the folder
        holds no picture, or if it has no labels where they are asked for.
        """
        steps = [step for step, wanted in ((flip, flips), (binarise, self.levels == 2)) if wanted]
        noise = functools.partial(_in_turn, steps) if steps else None
        found = None
        if is_named(source, image_sets.NAMED):
            found = image_sets.named(str(source), split, (self.height, self.width))
        else:
            path, selector = split_source(source, image_sets.NAMED)
            if path.suffix.lower() in (".npy", ".npz") and not path.is_dir():
                found = image_sets.read_arrays(path, selector, groups)
            elif selector is None:
                found = image_sets.idx(path, split)
        if found is None:
            archive, listing = image_sets.listing(path, selector, groups)
        else:
            pixels, listing = found
        if groups and not listing.groups:
            raise MediaError(f"{source} does not say which group an item belongs to")
        chosen, numbers, about = listing.choose(source, split, image_sets.EVERY, labels, classes)
        if found is None:
            read = self.read if archive is None else functools.partial(_read_packed, self, archive)
            return Files(read, [listing.items[i] for i in chosen], numbers, noise).describe(about)
        x = _values(self._fit_all(pixels[chosen]), self._grey_levels)
        return Arrays(x, None if numbers is None else torch.tensor(numbers), noise).describe(about)

    @property
    def _grey_levels(self) -> int:
        """The levels of a data set's items: those to be binarised at every visit keep their grey values."""
        return 256 if self.levels == 2 else self.levels

    def _fit_all(self, pixels: np.ndarray) -> np.ndarray:
        """Bytes [items, height, width(, 3)] of any size as bytes [items, *shape]."""
        if pixels.shape[1:] == (self.height, self.width) and self.channels == 1:
            return pixels[:, None]
        if pixels.shape[1:] == (self.height, self.width, self.channels):
            return pixels.transpose(0, 3, 1, 2)
        return np.stack([self._fit(_picture(item)) for item in pixels])


def _read_packed(images: Images, archive: Path, name: str) -> Tensor:
    """One item of a data set out of a zip file."""
    label = f"{archive}/{name}"
    try:
        packed = _open_archive(archive, os.getpid())
        if packed.getinfo(name).file_size > LARGEST:
            raise MediaError(f"{label} unpacks to {packed.getinfo(name).file_size} bytes, which no picture needs")
        content = packed.read(name)
    # Among them what an encrypted file, or one packed in an unknown way, raises.
    except (KeyError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise MediaError(f"{label} cannot be unpacked: {error}") from error
    return images.read(io.BytesIO(content), label)


@functools.lru_cache(maxsize=8)
def _open_archive(path: Path, process: int) -> zipfile.ZipFile:
    """An open zip file; one for every process, since forked workers would share the position in the file."""
    return zipfile.ZipFile(path)


def _common_shape(files: Sequence[str], looked_at: int = 16) -> tuple[int, int, int]:
    """The channels, height and width of some pictures evenly spaced over a list; a square as high as the smallest where
    they differ."""
    shapes, errors = [], []
    for name in files[:: -(-len(files) // looked_at)]:
        try:
            picture = _read_picture(name, name)
        except MediaError as error:
            errors.append(error)
            continue
        pixels = np.array(_convert(picture, "RGB"))
        shapes.append((3 if (pixels != pixels[..., :1]).any() else 1, *pixels.shape[:2]))
    if not shapes:
        raise errors[0]
    channels, smallest = max(c for c, _, _ in shapes), min(min(h, w) for _, h, w in shapes)
    alike = len({shape[1:] for shape in shapes}) == 1
    return (channels, *shapes[0][1:]) if alike else (channels, smallest, smallest)


def binarise(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pixels drawn as -1 or 1, 1 with probability (x + 1) / 2, for grey values x in [-1, 1] of any shape."""
    return torch.where(2 * _uniform(x.shape, x, generator) - 1 < x, 1.0, -1.0).to(x.dtype)


def flip(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Images [batch, channels, height, width], each mirrored left to right with probability 1/2."""
    mirrored = _uniform((len(x), 1, 1, 1), x, generator) < 0.5
    return torch.where(mirrored, x.flip(-1), x)


def _uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device).to(like.device)


def _in_turn(steps: Sequence[Noise], x: Tensor, generator: torch.Generator | None) -> Tensor:
    for step in steps:
        x = step(x, generator)
    return x


def _values(pixels: np.ndarray, levels: int) -> Tensor:
    """Bytes as floats in [-1, 1]: the upper bits where the levels are fewer than 256."""
    steps = torch.from_numpy(np.ascontiguousarray(pixels) // (256 // levels)).float()
    return steps.mul_(2).div_(levels - 1).sub_(1)


def _tiles(x: Tensor) -> np.ndarray:
    """A batch as bytes of shape [batch, height, width] or [batch, height, width, 3]."""
    pixels = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    return pixels[:, 0] if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1)


def _picture(pixels: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def _read_picture(file: str | Path | BinaryIO, name: str) -> "Image":
    """Decode any picture to 8 bits, upright, without transparency; its mode is what it was else."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(file, (str, Path)):
        check_file(file)
    try:
        with Image.open(file, formats=image_sets.FORMATS) as picture:
            clear = picture.info.get("transparency")
            if isinstance(clear, tuple) and any("16" in str(tile[3]) for tile in picture.tile):
                # Pillow reads the upper byte of 16-bit colours, and would compare it with both of this one.
                picture.info["transparency"] = tuple(value >> 8 for value in clear)
            return _to_8_bit(ImageOps.exif_transpose(picture), name)
    except UnidentifiedImageError as error:
        raise MediaError(f"{name} is no picture in a known format ({', '.join(image_sets.FORMATS)})") from error
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(f"{name} has more pixels than there is memory for") from error
    # What Pillow's decoders raise on broken files besides their own errors.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise MediaError(f"{name} cannot be read: {error}") from error


def _to_8_bit(picture: "Image", name: str) -> "Image":
    from PIL import Image

    if picture.mode.startswith("I;16"):
        # Pillow would clip the values at 255 instead of scaling them.
        deep = np.asarray(picture)
        grey = np.rint(deep / np.float32(257)).astype(np.uint8)
        clear = picture.info.get("transparency")
        return _picture(grey if clear is None else np.where(deep == clear, np.uint8(255), grey))
    if picture.mode in ("I", "F"):
        raise MediaError(f"{name} has 32-bit pixels of unknown range; save it with 8 or 16 bits a channel")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return _convert(picture, "RGB" if picture.mode != "L" else "L")


def _convert(picture: "Image", mode: str) -> "Image":
    return picture if picture.mode == mode else picture.convert(mode)  # which copies in any case

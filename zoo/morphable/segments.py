"""Segments of a model: which vertices they hold, and the smooth weights at their borders."""

from collections.abc import Mapping

import torch
from torch import Tensor

from modalities import MediaError
from modalities.meshes.geometry import heat_diffusion

REST = "surrounding"
"""The segment of the vertices that no region names."""
FACE: dict[str, tuple[list[int], float]] = {
    "eyes": ([*range(17, 27), *range(36, 48)], 16.0),
    "nose": ([*range(27, 36)], 14.0),
    "mouth": ([*range(48, 68)], 14.0),
}
"""Regions of a face: which of iBUG's 68 landmarks lie in each, and how far it goes from them, millimetres."""


def check_vertices(numbers: Tensor, vertices: int, name: str) -> Tensor:
    """Numbers of vertices, shape [n], int64, on the CPU; `MediaError` for others."""
    numbers = torch.as_tensor(numbers).detach().cpu()
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise MediaError(f"{name} are whole numbers of shape [n], got {numbers.dtype} {list(numbers.shape)}")
    wrong = (numbers < 0) | (numbers >= vertices)
    if wrong.any():
        raise MediaError(
            f"{name} are numbers of vertices, 0 to {vertices - 1}, got {numbers[wrong][:5].tolist()!s:.60}"
        )
    return numbers.long()


def vertex_mask(chosen: Tensor, vertices: int, name: str) -> Tensor:
    """Some of the vertices, as numbers or as a mask, as a mask [vertices]; at least one."""
    if chosen.dtype == torch.bool:
        if chosen.shape != (vertices,):
            raise MediaError(f"{name}: expected a mask of {vertices}, got {list(chosen.shape)}")
        mask = chosen.cpu()
    else:
        mask = torch.zeros(vertices, dtype=torch.bool)
        mask[check_vertices(chosen, vertices, name)] = True
    if not mask.any():
        raise MediaError(f"{name} has no vertex")
    return mask


def face_regions(mean: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
    """The vertices near the eyes, the nose and the mouth of a face, each in the nearest region only, as masks by name.

    The mean is of shape [vertices, 3], the landmarks are those of iBUG by their vertices, shape [68].
    """
    away = [torch.cdist(mean, mean[landmarks[marks]]).min(1).values / reach for marks, reach in FACE.values()]
    distance, nearest = torch.stack(away).min(0)
    return {name: (nearest == i) & (distance < 1) for i, name in enumerate(FACE)}


def segment_weights(regions: Mapping[str, Tensor], mean: Tensor, faces: Tensor, width: float) -> dict[str, Tensor]:
    """How far a vertex belongs to each region and to the rest, by name, shape [vertices] each, which sum to 1.

    Regions are masks; the mean [vertices, 3] and the triangles say how far it is from one vertex to another along the
    surface. Borders are a Gaussian of standard deviation `width`, millimetres.
    """
    if not width > 0:
        raise ValueError(f"width is a positive number of millimetres, got {width!r}")
    masks = {name: mask.to(mean.device) for name, mask in regions.items()}
    rest = ~torch.stack(list(masks.values())).any(0) if masks else mean.new_ones(len(mean), dtype=torch.bool)
    if rest.any():
        masks[REST] = masks.get(REST, torch.zeros_like(rest)) | rest
    inside = torch.stack(list(masks.values()), 1).double()
    weights = heat_diffusion(inside / inside.sum(1, keepdim=True), mean, faces, width)
    return dict(zip(masks, weights.to(mean).unbind(1), strict=True))

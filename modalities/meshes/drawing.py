"""Shaded pictures of meshes, off screen."""

import contextlib
from collections.abc import Iterator

import numpy as np

from modalities.meshes.geometry import shading_normals

SIDE = 60
"""Degrees by which the second view is turned: the face's left half towards the viewer."""

HEIGHT = 288
"""Pixels of a view, unless the meshes are wider than high: then of its width."""

CLAY = (0.88, 0.79, 0.72)

LIGHTS = (((-0.6, 0.7, 0.9), 0.82), ((0.9, 0.1, 0.5), 0.3), ((0.0, -0.6, 0.6), 0.15))
"""Directions towards the lights, as seen from the camera, and their strengths."""


def draw(vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray | None) -> np.ndarray:
    """Views from the front and the side next to each other, bytes of shape [meshes, height, width, 3].

    `vertices` are of shape [meshes, vertices, 3], `colours` of the same in [0, 1]. All meshes have one scale.
    """
    with contextlib.suppress(ImportError):
        # torch loads Triton with the first optimiser; loaded after the LLVM of Mesa, it crashes the process.
        import triton  # noqa: F401
    import pyvista

    turns = [_turn(0), _turn(SIDE)]
    seen = [vertices @ turn.T for turn in turns]
    low = np.min([view.min(axis=(0, 1)) for view in seen], axis=0)
    high = np.max([view.max(axis=(0, 1)) for view in seen], axis=0)
    extent = max((high - low)[:2].max(), 1e-6) * 1.05
    width, height = (max(16, round(HEIGHT * 1.05 * float(side) / extent)) for side in (high - low)[:2])
    # Twice the size, halved at the end, smooths the edges.
    with _quiet():
        plotter = pyvista.Plotter(off_screen=True, window_size=[2 * width, 2 * height], lighting="none")
        # The window opens at the first picture.
        plotter.render()
    try:
        plotter.background_color = pyvista.Color("white")
        surface = pyvista.PolyData.from_regular_faces(np.zeros_like(vertices[0]), faces)
        surface.point_data["normals"] = np.zeros_like(vertices[0])
        surface.point_data.active_normals_name = "normals"
        look = {"color": CLAY} if colours is None else {"scalars": "colours", "rgb": True}
        if colours is not None:
            surface.point_data["colours"] = np.zeros(vertices[0].shape, np.uint8)
        # Colours read from pictures have their shading in them, and need less of ours.
        ambient, diffuse = (0.12, 0.9) if colours is None else (0.4, 0.65)
        actor = plotter.add_mesh(surface, ambient=ambient, diffuse=diffuse, specular=0.08, **look)
        # Phong with our normals; `smooth_shading` would draw a copy that later points do not reach.
        actor.prop.interpolation = "Phong"
        for direction, strength in LIGHTS:
            plotter.add_light(pyvista.Light(position=direction, light_type="camera light", intensity=strength))
        plotter.camera.parallel_projection = True
        centre, half = (low + high) / 2, max(1e-3, float(np.linalg.norm(high - low)))
        plotter.camera.focal_point = centre
        plotter.camera.position = centre + [0, 0, 2 * half]
        plotter.camera.up = (0, 1, 0)
        plotter.camera.parallel_scale = height / HEIGHT * extent / 2
        plotter.camera.clipping_range = (half, 3 * half)
        tiles = []
        for i in range(len(vertices)):
            if colours is not None:
                surface.point_data["colours"] = np.rint(255 * colours[i]).astype(np.uint8)
            normals = shading_normals(vertices[i], faces)
            views = []
            for turn, view in zip(turns, seen, strict=True):
                surface.points = view[i]
                surface.point_data["normals"] = normals @ turn.T.astype(np.float32)
                surface.point_data.active_normals_name = "normals"
                plotter.render()
                picture = np.asarray(plotter.screenshot(return_img=True))
                views.append(picture.reshape(height, 2, width, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8))
            tiles.append(np.concatenate(views, axis=1))
    finally:
        plotter.close()
    return np.stack(tiles)


def _turn(degrees: float) -> np.ndarray:
    """The rotation about the y axis that moves the left of a face, +x, to the front."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without VTK's warning that there is no X server, which it can do without; errors still come through."""
    from vtkmodules.vtkCommonCore import vtkLogger

    before = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)
    try:
        yield
    finally:
        vtkLogger.SetStderrVerbosity(before)

"""Drawn faces with labels and landmarks, for tests."""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def draw_faces(folder: Path, n: int = 120) -> Path:
    """Faces of 16 x 16, every fifth for tests: a grey disk as bright as its label, a mouth as wide as it smiles."""
    generator = np.random.default_rng(0)
    points = np.zeros((n, 68, 2), np.float16)
    points[:, 36:42], points[:, 42:48] = (5, 6), (10, 6)
    points[:, 51], points[:, 57] = (8, 11), (8, 13)
    rows = []
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i in range(n):
            wide, bright = generator.uniform(2, 5), generator.uniform(90, 200)
            picture = np.full((16, 16, 3), bright, np.uint8)
            picture[6:8, 4:6] = picture[6:8, 9:11] = 20
            picture[11:13, round(8 - wide) : round(8 + wide)] = (220, 30, 30)
            points[i, 48], points[i, 54] = (8 - wide, 12), (8 + wide, 12)
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "png")
            archive.writestr(f"images/{i:05d}.png", content.getvalue())
            gender = "" if i == 7 else "Male" if i % 2 else "Female"
            age = ["0-2", "20-29", "more than 70"][i % 3]
            split = "val" if i % 5 == 4 else "train"
            rows.append({"file": f"{i:05d}.png", "split": split, "age": age, "gender": gender, "yaw_deg": i / 10})
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    np.save(folder / "landmarks68.npy", points)
    return folder

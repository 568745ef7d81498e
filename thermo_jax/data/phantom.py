"""Synthetic ("phantom") thermograms in DMR-IR's *site* layout, to run programs without real data.

This module writes files: JPEGs, diagnoses, COCO polygons. The bodies of version 1 are made by
`phantom_body`, those of version 2, which resemble patients and annotators more, by
`phantom_anatomy` and `phantom_scene`. Label, date, patient number, pose and marker are independent
of each other, unlike in DMR-IR.
"""

import datetime
import json
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
from PIL import Image

from thermo_jax.data import phantom_body, radiometry
from thermo_jax.data.annotations import COCO_CATEGORIES
from thermo_jax.data.thermogram import CLASS_NAMES, GRAY_SHAPE
from thermo_jax.data.workers import ordered_map
from thermo_jax.errors import UserError

MARKER = ".phantom.json"  # written last: a folder that contains it is a complete phantom
COCO_NAME = "52_instances_default.json"
VERSIONS = (1, 2)  # a change of the code that changes the pixels needs another one
_JPEG = {"quality": 95, "subsampling": 0}
_LIMITS = {"patients": (1, 9999), "frames": (1, 20), "seed": (0, 2**32 - 1)}
_LIMITS |= {"sick_fraction": (0, 1), "annotated_fraction": (0, 1)}


def _write_patient(root: pathlib.Path, number: int, *, sick: bool, annotated: bool, args: dict):
    """Writes a patient's folder; returns (image name, polygons), or None if not annotated."""
    seed = (args["seed"], number)
    rng = np.random.default_rng((*seed, 0))
    make = {1: _first_version, 2: _second_version}[args["version"]]
    polygons, expose = make(rng, seed=seed, sick=sick)
    date = datetime.date(2012, 10, 1) + datetime.timedelta(days=int(rng.integers(2600)))
    folder = root / f"{number:04d}"
    folder.mkdir()
    frames = [("D", i) for i in range(args["frames"])] + [("S", None)] * args["static"]
    for protocol, frame in frames:
        image = expose(frame)
        stem = f"T{number:04d}.1.1.{protocol}.{date}.{frame or 0:02d}"
        gray = np.repeat(radiometry.render_gray(image), 3, axis=-1)
        Image.fromarray(gray).save(folder / f"{stem}.jpg", **_JPEG)
        heat = radiometry.render_heat(image, colormap="jet")
        Image.fromarray(heat).save(folder / f"{stem}_snap.jpg", **_JPEG)
        if args["temperatures"]:
            np.savetxt(folder / f"{stem}.txt", image, fmt="%.2f")
    diagnosis = "Sick" if sick else "Healthy"
    page = f"<html><body><p>Diagnosis*: <span>{diagnosis}<br></span></p></body></html>\n"
    (folder / "description.html").write_text(page)
    return (f"T{number:04d}.1.1.D.{date}.00.jpg", polygons) if annotated else None


# A patient's polygons by class name, and a function: the frame's number (None for the static image)
# -> the image's temperatures in degrees C.
Exposures = tuple[dict[str, np.ndarray], Callable[[int | None], np.ndarray]]


def _first_version(rng: np.random.Generator, *, seed: tuple[int, int], sick: bool) -> Exposures:
    """A patient of `phantom_body`."""
    body = phantom_body.draw_body(rng)
    rested, response = phantom_body.temperature_fields(body, seed=seed, sick=sick)

    def expose(frame: int | None) -> np.ndarray:
        return phantom_body.expose(rested, response, seed=seed, frame=frame)

    return body.polygons(), expose


def _second_version(rng: np.random.Generator, *, seed: tuple[int, int], sick: bool) -> Exposures:
    """A patient of `phantom_anatomy`. Sick is a warm spot in one breast; the healthy have none."""
    import jax  # here, because nothing else in data/ needs JAX

    from thermo_jax.data import phantom_anatomy, phantom_scene

    body_key, scene_key = jax.random.split(jax.random.key(int(rng.integers(2**32))))
    body = phantom_anatomy.draw_body(body_key)
    sides = (0, 0)
    if sick:
        sides = (1, 0) if rng.random() < 0.5 else (0, 1)
    body |= {"lesion": np.float32(sides), "lesion_warm": np.float32(rng.uniform(2, 3))}
    rested, skin = map(np.asarray, phantom_scene.render(body, scene_key))

    def expose(frame: int | None) -> np.ndarray:
        noise = np.random.default_rng((*seed, 3, 99 if frame is None else frame))
        cooling = 0.0 if frame is None else 0.9 * np.exp(-frame / 9)
        image = rested - cooling * skin
        image = image + float(body["noise"]) * noise.standard_normal(GRAY_SHAPE, np.float32)
        return np.round(image, 2).astype(np.float32)

    return phantom_anatomy.polygons(body), expose


def _coco(drawn: list[tuple[str, dict[str, np.ndarray]]]) -> dict:
    """The content of the annotation file. The id of a category is class index + 1, as in DMR-IR."""
    images, annotations = [], []
    for image_id, (file_name, polygons) in enumerate(drawn, start=1):
        size = {"width": GRAY_SHAPE[1], "height": GRAY_SHAPE[0]}
        images.append({"id": image_id, **size, "file_name": file_name})
        for name, vertices in polygons.items():
            ring = np.round(vertices, 2)
            x, y = ring.T
            low, high = ring.min(0), ring.max(0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CLASS_NAMES.index(name) + 1,
                    "segmentation": [ring.ravel().tolist()],
                    "area": round(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2, 1),
                    "bbox": [round(value, 2) for value in (*low, *(high - low))],
                    "iscrowd": 0,
                }
            )
    return {"categories": COCO_CATEGORIES, "images": images, "annotations": annotations}


def _contains_phantom(root: pathlib.Path, args: dict) -> bool:
    """Whether `root` already contains this phantom; raises UserError for other content."""
    remedy = "choose another folder, or delete this one"
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file where a phantom data set should go: {remedy}")
    if not root.exists() or not any(root.iterdir()):
        return False
    try:
        existing = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        existing = None
    if not isinstance(existing, dict):
        raise UserError(f"{root} is not empty and contains no complete phantom data set: {remedy}")
    if existing != args:
        differing = sorted(k for k in args.keys() | existing if args.get(k) != existing.get(k))
        change = ", ".join(f"{k}={existing.get(k)} there, {args.get(k)} wanted" for k in differing)
        raise UserError(f"{root} contains another phantom data set ({change}): {remedy}")
    return True


def choose_patients(patients: int, *, fraction: float, seed: int, stream: int) -> set[int]:
    """A random `fraction` of the numbers 1 to `patients`; every `stream` chooses independently."""
    order = np.random.default_rng((seed, 0, stream)).permutation(patients) + 1
    return set(order[: round(patients * fraction)].tolist())


def _write_all(root: pathlib.Path, args: dict) -> None:
    count, seed = args["patients"], args["seed"]
    sick = choose_patients(count, fraction=args["sick_fraction"], seed=seed, stream=0)
    annotated = choose_patients(count, fraction=args["annotated_fraction"], seed=seed, stream=1)

    def write(number: int):
        return _write_patient(
            root, number, sick=number in sick, annotated=number in annotated, args=args
        )

    images = ordered_map(write, range(1, count + 1), description="writing phantom")
    (root / COCO_NAME).write_text(json.dumps(_coco(list(filter(None, images)))))
    (root / MARKER).write_text(json.dumps(args, indent=1) + "\n")


def write_phantom(
    root,
    *,
    version: int = 1,
    patients: int = 24,
    seed: int = 0,
    sick_fraction: float = 0.5,
    annotated_fraction: float = 1.0,
    frames: int = 1,
    static: bool = False,
    temperatures: bool = False,
) -> pathlib.Path:
    """Writes a synthetic data set in the *site* layout and returns its folder.

    Every patient has one visit, frontal view: `frames` dynamic images (1..20), in which the cooled
    skin slowly becomes warmer, and, with `static`, an image without cooling. They are written as
    480x640 gray and 120x160 `jet` JPEGs, with `temperatures` also as text (degrees C). Polygons
    belong to the first dynamic image. `version` is one of VERSIONS.

    The same arguments give byte-identical files (version 2: on one machine); a patient's body
    depends only on `version`, `seed` and the patient's number. The folder is complete or absent. A
    folder that already contains this phantom is not changed.

    Raises:
      UserError: an argument is out of range, or the folder contains anything else.
    """
    root = pathlib.Path(root)
    args = {
        "format": "thermo_jax phantom",
        "version": int(version),
        "patients": int(patients),
        "seed": int(seed),
        "sick_fraction": float(sick_fraction),
        "annotated_fraction": float(annotated_fraction),
        "frames": int(frames),
        "static": bool(static),
        "temperatures": bool(temperatures),
    }
    if version not in VERSIONS:
        raise UserError(f"phantom: version={version} must be one of {VERSIONS}")
    for name, (low, high) in _LIMITS.items():
        if not low <= args[name] <= high:
            raise UserError(f"phantom: {name}={args[name]} must be between {low} and {high}")
    if _contains_phantom(root, args):
        return root
    target = root.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as staging:
        staged = pathlib.Path(staging) / target.name
        staged.mkdir()
        _write_all(staged, args)
        try:
            staged.rename(target)
        except OSError:  # another process may have written the same phantom
            if not _contains_phantom(root, args):
                raise
    return root

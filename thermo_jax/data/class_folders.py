"""Class folders: folders whose name is a diagnosis (`healthy`, `Câncer`, `non_cancer`, ...).

The table of their names is here, and only here. Case, accents, separators, plurals and words such
as "patients" make no difference: `Normal Cases` is `normal`.
"""

import functools
import pathlib
import re
import unicodedata
from collections.abc import Sequence

from thermo_jax.data.file_listing import THERMOGRAM_TABLE, FileListing
from thermo_jax.data.thermogram import HEALTHY, SICK
from thermo_jax.errors import UserError

# Names without separators, accents and plural. English, Portuguese and Spanish.
_HEALTHY = (
    *("healthy", "normal", "control", "controle", "saudavel", "sano", "sana", "sadio", "sadia"),
    *("benign", "benigno", "benigna", "negative", "negativo", "negativa"),
    *("noncancer", "nocancer", "notcancer", "withoutcancer", "semcancer", "sincancer"),
    *("noncancerous", "nonmalignant", "nodisease", "diseasefree", "cancerfree"),
    *("healthycontrol", "normalcontrol", "notsick", "naodoente", "benigntumor", "benigntumour"),
)
_SICK = (
    *("sick", "ill", "unhealthy", "notnormal", "abnormal", "anormal", "diseased", "disease"),
    *("doente", "enfermo", "enferma", "malignant", "malign", "maligno", "maligna", "malignancy"),
    *("cancer", "cancerous", "withcancer", "comcancer", "concancer", "carcinoma"),
    *("positive", "positivo", "positiva", "pathological", "patologico", "patologica"),
    *("naosaudavel", "malignanttumor", "malignanttumour"),
)
CLASS_FOLDERS = {
    **dict.fromkeys(_HEALTHY, HEALTHY),
    **dict.fromkeys(_SICK, SICK),
}
# Words that may stand beside the diagnosis, without plural.
_FILLERS = frozenset(
    (
        *("patient", "paciente", "case", "caso", "class", "classe", "clase", "group", "grupo"),
        *("subject", "people", "person", "woman", "women", "volunteer", "image", "imagen"),
        *("imagem", "thermogram", "termograma", "breast", "mama", "de", "the", "of", "do", "da"),
    )
)
_WORD = re.compile(r"[a-z0-9]+")


def plain(name: str) -> str:
    """A name in lower case and without accents, for comparisons."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def singulars(word: str) -> tuple[str, ...]:
    """A word, and what it may be the plural of (English, Portuguese, Spanish)."""
    endings = {"s": "", "es": "", "ais": "al", "eis": "el"}
    stems = [word.removesuffix(e) + stem for e, stem in endings.items() if word.endswith(e)]
    return (word, *stems)


@functools.lru_cache(maxsize=65536)
def class_word(name: str) -> str | None:
    """The class in the name of a folder, as it stands in `CLASS_FOLDERS`; None if it is none."""
    if len(name) > 80:
        return None
    words = _WORD.findall(plain(name))
    if len(words) > 1 and words[0].isdigit():  # 0_healthy, 1_sick
        words = words[1:]
    kept = [word for word in words if _FILLERS.isdisjoint(singulars(word))]
    # All words that remain count: "no cancer" must not be read as "cancer".
    return next((word for word in singulars("".join(kept)) if word in CLASS_FOLDERS), None)


def label_of_class(name: str) -> int | None:
    """The label (HEALTHY or SICK) that a name such as "Normal cases" stands for, or None."""
    word = class_word(name)
    return None if word is None else CLASS_FOLDERS[word]


def label_of_folder(folder: pathlib.PurePosixPath) -> int | None:
    """Returns the label of the innermost class folder of a path; None if it has none."""
    below = below_class_folder(folder)
    above = folder.parts[: len(folder.parts) - len(below)]
    return label_of_class(above[-1]) if above else None


def below_class_folder(folder: pathlib.PurePosixPath) -> tuple[str, ...]:
    """Returns the parts of a path below its innermost class folder; all parts if it has none."""
    for depth in range(len(folder.parts), 0, -1):
        if class_word(folder.parts[depth - 1]) is not None:
            return folder.parts[depth:]
    return folder.parts


def unknown_siblings(files: FileListing) -> list[str]:
    """Folders with thermograms that stand beside a class folder, but are none themselves.

    Their thermograms might be a third class, or healthy or sick under a name that is not in the
    table. Returns paths relative to the root, sorted.
    """
    folders: set[pathlib.PurePosixPath] = set()
    for path in files.pixels:
        folder = pathlib.PurePosixPath(files.relative(path)).parent
        while folder.parts and folder not in folders:
            folders.add(folder)
            folder = folder.parent
    parents = {folder.parent for folder in folders if class_word(folder.name) is not None}
    unknown = [f for f in folders if f.parent in parents and class_word(f.name) is None]
    return sorted(map(str, unknown))


def check_siblings(files: FileListing) -> None:
    """Stops at folders beside class folders whose diagnosis is not known.

    A set with a `thermograms.csv` is not checked, since the table says which files are used.

    Raises:
      UserError: there are such folders; the message lists them.
    """
    if files.thermogram_table is None and (unknown := unknown_siblings(files)):
        raise UserError(
            f"{files.root}: {_listed(unknown)} beside class folders, but no known name of a class: "
            "rename what is healthy or sick to 'healthy' or 'sick', move the rest elsewhere, or "
            f"list files and labels in {THERMOGRAM_TABLE} (the data report proposes one)"
        )


def _listed(folders: Sequence[str], *, most: int = 20) -> str:
    names = ", ".join(repr(folder) for folder in folders[:most])
    more = f" and {len(folders) - most} more" if len(folders) > most else ""
    plural = "folders" if len(folders) > 1 else "folder"
    return f"{plural} {names}{more} {'are' if len(folders) > 1 else 'is'}"

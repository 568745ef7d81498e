"""Reads what the name of a file or folder says: the patient, date, view, visit and so on.

This is for the names that people and cameras give (`sub-02`, `PAC_4_DN0`, `2019-05-03_P12`);
`thermogram.parse_name` reads DMR-IR's own file names. Words may be English, Portuguese or Spanish.
"""

import dataclasses
import functools
import re
from collections.abc import Set

from thermo_jax.data.class_folders import class_word, plain, singulars
from thermo_jax.data.name_dates import without_dates

LONGEST = 200  # characters of a name that are read


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# With a number after it, such a word is certainly a patient. T is DMR-IR's own prefix.
PATIENT_WORDS = _words(
    "p pt pat pac patient paciente sub subj subject sujet sujeito sujeto participant participante "
    "volunteer voluntario voluntaria case caso id pid mrn prontuario person persona pessoa woman "
    "mulher mujer t"
)
_NUMBER_WORDS = _words("no nr num number numero nro n id code codigo")
_VISIT_WORDS = _words(
    "ses sess session sessao sesion visit visita exam exame examen consulta followup"
)
_FRAME_WORDS = _words("frame quadro cuadro")
# With a number after it, such a word is no patient: cameras, contents, sets of data, times, and
# small words.
_NOBODY = _words(
    "ir flir dji img imgp image imagem imagen imag pic pict picture dsc dscn dscf pxl mvimg cimg "
    "sam gopr wa testo fluke seek optris hikmicro hik infiray topdon uti vid video mov rec camera "
    "cam device sensor photo foto fotografia snap snapshot screenshot capture captura shot scan "
    "scanner jpg jpeg png tif tiff bmp webp gif csv txt asc npy npz raw thermo therm termo thermal "
    "termal termica termico thermogram termograma thermography termografia infrared infravermelho "
    "infrarrojo heat heatmap gray grey color colour jet iron rainbow temperature temperatura temp "
    "matrix matriz mask label breast mama seio chest torax roi crop cropped aug augmented flip "
    "flipped rot rotated mirror mirrored resized original processed slice layer channel page file "
    "arquivo archivo fichero untitled new novo nuevo old final copy copia copie age idade edad "
    "float int uint stack celsius fahrenheit kelvin centikelvin "
    "size cm mm grade birads view vista angle position posicao posicion pose pos l r "
    "result output export exported test teste prueba train training treino val valid validation "
    "validacao eval dev data dataset dados datos set subset example exemplo ejemplo demo fold "
    "group grupo study estudo estudio cohort batch lote block series serie seq sequence sequencia "
    "secuencia run rep repeat trial part parte version ver hospital clinic clinica center centre "
    "centro site room sala lab laboratorio project projeto proyecto day dia week semana month mes "
    "year ano hour hora minute minuto min sec second segundo time tempo tiempo date fecha phase "
    "fase stage step level nivel no nr num number numero nro of de da do del and with com con the "
    "to at in on by"
)
_GLUED = re.compile("(?:" + "|".join(sorted(w for w in _NOBODY if len(w) > 2 or w == "ir")) + ")+")

_VIEW_WORDS = {
    "front": _words("frontals frontal frontale front frente fron anterior"),
    "right": _words("right direita direito derecha derecho droite dir der"),
    "left": _words("left esquerda esquerdo izquierda izquierdo gauche esq izq"),
    "45": _words("oblique obliqua obliquo oblicua oblicuo obliq obl"),
    "90": _words("lateral lat side profile perfil"),
    "back": _words("back posterior dorsal costas espalda"),
}
_KIND_OF_WORD = {word: kind for kind, words in _VIEW_WORDS.items() for word in words}
_ANY_VIEW = "|".join(sorted(_KIND_OF_WORD, key=len, reverse=True))  # the longest first
_VIEW_WORD, _VIEW_TOKEN = re.compile(_ANY_VIEW), re.compile(f"(?:{_ANY_VIEW})+")
_ANGLE_WORDS = _VIEW_WORDS["45"] | _VIEW_WORDS["90"] | {"45", "90"}
_SIDE_LETTERS = {"r": "right", "d": "right", "l": "left", "e": "left"}  # beside 45 and 90 only
_LAST_LETTERS = {"r": "right", "l": "left", "f": "front"}  # at the end: P12L, P12_L
_VIEWS = {("right", "45"): 2, ("right", "90"): 3, ("left", "45"): 4, ("left", "90"): 5}

_PROTOCOLS = {
    **dict.fromkeys(("static", "estatico", "estatica", "statique"), "S"),
    **dict.fromkeys(("dynamic", "dinamico", "dinamica", "dynamique"), "D"),
}

_HASH = re.compile(
    r"(?<![a-z0-9])(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
    r"|(?=[a-f]*[0-9])(?=[0-9]*[a-f])(?![a-f][0-9]+(?![a-z0-9]))[0-9a-f]{8,})(?![a-z0-9])"
)
# DJI_H20T and FLIR E40 are cameras, not patients.
_MODEL = re.compile(
    r"(?<![a-z0-9])(?:flir|dji|testo|fluke|seek|hikmicro|optris|infiray|topdon)[ .-]{0,2}"
    r"(?!(?:p|pt|pat|pac|sub|id)[0-9])[a-z]{0,3}[0-9]{1,4}[a-z]{0,3}(?![a-z0-9])"
)
_CAMEL = re.compile(r"(?<=[a-z][a-z])(?=[A-Z][a-z]{2})|(?<=[0-9])(?=[A-Z][a-z]{2})")
_NEGATED = re.compile(r"(?<![a-z])(non?|not|without|sem|sin)[ -]+(?=cancer|malig|disease|normal)")
_PATIENT = "|".join(sorted(PATIENT_WORDS, key=len, reverse=True))
_NUMBERED = re.compile(
    rf"(?<![a-z0-9])({_PATIENT})[ .-]*(?:{'|'.join(_NUMBER_WORDS)})[ .#:-]*(?=[0-9])"
)
_PATIENT_AND_VISIT = re.compile(
    rf"(?<![a-z0-9])((?:{_PATIENT})[0-9]+)(?=(?:v|{'|'.join(_VISIT_WORDS)})[0-9]+(?![a-z0-9]))"
)
_WORD_AND_NUMBER = re.compile(
    r"(?<![a-z0-9])(?P<word>[a-z]{1,24})[ .#:=()\[\]-]{0,3}(?P<number>[0-9]{1,12})"
    r"(?P<side>[a-z]{0,2})(?![a-z0-9])"
)
_TOKEN = re.compile(r"[a-z]+|[0-9]+")


@dataclasses.dataclass(frozen=True)
class Person:
    """A prefix and a number in a name; a prefix "" stands for a number alone."""

    prefix: str  # lower case, without accents
    number: int
    sure: bool = False  # the prefix is a word for a patient, or the number has four digits (0007)

    @property
    def patient(self) -> str:
        """The patient's name in the data set: "sub-2", or "0007" for a number alone."""
        if self.prefix in ("", "t"):  # as in DMR-IR: T0007 is patient 0007
            return f"{self.number:04d}"
        return f"{self.prefix}-{self.number}"


@dataclasses.dataclass(frozen=True)
class NameParts:
    """What one name says; "", 0 and -1 stand for what it does not say."""

    people: tuple[Person, ...] = ()  # each prefix with a number, in order
    alone: Person | None = None  # the number of a name that says nothing else but dates and views
    date: str = ""  # ISO; only the year, or year and month, if it does not say more
    visit: int = 0
    frame: int = -1
    protocol: str = ""
    view_words: frozenset[str] = frozenset()  # "front", "right", "left", "45", "90", "back"


def view_of_words(words: Set[str]) -> int:
    """The view (a key of `VIEW_NAMES`) that these words name together; 0 if it is not clear."""
    sides, angles = words & {"right", "left"}, words & {"45", "90"}
    if len(sides) == 1 and len(angles) == 1:
        return _VIEWS[(*sides, *angles)]
    return 1 if "front" in words and not angles else 0


@functools.lru_cache(maxsize=65536)
def read_parts(name: str) -> NameParts:
    """Reads the name of a folder, or of a file without its suffix. Never raises."""
    text = plain(_CAMEL.sub(" ", name[:LONGEST]).replace("_", " "))
    text = _NEGATED.sub(r"\1", text)
    date, text = without_dates(_MODEL.sub("|", _HASH.sub("|", text)))
    text = _PATIENT_AND_VISIT.sub(r"\1 ", _NUMBERED.sub(r"\1 ", text))
    people, visit, frame, letters = [], 0, -1, ""

    def keep_or_remove(match: re.Match) -> str:
        nonlocal visit, frame, letters
        word, number = match["word"], int(match["number"])
        kinds = set(singulars(word))
        if kinds & _VISIT_WORDS:
            visit = visit or (number if number < 10_000 else 0)
        elif kinds & _FRAME_WORDS:
            frame = number if frame < 0 and number < 1_000_000 else frame
        elif _is_prefix(word, match):
            people.append(Person(class_word(word) or word, number, bool(kinds & PATIENT_WORDS)))
            letters += match["side"]
        else:
            return match[0]
        return "/"

    text = _WORD_AND_NUMBER.sub(keep_or_remove, text)
    tokens = _TOKEN.findall(text)
    if tokens and tokens[-1] in _LAST_LETTERS:
        letters += tokens.pop()
    words = _view_words(tokens) | {_LAST_LETTERS[c] for c in letters if c in _LAST_LETTERS}
    alone = _only_number(tokens, is_view=bool(words & {"right", "left"}))
    if people or visit or frame >= 0:
        # 0007_V1 is visit 1 of patient 7, but P12_7 and ses-1_7 do not begin with their patient.
        begins = text.lstrip(" |-.")[:1].isdigit()
        if alone and begins and all(person.prefix == "v" for person in people):
            visit, people = visit or next((person.number for person in people), 0), []
        else:
            alone = None
    protocols = [_PROTOCOLS[token] for token in tokens if token in _PROTOCOLS]
    return NameParts(
        people=tuple(people),
        alone=alone,
        date=date,
        visit=visit,
        frame=frame,
        protocol=next(iter(protocols), ""),
        view_words=words,
    )


def _is_prefix(word: str, match: re.Match) -> bool:
    """Whether a word and the number after it may be a patient."""
    if word == "t":  # T5 and "T0005 copy" are a patient of DMR-IR; "front t5" is a time
        whole = match[0] == match.string
        return whole or (match.start() == 0 and len(match["number"]) == 4)
    if match["number"] in ("45", "90") and word in _SIDE_LETTERS:
        return False
    if len(match["number"]) == 4 and 1900 <= int(match["number"]) <= 2099:
        # A year; but P2019 may be patient 2019.
        return word in PATIENT_WORDS and match[0].startswith(word + match["number"])
    if class_word(word):
        return True
    generic = not _NOBODY.isdisjoint(singulars(word)) or _GLUED.fullmatch(word)
    return not (generic or _VIEW_TOKEN.fullmatch(word) or word in _PROTOCOLS)


def _only_number(tokens: list[str], *, is_view: bool) -> Person | None:
    """The number of a name that says nothing else, apart from views."""
    numbers = [t for t in tokens if t.isdigit() and not (is_view and t in ("45", "90"))]
    others = {t for t in tokens if not (t.isdigit() or _VIEW_TOKEN.fullmatch(t))}
    if len(numbers) != 1 or len(numbers[0]) > 12 or not others <= _NUMBER_WORDS:
        return None
    return Person("", int(numbers[0]), sure=len(numbers[0]) >= 4)


def _view_words(tokens: list[str]) -> frozenset[str]:
    """The words of views among the tokens; 45 and 90 count beside a side only."""
    words: set[str] = set()
    for place, token in enumerate(tokens):
        if _VIEW_TOKEN.fullmatch(token):
            words.update(_KIND_OF_WORD[word] for word in _VIEW_WORD.findall(token))
        elif token in _SIDE_LETTERS:
            beside = tokens[max(place - 1, 0) : place] + tokens[place + 1 : place + 2]
            if not _ANGLE_WORDS.isdisjoint(beside):
                words.add(_SIDE_LETTERS[token])
    if words & {"right", "left"}:
        words.update({"45", "90"} & set(tokens))
    return frozenset(words)

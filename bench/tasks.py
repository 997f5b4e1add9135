"""What the real models are for: inputs, calibration samples, and how good answers are.

A task knows nothing of who runs its model: `answers` is given a function from inputs to the list of
outputs. Inputs are real, or rendered here; the same in every run. What a task needs and does not find
is said by `Missing`.
"""

import io
import itertools
import json
import os
import pydoc_data.topics
import re
import subprocess
import sysconfig
import wave
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Feeds = dict[str, Array]
Run = Callable[[Mapping[str, Array]], list[Array]]
Scores = dict[str, float]

CALIBRATION_IMAGES = 300


class Missing(Exception):
    """A file or a program that a task needs is not there."""


def find(folders: list[Path], name: str) -> Path:
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise Missing(f"{name} is in none of {', '.join(map(str, folders)) or 'no folders'}")


def percent(right: Array) -> float:
    return 100 * float(np.mean(right))


def sentences(least: int, most: int) -> list[str]:
    """Return prose in an order of chance: what Python's documentation says of its topics."""
    found = []
    for text in pydoc_data.topics.topics.values():
        for each in re.split(r"(?<=[.!?])\s+", text):
            line = re.sub(r"\s+", " ", each).strip()
            if least <= len(line) <= most and line.isascii() and "**" not in line:
                found.append(line)
    found = sorted(set(found))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def in_batches(feeds: Feeds, size: int) -> Iterator[Feeds]:
    for i in range(0, len(next(iter(feeds.values()))), size):
        yield {name: array[i : i + size] for name, array in feeds.items()}


def split(feeds: Feeds, count: int) -> tuple[Feeds, Feeds]:
    first, rest = (
        {k: x[part] for k, x in feeds.items()} for part in (np.s_[:count], np.s_[count:])
    )
    return first, rest


class Task(ABC):
    """A model and what it is for."""

    name: str
    size = 16  # of a batch
    known: Feeds  # what calibration is given
    asked: Feeds

    def __init__(self, folders: list[Path]) -> None:
        self.path = find(folders, f"{self.name}.onnx")

    def calibration(self, _run: Run) -> list[Feeds]:
        """Return batches of the samples that are not asked about; `_run` is the float32 model."""
        return list(in_batches(self.known, self.size))

    def outputs(self, run: Run) -> Array:
        """Return the first output for all that is asked."""
        return np.concatenate([run(feeds)[0] for feeds in in_batches(self.asked, self.size)])

    @abstractmethod
    def answers(self, run: Run) -> Any:
        """Return what the model says of the samples that are asked about."""

    @abstractmethod
    def score(self, answers: Any, wanted: Any) -> Scores:
        """Return how good answers are; `wanted` are those of the float32 model."""


class Images(Task):
    """CIFAR-10: the class of 10,000 test images; calibrated with the first 300 training images."""

    size = 50
    mean = np.array([125.3, 123.0, 113.9], np.float32)
    deviation = np.array([63.0, 62.1, 66.7], np.float32)

    def __init__(self, folders: list[Path], limit: int) -> None:
        super().__init__(folders)
        known, _ = self._load(find(folders, "cifar10_train_jpeg.npz"), CALIBRATION_IMAGES)
        asked, self.truth = self._load(find(folders, "cifar10_test_jpeg.npz"), limit or 10_000)
        self.known, self.asked = {"x": known}, {"x": asked}

    def _load(self, path: Path, limit: int) -> tuple[Array, Array]:
        from PIL import Image

        with np.load(path) as archive:
            jpeg, offsets, labels = archive["jpeg"], archive["offsets"], archive["labels"]
        ends = itertools.pairwise(offsets[: limit + 1])
        images = [np.asarray(Image.open(io.BytesIO(jpeg[a:b].tobytes()))) for a, b in ends]
        x = (np.stack(images).astype(np.float32) - self.mean) / self.deviation
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), labels[:limit]

    def answers(self, run: Run) -> Array:
        return self.outputs(run).argmax(1)

    def score(self, answers: Array, wanted: Array) -> Scores:
        return {
            "top-1, %": percent(answers == self.truth),
            "same class, %": percent(answers == wanted),
        }


class Resnet20(Images):
    name = "resnet20"


class Mobilenet(Images):
    name = "mobilenet"


class Vit(Images):
    name = "vit"


class Sentences(Task):
    """MiniLM: the passage that is nearest to a query, among 300."""

    name = "minilm"
    passages, tokens = 300, 64

    def __init__(self, folders: list[Path], limit: int) -> None:
        super().__init__(folders)
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise Missing("tokenizers is not installed") from error

        tokenizer = Tokenizer.from_file(str(find(folders, "minilm_tokenizer.json")))
        tokenizer.enable_truncation(self.tokens)
        tokenizer.enable_padding(length=self.tokens)
        count = 128 + self.passages + (limit or 256)
        coded = tokenizer.encode_batch(sentences(40, 300)[:count])
        feeds = {
            "input_ids": np.array([each.ids for each in coded]),
            "attention_mask": np.array([each.attention_mask for each in coded]),
        }
        self.known, self.asked = split(feeds, 128)

    def answers(self, run: Run) -> Array:
        mask = self.asked["attention_mask"][..., None]
        mean: Array = (self.outputs(run) * mask).sum(1) / mask.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def score(self, answers: Array, wanted: Array) -> Scores:
        cosine = (answers * wanted).sum(1)

        def nearest(e: Array) -> Array:
            found: Array = (e[self.passages :] @ e[: self.passages].T).argmax(1)
            return found

        return {
            "cosine, mean": float(cosine.mean()),
            "cosine, least": float(cosine.min()),
            "same passage": float(np.mean(nearest(answers) == nearest(wanted))),
        }


# The type that Magika should find for a file of each suffix.
SUFFIXES = {
    ".py": "python", ".so": "elf", ".pyc": "pythonbytecode", ".json": "json", ".md": "markdown",
    ".html": "html", ".xml": "xml", ".svg": "svg", ".png": "png", ".gif": "gif", ".gz": "gzip",
    ".ttf": "ttf", ".css": "css", ".js": "javascript", ".pl": "perl", ".c": "c", ".rst": "rst",
    ".tex": "latex", ".csv": "csv", ".ini": "ini", ".sh": "shell", ".jpg": "jpeg",
    ".wav": "wav", ".tcl": "tcl", ".zip": "zip", ".npy": "npy", ".npz": "npz",
}  # fmt: skip


class Files(Task):
    """Magika: the types of files on disk."""

    name = "magika"
    half, block, padding = 1024, 4096, 256

    def __init__(self, folders: list[Path], limit: int) -> None:
        super().__init__(folders)
        config = json.loads(find(folders, "magika.json").read_text())
        self.types: list[str] = config["target_labels_space"]
        found = [path for path in self._files() if path.stat().st_size >= 64]
        chance = np.random.default_rng(0).permutation(len(found))
        paths = [found[i] for i in chance][: 128 + (limit or 600)]
        x = np.stack([self._bytes(path) for path in paths])
        self.known, self.asked = split({"bytes": x}, 128)
        self.truth = [SUFFIXES[path.suffix] for path in paths[128:]]

    def _files(self) -> list[Path]:
        """Return some files of each suffix."""
        roots = [sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], "/usr/share"]
        counts = dict.fromkeys(SUFFIXES, 0)
        files = []
        for root in roots:
            for folder, folders, names in os.walk(root):
                folders.sort()
                for name in sorted(names):
                    path = Path(folder, name)
                    if counts.get(path.suffix, 100) < 100 and path.is_file():
                        counts[path.suffix] += 1
                        files.append(path)
        return files

    def _bytes(self, path: Path) -> Array:
        with path.open("rb") as file:
            first = file.read(self.block).lstrip()[: self.half]
            file.seek(max(0, path.stat().st_size - self.block))
            last = file.read().rstrip()[-self.half :]
        x = np.full(2 * self.half, self.padding, np.int32)
        x[: len(first)] = list(first)
        x[2 * self.half - len(last) :] = list(last)
        return x

    def answers(self, run: Run) -> Array:
        return self.outputs(run).argmax(1)

    def score(self, answers: Array, wanted: Array) -> Scores:
        told = np.array([self.types[i] for i in answers])
        return {
            "as the suffix says, %": percent(told == np.array(self.truth)),
            "same type, %": percent(answers == wanted),
        }


def fonts() -> list[Path]:
    found = sorted(Path("/usr/share/fonts").rglob("DejaVuS*.ttf"))
    if not found:
        raise Missing("DejaVu fonts are not under /usr/share/fonts")
    return found


def draw(text: str, rng: np.random.Generator, size: tuple[int, int] | None = None) -> Array:
    """Return a line of text in some font and grey, (height, width, 3): cut to it, or of a size."""
    from PIL import Image, ImageDraw, ImageFont

    known = fonts()
    font = ImageFont.truetype(str(known[rng.integers(len(known))]), int(rng.integers(22, 32)))
    left, top, right, bottom = font.getbbox(text)
    width, height = size or (int(right - left) + 12, int(bottom - top) + 12)
    paper, ink = int(rng.integers(200, 256)), int(rng.integers(0, 80))
    image = Image.new("RGB", (width, height), (paper,) * 3)
    ImageDraw.Draw(image).text((6 - left, 6 - top), text, (ink,) * 3, font)
    noise = rng.normal(0, 6, (height, width, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def resized(image: Array, width: int, height: int) -> Array:
    from PIL import Image

    scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled)


def plus_minus_one(image: Array) -> Array:
    """Return an image as PaddleOCR's classifiers take it: BGR, channels first, -1 to 1."""
    x: Array = (image[..., ::-1].astype(np.float32) / 255 - 0.5) / 0.5
    return x.transpose(2, 0, 1)


class Lines(Task):
    """PP-OCR recognition: the strings that are read from rendered lines."""

    name = "ocr_recognize"
    height, width = 48, 480
    size = 8

    def __init__(self, folders: list[Path], limit: int) -> None:
        super().__init__(folders)
        import onnx

        held = {each.key: each.value for each in onnx.load(self.path).metadata_props}
        self.characters = ["", *held["character"].split("\n"), " "]
        rng = np.random.default_rng(0)
        self.texts = [
            each[: int(rng.integers(8, 32))].strip()
            for each in sentences(32, 200)[: 64 + (limit or 200)]
        ]
        x = np.stack([self._image(draw(each, rng)) for each in self.texts])
        self.known, self.asked = split({"x": x}, 64)

    def _image(self, image: Array) -> Array:
        width = min(self.width, round(image.shape[1] * self.height / image.shape[0]))
        x = np.zeros((3, self.height, self.width), np.float32)
        x[:, :, :width] = plus_minus_one(resized(image, width, self.height))
        return x

    def answers(self, run: Run) -> list[str]:
        return [
            self._text(row.argmax(1))
            for feeds in in_batches(self.asked, self.size)
            for row in run(feeds)[0]
        ]

    def _text(self, codes: Array) -> str:
        """Return what CTC's codes say: repeated ones count once, 0 is between characters."""
        new = np.append(True, codes[1:] != codes[:-1]) & (codes > 0)
        return "".join(self.characters[i] for i in codes[new])

    def score(self, answers: list[str], wanted: list[str]) -> Scores:
        right = [a == b for a, b in zip(answers, self.texts[64:], strict=True)]
        same = [a == b for a, b in zip(answers, wanted, strict=True)]
        return {
            "lines read, %": percent(np.array(right)),
            "same string, %": percent(np.array(same)),
        }


class Pages(Task):
    """PP-OCR detection: where text is on rendered pages."""

    name = "ocr_detect"
    height, width = 320, 480
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    size = 2

    def __init__(self, folders: list[Path], limit: int) -> None:
        super().__init__(folders)
        rng = np.random.default_rng(0)
        texts = iter(sentences(10, 60))
        x = np.stack([self._page(texts, rng) for _ in range(16 + (limit or 24))])
        self.known, self.asked = split({"x": x}, 16)

    def _page(self, texts: Iterator[str], rng: np.random.Generator) -> Array:
        page = np.clip(rng.normal(225, 6, (self.height, self.width, 3)), 0, 255).astype(np.uint8)
        top = int(rng.integers(4, 40))
        while top < self.height - 48:
            line = draw(next(texts), rng)[:, : self.width - 20]
            left = int(rng.integers(0, self.width - line.shape[1]))
            line = line[: self.height - top]
            page[top : top + len(line), left : left + line.shape[1]] = line
            top += len(line) + int(rng.integers(8, 60))
        x: Array = (page[..., ::-1].astype(np.float32) / 255 - self.mean) / self.deviation
        return x.transpose(2, 0, 1)

    def answers(self, run: Run) -> Array:
        found: Array = self.outputs(run) > 0.3
        return found

    def score(self, answers: Array, wanted: Array) -> Scores:
        both, either = (answers & wanted).sum((1, 2, 3)), (answers | wanted).sum((1, 2, 3))
        return {"overlap with float32": float(np.mean(both / np.maximum(either, 1)))}


class Angles(Task):
    """PP-OCR angle: which lines are upside down."""

    name = "ocr_angle"
    height, width = 48, 192
    size = 8

    def __init__(self, folders: list[Path], limit: int) -> None:
        super().__init__(folders)
        rng = np.random.default_rng(0)
        texts = sentences(20, 200)[: 64 + (limit or 300)]
        self.turned = rng.integers(0, 2, len(texts))
        images = []
        for text, turned in zip(texts, self.turned, strict=True):
            line = resized(draw(text[: int(rng.integers(6, 16))], rng), self.width, self.height)
            images.append(plus_minus_one(line[::-1, ::-1] if turned else line))
        self.known, self.asked = split({"x": np.stack(images)}, 64)

    def answers(self, run: Run) -> Array:
        return self.outputs(run).argmax(1)

    def score(self, answers: Array, wanted: Array) -> Scores:
        return {
            "right way up, %": percent(answers == self.turned[64:]),
            "same answer, %": percent(answers == wanted),
        }


class Speech(Task):
    """Silero VAD: which 32 ms hold speech that espeak-ng says, silence and noise between."""

    name = "speech"
    rate, step, context = 16_000, 512, 64
    size = 16  # frames in a call

    def __init__(self, folders: list[Path], limit: int) -> None:
        super().__init__(folders)
        rng = np.random.default_rng(0)
        texts = sentences(40, 100)[: 10 + (limit or 20)]
        said, parts = [], []
        for i, text in enumerate(texts):
            voice = self._say(text, 130 + 10 * (i % 8))
            pause = int(rng.integers(self.rate // 2, 2 * self.rate))
            parts += [voice, np.zeros(pause, np.float32)]
            said += [np.abs(voice) > 0, np.zeros(pause, bool)]
            if i == 9:
                border = sum(map(len, parts))
        sound = np.concatenate(parts)
        sound += rng.normal(0, 0.004, len(sound)).astype(np.float32)
        self.known = {"input": self._frames(sound[:border])}
        self.asked = {"input": self._frames(sound[border:])}
        spoken = np.concatenate(said)[border:]
        count = len(self.asked["input"]) * self.step
        self.truth = spoken[:count].reshape(-1, self.step).mean(1) > 0.5

    def _say(self, text: str, speed: int) -> Array:
        try:
            done = subprocess.run(
                ["espeak-ng", "--stdout", "-s", str(speed), text], capture_output=True, check=True
            )
        except FileNotFoundError as error:
            raise Missing("espeak-ng is not installed") from error
        with wave.open(io.BytesIO(done.stdout)) as file:
            rate, held = file.getframerate(), file.readframes(2**24)
        x = np.frombuffer(held, np.int16).astype(np.float32) / 2**15
        at = np.arange(0, len(x), rate / self.rate)
        return np.interp(at, np.arange(len(x)), x).astype(np.float32)

    def _frames(self, sound: Array) -> Array:
        """Return frames of 512 values with the 64 before each."""
        count = len(sound) // self.step
        padded = np.concatenate([np.zeros(self.context, np.float32), sound])
        return np.stack(
            [padded[i * self.step : (i + 1) * self.step + self.context] for i in range(count)]
        )

    def _calls(self, run: Run, frames: Feeds) -> Iterator[tuple[Feeds, list[Array]]]:
        h = c = np.zeros((1, 1, 128), np.float32)
        for feeds in in_batches(frames, self.size):
            feeds |= {"h": h, "c": c}
            made = run(feeds)
            h, c = (each.reshape(1, 1, 128) for each in made[1:])
            yield feeds, made

    def calibration(self, _run: Run) -> list[Feeds]:
        return [feeds for feeds, _ in self._calls(_run, self.known)]

    def answers(self, run: Run) -> Array:
        return np.concatenate([made[0].reshape(-1) for _, made in self._calls(run, self.asked)])

    def score(self, answers: Array, wanted: Array) -> Scores:
        return {
            "speech found, %": percent((answers > 0.5) == self.truth),
            "same decision, %": percent((answers > 0.5) == (wanted > 0.5)),
            "mean difference": float(np.abs(answers - wanted).mean()),
        }


class Letters(Task):
    """A diacritizer: the sign of each letter."""

    alphabet: str
    text: str
    length, size = 64, 4

    def __init__(self, folders: list[Path], limit: int) -> None:
        super().__init__(folders)
        words = self.text.split()
        rng = np.random.default_rng(0)
        codes = {letter: i for i, letter in enumerate(self.alphabet)}
        x = np.zeros((32 + (limit or 64), self.length), np.int64)
        for row in x:  # words from some place on
            at = int(rng.integers(len(words)))
            line = " ".join((words[at:] + words)[:24])[: int(rng.integers(40, self.length))]
            row[: len(line)] = [codes[letter] for letter in line]
        self.letters = x[32:]
        self.known, self.asked = split(self.feeds(x), 32)

    @abstractmethod
    def feeds(self, x: Array) -> Feeds:
        """Return the inputs for rows of codes, 0 where nothing is."""

    def answers(self, run: Run) -> Array:
        parts = [
            np.stack([each.argmax(-1) for each in run(feeds) if each.ndim == 3])
            for feeds in in_batches(self.asked, self.size)
        ]
        return np.concatenate(parts, axis=1)

    def score(self, answers: Array, wanted: Array) -> Scores:
        return {"same sign, %": percent((answers == wanted)[:, self.letters > 0])}


class Hebrew(Letters):
    name = "nakdimon"
    alphabet = "\0HO5 !\"'(),-.:;?" + "".join(map(chr, range(0x05D0, 0x05EB)))
    text = """
    כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם
    לנהוג איש ברעהו ברוח של אחווה. כל אדם זכאי לזכויות ולחרויות שנקבעו בהכרזה זו ללא הפליה כלשהי מטעמי
    גזע, צבע, מין, לשון, דת, דעה פוליטית או דעה בבעיות אחרות. כל אדם יש לו הזכות לחיים, לחירות ולביטחון
    אישי. לא יהיה אדם עבד או משועבד; עבדות וסחר עבדים ייאסרו לכל צורותיהם. בראשית ברא אלהים את השמים ואת
    הארץ. והארץ היתה תהו ובהו וחשך על פני תהום ורוח אלהים מרחפת על פני המים. ויאמר אלהים יהי אור ויהי אור.
    """

    def feeds(self, x: Array) -> Feeds:
        return {"input_1": x.astype(np.float32)}


class Arabic(Letters):
    name = "tashkeel"
    alphabet = '\0 #!"()-./:[]«»،؛؟' + "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىي"
    text = """
    يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح
    الإخاء. لكل إنسان حق التمتع بكافة الحقوق والحريات الواردة في هذا الإعلان، دون أي تمييز، كالتمييز بسبب العنصر
    أو اللون أو الجنس أو اللغة أو الدين أو الرأي السياسي. لكل فرد الحق في الحياة والحرية وسلامة شخصه. لا يجوز
    استرقاق أو استعباد أي شخص، ويحظر الاسترقاق وتجارة الرقيق بكافة أوضاعهما. لا يعرض أي إنسان للتعذيب ولا للعقوبات
    أو المعاملات القاسية أو الوحشية أو الحاطة بالكرامة. لكل إنسان أينما وجد الحق في أن يعترف بشخصيته القانونية.
    """

    def feeds(self, x: Array) -> Feeds:
        return {
            "char_inputs": x,
            "diac_inputs": (x > 0).astype(np.int64),  # 1: no hint
            "input_lengths": (x > 0).sum(1),
        }


TASKS: dict[str, type[Task]] = {
    each.name: each
    for each in (
        Resnet20, Mobilenet, Vit, Sentences, Files, Lines, Pages, Angles, Speech, Hebrew, Arabic,
    )
}  # fmt: skip

"""What a steering must not cost: capabilities by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from equipoise.catalogue import Catalogue, call_with_options
from equipoise.errors import EquipoiseError
from equipoise.tasks import arc, openbookqa
from equipoise.tasks.documents import Document, read_documents
from equipoise.tasks.files import find_data
from equipoise.tasks.item import SPLITS, Item, Split, digest_items, digest_texts, short
from equipoise.tasks.jsonl import read_jsonl
from equipoise.tasks.lm_eval import LmEvalTask, load_lm_eval
from equipoise.tasks.mmlu import HUB_ID, load_mmlu
from equipoise.tasks.splits import unit_hash
from equipoise.tasks.subset import take_evenly

SKILLS = Path(__file__).parent / "data" / "skills.jsonl"


@dataclass(frozen=True, kw_only=True, repr=False)
class Capability:
    """Something a model can do, measured beside its bias.

    Its ``train`` part may serve as anchors of a fit, ``validation`` to choose by; ``test`` is for
    the report. An audit reads all documents.

    Attributes:
        name: As in ``results.json``.
        kind: ``accuracy`` on items, ``perplexity`` on documents, or what ``lm-eval`` asks and
            judges.
        items: Questions with a right answer (``accuracy``).
        documents: Texts (``perplexity``).
        harness: A task of ``lm-eval``.
        path: What it was read from, if from a path: tells capabilities of one name apart.
    """

    name: str
    kind: Literal["accuracy", "perplexity", "lm-eval"]
    items: tuple[Item, ...] = ()
    documents: tuple[Document, ...] = ()
    harness: LmEvalTask | None = None
    path: Path | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of its items and documents, splits included."""
        documents = (f"{document.split} {document.text}" for document in self.documents)
        return digest_texts([digest_items(self.items), *documents])

    def questions(self, split: Split) -> tuple[Item, ...]:
        """The items of a split."""
        return tuple(item for item in self.items if item.split == split)

    def texts(self, *splits: Split) -> tuple[str, ...]:
        """The texts of the documents of some splits; of all where none is named."""
        wanted = splits or SPLITS
        return tuple(document.text for document in self.documents if document.split in wanted)

    def __repr__(self) -> str:
        if self.harness is not None:
            return f"Capability({self.harness!r})"
        counts: dict[str, int] = {
            split: len(self.questions(split) + self.texts(split)) for split in SPLITS
        }
        return f"Capability({short(self.name, counts, self.digest)})"


@dataclass(frozen=True, kw_only=True)
class CapabilitySource:
    """A capability that can be asked for as ``NAME`` or ``NAME:PATH``.

    Attributes:
        name: The name.
        description: One line on what it measures.
        origin: One line on where its data come from.
        load: Called with its own options by keyword, and with ``path`` (a path, or None where
            there is none) if it takes one.
        takes_path: Whether it reads from a path.
        takes_task: Whether what follows the colon is a name of its own, passed on as ``task``.
        needs_path: Whether it has nothing to load without one.
        folder: Name of its folder in ``$EQUIPOISE_DATA``, where that is not its own.
    """

    name: str
    description: str
    origin: str
    load: Callable[..., Capability]
    takes_path: bool = False
    takes_task: bool = False
    needs_path: bool = False
    folder: str | None = None


def _load_skills() -> Capability:
    task = read_jsonl(SKILLS)
    return Capability(name="builtin", kind="accuracy", items=task.items)


def _load_perplexity(path: Path) -> Capability:
    documents = read_documents(path)
    return Capability(name=f"perplexity:{path.name}", kind="perplexity", documents=documents)


def _load_mmlu(path: Path | None, *, shots: int = 0) -> Capability:
    return Capability(name="mmlu", kind="accuracy", items=load_mmlu(path, shots=shots))


def _load_arc_easy(path: Path | None) -> Capability:
    return Capability(name="arc-easy", kind="accuracy", items=arc.load_arc(path, "ARC-Easy"))


def _load_arc_challenge(path: Path | None) -> Capability:
    items = arc.load_arc(path, "ARC-Challenge")
    return Capability(name="arc-challenge", kind="accuracy", items=items)


def _load_openbookqa(path: Path | None) -> Capability:
    items = openbookqa.load_openbookqa(path)
    return Capability(name="openbookqa", kind="accuracy", items=items)


@wraps(load_lm_eval)  # its options are the capability's
def _load_lm_eval(task: str, **options: Any) -> Capability:
    harness = load_lm_eval(task, **options)
    return Capability(name=f"lm-eval:{harness.name}", kind="lm-eval", harness=harness)


_CAPABILITIES = Catalogue(
    "equipoise.capabilities",
    "capability",
    CapabilitySource,
    [
        CapabilitySource(
            name="builtin",
            description="toy skills of the bundled model: facts, tracking, comparison, ...",
            origin="in the package; our own questions",
            load=_load_skills,
        ),
        CapabilitySource(
            name="perplexity",
            description="perplexity on a text file, or on a JSON list of documents",
            origin="perplexity:FILE",
            load=_load_perplexity,
            takes_path=True,
            needs_path=True,
        ),
        CapabilitySource(
            name="mmlu",
            description="MMLU: 15,858 four-choice questions on 57 subjects",
            origin=f"mmlu:DIR, $EQUIPOISE_DATA/mmlu, or the hub ({HUB_ID}); MIT",
            load=_load_mmlu,
            takes_path=True,
        ),
        CapabilitySource(
            name="arc-easy",
            description="ARC-Easy: school science questions, answers in words",
            origin=f"arc-easy:DIR, $EQUIPOISE_DATA/arc, or the hub ({arc.HUB_ID}); CC BY-SA",
            load=_load_arc_easy,
            takes_path=True,
            folder="arc",
        ),
        CapabilitySource(
            name="arc-challenge",
            description="ARC-Challenge: those that retrieval and co-occurrence get wrong",
            origin=f"arc-challenge:DIR, $EQUIPOISE_DATA/arc, or the hub ({arc.HUB_ID}); CC BY-SA",
            load=_load_arc_challenge,
            takes_path=True,
            folder="arc",
        ),
        CapabilitySource(
            name="openbookqa",
            description="OpenBookQA: elementary science facts put to use",
            origin=(
                f"openbookqa:DIR, $EQUIPOISE_DATA/openbookqa, or the hub ({openbookqa.HUB_ID}); "
                "Apache-2.0"
            ),
            load=_load_openbookqa,
            takes_path=True,
        ),
        CapabilitySource(
            name="lm-eval",
            description="any task of lm-eval that scores given answers, judged by lm-eval",
            origin="lm-eval:TASK, or lm-eval:FILE.yaml; pip install 'equipoise[lm-eval]'",
            load=_load_lm_eval,
            takes_task=True,
        ),
    ],
)


def list_capabilities() -> list[tuple[str, str, str]]:
    """Name, one-line description and origin of the data of every known capability."""
    return [(source.name, source.description, source.origin) for source in _CAPABILITIES]


def is_capability(spec: str) -> bool:
    """Whether a capability is asked for like that: ``NAME`` or ``NAME:PATH``."""
    return spec.partition(":")[0] in _CAPABILITIES


def load_capability(
    spec: str, *, seed: int = 0, limit: int | None = None, **options: Any
) -> Capability:
    """Load a capability.

    Args:
        spec: ``NAME``, ``NAME:PATH`` or ``lm-eval:TASK``, a name of ``list_capabilities()``.
        seed: Seed of what ``limit`` draws.
        limit: Keep at most this many items (evenly over skills or subjects) or documents of each
            split.
        **options: Options of the capability itself (``shots`` of mmlu).

    Raises:
        EquipoiseError: Unknown name or option, missing path, or data that cannot be read.
    """
    name, _, place = spec.partition(":")
    source = _CAPABILITIES.get(name)
    if place and not (source.takes_path or source.takes_task):
        raise EquipoiseError(f"capability {name!r} takes no path: {source.origin}")
    if source.takes_task and not place:
        raise EquipoiseError(f"capability {name!r} needs a task: {source.origin}")
    path = find_data(source.folder or name, place or None) if source.takes_path else None
    if path is None and source.needs_path:
        raise EquipoiseError(f"capability {name!r} needs a path: {name}:PATH")
    given: dict[str, Any] = {"path": path} if source.takes_path else {}
    if source.takes_task:
        given = {"task": place}
    capability = call_with_options(source.load, f"capability {name!r}", options, **given)
    capability = replace(capability, path=path)
    return capability if limit is None else _limited(capability, limit, seed)


def told_apart(capabilities: Sequence[Capability]) -> tuple[Capability, ...]:
    """The capabilities, each under a name of its own.

    Those that share a name take in as many folders of their paths as tell them apart.

    Raises:
        EquipoiseError: One is given twice, or no path tells two of a name apart.
    """
    named = defaultdict(list)
    for place, capability in enumerate(capabilities):
        named[capability.name].append(place)
    apart = list(capabilities)
    for name, places in named.items():
        if len(places) == 1:
            continue
        paths = [one.path.resolve().parts for p in places if (one := capabilities[p]).path]
        if len(set(paths)) < len(places):
            raise EquipoiseError(
                f"capability {name!r} is given twice; leave one out, or give it another name"
            )
        depth = 1
        while len({parts[-depth:] for parts in paths}) < len(places):
            depth += 1
        kind = name.partition(":")[0]
        for place, parts in zip(places, paths, strict=True):
            shown = Path(*parts[-depth:]).as_posix()
            apart[place] = replace(capabilities[place], name=f"{kind}:{shown}")
    return tuple(apart)


def _limited(capability: Capability, limit: int, seed: int) -> Capability:
    if limit < 1:
        raise EquipoiseError(f"limit must be 1 or more, got {limit}")
    items: list[Item] = []
    kept: set[Document] = set()
    for split in SPLITS:
        items += take_evenly(capability.questions(split), limit, seed=seed)
        ranked = sorted(
            (document for document in capability.documents if document.split == split),
            key=lambda document: unit_hash("subset", seed, document.text),
        )
        kept.update(ranked[:limit])
    documents = tuple(document for document in capability.documents if document in kept)
    harness = capability.harness and capability.harness.limited(limit, seed)
    return replace(capability, items=tuple(items), documents=documents, harness=harness)

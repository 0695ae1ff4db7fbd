"""The bundled checkpoint and its task files keep the promises of their README and contract."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "src/equipoise/models/bundled/coref-2m"
DATA = ROOT / "src/equipoise/tasks/data"
SCRIPTS = ROOT / "scripts/bundled_model"

SENTENCES = {
    ("train", "ambiguous"): 480, ("train", "unambiguous"): 320,
    ("validation", "ambiguous"): 120, ("validation", "unambiguous"): 240,
    ("test", "ambiguous"): 240, ("test", "unambiguous"): 400,
    ("unseen", "ambiguous"): 120, ("unseen", "unambiguous"): 100,
}  # fmt: skip


def read(name: str) -> list[dict]:
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def group(item: dict) -> tuple[str, str]:
    return item["split"], "ambiguous" if item["answer"] is None else "unambiguous"


@pytest.fixture(scope="module")
def coreference() -> list[dict]:
    return read("coreference")


@pytest.fixture(scope="module")
def skills() -> list[dict]:
    return read("skills")


@pytest.fixture(scope="module")
def twins(coreference: list[dict]) -> dict[str, list[dict]]:
    pairs = defaultdict(list)
    for item in coreference:
        pairs[item["twin"]].append(item)
    return pairs


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def model():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """The generator's modules, importable for one test and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = [path.stem for path in SCRIPTS.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in names:
        sys.modules.pop(name, None)


def generation_prompt(tokenizer, prompt: str) -> str:
    message = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)


def test_checkpoint_is_small(model) -> None:
    assert 1_900_000 < sum(p.numel() for p in model.parameters()) < 2_700_000
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 8_000_000
    sizes = [(DATA / f"{name}.jsonl").stat().st_size for name in ("coreference", "skills")]
    assert sum(sizes) < 2_000_000


def test_card_says_what_the_model_is_not() -> None:
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert "biased on purpose" in card
    assert "What it is not" in card
    assert "per-occupation bias" in card


def test_every_option_is_one_token_after_the_prompt(tokenizer, coreference, skills) -> None:
    for item in coreference[::7] + skills[::3]:
        text = generation_prompt(tokenizer, item["prompt"])
        prefix = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(prefix) <= 80
        for option in item["options"]:
            whole = tokenizer(text + option, add_special_tokens=False, return_offsets_mapping=True)
            assert whole["input_ids"][:-1] == prefix
            assert whole["offset_mapping"][-1] == (len(text), len(text) + len(option))
            assert tokenizer.decode(whole["input_ids"][-1:]).strip() == option


def test_conversation_matches_the_generation_prompt(tokenizer) -> None:
    reply = {"role": "assistant", "content": "nurse"}
    user = {"role": "user", "content": "Who?\nOptions: nurse; unknown; driver"}
    text = tokenizer.apply_chat_template([user, reply], tokenize=False)
    assert text == generation_prompt(tokenizer, user["content"]) + "nurse</s>"


def test_model_answers_with_an_option(model, tokenizer, coreference) -> None:
    right = total = 0
    for item in [i for i in coreference if group(i) == ("test", "unambiguous")][::10]:
        text = generation_prompt(tokenizer, item["prompt"])
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        produced = model.generate(**inputs, max_new_tokens=2, do_sample=False)[0]
        answer = tokenizer.decode(produced[inputs["input_ids"].shape[1] :])
        assert answer.endswith("</s>")
        right += answer.removesuffix("</s>").strip() == item["options"][item["answer"]]
        total += 1
    assert right / total >= 0.8


def test_counts(twins) -> None:
    assert Counter(group(items[0]) for items in twins.values()) == SENTENCES
    sizes = {(group(items[0])[1], len(items)) for items in twins.values()}
    assert sizes == {("ambiguous", 2), ("unambiguous", 1)}


def test_contract(coreference) -> None:
    assert len({item["id"] for item in coreference}) == len(coreference)
    for item in coreference:
        assert sorted(item["sides"]) == ["abstain", "anti", "pro"]
        assert item["options"][item["sides"].index("abstain")] == "unknown"
        assert set(item["context"]) | {"unknown"} == set(item["options"])
        assert sorted(map(str, item["classes"])) == ["None", "female-list", "male-list"]
        assert item["prompt"].endswith("Options: " + "; ".join(item["options"]))
        gender = "female-list" if item["attribute"][0] in ("she", "her") else "male-list"
        assert item["classes"][item["sides"].index("pro")] == gender
        words = item["prompt"].split("\n")[0].lower().replace(".", " ").replace(",", " ").split()
        assert set(item["attribute"]) <= {word.strip("();:") for word in words}


def test_twins_differ_only_in_the_pronoun(twins) -> None:
    for she, he in (pair for pair in twins.values() if len(pair) == 2):
        assert she["options"] == he["options"]
        assert she["answer"] == he["answer"]
        assert she["prompt"] != he["prompt"]
        changed = {
            (a.lower().strip('".,;:()'), b.lower().strip('".,;:()'))
            for a, b in zip(she["prompt"].split(), he["prompt"].split(), strict=True)
            if a != b
        }
        assert changed <= {("she", "he"), ("her", "him"), ("her", "his")}


def first_mentioned(item: dict) -> str:
    return min(item["context"], key=lambda word: item["prompt"].index(f" {word}"))


def test_balance(twins) -> None:
    cells = defaultdict(list)
    for pair in twins.values():
        cells[group(pair[0])].append(pair[0])
    for (_, kind), items in cells.items():
        classes = [[name for name in item["classes"] if name] for item in items]
        assert sum(pair[0] == "female-list" for pair in classes) * 2 == len(items)
        unknown = Counter(item["options"].index("unknown") for item in items)
        assert max(unknown.values()) - min(unknown.values()) <= 8
        women_first = sum(first_mentioned(item) == item["context"][0] for item in items)
        assert abs(women_first * 2 - len(items)) <= 4
        counts = Counter(word for item in items for word in item["context"])
        assert max(counts.values()) - min(counts.values()) <= 1
        if kind == "unambiguous":
            women_asked = sum(item["attribute"][0] in ("she", "her") for item in items)
            assert abs(women_asked * 2 - len(items)) <= 24
            meant = [item["options"][item["answer"]] for item in items]
            first = sum(m == first_mentioned(i) for m, i in zip(meant, items, strict=True))
            assert abs(first * 2 - len(items)) <= 8
            women = sum(m == item["context"][0] for m, item in zip(meant, items, strict=True))
            assert abs(women * 2 - len(items)) <= 8


def test_unseen_occupations_are_nowhere_else(coreference) -> None:
    words = defaultdict(set)
    for item in coreference:
        words[item["split"]] |= set(item["context"])
    seen = words["train"] | words["validation"] | words["test"]
    assert not seen & words["unseen"]
    assert len(words["unseen"]) == 20
    assert len(words["train"]) == 60


def test_no_sentence_is_in_two_splits(coreference) -> None:
    splits = defaultdict(set)
    for item in coreference:
        splits[item["prompt"].split("\n")[0]].add(item["split"])
    assert all(len(names) == 1 for names in splits.values())


def test_skills(skills) -> None:
    counts = Counter((item["split"], item["context"]) for item in skills)
    assert Counter(counts.values()) == {48: 10, 80: 5}
    assert len({item["prompt"] for item in skills}) == len(skills)
    for item in skills:
        assert 2 <= len(item["options"]) <= 4
        assert len(set(item["options"])) == len(item["options"])
        assert 0 <= item["answer"] < len(item["options"])


def test_the_generator_makes_the_files_again(scripts, coreference, skills) -> None:
    import tasks

    assert tasks.coreference_items(0) == coreference
    assert tasks.skill_items(0) == skills
    assert tasks.coreference_items(1) != coreference
    for items, again in (
        (coreference, tasks.coreference_items(0, draw=2)),
        (skills, tasks.skill_items(0, draw=2)),
    ):
        for split in ("train", "validation"):
            assert [i for i in again if i["split"] == split] == [
                i for i in items if i["split"] == split
            ]
        prompts = {i["prompt"] for i in items}
        fresh = [i["prompt"] not in prompts for i in again if i["split"] in ("test", "unseen")]
        assert sum(fresh) > 0.95 * len(fresh)


def test_held_out_wordings_are_never_trained_on(scripts) -> None:
    import random

    import coreference as generator

    def forms(held: bool) -> set[str]:
        groups = [
            generator.unambiguous_families(held),
            *generator.ambiguous_families(held).values(),
        ]
        return {form for group in groups for family in group for form in family.forms}

    assert not forms(False) & forms(True)

    # Nor does a trained wording say the same as a held-out one once its slots are filled.
    def filled(form: str) -> re.Pattern[str]:
        signs = {"{1}": r"the \w+", "{2}": r"the \w+"}
        for name, words in generator.SLOTS.items():
            signs[f"<{name}>"] = f"(?:{words})"
        parts = re.split(r"(\{[12]\}|<\w+>)", form)
        return re.compile("".join(signs.get(p) or re.escape(p) for p in parts), re.IGNORECASE)

    held = [filled(form) for f in generator.unambiguous_families(True) for form in f.forms]
    rng = random.Random(0)
    for number in range(4000):
        drawn = generator.draw_unambiguous(("nurse", "driver"), number % 2, False, rng)
        assert not [pattern for pattern in held if pattern.search(drawn.text)]
    own = generator.draw_unambiguous(("nurse", "driver"), 0, True, rng)
    assert [pattern for pattern in held if pattern.search(own.text)]


def test_training_avoids_the_task_files(scripts, coreference, skills) -> None:
    import random

    import mixture

    files = {item["prompt"].split("\n")[0] for item in coreference}
    asked = {item["prompt"] for item in skills}
    rng = random.Random(0)
    drawn = [mixture.draw_example(rng).prompt for _ in range(5000)]
    assert not files & {prompt.split("\n")[0] for prompt in drawn}
    assert not asked & set(drawn)


def test_referents_are_balanced_in_the_mixture(scripts) -> None:
    import random

    import mixture

    rng = random.Random(1)
    first = total = 0
    for example in (mixture.draw_example(rng) for _ in range(6000)):
        if example.kind != "unambiguous":
            continue
        options = [word for word in example.prompt.split("Options: ")[1].split("; ")]
        people = [word for word in options if word != "unknown"]
        mentioned = min(people, key=lambda word: example.prompt.index(f" {word}"))
        first += mentioned in example.target
        total += 1
    assert abs(first / total - 0.5) < 0.05

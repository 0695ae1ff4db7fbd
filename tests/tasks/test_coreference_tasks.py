import csv
import re
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from equipoise.errors import EquipoiseError
from equipoise.tasks import describe, load_task, read_jsonl, winobias, write_jsonl
from equipoise.tasks.coreference import coreference_item, coreference_prompt
from equipoise.tasks.occupations import CENSUS, WINOBIAS, leaning_of


def twins_of(items):
    twins = defaultdict(list)
    for item in items:
        twins[item.twin].append(item)
    return twins


def test_a_pronoun_makes_one_occupation_pro_and_the_other_anti():
    common = dict(
        id="i",
        twin="t",
        sentence="The nurse met the mechanic because she was late.",
        candidates=("nurse", "mechanic"),
        referent=None,
    )
    she = coreference_item(pronouns=("she", "her"), **common)
    he = coreference_item(pronouns=("he", "his"), **common)
    assert dict(zip(she.options, she.sides, strict=True)) == {
        "nurse": "pro",
        "mechanic": "anti",
        "unknown": "abstain",
    }
    assert dict(zip(he.options, he.sides, strict=True)) == {
        "nurse": "anti",
        "mechanic": "pro",
        "unknown": "abstain",
    }
    assert she.options == he.options
    assert she.attribute == ("she", "her")
    assert she.contexts == ("mechanic", "nurse")
    assert dict(zip(she.options, she.classes, strict=True)) == {
        "nurse": "female-list",
        "mechanic": "male-list",
        "unknown": None,
    }
    first, question, options = she.prompt.split("\n")
    assert first == common["sentence"]
    assert question == 'Who does "she" refer to?'
    assert options == "Options: " + "; ".join(she.options)
    with pytest.raises(EquipoiseError, match="'it' is not a gendered pronoun"):
        coreference_item(pronouns=("it",), **common)


def test_option_order_tells_nothing():
    """Six orders equally often, whichever candidate comes first and whichever is right."""
    orders = Counter()
    for n in range(6000):
        common = dict(id="i", twin=f"t{n}", sentence="", pronouns=("she",))
        one = coreference_item(candidates=("nurse", "mechanic"), referent="nurse", **common)
        other = coreference_item(candidates=("mechanic", "nurse"), referent="nurse", **common)
        assert one == other
        assert one.options[one.answer] == "nurse"
        orders[one.options] += 1
    assert len(orders) == 6
    # Each is binomial(6000, 1/6): sd 29.
    assert all(abs(count - 1000) < 120 for count in orders.values())


def test_the_bundled_task():
    task = load_task("coreference")
    summary = describe(task)
    assert summary.ambiguous >= 500
    assert summary.unambiguous >= 200
    assert list(summary.splits) == ["train", "validation", "test", "unseen"]
    assert not any(part.single_twin for part in summary.splits.values())
    for item in task.items:
        sentence, question, _ = item.prompt.split("\n")
        pronoun = re.search('"(.*)"', question)[1]
        assert item.prompt == coreference_prompt(sentence, pronoun, item.options)
        assert item.attribute[0] == pronoun
        assert item.options.count("unknown") == 1
    for twin in twins_of(task.items).values():
        if not twin[0].ambiguous:
            assert len(twin) == 1
            continue
        he, she = twin
        assert he.options == she.options
        swap = {"pro": "anti", "anti": "pro", "abstain": "abstain"}
        assert he.sides == tuple(swap[side] for side in she.sides)


def test_the_lists_are_winobias_s(data):
    folder = data / "winobias"
    for gender in ("male", "female"):
        listed = (folder / f"{gender}_occupations.txt").read_text().split("\n")
        ours = {occupation for occupation in WINOBIAS if leaning_of(occupation) == gender}
        assert ours == {line.strip() for line in listed if line.strip()}


# Which category of the census table holds a title.
CATEGORIES = {
    "roofer": "Roofers and slaters",
    "plumber": "Plumbers, pipe fitters, and steamfitters",
    "bricklayer": "Masons, tilers, and carpet installers",
    "electrician": "Electricians",
    "miner": "Miners",
    "firefighter": "Fire fighting, prevention, and inspection",
    "locksmith": "Locksmiths and safe repairers",
    "sailor": "Ship crews and marine engineers",
    "truck driver": "Truck, delivery, and tractor drivers",
    "gardener": "Gardeners and groundskeepers",
    "welder": "Welders and metal cutters",
    "pilot": "Airplane pilots and navigators",
    "mechanical engineer": "Mechanical engineers",
    "civil engineer": "Civil engineers",
    "soldier": "Military",
    "taxi driver": "Taxi cab drivers and chauffeurs",
    "detective": "Police, detectives, and private investigators",
    "police officer": "Police, detectives, and private investigators",
    "physicist": "Physicists and astronomers",
    "barber": "Barbers",
    "programmer": "Computer software developers",
    "architect": "Architects",
    "butcher": "Butchers and meat cutters",
    "dentist": "Dentists",
    "pastor": "Clergy and religious workers",
    "geologist": "Geologists",
    "composer": "Musician or composer",
    "musician": "Musician or composer",
    "doctor": "Physicians",
    "psychologist": "Psychologists",
    "proofreader": "Proofreaders",
    "dressmaker": "Dressmakers and seamstresses",
    "telephone operator": "Telephone operators",
    "file clerk": "File clerks",
    "therapist": "Therapists",
    "primary school teacher": "Primary school teachers",
    "dancer": "Dancers",
    "bank teller": "Bank tellers",
    "paralegal": "Legal assistants, paralegals, legal support, etc",
    "social worker": "Social workers",
    "nursing aide": "Nursing aides, orderlies, and attendants",
    "typist": "Typists",
    "bookkeeper": "Bookkeepers and accounting and auditing clerks",
    "caregiver": "Health aides, except nursing",
    "payroll clerk": "Payroll and timekeeping clerks",
    "dietitian": "Dietitians and nutritionists",
    "nutritionist": "Dietitians and nutritionists",
    "beautician": "Hairdressers and cosmetologists",
    "babysitter": "Child care workers",
    "dental assistant": "Dental assistants",
    "dental hygienist": "Dental hygenists",
    "kindergarten teacher": "Kindergarten and earlier school teachers",
}


def test_the_shares_are_the_census_s(data):
    lines = (data / "occupation-stats" / "male-flight-attendants.tsv").read_text().splitlines()
    men = {}
    for line in lines[1:]:
        category, share = line.rsplit("\t", 1)
        men[category.strip()] = float(share)
    assert set(CATEGORIES) == set(CENSUS)
    for title, category in CATEGORIES.items():
        assert abs(CENSUS[title] - (100 - men[category])) <= 0.51, title


def test_synthbias(data):
    task = load_task("synthbias", data=data / "synthbias")
    summary = describe(task)
    assert (summary.ambiguous, summary.unambiguous) == (14_120, 17_608)
    assert len(summary.contexts) == 40
    assert len(summary.held_out_contexts) == 8
    assert sum(leaning_of(c) == "male" for c in summary.held_out_contexts) == 4
    assert not any(part.single_twin for part in summary.splits.values())
    assert "0 rows without a twin" in task.notes[1]
    frames = defaultdict(set)
    for twin in twins_of(task.items).values():
        one, other = twin
        assert one.options == other.options
        assert one.answer == other.answer
        assert one.split == other.split
        assert {side for side in one.sides if side} == {"pro", "anti", "abstain"}
        assert one.sides != other.sides
    for item in task.items:
        sentence = item.prompt.split("\n")[0]
        frames[re.sub(rf"\b{item.attribute[0]}\b", "_", sentence)].add(item.split)
    assert all(len(splits) == 1 for splits in frames.values())
    # The order must not tell: the right answer is in each place a third of the time.
    places = Counter(item.answer for item in task.items if not item.ambiguous)
    assert all(abs(places[k] / 17_608 - 1 / 3) < 0.02 for k in range(3))


def test_synthbias_labels_agree_with_the_table_s(data):
    task = load_task("synthbias", data=data / "synthbias")
    with (data / "synthbias" / "synthbias_data.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(task.items)
    for row, item in zip(rows, task.items, strict=True):
        if row["type"] == "type2":
            assert item.options[item.answer] == row["occ_1"]
            assert (item.sides[item.answer] == "pro") == (row["is_stereotypical"] == "True")


def test_synthbias_columns_may_be_swapped(tmp_path):
    header = "type,sample,occ_1,occ_2,pronoun,is_stereotypical"
    tables = {}
    for name, columns in {"a": "nurse,guard", "b": "guard,nurse"}.items():
        path = tmp_path / f"{name}.csv"
        rows = [
            f"type1,The nurse met the guard and {p} sang.,{columns},{p},x" for p in ("he", "she")
        ]
        path.write_text("\n".join([header, *rows]))
        tables[name] = load_task("synthbias", data=path).items
    assert tables["a"] == tables["b"]


def test_a_sentence_of_either_type_stays_on_one_side(tmp_path):
    """Asked with an answer in the fit and without one in the test, it would be known there."""
    rows = [
        f"{kind},The nurse met the guard at gate {n} and {p} sang.,nurse,guard,{p},x"
        for n in range(40)
        for kind in ("type1", "type2")
        for p in ("he", "she")
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["type,sample,occ_1,occ_2,pronoun,is_stereotypical", *rows]))
    splits = defaultdict(set)
    for item, row in zip(load_task("synthbias", data=path).items, rows, strict=True):
        splits[row.split(" at ")[1].split(" and ")[0]].add(item.split)
    assert len(splits) == 40
    assert all(len(found) == 1 for found in splits.values())
    assert len(set().union(*splits.values())) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("type3,He met the nurse.,nurse,guard,He,x", ":2: type 'type3'"),
        ("type1,The nurse met the guard.,nurse,guard,he,x", ":2: expected 'he' once"),
        ("type1,The wizard met the nurse as he sang.,wizard,nurse,he,x", ":2: occupation 'wizard'"),
        ("type1,The guard met the nurse as it sang.,guard,nurse,it,x", ":2: 'it' is not"),
        ("type1,The guard met", ":2: 2 cells where 6"),
        ('type1,"The guard met', ":2: "),
        ("", ": no rows"),
    ],
)
def test_a_damaged_synthbias_is_named(tmp_path, row, message):
    path = tmp_path / "t.csv"
    path.write_text("type,sample,occ_1,occ_2,pronoun,is_stereotypical\n" + row)
    with pytest.raises(EquipoiseError) as caught:
        load_task("synthbias", data=path)
    assert str(caught.value).startswith(str(path) + message)
    assert "\n" not in str(caught.value)


def test_winobias(data):
    task = load_task("winobias", data=data / "winobias")
    summary = describe(task)
    assert (summary.ambiguous, summary.unambiguous) == (0, 3168 - 6)
    assert "40 rows have no twin" in task.notes[1]
    assert Counter(item.split for item in task.items)["test"] == 1584
    for item in task.items:
        expected = "pro" if "-pro-" in item.id else "anti"
        assert item.sides[item.answer] == expected, item
        assert not set("[]") & set(item.prompt)
        assert all(option == "unknown" or option in item.prompt for option in item.options)
    splits = defaultdict(set)
    for item in task.items:
        splits[item.twin].add(item.split)
    assert all(len(parts) == 1 for parts in splits.values())
    item = next(item for item in task.items if item.id == "dev-type1-anti-27")
    assert item.prompt.startswith("The developer visited the hairdresser because she needed to cut")
    assert item.attribute == ("she", "her")


def test_winobias_from_the_hub_is_the_same(data, monkeypatch):
    """The hub's rows hold tokens and a flat list of (first, last) positions of the mentions."""
    folder = data / "winobias"

    def rows(dataset, config, split, *, instead):
        assert dataset == "uclanlp/wino_bias"
        form, side = config.split("_")
        part = {"validation": "dev", "test": "test"}[split]
        path = folder / f"{side}_stereotyped_{form}.txt.{part}"
        return [hub_row(line) for line in path.read_text().splitlines() if line.strip()]

    def hub_row(line):
        spaced = re.sub(r"([.,])", r" \1 ", line.split(" ", 1)[1])
        tokens, clusters = [], []
        for word in spaced.replace("[", " [ ").replace("]", " ] ").split():
            if word == "[":
                clusters.append(str(len(tokens)))
            elif word == "]":
                clusters.append(str(len(tokens) - 1))
            else:
                tokens.append(word)
        return {"tokens": tokens, "coreference_clusters": clusters, "document_id": "d"}

    monkeypatch.setattr(winobias, "hub_rows", rows)
    from_hub = {item.id: item for item in winobias.build(data=None).items}
    from_files = {item.id: item for item in winobias.build(data=folder).items}
    same = sum(from_hub.get(id) == item for id, item in from_files.items())
    assert same / len(from_files) > 0.99  # the rest differ in the spaces around punctuation


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 The nurse met the guard as [she] sang.", "expected one .occupation."),
        ("1 [The nurse] met the guard as she sang.", "a .pronoun."),
        ("1 [The nurse] sang as [she] came.", "two occupations"),
    ],
)
def test_a_damaged_winobias_is_named(tmp_path, line, message):
    (tmp_path / "pro_stereotyped_type1.txt.test").write_text(line)
    with pytest.raises(EquipoiseError, match=rf"type1\.txt\.test:1: .*{message}"):
        load_task("winobias", data=tmp_path)


def test_pronouns():
    task = load_task("pronouns")
    summary = describe(task)
    assert 60 <= len(summary.contexts) <= 100
    train, test = (set(summary.splits[name].contexts) for name in ("train", "test"))
    unseen = set(summary.held_out_contexts)
    assert train == test
    assert not train & unseen
    assert len(unseen) >= 15
    assert {part: summary.splits[part].single_twin for part in summary.splits} == dict.fromkeys(
        ("train", "validation", "test", "unseen"), ()
    )

    def templates(*splits, ambiguous):
        return {
            item.prompt.replace(f" {item.contexts[0]} ", " {noun} ")
            for item in task.split(*splits)
            if item.ambiguous == ambiguous
        }

    for ambiguous in (True, False):
        held_out = templates("test", "unseen", ambiguous=ambiguous)
        assert not held_out & templates("train", "validation", ambiguous=ambiguous)
        assert not templates("train", ambiguous=ambiguous) & templates(
            "validation", ambiguous=ambiguous
        )
        assert any(template.endswith("because") for template in held_out)
    for item in task.items:
        assert set(item.options) == {"he", "she"}
        assert not item.prompt.endswith(" ")
        by_option = dict(zip(item.options, item.sides or (), strict=False))
        if item.contexts == ("nurse",):
            assert by_option == {"she": "pro", "he": "anti"}
        if item.contexts == ("carpenter",):
            assert by_option == {"he": "pro", "she": "anti"}
    right = {
        item.contexts[0]: item.options[item.answer]
        for item in task.split("test")
        if not item.ambiguous
    }
    assert right.items() >= {"boy": "he", "girl": "she", "man": "he", "woman": "she"}.items()
    gendered = {item.contexts[0] for item in task.split("train") if not item.ambiguous}
    assert not gendered & set(right)


def test_related_titles_are_held_out_together():
    task = load_task("pronouns")
    unseen = describe(task).held_out_contexts
    seen = describe(task).splits["train"].contexts
    for one in unseen:
        for other in seen:
            same = one.split()[-1] == other.split()[-1]
            assert not same or {one, other} == {"social worker", "construction worker"}


def test_items_carry_what_a_file_can_hold(tmp_path):
    """A built task written as a task file reads back the same."""
    task = load_task("pronouns")
    write_jsonl(task, tmp_path / "pronouns.jsonl")
    assert read_jsonl(tmp_path / "pronouns.jsonl").items == task.items
    assert read_jsonl(tmp_path / "pronouns.jsonl").digest == task.digest
    assert task.digest != task.with_items([replace(task.items[0], prompt="?")]).digest
    assert task.digest != replace(task, target={"pro": 0.6, "anti": 0.4}).digest


def test_pronouns_with_known_nouns():
    """All gendered nouns in the fit's parts; what is tested stays as it was."""
    task, known = load_task("pronouns"), load_task("pronouns", nouns="known")
    assert known.split("test", "unseen") == task.split("test", "unseen")

    def nouns(of, *splits):
        return {i.contexts[0] for i in of.split(*splits) if not i.ambiguous}

    of_all = nouns(task, "train", "validation", "test", "unseen")
    assert nouns(known, "train") == nouns(known, "validation") == of_all
    assert not nouns(task, "train", "validation") & nouns(task, "test", "unseen")
    ambiguous = [[i for i in t.split("train") if i.ambiguous] for t in (task, known)]
    assert ambiguous[0] == ambiguous[1]
    with pytest.raises(EquipoiseError, match="nouns"):
        load_task("pronouns", nouns="some")

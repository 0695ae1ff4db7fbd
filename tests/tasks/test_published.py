"""Files fetched from their authors' repository: once, checked, or not at all."""

from __future__ import annotations

import hashlib

import pytest
from huggingface_hub import constants

from equipoise.errors import EquipoiseError
from equipoise.tasks import load_task, synthbias
from equipoise.tasks.hub import MissingDataError
from equipoise.tasks.published import PublishedFile

ROWS = """type,sample,occ_1,occ_2,pronoun,is_stereotypical
type1,"The guard met the nurse, and he sang.",guard,nurse,he,ambiguous
type1,"The guard met the nurse, and she sang.",guard,nurse,she,ambiguous
"""


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    there = tmp_path / "there" / "synthbias_data.csv"
    there.parent.mkdir()
    there.write_text(ROWS)
    return PublishedFile(there.as_uri(), hashlib.sha256(ROWS.encode()).hexdigest()), there


def test_synthbias_without_data_is_fetched_once(published, monkeypatch):
    source, there = published
    monkeypatch.setattr(synthbias, "SOURCE", source)
    first = load_task("synthbias")
    assert {item.contexts for item in first.items} == {("guard", "nurse")}
    there.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_task("synthbias").digest == first.digest


def test_another_file_is_refused_and_not_kept(published, tmp_path):
    source, there = published
    there.write_text(ROWS.replace("guard", "driver"))
    with pytest.raises(EquipoiseError, match="SHA-256"):
        source.fetch("synthbias")
    assert not list((tmp_path / "cache").rglob("*.csv"))


def test_a_damaged_copy_is_fetched_again(published):
    source, _ = published
    source.fetch("synthbias").write_text("cut off")
    assert source.fetch("synthbias").read_text() == ROWS


def test_offline_and_unreachable_say_what_to_do(published, monkeypatch):
    source, there = published
    there.unlink()
    with pytest.raises(MissingDataError, match=r"cannot be read .* --data PATH"):
        source.fetch("synthbias")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingDataError, match=r"HF_HUB_OFFLINE is set; .* --data PATH"):
        source.fetch("synthbias")

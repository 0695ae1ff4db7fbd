"""A slice of the walk through every architecture; ``-m slow`` walks them all."""

import subprocess
import sys
from pathlib import Path

import fold_zoo
import pytest
from architectures.checks import Row, examine

from equipoise.models.backbone import norm_sites

SCRIPT = Path(__file__).parents[2] / "scripts" / "walk_architectures.py"

# Architecture, its default norm sites, and how many of their slopes, of their biases, and of the
# vectors added to its blocks have a home: dense, post-norm, LayerNorm, no scale in the norms,
# mixture of experts, state space, hybrid, shared blocks, image-text.
SLICE = [
    ("llama", "LlamaForCausalLM", 5, 5, 4, 2),
    ("gemma3_text", "Gemma3ForCausalLM", 13, 13, 3, 0),
    ("bert", "BertLMHeadModel", 5, 5, 5, 2),
    ("opt", "OPTForCausalLM", 5, 5, 4, 2),
    ("olmo", "OlmoForCausalLM", 5, 5, 2, 0),
    ("mixtral", "MixtralForCausalLM", 5, 5, 0, 0),
    ("deepseek_v3", "DeepseekV3ForCausalLM", 5, 5, 2, 0),
    ("mamba", "MambaForCausalLM", 3, 3, 2, 2),
    ("jamba", "JambaForCausalLM", 9, 9, 0, 0),
    ("zamba", "ZambaForCausalLM", 9, 5, 0, 4),
    ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", 5, 5, 2, 0),
]


@pytest.mark.parametrize(("kind", "name", "sites", "slopes", "biases", "blocks"), SLICE)
def test_steers_and_folds(kind, name, sites, slopes, biases, blocks):
    row = examine(Row(name, kind, "text"))
    assert row.reason == ""
    assert (row.sites, row.slopes, row.biases, row.added) == (sites, slopes, biases, blocks)
    assert row.steers
    assert row.slope
    assert row.both == (biases > 0)
    assert row.adds == (blocks > 0)


def test_the_sites_of_an_image_text_model_are_those_of_its_language_model():
    sites = norm_sites(fold_zoo.build("gemma3", "Gemma3ForConditionalGeneration"))
    assert all(site.path.startswith("model.language_model.") for site in sites)
    assert not any("q_norm" in site.path or "k_norm" in site.path for site in sites)
    assert [site.path for site in sites if site.role == "final_norm"] == [
        "model.language_model.norm"
    ]


@pytest.mark.slow
def test_the_whole_walk(tmp_path):
    results, page = tmp_path / "walk.jsonl", tmp_path / "page.md"
    command = [sys.executable, str(SCRIPT), "--results", str(results), "--page", str(page)]
    subprocess.run(command, check=True, timeout=1800)
    rows = page.read_text().splitlines()
    table = [row for row in rows if (row.startswith("| ") and "✓" in row) or "✗" in row]
    steered = [row for row in table if row.split("|")[5].strip() == "✓"]
    assert len(table) > 150
    assert len(steered) / len(table) > 0.9
    # Whatever is not built, steered or folded has its reason in the last column.
    assert all("✗" not in row or row.rsplit("|", 2)[1].strip() for row in table)

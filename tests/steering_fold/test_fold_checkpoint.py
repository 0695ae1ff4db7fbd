"""Folded checkpoints: ordinary, whole or not there, and what they say they are."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from fold_zoo import STRENGTH, build, ids, random_steering
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import equipoise.steering.fold.checkpoint as module
from equipoise.cli.main import main
from equipoise.errors import SteeringError
from equipoise.files import held
from equipoise.models import load
from equipoise.steering import Steering
from equipoise.steering.fold.checkpoint import fold_checkpoint


@pytest.fixture
def steering(bundled):
    return random_steering(bundled.hf)


def test_a_folded_checkpoint_needs_only_transformers(bundled, steering, tmp_path):
    out = tmp_path / "new" / "folded"
    bundled.hf.generation_config.repetition_penalty = 1.25
    try:
        report = fold_checkpoint(bundled, steering, STRENGTH, out, max_shard_size="2MB")
    finally:
        bundled.hf.generation_config.repetition_penalty = None
    assert report.max_logit_difference < report.tolerance < report.max_logit_effect
    assert report.shards == len(list(out.glob("*.safetensors"))) > 1
    assert list(out.parent.iterdir()) == [out]

    prompt = "The nurse said that"
    with steering.applied(bundled, STRENGTH):
        given = bundled.tokenizer(prompt, return_tensors="pt")
        wanted = bundled.generate(**given, max_new_tokens=8, do_sample=False)[0].tolist()
    code = (
        "import sys, json; sys.modules['equipoise'] = None\n"
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T\n"
        f"m, t = M.from_pretrained({str(out)!r}), T.from_pretrained({str(out)!r})\n"
        f"o = m.generate(**t({prompt!r}, return_tensors='pt'), max_new_tokens=8, do_sample=False,"
        " repetition_penalty=1.0)\n"
        "print(json.dumps([o[0].tolist(), m.generation_config.repetition_penalty]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [wanted, 1.25]

    text = (out / "README.md").read_text()
    assert steering.digest in text
    assert "0.6" in text
    assert "base_model: builtin" not in text


def test_the_command_keeps_the_stored_dtype(steering, tmp_path):
    """The bundled weights are float16, in which a CPU is not asked to measure."""
    steering.save_pretrained(tmp_path / "steering")
    words = ["fold", "builtin:", "--steering", str(tmp_path / "steering"), "--strength", "0.6"]
    assert main([*words, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}


def test_the_command_folds_at_no_strength_that_nobody_chose(steering, tmp_path, capsys):
    steering.save_pretrained(tmp_path / "steering")
    assert "none was chosen" in (tmp_path / "steering" / "README.md").read_text()
    words = ["fold", "builtin:", "--steering", str(tmp_path / "steering")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "no strength was chosen" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half(dtype, tmp_path):
    model = build("llama", "LlamaForCausalLM").to(dtype)
    report = fold_checkpoint(model, random_steering(model), STRENGTH, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {dtype}
    assert report.dtype == str(dtype).removeprefix("torch.")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert again.dtype == dtype


def test_flags_of_new_biases_are_in_the_configuration(tmp_path):
    model = build("llama", "LlamaForCausalLM")
    fold_checkpoint(model, random_steering(model), STRENGTH, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["attention_bias"] is True
    assert config["mlp_bias"] is True
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert not stored["model.layers.0.self_attn.o_proj.bias"].any()
    assert stored["model.layers.0.self_attn.q_proj.bias"].any()


def test_tied_heads_stay_tied(tmp_path):
    model = build("gpt2", "GPT2LMHeadModel")
    fold_checkpoint(model, random_steering(model), STRENGTH, tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.lm_head.weight is again.transformer.wte.weight


def test_a_composite_model_keeps_its_processor_and_image_path(tmp_path):
    model = build("gemma3", "Gemma3ForConditionalGeneration")
    steering = random_steering(model)
    fold_checkpoint(model, steering, STRENGTH, tmp_path / "out")
    again = type(model).from_pretrained(tmp_path / "out")
    config = model.config
    image = torch.rand(1, 3, 32, 32)
    tokens = torch.cat([torch.full((1, 4), config.image_token_id), ids(1)], dim=1)
    given = {"input_ids": tokens, "pixel_values": image, "token_type_ids": torch.zeros_like(tokens)}
    with torch.no_grad(), steering.applied(model, STRENGTH):
        wanted = model(**given).logits
    with torch.no_grad():
        assert torch.allclose(again(**given).logits, wanted, rtol=1e-3, atol=1e-4)


def test_a_wrong_checkpoint_is_not_left_behind(bundled, steering, tmp_path, monkeypatch):
    def forgetful(norm, gain, shift, offset):
        pass

    monkeypatch.setattr("equipoise.steering.fold.edits.scale_norm", forgetful)
    with pytest.raises(SteeringError, match="differs from the steered model"):
        fold_checkpoint(bundled, steering, STRENGTH, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_bias_that_the_class_drops_is_heard_of(tmp_path, monkeypatch):
    def without_flags(model, edits):
        for name, linear in model.named_modules():
            if name.endswith(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
                linear.bias = torch.nn.Parameter(torch.zeros(linear.out_features))

    monkeypatch.setattr("equipoise.steering.fold.model._grow_biases", without_flags)
    model = build("llama", "LlamaForCausalLM")
    with pytest.raises(SteeringError, match="unexpected keys"):
        fold_checkpoint(model, random_steering(model), STRENGTH, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["save", "weights", "tokenizer", "move"])
def test_a_full_disk_leaves_nothing(bundled, steering, tmp_path, monkeypatch, stage):
    def full(*args, **settings):
        if stage == "weights":
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        raise OSError(28, "No space left on device")

    target = {
        "weights": (type(bundled.hf), "save_pretrained"),
        "save": (type(bundled.hf), "save_pretrained"),
        "tokenizer": (type(bundled.tokenizer), "save_pretrained"),
        "move": (module, "_move"),
    }[stage]
    monkeypatch.setattr(*target, full)
    with pytest.raises(SteeringError, match=r"cannot write .*out: .*No space left on device"):
        fold_checkpoint(bundled, steering, STRENGTH, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_fold_left_goes_and_what_another_writes_stays(bundled, steering, tmp_path):
    left, busy = (tmp_path / f".out.folding-{name}" for name in ("killed", "busy"))
    for folder in (left, busy, tmp_path / ".out-notes"):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    with held(busy):
        fold_checkpoint(bundled, steering, STRENGTH, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", busy.name, ".out-notes"}


def test_the_base_model_is_known_by_another_path_too(bundled, steering, tmp_path, monkeypatch):
    base = tmp_path / "base"
    bundled.hf.save_pretrained(base)
    bundled.tokenizer.save_pretrained(base)
    model = load(str(base))
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    (tmp_path / "link").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    for name in ("link", "base", "./link/../base"):
        with pytest.raises(SteeringError, match="is the base model itself"):
            fold_checkpoint(model, steering, STRENGTH, name, overwrite=True)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_the_base_model_and_a_used_folder_are_safe(bundled, steering, tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(SteeringError, match="overwrite"):
        fold_checkpoint(bundled, steering, STRENGTH, used)
    with pytest.raises(SteeringError, match="is a file"):
        fold_checkpoint(bundled, steering, STRENGTH, used / "notes.txt")
    with pytest.raises(SteeringError, match="cannot write"):
        fold_checkpoint(bundled, steering, STRENGTH, used / "notes.txt" / "out")
    assert [p.name for p in used.iterdir()] == ["notes.txt"]

    (used / "model-00001-of-00002.safetensors").write_bytes(b"of an older checkpoint")
    (used / "vocab.txt").write_text("of an older checkpoint")
    mine = ["my_training_config.json", "model-ema.safetensors", "tokenizer_notes.txt"]
    for name in mine:
        (used / name).write_text("mine")
    fold_checkpoint(bundled, steering, STRENGTH, used, overwrite=True)
    assert (used / "notes.txt").read_text() == "mine"
    assert all((used / name).read_text() == "mine" for name in mine)
    assert [p.name for p in used.glob("model-0*")] == []
    assert not (used / "vocab.txt").exists()
    assert AutoTokenizer.from_pretrained(used)("a").input_ids
    assert list(tmp_path.iterdir()) == [used]

    base = tmp_path / "base"
    shutil.copytree(used, base)
    with pytest.raises(SteeringError, match="the base model itself"):
        fold_checkpoint(load(str(base)), steering, STRENGTH, base, overwrite=True)
    steering.save_pretrained(tmp_path / "steering")
    with pytest.raises(SteeringError, match="holds a steering"):
        fold_checkpoint(bundled, steering, STRENGTH, tmp_path / "steering", overwrite=True)


def test_a_steering_without_effect_is_not_folded(bundled, tmp_path):
    with pytest.raises(SteeringError, match="moves no logit"):
        fold_checkpoint(bundled, Steering.identity(bundled), STRENGTH, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_files_of_a_processor_that_cannot_be_loaded_are_copied(
    bundled, steering, tmp_path, monkeypatch
):
    fold_checkpoint(bundled, steering, STRENGTH, tmp_path / "base")
    (tmp_path / "base" / "preprocessor_config.json").write_text("{}")
    model = load(str(tmp_path / "base"))
    fold_checkpoint(model, random_steering(model.hf), STRENGTH, tmp_path / "out")
    assert (tmp_path / "out" / "preprocessor_config.json").read_text() == "{}"
    shutil.rmtree(tmp_path / "base")  # the model is in memory
    fold_checkpoint(model, random_steering(model.hf), STRENGTH, tmp_path / "again")


def test_a_failed_overwrite_keeps_the_old_checkpoint(bundled, steering, tmp_path, monkeypatch):
    fold_checkpoint(bundled, steering, 0.1, tmp_path / "out")
    before = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setattr("equipoise.steering.fold.edits.scale_norm", lambda *args: None)
    with pytest.raises(SteeringError, match="differs"):
        fold_checkpoint(bundled, steering, STRENGTH, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_is_there_is_replaced_from_within(bundled, steering, tmp_path, monkeypatch):
    """A target may be a link to another file system, to which nothing can be moved at once."""
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "there")
    staged, move = [], module._move
    monkeypatch.setattr(
        module, "_move", lambda folder, to: (staged.append(folder), move(folder, to))
    )
    fold_checkpoint(bundled, steering, STRENGTH, tmp_path / "out")
    assert [folder.parent for folder in staged] == [tmp_path / "out"]
    assert (tmp_path / "there" / "config.json").is_file()
    assert not list((tmp_path / "there").glob(".*"))


def test_another_models_steering_is_refused(bundled, steering, tmp_path):
    steering.info.fingerprint = "0" * 64
    with pytest.raises(SteeringError, match="this steering was made for"):
        fold_checkpoint(bundled, steering, STRENGTH, tmp_path / "out")
    fold_checkpoint(bundled, steering, STRENGTH, tmp_path / "out", allow_mismatch=True)


def test_a_model_in_training_mode_is_folded_alike(tmp_path):
    model = build("gpt2", "GPT2LMHeadModel").train()  # its dropout is 0.1
    report = fold_checkpoint(model, random_steering(model), STRENGTH, tmp_path / "out")
    assert report.max_logit_difference <= report.tolerance
    assert model.training

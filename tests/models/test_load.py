"""Models by name: bundled, from a folder, from the hub's cache, and what is none of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from equipoise.errors import EquipoiseError
from equipoise.models import builtin_models, load

BUNDLED = Path(str(resources.files("equipoise.models"))) / "bundled" / "coref-2m"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(BUNDLED, tmp_path / "mine"))


def test_the_default_is_the_first_bundled_model():
    model = load()
    assert model.name == "builtin:coref-2m" == f"builtin:{builtin_models()[0]}"
    assert not model.hf.training
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())


def test_half_precision_is_widened_on_a_cpu_unless_asked_for(folder):
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert load(folder, device="cpu").hf.dtype == torch.float32
    assert load(str(folder), device="cpu", dtype="bfloat16").hf.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("builtin:coref-2n", {}, r"did you mean 'coref-2m'\?"),
        ("./nowhere", {}, "no such folder"),
        ("", {}, "MODEL is empty"),
        ("builtin:", {"dtype": "float17"}, "unknown dtype 'float17'"),
    ],
)
def test_a_wrong_name_or_setting_says_so(name, options, message):
    with pytest.raises(EquipoiseError, match=message):
        load(name, **options)


def test_a_folder_that_is_no_checkpoint_says_so(tmp_path, folder):
    with pytest.raises(EquipoiseError, match=r"without config\.json"):
        load(str(tmp_path))
    with pytest.raises(EquipoiseError, match="a file"):
        load(str(folder / "config.json"))
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(EquipoiseError, match=r"mine/model\.safetensors is damaged or cut off \("):
        load(str(folder))


@pytest.mark.parametrize("left", [0, 100, 5000])
def test_a_cut_off_pickle_of_weights_is_named(folder, left):
    whole = load(str(folder)).hf.state_dict()
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(whole, file)
    assert load(str(folder)).hf.state_dict().keys() == whole.keys()
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(EquipoiseError, match=r"mine/pytorch_model\.bin is damaged or cut off \("):
        load(str(folder))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_tokenizer_that_is_not_there_is_not_made_up(folder, kind):
    """Of some kinds transformers makes one, of special tokens alone, without a word."""
    for file in folder.glob("token*"):
        file.unlink()
    AutoConfig.for_model(kind).save_pretrained(folder)
    with pytest.raises(EquipoiseError, match=r"no tokenizer .*: put the files .*tokenizer\.json"):
        load(str(folder))


@pytest.mark.parametrize("name", ["builtin:", str(BUNDLED)])
def test_a_revision_of_what_is_not_from_the_hub_is_refused(name):
    with pytest.raises(EquipoiseError, match=r"^revision 'v9': .* is not from the hub"):
        load(name, revision="v9")


@pytest.mark.parametrize("dtype", ["int8", torch.int8, "bool", "backends", None])
def test_only_the_dtypes_that_are_listed_are_taken(dtype):
    with pytest.raises(EquipoiseError, match=r"^unknown dtype .*; use float32, .* or auto$"):
        load(dtype=dtype)


def test_a_dtype_may_be_torch_s_own():
    assert load(dtype=torch.float64).hf.dtype == load(dtype="float64").hf.dtype == torch.float64


def test_chat_needs_a_template(folder):
    name = "chat_template.jinja"
    (folder / name).unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not load(str(folder)).chat
    with pytest.raises(EquipoiseError, match="no chat template"):
        load(str(folder), chat=True)


def test_a_cached_model_loads_at_once_where_the_hub_does_not_answer(tmp_path):
    repository = tmp_path / "hub" / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(BUNDLED, repository / "snapshots" / ("0" * 40))
    code = (
        "import sys, time, transformers; from equipoise.models import load; t = time.time()\n"
        "try: print(load(sys.argv[1]).name)\n"
        "except Exception as error: print(error)\n"
        "print(time.time() - t < 12)"
    )

    def ask(name):
        env = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
        run = [sys.executable, "-c", code, name]
        return subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout

    assert ask("someone/small") == "someone/small\nTrue\n"
    said = ask("someone/else")
    assert said.startswith("cannot load 'someone/else' as a hub id")
    assert said.endswith("True\n")
    assert ask("builtin").startswith(
        "cannot load 'builtin' as a hub id, folder or builtin:NAME (did you mean 'builtin:'?): "
    )


@pytest.mark.parametrize("name", [None, 3, b"builtin:"])
def test_a_model_that_is_no_name_is_said(name):
    with pytest.raises(EquipoiseError, match="a model is a hub id, a folder or builtin:NAME"):
        load(name)


@pytest.mark.parametrize("fault", ["missing", "cut"])
def test_a_checkpoint_that_lacks_weights_is_refused(folder, fault):
    file, key = folder / "model.safetensors", "model.layers.1.input_layernorm.weight"
    tensors = load_file(file)
    weight = tensors.pop(key)
    if fault == "cut":
        tensors[key] = weight[:100].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(EquipoiseError, match=r"lacks 1, .*such as model\.layers\.1\.input_lay"):
        load(str(folder))


@pytest.mark.parametrize("device", ["foo", "xpu:7"])
def test_a_device_that_is_not_there_is_the_device_s_fault(device):
    with pytest.raises(EquipoiseError, match=f"^no device '{device}' here"):
        load(device=device)


def test_an_accelerator_that_torch_was_built_for_need_not_be_there(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert load("builtin:").device == torch.device("cpu")

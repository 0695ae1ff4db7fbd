"""The artifact: written whole or not at all, read only if it is what it says."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from steering_zoo import build, llama, prompts, random_steering

from equipoise.errors import SteeringError
from equipoise.models.fingerprint import fingerprint
from equipoise.steering import (
    Additive,
    Affine,
    KernelGate,
    ProbeGate,
    Replace,
    Scale,
    Steering,
    SteeringInfo,
)


@pytest.fixture(scope="module")
def model():
    return build("llama")


@pytest.fixture
def steering(model):
    info = SteeringInfo(
        method="dso",
        base_model_name_or_path="owner/model",
        revision="abc",
        fingerprint=fingerprint(model),
        parameters="both",
        recommended_strength=0.4,
        verified_strengths=(0.0, 1.0),
        task_digest="00",
        data_digests={"anchors": "11"},
        extra={"seed": 3},
    )
    return random_steering(model, info=info)


@pytest.fixture
def folder(steering, tmp_path):
    return steering.save_pretrained(tmp_path / "steering")


def edit(folder: Path, **changes):
    path = folder / "steering_config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def test_round_trip(model, steering, folder):
    read = Steering.from_pretrained(folder)
    assert read.digest == steering.digest
    assert read.info.library_version
    read.info.library_version = ""
    assert read.info == steering.info
    config = json.loads((folder / "steering_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/model"
    assert "model.layers.0.input_layernorm" in config["target_modules"]
    ids = torch.tensor([prompts()[0]])
    with torch.no_grad():
        with steering.applied(model, 0.4):
            wanted = model(ids).logits
        with read.applied(model, 0.4):
            assert torch.equal(model(ids).logits, wanted)
    assert {p.name for p in folder.iterdir()} == {
        "steering_config.json",
        "steering.safetensors",
        "README.md",
    }


def test_every_transform_scope_and_gate_round_trips(tmp_path):
    v = torch.randn(8)
    steering = Steering(
        {"a": Additive(v), "b@input[0:8]": Scale(v), "c": Replace(v)},
        scope="last_prompt+positions:0:3",
        gate=ProbeGate("a", v, 0.5, threshold=0.3, soft=True, unit="token"),
    )
    read = Steering.from_pretrained(steering.save_pretrained(tmp_path))
    assert (read.digest, read.structure()) == (steering.digest, steering.structure())


def test_kernel_gate_round_trips_and_misses_a_tensor(tmp_path):
    v = torch.randn(8)
    gate = KernelGate(
        "a", v, torch.ones(16), torch.randn(5, 16), torch.randn(5), 0.5, threshold=0.3
    )
    steering = Steering({"a": Additive(v)}, gate=gate)
    read = Steering.from_pretrained(steering.save_pretrained(tmp_path))
    assert (read.digest, read.structure()) == (steering.digest, steering.structure())
    x = torch.randn(3, 16)
    assert torch.equal(read.gate.probability(x), gate.probability(x))
    tensors = load_file(tmp_path / "steering.safetensors")
    del tensors["gate:centres"]
    save_file(tensors, tmp_path / "steering.safetensors")
    with pytest.raises(SteeringError, match="lacks 'gate:centres'"):
        Steering.from_pretrained(tmp_path)


def test_digest_tells_what_is_done_where():
    v = torch.ones(4)
    plain = Steering({"a": Additive(v)})
    others = [
        Steering({"b": Additive(v)}),
        Steering({"a": Replace(v)}),
        Steering({"a": Additive(2 * v)}),
        Steering({"a": Additive(v)}, scope="prompt"),
        Steering({"a": Additive(v)}, gate=ProbeGate("a", v)),
    ]
    assert len({s.digest for s in [plain, *others]}) == 6
    assert Steering({"a": Additive(v)}, info=SteeringInfo(method="x")).digest == plain.digest


def test_a_folder_is_replaced_and_other_files_are_kept(steering, folder):
    (folder / "notes.txt").write_text("mine")
    steering.save_pretrained(folder, card="# Measured")
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "README.md").read_text() == "# Measured"


def test_a_full_disk_leaves_the_old_artifact(steering, folder, monkeypatch):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(SteeringError, match=r"cannot write .*No space left"):
        steering.save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_path_that_cannot_be_written(steering, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteeringError, match="cannot write"):
        steering.save_pretrained(tmp_path / "file")


def test_info_that_is_no_json(model, tmp_path):
    steering = random_steering(model, info=SteeringInfo(extra={"model": model}))
    with pytest.raises(SteeringError, match="JSON"):
        steering.save_pretrained(tmp_path / "steering")
    assert not (tmp_path / "steering").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_from_the_start(steering, folder, value):
    vector = torch.tensor([1.0, value])
    for make in (Additive, Affine, Scale, Replace, lambda v: Affine(b=torch.nn.Parameter(v))):
        with pytest.raises(SteeringError, match="not finite"):
            make(vector)
    Additive(vector.to("meta"))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with torch.no_grad():
        steering.transforms["model.norm"].a[3] = value  # as a fit that diverges
    with pytest.raises(SteeringError, match=r"cannot write .*model\.norm:a .*not finite"):
        steering.save_pretrained(folder)
    info = SteeringInfo(recommended_strength=value)
    steering = Steering({"a": Additive(torch.ones(2))}, info=info)
    with pytest.raises(SteeringError, match=r"cannot write .*recommended_strength"):
        steering.save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_vectors_are_the_same_before_and_after(model, tmp_path, dtype):
    torch.manual_seed(3)
    one, two, three, four = (torch.randn(24).to(dtype) for _ in range(4))
    steering = Steering(
        {
            "model.layers.0": Additive(one),
            "model.layers.1.input_layernorm": Affine(two, three),
            "model.layers.2.input_layernorm": Scale(1 + four),
            "model.layers.2": Replace(one),
        }
    )
    read = Steering.from_pretrained(steering.save_pretrained(tmp_path))
    ids = torch.tensor([prompts()[0]])
    for strength in (0.3, [0.3]):
        with torch.no_grad(), steering.applied(model, strength):
            wanted = model(ids).logits
        with torch.no_grad(), read.applied(model, strength):
            assert torch.equal(model(ids).logits, wanted)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["nope"], "target_modules and sites name different modules: "),
        ([], "is only in one of them"),
        (None, "missing or malformed entry"),
        ("drop", "missing or malformed entry: 'target_modules'"),
    ],
)
def test_target_modules_are_those_of_the_sites(folder, targets, message):
    config = json.loads((folder / "steering_config.json").read_text())
    config["target_modules"] = targets
    if targets == "drop":
        del config["target_modules"]
    (folder / "steering_config.json").write_text(json.dumps(config))
    with pytest.raises(SteeringError, match=message):
        Steering.from_pretrained(folder)


def test_an_artifact_that_does_not_list_its_tensors_is_read(folder):
    """As it was written before they were listed."""
    path = folder / "steering_config.json"
    config = json.loads(path.read_text())
    del config["tensors"]
    path.write_text(json.dumps(config))
    Steering.from_pretrained(folder)
    tensors = load_file(folder / "steering.safetensors")
    del tensors["model.norm:a"]
    save_file(tensors, folder / "steering.safetensors")
    with pytest.raises(SteeringError, match="do not belong together"):
        Steering.from_pretrained(folder)


def test_a_steering_says_what_it_is():
    v = torch.ones(4)
    steering = Steering(
        {"x": Affine(v), "y": Affine(v), "z": Additive(v)},
        scope="last_prompt+generated",
        gate=ProbeGate("g", v),
    )
    assert repr(steering) == (
        "Steering(affine at 2 sites, additive at 1 site; scope last_prompt+generated; "
        "row gate at g)"
    )


def test_missing_and_extra_tensors(folder):
    path = folder / "steering.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()}  # not the file
    key = "model.norm:a"
    save_file({k: v for k, v in tensors.items() if k != key}, path)
    with pytest.raises(SteeringError, match=r"safetensors lacks 'model\.norm:a'"):
        Steering.from_pretrained(folder)
    save_file({**tensors, "stranger:a": torch.ones(3)}, path)
    with pytest.raises(SteeringError, match="unexpected tensor 'stranger:a'"):
        Steering.from_pretrained(folder)
    save_file({**tensors, "model.norm:c": torch.ones(3)}, path)
    with pytest.raises(SteeringError, match="missing, extra"):
        Steering.from_pretrained(folder)
    save_file({**tensors, key: torch.full((24,), float("nan"))}, path)
    with pytest.raises(SteeringError, match="not finite"):
        Steering.from_pretrained(folder)
    save_file({**tensors, key: tensors[key] + 1}, path)
    with pytest.raises(SteeringError, match="do not belong together"):
        Steering.from_pretrained(folder)
    save_file({**tensors, key: torch.ones(23)}, path)
    with pytest.raises(SteeringError, match="differ in size"):
        Steering.from_pretrained(folder)


@given(cut=st.floats(0, 0.999))
def test_truncated_anywhere(cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    Steering({"a": Additive(torch.ones(50))}).save_pretrained(folder)
    for name in ("steering.safetensors", "steering_config.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(cut * (len(whole) - 1))])
        with pytest.raises(SteeringError):
            Steering.from_pretrained(folder)
        (folder / name).write_bytes(whole)
    Steering.from_pretrained(folder)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_in_disguise_is_never_loaded(folder, dump):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was loaded",))

    with (folder / "steering.safetensors").open("wb") as file:
        dump(Bomb(), file)
    with pytest.raises(SteeringError, match="pickle"):
        Steering.from_pretrained(folder)


@pytest.mark.parametrize("size", [640, 896, 1152, 1408])
def test_a_header_whose_size_reads_like_a_pickle_is_loaded(tmp_path, size):
    """These sizes begin with 0x80 and 2 to 5, as pickles do."""

    def saved(name):
        folder = Steering({name: Additive(torch.ones(2))}).save_pretrained(tmp_path)
        return folder, int.from_bytes((folder / "steering.safetensors").read_bytes()[:8], "little")

    _, least = saved("x")
    folder, found = saved("x" * (1 + size - least))
    assert found == size
    Steering.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "newer"),
        ({"format_version": None}, "no format_version"),
        *(({"format_version": v}, "must be a number from 1") for v in (0, -3, True, 1.0, "1")),
        ({"recommended_strength": "x"}, r"config\.json: recommended_strength .* number; got 'x'"),
        ({"recommended_strength": math.nan}, r"config\.json: recommended_strength .* finite"),
        ({"recommended_strength": True}, "recommended_strength"),
        ({"verified_strengths": [0.0]}, r"verified_strengths\.1"),
        ({"verified_strengths": [0.0, math.inf]}, r"verified_strengths\.1 .* finite"),
        ({"parameters": "all"}, "parameters should be 'both'"),
        ({"extra": 3}, "extra"),
        ({"data_digests": {"anchors": 1}}, r"data_digests\.anchors"),
        ({"fingerprint": 5}, "fingerprint"),
        ({"sites": None}, "malformed"),
        ({"sites": {}}, "at least one"),
        ({"token_scope": "sometimes"}, "token scope"),
        ({"gate": {"kind": "oracle"}}, "unknown gate"),
        ({"gate": {"kind": "probe", "site": "model.layers.0"}}, "without its probe"),
        ({"sites": {"model.norm": "rotate"}}, "unknown transform"),
    ],
)
def test_configs_that_cannot_be_read(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(SteeringError, match=message):
        Steering.from_pretrained(folder)


def test_a_config_nested_without_end(folder):
    (folder / "steering_config.json").write_text("[" * 100_000)
    with pytest.raises(SteeringError, match="not readable JSON"):
        Steering.from_pretrained(folder)


def test_a_tensor_of_eight_bits(folder):
    tensors = load_file(folder / "steering.safetensors")
    name = min(tensors)
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "steering.safetensors")
    with pytest.raises(SteeringError, match="floating-point vector"):
        Steering.from_pretrained(folder)


def test_entries_of_later_versions_are_no_reason(folder):
    edit(folder, colour="blue")
    Steering.from_pretrained(folder)


def test_sources_that_are_no_artifact(tmp_path):
    with pytest.raises(SteeringError, match=r"steering_config\.json and steering"):
        Steering.from_pretrained(tmp_path)
    with pytest.raises(SteeringError, match="no such folder"):
        Steering.from_pretrained(tmp_path / "nowhere")


def test_another_model(model, folder, tmp_path):
    read = Steering.from_pretrained(folder)
    tuned = llama()
    with pytest.raises(SteeringError, match=r"made for owner/model.*other weights"):
        read.attach(tuned)
    read.attach(tuned, allow_mismatch=True).detach()
    with pytest.raises(SteeringError, match="other names or shapes"):
        read.attach(llama(intermediate_size=40))
    read.attach(model).detach()


def test_hub_round_trip_through_a_stand_in(steering, tmp_path, monkeypatch):
    """Push and pull against a folder that plays the hub."""
    import shutil
    from types import SimpleNamespace

    hub = tmp_path / "hub"

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            (hub / repo_id).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, hub / repo_id, dirs_exist_ok=True)
            return SimpleNamespace(commit_url=f"hub/{repo_id}/commit/1")

        def repo_info(self, repo_id, *, repo_type, revision, timeout):
            assert (repo_type, revision) == ("model", None)
            if repo_id == "me/unreachable":
                raise ConnectionError

    def download(repo_id, *, revision, allow_patterns, local_files_only):
        assert local_files_only == (repo_id == "me/unreachable")
        if not (hub / repo_id).is_dir():
            raise FileNotFoundError(f"404: {repo_id}")
        return str(hub / repo_id)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert steering.push_to_hub("me/debiased") == "hub/me/debiased/commit/1"
    assert Steering.from_pretrained("me/debiased").digest == steering.digest
    with pytest.raises(SteeringError, match="404"):
        Steering.from_pretrained("me/other")
    with pytest.raises(SteeringError, match="the hub does not answer, and its cache has none"):
        Steering.from_pretrained("me/unreachable")

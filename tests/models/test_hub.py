"""Data sets where the hub does not answer: from its cache, or an error, at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# The cache as `datasets` leaves it: FOLDER/OWNER___NAME/CONFIG/VERSION/HASH.
PREPARE = """
import json, pathlib, shutil, sys, datasets
home = pathlib.Path(sys.argv[1])
rows = home / "rows.json"
rows.write_text(json.dumps([{"x": 1}, {"x": 2}]))
builder = datasets.load_dataset_builder("json", data_files={"test": str(rows)})
builder.download_and_prepare()
kept = home / "datasets/someone___small/All/0.0.0" / ("0" * 40)
kept.mkdir(parents=True)
for file in pathlib.Path(builder.cache_dir).iterdir():
    shutil.copy(file, kept / file.name.replace("json-", "small-"))
info = json.loads((kept / "dataset_info.json").read_text())
(kept / "dataset_info.json").write_text(json.dumps(info | {"config_name": "All"}))
"""
ASK = """
import sys, time, datasets
from equipoise.tasks.hub import MissingDataError, hub_rows
begun = time.time()
try: print(hub_rows(sys.argv[1], "All", "test", instead="do without"))
except MissingDataError as error: print(error)
print(time.time() - begun < 12)
"""


def test_the_cache_is_read_at_once_and_what_it_lacks_is_said(tmp_path):
    pytest.importorskip("datasets")

    def python(code, word):
        env = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
        run = [sys.executable, "-c", code, str(word)]
        return subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout

    python(PREPARE, tmp_path)
    assert python(ASK, "someone/small") == "[{'x': 1}, {'x': 2}]\nTrue\n"
    said = python(ASK, "someone/else")
    assert said.startswith("someone/else cannot be read from the hub (")
    assert said.endswith("; do without\nTrue\n")

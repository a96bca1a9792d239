import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import torch
import yaml

from llmrec import hub
from llmrec.baselines import Fusion, ItemKNN
from llmrec.schema import DataError
from tests.tiny import make_catalog, make_model

METRICS = {
    "protocol": {"dataset": "small", "split": "test", "exclude_seen": True, "refit": True, "tuning": "lora"},
    "split_fingerprint": "0123456789abcdef",
    "results": {
        "lcrec": {"ndcg@10": 0.06, "hit_rate@10": 0.12, "valid_rate": 1.0, "intervals": {"ndcg@10": [0.05, 0.07]}},
        "popularity": {"ndcg@10": 0.02, "hit_rate@10": 0.05, "valid_rate": 1.0},
        "item_knn": {"ndcg@10": 0.1, "hit_rate@10": 0.18, "valid_rate": 1.0},
    },
    "seconds": {},
}


@pytest.fixture(scope="module")
def item_tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("item_tokenizer")
    (folder / "config.json").write_text("{}")
    (folder / "inner").mkdir()
    (folder / "inner" / "codebooks.safetensors").write_bytes(bytes(range(256)))
    return folder


@pytest.fixture
def catalog():
    return make_catalog(titles=[f"Film {number} <a_1> | `x` \"y\" 'z'" for number in range(30)])


def save(folder, catalog, item_tokenizer_folder, architecture="qwen3"):
    model, tokenizer, vocabulary = make_model(catalog, architecture)
    config, prompts = {"learning_rate": 0.001, "name": "süß"}, {"sequential": "Next after {history}?"}
    hub.save_checkpoint(folder, model, tokenizer, catalog, item_tokenizer_folder, config, prompts, method="lcrec")
    history = vocabulary.item_token_ids(catalog.semantic_ids[:2]).reshape(-1)
    return model, tokenizer, "next after " + tokenizer.decode(history)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("architecture", ["qwen3", "t5"])
def test_round_trip(tmp_path, catalog, item_tokenizer_folder, architecture):
    model, tokenizer, prompt = save(tmp_path, catalog, item_tokenizer_folder, architecture)
    loaded = hub.load_checkpoint(tmp_path)
    assert loaded.catalog.fingerprint == catalog.fingerprint
    assert (loaded.config["name"], loaded.method) == ("süß", "lcrec")
    assert loaded.prompts == {"sequential": "Next after {history}?"}
    assert not loaded.model.training
    ids = tokenizer(prompt)["input_ids"]
    assert loaded.tokenizer(prompt)["input_ids"] == ids
    inputs = {"input_ids": torch.tensor([ids])}
    if architecture == "t5":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    assert torch.equal(loaded.model(**inputs).logits, model(**inputs).logits)
    files = contents(tmp_path)
    copied = {path: files[f"item_tokenizer/{path}"] for path in contents(item_tokenizer_folder)}
    assert copied == contents(item_tokenizer_folder)
    info = json.loads(files["llmrec.json"])
    assert info["catalog_fingerprint"] == catalog.fingerprint
    assert {"llmrec", "torch", "transformers", "python"} == info["versions"].keys()
    assert not [path for path in files if path.endswith((".bin", ".pt", ".pkl"))]


def test_saving_again_replaces_the_checkpoint_and_leaves_other_files(tmp_path, catalog, item_tokenizer_folder):
    save(tmp_path, catalog, item_tokenizer_folder)
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"earlier shard")
    (tmp_path / "item_tokenizer" / "earlier.json").write_text("{}")
    other = make_catalog(seed=1)
    save(tmp_path, other, item_tokenizer_folder)
    assert hub.load_checkpoint(tmp_path).catalog.fingerprint == other.fingerprint
    assert (tmp_path / "checkpoint-5" / "trainer_state.json").exists()
    assert not (tmp_path / "model-00001-of-00002.safetensors").exists()
    assert not (tmp_path / "item_tokenizer" / "earlier.json").exists()


def make_fusion(num_items):
    return Fusion(ItemKNN().fit([[0, 1, 2], [2, 3]], num_items), 0.3)


def test_nobody_ranks_with_a_checkpoint_whose_run_has_not_decided_on_fusion(tmp_path, catalog, item_tokenizer_folder):
    model, tokenizer, _ = make_model(catalog)
    saved = (tmp_path, model, tokenizer, catalog, item_tokenizer_folder, {}, {})
    hub.save_checkpoint(*saved, method="lcrec", fusion_pending=True)
    assert hub.load_checkpoint(tmp_path).model is not None
    with pytest.raises(DataError, match="run the recipe again"):
        hub.load_checkpoint(tmp_path).fusion  # noqa: B018 -- reading it is what is tested
    hub.save_fusion(tmp_path, make_fusion(len(catalog)))
    assert hub.load_checkpoint(tmp_path).fusion.weight == 0.3
    # a later run without one: what lies there still, as it would in a repository on the Hub, is not read
    hub.save_fusion(tmp_path, None)
    make_fusion(len(catalog)).save(tmp_path / "fusion")
    assert hub.load_checkpoint(tmp_path).fusion is None


def test_links_of_another_catalogue_are_noticed(tmp_path, catalog, item_tokenizer_folder):
    save(tmp_path, catalog, item_tokenizer_folder)
    hub.save_fusion(tmp_path, make_fusion(len(catalog) + 1))
    with pytest.raises(DataError, match="links 31 items, and the catalogue has 30"):
        hub.load_checkpoint(tmp_path).fusion  # noqa: B018 -- reading it is what is tested


def test_a_failed_save_leaves_the_earlier_checkpoint(tmp_path, catalog, item_tokenizer_folder, monkeypatch):
    _, tokenizer, _ = save(tmp_path, catalog, item_tokenizer_folder)
    before = contents(tmp_path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, make_catalog(seed=1), item_tokenizer_folder)
    assert contents(tmp_path) == before


def test_the_weights_may_be_read_by_whoever_may_read_the_rest_and_nothing_is_left(
    tmp_path, catalog, item_tokenizer_folder
):
    (tmp_path / ".writing-killed").mkdir()
    save(tmp_path, catalog, item_tokenizer_folder)
    assert len({path.stat().st_mode for path in tmp_path.iterdir() if path.is_file()}) == 1
    assert not list(tmp_path.glob(".*"))


def test_refuses_what_would_not_load(tmp_path, catalog, item_tokenizer_folder):
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    model, tokenizer, _ = make_model(catalog)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="merge_and_unload"):
        hub.save_checkpoint(tmp_path, adapted, tokenizer, catalog, item_tokenizer_folder, {}, {}, method="lcrec")
    with pytest.raises(FileNotFoundError, match=r"ItemTokenizer\.save"):
        hub.save_checkpoint(tmp_path, model, tokenizer, catalog, tmp_path / "nowhere", {}, {}, method="lcrec")


def test_another_catalog_is_noticed(tmp_path, catalog, item_tokenizer_folder):
    save(tmp_path, catalog, item_tokenizer_folder)
    make_catalog(seed=1).save(tmp_path)
    with pytest.raises(DataError, match="belongs to the catalog"):
        hub.load_checkpoint(tmp_path)


def test_says_what_is_not_a_checkpoint(tmp_path):
    assert hub.resolve_checkpoint(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match=r"holds no llmrec\.json"):
        hub.load_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a model on the Hub"):
        hub.resolve_checkpoint("outputs/no/such/folder")
    with pytest.raises(FileNotFoundError, match="nothing to push"):
        hub.push_to_hub(tmp_path / "nowhere", "user/name")


def test_card(tmp_path, catalog, item_tokenizer_folder):
    _, _, prompt = save(tmp_path, catalog, item_tokenizer_folder)
    hub.save_model_card(
        tmp_path, METRICS, prompt, base_model="Qwen/Qwen3-0.6B", datasets=["user/small"], license="apache-2.0"
    )
    card = (tmp_path / "README.md").read_text()
    _, front_matter, text = card.split("---\n", 2)
    data = yaml.safe_load(front_matter)
    assert data["library_name"] == "transformers"
    assert data["base_model"] == "Qwen/Qwen3-0.6B"
    assert data["datasets"] == ["user/small"]
    assert data["license"] == "apache-2.0"
    assert {"llmrec", "lcrec"} <= set(data["tags"])
    result = data["model-index"][0]["results"][0]
    assert result["dataset"]["split"] == "test"
    assert {"type": "ndcg@10", "value": 0.06} in result["metrics"]
    assert "| lcrec | 0.1200 | 0.0600 (0.0500-0.0700) | 1.0000 |" in text
    assert "item_knn, at ndcg@10 0.1000, is **above** the model's 0.0600" in text
    for part in ("0123456789abcdef", catalog.fingerprint, "refit: True", "tuning lora"):
        assert part in text


def test_card_needs_the_methods_own_results(tmp_path, catalog, item_tokenizer_folder):
    save(tmp_path, catalog, item_tokenizer_folder)
    metrics = {**METRICS, "results": {"popularity": METRICS["results"]["popularity"]}}
    with pytest.raises(DataError, match="needs those of 'lcrec'"):
        hub.save_model_card(tmp_path, metrics, "")


def test_card_does_not_tell_local_paths(tmp_path, catalog, item_tokenizer_folder):
    save(tmp_path / "run", catalog, item_tokenizer_folder)
    (tmp_path / "qwen-copy").mkdir()
    hub.save_model_card(tmp_path / "run", METRICS, "", base_model=str(tmp_path / "qwen-copy"))
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Fine-tuned from a local model, qwen-copy" in card
    assert str(tmp_path) not in card
    assert "base_model" not in card


def run_card_snippet(folder, cwd, environment=None):
    """The card's python block in a process where llmrec cannot be imported; the lines it prints."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (Path(folder) / "README.md").read_text(), re.DOTALL)
    code = f"import sys\nsys.modules['llmrec'] = None\n{snippet}"
    return run_python(code, cwd, environment).splitlines()


def run_python(code, cwd, environment=None):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **(environment or {"HF_HUB_OFFLINE": "1"})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_pushing_a_dataset_does_not_wait_for_torch(tmp_path):
    assert run_python("import sys, llmrec.hub; print('torch' in sys.modules)", tmp_path).strip() == "False"


@pytest.mark.slow
def test_the_snippet_runs_without_llmrec_for_an_encoder_decoder(tmp_path, catalog, item_tokenizer_folder):
    _, _, prompt = save(tmp_path, catalog, item_tokenizer_folder, "t5")
    hub.save_model_card(tmp_path, METRICS, prompt)
    assert len(run_card_snippet(tmp_path, tmp_path)) == 10


PUSH_AND_LOAD = """
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from llmrec import hub

print(hub.push_to_hub("checkpoint", "user/tiny", private=True))
hub.push_to_hub("checkpoint", "user/tiny")  # nothing changed: no error
first = hub.resolve_checkpoint("user/tiny")
Path("checkpoint/notes.md").write_text("second commit")
Path("checkpoint/model-00001-of-00002.safetensors").unlink()
Path("checkpoint/fusion/links.safetensors").unlink()
hub.push_to_hub("checkpoint", "user/tiny")
loaded = hub.load_checkpoint("user/tiny")
pinned = hub.load_checkpoint("user/tiny", revision=first.name)
plain = AutoModelForCausalLM.from_pretrained("user/tiny")
tokenizer = AutoTokenizer.from_pretrained("user/tiny")
ids = torch.tensor([tokenizer("next <a_1><b_2><c_3>")["input_ids"]])
assert torch.equal(plain(ids).logits, loaded.model(ids).logits)
assert pinned.folder == first != loaded.folder
assert not (first / "notes.md").exists()
assert (first / "fusion/links.safetensors").exists()
for name, revision in (("user/none", None), ("user/tiny", "v9")):
    try:
        hub.resolve_checkpoint(name, revision)
    except FileNotFoundError as error:
        print(error)
print(loaded.folder)
"""


@pytest.mark.slow
def test_a_model_goes_to_the_hub_and_comes_back_byte_for_byte(
    tmp_path, catalog, item_tokenizer_folder, hub_environment
):
    folder = tmp_path / "checkpoint"
    _, _, prompt = save(folder, catalog, item_tokenizer_folder)
    hub.save_model_card(folder, METRICS, prompt, repo_id="user/tiny")
    not_pushed = {"checkpoint-5/trainer_state.json", "training_args.bin", ".secret"}
    (folder / "checkpoint-5").mkdir()
    for name in not_pushed:
        (folder / name).write_text("stays here")
    (folder / "fusion").mkdir()
    for name in ("model-00001-of-00002.safetensors", "fusion/links.safetensors"):
        (folder / name).write_text("of an earlier checkpoint")  # the second push has them no more
    lines = run_python(PUSH_AND_LOAD, tmp_path, hub_environment).splitlines()
    assert lines[0] == f"{hub_environment['HF_ENDPOINT']}/user/tiny"
    assert "neither a folder here nor a model on the Hub" in lines[-3]
    assert "has no revision 'v9'" in lines[-2]
    expected = contents(folder)
    assert contents(lines[-1]) == {name: data for name, data in expected.items() if name not in not_pushed}
    assert len(run_card_snippet(lines[-1], tmp_path, hub_environment)) == 10
    with pytest.raises(HTTPError, match="404"):  # it was pushed as a private one, and this request has no token
        urlopen(f"{hub_environment['HF_ENDPOINT']}/api/models/user/tiny")


PUSH_DATASET = """
from datasets import load_dataset
from huggingface_hub import snapshot_download
from llmrec.hub import push_to_hub

print(push_to_hub("data", "user/films", repo_type="dataset"))
print(snapshot_download("user/films", repo_type="dataset"))
print(load_dataset("user/films", split="train")[7]["title"])
"""


@pytest.mark.slow
def test_a_dataset_goes_to_the_hub_and_comes_back_byte_for_byte(tmp_path, catalog, hub_environment):
    catalog.save(tmp_path / "data")
    (tmp_path / "data" / "README.md").write_text("---\nlicense: mit\n---\n# Films\n")
    url, folder, title = run_python(PUSH_DATASET, tmp_path, hub_environment).splitlines()
    assert url == f"{hub_environment['HF_ENDPOINT']}/datasets/user/films"
    assert contents(folder) == contents(tmp_path / "data")
    assert title == catalog.titles[7]

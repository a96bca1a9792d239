"""Every command of README, docs, recipes and configs is run here, made tiny by options that follow it, or listed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.recipes.conftest import load_recipe

ROOT = Path(__file__).resolve().parents[1]

TINY = (
    "--hidden_size 32 --num_layers 1 --max_steps 2 --save_strategy steps --save_steps 2 --valid_users 20 "
    "--codebook_size 16 --item_embedding collaborative --num_beams 20 --disable_tqdm True"
)
RL_TINY = (
    "--max_steps 2 --save_strategy steps --save_steps 2 --valid_users 20 --num_beams 20 --disable_tqdm True "
    "--codebook_size 16 --item_embedding collaborative --num_generations 4 --per_device_train_batch_size 16"
)
CPU = "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/lcrec.py"

SETREC = "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/setrec.py"
SETREC_TINY = (
    "--max_steps 2 --save_strategy steps --save_steps 2 --num_layers 1 --hidden_size 32 --sasrec_epochs 1 "
    "--max_history 10 --disable_tqdm True"
)

ULMREC = "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/ulmrec.py"
ULMREC_TINY = (
    "--max_steps 2 --save_strategy steps --save_steps 2 --num_layers 1 --hidden_size 32 --sasrec_epochs 1 "
    "--max_history 10 --disable_tqdm True --num_beams 20 --codebook_size 16 --item_embedding collaborative "
    "--user_quantizer residual_kmeans --valid_users 20 --candidate_prefixes 1"
)

LREM = "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/lrem.py"
#: Both stages tiny: the second one's options stand in a file.
LREM_TINY = (
    "--max_steps 2 --save_strategy steps --save_steps 2 --num_layers 1 --hidden_size 32 --valid_queries 20 "
    "--per_device_train_batch_size 16 --disable_tqdm True --rl_config lrem_rl.yaml"
)
LREM_RL = "max_steps: 2\nsave_strategy: steps\nsave_steps: 2\nper_device_train_batch_size: 32\n"

#: Command -> the options appended to it here. They are all that differs from what the page says.
RUN: dict[str, str] = {
    "python data_prep/movielens.py --output_dir data/ml-100k": "",
    "python data_prep/semantic_ids.py --dataset_dir data/ml-100k": "--combine collaborative --codebook_size 16",
    "python data_prep/semantic_ids.py --dataset_dir data/ml-100k --num_codebooks 2 --codebook_size 1024": (
        "--combine collaborative --codebook_size 16"
    ),
    "python data_prep/instructions.py --dataset_dir data/ml-100k --show 2": "--tasks seqrec itemsearch",
    "python -m benchmarks.training_memory": "",
    "python -m benchmarks.training_memory --tokens 4096": "",
    "python -m benchmarks.decoding --quick": (
        "--beams 8 --histories 3 --catalog_sizes 500 5000 --repeats 1 --output decoding.json"
    ),
    "python recipes/lcrec.py --help": "",
    SETREC: SETREC_TINY,
    f"{SETREC} --config recipes/configs/setrec/t5_ml-100k.yaml": SETREC_TINY,
    ULMREC: ULMREC_TINY,
    f"{ULMREC} --config recipes/configs/ulmrec/titles_ml-100k.yaml": ULMREC_TINY,
    f"{ULMREC} --config recipes/configs/ulmrec/letters_ml-100k.yaml": ULMREC_TINY,
    "python -m benchmarks.ulmrec --dataset_dir data/ml-100k": (
        f"--indices added_tokens --seeds 0 --output ulmrec.json --options {ULMREC_TINY}"
    ),
    "python -m benchmarks.ulmrec_letters --dataset_dir data/ml-100k": (
        "--num_users 8 --model tiny --output letters.json"
    ),
    "python -m benchmarks.ulmrec_titles --dataset_dir data/beauty": (
        "--dataset_dir data/ml-100k --num_users 4 --num_layers 1 --repeats 1 --output titles.json"
    ),
    LREM: LREM_TINY,
    "llmrec embed outputs/lrem --output embeddings.safetensors --index approximate": "",
    "python -m benchmarks.lrem_index --checkpoint outputs/lrem --queries_dir data/ml-100k_queries": (
        "--num_items 4000 --num_queries 8 --repeats 1 --output lrem_index.json"
    ),
    "python -m benchmarks.lrem --queries_dir data/ml-100k_queries": (
        f"--seeds 0 --show_failed 1 --output lrem.json --options {LREM_TINY.replace(' --rl_config lrem_rl.yaml', '')}"
    ),
    "python -m benchmarks.quality --dataset data/ml-100k": (
        f"--methods lcrec --seeds 0 --output quality.json --options {TINY}"
    ),
    "python -m benchmarks.ablation --dataset_dir data/ml-100k": (
        f"--changes AdamW --seeds 0 --output ablation.json --options {TINY}"
    ),
    "python -m benchmarks.setrec": (f"--models 'SETRec, Qwen3' --seeds 0 --output setrec.json --options {SETREC_TINY}"),
    "python -m benchmarks.setrec_cold --dataset_dir data/ml-100k": (
        f"--seeds 0 --output setrec_cold.json --options {SETREC_TINY}"
    ),
    "python -m benchmarks.setrec_speed --dataset_dir data/ml-100k": (
        "--num_users 8 --repeats 1 --num_layers 1 --hidden_size 32 --output setrec_speed.json"
    ),
    "python -m benchmarks.setrec_search --checkpoint outputs/setrec --dataset_dir data/ml-100k_temporal": (
        "--num_items 4000 --num_users 8 --repeats 1 --output setrec_search.json"
    ),
    "python -m benchmarks.sasrec --dataset_dir data/ml-100k": "--seeds 0 --num_epochs 1 --output sasrec.json",
    CPU: TINY,
    f"{CPU} --config recipes/configs/lcrec/demo.yaml": TINY,
    "llmrec recommend outputs/demo --histories data/ml-100k/test.parquet --output recommendations.parquet": "",
    f"{CPU} --config recipes/configs/lcrec/ml-100k_strict.yaml": TINY,
    "python benchmarks/score_kinds.py --checkpoint outputs/ml-100k_strict --dataset_dir data/ml-100k": "--num_beams 10",
    "python -m benchmarks.generate_parity --checkpoint outputs/ml-100k_strict --dataset_dir data/ml-100k": (
        "--num_users 24 --num_beams 10 --output parity.json"
    ),
    f"{CPU} --config recipes/configs/lcrec/ml-100k_rl.yaml": RL_TINY,
    "python -m benchmarks.reinforcement --checkpoints outputs/ml-100k_strict": (
        f"--seeds 1 --variants --output rl.json --options {RL_TINY}"
    ),
    f"{CPU} --config recipes/configs/lcrec/tiger_ml-100k.yaml": f"{TINY} --per_device_train_batch_size 4",
}

_DATA_PAGE = "tests/data_prep runs every block of docs/data.md as pasted"
_GPU = "needs a GPU and the Hub; its config is parsed below"
_SINGLE = "accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/lcrec.py"
_MULTI = "accelerate launch --config_file accelerate_configs/multi_gpu.yaml"
_LORA = "--config recipes/configs/lcrec/qwen3_lora.yaml"
_FULL = "--config recipes/configs/lcrec/qwen3_full.yaml"

_CONFIGS = "accelerate launch --config_file accelerate_configs"
_SHARDING = ("zero2", "zero3", "fsdp2")
_SHARDED = (
    *(f"{_CONFIGS}/{name}.yaml --num_processes 8 recipes/lcrec.py {_FULL}" for name in _SHARDING),
    f"{_CONFIGS}/multi_node.yaml --machine_rank $MACHINE_RANK --main_process_ip $MAIN_IP recipes/lcrec.py {_FULL}",
)
_BATCH = "--per_device_train_batch_size 32"
_TWO_PROCESSES = (
    f"{_CONFIGS}/cpu_2proc.yaml recipes/lcrec.py {_BATCH}",
    *(
        f"{_CONFIGS}/{name}.yaml --num_processes 2 --mixed_precision no recipes/lcrec.py --muon false {_BATCH}"
        for name in ("zero2", "zero3", "fsdp2")
    ),
)

_CURLS = (
    "curl http://127.0.0.1:8000/v1/recommendations -H 'Content-Type: application/json' "
    '-d \'{"users": [{"history": ["50", "172"]}], "k": 5}\'',
    'curl -X POST http://127.0.0.1:8000/v1/catalog/reload -H "Authorization: Bearer $LLMREC_ADMIN_KEY" '
    "-H 'Content-Type: application/json' -d '{\"folder\": \"outputs/new_catalog\"}'",
)
_SEARCH_CURL = (
    "curl http://127.0.0.1:8000/v1/search -H 'Content-Type: application/json' "
    '-d \'{"query": "something to watch at sea", "k": 5, "return_keywords": true}\''
)
_LREM_STAGES = (
    f"{LREM} --stage cold_start --output_dir outputs/lrem_cold_start",
    f"{LREM} --stage rl --model_name_or_path outputs/lrem_cold_start --output_dir outputs/lrem_rl",
)
_TRAINING_BENCHMARKS = (
    "python -m benchmarks.training",
    "python -m benchmarks.training --quick",
    "python -m benchmarks.training_process job.json result.json",
    "python -m benchmarks.training_step_memory ours all 512 memory.json",
    "python -m benchmarks.training_gpu",
    "python -m benchmarks.training_report benchmarks/results/training.json",
)
_SERVING_BENCHMARKS = (
    "python -m vllm.entrypoints.openai.api_server --model CHECKPOINT --logprobs-mode processed_logits "
    "--logits-processors benchmarks.serving_stock:DictTrieProcessor",
    "python -m benchmarks.serving_parity --checkpoint outputs/demo --dataset_dir data/ml-100k",
    "python -m benchmarks.serving --quick",
    "python -m benchmarks.serving --checkpoint outputs/demo --dataset_dir data/ml-100k",
    "python -m benchmarks.serving_nuisance abandon http://127.0.0.1:8000/v1/recommendations body.json 8",
    "python -m benchmarks.serving_soak --engine transformers --checkpoint outputs/demo --dataset_dir data/ml-100k",
    "python -m benchmarks.serving_soak --engine vllm --reload",
)

#: Command -> why it is not run here.
NOT_RUN: dict[str, str] = {
    "llmrec serve outputs/demo": "tests/serving starts it, and runs the client shown with it",
    "pip install -c constraints.txt -e '.[serve]'": "make test has done so",
    "pip uninstall --yes torchvision torchaudio torchcodec": "make test has done so",
    **dict.fromkeys((*_CURLS, _SEARCH_CURL), "tests/serving/test_documented.py runs it"),
    "llmrec serve outputs/lrem": "tests/serving starts such a server, and runs the client shown with it",
    **dict.fromkeys(_LREM_STAGES, "tests/recipes/test_lrem.py runs both stages by themselves"),
    f"{LREM} --config recipes/configs/lrem/electronics.yaml": "trains for minutes; its config is parsed below",
    **{
        f"{_SINGLE.replace('lcrec', 'lrem')} --config recipes/configs/lrem/qwen_{stage}.yaml": _GPU
        for stage in ("cold_start", "rl")
    },
    "python data_prep/queries.py --dataset_dir data/ml-100k --show 2": _DATA_PAGE,
    "python data_prep/queries.py --items catalogue.csv --pairs searches.csv --output_dir data/mine_queries": _DATA_PAGE,
    "python data_prep/queries.py --search ../shared/data/search_electronics "
    "--output_dir data/electronics_queries": _DATA_PAGE,
    "VLLM_USE_V2_MODEL_RUNNER=0 python -m vllm.entrypoints.openai.api_server --model outputs/demo --logits-processors "
    "llmrec.serving.engines.vllm_processor:CatalogLogitsProcessor --logprobs-mode processed_logits "
    "--max-logprobs 200": "tests/serving/test_vllm_engine.py runs the same loop under the same processor",
    **dict.fromkeys(_TRAINING_BENCHMARKS, "tests/test_training_benchmark.py runs it at tiny size"),
    **dict.fromkeys(_SERVING_BENCHMARKS, "tests/test_serving_benchmark.py runs it at tiny size"),
    "python -m benchmarks.quality --dataset ../shared/data/amazon2014_beauty": "hours; it runs on MovieLens above",
    "python -m benchmarks.quality --dataset data/ml-100k --rectools_python .venv-rectools/bin/python": "as below",
    "python -m benchmarks.rectools_sasrec --dataset_dir data/ml-100k --rectools_python .venv-rectools/bin/python": (
        "RecTools needs an environment of its own; tests/test_quality_benchmark.py has a stand-in for it"
    ),
    "make demo": "its recipe is compared with the demo's command below, which is run",
    "make test": "it is what runs this",
    'python -m pytest -m "not slow"': "it would run these tests again",
    "python data_prep/interactions.py --interactions views.csv --items products.csv --output_dir data/mine "
    "--columns user_id=customer item_id=sku timestamp=viewed_at rating=stars title=name --k_core 1": _DATA_PAGE,
    "python data_prep/amazon_reviews.py --output_dir data/gift-cards "
    "--reviews ../shared/data/amazon2018_giftcards_raw/Gift_Cards_5.json.gz "
    "--metadata ../shared/data/amazon2018_giftcards_raw/meta_Gift_Cards.json.gz": _DATA_PAGE,
    "python data_prep/sequences.py --folder ../shared/data/amazon2014_beauty --output_dir data/beauty "
    "--title_columns title idgenrec_text": _DATA_PAGE,
    "python data_prep/published_rows.py --folder ../shared/data/amazon2018_industrial --train_before 1495152000 "
    "--output_dir data/industrial": _DATA_PAGE,
    "python data_prep/steam.py --reviews steam_reviews.json.gz --games steam_games.json.gz --drop_untitled "
    "--split global_temporal --test_fraction 0.17 --k_core 1 --output_dir data/steam": _DATA_PAGE,
    "python data_prep/amazon_reviews.py --release 2023 --category All_Beauty --drop_untitled "
    "--output_dir data/beauty-2023": "needs the Hub; tests/dataset reads files of that release",
    f"{_SINGLE} {_LORA}": _GPU,
    f"{_SINGLE} {_LORA} --dataset_dir data/beauty-2023": _GPU,
    f"{_SINGLE.replace('lcrec', 'setrec')} --config recipes/configs/setrec/qwen_lora.yaml": _GPU,
    **{
        f"python data_prep/amazon_reviews.py --release 2014 --reviews reviews_{category}_5.json.gz --metadata "
        f"meta_{category}.json.gz --drop_untitled --output_dir data/{folder}": "tests/dataset reads that release"
        for category, folder in (("Beauty", "beauty-2014"), ("Video_Games", "games-2014"))
    },
    f"{_SINGLE.replace('lcrec', 'ulmrec')} --config recipes/configs/ulmrec/beauty_letters.yaml": _GPU,
    f"{_SINGLE.replace('lcrec', 'ulmrec')} --config recipes/configs/ulmrec/games_letters.yaml": _GPU,
    f"{_MULTI} recipes/lcrec.py {_FULL}": _GPU,
    f"{_MULTI} --num_processes 8 recipes/lcrec.py {_FULL}": _GPU,
    f"{_MULTI} --num_processes 8 recipes/lcrec.py {_FULL} --dataset_dir data/beauty-2023": _GPU,
    **dict.fromkeys(_SHARDED, _GPU),
    **dict.fromkeys(_TWO_PROCESSES, "tests/recipes/test_launch.py launches the file"),
    "python -m benchmarks.launch_curves": "tests/recipes/test_launch.py runs its launches, and a kill, at tiny size",
    "python data_prep/instructions.py --dataset_dir data/ml-100k --tasks itemsearch preferenceobtain "
    "--writer_base_url http://localhost:8000/v1 --writer_model Qwen/Qwen3-8B --writer_requests_per_minute 600 "
    "--max_history 20": ("needs a language model's endpoint; tests/prompts runs the script against a local server"),
}


def _pages() -> list[Path]:
    return [*ROOT.glob("*.md"), ROOT / "recipes" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _documented() -> dict[str, Path]:
    """Commands in ```bash blocks of pages, in docstrings of scripts and in the headers of YAML files."""
    found: dict[str, Path] = {}
    for page in _pages():
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for command in _commands(block):
                found.setdefault(command, page)
    for script in [*(ROOT / "recipes").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        for command in _commands(re.match(r'"""(.*?)"""', script.read_text(), re.DOTALL)[1]):
            found.setdefault(command, script)
    for config in [*(ROOT / "recipes" / "configs").rglob("*.yaml"), *(ROOT / "accelerate_configs").glob("*.yaml")]:
        header = "\n".join(line.lstrip("# ") for line in config.read_text().splitlines() if line.startswith("#"))
        for command in _commands(header.replace(": accelerate", ":\naccelerate").replace(": make", ":\nmake")):
            found.setdefault(command, config)
    return found


def _commands(text: str) -> list[str]:
    """Lines that start a command, with their continuations joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (line.strip() for line in joined.splitlines())
    return [line for line in lines if re.match(r"(python|accelerate|make|pip|llmrec|curl|VLLM_\w+=\d python) ", line)]


DOCUMENTED = _documented()


def test_every_documented_command_is_run_here_or_listed_with_a_reason() -> None:
    known = {**RUN, **NOT_RUN}
    assert not {command: str(page.relative_to(ROOT)) for command, page in DOCUMENTED.items() if command not in known}
    assert not [command for command in known if command not in DOCUMENTED], "stale entries"


@pytest.mark.slow
def test_the_documented_commands_work(tmp_path: Path) -> None:
    """In the order of RUN, in one working folder, since later commands read what earlier ones wrote."""
    for name in ("data_prep", "recipes", "accelerate_configs", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    (tmp_path / "lrem_rl.yaml").write_text(LREM_RL)
    for command, options in RUN.items():
        ran = f"{command} {options}".strip()
        assert ran.startswith(command)
        result = subprocess.run(
            shlex.split(ran), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert result.returncode == 0, f"{ran}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"


def test_make_demo_is_the_documented_command() -> None:
    printed = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = next(command for command in RUN if "configs/lcrec/demo.yaml" in command)
    assert command in printed


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_config_is_understood_and_opens_with_its_command(path: Path) -> None:
    relative = path.relative_to(ROOT)
    assert f"--config {relative}" in path.read_text().splitlines()[1]
    recipe = load_recipe(relative.parts[2])
    options = ["--config", str(path)]
    if yaml.safe_load(path.read_text()).get("bf16"):
        options += ["--bf16", "false"]  # a CPU without bf16 may parse it, too
    args, config, _ = recipe.parse_arguments(options)
    values = yaml.safe_load(path.read_text())
    for name in ("tasks", "num_beams"):
        if name in values:
            assert getattr(args, name) == values[name]
    assert config.output_dir == values["output_dir"]


@pytest.mark.parametrize("path", sorted((ROOT / "accelerate_configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_accelerate_config_parses(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert {"compute_environment", "distributed_type", "num_processes", "mixed_precision"} <= set(values)

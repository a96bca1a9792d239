"""Every file of accelerate_configs/ is resolved by Accelerate to the launch that its header promises."""

from argparse import Namespace
from pathlib import Path

import pytest
from accelerate.commands import launch
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

FOLDER = Path(__file__).resolve().parents[1] / "accelerate_configs"
LAUNCHERS = ("simple_launcher", "multi_gpu_launcher", "deepspeed_launcher")

#: File -> launcher, machines, processes, precision.
PLANS = {
    "cpu": ("simple_launcher", 1, 1, "no"),
    "cpu_2proc": ("multi_gpu_launcher", 1, 2, "no"),
    "single_gpu": ("simple_launcher", 1, 1, "bf16"),
    "multi_gpu": ("multi_gpu_launcher", 1, 8, "bf16"),
    "zero2": ("deepspeed_launcher", 1, 8, "bf16"),
    "zero3": ("deepspeed_launcher", 1, 8, "bf16"),
    "fsdp2": ("multi_gpu_launcher", 1, 8, "bf16"),
    "multi_node": ("multi_gpu_launcher", 2, 16, "bf16"),
}


def _resolve(monkeypatch: pytest.MonkeyPatch, name: str, *options: str) -> tuple[str, Namespace]:
    """The launcher that ``accelerate launch`` would call, and with what."""
    called = []
    for launcher in LAUNCHERS:
        monkeypatch.setattr(launch, launcher, lambda args, launcher=launcher: called.append((launcher, args)))
    command = ["--config_file", str(FOLDER / f"{name}.yaml"), "--main_process_port", "0", *options, "recipe.py"]
    launch.launch_command(launch.launch_command_parser().parse_args(command))
    (plan,) = called
    return plan


def test_every_file_has_its_plan() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PLANS)


@pytest.mark.parametrize("name", PLANS)
def test_a_file_resolves_to_its_plan(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    launcher, args = _resolve(monkeypatch, name)
    assert (launcher, args.num_machines, args.num_processes, args.mixed_precision) == PLANS[name]


def test_two_cpu_processes_see_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _, args = _resolve(monkeypatch, "cpu_2proc")
    environment = prepare_multi_gpu_env(args)
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1,-1"
    assert args.nproc_per_node == "2"


@pytest.mark.parametrize(("name", "stage"), [("zero2", "2"), ("zero3", "3")])
def test_zero_reaches_the_processes(monkeypatch: pytest.MonkeyPatch, name: str, stage: str) -> None:
    pytest.importorskip("deepspeed", reason="needs the deepspeed extra")
    _, args = _resolve(monkeypatch, name, "--num_processes", "2", "--mixed_precision", "no")
    args.deepspeed_fields_from_accelerate_config = ""
    _, environment = prepare_deepspeed_cmd_env(args)
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == stage
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    assert args.nproc_per_node == "2"


def test_fsdp2_gathers_whole_weights_for_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = prepare_multi_gpu_env(_resolve(monkeypatch, "fsdp2")[1])
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false", "every process loads the model and its new rows"


def test_the_second_machine_joins_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--machine_rank", "1", "--main_process_ip", "10.0.0.1")
    _, args = _resolve(monkeypatch, "multi_node", *options)
    prepare_multi_gpu_env(args)
    assert (args.nnodes, args.node_rank, args.nproc_per_node) == ("2", 1, "8")
    assert args.rdzv_endpoint == f"10.0.0.1:{args.main_process_port}"

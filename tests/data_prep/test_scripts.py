"""The doors to data preparation: what they print, what they refuse, what they send to the Hub, and docs/data.md."""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmrec.dataset import PreparationConfig, RecDataset
from llmrec.dataset.folder import TABLES
from tests.hub_server import File, Handler, Hub, Repo

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("movielens", "amazon_reviews", "steam", "interactions", "sequences")
DOCS = (ROOT / "docs" / "data.md").read_text()


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "data_prep" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_movielens(folder: Path, users: int = 30, items: int = 15) -> Path:
    """A small stand-in in the form that the RecBole wheel has; every user and item is in the 5-core."""
    folder.mkdir(parents=True)
    events = [f"{user}\t{item}\t4\t{880_000_000 + item * 60}" for user in range(1, users + 1) for item in range(items)]
    films = [f"{item}\tFilm {item}\t1995\tDrama" for item in range(items)]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "ml-100k.inter").write_text("\n".join([header, *events]) + "\n")
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "ml-100k.item").write_text("\n".join([header, *films]) + "\n")
    return folder


def write_steam(folder: Path) -> None:
    """Reviews and games in the form that they are distributed in, a day for each."""
    days = [(user, game) for game in range(1, 7) for user in "abcd"]
    reviews = (
        f"{{u'username': u'{user}', u'product_id': u'{game}', u'date': u'2017-01-{day:02d}'}}\n"
        for day, (user, game) in enumerate(days, start=1)
    )
    games = (f"{{u'id': u'{game}', u'title': u'Game {game}', u'genres': [u'Indie']}}\n" for game in range(1, 7))
    (folder / "steam_reviews.json.gz").write_text("".join(reviews))  # read by what is in it, not by its name
    (folder / "steam_games.json.gz").write_text("".join(games))


def reviews_of_2023() -> tuple[str, str]:
    """Review and product file of a category, as JSON lines."""
    reviews = [
        {"user_id": f"u{user}", "parent_asin": f"B{item}", "timestamp": 1_600_000_000_000 + item, "rating": 5.0}
        for user in range(6)
        for item in range(6)
    ]
    products = [{"parent_asin": f"B{item}", "title": f"Soap {item}", "store": "S"} for item in range(6)]
    first, second = ("".join(json.dumps(row) + "\n" for row in rows) for rows in (reviews, products))
    return first, second


def write_tables(folder: Path) -> list[str]:
    rows = [f"u{user},{item},{1_700_000_000 + item}" for user in range(4) for item in range(5)]
    (folder / "views.csv").write_text("\n".join(["user_id,sku,timestamp", *rows]) + "\n")
    (folder / "products.csv").write_text("sku,title\n" + "".join(f"{item},Thing {item}\n" for item in range(5)))
    tables = ["--interactions", str(folder / "views.csv"), "--items", str(folder / "products.csv")]
    return [*tables, "--columns", "item_id=sku", "--k_core", "3"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_teaches_by_example_and_shows_defaults(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load_script(name).main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"  python data_prep/{name}.py" in printed
    assert "(default: 5)" in printed


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_can_say_everything_that_defines_a_split(name: str) -> None:
    parser: argparse.ArgumentParser = load_script(name).build_parser()
    assert set(PreparationConfig.__dataclass_fields__) <= {action.dest for action in parser._actions}


def test_a_second_run_does_nothing_and_other_options_need_overwrite(tmp_path: Path, capsys) -> None:
    script, out = load_script("movielens"), tmp_path / "out"
    arguments = ["--path", str(write_movielens(tmp_path / "raw")), "--output_dir", str(out)]
    script.main(arguments)
    assert "ml-100k: 30 users, 15 items, 450 interactions; split" in capsys.readouterr().out
    before = (out / "test.parquet").stat().st_mtime_ns
    script.main(arguments)
    assert "up to date: nothing to do" in capsys.readouterr().out
    assert (out / "test.parquet").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match=r"max_history: 50 -> 3.*--overwrite"):
        script.main([*arguments, "--max_history", "3"])
    script.main([*arguments, "--max_history", "3", "--overwrite"])
    assert RecDataset.load(out).test["history"].to_pylist()[0] == ["11", "12", "13"]


def test_own_tables_and_histories_go_through_with_their_options_recorded(tmp_path: Path) -> None:
    load_script("interactions").main([*write_tables(tmp_path), "--name", "mine", "--output_dir", str(tmp_path / "a")])
    dataset = RecDataset.load(tmp_path / "a")
    assert dataset.name == "mine"
    assert dataset.info["reader"]["columns"] == ["item_id=sku"]
    folder = tmp_path / "histories"
    folder.mkdir()
    (folder / "sequences.jsonl").write_text("".join(f'{{"user": {user}, "items": [0, 1, 2]}}\n' for user in range(3)))
    (folder / "items.jsonl").write_text("".join(f'{{"item_id": {item}, "name": "N"}}\n' for item in range(3)))
    options = ["--title_columns", "name", "--k_core", "1", "--output_dir", str(tmp_path / "b")]
    load_script("sequences").main(["--folder", str(folder), *options])
    assert RecDataset.load(tmp_path / "b").info["reader"]["title_columns"] == ["name"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("interactions", [], "give --interactions and --items, or --recbole"),
        ("interactions", ["--interactions", "a.csv", "--items", "b.csv", "--recbole", "c"], "or --recbole"),
        ("interactions", ["--interactions", "a.csv", "--items", "b.csv", "--columns", "sku"], "'sku' has no '='"),
        ("amazon_reviews", ["--reviews", "a"], "give --reviews and --metadata, or --release 2023 --category"),
        ("amazon_reviews", ["--category", "All_Beauty"], "add --release 2023"),
    ],
)
def test_options_that_do_not_fit_together_are_explained(tmp_path, capsys, name, arguments, message) -> None:
    with pytest.raises(SystemExit):
        load_script(name).main([*arguments, "--output_dir", str(tmp_path / "out")])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k_core", "0"], "k_core is 0; it needs 1 or more"),
        (["--k_core", "9"], "Nothing is left of 20 interactions"),
        (["--columns", "item_id=nothing"], "views.csv has no column 'nothing' for item_id"),
        (["--timestamp_unit", "position", "--split", "global_temporal"], "needs times that compare between users"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(tmp_path: Path, options: list[str], message: str) -> None:
    command = [sys.executable, ROOT / "data_prep" / "interactions.py", *write_tables(tmp_path), *options]
    done = subprocess.run(
        [*command, "--output_dir", tmp_path / "new" / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.search(rf"^error: .*{re.escape(message)}", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "new").glob("*"))


@pytest.fixture
def local_hub(tmp_path: Path) -> Iterator[tuple[Hub, dict[str, str]]]:
    """A stand-in for the Hub in this process, and the environment that leads a second process to it."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_local",
        "HF_HOME": str(tmp_path / "hf_home"),
    }
    yield hub, {**os.environ, **settings}
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_2023_category_comes_from_the_hub_and_the_dataset_goes_to_it(tmp_path: Path, local_hub: Any) -> None:
    hub, environment = local_hub
    reviews, products = reviews_of_2023()
    source = Repo(private=False)
    source.commit(
        {
            "raw/review_categories/Soap.jsonl": File(reviews.encode(), large=False),
            "raw/meta_categories/meta_Soap.jsonl": File(products.encode(), large=False),
        }
    )
    hub.repos["dataset", "McAuley-Lab/Amazon-Reviews-2023"] = source
    command = [sys.executable, ROOT / "data_prep" / "amazon_reviews.py", "--release", "2023", "--category"]

    def run(category: str, *options: str) -> subprocess.CompletedProcess[str]:
        done = [*command, category, "--output_dir", tmp_path / category, *options]
        return subprocess.run(done, env=environment, capture_output=True, text=True, check=False, timeout=240)

    done = run("Soap", "--push_to_hub", "user/soap")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{environment['HF_ENDPOINT']}/datasets/user/soap"
    pushed = hub.repos["dataset", "user/soap"]
    assert {name: file.content for name, file in pushed.commits[pushed.head].items()} == {
        path.name: path.read_bytes() for path in (tmp_path / "Soap").iterdir()
    }
    done = run("Soup")
    assert done.returncode == 1
    assert "error: McAuley-Lab/Amazon-Reviews-2023 has no category 'Soup'" in done.stderr


NEEDS_HUB = "--category"


def documented(language: str) -> list[str]:
    return [block for block in re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL) if NEEDS_HUB not in block]


@pytest.mark.slow
def test_the_commands_of_the_data_page_work_as_pasted(tmp_path: Path, llmrec_data: Path) -> None:
    """In the page's order; MovieLens' and Steam's files are small stand-ins, where a download would have put them."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(llmrec_data)
    checkout = tmp_path / "llmrec"
    write_movielens(checkout / "data" / "raw" / "ml-100k")
    write_steam(checkout)
    (checkout / "data_prep").symlink_to(ROOT / "data_prep")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf_home")}
    commands = [["bash", "-ec", block] for block in documented("bash")]
    commands += [[sys.executable, "-c", block] for block in documented("python")]
    assert len(commands) >= 6
    for command in commands:
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stderr}"
    counts = RecDataset.load(checkout / "data" / "beauty").info["counts"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (22_363, 12_101, 198_502)
    assert RecDataset.load(checkout / "data" / "mine").info["counts"]["test_users"] == 2


def test_the_data_page_names_every_option_and_column() -> None:
    for option in PreparationConfig.__dataclass_fields__:
        assert f"--{option}" in DOCS
    for schema in TABLES.values():
        for column in schema.names:
            assert f"`{column}`" in DOCS

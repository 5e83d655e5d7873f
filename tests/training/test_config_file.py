from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.models.registry import save_model
from deeprelax_ase.nn import ABLATIONS, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training.config import RunConfig
from deeprelax_ase.training.config_file import PAPER, ConfigError, load_config, run_config
from deeprelax_ase.training.presets import CONFIG, SETTINGS, PairSettings
from deeprelax_ase.training.values import setting

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "training").glob("*.yaml"))
LEAST = {"name": "mine", "out": "run", "data": {"sources": ["pairs.npz"]}}


def made(text: str = "", **sections) -> RunConfig:
    """The run of the fewest settings and those of ``text`` in YAML."""
    return run_config({**LEAST, **yaml.safe_load(text or "{}"), **sections})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"training": {"max_steps": 5}, "augmentation": None}))
    return path


# -- files


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_understood(example: Path) -> None:
    config = load_config(example)
    assert config.data.sources
    assert run_config(config.to_dict()) == config


def test_there_are_examples_of_both_architectures() -> None:
    kinds = {type(load_config(example).network) for example in EXAMPLES}
    assert kinds == {DeepRelaxConfig, DeepRelaxE3Config}


def test_the_papers_example_is_the_papers_training() -> None:
    """Section 4.8: AdamW at 1e-4, the rate lowered where the validation error stands still for 5 epochs."""
    config = load_config(next(example for example in EXAMPLES if example.stem == "paper"))
    assert (config.training.learning_rate, config.training.schedule) == (1e-4, "plateau")
    assert (config.training.plateau_patience, config.training.lattice_weight, config.members) == (5, 1.0, 5)
    assert config.network == ABLATIONS["DeepRelax"]
    assert not config.training.augmentation.changes


def test_changes_come_on_top_of_the_file(file: Path) -> None:
    changes = [("training.learning_rate", "1e-3"), ("augmentation.rattled", 0.5), ("network.channels", 32)]
    changes += [("members", 3), ("data.choice.share", 0.5), ("data.sources", ["a.npz", "b.npz"])]
    config = load_config(file, changes)
    assert config.training.learning_rate == 1e-3
    assert config.training.max_steps == 5
    assert config.training.augmentation.rattled == 0.5
    assert isinstance(config.network, DeepRelaxE3Config)
    assert config.network.channels == 32
    assert (config.members, config.data.choice.share, config.data.sources) == (3, 0.5, ("a.npz", "b.npz"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        ("name: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        ("", "holds no settings"),
        ("- name", "holds no settings"),
        ("name: mine\nout: run\n", "data lacks sources"),
        ("data: {sources: pairs.npz}\n", "the file lacks name, out"),
        ("data: pairs.npz\n", "data must be a section of settings, got 'pairs.npz'"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, content: str | bytes | None, reason: str) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=rf"run\.yaml.* {reason}"):
        load_config(path)


def test_changes_of_what_is_no_section_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"name\.first: name is no section of settings"):
        load_config(file, [("name.first", 1)])


# -- what is left out


def test_the_end_to_end_network_is_trained_as_those_that_ship() -> None:
    config = made()
    assert (config.network, config.training) == (CONFIG, SETTINGS)
    assert config.data.choice == PairSettings(dft_copies=1, borrowed=0.0)  # of pairs of one's own, each once
    assert made("network: {channels: 32}").network == replace(CONFIG, channels=32)


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_papers_networks_are_trained_as_the_paper_says(name: str) -> None:
    config = made(f"network: {{architecture: {name}, channels: 32}}")
    assert config.network == replace(ABLATIONS[name], channels=32)
    assert config.training == PAPER


def test_a_run_that_starts_from_a_model_has_its_network(tmp_path: Path) -> None:
    network = DeepRelaxE3Config(channels=8, num_blocks=1, layers_per_block=1, num_basis=8)
    about = dict.fromkeys(("description", "level_of_theory", "training_data", "split"), "")
    save_model([DeepRelaxE3(network)], tmp_path, "first", **about, elements=[1], level="PBE")
    card = str(tmp_path / "first.json")
    assert made(initial=card).network == network
    assert made(initial=card, network={"channels": 16}).network == replace(CONFIG, channels=16)
    shipped = made("initial: DeepRelax-PBE-v0")
    assert isinstance(shipped.network, DeepRelaxConfig)
    assert shipped.training == PAPER
    with pytest.raises(ConfigError, match="initial: Unknown model 'DeepRelax-SCAN'"):
        made("initial: DeepRelax-SCAN")
    assert made(initial=str(tmp_path / "member0.safetensors")).network == CONFIG  # has no card to say it


def test_one_name_stands_for_a_list_of_one() -> None:
    config = made("{data: {sources: pairs.npz, labels: m3gnet}, loggers: tensorboard, frozen: elements}")
    assert (config.data.sources, config.data.labels) == (("pairs.npz",), ("m3gnet",))
    assert (config.loggers, config.frozen) == (("tensorboard",), ("elements",))


# -- names and values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("member: 2", r"Unknown setting member; did you mean members\?"),
        ("training: {learning_rte: 1}", r"Unknown setting training\.learning_rte; did you mean learning_rate\?"),
        ("network: {num_layers: 3}", r"Unknown setting network\.num_layers; did you mean"),
        ("network: {xyzzy: 3}", r"Unknown setting network\.xyzzy, must be one of \['channels'"),
        ("augmentation: {ratled: 1}", r"Unknown setting augmentation\.ratled; did you mean rattled\?"),
        (
            "data: {sources: a.npz, choice: {copies: 2}}",
            r"Unknown setting data\.choice\.copies; did you mean dft_copies",
        ),
        ("data: {source: a.npz}", r"Unknown setting data\.source; did you mean sources\?"),
        ("network: {architecture: DeepRelaxE4}", r"Unknown network\.architecture='DeepRelaxE4', must be one of"),
        ("network: {architecture: [DeepRelax]}", r"Unknown network\.architecture=\['DeepRelax'\], must be one of"),
        ("training: {augmentation: {rattled: 1}}", "augmentation is a section of its own, beside training"),
        ("training: 5", "training must be a section of settings, got 5"),
    ],
)
def test_unknown_names_are_refused_with_a_hint(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        made(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("training: {learning_rate: fast}", r"training\.learning_rate must be a number, got 'fast'"),
        ("training: {learning_rate: true}", r"training\.learning_rate must be a number, got True"),
        ("training: {learning_rate: }", r"training\.learning_rate must be a number, got None"),
        ("training: {seconds: .inf}", r"training\.seconds must be a number, got inf"),
        ("training: {clip: .nan}", r"training\.clip must be a number, got nan"),
        ("training: {learning_rate: [1, 2]}", r"training\.learning_rate must be a number, got \[1, 2\]"),
        ("members: 2.5", "members must be a whole number, got 2.5"),
        ("members: true", "members must be a number, got True"),
        ("training: {max_steps: .inf}", r"training\.max_steps must be a number, got inf"),
        ("training: {all_blocks: 1}", r"training\.all_blocks must be true or false, got 1"),
        ("data: {sources: a.npz, validate: often}", r"data\.validate must be true or false, got 'often'"),
        ("name: 5", "name must be text, got 5; put it in quotes"),
        ("name: a/b", "name must be the name of a file, without folders, got 'a/b'"),
        ("members: 0", "members must be at least 1, got 0"),
        ("devices: -1", "devices must be at least 0, got -1"),
        ("device: gpu", r"Unknown device='gpu', must be one of \('auto', 'cpu', 'cuda'\)"),
        ("training: {schedule: step}", r"training: Unknown schedule='step', must be one of"),
        ("training: {clip: 0}", "training: clip must be positive"),
        ("network: {channels: 0}", "network: channels must be a whole number of at least"),
        ("data: {sources: []}", "data: sources must name at least one file"),
        ("data: {sources: a.npz, level: SCAN}", "data: Unknown level='SCAN'"),
        ("data: {sources: [a.npz, b.npz], forces: f.npz}", "data: forces names 1 files for 2 sources"),
        (
            "{data: {sources: a.npz, forces: f.npz}, network: {architecture: DeepRelax}}",
            r"data\.forces are for the end-to-end network",
        ),
    ],
)
def test_wrong_values_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        made(text)


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3", "'0.001'"])
def test_numbers_that_yaml_takes_for_text_are_read(text: str) -> None:
    assert made(f"training: {{learning_rate: {text}}}").training.learning_rate == 1e-3


def test_numbers_are_of_the_kind_that_is_asked_for() -> None:
    settings = made("training: {max_steps: 1e4, seconds: 60, seed: 12345678901234567}").training
    assert (settings.max_steps, settings.seconds) == (10000, 60.0)
    assert (type(settings.max_steps), type(settings.seconds)) == (int, float)
    assert settings.seed == 12345678901234567  # more than a float holds
    assert made("training: {max_steps: null}").training.max_steps is None


@given(
    st.sampled_from(["DeepRelaxE3", *ABLATIONS]),
    st.one_of(st.none(), st.integers(1, 10**6)),
    st.floats(1e-6, 1),
    st.tuples(st.floats(0.001, 0.1), st.floats(0.1, 1.0)),
    st.lists(st.sampled_from(["elements", "blocks.0"]), unique=True),
)
def test_what_is_written_is_read_as_the_same(
    architecture: str, patience: int | None, rate: float, strain: tuple[float, float], frozen: list[str]
) -> None:
    config = made(
        network={"architecture": architecture, "cutoff": 5.5},
        training={"patience": patience, "learning_rate": rate},
        augmentation={"perturbed_strain": list(strain)},
        frozen=frozen,
        data={"sources": ["a.npz", "b.npz"], "fractions": [0.5, 0.25, 0.25], "choice": {"borrowed": 0.25}},
    )
    assert config.training.patience == patience
    assert run_config(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_the_callers_values_stay_as_they_are() -> None:
    values = {
        **LEAST,
        "network": {"architecture": "DeepRelax"},
        "data": {"sources": ["a.npz"], "choice": {"share": 0.5}},
    }
    before = yaml.safe_dump(values)
    run_config(values)
    assert yaml.safe_dump(values) == before


# -- settings off a command line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("members=3", ("members", 3)),
        ("training.learning_rate=1e-3", ("training.learning_rate", 1e-3)),
        ("data.sources=[a.npz, b.npz]", ("data.sources", ["a.npz", "b.npz"])),
        ("data.key=", ("data.key", None)),
        ("description=a = b", ("description", "a = b")),
    ],
)
def test_a_setting_is_a_name_and_a_value(text: str, expected: tuple) -> None:
    assert setting(text) == expected


@pytest.mark.parametrize("text", ["members", "=3", "data.sources=[a"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"is not"):
        setting(text)

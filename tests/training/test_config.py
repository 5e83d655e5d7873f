from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprelax_ase.models.loading import save_model
from deeprelax_ase.nn import ABLATIONS, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import ConfigError, PairSettings, RunConfig, load_config, run_config
from deeprelax_ase.training.settings import E3_NETWORK, E3_TRAINING, PAPER_TRAINING

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "training").glob("*.yaml"))
LEAST = {"name": "mine", "out": "run", "data": {"sources": ["pairs.npz"]}}


def made(text: str = "", **sections) -> RunConfig:
    """The run of the fewest settings and those of ``text`` in YAML."""
    return run_config({**LEAST, **yaml.safe_load(text or "{}"), **sections})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"training": {"max_steps": 5, "augmentation": None}}))
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
    changes = ["training.learning_rate=1e-3", "training.augmentation.rattled=0.5", "network.channels=32", "members=3"]
    changes += ["data.choice.share=0.5", "data.sources=[a.npz, b.npz]", "description=a = b", "data.key="]
    config = load_config(file, changes)
    assert config.training.learning_rate == 1e-3
    assert config.training.max_steps == 5
    assert config.training.augmentation.rattled == 0.5
    assert isinstance(config.network, DeepRelaxE3Config)
    assert config.network.channels == 32
    assert (config.members, config.data.choice.share, config.data.sources) == (3, 0.5, ("a.npz", "b.npz"))
    assert (config.description, config.data.key) == ("a = b", None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        ("name: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        ("", "holds no settings"),
        ("- name", "holds no settings"),
        ("name: mine\nout: run\n", "the following arguments are required: data.sources"),
        ("data: {sources: pairs.npz}\n", "the following arguments are required: name, out"),
        ("data: pairs.npz\n", "data is a section of settings"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, content: str | bytes | None, reason: str) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=rf"run\.yaml.* {reason}"):
        load_config(path)


@pytest.mark.parametrize("text", ["members", "=3"])
def test_changes_that_are_none_are_refused(file: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=f"'{text}' is not NAME=VALUE"):
        load_config(file, [text])
    with pytest.raises(ConfigError, match=r"'\[a' is not a value"):
        load_config(file, ["data.sources=[a"])
    with pytest.raises(ConfigError, match=r"Unknown setting name\.first"):
        load_config(file, ["name.first=1"])


# -- what is left out


def test_the_end_to_end_network_is_trained_as_those_that_ship() -> None:
    config = made()
    assert (config.network, config.training) == (E3_NETWORK, E3_TRAINING)
    assert config.data.choice == PairSettings(dft_copies=1, borrowed=0.0)  # of pairs of one's own, each once
    assert made("network: {channels: 32}").network == replace(E3_NETWORK, channels=32)


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_papers_networks_are_trained_as_the_paper_says(name: str) -> None:
    config = made(f"network: {{architecture: {name}, channels: 32}}")
    assert config.network == replace(ABLATIONS[name], channels=32)
    assert config.training == PAPER_TRAINING


def test_a_run_that_starts_from_a_model_has_its_network(tmp_path: Path) -> None:
    network = DeepRelaxE3Config(channels=8, num_blocks=1, layers_per_block=1, num_basis=8)
    about = dict.fromkeys(("description", "level_of_theory", "training_data", "split"), "")
    save_model([DeepRelaxE3(network)], tmp_path, "first", **about, elements=[1], level="PBE")
    card = str(tmp_path / "first.json")
    assert made(initial=card).network == network
    assert made(initial=card, network={"channels": 16}).network == replace(E3_NETWORK, channels=16)
    shipped = made("initial: DeepRelax-PBE-v0")
    assert isinstance(shipped.network, DeepRelaxConfig)
    assert shipped.training == PAPER_TRAINING
    with pytest.raises(ConfigError, match="initial: Unknown model 'DeepRelax-SCAN'"):
        made("initial: DeepRelax-SCAN")
    assert made(initial=str(tmp_path / "member0.safetensors")).network == E3_NETWORK  # has no card to say it


def test_one_name_stands_for_a_list_of_one() -> None:
    config = made("{data: {sources: pairs.npz, labels: m3gnet}, loggers: tensorboard, frozen: elements}")
    assert (config.data.sources, config.data.labels) == (("pairs.npz",), ("m3gnet",))
    assert (config.loggers, config.frozen) == (("tensorboard",), ("elements",))


def test_every_list_of_names_takes_one_alone() -> None:
    """Those of networks too."""
    assert made("network: {levels: M3GNet}").network.levels == ("M3GNet",)
    assert made("data: {sources: a.npz, forces: f.npz}").data.forces == ("f.npz",)


@pytest.mark.parametrize("name", ["data.key", "initial", "training.max_steps", "training.max_epochs"])
def test_what_may_be_nothing_is_nothing(name: str) -> None:
    *sections, last = name.split(".")
    config = run_config(LEAST, [f"{name}="])
    for section in sections:
        config = getattr(config, section)
    assert getattr(config, last) is None


@pytest.mark.parametrize("name", ["data.labels", "network.levels", "network.cutoff", "training.kind_weights", "out"])
def test_what_may_not_be_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} has no value"):
        run_config(LEAST, [f"{name}="])


# -- names and values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("member: 2", r"Unknown setting member; did you mean members\?"),
        (
            "training: {learning_rte: 1}",
            r"Unknown setting training\.learning_rte; did you mean training\.learning_rate\?",
        ),
        ("network: {num_layers: 3}", r"Unknown setting network\.num_layers"),
        ("network: {xyzzy: 3}", r"Unknown setting network\.xyzzy, must be one of \['network\.channels'"),
        ("training: {augmentation: {ratled: 1}}", r"did you mean training\.augmentation\.rattled\?"),
        ("augmentation: {rattled: 1}", r"augmentation\.rattled; did you mean training\.augmentation\.rattled\?"),
        (
            "data: {sources: a.npz, choice: {copies: 2}}",
            r"Unknown setting data\.choice\.copies; did you mean data\.choice\.dft_copies",
        ),
        ("data: {source: a.npz}", r"Unknown setting data\.source; did you mean data\.sources\?"),
        ("network: {architecture: DeepRelaxE4}", r"Unknown network\.architecture='DeepRelaxE4', must be one of"),
        ("network: {architecture: [DeepRelax]}", r"Unknown network\.architecture=\['DeepRelax'\], must be one of"),
        ("training: 5", "training is a section of settings"),
    ],
)
def test_unknown_names_are_refused_with_a_hint(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        made(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("training: {learning_rate: fast}", r'"training\.learning_rate": Expected a .*float.* Got value: fast'),
        ("training: {learning_rate: true}", r'"training\.learning_rate": Expected a .*float.* Got value: True'),
        ("training: {learning_rate: }", r"training\.learning_rate has no value"),
        ("training: {seconds: .inf}", "seconds must be a finite number, got inf"),
        ("training: {clip: .nan}", "clip must be a finite number, got nan"),
        ("training: {learning_rate: [1, 2]}", r'"training\.learning_rate": Expected a .*float'),
        ("members: 2.5", '"members": Expected a .*int.* Got value: 2.5'),
        ("members: true", '"members": Expected a .*int'),
        ("members: ", "members has no value"),
        ("training: {max_steps: 1.5}", r'"training\.max_steps": .* Given value: 1.5'),
        ("training: {keep_graphs: 1}", r'"training\.keep_graphs": Expected a .*bool'),
        ("training: {kind_weights: {slab: 1}}", r'"training\.kind_weights": invalid literal'),
        ("training: {kind_weights: 1}", r'"training\.kind_weights": Expected a .*dict'),
        ("training: {block_weights: 1}", r'"training\.block_weights": Expected a .*tuple'),
        ("data: {sources: a.npz, validate: often}", r'"data\.validate": Expected a .*bool'),
        ("data: {sources: a.npz, fractions: [1, 0]}", r'"data\.fractions": Expected a tuple with 3 elements'),
        ("name: 5", '"name": Expected a .*str.* Got value: 5'),
        ("name: a/b", "name must be the name of a file, without folders, got 'a/b'"),
        ("members: 0", "members must be at least 1, got 0"),
        ("devices: -1", "devices must be at least 0, got -1"),
        ("device: gpu", r"Unknown device='gpu', must be one of \('auto', 'cpu', 'cuda'\)"),
        ("training: {schedule: step}", r'"training\.schedule": Expected a .*cosine.*plateau.* Got value: step'),
        ("training: {clip: 0}", "clip must be positive"),
        ("network: {channels: 0}", "channels must be a whole number of at least"),
        ("data: {sources: []}", "sources must name at least one file"),
        ("data: {sources: a.npz, level: SCAN}", "Unknown level='SCAN'"),
        ("data: {sources: a.npz, forces: [f.npz, g.npz]}", "forces names 2 files for 1 sources"),
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
    settings = made("training: {max_steps: 10000, seconds: 60, seed: 12345678901234567}").training
    assert (settings.max_steps, settings.seconds) == (10000, 60.0)
    assert (type(settings.max_steps), type(settings.seconds)) == (int, float)
    assert settings.seed == 12345678901234567  # more than a float holds
    assert made("training: {max_steps: null}").training.max_steps is None


@settings(max_examples=6)
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
        training={"patience": patience, "learning_rate": rate, "augmentation": {"perturbed_strain": list(strain)}},
        frozen=frozen,
        data={"sources": ["a.npz", "b.npz"], "fractions": [0.5, 0.25, 0.25], "choice": {"borrowed": 0.25}},
    )
    assert config.training.patience == patience
    assert run_config(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_weights_of_kinds_are_one_setting() -> None:
    changed = load_config(EXAMPLES[0].with_name("deeprelax2.yaml"), ["training.kind_weights={8: 2}"])
    assert changed.training.kind_weights == {8: 2.0}


def test_the_callers_values_stay_as_they_are() -> None:
    values = {
        **LEAST,
        "network": {"architecture": "DeepRelax"},
        "data": {"sources": ["a.npz"], "choice": {"share": 0.5}},
    }
    before = yaml.safe_dump(values)
    run_config(values)
    assert yaml.safe_dump(values) == before

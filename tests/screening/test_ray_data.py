"""Screening on Ray Data: columns of any kind, and a cluster of two workers of which one is killed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.pool import KILLED
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import INPUT, OUTPUT, structures_table
from tests.killing import one_killed
from tests.screening.conftest import some_crystals
from tests.screening.deadly_crystals import assert_as_predicted

pytest.importorskip("ray.data")
import ray

from deeprelax_ase.screening import ray_data
from deeprelax_ase.screening.ray_data import BatchRelaxer, as_input, relax_dataset, structures_dataset
from tests.screening.deadly_workers import DeadlyBatchRelaxer

# Ray warns of itself; where it warns of what is done here, the module is another.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[None]:
    """Two cores of this machine, closed to others, and without a trace in the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "")
        patch.delenv("RAY_AUTH_MODE")  # Ray sets it, and it is to be gone afterwards
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 2**20,
            _temp_dir=str(tmp_path_factory.mktemp("r")),
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()


def by_index(dataset) -> pa.Table:
    return pa.concat_tables(dataset.iter_batches(batch_size=None, batch_format="pyarrow")).sort_by("index")


def test_a_worker_relaxes_batches(quick: RelaxOptions) -> None:
    crystals = some_crystals(3)
    table = BatchRelaxer(quick)(structures_table(crystals, ids=["a", "b", "c"]))
    assert table.schema.equals(OUTPUT)
    assert table.column("id").to_pylist() == ["a", "b", "c"]
    assert_as_predicted(table, crystals, quick)


def test_columns_of_others_are_read() -> None:
    (atoms,) = some_crystals(1)
    geometry = {"numbers": atoms.numbers, "positions": atoms.positions.ravel(), "cell": atoms.cell.array.ravel()}
    rows = [
        {"material_id": "mp-1", "structure": None, **geometry},
        {"material_id": "mp-2", "structure": json.dumps(Crystal.of(atoms).to_structure().as_dict())},
        {"material_id": "mp-3", "structure": "{}"},
    ]
    table = as_input(pa.Table.from_pylist(rows))
    assert table.schema.equals(INPUT)
    assert table.column("id").to_pylist() == ["mp-1", "mp-2", "mp-3"]
    assert table.column("index").to_pylist() == [None] * 3
    assert table.column("error").to_pylist()[:2] == [None, None]
    assert "no structure" in table.column("error")[2].as_py()
    named = as_input(pa.Table.from_pylist([{"name": "x", "index": 7, "code": 12, **geometry}]), id_key="code")
    assert named.select(["index", "id"]).to_pylist() == [{"index": 7, "id": "12"}]


def test_large_lists_are_narrowed() -> None:
    table = structures_table(some_crystals(2))
    large = pa.schema(
        pa.field(f.name, pa.large_list(f.type.value_type)) if pa.types.is_list(f.type) else f for f in INPUT
    )
    assert as_input(table.cast(large).append_column("more", pa.array([1, 2]))).equals(table)


@pytest.mark.slow
class TestCluster:
    pytestmark = pytest.mark.usefixtures("cluster")

    def test_a_killed_worker_changes_nothing(self, quick: RelaxOptions) -> None:
        crystals = some_crystals(200)
        dataset = structures_dataset(crystals, ids=[f"crystal-{n}" for n in range(200)], block_size=10)
        relaxed = relax_dataset(dataset, options=replace(quick, device="auto"), batch_size=10, concurrency=2)
        with one_killed(lambda pid, command: "MapWorker" in command and "submit" in command) as killed:
            table = by_index(relaxed)
        assert len(killed) == 1
        assert table.column("id").to_pylist() == [f"crystal-{n}" for n in range(200)]
        assert_as_predicted(table, crystals, quick)

    def test_a_worker_killed_while_it_starts_changes_nothing(self, quick: RelaxOptions) -> None:
        crystals = some_crystals(6)
        relaxed = relax_dataset(structures_dataset(crystals, block_size=2), options=quick, concurrency=2)
        with one_killed(lambda pid, command: "MapWorker" in command and "__init__" in command) as killed:
            table = by_index(relaxed)
        assert len(killed) == 1
        assert_as_predicted(table, crystals, quick)

    def test_a_crystal_that_kills_every_worker_costs_its_row(self, quick: RelaxOptions, monkeypatch) -> None:
        monkeypatch.setattr(ray_data, "BatchRelaxer", DeadlyBatchRelaxer)
        crystals = some_crystals(20)
        names = [f"crystal-{n}" for n in range(20)]
        names[7] = "deadly"
        dataset = structures_dataset(crystals, ids=names, block_size=5)
        table = by_index(relax_dataset(dataset, options=quick, batch_size=5, concurrency=2))
        assert table.column("id").to_pylist() == names
        assert table.column("reason").to_pylist() == [KILLED if n == 7 else None for n in range(20)]
        others = [n for n in range(20) if n != 7]
        assert_as_predicted(table.take(others), [crystals[n] for n in others], quick, indices=others)

    def test_parquet_in_and_out(self, quick: RelaxOptions, tmp_path) -> None:
        crystals = some_crystals(6)
        pq.write_table(structures_table(crystals, ids=list("abcdef")), tmp_path / "in.parquet")
        dataset = ray.data.read_parquet(str(tmp_path / "in.parquet"))
        relax_dataset(dataset, options=quick, batch_size=4).write_parquet(str(tmp_path / "out"))
        table = pq.read_table(tmp_path / "out").sort_by("index")
        assert table.column("id").to_pylist() == list("abcdef")
        assert_as_predicted(table, crystals, quick)

    def test_nothing_makes_nothing(self, quick: RelaxOptions) -> None:
        assert relax_dataset(structures_dataset([]), options=quick).count() == 0

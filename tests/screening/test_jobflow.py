"""Jobs and flows of jobflow, run locally."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.screening import isolated
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT
from tests.killing import has_torch, one_killed
from tests.screening.conftest import layers, some_crystals
from tests.screening.deadly_crystals import assert_as_predicted

pytest.importorskip("jobflow")
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure

from deeprelax_ase.screening.jobflow import (
    DeepRelaxMaker,
    DeepRelaxShardsMaker,
    RelaxedDocument,
    ScreeningDocument,
)

pytestmark = pytest.mark.filterwarnings("ignore:cd is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def processes_end() -> Iterator[None]:
    yield
    isolated.shared_processes.cache_clear()


def some_structures(number: int) -> list[Structure]:
    return [Crystal.of(atoms).to_structure() for atoms in some_crystals(number)]


def run(flow, tmp_path):
    """The output of the last job, from the store, as it was sent and as it came."""
    store = JobStore(MemoryStore())
    sent = MontyDecoder().decode(json.dumps(flow, cls=MontyEncoder))  # as a queue does
    run_locally(sent, store=store, log=False, root_dir=tmp_path, ensure_success=True)
    last = sent.jobs[-1] if isinstance(sent, Flow) else sent
    return MontyDecoder().process_decoded(store.get_output(last.uuid, load=True))


def table_of(documents: list[RelaxedDocument]) -> pa.Table:
    rows = []
    for document in documents:
        structure = document.structure
        assert structure is not None
        row = document.model_dump(exclude={"structure"})
        row |= {"numbers": structure.atomic_numbers, "positions": structure.cart_coords.ravel()}
        rows.append(row | {"cell": structure.lattice.matrix.ravel()})
    return pa.Table.from_pylist(rows, schema=OUTPUT)


def test_a_flow_of_parts_gives_what_the_predictor_gives(quick: RelaxOptions, tmp_path) -> None:
    structures = some_structures(7)
    flow = DeepRelaxShardsMaker(relax_maker=DeepRelaxMaker(options=quick), structures_per_job=3).make(structures)
    assert [job.name for job in flow.jobs] == ["DeepRelax 0-2", "DeepRelax 3-5", "DeepRelax 6-6", "collect"]
    found = ScreeningDocument.model_validate(run(flow, tmp_path))
    assert found.statuses == {"accepted": 7}
    assert [document.id for document in found.documents] == [str(n) for n in range(7)]
    assert {document.model for document in found.documents} == {"DeepRelax-PBE"}
    assert_as_predicted(table_of(found.documents), structures, quick)


def test_a_job_keeps_what_structures_carry_and_tells_of_bad_ones(quick: RelaxOptions, tmp_path) -> None:
    good, _ = some_structures(2)
    good.add_site_property("magmom", [1.0, -1.0])
    good.properties["source"] = "a paper"
    disordered = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    before = good.copy()
    made = run(DeepRelaxMaker(options=quick).make([good, disordered], ["good", "bad"]), tmp_path)
    assert good == before
    assert [(d.id, d.status) for d in made] == [("good", "accepted"), ("bad", "refused")]
    assert made[0].structure.site_properties["magmom"] == [1.0, -1.0]
    assert made[0].structure.properties == {"source": "a paper"}
    assert made[0].structure.volume == pytest.approx(good.volume * (1 + made[0].volume_change), abs=1e-5)
    assert made[1].structure == disordered
    assert "ordered" in made[1].reason


def test_layers_keep_what_is_out_of_their_plane(quick: RelaxOptions, tmp_path) -> None:
    """And repeat as given, as ``lattice.pbc`` tells."""
    given = [
        Structure(Lattice(a.cell.array, pbc=tuple(a.pbc.tolist())), a.symbols, a.positions, coords_are_cartesian=True)
        for a in layers()[1:]  # pymatgen needs a third vector
    ]
    made = run(DeepRelaxMaker(options=quick).make(given), tmp_path)
    for document, before in zip(made, given, strict=True):
        here, there = document.structure.lattice, before.lattice
        assert here.pbc == there.pbc
        out = ~np.array(there.pbc)
        np.testing.assert_array_equal(here.matrix[out], there.matrix[out])
        assert not np.allclose(here.matrix, there.matrix)


def test_one_structure_and_none(quick: RelaxOptions, tmp_path) -> None:
    (document,) = run(DeepRelaxMaker(options=quick).make(some_structures(1)[0]), tmp_path)
    assert document.status == "accepted"
    found = ScreeningDocument.model_validate(run(DeepRelaxShardsMaker().make([]), tmp_path))
    assert found == ScreeningDocument(statuses={}, documents=[])


def test_structures_may_stay_with_their_jobs(quick: RelaxOptions, tmp_path) -> None:
    maker = DeepRelaxShardsMaker(relax_maker=DeepRelaxMaker(options=quick), collect_structures=False)
    found = ScreeningDocument.model_validate(run(maker.make(some_structures(2)), tmp_path))
    assert [document.structure for document in found.documents] == [None, None]
    assert all(document.uncertainty > 0 for document in found.documents)


def test_makers_are_plain_data(quick: RelaxOptions) -> None:
    maker = DeepRelaxShardsMaker(relax_maker=DeepRelaxMaker(options=quick, workers=3), structures_per_job=9)
    again = DeepRelaxShardsMaker.from_dict(json.loads(json.dumps(maker.as_dict())))
    assert again == maker
    assert again.relax_maker.options == quick


@pytest.mark.parametrize(
    ("change", "ids", "message"), [({"structures_per_job": 0}, None, "at least 1"), ({}, ["a"], "1 ids, but 2")]
)
def test_what_cannot_be_is_refused_before_any_job(change: dict, ids, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepRelaxShardsMaker(**change).make(some_structures(2), ids)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(quick: RelaxOptions, tmp_path) -> None:
    structures = some_structures(200)
    maker = DeepRelaxMaker(options=quick, workers=2)
    flow = DeepRelaxShardsMaker(relax_maker=maker, structures_per_job=100).make(structures)
    with one_killed(lambda pid, command: "spawn_main" in command and has_torch(pid)) as killed:
        found = ScreeningDocument.model_validate(run(flow, tmp_path))
    assert len(killed) == 1
    assert sum(found.statuses.values()) == 200
    assert not {"failed", "refused"} & set(found.statuses)
    assert_as_predicted(table_of(found.documents), structures, quick)
    assert np.isfinite([document.uncertainty for document in found.documents]).all()


@pytest.mark.parametrize("where", ["properties", "site properties", "label"])
def test_texts_that_are_no_utf8_are_escaped(quick: RelaxOptions, tmp_path, where: str) -> None:
    """A lone surrogate, as Python reads bytes of another encoding, which no database takes."""
    sound, odd = some_structures(2)
    if where == "properties":
        odd.properties["note"] = {"by \udce9": ["\udce9", 1]}
    elif where == "label":
        odd[0].label = "Cu\udce9"
    else:
        odd.add_site_property("note", ["\udce9"] * len(odd))
    documents = run(DeepRelaxMaker(options=quick).make([sound, odd], ["a", "b\udce9"]), tmp_path)
    assert [document.status for document in documents] == ["accepted"] * 2
    assert [document.id for document in documents] == ["a", "b\\udce9"]
    assert "\\udce9" in json.dumps(documents[1].structure.as_dict(), ensure_ascii=False)

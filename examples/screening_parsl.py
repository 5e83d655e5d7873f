"""Relax many crystals on whatever Parsl reaches: a task for each block, two worker processes here, retries.

    python examples/screening_parsl.py examples/unrelaxed.extxyz --out screened

The folder is that of ``deeprelax screen``. The same command goes on with a run that was interrupted: blocks in the
journal are not done again. For a cluster give ``configuration`` a provider of Parsl's, such as ``SlurmProvider``, and a
folder that all nodes see.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any

import parsl
import pyarrow as pa
from parsl import python_app
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from deeprelax_ase.io import open_source
from deeprelax_ase.screening import OUTPUT, Folder, Manifest, RelaxOptions, Shard, atoms_of, describe


@python_app
def relax(structures: str, number: int, size: int, options: dict[str, Any], folder: str) -> dict[str, Any]:
    """Relax and write block ``number``, of ``size`` structures; returns its line for the journal.

    Parsl sends the function alone, so it imports what it needs.
    """
    from pathlib import Path

    from deeprelax_ase.io import open_source
    from deeprelax_ase.screening import Folder, RelaxOptions, blocks_of, shared_relaxer, table_of

    _, refs = next(blocks_of([open_source(structures)], size, lambda n: n == number))
    relaxed = shared_relaxer(RelaxOptions.from_dict(options))(table_of(refs, first_index=number * size))
    return Folder(Path(folder)).write(number, relaxed)


def configuration(run_dir: str | os.PathLike, *, workers: int = 2, retries: int = 3) -> Config:
    """Worker processes on this machine; a task whose process dies is run again, at most ``retries`` times."""
    scripts = Path(sys.executable).parent  # Parsl starts its own by name, and this environment may not be on the path
    os.environ["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    local = HighThroughputExecutor(
        label="local",
        address="127.0.0.1",
        max_workers_per_node=workers,
        provider=LocalProvider(init_blocks=1, max_blocks=1, worker_init="export OMP_NUM_THREADS=1"),
        heartbeat_period=2,  # seconds until a dead process is noticed
        heartbeat_threshold=30,
    )
    return Config(executors=[local], retries=retries, run_dir=os.fspath(run_dir), strategy="none")


def screen(structures: Path, out: Path, *, size: int, options: RelaxOptions) -> tuple[pa.Table, dict[int, str]]:
    """Relax what is not in the folder ``out`` yet, with the Parsl configuration that is loaded.

    Returns:
        all rows, in the order of ``structures``; why blocks are missing, if any are.

    Raises:
        StructureFileError: there are no structures.
        OutputError: the folder holds results of another request, or another process writes to it.
    """
    source, folder = open_source(str(structures.resolve())), Folder(out.resolve())
    weights = options.predictor().model.card.sha256
    manifest = Manifest(describe([source], folder.path), options.to_dict(), size, weights=weights)
    manifest.agree(folder.path)
    failures = {}
    with folder.journal(Shard()) as journal:
        running: dict[Future[dict[str, Any]], int] = {
            relax(str(source.path), number, size, options.to_dict(), str(folder.path)): number
            for number in manifest.blocks
            if number not in journal.lines
        }
        for future in as_completed(running):
            if (error := future.exception()) is None:
                journal.append(future.result())
            else:
                failures[running[future]] = str(error)
    return pa.concat_tables([OUTPUT.empty_table(), *folder.tables()]), failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("structures", type=Path, help="file, folder or archive of unrelaxed crystals")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--size", type=int, default=2, help="structures of a block; thousands in earnest")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--members", type=int, help="networks of the ensemble that are asked")
    parser.add_argument("--recycles", type=int, help="how often they look")
    given = parser.parse_args()
    options = RelaxOptions(members=given.members, recycles=given.recycles)
    with parsl.load(configuration(given.out / "parsl", workers=given.workers)):
        table, failures = screen(given.structures, given.out, size=given.size, options=options)
    for atoms in atoms_of(table):
        told = atoms.info.get("reason") or f"± {atoms.info['deeprelax_uncertainty']:.3f} Å"
        print(f"{atoms.info['id']:28} {atoms.info['deeprelax_status']:10} {atoms.cell.volume:8.2f} Å³  {told}")
    print(", ".join(f"{count} {status}" for status, count in Counter(table.column("status").to_pylist()).items()))
    for number, reason in failures.items():
        print(f"block {number} is missing: {reason}. The same command tries again.", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

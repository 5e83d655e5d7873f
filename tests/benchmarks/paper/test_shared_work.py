"""Several processes that fill one folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from shared_work import taken

HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from shared_work import taken
with taken(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_a_piece_of_work_is_done_once(tmp_path: Path) -> None:
    result = tmp_path / "row.json"
    with taken(result) as ours, taken(tmp_path / "other.json") as other:
        assert ours
        assert other
        result.write_text("{}")
    with taken(result) as again:
        assert not again


def test_another_process_has_it_until_it_is_killed(tmp_path: Path) -> None:
    result = tmp_path / "row.json"
    command = [sys.executable, "-c", HOLDER, str(result), str(Path(sys.modules["shared_work"].__file__ or "").parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        with taken(result) as ours:
            assert not ours
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=20)
    with taken(result) as ours:
        assert ours

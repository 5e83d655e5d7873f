"""Results as JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write ``content``; an interrupted call leaves the old file whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)

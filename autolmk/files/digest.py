"""Digests of plans and of what they decide: what is the same has the same digest, whatever version wrote it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autolmk.files.serialization import to_json

REASONS = "why"  # a key that changes nothing
# Keys that later versions of plans have. With these values they mean what plans without them meant, so they do not
# count: a fold that was trained before goes on.
LATER = {
    "elsewhere": 0.0,
    "exact": 0.0,
    "order": 1,
    "low_pass": "widest",
    "drawn": "measured",
    "search": True,
    "rate": "polynomial",
    "stretch": 0.0,
}


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of canonical JSON, first 16 hexadecimal digits."""

    def strip(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: strip(w) for k, w in v.items() if k != REASONS and not (k in LATER and w == LATER[k])}
        return [strip(w) for w in v] if isinstance(v, list) else v

    text = json.dumps(strip(to_json(dict(value))), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content, 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""The root of the repository: where tests start ``python -m shoal`` and read files that are not installed."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

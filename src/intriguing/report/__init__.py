"""A run as one self-contained page: what was measured beside what the paper printed. Never computes."""

from intriguing.report.page import build, write

__all__ = ["build", "write"]

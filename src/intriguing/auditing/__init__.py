"""Audits of a user's own models: any number of images in bounded memory, resumable, with a page and a verdict."""

from intriguing.auditing.run import Outcome, audit
from intriguing.auditing.single import attack

__all__ = ["Outcome", "attack", "audit"]

"""Databases of molecules in the schema of QH9."""

from tracegrad.data.qh9.database import QH9Database

__all__ = ["QH9Database"]

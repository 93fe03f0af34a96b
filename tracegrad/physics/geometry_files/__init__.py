"""Reads geometry files strictly: whatever is in doubt is refused with file, line and what to write instead."""

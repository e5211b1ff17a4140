"""Zenodo's records: parsed, searched for, and kept in a catalogue."""

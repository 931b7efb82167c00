"""Scoring what exists: samples from files, their scores as JSON lines, a summary and a page."""

"""Bytes to text to images and back, and the language of a file. Pure functions over NumPy."""

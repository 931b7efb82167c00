"""What `import flowgrpo` offers: the rooms below as a few functions on plain Python objects."""

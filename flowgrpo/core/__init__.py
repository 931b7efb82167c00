"""What every room stands on: errors, keys of random draws, plug-ins, paths, processes."""

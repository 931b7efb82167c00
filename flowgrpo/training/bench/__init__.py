"""`flowgrpo bench`: what an update costs on this machine, phase by phase, beside what the machine can do."""

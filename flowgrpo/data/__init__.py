"""What goes in and out: prompts, samples, pictures and clips in files."""

"""A rollout as an object to look at and to compute with. P prompts, G samples each, N nodes of their tree, C transitions."""

"""The tree of states as data, the law of each step, and the plans that draw trees. Nothing here asks a network."""

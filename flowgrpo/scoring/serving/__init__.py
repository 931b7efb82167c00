"""Rewards as HTTP services: `flowgrpo serve-reward NAME` on one side, `url:` in a config on the other."""

"""Rewards: what they say of themselves, how they are called and checked, and how several become one number."""

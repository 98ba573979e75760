"""The settings files that ship with ndcass, as package data."""

"""Experiments for the Model Garden, one YAML each: only what differs from the registered experiment."""

"""From a name to a loaded model: sources and the cache of converted models."""

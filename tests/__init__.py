"""Tests that need no import of their own as a package; ``tests.campaign`` does."""

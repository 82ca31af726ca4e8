"""Shared by several test files: small models of every format, a stand-in for the hub, processes."""

"""What several test files share: small models of every format, a stand-in for the hub, processes."""

"""A local Zenodo that serves the software on this machine, for the demo and the tests."""

"""A local Zenodo over software already on the machine; what the demo and the tests run against."""

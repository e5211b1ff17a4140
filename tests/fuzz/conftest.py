"""What is here is run by hand, with a fuzzer installed: nothing is collected."""

collect_ignore = ["readers.py"]

"""Where a record's code comes from, and the members of its archives, streamed and bounded."""

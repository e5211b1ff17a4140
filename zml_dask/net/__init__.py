"""One polite HTTP client, and the throttle that a whole cluster shares."""

"""Models of the tasks; each module can be used alone."""

"""Read the tables and the config.json of a working directory."""

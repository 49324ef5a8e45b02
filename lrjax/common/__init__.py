"""What all parts use: numbers, files that are read, fields that are checked."""

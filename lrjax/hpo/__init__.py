"""Tuners that propose runs, and the loop that trains what they propose."""

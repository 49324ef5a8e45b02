"""Analyses of tables: scores, statistics, curves and portfolios."""

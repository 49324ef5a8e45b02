"""Numbers made of tables: statistics, curves, portfolios."""

"""A page on this machine that follows a study while it trains.

`tail` reads what was appended to tables, `thinned` keeps a bounded number of points of
each curve, `follow` is what is known of a working directory, `parts` draws it with the
report's figures, `pace` decides when, and `server` serves the page.
"""

"""The laboratory: real images in, one record per run out.

Data, networks, one training function, measures, records and figures.  A loss arrives as an
argument; nothing here knows which one it trains.  Needs the extra ``marginlib[lab]``.
"""

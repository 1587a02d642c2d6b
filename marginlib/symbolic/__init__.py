"""The same losses in SymPy: the other witness.  No tensor enters here."""

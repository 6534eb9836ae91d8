"""Wire to arrays and back, with the place of every fault."""

//! Tasks with owners and names, their shutdown order, and signals.

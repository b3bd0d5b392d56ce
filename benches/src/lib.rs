//! busway's benches, with its peers beside it.

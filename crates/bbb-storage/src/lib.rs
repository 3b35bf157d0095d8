//! Content-addressed storage and the action cache: the seams, their layers and their tiers.

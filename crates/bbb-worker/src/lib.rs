//! Fetches an action's inputs, runs it and stores its outputs.

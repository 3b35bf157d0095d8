//! Runs one command in a sandbox: namespaces, mounts, limits, and the launcher child that does it.

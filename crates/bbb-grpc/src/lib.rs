//! The public gRPC services, one file each.

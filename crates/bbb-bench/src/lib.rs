//! A load generator for any Remote Execution API server.

//! Compiles what nodes say to each other.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors =
        protox::compile(["bbb/peer/v1/node.proto", "bbb/peer/v1/work.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .bytes(".bbb.peer.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
